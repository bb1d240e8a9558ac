"""The files that the rows of a model were read from: where they lie, which are equal, and which one to keep."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ..images._listing import natural
from ..images.whole import pixels_digest, pixels_of
from .manifest import digest_of

__all__ = ["PictureFiles"]


class PictureFiles:
    """The files of a folder that rows were read from.

    Parameters
    ----------
    folder : Path or None
        The folder; None or one that does not exist: there are no files.
    names : sequence of str or None
        A name for each row: the path of its file below the folder, parts separated by "/", or that with "#2" behind it
        for the second page of a file.

    Attributes
    ----------
    folder : Path or None
        The folder, absolute; None if there is none.
    missing : int
        How many of the rows have no file there.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from nmfcore.search.originals import PictureFiles
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, content in (("a.png", b"1"), ("b.png", b"2"), ("c.png", b"1")):
    ...         _ = (pathlib.Path(folder) / name).write_bytes(content)
    ...     files = PictureFiles(pathlib.Path(folder), ["a.png", "b.png", "c.png", "gone.png"])
    ...     files.equal(), files.missing
    ([[0, 2]], 1)
    """

    def __init__(self, folder: Path | None, names: Sequence[str] | None):
        self.folder = None if folder is None or names is None or not folder.is_dir() else folder.absolute()
        self.names: Sequence[str] = () if names is None else names
        self._at: dict[int, tuple[Path, int]] = {}  # row -> its file, and the page of it from 0; -1: the whole file
        self._stat: dict[Path, os.stat_result] = {}
        if self.folder is not None:
            for row, name in enumerate(self.names):
                place = self._find(name)
                if place is not None:
                    self._at[row] = place
        self.missing = len(self.names) - len(self._at)

    def _find(self, name: str) -> tuple[Path, int] | None:
        assert self.folder is not None
        stem, mark, page = name.rpartition("#")
        tries = [(name, -1)] + ([(stem, int(page) - 1)] if mark and page.isdecimal() and int(page) > 0 else [])
        for below, number in tries:
            parts = PurePosixPath(below)
            if parts.is_absolute() or ".." in parts.parts or os.path.isabs(below) or "\0" in below:
                continue  # a model may come from anyone, and names only what lies in its folder
            path = self.folder / below
            try:
                seen = path.stat()
            except OSError:
                continue
            if path.is_file():
                self._stat[path] = seen
                return path, number
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
            None if it has none, or is one of the pages of a file.
        """
        path, page = self._at.get(row, (None, 0))
        return path if page < 0 else None

    def is_page(self, row: int) -> bool:
        """Return whether a row is one of the pages of a file.

        Parameters
        ----------
        row : int
            Number of the row.

        Returns
        -------
        bool
        """
        return row in self._at and self._at[row][1] >= 0

    def equal(self) -> list[list[int]]:
        """Return the rows whose files have the same bytes.

        Only files of the same length are read.

        Returns
        -------
        list of list of int
            Row numbers in ascending order, at least two of them each.
        """
        by_size: dict[int, list[int]] = defaultdict(list)
        for row, (path, page) in self._at.items():
            if page < 0:
                by_size[self._stat[path].st_size].append(row)
        groups: list[list[int]] = []
        for rows in by_size.values():
            if len(rows) > 1:
                groups += _alike((row, self._digest(row)) for row in rows)
        return sorted(groups)

    def _digest(self, row: int) -> bytes | None:
        try:
            return digest_of(self._at[row][0])
        except OSError:  # it went away, or may not be read
            return None

    def alike_in_full(self, rows: Sequence[int]) -> list[list[int]]:
        """Part rows whose pixels are equal at the size of the model by their pixels at full size.

        Parameters
        ----------
        rows : sequence of int
            Row numbers.

        Returns
        -------
        list of list of int
            Those that are equal in full, at least two of them each. Rows without files are compared with each other
            only, and count as equal.
        """
        digests: dict[int, bytes | None] = {}
        for row in rows:
            path, page = self._at.get(row, (None, 0))
            digests[row] = b"" if path is None else pixels_digest(path, max(page, 0))
        return _alike(digests.items())

    def best(self, rows: Iterable[int]) -> int:
        """Return which row of several to keep.

        Parameters
        ----------
        rows : iterable of int
            Row numbers, at least one.

        Returns
        -------
        int
            The one with the most pixels; of these the one with the largest file; of these the oldest, the first by
            name, and the first row. One whose file is there comes before one whose file is not, and a file before a
            link, which would lead nowhere without it.
        """
        return min(rows, key=self._rank)

    def _rank(self, row: int) -> tuple[object, ...]:
        name = natural(self.names[row]) if row < len(self.names) else ([], "")
        if row not in self._at:
            return True, False, 0, 0, 0, name, row
        path = self._at[row][0]
        seen = self._stat[path]
        return False, path.is_symlink(), -pixels_of(path), -seen.st_size, seen.st_mtime_ns, name, row

    def held_by_links(self) -> set[Path]:
        """Return the files that links among the files lead to: moving one of them would leave its link without a file.

        Returns
        -------
        set of Path
            With all links resolved.
        """
        return {Path(os.path.realpath(path)) for path, _ in self._at.values() if path.is_symlink()}


def _alike(pairs: Iterable[tuple[int, bytes | None]]) -> list[list[int]]:
    """Return the numbers with the same digest, at least two each; None is like nothing."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in pairs:
        if digest is not None:
            groups[digest].append(row)
    return [rows for rows in groups.values() if len(rows) > 1]
