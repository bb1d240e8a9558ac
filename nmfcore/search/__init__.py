"""Search by likeness: exact cosine similarity, and the engine that finds pictures by it."""

from .cosine import CosineIndex, cosine_topk
from .engine import SPACES, Found, SearchEngine

__all__ = ["SPACES", "CosineIndex", "Found", "SearchEngine", "cosine_topk"]
