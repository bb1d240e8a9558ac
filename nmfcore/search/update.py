"""An index that follows its folder: what has changed there, and the rows of a model after it.

`follow` compares a folder with the `Manifest` of a model. A file of the same size and date is left alone. Of any other
the content decides, by a digest: the content of a file that is gone, or that now has another content, was renamed and
keeps its code. What is left is decoded and coded, with the parts as they are. Nothing is written here, and the model
that was given does not change.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path

import numpy as np

from .._text import printable
from .._typing import Array
from ..analysis import reconstruction_errors
from ..images import InputError
from ..images._listing import Listing, listing
from ..images._progress import Progress, showing
from ..images.folders import decode_files
from .contents import Contents
from .manifest import UNKNOWN, Manifest, Record, digests_of, file_of, sure_time
from .masks import PictureMasks

__all__ = ["Changes", "follow"]

DRIFT = 1.2  # times the mean error of the former rows, above which new rows are said to be unlike them
_AT_ONCE = 1 << 26  # bytes of pictures that are decoded at a time
_SAMPLE = 1000  # former rows that the error of new ones is compared with
_NAMED = 5  # names that a repr lists


@dataclass(frozen=True, eq=False)
class Changes:
    """What has changed in a folder of pictures, file by file.

    Attributes
    ----------
    added : tuple of str
        Files that are new.
    changed : tuple of str
        Files that have another content.
    removed : tuple of str
        Files whose content is gone.
    renamed : tuple of (str, str)
        The former and the new name of files that were renamed or moved; they keep their codes.
    broken : dict of str to str
        Why files that are there are not in the index, by name; those too that were broken before.
    unchanged : int
        How many other files there are.
    error : float
        Mean of ‖x − wH‖ / ‖x‖ of the rows that are new or have changed; NaN where there are none.
    former_error : float
        The same of the rows that were there before: of 1,000 of them at most, spread evenly. Without their originals,
        both errors are ‖X − WH‖_F / ‖X‖_F, and this one is that of the fit; NaN where it is not known.

    Examples
    --------
    >>> from nmfcore.search import Changes
    >>> changes = Changes(added=("8.jpg", "9.jpg"), error=0.3, former_error=0.2)
    >>> changes
    2 added: 8.jpg, 9.jpg
    >>> changes.drifted
    True
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0
    error: float = math.nan
    former_error: float = math.nan

    __module__ = "nmfcore.search"  # the name that is imported

    @property
    def drifted(self) -> bool:
        """Whether the new rows are so unlike the former ones (error > 1.2 · former_error) that a new fit would help."""
        return self.error > DRIFT * self.former_error

    def lines(self) -> list[tuple[str, str]]:
        """Return what has changed in words, for instance ("2 added", "8.jpg, 9.jpg").

        Returns
        -------
        list of (str, str)
        """
        renamed = [f"{old} → {new}" for old, new in self.renamed]
        broken = [f"{name} ({why})" for name, why in self.broken.items()]
        found: list[tuple[str, Sequence[str]]] = [
            ("added", self.added), ("changed", self.changed), ("removed", self.removed), ("renamed", renamed),
            ("broken", broken),
        ]  # fmt: skip
        return [(f"{len(names):,} {what}", _some(names)) for what, names in found if names]

    def __repr__(self) -> str:
        return "\n".join(f"{what}: {names}" for what, names in self.lines()) or "nothing has changed"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(printable, names[:_NAMED]))
    return shown if len(names) <= _NAMED else f"{shown}, …"


@dataclass
class _Plan:
    """What is to be done about each file that is there."""

    records: dict[str, Record]  # of the files that are there, those still to be decoded included
    former: dict[str, str]  # the name that a renamed file had, by its new one
    decode: list[str]  # files to be decoded
    broken: dict[str, str]
    gone: list[str]  # files that are not there any more, nor renamed


