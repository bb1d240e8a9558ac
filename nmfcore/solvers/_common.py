"""What a solver is, and what it exchanges with the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .._typing import Array
from ..objective import Penalties
from ._fixed import Fixed

if TYPE_CHECKING:
    from typing import TypedDict

    from .._typing import Block, Numbers
    from ..backends.operations import Backend
    from ..rows.base import Rows
    from ..rows.state import RowState

    class Memory(TypedDict):
        """What changes in a solver from pass to pass beside the rows and the small factor."""

        sums: Shapes
        shuffle: dict[str, object] | None  # state of the generator


Shapes = dict[str, tuple[int, ...]]
Sums = dict[str, Array]


@dataclass(slots=True)
class Orders:
    """k-sized instructions for one pass, and the small factor it works with."""

    Ht: Array  # m × k, compute type
    HHt: Array  # k × k, float64 (β = 2)
    order: Array | None = None  # of the components in a sweep
    measure: bool = False  # also measure the loss of the incoming pair

    @property
    def width(self) -> int:
        """Number of components."""
        return self.Ht.shape[1]


@dataclass(slots=True)
class Small:
    """The small factor and its Gram."""

    Ht: Array
    HHt: Array
    passes: int = 0


class Incoming(NamedTuple):
    """The objective at the pair that a pass began with, as the pass measured it."""

    loss: float  # penalised
    error: float | None = None  # √(2 D_β) without penalties


class Correction(NamedTuple):
    """What a direct measurement adds to losses that were summed up from the steps."""

    offset: float  # of the loss of the last accepted pair
    since: int  # number of accepted iterations in which it has grown linearly from 0; −1: all of them have all of it


@dataclass(slots=True)
class Report:
    """The report of a pass, from the solver to the loop."""

    loss: float = np.nan  # penalised objective at the new pair; of a rejected pass, at the pair that is dropped
    violation: float = np.nan
    kkt: float = np.nan
    error: float | None = None  # √(2 D_β) without penalties at the new pair
    incoming: Incoming | None = None  # None: not measured
    correction: Correction | None = None
    accepted: bool = True
    exhausted: bool = False  # not even a plain step lowers the loss: what is left is rounding
    unfinished: bool = False  # components are being revived, which may lower the loss: no time to stop

    @property
    def offset(self) -> float:
        """Offset of the correction, 0 if there is none."""
        return 0.0 if self.correction is None else self.correction.offset


@dataclass(slots=True)
class Foreseen:
    """What follows a pass if it goes as most do, queued before any number of the pass is read."""

    following: Small  # what the next pass begins with
    numbers: Callable[[], Numbers]  # the numbers that tell how the pass has gone; this waits for them
    holds: bool = False  # whether it has gone as foreseen, and `following` gives the orders that it gave before


class Gather(NamedTuple):
    """Sums over rows that are made from the transposed matrix, where X is very sparse."""

    visit: Callable[..., None] | None  # visit(backend, block of Xᵀ, after, orders, lo, hi, sums); None: cannot be done
    names: tuple[str, ...]  # of the sums it makes, of m rows each


class Solver(ABC):
    """A solver is settings and a handful of functions that the loop calls; see the docstring of `nmfcore.solvers`.

    Attributes
    ----------
    rule : str
        Name of the stop rule in `nmfcore.loop.stopping.RULES`.
    beta : float
        β of the loss.
    penalties : Penalties
        Scaled with the shape of X.
    penalised : bool
        Whether any penalty is positive.
    sums : dict of str to tuple of int
        Names and shapes of the sums over rows that the next pass makes; set by `start`.
    gather : Gather
        The second half of `visit` for sums over the columns of a very sparse X.
    shuffle : numpy.random.RandomState or None
        Draws the order of the components in each sweep; None is the natural order.
    fixed : Fixed or None
        Which columns of Ht `update_columns` leaves as they are; None is none of them.
    column_weights : ndarray of shape (m,), float64, or None
        How much each column of X counts in the loss; None is all as much. Set by `start`. The step of a column of H
        does not depend on it, but all that is summed over the columns does.
    by_columns : bool
        Whether a pass solves for columns of H from columns of X, see `nmfcore.rows.base.Rows.by_columns`.
    measures_start : bool
        Whether the stop rule needs √(2 D_β) of the start before the first pass.
    """

    rule: ClassVar[str]
    beta: float
    penalties: Penalties
    penalised: bool
    sums: Shapes
    gather: Gather
    shuffle: np.random.RandomState | None = None
    fixed: Fixed | None = None
    by_columns: ClassVar[bool] = False
    measures_start: bool = False
    column_weights: Array | None = None

    def weighted(self, F: Array) -> Array:
        """Return F (m × k) times the weights of the columns of X; F itself where they have none."""
        return F if self.column_weights is None else F * self.column_weights.astype(F.dtype)[:, None]

    def gram(self, backend: Backend, Ht: Array) -> Array:
        """Return HHᵀ, in which the columns of X count as often as they do in the loss."""
        return backend.gram(Ht) if self.column_weights is None else backend.gram(self.weighted(Ht), Ht)

    def weights_of(self, lo: int, hi: int) -> dict[str, Any]:
        """Return the weights of columns lo … hi of X as an argument for a step of Ht; none where they have none."""
        return {} if self.column_weights is None else {"weights": self.column_weights[lo:hi]}

    @abstractmethod
    def start(self, data: Rows, Ht: Array) -> Small:
        """Return the small factor with which a fit of `data` starts, and set `sums`."""

    def rows(self, W: Array) -> dict[str, Array]:
        """Return the row-aligned buffers: W, which belongs to the loop, and what travels with it.

        A buffer named "before" holds the W of the pass before.
        """
        return {"W": W}

    @abstractmethod
    def fix(self, small: Small) -> Orders:
        """Return the instructions of the next pass."""

    @abstractmethod
    def visit(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Write the new rows of one block into `after`, and add to the sums; nothing else is written."""

    def continues(self, small: Small) -> bool:
        """Whether the pass that begins with `small` belongs to the iteration of the pass before it.

        An iteration has one entry in the history, and stop rules and callbacks see what its last pass has led to.
        """
        return False

    def shapes(self, small: Small) -> Shapes:
        """Return names and shapes of the sums of the pass that begins with `small`."""
        return self.sums

    def foresee(self, small: Small, sums: Sums, data: Rows) -> Foreseen | None:
        """Queue what follows a pass if it goes as most do; None where nothing is queued, or more may follow.

        A device goes on while the host waits for the numbers, and works on the next pass meanwhile. If the pass has
        gone another way, or the fit is over, that one is dropped.
        """
        return None

    def repeats(self, small: Small) -> bool:
        """Return whether a pass, with what is foreseen after it, is a sequence of operations of the backend only.

        Such a pass is like others to come but for what its arrays hold, so that a device may repeat it. Arrays that it
        leads to are made by `Backend.empty`.
        """
        return False

    def settle(self, small: Small, sums: Sums, data: Rows, foreseen: Foreseen) -> tuple[Report, Small]:
        """Wait for the numbers of a pass, and return what `update_columns` does."""
        raise NotImplementedError

    @abstractmethod
    def update_columns(self, small: Small, sums: Sums, data: Rows) -> tuple[Report, Small]:
        """Return the report of a pass, and the small factor that the next pass begins with."""

    def best(self, state: RowState, small: Small) -> tuple[float, Array, Array] | None:
        """Return objective, W and Ht of an earlier pair that may be better than the last one; None if there is none."""
        return None

    def closing(self, small: Small) -> Orders | None:
        """Return the instructions of a last pass that makes rows of W with `close`; None: W is that of the last pass.

        It is for a solver whose passes leave W farther from its best for the H that it ends with than others do.
        """
        return None

    def close(
        self, backend: Backend, block: Block, rows: RowState, orders: Orders, after: RowState, sums: Sums
    ) -> None:
        """Write the last rows of one block into `after`, none of them worse, and add D_β(X | WH) to sums["D"]."""
        raise NotImplementedError

    def resting(self, small: Small) -> Small:
        """Return what a pass begins with that starts from the accepted pair as it is, without momentum.

        After `close`, its report says how far the pair is from a stationary point.
        """
        return small

    @abstractmethod
    def code(
        self, backend: Backend, block: Block, orders: Orders, tol: float, max_iter: int, by_step: bool,
        out: Array, stats: Array,
    ) -> None:  # fmt: skip
        """Solve for the rows of a block with H fixed, each of them alone, and write them to `out`."""

    def memory(self) -> Memory:
        """Return what changes from pass to pass beside the rows and the small factor, for a checkpoint."""
        state = None if self.shuffle is None else self.shuffle.get_state(legacy=False)
        return {"sums": self.sums, "shuffle": state}

    def restore(self, memory: Memory) -> None:
        """Go on from what `memory` returned; called after `start`."""
        self.sums = memory["sums"]
        if memory["shuffle"] is not None:
            self.shuffle = np.random.RandomState()  # not the caller's, which may be in use elsewhere
            self.shuffle.set_state(memory["shuffle"])
