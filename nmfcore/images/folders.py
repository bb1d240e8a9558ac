"""Folders of pictures, decoded by several threads into one matrix."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from .._files import expanded, machine_memory
from ._decoding import (
    LEAST_LEVELS,
    LOOKED_THROUGH,
    SMALL_SHARE,
    Broken,
    Decoding,
    Fit,
    Look,
    LookFirst,
    Mode,
    OddShape,
    check_mode,
    colour,
    decode_picture,
    fill_rows,
    has_odd_shape,
    levels_of,
    look,
    pillow,
    with_levels,
)
from ._listing import Listing, listing
from ._progress import Progress, showing
from ._shared import size_text
from ._to_file import check_new, decode_to_file, mask_beside
from .pictures import InputError, Pictures, Shape, selection

__all__ = ["load_images"]

logger = logging.getLogger("nmfcore")

_PER_TASK = 32  # pictures decoded per task of the thread pool
_FEW_LEVELS = 32  # of 256: fewer are said


def load_images(
    folder: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    mode: Mode = "L",
    skip_broken: bool = False,
    progress: Progress | bool | None = True,
    *,
    out: str | os.PathLike[str] | None = None,
    crop: bool = False,
    background: str | Sequence[int] = "white",
    recursive: bool = False,
    labels: Literal["folder"] | None = "folder",
    exclude: str | Sequence[str] = (),
    decoding: Mapping[str, object] | None = None,
    fit: Fit = "stretch",
    mask_transparent: bool = False,
) -> Pictures:
    """Decode a folder of pictures into one uint8 matrix, grey or in colour.

    Files are taken in natural order (``2.jpg`` before ``10.jpg``) and turned upright as their EXIF
    data says; metadata that cannot be read is ignored. Every page of a TIFF, GIF, WebP or animated
    PNG file is a row; pages that are smaller copies of others are left out. Hidden files and folders
    called ``@eaDir`` are passed over in silence; how many others were passed over, by suffix, goes to
    the log ``nmfcore``, and a warning says so where they are pictures. HEIC is read where pillow-heif
    is installed (``pip install 'nmfcore[heic]'``), and AVIF where Pillow or pillow-heif reads it.

    Parameters
    ----------
    folder : path-like
        Folder with picture files, or one file with several pages.
    size : tuple of (height, width) or None
        Size of every picture, whatever its proportions. None takes the first picture's size;
        pictures of another size but the same proportions (within 2 %) are resized to it, others
        are errors: resizing would distort them. (`crop` and `fit` say what else may be done.)
    mode : {"L", "RGB"}
        Grey, or red, green and blue, with 8 bits each. Pictures with more grey levels are scaled by
        one power of two for the whole folder: the least one that brings the highest value of all
        of them into 8 bits. So 4,096 levels are divided by 16, and 256 levels stored with 16 bits
        stay what they are. A warning says where that leaves few levels.
    skip_broken : bool
        Leave out pictures that cannot be decoded, or would be distorted, and name them in
        ``skipped``.
    progress : callable(done, total), bool or None
        A callable is called in the calling thread with the number of pictures done. True shows a
        bar on a terminal and in a notebook, if rich is installed.
    out : path-like or None
        A ``.npy`` file to hold the matrix instead of memory; it must not exist yet. It is written
        beside and renamed when it is complete, and ``matrix`` is then a read-only memory map of it.
    crop : bool
        Cut off the edges of pictures of other proportions, instead of refusing or distorting them:
        the largest part in the middle that has the proportions of `size` is kept.
    background : str or tuple of three int
        The colour that transparent pictures are laid on: a name, "#rrggbb", or red, green and blue
        from 0 to 255. What lies beneath transparent pixels does not matter.
    recursive : bool
        Whether pictures in subfolders, and in theirs, are read, too. Names are paths below `folder`
        then, with "/" between their parts. Links to folders are not followed, and what
        ``nmfcore fit`` has drawn beside a model is left out.
    labels : {"folder", None}
        With `recursive`, "folder" makes the name of the subfolder of `folder` that a picture lies
        in its label (the first one of "cats/small/1.png"), and "" the label of pictures that lie in
        none. None gives no labels.
    exclude : str or sequence of str
        Patterns of what is left out, with ``*``, ``?`` and ``[…]`` as in a shell. One without "/", like
        "*.gif" or "drafts", is compared with the names of files and of subfolders; one with "/", like
        "cats/old*", with paths below `folder`. Defaults to none.
    decoding : mapping or None
        ``decoding`` of other pictures or of a model, to decode these like those: it replaces `crop`,
        `background`, `fit` and `mask_transparent`, and says how many grey levels become 256.
    fit : {"stretch", "letterbox"}
        How a picture of other proportions comes to `size`. "letterbox" keeps its proportions: it is
        made as large as fits, to the nearest pixel, and lies in the middle between bars, which are
        masked. Then pictures of mixed proportions are taken without a `size`, too. "stretch", the
        default, distorts pictures to a `size`, and refuses such a mixture without one.
    mask_transparent : bool
        Mask transparent pixels, and do not lay pictures on `background`. A pixel that is less than
        half opaque once the picture has its size is masked; any other has its own colour. False, the
        default, shows the background through them.

    Returns
    -------
    Pictures
        ``matrix`` has shape (n_pictures, height·width), and ``shape`` is (height, width); in colour
        (n_pictures, height·width·3) and (height, width, 3). uint8. ``mask`` is a bool array of the
        shape of ``matrix``, True where a pixel is masked (in all of its colours), or None where none
        is; masked pixels are 0. With `out`, it is a memory map of a second file: that of
        ``cats.npy`` is called ``cats.mask.npy``.

    Raises
    ------
    InputError
        When the folder is missing or holds no picture, a picture is broken or of other
        proportions, every pixel of all pictures is masked, or `out` exists or there is no room for
        it.
    ValueError
        When the mode is neither of the two, a pattern to exclude is no text, or `fit` does not go with `crop`.
    ImportError
        When Pillow is missing.
    OSError
        When `out` cannot be written; nothing is left of it then.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from PIL import Image
    >>> from nmfcore.images import load_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for number in (10, 2):
    ...         Image.new("L", (6, 4), number).save(pathlib.Path(folder) / f"{number}.png")
    ...     pictures = load_images(folder)
    ...     colour = load_images(folder, mode="RGB")
    >>> pictures.names, pictures.shape, pictures.matrix[:, 0].tolist()
    (('2.png', '10.png'), (4, 6), [2, 10])
    >>> colour.shape, colour.matrix.shape
    ((4, 6, 3), (2, 72))

    Pictures of mixed proportions, between bars that a fit leaves out:

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (4, 4), 9).save(pathlib.Path(folder) / "square.png")
    ...     Image.new("L", (8, 4), 9).save(pathlib.Path(folder) / "wide.png")
    ...     pictures = load_images(folder, fit="letterbox")
    >>> pictures.mask[1].reshape(4, 4).astype(int)
    array([[1, 1, 1, 1],
           [0, 0, 0, 0],
           [0, 0, 0, 0],
           [1, 1, 1, 1]])
    >>> from nmfcore import NMF
    >>> model = NMF(1, solver="hals").fit(pictures.matrix, mask=pictures.mask)
    """
    check_mode(mode)
    check_fit(fit, crop)
    if labels not in ("folder", None):
        raise ValueError(f'labels must be "folder" or None, got {labels!r}')
    how = _decoding(decoding, mode, size is not None, crop, background, fit, mask_transparent)
    if size is not None and min(size) < 1:
        raise InputError(f"size must be at least 1x1 pixels, got {size_text(size)}")
    root = expanded(folder)
    target = None if out is None else expanded(out)
    if target is not None:
        check_new(target)
        if how.masks:
            check_new(mask_beside(target))
    found = Listing([root], [root.name]) if root.is_file() else listing(root, recursive, exclude)
    given = found.labels() if recursive and labels == "folder" else None
    task = _Task(root, found, given, size, how, skip_broken, target)
    with showing(progress) as show:
        pictures = task.decoded(show)
    for text in task.said:
        warnings.warn(text, UserWarning, stacklevel=2)
    return pictures if root.is_file() else replace(pictures, selection=selection(recursive, exclude))


def decode_files(
    root: Path,
    found: Listing,
    size: tuple[int, int],
    mode: Mode,
    decoding: Mapping[str, object],
    progress: Progress | None = None,
) -> tuple[Pictures | None, dict[str, str]]:
    """Decode some files of a folder like those of a model.

    Parameters
    ----------
    root : Path
        The folder.
    found : Listing
        The files.
    size : tuple of (height, width)
        Size of every picture.
    mode : {"L", "RGB"}
        Grey, or in colour.
    decoding : mapping
        ``decoding`` of the model.
    progress : callable(done, total) or None
        Called with the number of pictures done.

    Returns
    -------
    pictures : Pictures or None
        Those that can be read; None if there is none. Every pixel of all of them may be masked.
    broken : dict of str to str
        Why the others cannot be read, by name.
    """
    task = _Task(root, found, None, size, Decoding.of(decoding, mode), True, None, all_masked=True)
    try:
        pictures: Pictures | None = task.decoded(progress)
    except _NoneLeft:
        pictures = None
    for text in task.said:
        warnings.warn(text, UserWarning, stacklevel=2)
    return pictures, task.broken


class _NoneLeft(InputError):
    """None of the pictures can be read."""


def check_fit(fit: str, crop: bool) -> None:
    """Raise ValueError if there is no such way to fit pictures to a size, or it does not go with `crop`.

    Parameters
    ----------
    fit : {"stretch", "letterbox"}
    crop : bool
    """
    if fit not in ("stretch", "letterbox"):
        raise ValueError(f'fit must be "stretch" or "letterbox", got {fit!r}')
    if fit == "letterbox" and crop:
        raise ValueError(
            "crop cuts off the edges that letterbox (fit='letterbox') keeps between bars: give one of them"
        )


def _decoding(
    decoding: Mapping[str, object] | None,
    mode: Mode,
    sized: bool,
    crop: bool,
    background: str | Sequence[int],
    fit: Fit,
    mask_transparent: bool,
) -> Decoding:
    if decoding is not None:
        return Decoding.of(decoding, mode)
    proportions = "letterboxed" if fit == "letterbox" else "cropped" if crop else "stretched" if sized else "kept"
    return Decoding(mode, proportions, colour(background), mask_transparent=bool(mask_transparent))


@dataclass
class _Page:
    """One row: a file and the page of it."""

    file: Path
    name: str
    page: int
    label: str | None


@dataclass
class _Task:
    """A folder that is being decoded."""

    root: Path
    found: Listing
    labels: list[str] | None
    size: tuple[int, int] | None
    how: Decoding
    skip_broken: bool
    out: Path | None
    all_masked: bool = False  # whether every pixel of all pictures may be masked
    said: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)  # why pages were skipped, by name

    def decoded(self, progress: Progress | None) -> Pictures:
        """Decode all files; pages and grey levels are counted first where files may have several, or many."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\b")  # remarks on metadata; what matters becomes an error
            warnings.simplefilter("error", pillow().DecompressionBombWarning)
            try:
                return self.run(progress, any(file.suffix.lower() in LOOKED_THROUGH for file in self.found.files))
            except LookFirst:  # suffixes do not say what the files are
                return self.run(progress, True)

    def run(self, progress: Progress | None, looked_through: bool) -> Pictures:
        """Decode everything; raise `LookFirst` if files are to be looked through before that."""
        self.said, self.broken, skipped, how, size = [], {}, [], self.how, self.size
        pages = self._pages([None] * len(self.found.files))
        if looked_through:
            looks = self._looks()
            pages = self._pages(looks)
            how = with_levels(how, how.levels or self._levels(looks))

        def refuse(page: _Page, reason: str | OddShape) -> None:
            if not self.skip_broken:
                odd = isinstance(reason, OddShape)
                many = self._odd_shapes(pages, size) if odd and size is not None else ""
                raise InputError(f"'{page.file}' {reason}{many}: {_advice(odd, self.how.whose)}")
            self.broken[page.name] = str(reason)
            skipped.append(f"'{page.name}' {reason}")

        total = len(pages)
        while size is None and pages:
            try:
                height, width = decode_picture(pages[0].file, None, how)[0].shape[:2]
                size = (height, width)
            except Broken as error:
                refuse(pages[0], str(error))
                pages = pages[1:]
        kept: list[int] = []
        hidden: list[int] = []  # rows of which every pixel is masked
        black = masked = 0

        def decode(matrix: np.ndarray, masks: np.ndarray | None) -> bool:
            """Fill the rows of the matrix and of its mask, note which are good; return whether any pixel is masked."""
            nonlocal black, masked

            def fill(rows: range) -> tuple[list[str | OddShape | None], int, Sequence[int]]:
                reasons: list[str | OddShape | None] = []
                for run in _of_one_file(pages, rows):
                    numbers = [pages[row].page for row in run]
                    filled = matrix[run.start : run.stop]
                    beside = None if masks is None else masks[run.start : run.stop]
                    reasons += fill_rows(pages[run.start].file, numbers, filled, size, how, beside)  # type: ignore[arg-type]
                good = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
                counts = [0 if masks is None else int(masks[row].sum()) for row in good]
                dark = sum(not matrix[row].any() for row in good) - counts.count(features)
                return reasons, dark, counts

            tasks = list(_tasks(pages))
            pool = ThreadPoolExecutor(_cpus(), thread_name_prefix="nmfcore-pictures")
            try:
                for rows, (reasons, dark, counts) in zip(tasks, pool.map(fill, tasks), strict=True):
                    black += dark
                    masked += sum(counts)
                    left = iter(counts)
                    for row, reason in zip(rows, reasons, strict=True):
                        if reason is None:
                            kept.append(row)
                            if next(left) == features:
                                hidden.append(row)
                        else:
                            refuse(pages[row], reason)
                    if progress is not None:
                        progress(len(kept) + len(skipped), total)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
            if not kept:
                raise _NoneLeft(none_left())
            if len(hidden) == len(kept) and not self.all_masked:
                raise InputError(
                    f"every pixel of all {len(kept):,} pictures of '{self.root}' is transparent, so that all are "
                    "masked: do not mask transparent pixels here"
                )
            return masked > 0

        def none_left() -> str:
            return f"none of the {total} pictures in '{self.root}' can be read; the first: {skipped[0]}"

        if size is None:
            raise _NoneLeft(none_left())
        shape: Shape = size if how.mode == "L" else (*size, 3)
        features = math.prod(shape)
        masks: np.ndarray | None
        if self.out is None:
            matrix, masks = _allocate(self.root, len(pages), shape, how.masks)
            masks = masks if decode(matrix, masks) else None
            if len(kept) < len(matrix):
                matrix, masks = matrix[kept], None if masks is None else masks[kept]
        else:
            matrix, masks = decode_to_file(self.out, decode, kept, len(pages), shape, how.masks)
        if hidden:
            some = f"{len(hidden):,} of {len(kept):,} pictures of '{self.root}' are"
            some = some if len(hidden) > 1 else f"'{pages[hidden[0]].file}' is"
            logger.info("%s transparent everywhere: all pixels are masked", some)
        if black == len(kept):
            self.said.append(f"all {black:,} pictures of '{self.root}' are black: every pixel of them is 0")
        elif black:
            logger.info("%s of %s pictures of '%s' are black", f"{black:,}", f"{len(kept):,}", self.root)
        names = tuple(pages[row].name for row in kept)
        labels = None if self.labels is None else np.array([pages[row].label for row in kept])
        return Pictures(matrix, shape, names, labels, str(self.root), tuple(skipped), how.plain(), mask=masks)

    def _looks(self) -> list[Look | None]:
        """Return what is known of each file before it is decoded; None for one that cannot be read."""

        def one(file: Path) -> Look | None:
            try:
                return look(file)
            except Broken:
                return None

        with ThreadPoolExecutor(_cpus(), thread_name_prefix="nmfcore-pictures") as pool:
            return list(pool.map(one, self.found.files))

    def _pages(self, looks: Sequence[Look | None]) -> list[_Page]:
        """Return the rows: every page of every file."""
        pages, stacks, copies = [], 0, 0
        for number, (file, name, seen) in enumerate(zip(self.found.files, self.found.names, looks, strict=True)):
            numbers = (0,) if seen is None else seen.pages
            copies += 0 if seen is None else seen.copies
            stacks += len(numbers) > 1
            label = None if self.labels is None else self.labels[number]
            for page in numbers:
                pages.append(_Page(file, f"{name}#{page + 1}" if len(numbers) > 1 else name, page, label))
        if stacks:
            logger.info("%s of '%s' hold several pages: %s rows", _files(stacks), self.root, f"{len(pages):,}")
        if copies:
            logger.info("%s smaller copies of pages in TIFF files of '%s' are left out", f"{copies:,}", self.root)
        return pages

    def _levels(self, looks: Sequence[Look | None]) -> int:
        """Return how many grey levels become 256 in the whole folder, and note where little is left of them."""
        seen = [each for each in looks if each is not None]
        deep = [each for each in seen if each.highest is not None]
        colours = sum(each.deep_colour for each in seen)
        if colours:
            self.said.append(
                f"{_files(colours)} of '{self.root}' hold 16 bits for each colour, of which the upper 8 are read: save "
                "them with 8 bits if they use only a part of the range"
            )
        if not deep:
            return LEAST_LEVELS
        highest, lowest = max(each.highest or 0 for each in deep), min(each.lowest for each in deep)
        levels = levels_of(highest)
        below = np.sum([each.below for each in deep], axis=0)
        most = 1 << (8 + int(np.argmax(below >= SMALL_SHARE * below[-1])))  # nearly all pixels are below it
        scale = levels // LEAST_LEVELS
        if scale > 1:
            logger.info(
                "%s of '%s' have more than 8 bits: %s grey levels become 256, in all of them alike",
                _files(len(deep)), self.root, f"{levels:,}",
            )  # fmt: skip
        left = max(1, (min(highest, most - 1) - max(lowest, 0)) // scale + 1)
        whole = (highest - max(lowest, 0)) // scale + 1  # fewer than half of 256 only where the darkest pixel is bright
        if scale > 1 and (left < _FEW_LEVELS or whole < LEAST_LEVELS // 2):
            self.said.append(
                f"nearly all pixels of the pictures of '{self.root}' with more than 8 bits lie from {lowest:,} to "
                f"{min(highest, most - 1):,}, and the highest is {highest:,}: {left} of 256 grey levels are left for "
                "them; scale the pictures to their range and save them again"
            )
        return levels

    def _odd_shapes(self, pages: Sequence[_Page], size: tuple[int, int]) -> str:
        """Say how many pictures have other proportions."""
        runs = list(_of_one_file(pages, range(len(pages))))

        def count(run: range) -> int:
            return has_odd_shape(pages[run.start].file, [pages[row].page for row in run], size)

        with ThreadPoolExecutor(_cpus(), thread_name_prefix="nmfcore-pictures") as pool:
            return f", as {sum(pool.map(count, runs)):,} of {len(pages):,} pictures have"


def _advice(odd_shape: bool, whose: str) -> str:
    if odd_shape and whose.endswith("model"):
        return "crop the picture, or fit with --letterbox, --crop or --size"
    if odd_shape:
        return (
            "give --size HEIGHTxWIDTH to resize all to one size, --crop to cut off their edges, --letterbox to keep "
            "their proportions between masked bars, or --skip-broken to leave them out"
        )
    return "repair or remove it, or give --skip-broken to leave it out"


def _files(number: int) -> str:
    return f"{number:,} file{'s' * (number != 1)}"


def _tasks(pages: Sequence[_Page]) -> Iterator[range]:
    """Cut the rows into tasks of several files; the pages of a file are read in order, by one thread."""
    start = 0
    for run in _of_one_file(pages, range(len(pages))):
        if run.stop - start >= _PER_TASK:
            yield range(start, run.stop)
            start = run.stop
    if start < len(pages):
        yield range(start, len(pages))


def _of_one_file(pages: Sequence[_Page], rows: range) -> Iterator[range]:
    """Cut rows into runs whose pages lie in one file."""
    start = rows.start
    for row in rows:
        if pages[row].file != pages[start].file:
            yield range(start, row)
            start = row
    if start < rows.stop:
        yield range(start, rows.stop)


def _allocate(root: Path, rows: int, shape: Shape, masks: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a matrix for the pictures, and one of False for their mask; memory of rows without one is not touched."""
    features = math.prod(shape)
    needed, memory = rows * features * (1 + masks), machine_memory()
    if memory is not None and needed > memory:
        raise InputError(
            f"{rows} pictures of {size_text((shape[0], shape[1]))} from '{root}' need {needed / 1e9:.1f} GB, "
            f"this machine has {memory / 1e9:.1f} GB: give a smaller --size HEIGHTxWIDTH, or a file to hold them (out=)"
        )
    return np.empty((rows, features), np.uint8), np.zeros((rows, features), bool) if masks else None


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
