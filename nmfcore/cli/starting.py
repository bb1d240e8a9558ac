"""What makes a command begin soon: imports that it does not need are put off, and garbage is seldom looked for.

Importing scikit-learn's base classes takes longer than all other imports of a command together, and most of it goes to
`scipy.stats`, which none of the functions that commands call uses, and to pandas, where that is installed. A library
leaves the imports of its user's process alone; the process of the command line is ours.
"""

import gc
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["imports_put_off", "seldom_collecting"]

# Executed when a name in them is looked up. Of scikit-learn, SciPy and Numba (yaml, which reads its settings).
_PUT_OFF = ("scipy.stats", "scipy.optimize", "scipy.special", "numpy.f2py", "yaml")
# Missing for scikit-learn's base classes, which go without. It is not put off, as libraries that find it among the
# loaded modules ask every array whether it is one of its frames.
_WITHHELD = "pandas"
# Objects made since the last look for garbage, which otherwise takes a twelfth of the time of a short fit.
_OBJECTS = 50_000


class _Finder:
    """Finds modules as Python does, and has those that are seldom used executed later."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how a module is loaded; None leaves it to Python."""
        if name == _WITHHELD and _scikit_learn_is_loading():
            raise ModuleNotFoundError(f"{name} is not used here", name=name)
        if name not in _PUT_OFF:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def _scikit_learn_is_loading() -> bool:
    return "sklearn" in sys.modules and not hasattr(sys.modules.get("sklearn.base"), "BaseEstimator")


@contextmanager
def imports_put_off() -> Iterator[None]:
    """Load what is seldom used of the imports of libraries when it is used, unless it has been loaded before."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """Look for garbage less often than Python does by itself."""
    former = gc.get_threshold()
    gc.set_threshold(max(former[0], _OBJECTS) if former[0] else 0, *former[1:])
    try:
        yield
    finally:
        gc.set_threshold(*former)
