"""Search by likeness: exact cosine similarity, and the engine that finds pictures by it."""

from .cosine import CosineIndex, cosine_topk
from .engine import Explanation, Found, SearchEngine
from .queries import Term
from .spaces import SPACES

__all__ = ["SPACES", "CosineIndex", "Explanation", "Found", "SearchEngine", "Term", "cosine_topk"]
