"""Search by likeness: exact cosine similarity, and the engine that finds pictures by it."""

from .cosine import CosineIndex, cosine_topk
from .engine import SPACES, Explanation, Found, SearchEngine

__all__ = ["SPACES", "CosineIndex", "Explanation", "Found", "SearchEngine", "cosine_topk"]
