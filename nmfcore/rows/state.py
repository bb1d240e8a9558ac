"""Row-aligned buffers of a solver, which a pass over X reads and writes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from .._typing import Array


class RowState:
    """Arrays with a row for each row of X (W and whatever else a solver keeps by row), and their twin.

    A pass reads the arrays of a state and writes those of its twin. An array named ``before`` holds the W of the pass
    before: the twin's is the W of this state, so that nothing is copied, and three arrays take turns at least.

    Parameters
    ----------
    **arrays : ndarray of shape (n, …)
        By name.

    Attributes
    ----------
    first : int
        The row of X that the first row of the arrays belongs to.
    """

    first = 0
    turns = 2  # how many states take turns; with 4, the next pass but one leaves alone this state and the one before

    def __init__(self, **arrays: Array):
        self.arrays = arrays  # to be written into, not replaced: `rows` hands out views that it keeps
        self.empty_like: Callable[[Array], Array] = np.empty_like  # makes the arrays of the twin
        self._twin: RowState | None = None
        self._rows: dict[tuple[int, int], RowState] = {}

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    @property
    def twin(self) -> RowState:
        """The arrays that the next pass writes."""
        if self._twin is None:
            names = [name for name in self.arrays if name != "before"]
            states, before = [self], self.arrays.get("before")
            for left in reversed(range(max(self.turns, 2 if before is None else 3) - 1)):
                made = {name: self.empty_like(self.arrays[name]) for name in names if left or name != "W"}
                if not left:  # the W of the last one is what this state has of the pass before
                    made["W"] = self.empty_like(self.arrays["W"]) if before is None else before
                if before is not None:
                    made["before"] = states[-1].arrays["W"]
                states.append(RowState(**made))
            for state, following in itertools.pairwise([*states, self]):
                state._twin, state.empty_like = following, self.empty_like
        assert self._twin is not None
        return self._twin

    def separate(self) -> None:
        """Break the reference cycle with the twin."""
        state: RowState | None = self
        while state is not None:
            state._twin, state = None, state._twin

    def rows(self, lo: int, hi: int) -> RowState:
        """Return rows lo … hi of every array."""
        part = self._rows.get((lo, hi))
        if part is None:
            part = self._rows[lo, hi] = RowState(**{name: a[lo:hi] for name, a in self.arrays.items()})
            part.first = lo
        return part
