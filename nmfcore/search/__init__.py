"""Search by likeness: exact cosine similarity, and the engine that finds pictures by it.

The names are looked up when first used, as those of `nmfcore` are: a fit needs one module of this folder.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cosine import cosine_topk
    from .duplicates import DuplicateGroup, Duplicates
    from .engine import Explanation, Found, SearchEngine
    from .index import CosineIndex
    from .moving import undo_moves
    from .queries import Term
    from .spaces import SPACES
    from .update import Changes

__all__ = [
    "SPACES",
    "Changes",
    "CosineIndex",
    "DuplicateGroup",
    "Duplicates",
    "Explanation",
    "Found",
    "SearchEngine",
    "Term",
    "cosine_topk",
    "undo_moves",
]

_HOMES = {
    "SPACES": "spaces",
    "Changes": "update",
    "CosineIndex": "index",
    "DuplicateGroup": "duplicates",
    "Duplicates": "duplicates",
    "Explanation": "engine",
    "Found": "engine",
    "SearchEngine": "engine",
    "Term": "queries",
    "cosine_topk": "cosine",
    "undo_moves": "moving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
