"""X as another kind of rows has it, of which each block carries more: a mask, or weights."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from .._typing import Array, Matrix
from .base import Rows
from .memory import MemoryRows
from .state import RowState

if TYPE_CHECKING:
    from .disk import Folder

_SAME = ("X", "shape", "dtype", "given_dtype", "sparse", "n_jobs", "power", "in_memory")


class WrappedRows(Rows):
    """The blocks of other rows on the CPU; a subclass hands them on with what it adds, and says what one pass finds.

    Parameters
    ----------
    inner : MemoryRows
        X as it would be without what is added.
    backend : module
        The operations on blocks with what is added: some of those of a `Backend`, and its own.
    """

    def __init__(self, inner: MemoryRows, backend: ModuleType):
        self.inner = inner
        self.backend = backend  # type: ignore[assignment]  # not all operations of a Backend
        for name in _SAME:
            setattr(self, name, getattr(inner, name))

    @property
    def threads(self) -> int:  # type: ignore[override]
        """Number of threads that visit blocks."""
        return self.inner.threads

    @property
    def folder(self) -> Folder | None:  # type: ignore[override]
        """Where row-aligned arrays lie that are not kept in memory."""
        return self.inner.folder

    @folder.setter
    def folder(self, folder: Folder | None) -> None:
        self.inner.folder = folder

    @property
    def backend_name(self) -> str:
        """Name of the backend, which results depend on."""
        return "cpu"

    def free_buffers(self) -> None:
        """Free the memory that is kept from one pass to the next."""
        self.inner.free_buffers()

    # ---- row-aligned arrays, and X in other forms

    def state(self, **arrays: Array) -> RowState:
        """Return row-aligned arrays as a state that passes go through."""
        return self.inner.state(**arrays)

    def new_rows(self, width: int) -> Array:
        """Return zeros of shape (n, width) in the compute type."""
        return self.inner.new_rows(width)

    def copied(self, W: Array) -> Array:
        """Return a copy of W, where row-aligned arrays are kept."""
        return self.inner.copied(W)

    def rows_like(self, F: Array) -> Rows:
        """Return a row-aligned or small dense matrix as rows, for products with it."""
        return self.inner.rows_like(F)

    def to_caller(self, A: Array) -> Matrix:
        """Return an array of results as it is."""
        return A

    def map_rows(
        self, visit: Callable[..., None], rows: int, work: float, shapes: tuple[tuple[int, ...], ...]
    ) -> list[Array]:
        """Apply visit(lo, hi, *sums) to tiles of a small factor's rows, see `Rows.map_rows`."""
        return self.inner.map_rows(visit, rows, work, shapes)
