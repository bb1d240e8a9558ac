"""Search by likeness: exact cosine similarity, and the engine that finds pictures by it."""

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
