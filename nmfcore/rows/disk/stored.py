"""X outside of memory as blocks of rows, which one thread reads ahead while others visit them."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from ..._typing import Array
from ...backends import cpu
from ..base import Function
from ..memory import MemoryRows
from ..state import RowState
from ..summary import digest_of, look_through
from ..sums import FewSums, Named
from ..threads import run_all
from .sources import SLACK, Read, Source

if TYPE_CHECKING:
    from ..._typing import Block, DType
    from ...backends.operations import Backend

MEMORY = "512MB"  # the budget where none is given
SAME = 1e-10  # relative difference of two sums of the same numbers, cut into blocks elsewhere, at most
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {f"{letter}i": 1024 ** (power + 1) for power, letter in enumerate("kmgt")}


def parse_bytes(size: int | str) -> int:
    """Return the number of bytes that a number, or a text such as "2GB" or "512 MiB", stands for.

    Parameters
    ----------
    size : int or str
        At least 1 byte. kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024; the B may be left out.

    Returns
    -------
    bytes : int

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> from nmfcore.rows.disk import parse_bytes
    >>> parse_bytes("1.5GB"), parse_bytes("64 MiB"), parse_bytes(4096)
    (1500000000, 67108864, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?i?)b?\s*", str(size).lower())
    count = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if count < 1:
        msg = f"memory = {size!r} is no amount of memory: give a number of bytes, or a text such as '2GB' or '512MiB'."
        raise ValueError(msg)
    return count


