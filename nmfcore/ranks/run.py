"""The fits of a selection: in which order they are made, what ends them, and what came out."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from scipy import sparse

from .._typing import Array, Matrix
from ..rows.threads import effective_threads, run_all
from .fits import Found, Task
from .selection import RankTable

__all__ = ["Cell", "RankProgress", "Run"]

_SIDE_BY_SIDE = 1 << 29  # bytes of a block that is fitted by all threads together
_GAIN = 0.01  # share of the train loss by which "auto" wants a doubling of k to lower it
_SHALLOW = 0.38  # golden section: share of an interval between its end and a point in it


class RankProgress(NamedTuple):
    """What the callback of `select_rank` receives after each fit."""

    done: int  # fits so far
    total: int  # fits that are planned; "auto" plans more as it goes
    k: int  # of the last fit
    repeat: int
    fold: int
    seconds: float  # since the call
    seconds_left: float  # of what is planned, from the time that fits of the same cost have taken; NaN before the first


class Cell(Protocol):
    """What one fit leaves out; `select` fits it with every k."""

    repeat: int
    fold: int
    left: int  # fits that are still to come
    X: Matrix

    def predict(
        self, k: int, seed: int, task: Task, stop: Callable[[object], bool], max_time: float | None
    ) -> Found | None:
        """Fit with k components, and measure what is left out; None if the fit was ended."""

    def done(self) -> None:
        """Take note that a fit is over."""


class Run:
    """The fits of a selection: what has been done, and what ends it.

    Parameters
    ----------
    cells : sequence of Cell
        What is left out, of all repeats.
    task : Task
    seeds : SeedSequence
        Of the seeds of the fits.
    fixed : int or None
        The seed of every fit; None: each has its own.
    begun : float
        ``time.perf_counter()`` of the call.
    max_time : float or None
        Seconds after which no fit begins.
    n_jobs : int or None
    callback : callable or None
        Called with a `RankProgress` after each fit.
    """

    def __init__(
        self, cells: Sequence[Cell], task: Task, seeds: np.random.SeedSequence, fixed: int | None, begun: float,
        max_time: float | None, n_jobs: int | None, callback: Callable[[RankProgress], object] | None,
    ):  # fmt: skip
        self.cells = cells
        self.task, self.fixed, self.begun, self.max_time, self.callback = task, fixed, begun, max_time, callback
        self.entropy = [int(word) for word in seeds.generate_state(4)]
        self.threads = effective_threads(task.estimator.n_jobs if n_jobs is None else n_jobs)
        self.large = _bytes(cells[0].X) > _SIDE_BY_SIDE or task.estimator.device not in (None, "cpu")
        self.found: dict[tuple[int, int], Found] = {}  # by k and number of the cell
        self.planned: dict[tuple[int, int], None] = {}
        self.told: list[tuple[int, int]] = []  # fits that the callback has not been told of
        self.caller, self.stop, self.by_callback = threading.get_ident(), threading.Event(), False
        self.one_by_one = False  # whether k came one after the other, not all at once

    @property
    def nothing(self) -> bool:
        """Whether nothing has been found that a result could be made of."""
        return not self.usable()[0]

    def over(self) -> bool:
        """Return whether no further fit is to begin."""
        return self.stop.is_set() or (self.max_time is not None and self.seconds() >= self.max_time)

    def seconds(self) -> float:
        """Return the seconds since the call."""
        return time.perf_counter() - self.begun

    def seed(self, k: int, cell: int) -> int:
        """Return the seed of a fit, which does not depend on what else is tried."""
        if self.fixed is not None:
            return int(self.fixed)
        return int(np.random.SeedSequence([*self.entropy, k, cell]).generate_state(1)[0] >> 1)

    def evaluate(self, ks: Sequence[int]) -> bool:
        """Make the fits of these k that have not been made; return whether all could be made."""
        todo = [(k, number) for number in range(len(self.cells)) for k in ks if (k, number) not in self.found]
        self.planned.update(dict.fromkeys(todo))
        for _, number in todo:
            self.cells[number].left += 1
        together = self.threads > 1 and not self.large and len(todo) >= self.threads
        task = self.task._replace(n_jobs=1 if together else self.threads)

        def fit(at: int) -> None:
            (k, number), cell = todo[at], self.cells[todo[at][1]]
            try:
                if self.over():
                    return
                left = None if self.max_time is None else max(1e-3, self.max_time - self.seconds())
                found = cell.predict(k, self.seed(k, number), task, lambda progress: self.stop.is_set(), left)
                if found is not None:
                    self.found[k, number] = found
                    self.told.append((k, number))
            except BaseException:
                self.stop.set()  # fits of other threads end after their pass
                raise
            finally:
                cell.done()
            if threading.get_ident() == self.caller:
                self.tell()

        run_all(fit, len(todo), self.threads if together else 1)
        self.tell()
        return all(each in self.found for each in todo)

    def tell(self) -> None:
        """Tell the callback, in the calling thread, of the fits that have ended."""
        while self.told:
            k, number = self.told.pop(0)
            if self.callback is None or self.by_callback:
                continue
            cell, seconds = self.cells[number], self.seconds()
            done = list(self.found)  # a copy: other threads add to it
            work, all_work = (sum(5 + each for each, _ in which) for which in (done, list(self.planned)))
            left = seconds * (all_work - work) / work if work else math.nan
            progress = RankProgress(len(done), len(self.planned), k, cell.repeat, cell.fold, seconds, left)
            if self.callback(progress) is True:
                self.by_callback = True
                self.stop.set()

    # -- in which order

    def all(self, ks: list[int]) -> str:
        """Try these k; return why no more was tried."""
        return f"{_count(ks)} tried" if self.evaluate(ks) else self.why()

    def why(self) -> str:
        """Return why fits are missing."""
        return "the callback returned True" if self.by_callback else "out of time"

    def search(self, most: int) -> str:
        """Try 2, 4, 8, … and narrow the best one down; return why no more was tried."""
        rises, k, reason, self.one_by_one = 0, min(2, most), "", True
        curve: dict[int, tuple[float, float]] = {}  # train and test loss by k

        def known(*ks: int) -> bool:
            if not self.evaluate([each for each in ks if each not in curve]):
                return False
            used, _, train, test, _ = self.losses()
            curve.update(zip(used, zip(train.mean(axis=0), test.mean(axis=0), strict=True), strict=True))
            return True

        while not reason:
            before = max(curve, default=None)
            if not known(k):
                return self.why()
            if before is not None:
                rises += curve[k][1] > curve[before][1]
                if rises == 2:
                    reason = "the test loss rose twice"
                elif curve[k][0] >= (1 - _GAIN) * curve[before][0]:
                    reason = f"the train loss fell by less than {_GAIN:.0%} from k = {before} to {k}"
            capped = not reason and 2 * k >= most  # the largest k describes a block whatever it holds
            if capped:
                reason = f"k = {most} is the largest possible"
            k *= 2
        tried = sorted(curve)
        at = tried.index(min(tried, key=lambda each: curve[each][1]))
        low = tried[at - 1] if at else 1
        high = [*tried, most if capped else tried[-1]][at + 1]
        if not at and not known(1):
            return self.why()
        while high - low > 2:
            step = max(1, round(_SHALLOW * (high - low)))
            first, second = low + step, high - step
            if first >= second:
                first = (low + high) // 2
                second = first + 1
            if not known(first, second):
                return self.why()
            low, high = (low, second) if curve[first][1] <= curve[second][1] else (first, high)
        if high - low == 2 and not known(low + 1):
            return self.why()
        return f"{reason}, and golden section ended between {low} and {high}"

    # -- what came out

    def usable(self) -> tuple[list[int], list[list[int]]]:
        """Return the k and, for each repeat, the cells that losses are formed of: all k have the same cells.

        Complete repeats if there are any for all k, else the folds of the first repeat that all k have, else the k that
        have the first fold. Where k came one after the other, the last one is left out if it is not complete.
        """
        ks = sorted({k for k, _ in self.found} | {k for k, _ in self.planned})
        by_repeat: dict[int, list[int]] = {}
        for number, cell in enumerate(self.cells):
            by_repeat.setdefault(cell.repeat, []).append(number)

        def complete(which: Iterable[int], numbers: Iterable[int]) -> bool:
            return all((k, number) in self.found for k in which for number in numbers)

        if self.one_by_one:
            ks = [k for k in ks if complete([k], range(len(self.cells)))] or ks
        whole = [numbers for numbers in by_repeat.values() if complete(ks, numbers)]
        if whole:
            return ks, whole
        some = [number for number in by_repeat[0] if complete(ks, [number])]
        if some:
            return ks, [some]
        return [k for k in ks if (k, 0) in self.found], [[0]]

    def losses(self) -> tuple[list[int], list[list[int]], Array, Array, bool]:
        """Return the k, the cells of each repeat, relative train and test losses (repeats × k), and is that all."""
        ks, repeats = self.usable()
        train, test = np.empty((len(repeats), len(ks))), np.empty((len(repeats), len(ks)))
        for r, numbers in enumerate(repeats):
            for at, k in enumerate(ks):
                cells = [self.found[k, number] for number in numbers]
                train[r, at] = _ratio(sum(c.train for c in cells), sum(c.train_whole for c in cells))
                test[r, at] = _ratio(sum(c.test for c in cells), sum(c.test_whole for c in cells))
        return ks, repeats, train, test, len(ks) * sum(map(len, repeats)) == len(self.planned)

    def table(self) -> RankTable:
        """Return all fits as a table."""
        each = sorted(self.found, key=lambda at: (at[0], at[1]))
        cells, found = [self.cells[number] for _, number in each], [self.found[at] for at in each]
        return RankTable(
            {
                "k": np.array([k for k, _ in each]),
                "repeat": np.array([cell.repeat for cell in cells]),
                "fold": np.array([cell.fold for cell in cells]),
                "train": np.array([_ratio(one.train, one.train_whole) for one in found]),
                "test": np.array([_ratio(one.test, one.test_whole) for one in found]),
                "n_iter": np.array([one.n_iter for one in found]),
                "seconds": np.array([one.seconds for one in found]),
            }
        )


def _bytes(X: Matrix) -> float:
    """Return how much memory X takes; infinity for one that is not in memory."""
    return X.data.nbytes + X.indices.nbytes if sparse.issparse(X) else getattr(X, "nbytes", math.inf)


def _ratio(loss: float, whole: float) -> float:
    return loss / whole if whole > 0 else math.nan


def _count(ks: Sequence[int]) -> str:
    return f"all {len(ks)} numbers of components were" if len(ks) > 1 else f"k = {ks[0]} alone was"
