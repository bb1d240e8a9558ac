"""Row-aligned buffers of a solver, which a pass over X reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class RowState:
    """Row-aligned buffers (W and whatever else a solver keeps by row), and their twin that the next pass writes.

    A buffer named ``before`` holds the W of the pass before: the twin's is the W of this state, and nothing is copied.
    Three buffers take turns then.
    """

    def __init__(self, **arrays: Array):
        self.arrays = arrays  # to be written into, not replaced: `rows` hands out views that it keeps
        self.empty_like: Callable[[Array], Array] = np.empty_like  # makes the twin's buffers
        self._twin: RowState | None = None
        self._free: dict[str, Array] | None = None  # buffers for the twin of a state with ``before``
        self._rows: dict[tuple[int, int], RowState] = {}

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    @property
    def twin(self) -> RowState:
        """The other buffers, for the next pass to write."""
        if self._twin is None:
            names = [name for name in self.arrays if name != "before"]
            free = self._free or {name: self.empty_like(self.arrays[name]) for name in names}
            if "before" in self.arrays:
                self._twin = RowState(**free, before=self.arrays["W"])
                # What nobody reads any more once the twin is committed.
                self._twin._free = {name: self.arrays["before" if name == "W" else name] for name in names}
            else:
                self._twin = RowState(**free)
                self._twin._twin = self
            self._twin.empty_like = self.empty_like
        return self._twin

    def part(self) -> None:
        """Let go of the twin: the two hold each other, and would stay until the garbage collector comes."""
        if self._twin is not None:
            self._twin._twin = None
        self._twin = None

    def rows(self, lo: int, hi: int) -> RowState:
        """Return rows lo … hi of every buffer."""
        part = self._rows.get((lo, hi))
        if part is None:
            part = self._rows[lo, hi] = RowState(**{name: a[lo:hi] for name, a in self.arrays.items()})
        return part
