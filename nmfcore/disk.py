"""X that is not in memory: files, HDF5 and Zarr arrays, streams of row blocks; and row-aligned buffers kept in files.

A *source* knows how to put rows into a buffer, `StoredRows` is what `data.Rows` is for it: the same lanes and blocks,
cut at the same row numbers, so the factors have the bits of a fit from memory. A thread reads ahead while others
compute; a budget of memory says how many blocks may be in flight, and never how X is cut.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import math
import os
import re
import tempfile
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .data import BLOCK_BYTES, Rows, run_all

Array = NDArray[Any]
Read = Callable[[int, int, Array], None]  # read(lo, hi, out): rows lo … hi into out

MEMORY = "512MB"  # the budget where none is given
_SLAB_BYTES = 8 * BLOCK_BYTES  # chunks of more rows than that are not kept decompressed
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {f"{letter}i": 1024 ** (power + 1) for power, letter in enumerate("kmgt")}
# Types that are read as they lie, as of X in memory; anything else becomes float64.
_KEPT = [np.dtype(n) for n in ("f2", "f4", "f8", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "bool")]


def parse_bytes(size: int | str) -> int:
    """Return a number of bytes that is given as a number, or as a text such as "2GB", "512 MiB".

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
    >>> from nmfcore.disk import parse_bytes
    >>> parse_bytes("1.5GB"), parse_bytes("64 MiB"), parse_bytes(4096)
    (1500000000, 67108864, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?i?)b?\s*", str(size).lower())
    count = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if count < 1:
        msg = f"memory = {size!r} is no amount of memory: give a number of bytes, or a text such as '2GB' or '512MiB'."
        raise ValueError(msg)
    return count


# ---- sources -----------------------------------------------------------------------------------------------------


