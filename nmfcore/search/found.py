"""What a search found, and which parts two pictures have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._text import printable
from .._typing import Array
from ..images import InputError
from ..images.pictures import Shape
from .queries import Term

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Explanation", "Found"]

_LISTED = 20  # entries that a repr shows


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found, best first.

    Attributes
    ----------
    indices : ndarray of shape (n_found,), int64
        Row numbers of the pictures found.
    scores : ndarray of shape (n_found,), float64
        Their cosine similarities to the query: 0 to 1, and −1 to 1 in the space "centred".
    names : tuple of n_found str
        Their names; where pictures have none, their numbers and labels, as in `titles`.
    title : str
        What the query is called.
    row : int or None
        Row number of the query; None for several pictures, and for one that is not in the engine.
    code : ndarray of shape (k,), float32 or float64
        The query as a mixture of parts; of several pictures, the sum of their weighted mixtures, each divided by the
        length that it has in the space.
    pixels : ndarray of shape (n_features,) or None
        The query itself; None for several pictures, and for a row of the engine, which keeps it.
    similar : bool
        Whether these are the most similar; otherwise they are the most dissimilar.
    space : str
        The space that similarity was measured in.
    titles : tuple of n_found str
        What the pictures found are called: their numbers and names, labels in brackets.
    terms : tuple of Term
        The pictures of the query, with their weights.
    offset : int
        How many better ones were skipped.
    mask : ndarray of shape (n_features,), bool, or None
        Where the query itself is masked; None where it is not, and for a row of the engine.

    Examples
    --------
    >>> from nmfcore.search.engine import SearchEngine
    >>> engine = SearchEngine(8).fit("digits")
    >>> found = engine.search(0, n=3)
    >>> len(found), found.row, bool(found.scores[0] >= found.scores[1] > 0.9)
    (3, 0, True)
    >>> found.title
    'row 0 (0)'
    """

    indices: Array
    scores: Array
    names: tuple[str, ...]
    title: str
    row: int | None
    code: Array
    pixels: Array | None
    similar: bool
    space: str = "codes"
    titles: tuple[str, ...] = ()
    terms: tuple[Term, ...] = ()
    offset: int = 0
    mask: Array | None = None
    _pixels_of: Callable[[Array], tuple[Array, Shape]] | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels_of": None}  # the engine is not pickled with what it has found

    def _repr_html_(self) -> str | None:
        if self._pixels_of is None or not len(self):
            return None
        try:
            from ..images.thumbnails import brightness, gallery, picture_png

            pixels, shape = self._pixels_of(self.indices[:_LISTED])
            top = brightness(pixels)
            pngs = [picture_png(row, shape, top, longest=144) for row in pixels]
        except (ImportError, InputError):  # without Pillow, or without the originals, a notebook shows the text
            return None
        titles = [f"{score:.3f} {title}" for score, title in zip(self.scores, self.titles, strict=True)]
        heading = f"most {'similar' if self.similar else 'dissimilar'} to {self.title}"
        return gallery(heading, pngs, titles[: len(pngs)], len(self) - len(pngs))

    def to_pandas(self) -> DataFrame:
        """Return what was found as a table, best first.

        Returns
        -------
        pandas.DataFrame
            With the columns "row", "name" and "score".

        Raises
        ------
        ImportError
            When pandas is missing.
        """
        from pandas import DataFrame

        return DataFrame({"row": self.indices, "name": list(self.names), "score": self.scores})

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        kind = "similar" if self.similar else "dissimilar"
        shown = list(zip(self.scores, self.titles, strict=True))[:_LISTED]
        lines = [f"  {score:6.3f}  {_shortened(title)}" for score, title in shown]
        more = [f"  and {len(self) - len(shown):,} more"] if len(self) > len(shown) else []
        return "\n".join([f"most {kind} to {_shortened(self.title)}:", *lines, *more])


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which parts two pictures have in common.

    Attributes
    ----------
    components : ndarray of shape (n_parts,), int64
        Numbers of the parts that bring the most, most first.
    shares : ndarray of shape (n_parts,), float64
        How much of the score each brings; all k of them add up to 1.
    score : float
        Cosine similarity of the two pictures.

    Examples
    --------
    >>> from nmfcore.search.engine import SearchEngine
    >>> engine = SearchEngine(8).fit("digits")
    >>> why = engine.explain(0, 0, n=8)
    >>> round(why.score, 6), round(float(why.shares.sum()), 6)
    (1.0, 1.0)
    """

    components: Array
    shares: Array
    score: float

    def __repr__(self) -> str:
        pairs = list(zip(self.components, self.shares, strict=True))[:_LISTED]
        parts = ", ".join(f"part {part} ({share:.0%})" for part, share in pairs) or "no part in common"
        more = f" and {len(self.components) - len(pairs):,} more" if len(self.components) > len(pairs) else ""
        return f"Explanation of a similarity of {self.score:.3f}: {parts}{more}"


def _shortened(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 80 else f"{name[:79]}…"
