"""Which backend serves this X."""

from types import ModuleType
from typing import Any


def backend_for(X: Any) -> ModuleType:
    """Return the module whose operations work where X lives. Host memory, so far: `nmfcore.backends.cpu`."""
    from . import cpu

    return cpu