class Source:
    """A dense matrix outside of memory: its shape, its type, and a way to read rows.

    Attributes
    ----------
    shape : tuple of (int, int)
        Rows and columns.
    given : dtype
        The type of the stored numbers.
    dtype : dtype
        The type they have in a buffer: `given`, or float64 where X in memory would become that, too.
    bytes_read : int
        Bytes of X read so far, in the type of the store.
    sequential : bool
        Whether rows come in order only.
    row_by_row : bool
        Whether single rows cost little more than their bytes.
    sample : tuple of int or None
        The shape that a row has in the store, if it is folded.
    """

    sequential = False
    row_by_row = False

    def __init__(self, shape: Any, dtype: Any, what: str, fold: bool = False):
        self.what = what
        shape = tuple(int(side) for side in shape)
        self.sample = shape[1:] if fold and len(shape) > 2 else None
        self.shape: tuple[int, int] = _checked_shape((shape[0], math.prod(shape[1:])) if self.sample else shape, what)
        self.given = _checked_type(dtype, what)
        self.dtype = self.given if self.given in _KEPT else np.dtype(np.float64)
        self.bytes_read = 0
        self._counting = threading.Lock()

    def opened(self, streams: int = 1) -> AbstractContextManager[Read]:
        """Give read(lo, hi, out), which puts rows lo … hi into out; for one thread at a time.

        Parameters
        ----------
        streams : int
            In how many places at once rows will be read in order.
        """
        raise NotImplementedError

    def read(self, read: Read, lo: int, hi: int, out: Array) -> None:
        """Read rows by what `opened` gave, and count their bytes."""
        read(lo, hi, out)
        with self._counting:
            self.bytes_read += (hi - lo) * self.shape[1] * self.given.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix in its own type."""
        return math.prod(self.shape) * self.given.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        """Return a copy of one row, or of some (a slice, or a list of numbers), each at its place."""
        numbers = np.arange(self.shape[0])[rows]
        wanted, at = np.unique(numbers, return_inverse=True)
        return self.take(wanted)[at.reshape(numbers.shape)]

    def take(self, rows: Array) -> Array:
        """Return a copy of some rows (increasing numbers)."""
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        with self.opened() as read:
            if self.row_by_row:
                runs = [*np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist(), len(rows)]
                for first, last in itertools.pairwise(runs):  # rows that follow one another
                    self.read(read, int(rows[first]), int(rows[last - 1]) + 1, out[first:last])
                return out
            height = max(1, BLOCK_BYTES // max(1, self.shape[1] * self.dtype.itemsize))
            buffer = np.empty((min(height, self.shape[0]), self.shape[1]), self.dtype)
            for lo in range(0, self.shape[0], height):
                hi = min(lo + height, self.shape[0])
                first, last = np.searchsorted(rows, (lo, hi))
                if first < last or self.sequential:
                    self.read(read, lo, hi, buffer[: hi - lo])
                    out[first:last] = buffer[rows[first:last] - lo]
        return out


def _checked_shape(shape: tuple[int, ...], what: str) -> tuple[int, int]:
    if len(shape) != 2:
        msg = f"{what} has shape {shape}: expected two dimensions, samples and features. Reshape your data."
        raise ValueError(msg)
    return shape[0], shape[1]


def _checked_type(dtype: Any, what: str) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        msg = f"Complex data not supported\n{what} holds {dtype}\n"
        raise ValueError(msg)
    if dtype.kind not in "buif":
        msg = f"{what} holds {dtype}: expected real numbers (bool, integers or floats)."
        raise ValueError(msg)
    return dtype


class RowBlocks(Source):
    """A matrix that comes as a stream of row blocks, anew for every pass.

    Parameters
    ----------
    blocks : callable
        ``blocks()`` returns an iterable of 2-D arrays of `dtype` with m columns and any number of rows, in order; n
        rows together, and the same ones each time. It is called once for every pass over X, and runs in a thread that
        reads ahead. An iterator with a ``close`` method (any generator) is closed when its pass ends.
    shape : tuple of (int, int)
        n and m.
    dtype : dtype
        Type of the numbers: bool, integers or floats.

    Raises
    ------
    TypeError
        If `blocks` is not callable.
    ValueError
        If `shape` or `dtype` are not those of a matrix of real numbers; during a pass, if blocks have another width or
        type, or do not have n rows together.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import NMF, RowBlocks
    >>> X = np.random.default_rng(0).random((1000, 8))
    >>> def batches():
    ...     for first in range(0, 1000, 300):
    ...         yield X[first : first + 300]
    >>> stream = RowBlocks(batches, X.shape, X.dtype)
    >>> model = NMF(3, init="random", random_state=0, max_iter=5, tol=0).fit(stream)
    >>> same = NMF(3, init="random", random_state=0, max_iter=5, tol=0).fit(X)
    >>> bool(np.array_equal(model.components_, same.components_))
    True
    """

    sequential = True

    def __init__(self, blocks: Callable[[], Iterable[Any]], shape: tuple[int, int], dtype: Any):
        given: Any = blocks
        if not callable(given):
            msg = (
                f"RowBlocks takes a function that returns an iterable of row blocks, not a {type(given).__name__}: "
                "every pass over X calls it anew. For a list of blocks: lambda: blocks."
            )
            raise TypeError(msg)
        super().__init__(shape, dtype, "RowBlocks")
        self.blocks = blocks

    @contextmanager
    def opened(self, streams: int = 1) -> Iterator[Read]:
        """Begin a pass over the stream."""
        stream = iter(self.blocks())
        block, begin, end = np.empty((0, self.shape[1]), self.given), 0, 0  # rows begin … end of X

        def advance() -> bool:
            nonlocal block, begin, end
            for each in stream:
                block = self._checked(each, end)
                begin, end = end, end + len(block)
                if begin < end:
                    return True
            return False

        def read(lo: int, hi: int, out: Array) -> None:
            while lo < hi:
                if lo >= end and not advance():
                    self._complain(f"gave {end:,} rows in this pass")
                last = min(hi, end)
                out[: last - lo] = block[lo - begin : last - begin]
                out, lo = out[last - lo :], last
            if hi == self.shape[0] and (end > hi or advance()):
                self._complain(f"gave more than {hi:,} rows in this pass")

        try:
            yield read
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def _checked(self, block: Any, first: int) -> Array:
        block = np.asarray(block)
        if block.ndim != 2 or block.shape[1] != self.shape[1]:
            self._complain(f"gave a block of shape {block.shape} at row {first:,}")
        if block.dtype != self.given:
            self._complain(f"gave a block of {block.dtype} at row {first:,}")
        return block

    def _complain(self, found: str) -> NoReturn:
        n, m = self.shape
        msg = (
            f"the function of RowBlocks {found}; it was said to give {n:,} rows of {m:,} numbers, {self.given}: "
            "every call must give the same rows."
        )
        raise ValueError(msg)


class NpyFile(Source):
    """The array of a ``.npy`` file, C-contiguous; rows are read by the file's own calls, not through a mapping.

    Parameters
    ----------
    path : path-like
        The file. It is opened for each pass and closed after it.
    fold : bool
        Whether an array of more dimensions is taken as one row for each sample.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no ``.npy`` file of real numbers in rows and columns.
    """

    row_by_row = True

    def __init__(self, path: str | os.PathLike[str], fold: bool = False):
        self.path = Path(path)
        with open(self.path, "rb") as file:
            shape, self.columns_first, dtype = _npy_header(file, self.path)
            self._offset = file.tell()
        super().__init__(shape, dtype, f"'{self.path}'", fold)
        held = self.path.stat().st_size - self._offset
        if held < math.prod(self.shape) * self.given.itemsize:
            msg = f"'{self.path}' is cut short: {held:,} bytes of the {self.shape} numbers that it says it holds."
            raise ValueError(msg)

    @contextmanager
    def opened(self, streams: int = 1) -> Iterator[Read]:
        """Open the file."""
        width = self.shape[1] * self.given.itemsize
        with open(self.path, "rb", buffering=0) as file:

            def fill(lo: int, hi: int, out: Array) -> None:
                file.seek(self._offset + lo * width)
                view: Any = out.reshape(-1).view(np.uint8)  # bytes, as readinto wants them
                while len(view):
                    got = file.readinto(view)
                    if not got:
                        msg = f"'{self.path}' has become shorter while it was read."
                        raise ValueError(msg)
                    view = view[got:]

            def read(lo: int, hi: int, out: Array) -> None:
                if self.given == self.dtype:
                    fill(lo, hi, out)
                else:
                    raw = np.empty(out.shape, self.given)
                    fill(lo, hi, raw)
                    out[:] = raw

            yield read


def _npy_header(file: Any, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        return read[min(version[0], 2)](file)
    except (ValueError, KeyError, EOFError) as error:
        msg = f"'{path}' is no .npy file: {error}"
        raise ValueError(msg) from error


class Stored(Source):
    """An array-like whose slices are read from somewhere: an h5py dataset, a Zarr array.

    Parameters
    ----------
    array : array-like
        With shape, dtype, and ``array[lo:hi]``. Chunks are decompressed once a pass, whatever their number of rows.
    hold : callable or None
        hold() gives a context in which the array can be read; None: at any time.
    fold : bool
        Whether an array of more dimensions is taken as one row for each sample.
    """

    def __init__(
        self, array: Any, hold: Callable[[], AbstractContextManager[Any]] | None = None, fold: bool = False
    ):  # fmt: skip
        name = type(array).__name__
        super().__init__(array.shape, array.dtype, f"this {name} of {type(array).__module__.partition('.')[0]}", fold)
        self._hold = hold or (lambda: nullcontext(array))
        chunks = getattr(array, "chunks", None)
        self._slab = int(chunks[0]) if chunks else 0  # rows of a chunk; 0: any rows can be had alone
        if self._slab * self.shape[1] * self.given.itemsize > _SLAB_BYTES:
            warnings.warn(
                f"{self.what} is stored in chunks of {self._slab:,} rows, which are decompressed anew for every block "
                "of rows: it is read much faster if you store it in chunks of fewer rows and all columns.",
                UserWarning,
                stacklevel=2,
            )
            self._slab = 0

    @contextmanager
    def opened(self, streams: int = 1) -> Iterator[Read]:
        """Hold the array open; of each stream the chunk that it has read half is kept decompressed."""
        begun: OrderedDict[int, Array] = OrderedDict()  # by the row that such a stream goes on with

        with self._hold() as array:

            def read(lo: int, hi: int, out: Array) -> None:
                if not self._slab:
                    out[:] = np.asarray(array[lo:hi]).reshape(out.shape)
                    return
                row, slab = lo, begun.pop(lo, None)
                while row < hi:
                    begin = row // self._slab * self._slab
                    last = min(hi, begin + self._slab)
                    if slab is None:
                        slab = np.asarray(array[begin : begin + self._slab])
                        slab = slab.reshape(len(slab), self.shape[1])
                    out[row - lo : last - lo] = slab[row - begin : last - begin]
                    if last % self._slab:
                        begun[last] = slab
                    row, slab = last, None
                while len(begun) > streams:
                    begun.popitem(last=False)

            yield read


def source_of(X: Any, fold: bool = False) -> Any:
    """Return the source that X is or names; X itself if it is neither.

    Parameters
    ----------
    X : any
        A source, an h5py dataset, a Zarr array, or a path: to a ``.npy`` file, to a Zarr array, or to an HDF5 file,
        with ``::name`` behind it if it holds more than one matrix.
    fold : bool
        Whether an array of more dimensions that a path names is taken as one row for each sample.

    Returns
    -------
    source : Source or object
        A memory map for a ``.npy`` file in Fortran order, whose rows do not lie together.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    ImportError
        If the library that reads it is missing.
    ValueError
        If it is of no known kind, or holds no matrix of real numbers.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from nmfcore.disk import source_of
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.save(pathlib.Path(folder.name) / "x.npy", np.zeros((5, 3), np.uint8))
    >>> source_of(pathlib.Path(folder.name) / "x.npy").shape
    (5, 3)
    >>> folder.cleanup()
    """
    if isinstance(X, str | os.PathLike):
        return _from_path(X, fold)
    if type(X).__module__.partition(".")[0] in ("h5py", "zarr") and hasattr(X, "shape") and hasattr(X, "dtype"):
        return Stored(X)
    return X


def _from_path(given: str | os.PathLike[str], fold: bool) -> Any:
    text, _, name = os.fspath(given).partition("::")
    path = Path(text).expanduser()
    if not path.exists():
        msg = f"there is no file or folder '{path}': check the path"
        raise FileNotFoundError(msg)
    suffix = path.suffix.lower()
    if path.is_dir() and (suffix == ".zarr" or any((path / each).exists() for each in ("zarr.json", ".zarray"))):
        return _from_zarr(path, name, fold)
    if suffix in (".h5", ".hdf5", ".hdf", ".he5"):
        return _from_hdf5(path, name, fold)
    if suffix == ".npy":
        source = NpyFile(path, fold)
        if source.columns_first and source.sample:
            msg = f"{source.what} is in Fortran order, its rows do not lie together: store it in C order."
            raise ValueError(msg)
        return np.load(path, mmap_mode="r") if source.columns_first else source
    msg = (
        f"'{path}' is of no known kind: X may be a .npy file, an HDF5 file (.h5, .hdf5) or a Zarr array (.zarr); "
        "nmfcore.images.cached_images decodes a folder of pictures, read_source reads .npz and other files."
    )
    raise ValueError(msg)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f"{name} is missing: pip install 'nmfcore[disk]'"
        raise ImportError(msg) from error


def _from_hdf5(path: Path, name: str, fold: bool) -> Stored:
    h5py = _library("h5py")
    with h5py.File(path, "r") as file:
        if not name:
            found: list[str] = []
            file.visititems(lambda key, each: found.append(key) if _fits(each, fold) else None)
            name = _only(found, path)
        elif name not in file:
            msg = f"'{path}' holds nothing named '{name}'"
            raise ValueError(msg)

    @contextmanager
    def hold() -> Iterator[Any]:
        with h5py.File(path, "r") as file:
            yield file[name]

    with hold() as array:
        return Stored(array, hold, fold)


def _fits(array: Any, fold: bool) -> bool:
    dimensions = getattr(array, "ndim", 0)
    return dimensions == 2 or (fold and dimensions > 2)


def _from_zarr(path: Path, name: str, fold: bool) -> Stored:
    zarr = _library("zarr")
    array = zarr.open(str(path), mode="r")
    if name:
        array = array[name]
    elif not hasattr(array, "dtype"):  # a group
        array = array[_only(sorted(key for key, each in array.arrays() if _fits(each, fold)), path)]
    return Stored(array, None, fold)


def _only(found: list[str], path: Path) -> str:
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"'{name}'" for name in found[:5]) or "none"
    msg = f"'{path}' must hold one matrix, or the one meant must be named, as in '{path}::{(found or ['name'])[0]}'"
    raise ValueError(f"{msg}. It holds: {names}")


# ---- rows from a source ------------------------------------------------------------------------------------------


class StoredRows(Rows):
    """X outside of memory as blocks of rows.

    Parameters
    ----------
    X : Source
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Threads that compute; one more reads.
    memory : int, str or None
        Bytes of X that may be in memory at a time, see `parse_bytes`; None is `MEMORY`. One block of rows may be in any
        case. A sequential source is visited by one thread where two lanes of it, each 1/64 of X or less, do not fit.
    whom : str
        Who complains of negative values.
    """

    in_memory = False

    def __init__(
        self, X: Source, dtype: Any, n_jobs: int | None = None, memory: int | str | None = None, whom: str = "NMF"
    ):
        super().__init__(X, dtype, n_jobs)
        self.memory = parse_bytes(memory or MEMORY)
        self.whom = whom
        self._held: dict[int, Array] = {}  # by their first row: blocks that are being visited
        self._buffers: list[Array] = []  # kept between passes

    @property
    def T(self) -> Rows:
        """Raise: columns cannot be read."""
        msg = "X is not in memory and its columns cannot be solved for: give H, or W and H, for init='custom'."
        raise ValueError(msg)

    def take(self, rows: Array, n_jobs: int | None) -> Rows:
        """Return a copy of some rows (increasing numbers), in memory."""
        return Rows(self.X.take(rows), self.dtype, n_jobs)

    def held(self, lo: int, hi: int) -> Array:
        """Rows lo … hi as an array, while they are visited."""
        return self._held[lo]

    def _cut(self, lo: int, hi: int, height: int) -> int:
        """Rows lo … hi as a plan has them: the height of their tiles."""
        return height

    def visit_all(self, visit: Callable[[int, int, int, Any], None], width: int) -> None:
        """visit(lane, first row, last row, block) for every block, lanes side by side, a lane's blocks in order."""
        lanes, m = self.plan(width).lanes, self.shape[1]
        size = max(hi - lo for lane in lanes for lo, hi, _ in lane) * m
        self._buffers = [buffer for buffer in self._buffers if len(buffer) >= size]
        slots = max(1, self.memory // max(1, size * self.X.dtype.itemsize))
        threads = min(self.threads, len(lanes))
        _Pass(self, visit, lanes, threads, slots, size).run()

    def _look(self, lo: int, hi: int, block: Any) -> Array:
        """[min, non-finite values, Σx, Σx²] of a block; raise at once if some are not allowed."""
        seen = super()._look(lo, hi, block)
        if seen[1]:
            self._complain(lo, lambda rows: ~np.isfinite(rows.astype(self.dtype)))
        if seen[0] < 0:
            self._complain(lo, lambda rows: rows < 0)
        return seen

    def _complain(self, lo: int, wrong: Callable[[Array], Array]) -> NoReturn:
        """Name the first place in a block where a number is wrong."""
        X = self._held[lo]
        for first in range(0, len(X), 256):
            with np.errstate(over="ignore"):
                found = np.argwhere(wrong(X[first : first + 256]))
            if len(found):
                row, column = found[0]
                value = X[first + row, column]
                where = f"row {lo + first + row:,}, column {column:,}"
                if value < 0 and np.isfinite(value):
                    msg = f"Negative values in data passed to {self.whom}: X holds {value} in {where}"
                elif np.isnan(value):
                    msg = f"Input X contains NaN: {where}"
                else:
                    msg = f"Input X contains infinity or a value too large for {self.dtype!r}: {value} in {where}"
                raise ValueError(msg)
        raise AssertionError("a block changed while it was looked at")


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
        self.left = sum(len(lane) for lane in lanes)  # blocks that nobody has begun to visit
        self.made = len(rows._buffers)
        self.reading = True
        self.stop = False
        self.failures: list[BaseException] = []

    def order(self) -> Iterator[tuple[int, int, int, int]]:
        """Lane, first row, last row, tile height of the blocks, in the order to read them in.

        Of a sequential source by rows; else as many lanes take turns as there are threads to visit them.
        """
        side_by_side = 1 if self.rows.X.sequential else self.threads
        for first in range(0, len(self.lanes), side_by_side):
            group = range(first, min(first + side_by_side, len(self.lanes)))
            for turn in range(max(len(self.lanes[lane]) for lane in group)):
                for lane in group:
                    if turn < len(self.lanes[lane]):
                        yield (lane, *self.lanes[lane][turn])

    def run(self) -> None:
        """Visit everything, or raise the first failure once nothing is under way any more."""
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
            reader.start()
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
        if self.failures:
            raise self.failures[0]

    def _end(self, *failures: BaseException) -> None:
        with self.change:
            self.failures += failures
            self.stop = True
            self.change.notify_all()

    def _buffer(self) -> Array:
        """Return a buffer that is free, or a new one."""
        if self.rows._buffers:
            return self.rows._buffers.pop()
        self.made += 1
        return np.empty(self.size, self.rows.X.dtype)

    def _fill(self, read: Read, lo: int, hi: int, buffer: Array) -> None:
        m = self.rows.shape[1]
        self.rows.X.read(read, lo, hi, buffer[: (hi - lo) * m].reshape(hi - lo, m))

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
        """Wait for a block that can be visited → its lane; None: there is no more to do here."""
        while not self.stop and self.left:
            for lane, blocks in enumerate(self.ready):
                if blocks and lane not in self.busy:
                    return lane
            self.change.wait(1.0)  # Windows delivers Ctrl-C between waits only
        return None

    def _visit(self, lane: int, lo: int, hi: int, height: int, buffer: Array) -> None:
        rows, m = self.rows, self.rows.shape[1]
        X = buffer[: (hi - lo) * m].reshape(hi - lo, m)
        rows._held[lo] = X
        try:
            self.visit(lane, lo, hi, rows.backend.cut(X, (0, hi - lo), height))
        finally:
            del rows._held[lo]


# ---- row-aligned buffers in files --------------------------------------------------------------------------------


class Folder:
    """Makes arrays that lie in files without a name, so that the kernel may write them out instead of running short.

    Parameters
    ----------
    path : path-like
        A folder on the disk that has room for them.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return zeros in a new file, which goes when the array goes."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not size:
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(dir=self.path, prefix=".nmfcore-") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a signal in the middle of a pass
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError as error:  # some file systems cannot
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise
            return np.memmap(file, dtype, "w+", shape=shape).view(np.ndarray)

    def kept(self, A: Array) -> Array:
        """Return A if it lies in such a file already, else a copy that does."""
        base: Any = A
        while isinstance(base, np.ndarray):
            if isinstance(base, np.memmap):
                return A
            base = base.base
        out = self.zeros(A.shape, A.dtype)
        out[:] = A
        return out

    def empty_like(self, A: Array) -> Array:
        """Return an array of A's shape and type in a new file."""
        return self.zeros(A.shape, A.dtype)
