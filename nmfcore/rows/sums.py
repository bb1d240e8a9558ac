"""Sums over the rows of X: one accumulator for each lane, combined in an order that depends on the cut of X only.

A sum is named, and its name says how parts of it are combined: parts of "least" and "most" by the smaller and the
larger number, tables named "worst" (see `worst_rows` of a backend) by keeping the rows of all of them, the largest loss
first, and parts of any other name by addition.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Sequence

import numpy as np

from .._typing import Array
from ..backends.operations import merge_worst

Shapes = dict[str, tuple[int, ...]]
Named = dict[str, Array]


def _all_rows(tables: Sequence[Array]) -> Array:
    rows = np.concatenate(tables)
    return rows[np.argsort(-rows[:, 0], kind="stable")]


# Of sums that are not added: the number that stands for no part, and how the parts of all lanes are combined.
NEUTRAL = {"least": math.inf, "most": -math.inf, "worst": 0.0}
_COMBINED: dict[str, Callable[[Sequence[Array]], Array]] = {
    "least": lambda parts: np.minimum.reduce(parts),
    "most": lambda parts: np.maximum.reduce(parts),
    "worst": _all_rows,
}
# Blocks on several machines keep as many rows of a "worst" table as one block has.
_PAIRED: dict[str, Callable[[Array, Array], Array]] = {
    "least": np.minimum,
    "most": np.maximum,
    "worst": merge_worst,
}


def combined(a: Named, b: Named) -> Named:
    """Return the sums of two parts of X; where it matters, the rows of `a` come before those of `b`.

    Parameters
    ----------
    a, b : dict of str to ndarray

    Returns
    -------
    sums : dict of str to ndarray
    """
    return {name: _PAIRED.get(name, np.add)(a[name], b[name]) for name in a}


def _neutral(name: str, shape: tuple[int, ...]) -> Array:
    return np.full(shape, NEUTRAL[name])


class LaneSums:
    """Accumulators of all lanes, kept between passes: page faults on fresh memory are expensive.

    What is added up lies in one piece of memory, so that clearing and adding take a few calls, however many lanes
    there are.
    """

    def __init__(self) -> None:
        self.shapes: Shapes = {}
        self.lanes: list[Named] = []
        self.whole = np.zeros((0, 0))
        self.special: list[str] = []  # names of the sums that are not added

    def __getitem__(self, lane: int) -> Named:
        return self.lanes[lane]

    def ended(self, lane: int) -> None:
        """Record that a block of this lane has been visited."""

    def clear(self, shapes: Shapes, blocks: list[int]) -> None:
        """Start anew, with the named sums of that many lanes.

        Parameters
        ----------
        shapes : dict of str to shape
        blocks : list of int
            Number of blocks of each lane.
        """
        self.cleared(shapes, len(blocks))

    def cleared(self, shapes: Shapes, count: int) -> list[Named]:
        """Return empty sums, by name, for each of `count` lanes."""
        if (shapes is self.shapes or shapes == self.shapes) and len(self.lanes) == count:
            self.whole.fill(0.0)
            for name in self.special:
                for lane in self.lanes:
                    lane[name].fill(NEUTRAL[name])
            return self.lanes
        self.shapes, self.special = shapes, [name for name in shapes if name in NEUTRAL]
        added = {name: shape for name, shape in shapes.items() if name not in NEUTRAL}
        ends = list(itertools.accumulate((math.prod(shape) for shape in added.values()), initial=0))
        self.whole = np.zeros((count, -(-ends[-1] // 8) * 8))  # lanes share no cache line
        self.lanes = [
            {
                name: row[first:last].reshape(shape)
                for (name, shape), (first, last) in zip(added.items(), itertools.pairwise(ends), strict=True)
            }
            | {name: _neutral(name, shapes[name]) for name in self.special}
            for row in self.whole
        ]
        return self.lanes

    def total(self) -> Named:
        """Return the sums of all lanes; they lie in the first lane's memory until the next pass."""
        special = {name: _COMBINED[name]([lane[name] for lane in self.lanes]) for name in self.special}
        _add_pairwise(self.whole)
        return self.lanes[0] | special


def _add_pairwise(lanes: Array) -> Array:
    """Add lanes (first axis) up, in a tree that depends on their number only, into the first lane."""
    step = 1
    while step < len(lanes):
        lanes[: len(lanes) - step : 2 * step] += lanes[step :: 2 * step]
        step *= 2
    return lanes[0]


class FewSums(LaneSums):
    """Accumulators of an X whose lanes are visited a few at a time: that of a lane is made when the lane begins.

    When a lane ends, its sums are added to its neighbour's as soon as that one has ended, in the tree of
    `_add_pairwise`: the results have the same bits. There are about two accumulators for each thread, and one for each
    level of the tree.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.size = self.made = 0
        self.free: list[Array] = []
        self.result: Array | None = None

    def clear(self, shapes: Shapes, blocks: list[int]) -> None:
        """Start anew, see `LaneSums.clear`."""
        self.shapes, self.left, self.lanes = shapes, list(blocks), []
        self.special = [name for name in shapes if name in NEUTRAL]
        self.added = {name: shape for name, shape in shapes.items() if name not in NEUTRAL}
        self.ends = list(itertools.accumulate((math.prod(shape) for shape in self.added.values()), initial=0))
        if self.size != self.ends[-1]:
            self.size, self.free, self.made = self.ends[-1], [], 0
        elif self.result is not None:
            self.free.append(self.result)
        self.result = None
        self.busy: dict[int, tuple[Array, Named]] = {}
        self.whole_branches: dict[tuple[int, int], Array] = {}  # by level and place
        self.kept: dict[str, list[Array]] = {
            name: [_neutral(name, shapes[name])] * len(blocks) for name in self.special
        }

    def __getitem__(self, lane: int) -> Named:
        with self.lock:
            if lane not in self.busy:
                if self.free:
                    sums = self.free.pop()
                    sums.fill(0.0)
                else:
                    sums, self.made = np.zeros(self.size), self.made + 1
                special = {name: _neutral(name, self.shapes[name]) for name in self.special}
                self.busy[lane] = sums, self._named(sums) | special
            return self.busy[lane][1]

    def _named(self, sums: Array) -> Named:
        bounds = itertools.pairwise(self.ends)
        return {
            name: sums[first:last].reshape(shape)
            for (name, shape), (first, last) in zip(self.added.items(), bounds, strict=True)
        }

    def ended(self, lane: int) -> None:
        """Record that a block of this lane has been visited; after the last one, add the lane to what has ended."""
        self.left[lane] -= 1
        if self.left[lane]:
            return
        with self.lock:
            sums, named = self.busy.pop(lane)
        for name in self.special:
            self.kept[name][lane] = named[name]
        level, place, count = 0, lane, len(self.left)
        while count > 1:
            other = place ^ 1
            if other < count:
                with self.lock:
                    neighbour = self.whole_branches.pop((level, other), None)
                    if neighbour is None:
                        self.whole_branches[level, place] = sums
                        return
                first, second = (sums, neighbour) if place < other else (neighbour, sums)
                first += second
                sums = first
                with self.lock:
                    self.free.append(second)
            level, place, count = level + 1, place // 2, (count + 1) // 2
        self.result = sums

    def total(self) -> Named:
        """Return the sums of all lanes, see `LaneSums.total`."""
        assert self.result is not None
        return self._named(self.result) | {name: _COMBINED[name](parts) for name, parts in self.kept.items()}
