"""Questions put to pictures: which picture each of a query is, where the query points, and what it looks like."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from .._typing import Array
from ..images import InputError, Pictures, picture_and_mask
from ..models import Model
from .names import hint
from .queries import Term, checked_weights, combined, one_by_one

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .collection import Collection
    from .given import Query
    from .spaces import Space

__all__ = ["aim", "drawn", "terms_of", "title_of_row"]


def terms_of(
    model: Model,
    numbers: Mapping[str, int],
    coded: Callable[[Array, Array | None], Array],
    query: Query | Sequence[Query],
    weights: ArrayLike | None,
) -> tuple[Term, ...]:
    """Return the pictures of a query.

    Parameters
    ----------
    model : Model
        What is asked.
    numbers : mapping of str to int
        The row of each name.
    coded : callable(matrix, mask) -> codes
        Codes rows of pixels by the parts of the model; without what the mask hides, if it is not None.
    query : object
        As `SearchEngine.search` takes it.
    weights : array-like of float or None
        A weight for each picture of the query; None weighs each 1.

    Returns
    -------
    tuple of Term

    Raises
    ------
    InputError
        When a query is no row, no name, and no picture that can be read.
    ValueError
        When the query is empty, a row of pixels does not fit, or there is not one finite weight for each picture.
    """
    queries = one_by_one(query, model.components.shape[1], model.shape is not None, weights)
    terms = []
    for one, weight in zip(queries, checked_weights(weights, len(queries)), strict=True):
        row, title, code, pixels, mask = _resolved(model, numbers, coded, one)
        terms.append(Term(title, row, weight, code, pixels, mask))
    return tuple(terms)


def aim(terms: Sequence[Term], place: Space) -> tuple[Array, Array]:
    """Return where a query points.

    Parameters
    ----------
    terms : sequence of Term
        The pictures of the query.
    place : Space
        Where similarity is measured.

    Returns
    -------
    point : ndarray of shape (1, k)
        In the space.
    code : ndarray of shape (k,)
        The mixture of parts.
    """
    points = [place.point(term.row, term.code) for term in terms]
    if len(terms) == 1 and (terms[0].weight > 0 or points[0].any()):  # the very numbers of the picture
        sign = np.sign(terms[0].weight).astype(points[0].dtype)
        return sign * points[0], sign * terms[0].code
    total, factors = combined([point[0] for point in points], [term.weight for term in terms])
    codes = np.stack([np.asarray(term.code, np.float64) for term in terms])
    return total[None], factors @ codes


def drawn(held: Collection, terms: Sequence[Term]) -> tuple[Array, Array]:
    """Return a query's picture and reconstruction; of several, the sum of their pictures, each as bright.

    Parameters
    ----------
    held : Collection
        What was asked.
    terms : sequence of Term
        The pictures of the query.

    Returns
    -------
    picture, reconstruction : ndarray of shape (n_features,)
    """
    pictures = [held.originals([cast("int", term.row)])[0] if term.pixels is None else term.pixels for term in terms]
    if len(terms) == 1:
        return pictures[0], terms[0].code @ held.model.components
    stack = np.stack([np.asarray(picture, np.float64) for picture in pictures])
    made = np.stack([np.asarray(term.code, np.float64) for term in terms]) @ held.model.components
    lengths = np.linalg.norm(stack, axis=1)
    factors = np.array([term.weight for term in terms]) / np.where(lengths > 0, lengths, 1)
    # as long as the pictures are on the average, so that it has their brightness
    factors *= lengths.mean() / (sum(term.weight for term in terms if term.weight > 0) or 1.0)
    return np.maximum(factors @ stack, 0), np.maximum(factors @ made, 0)


def title_of_row(model: Model, row: int) -> str:
    """Return what the picture in a row is called: its number, its name, and its label in brackets.

    Parameters
    ----------
    model : Model
        What the row belongs to.
    row : int
        Number of the row.

    Returns
    -------
    str
    """
    return Pictures(model.W, None, model.names, model.labels).title(row)


def _resolved(
    model: Model, numbers: Mapping[str, int], coded: Callable[[Array, Array | None], Array], query: Query
) -> tuple[int | None, str, Array, Array | None, Array | None]:
    """Return a query's row, title, code, pixels and mask."""
    n, shape = len(model.W), model.shape
    if isinstance(query, str) and query in numbers:
        query = numbers[query]
    if isinstance(query, int | np.integer) and not isinstance(query, bool):
        row = int(query)
        if not 0 <= row < n:
            raise InputError(f"there is no row {row}: rows are numbered 0 to {n - 1:,}")
        return row, title_of_row(model, row), model.W[row], None, None
    title, m = "the query", model.components.shape[1]
    if isinstance(query, str | os.PathLike):
        path = Path(os.path.expanduser(query))
        if not path.is_file():
            raise InputError(f"there is no picture '{query}', neither by name nor as a file{hint(str(query), numbers)}")
        query, title = path, path.name
    if isinstance(query, np.ma.MaskedArray):
        if query.shape not in ((m,), shape):
            raise InputError(f"a masked array must have the form of the pictures, {shape or (m,)}")
        given, hidden = np.asarray(query.data).reshape(m), np.ma.getmaskarray(query).reshape(m)
        return None, title, coded(given[None], hidden[None])[0], given, hidden
    given_row = None if isinstance(query, Path) or hasattr(query, "read") else np.asarray(query)
    if given_row is not None and given_row.shape == (m,):  # a row as it is; pictures are converted
        return None, title, coded(given_row[None], None)[0], given_row, None
    if shape is None:
        raise InputError(f"rows of this model are no pictures: give a row number or a row of {m} numbers")
    pixels, mask = picture_and_mask(query, shape, decoding=model.decoding or {})  # type: ignore[arg-type]
    return None, title, coded(pixels[None], None if mask is None else mask[None])[0], pixels, mask
