"""Search by likeness: exact cosine similarity, and the engine that finds pictures by it."""

from .cosine import CosineIndex, cosine_topk
from .engine import Explanation, Found, SearchEngine
from .spaces import SPACES
from .update import Changes

__all__ = ["SPACES", "Changes", "CosineIndex", "Explanation", "Found", "SearchEngine", "cosine_topk"]
