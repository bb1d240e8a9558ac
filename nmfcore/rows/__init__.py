"""X as blocks of rows, wherever it lies: in memory, on disk, on a GPU, on a cluster."""

from .base import Rows
from .front import Checks, compute_type, is_lazy, loaded, mapped_lazily, open, stand_in
from .state import RowState
from .weighted import Weights

__all__ = [
    "Checks", "RowState", "Rows", "Weights", "compute_type", "is_lazy", "loaded", "mapped_lazily", "open", "stand_in",
]  # fmt: skip
