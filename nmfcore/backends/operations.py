"""The waist between solvers and backends: the operations that every backend has, and what they share.

A solver is handed a backend, a module that has the operations of `Backend`. They are the only ones that differ between
backends; everything else is array code written once against the backend's `xp`.

Each operation on X takes a block, rows of X where they lie and in their storage type, and the rows of F that belong to
it. Results go to given outputs, and sums are added to the given ones.

Shapes: X n × m (a block r × m), F r × k, Ht m × k, G k × k. Sums over rows (XtF m × k, FtF k × k, stats) are float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from .._typing import Array

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from .._typing import Block, DType, Matrix, Numbers

# Entries of the sums `stats` of a pass:
VIOLATION = 0  # of the first sweep, Σ |projected gradient|; of multiplicative updates for β ≠ 2, Σ |f·∇|
KKT = 1  # of the first sweep, Σ G_tt·Δ²; of multiplicative updates for β ≠ 2, Σ f·N
SWEEPS = 2  # sweeps or iterations of the row that took the most of them (a maximum, not a sum)
UNSETTLED = 3  # rows that had not settled at the last sweep or iteration
TOTAL = 4  # sum of the new F
CROSS = 5  # ⟨C, F⟩ of a step of the small factor; with a `Beginning`, ⟨X·Ht − l1, D⟩
SQUARE = 6  # ⟨G, FtF⟩ of a step of the small factor
STATS = 7  # how many these are; updates for β ≠ 2 add 2k sums: by column Σ f, and Σ max(0, −∇) over f = 0


class StoredType(NamedTuple):
    """How the kernels name a type that X may be stored in."""

    code: int  # on the CPU
    in_cuda: str | None  # in CUDA's C; None: the CUDA kernels do not read it


# The types that kernels read where they lie. X of any other type is converted to the first of them, as scikit-learn
# does, and the order of the others is of no account.
STORED_TYPES: dict[np.dtype, StoredType] = {
    np.dtype("float64"): StoredType(10, "double"),
    np.dtype("float32"): StoredType(9, "float"),
    np.dtype("float16"): StoredType(8, "unsigned short"),
    np.dtype("uint8"): StoredType(0, "unsigned char"),
    np.dtype("bool"): StoredType(0, None),
    np.dtype("int8"): StoredType(1, None),
    np.dtype("uint16"): StoredType(2, "unsigned short"),
    np.dtype("int16"): StoredType(3, None),
    np.dtype("uint32"): StoredType(4, None),
    np.dtype("int32"): StoredType(5, None),
    np.dtype("uint64"): StoredType(6, None),
    np.dtype("int64"): StoredType(7, None),
}


class Beginning(NamedTuple):
    """Where the sweeps of a pass begin: max(0, B + weight·(B − before·scale)), B = F·scale.

    The step D = out − B is measured: stats[CROSS] += ⟨X·Ht − l1, D⟩.
    """

    before: Array  # r × k: the rows before F
    scale: Array  # k numbers for F and k for `before`, compute type; of no entries: the sweeps begin at F
    weight: float | Array  # or what `Ahead.pace` was, whose β it is
    FtD: Array  # 2k × k: += outᵀ·D above, += Dᵀ·D below
    conjugate: int = 0  # conjugate gradient steps at most, after every fourth sweep, for rows that still move


_Beginning: TypeAlias = Beginning


class Weighed(NamedTuple):
    """What the step of the small factor needs of the rows W."""

    XtW: Array  # m × k
    WtW: Array  # k × k
    WtD: Array | None = None  # 2k × k: [WᵀD; DᵀD] of the step D that led to W


_Weighed: TypeAlias = Weighed


class Pace(NamedTuple):
    """How far both factors are extrapolated by a step of the small one, and how this grows.

    After an accepted pass β is this weight, the weight min(cap, grow·weight), and the cap min(1, cap_grow·cap).
    """

    weight: float  # of the step
    beta: float  # of the rows Z that it is made for
    cap: float = 1.0
    grow: float = 1.0
    cap_grow: float = 1.0


_Pace: TypeAlias = Pace


Number: TypeAlias = Any  # of float64; on a device a 0-d array, which `read` brings to the host


class Ahead(NamedTuple):
    """What a step of the small factor, and its extrapolation P, have led to."""

    step: Array  # the new Ht, not extrapolated
    Ht: Array  # P
    HHt: Array  # PᵀP
    stats: Array  # those of the sweeps; CROSS and SQUARE are not those of `sweep`
    change: tuple[Number, Number]  # ⟨XtW, P − Ht⟩ and ⟨(P + Ht)ᵀ(P − Ht), WtW⟩ for the Ht that the sweeps began at
    squares: tuple[Array, Array]  # of the columns of W and of P: the diagonals of their Gram matrices
    pace: Array | None = None  # on a device: where the pace of this step lies, out of which that of the next one grows


def largest(losses: Array, worst: Array) -> Array:
    """Return the rows whose losses may be among the worst, the largest first: no more than there are places."""
    rows = np.flatnonzero(losses > worst[-1, 0])
    return rows[np.argsort(-losses[rows], kind="stable")][: len(worst)]


def merge_worst(a: Array, b: Array, places: int | None = None) -> Array:
    """Return the worst rows of two tables of `worst_rows`, as many as a has; of equals those of a come first."""
    both = np.concatenate([a, b])
    return both[np.argsort(-both[:, 0], kind="stable")][: len(a) if places is None else places]


class Backend(Protocol):
    """The operations of a backend, which is a module: `cpu` or `cuda_ops`."""

    xp: ModuleType  # numpy or cupy
    VIOLATION: int
    KKT: int
    SWEEPS: int
    UNSETTLED: int
    TOTAL: int
    CROSS: int
    SQUARE: int
    STATS: int
    QUEUES: bool  # whether operations are queued, so that reading a number waits for all of them
    Beginning: type[_Beginning]
    Weighed: type[_Weighed]
    Pace: type[_Pace]

    def asarray(self, F: Array) -> Array:
        """Return F where the backend computes, C-contiguous and writable."""

    def empty(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Return an uninitialised array, which what a pass leads to is written to."""

    def to_numpy(self, A: Array) -> Array:
        """Return A in host memory; on a device this waits for what is queued."""

    def read(self, *arrays: Array | np.generic) -> Numbers:
        """Return the numbers of arrays as Python lists (of 0-d arrays: numbers), from a device in one transfer."""

    def send(self, *arrays: Array | np.generic) -> Callable[[], Numbers]:
        """Return a function that returns what `read` does, and waits only for what was queued before this call."""

    def stored_as_is(self, dtype: np.dtype) -> bool:
        """Return whether the kernels read numbers of this type where they lie."""

    def cut(self, X: Matrix, rows: tuple[int, int], height: int) -> Block:
        """Return the block of rows lo … hi of X, which kernels read in tiles of `height` rows."""

    def opening(self, block: Block, dtype: np.dtype) -> Array:
        """Return [minimum, count of non-finite values, Σx, Σx²] of the stored numbers of a block, in float64."""

    def products(self, block: Block, Ht: Array, out: Array) -> None:
        """Write X·Ht to out (r × k)."""

    def add_products(self, block: Block, F: Array, XtF: Array) -> None:
        """Add Xᵀ·F to XtF."""

    def numbers(self, block: Block) -> Array:
        """Return the stored numbers of a block: r × m, of CSR rows one after another."""

    def add_gram(self, block: Block, dtype: np.dtype, XtX: Array) -> None:
        """Add XᵀX of a dense block to XtX (m × m, float64)."""

    def inner(self, A: Array, B: Array) -> Number:
        """Return ⟨A, B⟩."""

    def changes(self, WtD: Array, G: Array) -> tuple[Number, Number]:
        """Return ⟨WᵀD − ½DᵀD, G⟩ and ⟨DᵀD, G⟩ for WtD = [WᵀD; DᵀD]."""

    def weighted(self, block: Block, F: Array, by_column: bool = False) -> Array:
        """Return F as it counts in sums: F itself, unless the block carries weights of the rows of X.

        F has a row for each row of the block, or with `by_column`, for each of its columns.
        """

    def column_sums(self, F: Array) -> Array:
        """Return Σ_i F[i, :] in float64."""

    def kept(self, sums: Array) -> Array:
        """Return sums of a pass that the next pass leaves as they are; a copy where passes share memory."""

    def gram(self, F: Array, B: Array | None = None) -> Array:
        """Return FᵀF, or FᵀB for a B of the same shape and type (k × k), in float64."""

    def descend(
        self,
        block: Block,
        F: Array,
        Ht: Array,
        G: Array,
        l1: float,
        l2: float,
        order: Array,
        sweeps: int,
        tol: float,
        out: Array,
        XtF: Array,
        FtF: Array,
        stats: Array,
        delta: float = 0.0,
        begin: _Beginning | None = None,
    ) -> None:
        """Write F after up to `sweeps` sweeps of coordinate descent on (X·Ht, G) to out, and add up the sums.

        G is HtᵀHt. XtF += Xᵀ·out and FtF += outᵀ·out; those of no rows are left out. Components are visited in the
        given order. A row rests once its violation is at most tol × that of its first sweep; with `delta` > 0, once
        its step is below delta × its first one. `begin` moves the point at which the sweeps begin.
        """

    def sweep(
        self,
        F: Array,
        G: Array,
        C: Array,
        l1: float,
        l2: float,
        order: Array,
        out: Array,
        FtF: Array,
        stats: Array,
        sweeps: int = 1,
        delta: float = 0.0,
        conjugate: int = 0,
    ) -> None:
        """Write F after sweeps of coordinate descent on given (C, G) to out: the step of the small factor.

        C (r × k) is float64. FtF (zeros) becomes outᵀ·out; stats[CROSS] and stats[SQUARE] are what the loss needs.
        """

    def step_ahead(
        self, Ht: Array, before: Array, pace: _Pace | Array, sums: _Weighed, earlier: _Weighed, l1: float, l2: float,
        order: Array, sweeps: int, delta: float, conjugate: int,
    ) -> Ahead:  # fmt: skip
        """Step over the small factor from Ht, and extrapolate the result, all at once.

        The sweeps solve for the sums of Z = W + β(W − V), of which `sums` are those of W and `earlier` those of V:
        XᵀZ = (1 + β)XᵀW − β·XᵀV and ZᵀZ = (1 + β)WᵀW − β·VᵀV + β(1 + β)DᵀD. P = max(0, step + weight·(step − before)).
        `pace` says weight and β; or it is that of the step before (`Ahead.pace`), after which they have grown.
        """

    def multiply(
        self,
        block: Block,
        F: Array,
        Ht: Array,
        G: Array,
        l1: float,
        l2: float,
        out: Array,
        XtF: Array,
        FtF: Array,
        stats: Array,
    ) -> None:
        """Write F ⊙ X·Ht / (F·G + l1 + l2·F), the multiplicative update for β = 2, to out; sums as in `descend`."""

    def scale(self, F: Array, G: Array, C: Array, l1: float, l2: float, out: Array, FtF: Array, stats: Array) -> None:
        """Write F ⊙ C / (F·G + l1 + l2·F) to out: the multiplicative step of the small factor; sums as in `sweep`."""

    def multiply_beta(
        self,
        block: Block,
        F: Array,
        Ht: Array,
        beta: float,
        gamma: float,
        l1: float,
        l2: float,
        floor: float,
        update: bool,
        measure: bool,
        out: Array,
        N: Array,
        D: Array,
        stats: Array,
    ) -> Number:
        """Update F multiplicatively for β ≠ 2, add up the sums of the update of Ht, and return the loss.

        out = F ⊙ (N_F / (D_F + l1 + l2·F))^γ, entries below `floor` set to 0; without `update` F stays as it is.
        Then N += (X ⊙ WH^(β−2))ᵀ·F and D += (WH^(β−1))ᵀ·F with the new F (β = 1: D[0] += its column sums); N of no
        rows is left out. The loss is Σ D_β at the given F where `measure` is set, else 0.
        """

    def multiply_given(
        self, F: Array, N: Array, D: Array, l1: float, l2: float, gamma: float, floor: float, out: Array, stats: Array
    ) -> None:
        """Write F ⊙ (N / (D + l1 + l2·F))^γ for given N and D (float64; D of one row serves all) to out."""

    def kl_numerators(self, block: Block, F: Array, Ht: Array, out: Array) -> None:
        """Write (X ⊘ F·Htᵀ)·Ht over the stored numbers of CSR rows to out."""

    def code(
        self,
        block: Block,
        Ht: Array,
        beta: float,
        gamma: float,
        l1: float,
        l2: float,
        floor: float,
        tol: float,
        max_iter: int,
        by_step: bool,
        out: Array,
        stats: Array,
    ) -> None:
        """Write the multiplicative code of each row to out, with H fixed, each row until it has settled.

        A row has settled when √(2·D_β), measured every ten iterations, falls by less than tol × its first value; with
        `by_step`, when ‖Δf‖ ≤ tol·‖f‖.
        """

    def divergence(self, block: Block, F: Array, Ht: Array, beta: float) -> Number:
        """Return Σ D_β(x | f·Htᵀ) over the block, in float64."""

    def worst_rows(self, block: Block, F: Array, Ht: Array, worst: Array) -> None:
        """Enter the rows of a block with the largest losses ½‖x − f·Htᵀ‖² into the table `worst`.

        worst (q × (1 + m), float64) has a line for each of the worst rows so far: its loss, then max(0, x − f·Htᵀ).
        The largest comes first, the lower row of equals before the other; a line with loss 0 is free.
        """

    def squares(self, block: Block, out: Array) -> None:
        """Write ‖x_i‖² of each row to out, in float64."""
