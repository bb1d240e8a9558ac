"""What a search for duplicates has found: groups of pictures with the one to keep, as text, table and thumbnails."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._files import replacing
from .._text import printable
from .._typing import Array
from ..images import InputError
from .moving import Move, move_files
from .originals import PictureFiles
from .surplus import planned_moves

if TYPE_CHECKING:
    from pandas import DataFrame

    from .collection import Collection

__all__ = ["KINDS", "KIND_NAMES", "DuplicateGroup", "Duplicates"]

KINDS = ("file", "pixels", "near")
KIND_NAMES = {"file": "equal files", "pixels": "equal pixels", "near": "near"}
_COLUMNS = ("group", "kind", "row", "name", "keep", "score", "distance", "mirrored")
_LISTED = 20  # groups that a repr and a notebook show


@dataclass(frozen=True, eq=False)
class DuplicateGroup:
    """Pictures that are the same, or nearly the same.

    Attributes
    ----------
    kind : {"file", "pixels", "near"}
        "file": their files have the same bytes. "pixels": the files differ, and the decoded pixels are equal. "near":
        codes and pixels are close.
    rows : ndarray of shape (n_rows,), int64
        Row numbers; the one to keep comes first, the others in ascending order.
    names : tuple of n_rows str
        What these rows are called.
    scores : ndarray of shape (n_rows,), float64
        Cosines of their codes with that of the first; 1 where files or pixels are equal.
    distances : ndarray of shape (n_rows,), float64
        ‖x − x_0‖ / max(‖x‖, ‖x_0‖), x_0 the pixels of the first; 0 where files or pixels are equal.
    mirrored : ndarray of shape (n_rows,), bool
        Which of them are mirror images of the first.
    score : float
        The least cosine of the codes of any two of them. Under single linkage it may be below the cosine that was
        asked for: the first and the last of a chain of pairs need not be a pair.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search import SearchEngine
    >>> X = np.random.default_rng(0).random((30, 12))
    >>> X[20] = X[3]
    >>> (group,) = SearchEngine(3).fit(X).duplicates()
    >>> group.kind, group.rows.tolist(), group.keep, group.score
    ('pixels', [3, 20], 3, 1.0)
    """

    kind: str
    rows: Array
    names: tuple[str, ...]
    scores: Array
    distances: Array
    mirrored: Array
    score: float

    @property
    def keep(self) -> int:
        """Row number of the picture to keep: the one with the most pixels, the largest file, the oldest, by name."""
        return int(self.rows[0])

    @property
    def surplus(self) -> Array:
        """Row numbers of the others."""
        return self.rows[1:]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        shown = ", ".join(printable(name) for name in self.names[:_LISTED])
        more = f" and {len(self) - _LISTED:,} more" if len(self) > _LISTED else ""
        return f"{KIND_NAMES[self.kind]}, score {self.score:.3f}: {shown}{more}"


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Groups of duplicates. Nothing is ever deleted; `move_to` moves files, and what it did can be undone.

    Attributes
    ----------
    groups : tuple of DuplicateGroup
        First equal files, then equal pixels, then near ones; of a kind, the most similar first.
    near : float
        Least cosine of the codes of a near pair.
    distance : float
        Largest relative distance of the pixels of a near pair.
    linkage : {"single", "complete"}
        How pairs became groups.
    mirrored : bool
        Whether mirror images were looked for.
    notes : tuple of str
        What was left out, a sentence each; also shown as warnings.

    See Also
    --------
    SearchEngine.duplicates : Makes it.

    Examples
    --------
    >>> from nmfcore.search import SearchEngine
    >>> engine = SearchEngine(16).fit("digits")
    >>> found = engine.duplicates(near=0.995, distance=0.1)
    >>> len(found) == len(found.groups), bool((found.surplus >= 0).all())
    (True, True)
    """

    groups: tuple[DuplicateGroup, ...]
    near: float
    distance: float
    linkage: str = "single"
    mirrored: bool = False
    notes: tuple[str, ...] = ()
    _engine: Collection | None = field(default=None, init=False, repr=False)
    _files: PictureFiles | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_engine": None}  # the engine is not pickled with what it has found

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[DuplicateGroup]:
        return iter(self.groups)

    @property
    def surplus(self) -> Array:
        """Row numbers of all pictures but those to keep, ascending."""
        parts = [group.surplus for group in self.groups]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)

    def __repr__(self) -> str:
        shown = [f"  {group!r}" for group in self.groups[:_LISTED]]
        more = [f"  and {len(self) - _LISTED:,} more groups"] if len(self) > _LISTED else []
        return "\n".join([self._heading() + ":" * bool(shown), *shown, *more])

    def _heading(self) -> str:
        if not self.groups:
            return "no duplicates"
        counts = [(sum(group.kind == kind for group in self.groups), KIND_NAMES[kind]) for kind in KINDS]
        kinds = ", ".join(f"{number:,} {name}" for number, name in counts if number)
        return f"{len(self):,} group{'s' * (len(self) != 1)} of duplicates ({kinds}), {len(self.surplus):,} surplus"

    def _repr_html_(self) -> str | None:
        engine = self._engine
        if engine is None or engine.shape is None or not self.groups:
            return None
        try:
            from ..images.thumbnails import brightness, gallery, picture_png

            parts = []
            for group in self.groups[:_LISTED]:
                pixels = engine.originals(group.rows[:_LISTED])
                top = brightness(pixels)
                pngs = [picture_png(row, engine.shape, top, longest=144) for row in pixels]
                titles = [("keep " if place == 0 else "") + name for place, name in enumerate(group.names[:_LISTED])]
                heading = f"{KIND_NAMES[group.kind]}, score {group.score:.3f}"
                parts.append(gallery(heading, pngs, titles, len(group) - len(pngs)))
        except (ImportError, InputError):  # without Pillow, or without the originals, a notebook shows the text
            return None
        more = f"<div>and {len(self) - _LISTED:,} more groups</div>" if len(self) > _LISTED else ""
        return f"<div><div>{self._heading()}</div>{''.join(parts)}{more}</div>"

    def _columns(self) -> dict[str, list[object]]:
        columns: dict[str, list[object]] = {name: [] for name in _COLUMNS}
        for number, group in enumerate(self.groups):
            for place, row in enumerate(group.rows.tolist()):
                cells = (number, group.kind, row, group.names[place], place == 0, float(group.scores[place]),
                         float(group.distances[place]), bool(group.mirrored[place]))  # fmt: skip
                for name, cell in zip(_COLUMNS, cells, strict=True):
                    columns[name].append(cell)
        return columns

    def to_pandas(self) -> DataFrame:
        """Return the groups as a table, a row for each picture.

        Returns
        -------
        pandas.DataFrame
            With the columns "group", "kind", "row", "name", "keep", "score", "distance" and "mirrored". Score and
            distance are those to the picture to keep.

        Raises
        ------
        ImportError
            When pandas is missing.
        """
        from pandas import DataFrame

        return DataFrame(self._columns())

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Write the groups as comma-separated values, with the columns of `to_pandas`.

        Parameters
        ----------
        path : path-like or None
            File to write or replace. None, the default, returns the text.

        Returns
        -------
        str or None
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        columns = self._columns()
        table.writerow(columns)
        table.writerows(zip(*columns.values(), strict=True))
        if path is None:
            return text.getvalue()
        with replacing(path) as file:
            file.write(text.getvalue().encode("utf-8", "backslashreplace"))
        return None

    def path(self, row: int) -> Path | None:
        """Return the file of a row.

        Parameters
        ----------
        row : int
            Number of the row.

        Returns
        -------
        Path or None
            None for a row that has none of its own: it came from a table, is one page of a file, or the file is gone.
        """
        return None if self._files is None else self._files.path(row)

    def moves(self, folder: str | os.PathLike[str]) -> tuple[list[Move], list[str]]:
        """Say which files `move_to` would move, and where to; nothing is moved.

        Every file is looked at again: one that has changed since it was read stays.

        Parameters
        ----------
        folder : path-like
            Where surplus pictures go; made if it does not exist. It must not lie in the folder of the pictures, where
            they would be found again.

        Returns
        -------
        moves : list of Move
            Source and target of each file, and the file that is kept instead.
        left : list of str
            A sentence for each surplus picture that stays where it is.

        Raises
        ------
        InputError
            When there are no files to move, or the folder lies in that of the pictures.
        """
        if self._engine is None or self._files is None or self._files.folder is None:
            raise InputError(
                "there are no files to move: the pictures were read from no folder, or it is not there any more; "
                "give folder= where it is"
            )
        target = Path(os.path.expanduser(folder))
        return planned_moves(self.groups, self._engine, self._files, self._files.folder, target)

    def move_to(self, folder: str | os.PathLike[str]) -> tuple[Path | None, list[str]]:
        """Move all pictures but one of each group to a folder. Nothing is deleted, and no file is replaced.

        What is about to be moved is first written to a file in that folder, which `nmfcore.search.undo_moves` takes;
        it is complete whenever the work is interrupted.

        Parameters
        ----------
        folder : path-like
            As for `moves`. Subfolders are made as the pictures have them; a file whose name is taken gets a number.

        Returns
        -------
        undo : Path or None
            The file that says what was done; None if there was nothing to move.
        left : list of str
            A sentence for each surplus picture that was not moved.

        Raises
        ------
        InputError
            As for `moves`.
        OSError
            When the folder cannot be made, or a file cannot be moved. Those that were moved until then are in the file.
        """
        moves, left = self.moves(folder)
        return (move_files(moves, Path(os.path.expanduser(folder))) if moves else None), left
