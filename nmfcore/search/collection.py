"""Pictures that are coded by parts: what of them is kept, and how they come and go."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._typing import Array
from ..images import Pictures
from ..models import Model, estimator_from
from ..models.model import may_be_masked
from .asking import title_of_row
from .coding import check_takes_masks, coded
from .contents import Contents, added, removed
from .duplicates import KINDS, Duplicates
from .finding import MAX_PAIRS, find_duplicates
from .folders import MASK, PICTURES
from .given import Progress, pictures_like, read_again
from .masks import PictureMasks
from .names import meant
from .stack import Stack

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..estimators import NMF, MiniBatchNMF
    from .given import Given
    from .spaces import Space
    from .update import Changes

__all__ = ["Collection"]


class Collection:
    """Pictures with their codes, originals, names and masks: what a `SearchEngine` searches."""

    _model: Model | None = None
    _estimator: NMF | MiniBatchNMF | None = None
    _rows: Stack | None = None
    _hidden: PictureMasks | None = None
    _folder: Path | None = None

    def _set(self, model: Model, rows: Stack | None, folder: Path | None, masks: PictureMasks | None = None) -> None:
        if model.places is not None:  # the stack has them
            model = dataclasses.replace(model, places=None)
        self._model, self._rows, self._folder, self._hidden = model, rows, folder, masks
        self._estimator = estimator_from(model)
        self._spaces: dict[str, Space] = {}
        self._numbers: dict[str, int] = {}
        for row, name in enumerate(model.names or ()):
            self._numbers.setdefault(name, row)

    def _take(self, contents: Contents) -> None:
        """Hold other contents, of the same folder."""
        self._set(contents.model, contents.rows, self._folder, contents.masks)

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
        return title_of_row(self.model, row)

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
        pictures = read_again(self.model, self._folder, PICTURES if self._rows is None else MASK)
        self._rows = self._rows or Stack(pictures.matrix)
        if self._hidden is None and self.model.masked:
            mask = pictures.mask
            self._hidden = PictureMasks.of_none(*pictures.matrix.shape) if mask is None else PictureMasks.of(mask)

    # --- coding -----------------------------------------------------------------------------------

    def _fitted(self) -> NMF | MiniBatchNMF:
        assert self._estimator is not None
        return self._estimator

    def _coded(self, matrix: Array, mask: Array | None = None) -> Array:
        return coded(self._fitted(), matrix, mask)

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
        if may_be_masked(self.model.decoding):
            check_takes_masks(self._fitted())
        return pictures_like(self.model, source, skip_broken, progress)

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

    # --- pictures that come and go ------------------------------------------------------------------

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
        held, first = Contents(self.model, self._originals(), self.masks), len(self)
        self._take(added(held, pictures, self._coded(pictures.matrix, pictures.mask)))
        return np.arange(first, len(self))

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
            check_takes_masks(self._fitted())
        held = Contents(self.model, self._rows, self._hidden)
        contents, changes = follow(held, folder, self._coded, yes=yes, progress=progress)
        if contents is not held:
            self._take(contents)
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
        self._take(removed(Contents(self.model, self._rows, self.masks), pictures, self._numbers))

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
