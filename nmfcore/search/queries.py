"""Questions of several pictures: which list is one, where their sum points, and which rows may answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .._text import printable
from .._typing import Array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Term", "answering", "checked_weights", "combined", "one_by_one", "title_of"]

_SHOWN = 10  # labels that a message names


@dataclass(frozen=True, eq=False)
class Term:
    """One picture of a query.

    Attributes
    ----------
    title : str
        What it is called.
    row : int or None
        Its row number; None for a picture that is not in the engine.
    weight : float
        How much it counts in the sum; below zero, likeness to it counts against a picture.
    code : ndarray of shape (k,), float32 or float64
        The picture as a mixture of parts.
    pixels : ndarray of shape (n_features,) or None
        The picture itself; None for a row of the engine, which keeps it.
    mask : ndarray of shape (n_features,), bool, or None
        Where the picture is masked; None where it is not, and for a row of the engine.

    Examples
    --------
    >>> from nmfcore.search.engine import SearchEngine
    >>> engine = SearchEngine(8).fit("digits")
    >>> [(term.title, term.weight) for term in engine.search([0, 7], weights=[1, -0.5]).terms]
    [('row 0 (0)', 1.0), ('row 7 (7)', -0.5)]
    """

    title: str
    row: int | None
    weight: float
    code: Array
    pixels: Array | None
    mask: Array | None = None


def one_by_one(query: object, n_features: int, pictures: bool, weights: ArrayLike | None = None) -> list[Any]:
    """Return the pictures that a query consists of: one, or those of a list.

    A list of `n_features` numbers is the pixels of one picture, unless it has as many weights; any other list is
    several pictures.

    Parameters
    ----------
    query : object
        What `SearchEngine.search` takes.
    n_features : int
        Numbers of a picture.
    pictures : bool
        Whether rows fold to pictures; otherwise each line of a matrix is one.
    weights : array-like or None
        Weights that came with the query.

    Returns
    -------
    list

    Raises
    ------
    ValueError
        When the list is empty.

    Examples
    --------
    >>> from nmfcore.search.queries import one_by_one
    >>> one_by_one(["cat.jpg", 3], 4, True), one_by_one("cat.jpg", 4, True)
    (['cat.jpg', 3], ['cat.jpg'])
    >>> [len(one_by_one([3, 0, 1, 2], 4, True, weights)) for weights in (None, [1, 1, 1, -1])]
    [1, 4]
    """
    if isinstance(query, np.ndarray):
        rows = query.ndim == 1 and query.dtype.kind in "iuOU" and (len(query) != n_features or weights is not None)
        if not rows and (query.ndim != 2 or pictures):
            return [query]
    elif not isinstance(query, list | tuple):
        return [query]
    if not len(query):
        raise ValueError("the query is an empty list: give one picture or more")
    if weights is None or np.shape(weights) != (len(query),):
        numbers = all(_is_number(one) for one in query)
        if numbers and (len(query) == n_features or not all(isinstance(one, int | np.integer) for one in query)):
            return [np.asarray(query)]
    return list(query)


def _is_number(one: object) -> bool:
    return isinstance(one, int | float | np.number) and not isinstance(one, bool)


def checked_weights(weights: ArrayLike | None, count: int) -> list[float]:
    """Return a weight for every picture of a query; 1 by default.

    Parameters
    ----------
    weights : array-like of float of shape (count,) or None
        What was given.
    count : int
        How many pictures the query has.

    Returns
    -------
    list of float

    Raises
    ------
    ValueError
        When there is not one finite number for each picture, or all are 0.
    """
    if weights is None:
        return [1.0] * count
    try:
        numbers = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"weights={weights!r} are no numbers: give one for each picture of the query") from None
    numbers = numbers.reshape(1) if numbers.ndim == 0 else numbers
    if numbers.shape != (count,):
        given = f"{len(numbers)}" if numbers.ndim == 1 else f"an array of shape {numbers.shape}"
        raise ValueError(
            f"the query has {count} picture{'s' * (count != 1)} and weights has {given}: give one for each"
        )
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"weights={numbers.tolist()} must be finite numbers, below zero for pictures to lead away from"
        )
    if not numbers.any():
        raise ValueError("all weights are 0, so nothing is looked for: give at least one picture another weight")
    return [float(number) for number in numbers]


def combined(points: Sequence[Array], weights: Sequence[float], what: str = "the query") -> tuple[Array, Array]:
    """Return Σ α_a·p_a/‖p_a‖, where the points of several pictures lead together.

    A point of zeros has no direction and adds nothing. The sums are exact before they are rounded, so that the order
    of the pictures changes no bit.

    Parameters
    ----------
    points : sequence of ndarray of shape (k,), float32 or float64
        A point for each picture.
    weights : sequence of float
        α, one for each point. Their unit does not matter: the largest is made ±1.
    what : str
        Begins the sentence when the sum is zero.

    Returns
    -------
    total : ndarray of shape (k,), float64
        The sum.
    factors : ndarray of shape (n_points,), float64
        α_a/‖p_a‖, by which each point was multiplied; 0 for a point of zeros.

    Raises
    ------
    ValueError
        When the sum is zero, or is what rounding leaves of one that is.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.queries import combined
    >>> combined([np.array([3.0, 4.0]), np.array([0.0, 2.0])], [1, -0.5])[0].round(3).tolist()
    [0.6, 0.3]
    """
    largest = max(map(abs, weights))
    alphas = [weight / largest for weight in weights]
    factors, terms = [], []
    for point, alpha in zip(points, alphas, strict=True):
        exact = np.asarray(point, np.float64)
        peak = float(np.abs(exact).max(initial=0))
        if peak == 0:
            factors.append(0.0)
            continue
        unit = exact / peak  # whose square neither overflows nor vanishes
        length = math.sqrt(math.fsum(unit * unit))
        terms.append(alpha * (unit / length))
        factors.append(alpha / length / peak)
    total = np.array([math.fsum(numbers) for numbers in zip(*terms, strict=True)]) if terms else np.zeros(0)
    rounding = 4 * max(float(np.finfo(point.dtype).eps) for point in points) * math.fsum(map(abs, alphas))
    if not terms or math.sqrt(math.fsum(total * total)) <= rounding:
        why = "its pictures cancel each other" if terms else "its pictures have no parts"
        raise ValueError(f"{what} is zero and like nothing, since {why}: give other pictures or other weights")
    return total, np.array(factors)


def title_of(terms: Sequence[Term]) -> str:
    """Return what a query is called: its pictures, with signs, and weights that are not ±1.

    Parameters
    ----------
    terms : sequence of Term
        Its pictures.

    Returns
    -------
    str

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.queries import Term, title_of
    >>> title_of([Term(title, None, weight, np.zeros(0), None) for title, weight in (("a", 1), ("b", -1), ("c", 0.5))])
    'a − b + 0.5 × c'
    """
    text = ""
    for number, term in enumerate(terms):
        sign = ("− " if term.weight < 0 else "") if number == 0 else (" − " if term.weight < 0 else " + ")
        size = abs(term.weight)
        text += sign + ("" if size == 1 else f"{size:g} × ") + term.title
    return text


def answering(n: int, allow: ArrayLike | None, labels: object, known: ArrayLike | None) -> Array | None:
    """Return which rows may answer.

    Parameters
    ----------
    n : int
        Rows of the engine.
    allow : array-like of bool of shape (n,), or of int, or None
        A mask, or row numbers.
    labels : label, sequence of labels, or None
        Rows with one of these labels. A number and its text are the same label.
    known : array-like of shape (n,) or None
        The labels of the rows.

    Returns
    -------
    ndarray of bool of shape (n,), or None
        None where every row may.

    Raises
    ------
    ValueError
        When a row or a label is not there.
    """
    mask = None if allow is None else _mask(allow, n)
    if labels is not None:
        labelled = _with_label(labels, known)
        mask = labelled if mask is None else mask & labelled
    return mask


def _mask(allow: ArrayLike, n: int) -> Array:
    rows = np.asarray(allow)
    if rows.dtype == np.bool_:
        if rows.shape != (n,):
            raise ValueError(f"allow is a mask of shape {rows.shape}, and there are {n:,} rows: give a bool for each")
        return rows
    if rows.size and rows.dtype.kind not in "iu":
        raise ValueError(f"allow holds {rows.dtype}: give row numbers, or a mask of bool")
    wrong = rows[(rows < 0) | (rows >= n)]
    if wrong.size:
        raise ValueError(f"allow names row {wrong.ravel()[0]}, which is not there: rows are numbered 0 to {n - 1:,}")
    mask = np.zeros(n, bool)
    mask[rows.astype(np.int64)] = True
    return mask


def _with_label(labels: object, known: ArrayLike | None) -> Array:
    if known is None:
        raise ValueError("the pictures have no labels to choose by: ask without labels, or fit pictures that have some")
    there = np.asarray(known)
    one = isinstance(labels, str | bytes) or not isinstance(labels, Iterable) or getattr(labels, "ndim", 1) == 0
    wanted = [labels] if one else list(cast("Iterable[object]", labels))
    mask = np.zeros(len(there), bool)
    for label in wanted:
        bearers = there == _as_stored(label, there)
        if not np.any(bearers):
            raise ValueError(f"no picture has the label '{printable(str(label))}': {_labels_there(there)}")
        mask |= bearers
    return mask


def _as_stored(label: object, there: Array) -> object:
    """Return a label in the type that labels are kept in, or None where no label of that type has its text."""
    if there.dtype.kind == "U":
        return str(label)
    if there.dtype.kind in "iuf" and not isinstance(label, bool | np.bool_):
        try:
            number = float(label) if there.dtype.kind == "f" else int(label)  # type: ignore[arg-type, call-overload]
        except (TypeError, ValueError, OverflowError):
            return None
        same = str(label) == str(number) or (not isinstance(label, str) and number == label)
        return number if same else None
    if there.dtype.kind == "O":
        return next((one for one in there.tolist() if str(one) == str(label)), None)
    return label


def _labels_there(there: Array) -> str:
    names = [printable(str(one)) for one in np.unique(there[: 1 << 20].astype(str))]
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return f"there {'is' if len(names) == 1 else 'are'} {shown}" + (
        f" and {len(names) - _SHOWN:,} more" * (len(names) > _SHOWN)
    )
