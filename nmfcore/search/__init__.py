"""Search by likeness: exact cosine similarity, and the engine that finds pictures by it."""

from .cosine import CosineIndex, cosine_topk
from .duplicates import DuplicateGroup, Duplicates
from .engine import Explanation, Found, SearchEngine
from .moving import undo_moves
from .queries import Term
from .spaces import SPACES

__all__ = [
    "SPACES",
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