class StoredRows(MemoryRows):
    """X outside of memory as blocks of rows.

    Parameters
    ----------
    X : Source
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Threads that compute; one more reads.
    memory : int, str or None
        Bytes of X that may be in memory at a time, see `parse_bytes`; None is `MEMORY`. One block of rows always may. A
        sequential source is visited by one thread where two lanes of it, each 1/64 of X or less, do not fit.
    whom : str
        What the error for negative values says that X was passed to.
    """

    in_memory = False
    by_rows_only = "X is on disk"
    digested = False  # whether the opening pass also computes the digests of the blocks, see `digest`

    def __init__(
        self, X: Source, dtype: DType, n_jobs: int | None = None, memory: int | str | None = None, whom: str = "NMF"
    ):
        super().__init__(X, dtype, n_jobs)
        self.memory = parse_bytes(memory or MEMORY)
        self._sums = FewSums()
        self.whom = whom
        self._held: dict[int, Array] = {}  # by their first row: blocks that are being visited
        self._buffers: list[Array] = []  # kept between passes

    @property
    def T(self) -> MemoryRows:
        """Raise: columns cannot be read."""
        msg = "X is not in memory and its columns cannot be solved for: give H, or W and H, for init='custom'."
        raise ValueError(msg)

    def take(self, rows: Array, n_jobs: int | None) -> MemoryRows:
        """Return a copy of some rows (increasing numbers), in memory."""
        return MemoryRows(self.X.take(rows), self.dtype, n_jobs).scaled(self.power)

    def beside(self, n_jobs: int | None) -> MemoryRows:
        """Return rows of the same X for a fit that runs beside others, which shares no memory with theirs."""
        return self._unvisited(StoredRows(self.X, self.dtype, n_jobs, self.memory, self.whom))

    def free_buffers(self) -> None:
        """Free the blocks that are kept from one pass to the next."""
        self._buffers = []

    def held(self, lo: int, hi: int) -> Array:
        """Rows lo … hi as an array, while they are visited."""
        return self._held[lo]

    def _cut(self, lo: int, hi: int, height: int) -> int:
        """Rows lo … hi as a plan has them: the height of their tiles."""
        return height

    def visit_all(self, visit: Callable[[int, int, int, Block], None], width: int) -> None:
        """visit(lane, first row, last row, block) for every block, lanes side by side, a lane's blocks in order."""
        lanes, m = self.plan(width).lanes, self.shape[1]
        size = max(hi - lo for lane in lanes for lo, hi, _ in lane) * m * self.X.dtype.itemsize + SLACK
        self._buffers = [buffer for buffer in self._buffers if len(buffer) >= size]
        slots = max(1, self.memory // size)
        threads = min(self.threads, len(lanes))
        _Pass(self, visit, lanes, threads, slots, size).run()

    def visit_verified(self, visit: Callable[[int, int, int, Block], None], width: int) -> None:
        """Call `visit` as `visit_all` does, and raise if Σx or Σx² are not those of the opening pass.

        A Zarr array of which chunks are gone reads as zeros there, and a file may have been replaced. This is not done
        in every pass, because it reads the numbers of every block twice.
        """
        summary, parts = self.summary(), np.zeros((len(self.plan(width).lanes), 4))

        def look_and_visit(lane: int, lo: int, hi: int, block: Block) -> None:
            parts[lane] += cpu.opening(block, self.dtype)
            visit(lane, lo, hi, block)

        self.visit_all(look_and_visit, width)
        for then, now in zip((summary.total, summary.squares), parts[:, 2:].sum(axis=0).tolist(), strict=True):
            if now != then and not abs(now - then) <= SAME * then:
                msg = (
                    f"The contents of {self.X.what} changed during the fit: what is read from it now is not what was "
                    "read at the beginning. Fit again, and leave it alone meanwhile."
                )
                raise RuntimeError(msg)

    @property
    def _look(self) -> Function:
        return self._look_and_refuse

    def _look_and_refuse(
        self, backend: Backend, block: Block, rows: RowState, dtype: np.dtype, after: RowState, sums: Named
    ) -> None:
        """Add to the sums of the opening, see `look_through`; raise at once if a number is not allowed."""
        bad, least = float(sums["rest"][0]), float(sums["least"][0])
        look_through(backend, block, rows, dtype, after, sums)
        if sums["rest"][0] != bad:
            self._refuse(rows.first, lambda X: ~np.isfinite(X.astype(self.dtype)))
        if sums["least"][0] < min(least, 0):
            self._refuse(rows.first, lambda X: X < 0)
        if self.digested:
            self._digests[rows.first] = digest_of(self.held(rows.first, rows.first + block.rows))

    def _refuse(self, lo: int, wrong: Callable[[Array], Array]) -> NoReturn:
        """Raise an error that names the first number of a block that is not allowed."""
        X = self._held[lo]
        for first in range(0, len(X), 256):
            with np.errstate(over="ignore"):
                found = np.argwhere(wrong(X[first : first + 256]))
            if len(found):
                row, column = found[0]
                value = X[first + row, column]
                column = column if self.X.numbers is None else self.X.numbers[column]
                where = f"row {lo + first + row:,}, column {column:,}"
                if value < 0 and np.isfinite(value):
                    msg = f"Negative values in data passed to {self.whom}: X holds {value} in {where}"
                elif np.isnan(value):
                    msg = f"Input X contains NaN: {where}"
                else:
                    msg = f"Input X contains infinity or a value too large for {self.dtype!r}: {value} in {where}"
                raise ValueError(msg)
        raise AssertionError("a block changed while it was being read")


class _Pass:
    """One pass over a source: a thread reads blocks in a fixed order, workers visit them, each lane's in order.

    Any block that is ready can be visited unless its lane is busy, so that a single buffer is enough to get on.
    """

    def __init__(
        self, rows: StoredRows, visit: Callable[..., None], lanes: list[list[tuple[int, int, int]]],
        threads: int, slots: int, size: int,
    ):  # fmt: skip
        self.rows, self.visit, self.lanes = rows, visit, lanes
        self.threads, self.slots, self.size = threads, slots, size
        self.change = threading.Condition()
        self.ready: list[deque[tuple[int, int, int, Array]]] = [deque() for _ in lanes]
        self.busy: set[int] = set()
        self.left = sum(len(lane) for lane in lanes)  # blocks whose visit has not begun
        self.made = len(rows._buffers)
        self.reading = True
        self.stop = False
        self.failures: list[BaseException] = []

    def order(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield lane, first row, last row and tile height of the blocks in the order in which they are read.

        A sequential source is read row by row; of others as many lanes take turns as there are threads.
        """
        side_by_side = 1 if self.rows.X.sequential else self.threads
        for first in range(0, len(self.lanes), side_by_side):
            group = range(first, min(first + side_by_side, len(self.lanes)))
            for turn in range(max(len(self.lanes[lane]) for lane in group)):
                for lane in group:
                    if turn < len(self.lanes[lane]):
                        yield (lane, *self.lanes[lane][turn])

    def run(self) -> None:
        """Visit every block; a failure is raised when no block is being read or visited any more."""
        if self.left == 1:  # nothing to read ahead
            (lane, lo, hi, height), source = next(self.order()), self.rows.X
            buffer = self._buffer()
            with source.opened() as read:
                self._fill(read, lo, hi, buffer)
            self._visit(lane, lo, hi, height, buffer)
            self.rows._buffers.append(buffer)
            return
        reader = threading.Thread(target=self._read, name="nmfcore-read", daemon=True)
        try:
            try:
                reader.start()
            except RuntimeError:  # no thread can be started: blocks are not read ahead
                self.reading = False
                self._alone()
                return
            run_all(self._work, self.threads, self.threads)
        finally:
            while self.reading or reader.is_alive():
                try:
                    self._end()
                    # Not by join alone: a thread whose join was interrupted passes for dead (Python < 3.13).
                    with self.change:
                        while self.reading:
                            self.change.wait(1.0)
                            self.reading &= reader.ident is not None  # interrupted before it began
                    if reader.ident is not None:
                        reader.join()
                except BaseException as failure:  # Ctrl-C: the reader holds buffers of ours until it is done
                    self.failures.append(failure)
        try:
            if self.failures:
                raise self.failures[0]
        finally:
            self.failures.clear()  # see `run_all`

    def _alone(self) -> None:
        """Read and visit every block in this thread."""
        buffer = self._buffer()
        with self.rows.X.opened() as read:
            for lane, lo, hi, height in self.order():
                self._fill(read, lo, hi, buffer)
                self._visit(lane, lo, hi, height, buffer)
        self.rows._buffers.append(buffer)

    def _end(self, *failures: BaseException) -> None:
        with self.change:
            self.failures += failures
            self.stop = True
            self.change.notify_all()

    def _buffer(self) -> Array:
        """Return a free buffer, or a new one."""
        if self.rows._buffers:
            return self.rows._buffers.pop()
        self.made += 1
        return np.empty(self.size, np.uint8)

    def _fill(self, read: Read, lo: int, hi: int, buffer: Array) -> None:
        self.rows.X.read(read, lo, hi, self.rows.X.place(lo, hi, buffer))

    def _read(self) -> None:
        try:
            with self.rows.X.opened(self.threads) as read:
                for lane, lo, hi, height in self.order():
                    with self.change:
                        while not (self.stop or self.rows._buffers or self.made < self.slots):
                            self.change.wait()
                        if self.stop:
                            return
                        buffer = self._buffer()
                    self._fill(read, lo, hi, buffer)
                    with self.change:
                        self.ready[lane].append((lo, hi, height, buffer))
                        self.change.notify_all()
        except BaseException as failure:
            self._end(failure)
        finally:
            with self.change:
                self.reading = False
                self.change.notify_all()

    def _work(self, number: int) -> None:
        try:
            while True:
                with self.change:
                    lane = self._next_lane()
                    if lane is None:
                        return
                    block = self.ready[lane].popleft()
                    self.busy.add(lane)
                    self.left -= 1
                self._visit(lane, *block)
                with self.change:
                    self.busy.discard(lane)
                    self.rows._buffers.append(block[-1])
                    self.change.notify_all()
        except BaseException as failure:
            self._end(failure)

    def _next_lane(self) -> int | None:
        """Wait for a block that can be visited and return its lane; None when no block is left."""
        while not self.stop and self.left:
            for lane, blocks in enumerate(self.ready):
                if blocks and lane not in self.busy:
                    return lane
            self.change.wait(1.0)  # Windows delivers Ctrl-C between waits only
        return None

    def _visit(self, lane: int, lo: int, hi: int, height: int, buffer: Array) -> None:
        rows = self.rows
        X = rows._held[lo] = rows.X.place(lo, hi, buffer)
        try:
            self.visit(lane, lo, hi, cpu.cut(X, (0, hi - lo), height, rows.power))
        finally:
            del rows._held[lo]