def follow(
    contents: Contents,
    folder: str | os.PathLike[str] | None,
    coded: Callable[[Array, Array | None], Array],
    *,
    yes: bool = False,
    progress: Progress | bool | None = None,
) -> tuple[Contents, Changes]:
    """Bring the rows of a model up to date with a folder.

    Parameters
    ----------
    contents : Contents
        Made of a folder of pictures.
    folder : path-like or None
        The folder; None: the one that the model was made of.
    coded : callable(matrix, mask) -> codes
        Codes rows of pixels by the parts of the model; without what the mask hides, if it is not None.
    yes : bool
        Go on although more than half of the rows would go. Defaults to False.
    progress : callable(done, total), bool or None
        As for `nmfcore.images.load_images`. Defaults to None.

    Returns
    -------
    contents : Contents
        The same object if there is nothing to be kept.
    changes : Changes

    Raises
    ------
    InputError
        When there is no such folder, no picture in it, the model was made of other data, more than half of its rows
        would go, or masked rows would go or change although the model was saved without their masks.
    ModelFileError
        When what the model knows of its files is damaged.
    """
    model = contents.model
    if model.shape is None or model.names is None:
        raise InputError(
            "the model was made of a matrix or a file, not of a folder of pictures, so it cannot follow one: "
            "SearchEngine.add adds pictures to it"
        )
    known = Manifest.of(model)
    root = Path(os.path.abspath(os.path.expanduser(folder or known.root)))
    if folder is None and not known.root:
        raise InputError("the model does not say which folder it was made of: give the folder")
    found = listing(root, known.recursive, known.exclude)
    work = _Work(contents, known, root, found)
    work.check(yes)
    work.check_masks()
    with showing(progress) as show:
        work.decode(coded, show)
    work.check(yes)
    return work.result()


