"""Sums over the rows of X, one accumulator for each lane, added up in an order that no number of threads changes."""

from __future__ import annotations

import itertools
import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class _Scratch:
    """Accumulators per lane, kept between passes (a fresh 64 MB would be paid page by page).

    All of them in one piece of memory, so that clearing and adding up take a call or a few, however many the lanes.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.lanes: list[dict[str, Array]] = []
        self.whole = np.zeros((0, 0))

    def __getitem__(self, lane: int) -> dict[str, Array]:
        return self.lanes[lane]

    def ended(self, lane: int) -> None:
        """Say that a block of this lane has been visited."""

    def clear(self, shapes: dict[str, tuple[int, ...]], blocks: list[int]) -> None:
        """Make named sums of zeros for each lane, which has so many blocks."""
        self.cleared(shapes, len(blocks))

    def cleared(self, shapes: dict[str, tuple[int, ...]], count: int) -> list[dict[str, Array]]:
        """Return named sums of zeros for each lane."""
        if (shapes is self.shapes or shapes == self.shapes) and len(self.lanes) == count:
            self.whole.fill(0.0)
            return self.lanes
        sizes = [math.prod(shape) for shape in shapes.values()]
        ends = list(itertools.accumulate(sizes))
        self.whole = np.zeros((count, -(-ends[-1] // 8) * 8))  # lanes share no cache line
        self.shapes = shapes
        self.lanes = [
            {
                name: row[end - size : end].reshape(shape)
                for (name, shape), size, end in zip(shapes.items(), sizes, ends, strict=True)
            }
            for row in self.whole
        ]
        return self.lanes

    def total(self) -> dict[str, Array]:
        """Add all lanes up in the first one's sums, and return these. "worst" is not added up: all lanes' rows stay."""
        total, worst = self.lanes[0], None
        if "worst" in self.shapes:
            worst = np.concatenate([lane["worst"] for lane in self.lanes])
        _add_pairwise(self.whole)
        if worst is not None:
            total = total | {"worst": worst[np.argsort(-worst[:, 0], kind="stable")]}
        return total


def _add_pairwise(lanes: Array) -> Array:
    """Add lanes (first axis) up, in a tree that depends on their number only; into the first lane."""
    step = 1
    while step < len(lanes):
        lanes[: len(lanes) - step : 2 * step] += lanes[step :: 2 * step]
        step *= 2
    return lanes[0]


class FewScratch(_Scratch):
    """Accumulators of an X whose lanes are visited a few at a time: that of a lane is made when the lane begins.

    When it ends, it is added to its neighbour as soon as that one has ended, in the tree of `_add_pairwise`: the sums
    have the same bits. There are about two accumulators for each thread and one for each level of the tree.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.size = self.made = 0
        self.free: list[Array] = []
        self.result: Array | None = None

    def clear(self, shapes: dict[str, tuple[int, ...]], blocks: list[int]) -> None:
        """Forget the sums so far."""
        self.shapes, self.left = shapes, list(blocks)
        self.ends = list(itertools.accumulate(math.prod(shape) for shape in shapes.values()))
        if self.size != self.ends[-1]:
            self.size, self.free, self.made = self.ends[-1], [], 0
        elif self.result is not None:
            self.free.append(self.result)
        self.result = None
        self.busy: dict[int, tuple[Array, dict[str, Array]]] = {}
        self.whole_branches: dict[tuple[int, int], Array] = {}  # by level and place
        self.worst: list[Array] = [np.zeros((0, 0))] * len(blocks)

    def __getitem__(self, lane: int) -> dict[str, Array]:
        with self.lock:
            if lane not in self.busy:
                if self.free:
                    sums = self.free.pop()
                    sums.fill(0.0)
                else:
                    sums, self.made = np.zeros(self.size), self.made + 1
                self.busy[lane] = sums, self._named(sums)
            return self.busy[lane][1]

    def _named(self, sums: Array) -> dict[str, Array]:
        return {
            name: sums[end - math.prod(shape) : end].reshape(shape)
            for (name, shape), end in zip(self.shapes.items(), self.ends, strict=True)
        }

    def ended(self, lane: int) -> None:
        """Say that a block of this lane has been visited; after its last one, add it up with what has ended."""
        self.left[lane] -= 1
        if self.left[lane]:
            return
        with self.lock:
            sums, named = self.busy.pop(lane)
        if "worst" in named:
            self.worst[lane] = named["worst"].copy()
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

    def total(self) -> dict[str, Array]:
        """Return the sums of all lanes. "worst" is not added up: all lanes' rows stay."""
        assert self.result is not None
        total = self._named(self.result)
        if "worst" in total:
            worst = np.concatenate(self.worst)
            total["worst"] = worst[np.argsort(-worst[:, 0], kind="stable")]
        return total
