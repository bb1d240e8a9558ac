"""What every solver hands to the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..rows.state import RowState

Array = NDArray[Any]


class Solver:
    """What the loop asks of every solver beside the functions in the package's docstring."""

    sums: dict[str, tuple[int, ...]]
    shuffle: Any

    def rows(self, W: Array) -> dict[str, Array]:
        """Row-aligned buffers that travel with W (the loop's own copy); "before" is the W of the pass before."""
        return {"W": W}

    def best(self, state: RowState, small: Any) -> tuple[float, Array, Array] | None:
        """Objective, W and Ht of an earlier pair that may be better than the last one; None: there is none."""
        return None

    def memory(self) -> dict[str, Any]:
        """Return what changes from pass to pass beside the rows and the small factor."""
        shuffle = getattr(self, "shuffle", None)
        return {"sums": self.sums, "shuffle": None if shuffle is None else shuffle.get_state(legacy=False)}

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on from what `memory` gave, after `start`."""
        self.sums = memory["sums"]
        if memory["shuffle"] is not None:
            self.shuffle = np.random.RandomState()  # not the caller's, who may use his elsewhere
            self.shuffle.set_state(memory["shuffle"])


@dataclass(slots=True)
class Orders:
    """k-sized instructions for one pass, and the small factor it works with."""

    Ht: Array  # m × k, compute type
    HHt: Array  # k × k, float64 (β = 2)
    order: Array | None = None  # of the components in a sweep
    measure: bool = False  # also measure the loss of the incoming pair

    @property
    def width(self) -> int:
        return self.Ht.shape[1]


@dataclass(slots=True)
class Small:
    """The small factor and its Gram."""

    Ht: Array
    HHt: Array
    passes: int = 0


@dataclass(slots=True)
class Report:
    """What a pass tells the loop."""

    loss: float = np.nan  # penalised objective at the new pair
    loss_before: float = np.nan  # the same at the incoming pair, where the pass measured it
    start_loss: float = np.nan  # the same at the very first pair, where the first pass measured it
    violation: float = np.nan
    kkt: float = np.nan
    error: float | None = None  # √(2 D_β) without penalties, at the new pair
    error_before: float | None = None  # at the incoming pair
    accepted: bool = True
    offset: float = 0.0  # what the losses reported before had become too low by, as a measurement shows
    offset_since: int = -1  # in how many accepted passes, little by little; −1: from the beginning
    exhausted: bool = False  # not even a plain step lowers the loss: what is left is rounding
    unfinished: bool = False  # the pass has begun something that may lower the loss yet: no time to stop