class _Work:
    """An update that is under way."""

    def __init__(self, contents: Contents, known: Manifest, root: Path, found: Listing):
        self.contents, self.model, self.rows, self.masks = contents, contents.model, contents.rows, contents.masks
        self.known, self.root, self.found = known, root, found
        self.rows_of: dict[str, list[int]] = {}  # of each file, as the model has them
        for row, owner in enumerate(known.owners):
            if owner:
                self.rows_of.setdefault(owner, []).append(row)
        self.plan = self._plan()
        self.owner: list[str] = list(known.owners)  # after the update
        self.name: list[str] = list(self.model.names or ())
        self.kept = np.ones(len(self.model.W), np.bool_)
        for name in self.plan.gone:
            self._drop(name)
        for new, old in self.plan.former.items():
            for row in self.rows_of.get(old, ()):
                self.owner[row] = new
                self.name[row] = new + self.name[row].removeprefix(old)
        self.added: list[str] = []
        self.changed: list[str] = []
        self.removed = list(self.plan.gone)
        self.codes: list[Array] = []  # new ones, some files at a time
        self.pixels: list[Array] = []  # of these, where originals are kept
        self.hidden: list[Array | None] = []  # where these are masked; None: nowhere
        self.places: list[int] = []  # rows that new codes replace; -1 for those that come to the end
        self.errors: list[Array] = []  # of new rows

    # --- what has changed ---------------------------------------------------------------------------

    def _plan(self) -> _Plan:
        known, looked = self.known.records, time.time_ns()
        plan = _Plan({}, {}, [], {}, [])
        touched: dict[str, tuple[int, int]] = {}
        # Paths as texts: making a Path of a file takes longer than reading its date.
        root = os.path.join(self.root, "")
        for name in self.found.names:
            try:
                seen = os.stat(root + name)
            except OSError as error:
                plan.broken[name] = f"cannot be read ({error.strerror or error})"
                continue
            if not stat.S_ISREG(seen.st_mode):
                plan.broken[name] = "is no regular file"
                continue
            record = known.get(name)
            if record is not None and (record.size, record.time) == (seen.st_size, seen.st_mtime_ns):
                plan.records[name] = record
            else:
                touched[name] = (seen.st_size, sure_time(seen.st_mtime_ns, looked))
        contents: dict[str, bytes] = {}
        for name, digest in digests_of(self.root, touched).items():
            if isinstance(digest, bytes):
                contents[name] = digest
            else:
                plan.broken[name] = f"cannot be read ({digest.strerror or digest})"
        for name, digest in contents.items():
            if name in known and known[name].digest == digest:
                plan.records[name] = Record(*touched[name], digest, known[name].reason)
        here = {*self.found.names}
        unread = self.found.unread  # what these folders hold is not known: their pictures stay as they are
        hidden = {name for name in (*known, *self.rows_of) if name not in here and name.startswith(unread)}
        plan.records |= {name: known[name] for name in hidden if name in known}
        free: dict[bytes, list[str]] = {}  # files whose content is not at their path any more
        for name, record in known.items():
            if name not in plan.records and record.digest != UNKNOWN:
                free.setdefault(record.digest, []).append(name)
        for name, digest in contents.items():
            if name in plan.records:
                continue
            if free.get(digest):
                old = free[digest].pop(0)
                plan.former[name] = old
                plan.records[name] = Record(*touched[name], digest, known[old].reason)
            else:
                plan.decode.append(name)
                plan.records[name] = Record(*touched[name], digest)
        plan.broken |= {name: record.reason for name, record in plan.records.items() if record.reason}
        moved = set(plan.former.values())
        for name in dict.fromkeys([*known, *self.rows_of]):
            overwritten = name in plan.former  # by a file that was renamed
            if (name not in here or overwritten) and name not in hidden and name not in moved:
                plan.gone.append(name)
        return plan

    def check(self, yes: bool) -> None:
        """Refuse an update that leaves less than half of the files without being told to."""
        for name in self.plan.broken:
            if name not in self.plan.records:  # it cannot be opened
                self._drop(name)
        lost = {*self.plan.gone, *self.removed, *(self.plan.broken.keys() - self.plan.records.keys())}
        count = len(lost & self.rows_of.keys())
        if 2 * count > len(self.rows_of) and not yes:
            raise InputError(
                f"{count:,} of {len(self.rows_of):,} pictures of the model are gone from '{self.root}', or cannot be "
                "read: if it is the right folder, give --yes (yes=True) to take them out of the model"
            )

    def check_masks(self) -> None:
        """Refuse to take out or change pictures of a masked model that was saved without their masks."""
        if self.masks is not None or not self.model.masked:
            return
        changing = [name for name in self.plan.decode if name in self.rows_of]
        if changing or not self.kept.all():
            raise InputError(
                "pictures were changed or taken out, or the model does not know whether they were; it says that pixels "
                "are masked, and keeps neither the pictures nor their masks: fit the folder anew, with --pictures"
            )

    def _drop(self, name: str) -> None:
        """Leave out the rows of a file, if they are not those of another one now."""
        for row in self.rows_of.get(name, ()):
            if self.owner[row] == name:
                self.kept[row] = False

    # --- what is new --------------------------------------------------------------------------------

    def decode(self, coded: Callable[[Array, Array | None], Array], progress: Progress | None) -> None:
        """Decode and code files, some at a time."""
        shape = self.model.shape
        assert shape is not None
        files = dict(zip(self.found.names, self.found.files, strict=True))
        step, total = max(1, _AT_ONCE // math.prod(shape)), len(self.plan.decode)
        for start in range(0, total, step):
            names = self.plan.decode[start : start + step]

            def report(done: int, _: int, start: int = start) -> None:
                if progress is not None:
                    progress(min(total, start + done), total)

            pictures, broken = decode_files(
                self.root, Listing([files[name] for name in names], names), (shape[0], shape[1]),
                "RGB" if len(shape) == 3 else "L", self.model.decoding or {}, report,
            )  # fmt: skip
            pages = () if pictures is None else pictures.names or ()
            matrix = np.zeros((0, math.prod(shape)), np.uint8) if pictures is None else pictures.matrix
            mask = None if pictures is None else pictures.mask
            codes = coded(matrix, mask) if len(matrix) else np.zeros((0, len(self.model.components)))
            for page, why in broken.items():
                name = file_of(page)
                self.plan.broken[name] = why
                self.plan.records[name] = self.plan.records[name]._replace(reason=why)
            self._place(names, pages, matrix, mask, codes.astype(self.model.W.dtype, copy=False))
        if not self.kept.any() and not self.places:
            raise InputError(f"none of the {len(self.found.names):,} pictures in '{self.root}' can be read")

    def _place(
        self, names: Sequence[str], pages: Sequence[str], matrix: Array, mask: Array | None, codes: Array
    ) -> None:
        """Say where the rows of decoded files belong."""
        new: dict[str, list[int]] = {}
        for row, page in enumerate(pages):
            new.setdefault(file_of(page), []).append(row)
        taken: list[int] = []
        for name in names:
            mine = new.get(name, [])
            old = [row for row in self.rows_of.get(name, ()) if self.owner[row] == name and self.kept[row]]
            if old and self._as_before(name, old, matrix[mine], None if mask is None else mask[mine]):
                continue
            if old and mine:
                self.changed.append(name)
            elif mine:
                self.added.append(name)
            elif old:
                self.removed.append(name)
            if len(old) != len(mine):
                self._drop(name)
                old = [-1] * len(mine)
                self.owner += [name] * len(mine)
                self.name += [pages[row] for row in mine]
            taken += mine
            self.places += old
        if len(taken) < len(matrix):
            matrix, codes, mask = matrix[taken], codes[taken], None if mask is None else mask[taken]
        if taken:
            self.codes.append(codes)
            if self.rows is not None:
                self.pixels.append(matrix)
            self.hidden.append(mask)
            self.errors.append(self._errors(matrix, codes, mask))

    def _as_before(self, name: str, rows: list[int], matrix: Array, mask: Array | None) -> bool:
        """Whether the rows of a file whose content was not known have the pixels and masks that it has now."""
        record, at = self.known.records.get(name), np.array(rows)
        if self.rows is None or len(rows) != len(matrix) or (record is not None and record.digest != UNKNOWN):
            return False
        before = np.zeros((1, 1), np.bool_) if self.masks is None else self.masks[at]
        masked = before != (np.zeros((1, 1), np.bool_) if mask is None else mask)
        return not masked.any() and bool(np.array_equal(self.rows.take(at), matrix))

    # --- what comes out -----------------------------------------------------------------------------

    def result(self) -> tuple[Contents, Changes]:
        """Return the contents after the update, and what has changed."""
        model, rows, n = self.model, self.rows, len(self.model.W)
        masks, masked = self._masks(), model.masked
        W, error, former = model.W, math.nan, math.nan
        if self.places:
            places, codes = np.array(self.places), np.concatenate(self.codes)
            ends = places < 0
            stay = self.kept.copy()
            stay[places[~ends]] = False
            error, former = self._compared(np.flatnonzero(stay))
            W = np.concatenate([W, codes[ends]])
            W[places[~ends]] = codes[~ends]
            order = np.arange(len(W))
            order[places[~ends]] = n + np.flatnonzero(~ends)
            order[n:] = n + np.flatnonzero(ends)
            if rows is not None:
                rows = rows.below(*self.pixels).chosen(order)
            new = self._new_masks(len(places))
            masked += int(new.counts().sum())
            if masks is not None:
                masked -= int(masks.chosen(np.sort(places[~ends])).counts().sum())
                masks = masks.below(new).chosen(order)
        kept = np.concatenate([self.kept, np.ones(len(W) - n, np.bool_)])
        chosen, records = np.flatnonzero(kept), self.plan.records
        if masks is not None:
            masked -= int(masks.chosen(np.flatnonzero(~kept)).counts().sum())
            masks = masks.chosen(chosen)
        known = replace(self.known, root=str(self.root), records=records, owners=tuple(compress(self.owner, kept)))
        good = sum(not record.reason for record in records.values())
        moved = sum(not records[name].reason for name in self.plan.former)
        changes = Changes(
            tuple(self.added), tuple(self.changed), tuple(self.removed),
            tuple((old, new) for new, old in self.plan.former.items()), dict(sorted(self.plan.broken.items())),
            good - moved - len(self.added) - len(self.changed), error, former,
        )  # fmt: skip
        if known == self.known and not self.places and model.files is not None:
            return self.contents, changes
        changed = replace(
            model,
            W=W if len(chosen) == len(W) else W[chosen],
            names=tuple(compress(self.name, kept)),
            labels=self._labels(kept),
            files=known.plain(),
            masked=masked,
        )
        return Contents(changed, None if rows is None else rows.chosen(chosen), masks), changes

    def _masks(self) -> PictureMasks | None:
        """Return the masks of the former rows. None if no pixel is masked, or if the model was saved without masks."""
        if self.masks is None and not self.model.masked and any(mask is not None for mask in self.hidden):
            return PictureMasks.of_none(len(self.model.W), self.model.components.shape[1])
        return self.masks

    def _new_masks(self, count: int) -> PictureMasks:
        """Return the masks of the rows that are new or have changed."""
        width = self.model.components.shape[1]
        none = PictureMasks.of_none(0, width)
        for mask, codes in zip(self.hidden, self.codes, strict=True):
            none = none.below(PictureMasks.of_none(len(codes), width) if mask is None else PictureMasks.of(mask))
        assert len(none) == count
        return none

    def _labels(self, kept: Array) -> Array | None:
        """Return the labels of the rows: of those that were moved or came, the first folder of the path."""
        given, owners = self.model.labels, self.owner
        by_folder = self.known.recursive and (
            not any("/" in owner for owner in self.known.owners)
            if given is None
            else all(map(_is_label, self.known.owners, given.tolist()))
        )
        if given is None:
            labels = [_first_folder(owner) for owner in owners]
            return np.array(list(compress(labels, kept))) if by_folder and any(labels) else None
        if len(owners) == len(given) and not by_folder:
            return given[kept]
        labels = given.astype(str).tolist() + [""] * (len(owners) - len(given))
        if by_folder:
            labels = [_first_folder(owner) if owner else label for owner, label in zip(owners, labels, strict=True)]
        return np.array(list(compress(labels, kept)))

    def _errors(self, pixels: Array, codes: Array, mask: Array | None) -> Array:
        """Return the error of each new row, or the squares of errors and norms where there are no former originals."""
        H = self.model.components
        if self.rows is not None:
            return reconstruction_errors(pixels, codes, H, mask=mask)
        squares = reconstruction_errors(pixels, codes, H, relative=False, mask=mask) ** 2  # masked pixels are 0
        norms = np.einsum("ij,ij->i", pixels, pixels, dtype=np.float64)
        return np.stack([squares, norms], axis=1)

    def _compared(self, former: Array) -> tuple[float, float]:
        """Return the mean errors of new rows and of those that stay."""
        errors = np.concatenate(self.errors)
        if self.rows is None:
            square, norm = errors.sum(axis=0)
            return math.sqrt(square / norm) if norm else math.nan, self.model.relative_error
        if not len(former):
            return float(errors.mean()), math.nan
        sample = former[np.unique(np.linspace(0, len(former) - 1, min(len(former), _SAMPLE)).round().astype(np.int64))]
        hidden = None if self.masks is None else self.masks[sample]
        before = reconstruction_errors(self.rows.take(sample), self.model.W[sample], self.model.components, mask=hidden)
        return float(errors.mean()), float(before.mean())


def _first_folder(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def _is_label(owner: str, label: object) -> bool:
    """Whether a label is the first folder of a row's file; a row of no file may have any."""
    return not owner or label == _first_folder(owner)
