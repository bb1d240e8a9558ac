"""Which backend serves this X."""

from types import ModuleType


def backend_for(X) -> ModuleType:
    """The module whose operations work where X lives. Host memory, so far: `nmfcore.backends.cpu`."""
    from . import cpu

    return cpu
