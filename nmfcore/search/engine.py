"""A visual search engine in a few lines: pictures in, the most similar and most dissimilar pictures out.

An engine learns the parts of its pictures (`NMF`), writes every picture as a mixture of them, and compares mixtures
by their cosine (`similarity`). It lives in a folder, the one that ``nmfcore fit`` writes::

    model.npz      what was learned, readable by `nmfcore.load`
    pictures.npy   the originals, a row each; memory-mapped when the folder is loaded
    mask.npy       a bit for each of their pixels, set where it is masked; only where some are
    search.json    the space that similarity is measured in, where it is not the default
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from .._files import replacing
from .._text import printable
from .._typing import Array
from ..estimators.progress_bar import fit_shown
from ..images import InputError, Pictures, picture_and_mask, read_source
from ..images.pictures import Shape
from ..models import Model, ModelFileError, estimator_from, may_be_masked, model_of, save
from ..models import load as load_model
from .cosine import cosine_topk
from .duplicates import KINDS, Duplicates
from .finding import MAX_PAIRS, find_duplicates
from .folders import MASK, MODEL, PICTURES, SETTINGS, append_rows, held, replaced_folder
from .manifest import Manifest, looked_at, noted
from .masks import PictureMasks, append_masks, write_mask
from .names import hint, meant
from .queries import Term, answering, checked_weights, combined, one_by_one, title_of
from .spaces import OPPOSITE, SPACES, Space, checked
from .stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO, TypeAlias

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike
    from pandas import DataFrame
    from PIL.Image import Image

    from ..estimators import NMF, MiniBatchNMF
    from .update import Changes

    Given: TypeAlias = str | os.PathLike[str] | Pictures | ArrayLike  # pictures, or where they are
    # One picture: its row number, its name, its file, or itself.
    Query: TypeAlias = int | str | os.PathLike[str] | BinaryIO | Image | ArrayLike

__all__ = ["Explanation", "Found", "SearchEngine"]

Progress = Callable[[int, int], None]

_LISTED = 20  # entries that a repr shows
_AT_ONCE = 1 << 24  # bytes of pictures that are read, written or added up at a time


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


class SearchEngine:
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
        self._model: Model | None = None
        self._estimator: NMF | MiniBatchNMF | None = None
        self._rows: Stack | None = None
        self._hidden: PictureMasks | None = None
        self._folder: Path | None = None
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
        pictures = _pictures(source, size, rgb, skip_broken, progress)
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
        return cls._of(model, stack, None, space, None if hidden is None else PictureMasks.of(hidden))

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
        path = Path(folder)
        home = path if path.is_dir() else path.parent
        saved = _Saved.of(home)
        model = load_model(path)
        stack = Stack(_mapped(home / PICTURES, model), places=model.places) if saved.pictures else None
        masks = _mapped_masks(home, model) if saved.masks else None
        engine = cls._of(model, stack, home, _saved_space(home) if space is None else space, masks)
        engine._saved = saved.knowing(model)
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
        if self._lives_in(home, pictures):
            self._save_what_is_new(home)
            return
        originals = self._originals() if pictures else None
        masks = self.masks if pictures else None
        with replaced_folder(home) as folder:
            if originals is not None:
                write_rows([originals], folder / PICTURES)
            if masks is not None:
                write_mask(masks, folder / MASK)
            _save_space(folder / SETTINGS, self.space)
            save(model, folder / MODEL)

    def _lives_in(self, home: Path, pictures: bool) -> bool:
        """Whether the engine was loaded from a folder, with or without originals, so that what it has is there."""
        saved, stack = self._saved, self._rows
        if saved is None or self._folder is None or saved.pictures != pictures or not saved.at(home):
            return False
        if not pictures:
            return not saved.masks  # which a fit may leave that was killed before it wrote its pictures
        if saved.mask == "lost" and self._hidden is not None:  # masks that were found again are written as a whole
            return False
        return stack is not None and stack.dtype == stack.blocks[0].dtype

    def _save_what_is_new(self, home: Path) -> None:
        assert self._saved is not None
        with held(home):
            if _Saved.of(home) != self._saved:
                raise ModelFileError(f"'{home}' was changed by another process since it was read: load it again")
            model, stack = self.model, self._rows
            if self._saved.pictures and stack is not None:
                known = len(stack.blocks[0])
                before = append_rows(home / PICTURES, stack.blocks[1:])
                places = np.arange(len(stack)) if stack.places is None else stack.places
                # An update that was killed leaves rows in the file that belong to no model.
                places = np.where(places < known, places, places + (before - known))
                if self._hidden is not None and model.masked:
                    total = before + sum(map(len, stack.blocks[1:]))
                    new = self._saved.mask == "none"
                    append_masks(self._hidden, places, before, total, home / MASK, anew=new)
                model = dataclasses.replace(model, places=None if _is_range(places) else places)
            if _saved_space(home) != self.space:
                _save_space(home / SETTINGS, self.space)
            save(model, home / MODEL)
            self._saved = _Saved.of(home).knowing(model)
        if self._saved.pictures:
            self._rows = Stack(_mapped(home / PICTURES, model), places=model.places)
            self._hidden = _mapped_masks(home, model)

    @classmethod
    def _of(
        cls, model: Model, rows: Stack | None, folder: Path | None, space: str, masks: PictureMasks | None = None
    ) -> SearchEngine:
        engine = cls(len(model.components), space=space)
        engine.settings = dict(model.parameters)
        engine._set(model, rows, folder, masks)
        return engine

    def _set(self, model: Model, rows: Stack | None, folder: Path | None, masks: PictureMasks | None = None) -> None:
        if model.places is not None:  # the stack has them
            model = dataclasses.replace(model, places=None)
        self._model, self._rows, self._folder, self._hidden = model, rows, folder, masks
        self._estimator = estimator_from(model)
        self._spaces: dict[str, Space] = {}
        self._numbers: dict[str, int] = {}
        for row, name in enumerate(model.names or ()):
            self._numbers.setdefault(name, row)

    # --- what is in it ----------------------------------------------------------------------------

    @property
    def model(self) -> Model:
        """What was learned."""
        if self._model is None:
            raise AttributeError("this SearchEngine has learned nothing yet: call fit, or SearchEngine.load")
        return self._model

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Height and width of a picture, and 3 for colours; None where rows are no pictures."""
        return self.model.shape

    def __len__(self) -> int:
        return 0 if self._model is None else len(self._model.W)

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

    def title(self, row: int) -> str:
        """Return what the picture in `row` is called: its number, its name, and its label in brackets.

        Parameters
        ----------
        row : int
            Number of the row.

        Returns
        -------
        str
        """
        return Pictures(self.model.W, None, self.model.names, self.model.labels).title(row)

    def originals(self, rows: ArrayLike) -> Array:
        """Return original pictures.

        Parameters
        ----------
        rows : array-like of int of shape (n,)
            Their row numbers.

        Returns
        -------
        ndarray of shape (n, n_features)
            In the type they are kept in.

        Raises
        ------
        InputError
            When the engine was loaded from a folder without them, and the model's source is no longer there.
        """
        return self._originals().take(np.asarray(rows, dtype=np.int64))

    def reconstructions(self, rows: ArrayLike) -> Array:
        """Return pictures as their parts make them.

        Parameters
        ----------
        rows : array-like of int of shape (n,)
            Their row numbers.

        Returns
        -------
        ndarray of shape (n, n_features), float32 or float64
        """
        return self.model.reconstruct(np.asarray(rows, dtype=np.int64))

    def matrix(self) -> Array:
        """Return all original pictures, for `nmfcore.analysis` and `nmfcore.plots`.

        Returns
        -------
        ndarray or memmap of shape (n, n_features)
            Copied only where pictures were added or taken out since.

        Raises
        ------
        InputError
            As `originals` does.
        """
        stack = self._originals()
        if len(stack.blocks) == 1 and stack.places is None:
            return stack.blocks[0]
        return stack.take(np.arange(len(stack)))

    @property
    def masks(self) -> PictureMasks | None:
        """Which pixels of the originals are masked: ``masks[rows]`` is bool, (n_rows, n_features). None: no pixel is.

        Where the engine was loaded from a folder without them, they are made again from the model's source, or
        InputError says that it is no longer there.
        """
        if self._hidden is None and self.model.masked:
            self._read_again()
        return self._hidden

    def _originals(self) -> Stack:
        if self._rows is None:
            self._read_again()
        assert self._rows is not None
        return self._rows

    def _read_again(self) -> None:
        """Read the originals, and their masks, from where they came from."""
        pictures = _from_source(self.model, self._folder, PICTURES if self._rows is None else MASK)
        self._rows = self._rows or Stack(pictures.matrix)
        if self._hidden is None and self.model.masked:
            mask = pictures.mask
            self._hidden = PictureMasks.of_none(*pictures.matrix.shape) if mask is None else PictureMasks.of(mask)

    def _space(self, name: str | None = None) -> Space:
        """Return a space, made at its first use; None is the engine's own."""
        name = self.space if name is None else name
        space = self._spaces.get(name)
        if space is None:
            space = self._spaces[name] = Space(name, self.model)
        return space

    # --- searching --------------------------------------------------------------------------------

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
        point, code = self._aim(terms, place)
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

    def _terms(self, query: Query | Sequence[Query], weights: ArrayLike | None) -> tuple[Term, ...]:
        """Return the pictures of a query."""
        model = self.model
        queries = one_by_one(query, model.components.shape[1], model.shape is not None, weights)
        numbers = checked_weights(weights, len(queries))
        terms = []
        for one, weight in zip(queries, numbers, strict=True):
            row, title, code, pixels, mask = self._resolve(one)
            terms.append(Term(title, row, weight, code, pixels, mask))
        return tuple(terms)

    def _aim(self, terms: Sequence[Term], place: Space) -> tuple[Array, Array]:
        """Return the point (1 × k) of a query in a space, and its mixture of parts."""
        points = [place.point(term.row, term.code) for term in terms]
        if len(terms) == 1 and (terms[0].weight > 0 or points[0].any()):  # the very numbers of the picture
            sign = np.sign(terms[0].weight).astype(points[0].dtype)
            return sign * points[0], sign * terms[0].code
        total, factors = combined([point[0] for point in points], [term.weight for term in terms])
        codes = np.stack([np.asarray(term.code, np.float64) for term in terms])
        return total[None], factors @ codes

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
            self._aim(each.terms if isinstance(each, Found) else self._terms(each, None), place) for each in (a, b)
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

    def read(self, source: Given, *, skip_broken: bool = False, progress: Progress | None = None) -> Pictures:
        """Read pictures as those of the engine are: their size, and colours or none.

        Parameters
        ----------
        source : path-like, Pictures or array-like
            As for `fit`; a single picture file as well. A folder's pictures are resized to those of the engine.
        skip_broken : bool
            Leave out pictures that cannot be decoded.
        progress : callable(done, total) or None
            Called while pictures are read.

        Returns
        -------
        Pictures
            Ready for `transform` and `add`.

        Raises
        ------
        InputError
            When the source cannot be read, or holds rows of another width.
        """
        shape, m = self.shape, self.model.components.shape[1]
        if may_be_masked(self.model.decoding):
            self._check_masked()
        size = None if shape is None else (shape[0], shape[1])
        if shape is not None and isinstance(source, str | os.PathLike):
            path = Path(os.path.expanduser(source))
            if path.is_file() and _is_picture_file(path):
                row, mask = picture_and_mask(path, shape, decoding=self.model.decoding or {})
                hidden = None if mask is None else mask[None]
                return Pictures(row[None], shape, (path.name,), None, str(path), mask=hidden)
        folder = isinstance(source, str | os.PathLike) and Path(os.path.expanduser(source)).is_dir()
        rgb = shape is not None and len(shape) == 3
        decoding = (self.model.decoding or {}) if folder else None
        pictures = _pictures(source, size if folder else None, rgb, skip_broken, progress, decoding)
        if pictures.matrix.shape[1] != m:
            given, width = pictures.source or "the matrix", pictures.matrix.shape[1]
            raise InputError(
                f"the rows of '{given}' have {width} features, those of the model {m}: give pictures of the same size"
            )
        return pictures

    def transform(self, source: Given, *, skip_broken: bool = False, progress: Progress | None = None) -> Array:
        """Write other pictures as mixtures of the parts.

        Parameters
        ----------
        source : path-like, Pictures or array-like
            As for `read`.
        skip_broken : bool
            Leave out pictures that cannot be decoded.
        progress : callable(done, total) or None
            Called while pictures are read.

        Returns
        -------
        ndarray of shape (n, k), float32 or float64
            A row's code does not depend on the other rows. Masked pixels have no part in it.

        Raises
        ------
        InputError
            When the source cannot be read, or holds rows of another width.
        """
        pictures = self.read(source, skip_broken=skip_broken, progress=progress)
        return self._coded(pictures.matrix, pictures.mask)

    def add(self, source: Given, *, skip_broken: bool = False, progress: Progress | None = None) -> Array:
        """Add pictures, coded by the parts that were learned; the parts stay as they are.

        Parameters
        ----------
        source : path-like, Pictures or array-like
            As for `transform`.
        skip_broken : bool
            Leave out pictures that cannot be decoded.
        progress : callable(done, total) or None
            Called while pictures are read.

        Returns
        -------
        ndarray of shape (n_added,), int64
            Row numbers of the new pictures. Those of the others do not change.

        Raises
        ------
        InputError
            When the source cannot be read, or the originals that the new ones join are nowhere to be found.

        Examples
        --------
        >>> import numpy as np
        >>> from nmfcore.search.engine import SearchEngine
        >>> X = np.random.default_rng(0).random((40, 12))
        >>> engine = SearchEngine(3).fit(X[:30])
        >>> engine.add(X[30:]).tolist() == list(range(30, 40))
        True
        """
        pictures = self.read(source, skip_broken=skip_broken, progress=progress)
        model, old = self.model, len(self)
        stack = self._originals().below(pictures.matrix)
        codes = self._coded(pictures.matrix, pictures.mask)
        masks, masked = self.masks, 0 if pictures.mask is None else int(np.count_nonzero(pictures.mask))
        if masks is not None or masked:
            masks = PictureMasks.of_none(old, stack.shape[1]) if masks is None else masks
            new = PictureMasks.of_none(len(codes), stack.shape[1])
            masks = masks.below(new if pictures.mask is None else PictureMasks.of(pictures.mask))
        names = None
        if model.names is not None or pictures.names is not None:
            before = model.names or tuple(f"row {row}" for row in range(old))
            after = pictures.names or tuple(f"row {row}" for row in range(old, old + len(codes)))
            names = before + after
        labels = _joined(model.labels, pictures.labels, old, len(codes))
        W = np.concatenate([model.W, codes.astype(model.W.dtype, copy=False)])
        changed = dataclasses.replace(model, W=W, names=names, labels=labels, masked=model.masked + masked)
        self._set(changed, stack, self._folder, masks)
        return np.arange(old, old + len(codes))

    def duplicates(
        self,
        near: float | None = None,
        mirrored: bool = False,
        *,
        distance: float | None = None,
        linkage: str = "single",
        kinds: Sequence[str] = KINDS,
        folder: str | os.PathLike[str] | None = None,
        max_pairs: int = MAX_PAIRS,
    ) -> Duplicates:
        """Find pictures that are there more than once; nothing is moved or deleted.

        Three kinds are kept apart: equal files (the same bytes), equal pixels (after decoding), and near pictures,
        whose codes have a cosine of at least `near` and whose pixels have ‖x_i − x_j‖ / max(‖x_i‖, ‖x_j‖) ≤
        `distance`. A later kind sees one picture of each group of the kinds before it. Black pictures match only
        exactly.

        Parameters
        ----------
        near : float or None
            Least cosine of the codes of a near pair, whatever the space of the engine. None, the default, means 0.995.
        mirrored : bool
            Whether to find mirror images (left and right exchanged), too. They are coded for this.
        distance : float or None
            Largest relative distance of the pixels of a near pair. None, the default, means 0.2.
        linkage : {"single", "complete"}
            How near pairs become groups. "single", the default: whatever a chain of pairs connects. "complete": every
            two pictures of a group are a pair.
        kinds : sequence of {"file", "pixels", "near"}
            Which kinds to look for; all by default.
        folder : path-like or None
            Where the files of the pictures are. None, the default, looks where the model was read from; without files,
            pixels are compared at the size of the model, and the first picture by name is kept.
        max_pairs : int
            How many near pairs to keep at most, the most similar ones; a warning says if there were more.

        Returns
        -------
        Duplicates
            Groups with the picture to keep in each: the one with the most pixels; of these the one with the largest
            file, then the oldest, then the first by name.

        Raises
        ------
        InputError
            When the originals are nowhere to be found, there is no such folder, or mirror images of rows that are no
            pictures are asked for.
        ValueError
            When a number is out of range, or a name unknown.

        Examples
        --------
        >>> import numpy as np
        >>> from nmfcore.search.engine import SearchEngine
        >>> X = np.random.default_rng(0).random((40, 12))
        >>> X[30], X[31] = X[3], 1.02 * X[5]
        >>> found = SearchEngine(4).fit(X).duplicates()
        >>> [(group.kind, group.rows.tolist()) for group in found]
        [('pixels', [3, 30]), ('near', [5, 31])]
        """
        return find_duplicates(self, near, mirrored, distance, linkage, kinds, folder, max_pairs)

    def update(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        yes: bool = False,
        progress: Progress | bool | None = True,
    ) -> Changes:
        """Follow the folder that the engine was made of: add, code anew, rename and take out what has changed there.

        Files of the same size and date are left alone. Of others a digest of the content decides: a file whose content
        is known from a path that is gone was renamed, and keeps its code; one with another content is decoded and
        coded, as `transform` does it. The parts stay as they are. The engine in memory changes; `save` with
        ``overwrite=True`` writes it.

        Parameters
        ----------
        folder : path-like or None
            The folder; None: the one that the engine was made of, where it was then.
        yes : bool
            Go on although more than half of the pictures are gone. Defaults to False.
        progress : callable(done, total), bool or None
            Called while new pictures are decoded. True, the default, shows a bar on a terminal and in a notebook, if
            rich is installed.

        Returns
        -------
        Changes
            Added, changed, removed, renamed and broken files. Pictures that stay keep their order, and their numbers
            if none before them is taken out; new ones come after them.

        Raises
        ------
        InputError
            When there is no such folder, no picture in it (it is never taken as one that all pictures were removed
            from), more than half of the pictures are gone, or the engine was not made of a folder. When pictures were
            changed or are gone whose masks the engine should know and does not, as it was saved without them.
        ModelFileError
            When what the model knows of its files is damaged.

        Notes
        -----
        An engine of an earlier nmfcore does not know its files' contents: all of them are decoded at the first update,
        and those of which the pixels are the same are left alone. What `remove` took out comes back if its file is
        still there.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from nmfcore.search import SearchEngine
        >>> place = tempfile.TemporaryDirectory()
        >>> folder = pathlib.Path(place.name)
        >>> for number in range(1, 9):
        ...     Image.linear_gradient("L").rotate(45 * number).resize((6, 4)).save(folder / f"{number}.png")
        >>> engine = SearchEngine(2).fit(folder)
        >>> _ = (folder / "3.png").rename(folder / "three.png")
        >>> Image.radial_gradient("L").resize((6, 4)).save(folder / "9.png")
        >>> engine.update()
        1 added: 9.png
        1 renamed: 3.png → three.png
        >>> place.cleanup()
        """
        from .update import follow

        if may_be_masked(self.model.decoding):
            self._check_masked()
        model, stack, masks, changes = follow(
            self.model, self._rows, self._hidden, folder, self._coded, yes=yes, progress=progress
        )
        if model is not self.model:
            self._set(model, stack, self._folder, masks)
        return changes

    def remove(self, pictures: int | str | Sequence[int | str]) -> None:
        """Take pictures out of the engine; their files stay where they are.

        Parameters
        ----------
        pictures : int, str, or sequence of these
            Row numbers, or names. The rows after them move up.

        Raises
        ------
        InputError
            When there is no such row or name, or no picture would be left.

        Examples
        --------
        >>> from nmfcore.search import SearchEngine
        >>> engine = SearchEngine(4).fit("digits")
        >>> engine.remove([0, 2])
        >>> len(engine)
        1795
        """
        given = (
            list(pictures)
            if isinstance(pictures, Sequence | np.ndarray) and not isinstance(pictures, str)
            else [pictures]
        )
        model, gone = self.model, set()
        for each in given:
            row = self._numbers.get(each, -1) if isinstance(each, str) else each
            if isinstance(row, bool) or not isinstance(row, int | np.integer) or not 0 <= row < len(self):
                raise InputError(
                    f"there is no picture {each!r}: give names, or row numbers from 0 to {len(self) - 1:,}"
                )
            gone.add(int(row))
        rows = np.setdiff1d(np.arange(len(self)), np.array(sorted(gone), np.int64))
        if not len(rows):
            raise InputError("no picture would be left: a SearchEngine holds one at least")
        changed: dict[str, Any] = {
            "W": model.W[rows],
            "names": None if model.names is None else tuple(model.names[row] for row in rows.tolist()),
            "labels": None if model.labels is None else model.labels[rows],
            "files": None if model.files is None else Manifest.of(model).chosen(rows.tolist()).plain(),
        }
        stack, masks = None if self._rows is None else self._rows.chosen(rows), self.masks
        if masks is not None:
            masks = masks.chosen(rows)
            changed["masked"] = int(masks.counts().sum())
        self._set(dataclasses.replace(model, **changed), stack, self._folder, masks)

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

        query, made = self._drawn(found.terms)
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

    def meant(self, text: str) -> tuple[int | str, str | None]:
        """Say which picture a text means, as someone types it: a name, the number of a row, or a file.

        A name comes first. "4802" is the picture 4802.jpg where there is one, else the row of that number; "row 4802"
        is always the row. Everything else is taken for a file.

        Parameters
        ----------
        text : str
            What was typed.

        Returns
        -------
        query : int or str
            A row number, or the path of a file, for `search`.
        note : str or None
            A sentence, where a row of that number could have been meant as well.

        Raises
        ------
        InputError
            When there is no such row, or several pictures of that number.

        Examples
        --------
        >>> from nmfcore.search.engine import SearchEngine
        >>> engine = SearchEngine(8).fit("digits")
        >>> engine.meant("12"), engine.meant("row 12"), engine.meant("cat.jpg")
        ((12, None), (12, None), ('cat.jpg', None))
        """
        return meant(text, self._numbers, len(self))

    def _drawn(self, terms: Sequence[Term]) -> tuple[Array, Array]:
        """Return a query's picture and reconstruction; of several, the sum of their pictures, each as bright."""
        pictures = [
            self.originals([cast("int", term.row)])[0] if term.pixels is None else term.pixels for term in terms
        ]
        if len(terms) == 1:
            return pictures[0], terms[0].code @ self.model.components
        stack = np.stack([np.asarray(picture, np.float64) for picture in pictures])
        made = np.stack([np.asarray(term.code, np.float64) for term in terms]) @ self.model.components
        lengths = np.linalg.norm(stack, axis=1)
        factors = np.array([term.weight for term in terms]) / np.where(lengths > 0, lengths, 1)
        # as long as the pictures are on the average, so that it has their brightness
        factors *= lengths.mean() / (sum(term.weight for term in terms if term.weight > 0) or 1.0)
        return np.maximum(factors @ stack, 0), np.maximum(factors @ made, 0)

    def _resolve(self, query: Query) -> tuple[int | None, str, Array, Array | None, Array | None]:
        """Return a query's row, title, code, pixels and mask."""
        model = self.model
        if isinstance(query, str) and query in self._numbers:
            query = self._numbers[query]
        if isinstance(query, int | np.integer) and not isinstance(query, bool):
            row = int(query)
            if not 0 <= row < len(self):
                raise InputError(f"there is no row {row}: rows are numbered 0 to {len(self) - 1:,}")
            return row, self.title(row), model.W[row], None, None
        title, m = "the query", model.components.shape[1]
        if isinstance(query, str | os.PathLike):
            path = Path(os.path.expanduser(query))
            if not path.is_file():
                raise InputError(
                    f"there is no picture '{query}', neither by name nor as a file{hint(str(query), self._numbers)}"
                )
            query, title = path, path.name
        if isinstance(query, np.ma.MaskedArray):
            if query.shape not in ((m,), self.shape):
                raise InputError(f"a masked array must have the form of the pictures, {self.shape or (m,)}")
            given, hidden = np.asarray(query.data).reshape(m), np.ma.getmaskarray(query).reshape(m)
            return None, title, self._coded(given[None], hidden[None])[0], given, hidden
        numbers = None if isinstance(query, Path) or hasattr(query, "read") else np.asarray(query)
        if numbers is not None and numbers.shape == (m,):  # a row as it is; pictures are converted
            return None, title, self._coded(numbers[None])[0], numbers, None
        if model.shape is None:
            raise InputError(f"rows of this model are no pictures: give a row number or a row of {m} numbers")
        pixels, mask = picture_and_mask(query, model.shape, decoding=model.decoding or {})  # type: ignore[arg-type]
        return None, title, self._coded(pixels[None], None if mask is None else mask[None])[0], pixels, mask

    def _coded(self, matrix: Array, mask: Array | None = None) -> Array:
        transform = self._estimator.transform  # type: ignore[union-attr]
        if mask is None:
            return np.asarray(transform(matrix))
        self._check_masked()
        # Rows without and with masked pixels are solved in different ways, which differ in the last bit: whichever a
        # row needs decides, and not its company.
        codes: Array | None = None
        height = max(1, _AT_ONCE // max(1, matrix.shape[1] * matrix.dtype.itemsize))
        for start in range(0, len(matrix), height):
            rows, hidden = matrix[start : start + height], mask[start : start + height]
            some = hidden.any(axis=1)
            for chosen, hides in ((~some, None), (some, hidden[some])):
                if not chosen.any():
                    continue
                coded = np.asarray(transform(rows[chosen], mask=hides))
                if codes is None:
                    codes = np.empty((len(matrix), coded.shape[1]), coded.dtype)
                codes[start : start + height][chosen] = coded
        return np.asarray(transform(matrix)) if codes is None else codes

    def _check_masked(self) -> None:
        """Raise InputError if the estimator cannot code pictures of which pixels are masked."""
        if not getattr(self._estimator, "_takes_masks", False):
            made = type(self._estimator).__name__
            raise InputError(
                f"pixels of the picture are masked, and the model was made by {made}, which takes no masks: fit NMF, "
                "or pictures without masked pixels"
            )


# --- pictures and rows ----------------------------------------------------------------------------


def _pictures(
    source: Given | None,
    size: tuple[int, int] | None,
    rgb: bool,
    skip_broken: bool,
    progress: Progress | bool | None,
    decoding: Mapping[str, object] | None = None,
    how: Mapping[str, Any] | None = None,
) -> Pictures:
    if isinstance(source, Pictures):
        return source
    if isinstance(source, str | os.PathLike) or source is None:
        read = None if source == "digits" and not Path("digits").exists() else source
        mode: Literal["L", "RGB"] = "RGB" if rgb else "L"
        return read_source(read, size, skip_broken, progress, mode=mode, decoding=decoding, **(how or {}))
    array = np.asanyarray(source)
    mask: Array | None = None
    if isinstance(array, np.ma.MaskedArray):
        mask = np.asarray(array.mask) if np.ma.is_masked(array) else None
        array = np.asanyarray(array.data)
    shape: tuple[int, ...] | None = size
    if array.ndim in (3, 4):
        shape = array.shape[1:]
        array = array.reshape(len(array), -1)
    if array.ndim != 2:
        raise InputError(f"pictures of shape {array.shape}: expected n × features, n × height × width, or × 3 colours")
    if shape is not None and math.prod(shape) != array.shape[1]:
        raise InputError(f"size {size} makes {math.prod(shape)} pixels, a row of the matrix has {array.shape[1]}")
    return Pictures(array, shape, mask=None if mask is None else mask.reshape(array.shape))


def _shortened(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 80 else f"{name[:79]}…"


def _is_picture_file(path: Path) -> bool:
    from ..images import PICTURE_SUFFIXES

    return path.suffix.lower() in PICTURE_SUFFIXES


def _from_source(model: Model, folder: Path | None, lacking: str = PICTURES) -> Pictures:
    """Read the originals of a model again from where they came from; `lacking` names the file that they were not in."""
    lacks = f"the {'masks' if lacking == MASK else 'originals'} are needed, and " + (
        "the engine has none" if folder is None else f"'{folder}' has no {lacking}"
    )
    again = "fit once more, with --pictures on the command line"
    if not model.source:
        raise InputError(f"{lacks}: {again}")
    size = None if model.shape is None else (model.shape[0], model.shape[1])
    rgb = model.shape is not None and len(model.shape) == 3
    try:
        known = Manifest.of(model)  # of a model without a list of files: names below subfolders tell
        if model.files is not None and known.root:
            how: dict[str, object] = {"recursive": known.recursive, "exclude": known.exclude}
            source = known.root
        else:
            how, source = {"recursive": known.recursive}, model.source
        pictures = _pictures(source, size, rgb, True, None, model.decoding, how)
    except (InputError, OSError) as error:
        raise InputError(f"{lacks}, nor can they be read from '{model.source}' any more: {again}") from error
    matrix = pictures.matrix
    if model.names is not None and pictures.names is not None and pictures.names != model.names:
        numbers = {name: row for row, name in enumerate(pictures.names)}
        rows = [numbers.get(name, -1) for name in model.names]
        whole = min(rows, default=-1) >= 0 and model.files is not None
        matrix = matrix[rows] if whole else matrix[:0]
        mask = pictures.mask[rows] if whole and pictures.mask is not None else None
        pictures = dataclasses.replace(pictures, matrix=matrix, mask=mask, names=model.names, labels=None)
    if matrix.shape != (len(model.W), model.components.shape[1]) or (pictures.names is None) != (model.names is None):
        raise InputError(f"{lacks}, and '{model.source}' no longer holds what the model was made of: {again}")
    return pictures


def _mapped_masks(home: Path, model: Model) -> PictureMasks | None:
    """Memory-map the masks beside a model; None where it has none, or its file of masks is lost."""
    if not model.masked or not (home / MASK).exists():
        return None
    return PictureMasks.read(home / MASK, len(model.W), model.components.shape[1], model.places)


def _mapped(path: Path, model: Model) -> Array:
    """Memory-map the originals beside a model."""
    n, m = len(model.W), model.components.shape[1]
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        shape = rows.shape
    except (ValueError, EOFError, OSError, AttributeError) as error:
        raise ModelFileError(f"'{path}' is damaged and cannot be read: fit once more") from error
    if len(shape) != 2 or shape[1] != m or (model.places is None and shape[0] < n) or rows.dtype.kind not in "biuf":
        raise ModelFileError(
            f"'{path}' {shape} does not belong to the model beside it, which was made of {n:,} rows of {m} features: "
            "remove it, or fit once more"
        )
    if model.places is None:
        return rows[:n]
    if model.places.max(initial=-1) >= len(rows):
        raise ModelFileError(f"'{path}' lacks originals of the model beside it: fit once more")
    return rows


@dataclass(frozen=True)
class _Saved:
    """Number, size and time of the files of an engine when they were read, by which a change is noticed."""

    model: tuple[int, int, int] | None  # of model.npz: number of the file, size, and time of the last change
    folder: tuple[int, int] | None  # device and number of the folder
    pictures: bool  # whether there are originals
    masks: bool = False  # whether there is a file of masks, which may be that of an earlier model
    mask: Literal["none", "kept", "lost"] = field(default="none", compare=False)  # where the model's masks are

    @classmethod
    def of(cls, home: Path) -> _Saved:
        """Return the state of a folder as it is now."""
        try:
            seen, folder = os.stat(home / MODEL), os.stat(home)
        except OSError:
            return cls(None, None, False)
        model = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
        pictures, masks = ((home / name).exists() for name in (PICTURES, MASK))
        return cls(model, (folder.st_dev, folder.st_ino), pictures, masks)

    def knowing(self, model: Model) -> _Saved:
        """Return the same with what the model says: whether pixels are masked."""
        return dataclasses.replace(self, mask="none" if not model.masked else "kept" if self.masks else "lost")

    def at(self, home: Path) -> bool:
        """Whether a path leads to the folder whose state this is."""
        return self.folder is not None and _Saved.of(home).folder == self.folder


def _is_range(places: Array) -> bool:
    return bool(np.array_equal(places, np.arange(len(places))))


def _save_space(path: Path, space: str) -> None:
    with replacing(path) as file:
        file.write(json.dumps({"space": space}).encode() + b"\n")


def _saved_space(folder: Path) -> str:
    path = folder / SETTINGS
    if not path.exists():
        return SPACES[0]
    try:
        space = json.loads(path.read_text(encoding="utf-8"))["space"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"'{path}' is damaged: remove it, or give the space") from error
    if space not in SPACES:
        raise ModelFileError(f"'{path}' names the space {space!r}: this version has {', '.join(SPACES)}")
    return str(space)


def _joined(old: ArrayLike | None, new: ArrayLike | None, n_old: int, n_new: int) -> Array | None:
    """Labels of both; what has none is labelled with the empty string."""
    if old is None and new is None:
        return None
    if old is not None and new is not None:
        old, new = np.asarray(old), np.asarray(new)
        return np.concatenate([old, new] if old.dtype.kind == new.dtype.kind else [old.astype(str), new.astype(str)])
    first = np.zeros(n_old, "U1") if old is None else np.asarray(old).astype(str)
    second = np.zeros(n_new, "U1") if new is None else np.asarray(new).astype(str)
    return np.concatenate([first, second])


def write_rows(blocks: Sequence[Array | Stack], path: str | os.PathLike[str]) -> None:
    """Write blocks of rows as one ``.npy`` file, whole or not at all, without putting them together in memory.

    Parameters
    ----------
    blocks : sequence of array-like of shape (n_i, m), or Stack
        Rows; of one type, or of types that have a common one.
    path : path-like
        The file; an older one is replaced.
    """
    dtype = np.result_type(*(block.dtype for block in blocks))
    shape = (sum(len(block) for block in blocks), *blocks[0].shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            for part in _parts(block):
                file.write(np.ascontiguousarray(part, dtype=dtype).data)


def frobenius_norm(X: Array, mask: Array | None = None) -> float:
    """‖X‖_F, a block of rows at a time.

    Parameters
    ----------
    X : array-like of shape (n, m)
        Rows.
    mask : ndarray of shape (n, m), bool, or None
        True where an entry does not count. None, the default, counts all of them.

    Returns
    -------
    float
    """
    total, start = 0.0, 0
    for part in _parts(X):
        numbers = part.astype(np.float64)
        if mask is not None:
            numbers[mask[start : start + len(part)]] = 0
        start, numbers = start + len(part), numbers.ravel()
        total += float(numbers @ numbers)
    return math.sqrt(total)


def _parts(X: Array | Stack) -> Iterator[Array]:
    rows = max(1, _AT_ONCE // max(1, 8 * X.shape[1]))
    return (X[start : start + rows] for start in range(0, len(X), rows))
