"""A visual search engine in a few lines: pictures in, the most similar and most dissimilar pictures out.

An engine learns the parts of its pictures (`NMF`), writes every picture as a mixture of them, and compares mixtures
by their cosine (`similarity`). It lives in a folder, the one that ``nmfcore fit`` writes::

    model.npz      what was learned, readable by `nmfcore.load`
    pictures.npy   the originals, a row each; memory-mapped when the folder is loaded
    mask.npy       a bit for each of their pixels, set where it is masked; only where some are
    search.json    the space that similarity is measured in, where it is not the default
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .._typing import Array
from ..estimators.progress_bar import fit_shown
from ..images.pictures import Shape
from ..models import Model, model_of
from .asking import aim, drawn, terms_of
from .blocks import frobenius_norm
from .collection import Collection
from .contents import Contents
from .cosine import cosine_topk
from .folders import MODEL
from .found import Explanation, Found
from .given import pictures_of
from .manifest import looked_at, noted
from .masks import PictureMasks
from .queries import Term, answering, title_of
from .saving import Saved as _Saved  # the name that engines pickled by earlier versions look for here
from .saving import appended, lives_in, opened, saved_space, written
from .spaces import OPPOSITE, Space, checked
from .stack import Stack

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from .given import Given, Progress, Query

__all__ = ["Explanation", "Found", "SearchEngine"]

_LISTED = 20  # parts that a notebook shows


class SearchEngine(Collection):
    """Search pictures by the parts that they are made of.

    Parameters
    ----------
    n_components : int, default=50
        How many parts to learn.
    space : {"codes", "reconstruction", "centred"}, default="codes"
        Where similarity is measured. "codes": between mixtures of parts; pictures that use the same parts are alike.
        "reconstruction": between the pictures that the mixtures stand for, whatever the scale of the parts; parts
        that look alike count as alike. "centred": between the mixtures minus their mean; pictures that differ from
        the average in the same way are alike. `search` measures dissimilarity in the last one.
    solver : str, default="hals"
        As for `nmfcore.NMF`.
    random_state : int, default=0
        As for `nmfcore.NMF`.
    **settings
        Other parameters of `nmfcore.NMF`: ``tol``, ``max_iter``, ``beta_loss``, ``n_jobs``, ``device``, …

    Attributes
    ----------
    model : nmfcore.models.Model
        What was learned: ``W`` with a row of code per picture, ``components`` with a row per part, names, labels.

    Raises
    ------
    ValueError
        When the space is unknown.

    Examples
    --------
    >>> from nmfcore.search.engine import SearchEngine
    >>> engine = SearchEngine(16).fit("digits")  # or a folder of pictures, or a matrix
    >>> found = engine.search(4, n=4)  # or a picture file
    >>> engine.model.labels[[4, *found.indices]].tolist()
    [4, 4, 4, 4, 4]
    >>> why = engine.explain(4, found.indices[0])
    >>> len(why.components), bool(why.score == found.scores[0])
    (5, True)
    """

    def __init__(
        self,
        n_components: int = 50,
        *,
        space: str = "codes",
        solver: str = "hals",
        random_state: int | None = 0,
        **settings: Any,
    ):
        self.space = checked(space)
        self.settings = {"n_components": n_components, "solver": solver, "random_state": random_state, **settings}
        self._saved: _Saved | None = None

    # --- making one -------------------------------------------------------------------------------

    def fit(
        self,
        source: Given,
        *,
        size: tuple[int, int] | None = None,
        rgb: bool = False,
        skip_broken: bool = False,
        progress: Progress | bool | None = True,
    ) -> SearchEngine:
        """Learn the parts of pictures, and code every picture by them.

        Parameters
        ----------
        source : path-like, Pictures, or array-like of shape (n, n_features), (n, height, width) or (…, 3)
            A folder of pictures, a file as `nmfcore.images.read_source` takes it, "digits" for scikit-learn's digits,
            or the pictures themselves; a fit leaves out what `Pictures.mask`, or a masked array, masks. Pictures of a
            folder that are to keep their proportions are those of ``load_images(folder, fit="letterbox")``.
        size : tuple of (height, width) or None
            Size that a folder's pictures are resized to; for a matrix, how a row folds to a picture.
        rgb : bool
            Keep the colours of a folder's pictures.
        skip_broken : bool
            Leave out pictures that cannot be decoded.
        progress : callable(done, total), bool or None
            A callable is called while pictures are read. True, the default, shows a bar for the reading and one for
            the fit on a terminal and in a notebook, if rich is installed. To follow the fit in another way, give the
            engine a ``callback``, as for `NMF`.

        Returns
        -------
        SearchEngine
            This one.

        Raises
        ------
        InputError
            When the source cannot be read.
        ValueError
            When `NMF` refuses a parameter or the data.

        Examples
        --------
        >>> import numpy as np
        >>> from nmfcore.search.engine import SearchEngine
        >>> engine = SearchEngine(3).fit(np.random.default_rng(0).random((40, 6, 5)))
        >>> len(engine), engine.shape
        (40, (6, 5))
        """
        from ..estimators import NMF

        records = looked_at(source)
        pictures = pictures_of(source, size, rgb, skip_broken, progress)
        files = noted(pictures, records)
        estimator = NMF(**self.settings)
        norm = frobenius_norm(pictures.matrix, pictures.mask)
        with fit_shown(estimator, norm, progress is True):
            W = estimator.fit_transform(pictures.matrix, mask=pictures.mask)
        relative = math.nan
        if estimator.beta_loss in ("frobenius", 2) and norm > 0:
            relative = float(estimator.reconstruction_err_) / norm
        model = model_of(estimator, W, pictures, relative_error=relative, files=files)
        masks = None if pictures.mask is None else PictureMasks.of(pictures.mask)
        self._set(model, Stack(pictures.matrix), None, masks)
        return self

    @classmethod
    def from_model(
        cls,
        model: Model,
        pictures: ArrayLike | None = None,
        *,
        space: str = "codes",
        mask: ArrayLike | None = None,
    ) -> SearchEngine:
        """Make an engine of a model that is already there.

        Parameters
        ----------
        model : Model
            As `nmfcore.load` or `nmfcore.images.model_of` gives it.
        pictures : array-like of shape (n, n_features) or None
            The originals; without them they are looked for at the model's source when they are needed.
        space : {"codes", "reconstruction", "centred"}
            Where similarity is measured.
        mask : array-like of shape (n, n_features), bool, or None
            Where the originals are masked. None, the default, means nowhere, or as at the model's source where the
            model says that pixels are masked.

        Returns
        -------
        SearchEngine

        Raises
        ------
        ValueError
            When the space is unknown, or the pictures or the mask are not those of the model.
        ModelFileError
            When the model was made by an estimator that this nmfcore does not have.
        """
        stack = None if pictures is None else Stack(pictures)
        if stack is not None and stack.shape != (len(model.W), model.components.shape[1]):
            raise ValueError(
                f"the pictures {stack.shape} are not those of the model: it was made of {len(model.W):,} rows of "
                f"{model.components.shape[1]} features"
            )
        hidden = None if mask is None else np.asarray(mask)
        if hidden is not None and (hidden.dtype != bool or hidden.shape != (len(model.W), model.components.shape[1])):
            raise ValueError(
                f"the mask holds {hidden.dtype} of shape {hidden.shape}: give booleans, one for each entry of the "
                f"{len(model.W):,} rows of {model.components.shape[1]} features"
            )
        return cls._of(Contents(model, stack, None if hidden is None else PictureMasks.of(hidden)), None, space)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, space: str | None = None) -> SearchEngine:
        """Open the folder that `save` or ``nmfcore fit`` wrote; the pictures stay on the disk, memory-mapped.

        Parameters
        ----------
        folder : path-like
            The folder, or a model file in it.
        space : {"codes", "reconstruction", "centred"} or None
            Where similarity is measured; None as it was saved.

        Returns
        -------
        SearchEngine

        Raises
        ------
        FileNotFoundError
            When there is no model.
        ModelFileError
            When the model or the pictures beside it are damaged, or do not belong together.
        ValueError
            When the space is unknown.

        Examples
        --------
        >>> from nmfcore.search.engine import SearchEngine
        >>> SearchEngine.load("no-such-folder")
        Traceback (most recent call last):
        FileNotFoundError: there is no model file 'no-such-folder'
        """
        contents, home, saved = opened(Path(folder))
        engine = cls._of(contents, home, saved_space(home) if space is None else space)
        engine._saved = saved
        return engine

    def save(self, folder: str | os.PathLike[str], *, pictures: bool = True, overwrite: bool = False) -> None:
        """Write the engine to a folder, for `load`, `nmfcore.load` and the command line.

        Parameters
        ----------
        folder : path-like
            The folder; made if it does not exist. The files are written to a folder beside it, which takes its place
            when they are complete: a crash leaves the old engine or the new one, not parts of both. Other files stay.
            (The working directory, and a folder in one that cannot be written to, keep their places: there the files
            are replaced one after the other. Where the system cannot exchange two folders in one step, as on Windows,
            a kill between two renames leaves the old engine under a hidden name beside the folder.)
            To the folder that the engine was loaded from, only what is new is written: new originals are put at the
            end of theirs, and the model takes the place of the former one after that. Killed at any moment, this
            leaves the old engine or the new one.
        pictures : bool
            Write the originals too, as the command line's ``report`` and ``serve`` want them.
        overwrite : bool
            Replace a model that the folder already holds.

        Raises
        ------
        FileExistsError
            When the folder holds a model and ``overwrite`` is false.
        InputError
            When the originals are to be written and are nowhere to be found.
        ModelFileError
            When another process has changed the folder since the engine was loaded from it.
        OSError
            When writing fails.
        """
        home, model = Path(folder), self.model
        if (home / MODEL).exists() and not overwrite:
            raise FileExistsError(f"'{home}' holds a model: choose another folder, or overwrite=True replaces it")
        held = Contents(model, self._rows, self._hidden)
        if self._saved is not None and lives_in(home, self._saved, held, pictures):
            held, self._saved = appended(home, self._saved, held, self.space)
            self._rows, self._hidden = held.rows, held.masks
            return
        written(home, Contents(model, self._originals(), self.masks) if pictures else Contents(model), self.space)

    @classmethod
    def _of(cls, contents: Contents, folder: Path | None, space: str) -> SearchEngine:
        engine = cls(len(contents.model.components), space=space)
        engine.settings = dict(contents.model.parameters)
        engine._set(contents.model, contents.rows, folder, contents.masks)
        return engine

    def __repr__(self) -> str:
        if self._model is None:
            return f"SearchEngine({self.settings['n_components']}, space={self.space!r}), not fitted"
        k, m = self._model.components.shape
        return f"SearchEngine of {len(self):,} rows × {m:,} features by {k} parts, space={self.space!r}"

    def _repr_html_(self) -> str | None:
        if self._model is None or self._model.shape is None:
            return None
        try:
            from ..images.thumbnails import gallery, part_png

            parts = self._model.components[:_LISTED]
            pngs = [part_png(part, self._model.shape, longest=144) for part in parts]
        except ImportError:  # Pillow is missing
            return None
        titles = [f"part {number}" for number in range(len(parts))]
        return gallery(repr(self), pngs, titles, len(self._model.components) - len(parts))

    # --- searching --------------------------------------------------------------------------------

    def _space(self, name: str | None = None) -> Space:
        """Return a space, made at its first use; None is the engine's own."""
        name = self.space if name is None else name
        space = self._spaces.get(name)
        if space is None:
            space = self._spaces[name] = Space(name, self.model)
        return space

    def search(
        self,
        query: Query | Sequence[Query],
        n: int = 8,
        similar: bool = True,
        *,
        space: str | None = None,
        weights: ArrayLike | None = None,
        threshold: float | None = None,
        allow: ArrayLike | None = None,
        labels: object = None,
        offset: int = 0,
    ) -> Found:
        """Find the pictures most similar, or most dissimilar, to one picture or to several together.

        Several pictures a, of codes c_a, are the query q = Σ_a α_a·c_a/‖c_a‖ with weights α; a score is cos(q, c).

        Parameters
        ----------
        query : int, str, path-like, file, PIL image, array-like of shape (n_features,) or the picture's own, or a list
            A row number, a name, a picture file, or a picture; or several of them in a list. A list of n_features
            numbers is one picture, unless it has as many weights. Rows of the engine that are in the query are never
            found. A picture is brought to the form of the engine's (between bars, say, that are masked), and
            coded by what is not masked; of a masked array, which has the engine's form, what its mask leaves.
        n : int
            How many to find.
        similar : bool
            False finds the most dissimilar.
        space : {"codes", "reconstruction", "centred"} or None
            Where similarity is measured. None means the space of the engine for similar pictures, and "centred" for
            dissimilar ones: among codes without negative numbers, the same few pictures are the least similar to all.
        weights : array-like of float of shape (n_queries,) or None
            A weight for each picture of the query. None, the default, weighs each 1. One below zero leads away from
            a picture. A picture of weight 0 is only left out of what is found.
        threshold : float or None
            The least score to be found, or with ``similar=False`` the largest. None, the default, sets no limit.
        allow : array-like of bool of shape (n_pictures,), or of int, or None
            The only rows that may be found: a mask, or row numbers. None, the default, allows all.
        labels : label, sequence of labels, or None
            Only pictures with one of these labels are found. A number and its text are the same label. None, the
            default, allows all.
        offset : int
            How many of the best to skip, 0 by default. Equal scores are ordered by row number, so pages that begin
            where the last one ended neither repeat a picture nor leave one out.

        Returns
        -------
        Found

        Raises
        ------
        InputError
            When a query is no row, no name, and no picture that can be read.
        ValueError
            When n < 1, offset < 0, the space, a label or a row to allow is unknown, a row of pixels does not fit,
            there is not one finite weight for each picture, or several pictures cancel each other.

        Examples
        --------
        >>> from nmfcore.search.engine import SearchEngine
        >>> engine = SearchEngine(16).fit("digits")
        >>> engine.search([4, 14], n=4, labels=4).titles[0][-3:]
        '(4)'
        >>> pages = [engine.search([3, 8], n=5, weights=[1, -0.5], offset=first) for first in (0, 5)]
        >>> whole = engine.search([3, 8], n=10, weights=[1, -0.5])
        >>> whole.indices.tolist() == [*pages[0].indices, *pages[1].indices]
        True
        """
        name = checked(space) if space is not None else self.space if similar else OPPOSITE
        for what, number, least in (("n", n, 1), ("offset", offset, 0)):
            if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
                raise ValueError(f"{what}={number!r} is not possible: give a whole number of at least {least}")
        terms = self._terms(query, weights)
        may = answering(len(self), allow, labels, self.model.labels)
        place = self._space(name)
        point, code = aim(terms, place)
        find = place.index.search if similar else place.index.search_dissimilar
        exclude = np.array([[-1 if term.row is None else term.row for term in terms]])
        count = min(int(n) + int(offset), len(self))
        scores, indices = find(point, count, exclude=exclude, threshold=threshold, allow=may)
        page = slice(int(offset), count)
        there = indices[0, page] >= 0
        kept = np.asarray(indices[0, page][there], dtype=np.int64)
        titles = tuple(self.title(int(index)) for index in kept)
        names = self.model.names
        found = Found(
            kept,
            np.asarray(scores[0, page][there]),
            titles if names is None else tuple(names[index] for index in kept),
            title_of(terms),
            terms[0].row if len(terms) == 1 else None,
            code,
            terms[0].pixels if len(terms) == 1 else None,
            similar,
            name,
            titles,
            terms,
            int(offset),
            terms[0].mask if len(terms) == 1 else None,
        )
        if self.model.shape is not None:  # a notebook then shows the pictures
            object.__setattr__(found, "_pixels_of", self._found_pixels)
        return found

    def _terms(self, query: Query | Sequence[Query], weights: ArrayLike | None = None) -> tuple[Term, ...]:
        return terms_of(self.model, self._numbers, self._coded, query, weights)

    def _found_pixels(self, rows: Array) -> tuple[Array, Shape]:
        assert self.model.shape is not None
        return self.originals(rows), self.model.shape

    def explain(
        self, a: Query | Sequence[Query] | Found, b: Query | Sequence[Query] | Found, n: int = 5
    ) -> Explanation:
        """Say which parts make two pictures similar.

        Parameters
        ----------
        a : int, str, path-like, file, PIL image, array-like, a list of these, or Found
            A picture, or several, as `search` takes them; or what a search found: its query.
        b : the same
            The other.
        n : int
            How many parts to name at most.

        Returns
        -------
        Explanation

        Raises
        ------
        InputError
            As for `search`.
        """
        place = self._space()
        (point, first), (other, second) = (
            aim(each.terms if isinstance(each, Found) else self._terms(each), place) for each in (a, b)
        )
        scores, _ = cosine_topk(point, other, 1)
        return self._because(first, second, n, float(scores[0, 0]))

    def reasons(self, found: Found, n: int = 5) -> list[Explanation]:
        """Say for every picture found which parts it shares with the query.

        Parameters
        ----------
        found : Found
            What `search` returned.
        n : int
            How many parts to name at most.

        Returns
        -------
        list of n_found Explanation
            What `explain` says of each, sooner: the scores are those found.
        """
        codes = self.model.W[found.indices]
        return [
            self._because(found.code, code, n, float(score)) for code, score in zip(codes, found.scores, strict=True)
        ]

    def _because(self, a: Array, b: Array, n: int, score: float) -> Explanation:
        from ..analysis import shared_parts

        # R·Rᵀ = H·Hᵀ: k×k numbers say of the reconstructions' products what the k×m of H would.
        parts, shares = shared_parts(a, b, self._space().root, n)
        return Explanation(np.asarray(parts, dtype=np.int64), shares, score)

    def draw(self, found: Found) -> Figure:
        """Draw what a search found: originals over reconstructions, with names and scores.

        Parameters
        ----------
        found : Found
            What `search` returned.

        Returns
        -------
        matplotlib Figure

        Raises
        ------
        InputError
            When the originals are nowhere to be found.
        ImportError
            When matplotlib is missing.
        """
        from ..plots import neighbours

        query, made = drawn(self, found.terms)
        kind = "similar" if found.similar else "dissimilar"
        axes = neighbours(
            np.vstack([query, self.originals(found.indices)]),
            np.vstack([made, self.reconstructions(found.indices)]),
            self.shape,
            [found.title if len(found.terms) == 1 else f"{len(found.terms)} pictures", *found.titles],
            found.scores,
            heading=f"Most {kind} to {found.title}",
        )
        return cast("Figure", axes.figure)
