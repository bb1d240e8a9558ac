"""The unit in which a fit reads X. NMF of c·X is c times NMF of X; a good unit keeps all numbers in range.

An X whose root mean square is far from 1 is read as 4^p·X (`Rows.scaled`), and its factors are 2^p·W and 2^p·H:
exact powers of two, that are taken out again where results leave the fit. An X of ordinary scale is read as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ._typing import Array, DType
from .objective import Penalties

if TYPE_CHECKING:
    from typing import Protocol

    from .rows.base import Rows

    class Rescalable(Protocol):
        """What `watched` needs of a `Progress`."""

        def rescale(self, power: int, beta: float) -> None:
            """Bring the numbers of a fit of 4^power·X into the unit of X."""

    P = TypeVar("P", bound=Rescalable)

Numbers = TypeVar("Numbers")  # an array, or a number

# Powers of two that the root mean square of X may be away from 1 and be read as it is, by the bytes of the compute
# type: products of a few such numbers and their squares stay well within it.
COMFORT = {4: 20, 8: 100}
FLOORED = 8  # and where β < 2: what a loss leaves out of X, and the floor under WH, are absolute numbers
# A larger penalty makes a factor zero whose numbers are about 1; the square of this one is still finite.
_MOST = {4: 1e18, 8: 1e150}


def comfortable(data: Rows, beta: float = 2.0) -> Rows:
    """Return X in the unit in which it is best read: the same rows, or `scaled` ones.

    Parameters
    ----------
    data : Rows
        X, looked through and finite.
    beta : float, default=2.0
        β of the loss of all that is done with these rows.

    Returns
    -------
    view : Rows
        The same X, `power` of it chosen. Kept with `data`.
    """
    if data._view is not None:
        return data._view
    view = _comfortable(data, COMFORT[data.dtype.itemsize] if beta == 2 else FLOORED)
    if view is not data:  # an object that holds itself would stay until the garbage collector runs
        data._view = view
    return view


def _comfortable(data: Rows, reach: int) -> Rows:
    view, power = data, 0
    if not data.summary().total and data.dtype == np.float32 and data.X.dtype == np.float64:
        power = -data.scaled(0, np.float64).summary().level  # may be too small for float32, all of it
        view = data.scaled(power)
    for _ in range(4):  # what is known of the level may be rough until the numbers can be squared
        level = view.summary().level
        if not power and abs(2 * level) <= reach:
            break
        nearer = max(-500, min(500, power - level))
        if nearer == power:
            break
        power = nearer
        view = data.scaled(power)
    return view


def unit_of(view: Rows) -> float:
    """Return the size of a factor's numbers, a power of two: the fourth root of the mean square of X as it is read."""
    return 2.0 ** view.summary().level


def times(A: Numbers, power: int) -> Numbers:
    """Return 2^power·A of an array or number; A itself where the power is 0."""
    made: Any = A
    if not power:  # an np.errstate takes as long as the step of a small factor
        return made
    with np.errstate(all="ignore"):  # a result that no number of its type can be is 0 or infinite
        while power:
            step = max(-100, min(100, power))
            made = made * (made.dtype.type(2.0**step) if hasattr(made, "dtype") else 2.0**step)
            power -= step
    return made


def of_loss(power: int, beta: float) -> int:
    """Return the power of two by which D_β of 4^power·X and of its factors is larger than that of X."""
    return int(2 * beta * power)


def squeezed(penalties: Penalties, power: int, power_H: int, dtype: DType, beta: float = 2.0) -> Penalties:
    """Return the penalties of 4^power·X = W'H' with H' = 2^power_H·H that mean the same as these of X = WH.

    Parameters
    ----------
    penalties : Penalties
    power : int
    power_H : int
    dtype : numpy.dtype
        Compute type.
    beta : float, default=2.0
        β of the loss.

    Returns
    -------
    penalties : Penalties
    """
    power_W, most, loss = 2 * power - power_H, _MOST[np.dtype(dtype).itemsize], of_loss(power, beta)
    powers = (loss - power_W, loss - power_H, loss - 2 * power_W, loss - 2 * power_H)
    return Penalties(*(min(times(float(p), by), most) if by else p for p, by in zip(penalties, powers, strict=True)))


def power_of_H(view: Rows, Ht: Array, free: bool) -> int:
    """Return the power of two by which a given H is multiplied where X is read as `view`.

    Parameters
    ----------
    view : Rows
    Ht : ndarray of shape (m, k)
        Hᵀ, on the host.
    free : bool
        Whether it may be another than that of the view.

    Returns
    -------
    power : int
    """
    exponent, far = math.frexp(float(Ht.max()))[1], COMFORT[view.dtype.itemsize]
    if not free:
        return view.power
    return -exponent if abs(exponent) > far else 0


def within_reach(F: Array | None, power: int, dtype: DType) -> bool:
    """Return whether 2^power times a factor can be squared and added up in the type; True if there is no factor."""
    return F is None or math.frexp(float(np.max(F)))[1] + power <= COMFORT[np.dtype(dtype).itemsize]


def watched(
    callback: Callable[[P], object] | None, power: int, beta: float = 2.0
) -> Callable[[P], object] | None:  # fmt: skip
    """Return a callback whose `Progress` is in the unit of X, of a fit of 4^power·X."""
    if callback is None or power == 0:
        return callback

    def look(progress: P) -> object:
        progress.rescale(power, beta)
        return callback(progress)

    return look


def history(given: dict[str, Array], power: int, beta: float = 2.0) -> dict[str, Array]:
    """Return the history of a fit of 4^power·X in the unit of X."""
    loss = of_loss(power, beta)
    return given | {"loss": times(given["loss"], -loss), "violation": times(given["violation"], power - loss)}


def share_left(view: Rows, W: Array, Ht: Array) -> float:
    """Return ΣWH / ΣX of a pair in the unit of X."""
    with np.errstate(all="ignore"):
        of_W, of_H = view.sums_of_rows(W), view.weighted_columns(Ht).sum(axis=0, dtype=np.float64)
        mass = float((times(of_W, view.power) * times(of_H, view.power)).sum())
        return mass / view.summary().total
