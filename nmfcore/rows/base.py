"""What every X offers to a fit, wherever it lies: blocks of rows, and passes over them."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from .._typing import Array, Block, DType, Matrix, Numbers
from ..backends.operations import Backend
from .state import RowState
from .summary import OPENING_SUMS, Summary, count_not_finite, look_through
from .sums import Named, Shapes

if TYPE_CHECKING:
    from .disk import Folder

# function(backend, block, rows, arguments, after, sums): reads a block of X and its rows of the row-aligned arrays in
# `rows`, writes its rows of those in `after`, adds to `sums`. It does nothing else, so that a pass can be made again.
Function = Callable[[Any, Block, RowState, Any, RowState, Named], None]
# gather(backend, block of Xᵀ, after, arguments, lo, hi, sums): writes rows lo … hi of sums over the rows of X.
Gather = Callable[[Any, Block, RowState, Any, int, int, Named], None]

Made = tuple[RowState, Named]  # what a pass returns: the arrays that it wrote, and its sums


class Pass(NamedTuple):
    """A pass over X that is still to be made: the arguments of `Rows.each_block`."""

    function: Function
    rows: RowState | Mapping[str, Array]
    arguments: object
    width: int
    sums: Shapes
    out: Mapping[str, int] | None = None
    gather: Gather | None = None
    gathered: tuple[str, ...] = ()
    verify: bool = False


class _Wide(Protocol):
    """The orders of a solver, of which only the width is read here."""

    @property
    def width(self) -> int:
        """Number of columns of the factors."""


LOOK_WIDTH = 8  # the columns by which X is cut for a pass that uses no factor


class Rows(ABC):
    """X as blocks of rows.

    A fit reads X by `each_block` only, which applies a pure function to every block and combines the sums that it
    makes. How X is cut depends on its shape, the number of components and the types, and sums are combined in a fixed
    order, so results have the same bits for any number of threads.

    Attributes
    ----------
    X : object
        What is read: an array, a CSR matrix, a source on disk, arrays on a device or on a cluster.
    shape : tuple of (int, int)
    dtype : numpy.dtype
        Compute type, float32 or float64.
    given_dtype : numpy.dtype
        Type of the numbers of X as the caller gave it.
    sparse : bool
        Whether X is stored as CSR.
    power : int
        X is read as 4^power·X.
    backend : Backend
        The operations on a block.
    in_memory : bool
        Whether any rows can be had at any time without reading a file or a network.
    local : bool
        Whether row-aligned arrays are arrays of this process.
    threads : int
        Number of threads that visit blocks.
    """

    X: Matrix
    shape: tuple[int, int]
    dtype: np.dtype
    given_dtype: np.dtype
    sparse: bool
    backend: Backend
    n_jobs: int | None
    threads: int
    shares = False  # whether `passes` reads each block once for all of them
    power = 0
    gathers = False  # whether sums over rows are always made from the transpose, where a pass can
    by_rows_only = ""  # why X cannot be read by columns, too, as the end of a sentence; "": it can
    in_memory = True
    local = True
    runs_ahead = False  # whether a pass may be queued before the numbers of the one before it are read
    loaded_from: Callable[[Array], Matrix] | None = None  # makes what X was from row-aligned results
    cut = "of its own"  # what results depend on beside X: how the caller cut X
    folder: Folder | None = None  # where row-aligned arrays lie that are not kept in memory
    _summary: Summary | None = None
    _view: Rows | None = None  # the same X in the unit in which it is best read, see `nmfcore.scale`
    # How entries are missing, which decides on the solver: "filled", some are hidden; "stored", those that a CSR matrix
    # does not store; "summed", the same of one that cannot be read by columns. None: none are.
    masked: str | None = None
    chosen: Array | None = None  # bool: the columns of the X of the caller that these rows have; None: all of them
    row_weights: Array | None = None  # how much each row counts, see `nmfcore.rows.weighted`; None: all as much
    column_weights: Array | None = None  # and each column
    empty_rows = 0  # number of rows of which nothing is observed
    empty_columns: Array  # bool, of an X with missing entries: the columns of which nothing is observed

    # ---- where X is computed on

    def __enter__(self) -> Rows:
        return self

    def __exit__(  # noqa: B027
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release what the call keeps elsewhere; results that were handed out stay."""

    def at_once(self, rows: int, width: int, most: int) -> int:
        """Return how many fits of samples one thread makes in turn, because a device works on a queue.

        Parameters
        ----------
        rows : int
            Of each sample.
        width : int
            Number of components.
        most : int
            Number of fits.

        Returns
        -------
        count : int
            As many as the device has memory for. 1 on the CPU, where `threads` of them run at the same time.
        """
        return 1

    def apart(self) -> contextlib.AbstractContextManager[object]:
        """Return a context in which what is queued for these rows waits for nothing else, see `set_apart`."""
        return contextlib.nullcontext()

    def set_apart(self) -> None:  # noqa: B027
        """Let a device work on these rows beside others; all of it that is queued then is within `apart`."""

    def rejoin(self) -> None:  # noqa: B027
        """End what `set_apart` began: wait for what is queued for these rows."""

    def turns(self) -> Callable[[object], contextlib.AbstractContextManager[object]]:
        """Return what makes a context for each pass of a fit that is queued ahead, from the state that it writes.

        A pass within it consists of operations of the backend only, up to the numbers that are sent. A device may
        repeat what was queued when the same state was written before, where it would be the same.
        """
        return lambda state: contextlib.nullcontext()

    def free_buffers(self) -> None:  # noqa: B027
        """Free the memory that is kept from one pass to the next, before other parts of X are read."""

    def keep_in(self, checkpoint: object) -> None:  # noqa: B027
        """Record where a fit is kept, for errors that say from where it can be continued."""

    @property
    def given_shape(self) -> tuple[int, int]:
        """The shape of X as the caller gave it, columns that a mask leaves out included."""
        return self.shape if self.chosen is None else (self.shape[0], len(self.chosen))

    @property
    def counts(self) -> tuple[float, float]:
        """How much the rows, and the columns, count together: as many as there are, or sums of weights."""
        return self.shape

    @property
    def given_counts(self) -> tuple[float, float]:
        """The `counts` of the X of the caller, columns that a mask leaves out included."""
        return self.given_shape

    @property
    def unweighted(self) -> Rows:
        """The same X, of which every row and every column counts as much."""
        return self

    @property
    def rooted(self) -> Rows:
        """X times the roots of the weights of its rows and columns, which can be multiplied with; X without weights."""
        return self

    def unrooted(self, U: Array, S: Array, Vt: Array) -> tuple[Array, Array]:
        """Return singular vectors of `rooted` (n × k, and k × m) over these roots."""
        return U, Vt

    def picked(self, H: Array) -> Array:
        """Return the columns of H (k × m) that these rows have; H itself if they have all."""
        return H if self.chosen is None else H[:, self.chosen]

    def spread(self, Ht: Array) -> Array:
        """Return Ht with a row for each column of the X of the caller: zeros for those that a mask leaves out."""
        if self.chosen is None:
            return Ht
        whole = np.zeros((len(self.chosen), Ht.shape[1]), Ht.dtype)
        whole[self.chosen] = Ht
        return whole

    @property
    def state_in_memory(self) -> bool:
        """Whether row-aligned arrays are in the memory of this process."""
        return self.local and self.folder is None

    @property
    def backend_name(self) -> str:
        """Name of the backend, which results depend on."""
        return str(vars(self.backend).get("__name__", "cpu")).rpartition(".")[-1]

    # ---- the primitive

    @abstractmethod
    def each_block(
        self,
        function: Function,
        rows: RowState | Mapping[str, Array],
        arguments: object,
        *,
        width: int,
        sums: Shapes,
        out: Mapping[str, int] | None = None,
        gather: Gather | None = None,
        gathered: tuple[str, ...] = (),
        verify: bool = False,
    ) -> tuple[RowState, Named]:
        """Apply a function to every block of rows: one pass over X.

        Parameters
        ----------
        function : callable
            function(backend, block, rows, arguments, after, sums), pure. On a cluster it runs on the workers, so it is
            a function of a module or a method of an object that can be pickled.
        rows : RowState or mapping of str to ndarray
            Row-aligned arrays, by name; the function gets the rows of its block. Never written.
        arguments : object
            Given to the function as it is: arrays without a row for each row of X, numbers, a solver's orders.
        width : int
            Number of columns of the factors that the function uses, which decides how X is cut.
        sums : dict of str to shape
            Names and shapes of the float64 sums that the function adds to, see `nmfcore.rows.sums`.
        out : mapping of str to int, default=None
            Names and numbers of columns of new row-aligned arrays in the compute type that the function writes. None
            means that it writes the twin of `rows`, as the passes of a fit do; an empty mapping that it writes no rows.
        gather : callable, default=None
            gather(backend, block of Xᵀ, after, arguments, lo, hi, sums) makes rows lo … hi of the sums `gathered` from
            the transposed matrix. It is used where an accumulator for each lane would outweigh a sparse X.
        gathered : tuple of str, default=()
            Names of the sums that `gather` makes, of m rows each; the function gets them without rows then.
        verify : bool, default=False
            Whether to raise RuntimeError if an X outside of memory has changed since the opening pass.

        Returns
        -------
        after : RowState
            The arrays that were written; with an empty `out`, those that were given.
        sums : dict of str to ndarray of float64
            For ``out=None`` valid until the next such pass.
        """

    def reduce(
        self, visit: Function, state: RowState, orders: _Wide, sums: Shapes, gather: Gather | None = None,
        gathered: tuple[str, ...] = (),
    ) -> tuple[RowState, Named]:  # fmt: skip
        """One pass of a fit: `each_block` from a state to its twin, which the caller commits or drops.

        Parameters
        ----------
        visit : callable
            See `each_block`.
        state : RowState
            The accepted rows. Never written.
        orders : Orders
            k-sized arguments; ``orders.width`` is the number of columns of the factors.
        sums : dict of str to shape
        gather : callable, default=None
        gathered : tuple of str, default=()

        Returns
        -------
        after : RowState
            The twin of the state.
        sums : dict of str to ndarray of float64
            Valid until the next pass.
        """
        return self.each_block(visit, state, orders, width=orders.width, sums=sums, gather=gather, gathered=gathered)

    def pass_over(
        self,
        function: Function,
        rows: RowState | Mapping[str, Array],
        arguments: object,
        *,
        width: int,
        sums: Shapes,
        out: Mapping[str, int] | None = None,
        gather: Gather | None = None,
        gathered: tuple[str, ...] = (),
        verify: bool = False,
    ) -> Pass:
        """Return what `each_block` would do, for `passes` to do it; the arguments are those of `each_block`."""
        return Pass(function, rows, arguments, width, sums, out, gather, gathered, verify)

    def passes(self, wanted: Sequence[Pass]) -> Iterator[Made]:
        """Make several passes over X, and return what each of them would return alone, to the bit.

        Where `shares` is True, each block of X is read once and visited by all of them while it is at hand.

        Parameters
        ----------
        wanted : sequence of Pass
            Of one width, and with row-aligned arrays of their own.

        Returns
        -------
        made : iterator of (RowState, dict of str to ndarray)
            What `each_block` returns, in the order in which the passes are given. The sums are valid until the next
            one is asked for.
        """
        return map(self._made, wanted)

    def _made(self, wanted: Pass) -> Made:
        function, rows, arguments, width, sums, out, gather, gathered, verify = wanted
        return self.each_block(
            function, rows, arguments, width=width, sums=sums, out=out, gather=gather, gathered=gathered, verify=verify
        )

    # ---- passes that stand on it

    def summary(self) -> Summary:
        """Return minimum, finiteness, Σx and Σx², found by one pass (cached). A sparse X's minimum counts its zeros."""
        if self._summary is None:
            n, m = self.shape
            _, sums = self.each_block(self._look, {}, self.dtype, width=LOOK_WIDTH, sums=OPENING_SUMS, out={})
            least, (bad, total, squares) = self.read_sums(sums["least"], sums["rest"])
            minimum = least[0] if not self.sparse or self.entries == n * m else min(least[0], 0.0)
            self._summary = Summary(minimum, not bad, total, squares, total / (n * m))
        return self._summary

    @property
    def _look(self) -> Function:
        return look_through

    def not_finite(self) -> tuple[bool, bool]:
        """Return whether X holds NaN, and whether it holds an infinite number, found by one pass."""
        shapes: Shapes = {"nan": (1,), "infinite": (1,)}
        _, sums = self.each_block(count_not_finite, {}, None, width=LOOK_WIDTH, sums=shapes, out={})
        (nan,), (infinite,) = self.read_sums(sums["nan"], sums["infinite"])
        return nan > 0, infinite > 0

    def read_sums(self, *sums: Array) -> Numbers:
        """Return sums as lists of Python's numbers; those on a device in one transfer."""
        return list(self.backend.read(*sums))

    def products(self, Ht: Array) -> Array:
        """Return X·Ht of shape (n, k), in the compute type; Ht C-contiguous of shape (m, k)."""
        k = Ht.shape[1]
        after, _ = self.each_block(_multiply, {}, self.backend.asarray(Ht), width=k, sums={}, out={"XHt": k})
        return after["XHt"]

    def transposed_products(self, F: Array) -> Array:
        """Return Xᵀ·F of shape (m, k), float64; F C-contiguous of shape (n, k)."""
        m, k = self.shape[1], F.shape[1]
        gathered = {"gather": _gather_products, "gathered": ("XtF",)} if self.sparse else {}
        _, sums = self.each_block(
            add_products, {"F": F}, None, width=k, sums={"XtF": (m, k)}, out={}, **gathered  # type: ignore[arg-type]
        )  # fmt: skip
        return sums["XtF"]

    def gram(self) -> Array:
        """Return XᵀX of shape (m, m), float64, of dense X; exact for integers of 8 bits."""
        m = self.shape[1]
        _, sums = self.each_block(_add_gram, {}, self.dtype, width=m, sums={"XtX": (m, m)}, out={})
        return sums["XtX"]

    def gram_of_rows(self, W: Array) -> Array:
        """Return WᵀW of a row-aligned W, float64, in which rows count as often as those of X do."""
        return self.backend.gram(W)

    def sums_of_rows(self, W: Array) -> Array:
        """Return ΣW by column, float64, in which rows count as often as those of X do."""
        return W.sum(axis=0, dtype=np.float64)

    def gram_of_columns(self, Ht: Array) -> Array:
        """Return HHᵀ of Ht (m × k), float64, in which its rows count as often as the columns of X do."""
        return self.backend.gram(Ht)

    def weighted_columns(self, F: Array) -> Array:
        """Return F (m × k) times the weights of the columns of X; F itself where they have none."""
        return F

    # ---- row-aligned arrays

    @abstractmethod
    def state(self, **arrays: Array) -> RowState:
        """Return row-aligned arrays as a state that passes go through."""

    @abstractmethod
    def new_rows(self, width: int) -> Array:
        """Return zeros of shape (n, width) in the compute type, where row-aligned arrays are kept."""

    @abstractmethod
    def copied(self, W: Array) -> Array:
        """Return a copy of W, where row-aligned arrays are kept."""

    @abstractmethod
    def rows_like(self, F: Array) -> Rows:
        """Return a row-aligned or small dense matrix as rows, for products with it."""

    # Row-aligned arrays of a start, which are made on the host where X is local.

    def mapped(self, function: Callable[..., Array], F: Array, *arguments: object, width: int) -> Array:
        """Return function(rows of F, *arguments), which has `width` columns, for all rows of a row-aligned F."""
        return function(F, *arguments)

    def summed(self, function: Callable[..., Array], F: Array, *arguments: object) -> Array:
        """Return the sum of function(rows of F, *arguments) over parts of a row-aligned F."""
        return function(F, *arguments)

    def drawn(
        self, function: Callable[..., Array], rng: np.random.RandomState, *arguments: object, width: int,
        given: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return function(rng, rows, *arguments), drawn for some rows after others from one generator.

        Parameters
        ----------
        function : callable
            Returns an array of `width` columns; `rows` is how many rows it has, or the rows of `given`.
        rng : RandomState
            Left as if it had drawn all rows at once.
        *arguments : object
        width : int
        given : ndarray of shape (n, width), default=None

        Returns
        -------
        F : ndarray of shape (n, width)
        """
        n, step = self.shape[0], max(1, (1 << 17) // width)  # the generator makes numbers in float64
        out = np.empty((n, width), self.dtype) if self.folder is None else self.new_rows(width)
        for lo in range(0, n, step):
            hi = min(lo + step, n)
            out[lo:hi] = function(rng, hi - lo if given is None else given[lo:hi], *arguments)
        return out

    def rearranged(self, W: Array, order: Array, scales: Array) -> Array:
        """Return W[:, order]·scales in a new row-aligned array; W is not written."""
        n, step = self.shape[0], max(1, (1 << 17) // W.shape[1])
        out = np.empty_like(W) if self.folder is None else self.new_rows(W.shape[1])
        scales = self.backend.asarray(scales)
        for lo in range(0, n, step):
            out[lo : lo + step] = W[lo : lo + step][:, order] * scales
        return out

    @abstractmethod
    def to_caller(self, A: Array) -> Matrix:
        """Return an array of results as the kind of array that X was."""

    def rows_to_caller(self, W: Array) -> Matrix:
        """Return a row-aligned array of results as the kind of array that X was before it was loaded."""
        W = self.to_caller(W)
        return W if self.loaded_from is None else self.loaded_from(W)

    # ---- X in other forms

    @property
    @abstractmethod
    def entries(self) -> int:
        """Number of stored numbers of X: n·m, of a sparse X fewer."""

    @abstractmethod
    def scaled(self, power: int, dtype: DType = None) -> Rows:
        """Return the same X read as 4^power·X, and in another compute type if one is given.

        The two are never visited at the same time. An exact power of two is multiplied where a number is read.
        """

    @abstractmethod
    def take(self, rows: Array, n_jobs: int | None) -> Rows:
        """Return a copy of some rows (increasing numbers), in memory or on the device."""

    @property
    @abstractmethod
    def T(self) -> Rows:
        """Xᵀ as rows."""

    @abstractmethod
    def digest(self) -> str:
        """Return a digest of all stored numbers at their places, "" where there is none."""

    def by_columns(self) -> Rows:
        """Return the same X for passes that read it by rows and by columns; where it cannot be, see `by_rows_only`."""
        raise NotImplementedError(self.by_rows_only)

    def check_loss(self, beta: float) -> None:  # noqa: B027
        """Raise ValueError if the backend has no kernels for this X and β."""

    # ---- the small factor

    @abstractmethod
    def map_rows(
        self, visit: Callable[..., None], rows: int, work: float, shapes: tuple[tuple[int, ...], ...]
    ) -> list[Array]:
        """Apply visit(lo, hi, *sums) to tiles of a small factor's rows, and return the sums added up.

        Parameters
        ----------
        visit : callable
        rows : int
            Number of rows of the factor.
        work : float
            Flops, which decide into how many tiles the rows are cut.
        shapes : tuple of shapes
            Of the sums, float64.

        Returns
        -------
        sums : list of ndarray
        """


def _multiply(backend: Backend, block: object, rows: RowState, Ht: Array, after: RowState, sums: Named) -> None:
    backend.products(block, Ht, after["XHt"])


def add_products(
    backend: Backend, block: object, rows: RowState, arguments: None, after: RowState, sums: Named
) -> None:
    """Add Xᵀ·F of a block to the sum "XtF", unless that is gathered."""
    if len(sums["XtF"]):
        backend.add_products(block, rows["F"], sums["XtF"])


def _gather_products(
    backend: Backend, block: object, after: RowState, arguments: None, lo: int, hi: int, sums: Named
) -> None:
    backend.products(block, after["F"], sums["XtF"][lo:hi])


def _add_gram(backend: Backend, block: object, rows: RowState, dtype: np.dtype, after: RowState, sums: Named) -> None:
    backend.add_gram(block, dtype, sums["XtX"])
