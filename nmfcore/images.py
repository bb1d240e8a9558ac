"""Pictures in: everything ``nmfcore fit`` accepts becomes one matrix with a row per picture.

Integers stay integers: pictures are decoded straight into one uint8 matrix, in memory or in a file,
``.npy`` and plain IDX files are memory-mapped. The engine widens them block by block, so nothing
here ever makes a floating-point copy. A colour picture is a row of height·width·3 numbers, as numpy
flattens height × width × 3.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import functools
import gzip
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, cast

import numpy as np

from .persistence import Model, ModelFileError, replacing

__all__ = [
    "InputError",
    "Pictures",
    "cached_images",
    "estimator_from",
    "load_images",
    "model_of",
    "picture_row",
    "read_csv",
    "read_idx",
    "read_npy",
    "read_source",
]

PICTURE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"}
    | {".tif", ".tiff", ".webp"}
)
TABLE_SUFFIXES = frozenset({".csv", ".tsv"})
# Pillow may open no other kind, whatever a file is called: some decoders of it start programs (EPS).
PICTURE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
LABEL_COLUMNS = frozenset({"label", "labels", "class", "target"})
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# Widths and heights are whole pixels, so two scans of one format differ by rounding: a 133×100
# picture next to a 64×48 one is the same shape. Beyond 2 % a resize would visibly distort.
ASPECT_TOLERANCE = 0.02
_ORIENTATION = 0x0112  # EXIF tag
_PER_TASK = 32  # pictures decoded per task of the thread pool
_LINES = 2048  # lines of a table parsed at a time

Mode = Literal["L", "RGB"]
Progress = Callable[[int, int], None]
Shape = tuple[int, ...]  # (height, width), or (height, width, 3) in colour


class InputError(ValueError):
    """Data that cannot be read; the message says what was given, what is allowed and what to do.

    Examples
    --------
    >>> from nmfcore.images import InputError
    >>> issubclass(InputError, ValueError)
    True
    """


@dataclass(frozen=True, eq=False)
class Pictures:
    """A matrix with one picture per row, and what is known about them.

    Attributes
    ----------
    matrix : ndarray or memmap of shape (n_samples, n_features)
        In the type it was stored in; pictures are uint8.
    shape : tuple of (int, int) or (int, int, 3), or None
        Height and width a row folds back to, and 3 if it is in colour.
    names : tuple of str or None
        File names of pictures from a folder, in the order of the rows.
    labels : ndarray of shape (n_samples,) or None
        Labels that came with the pictures, integers or strings; `read_csv` says how rows without
        one are marked among others.
    source : str
        Where they came from.
    skipped : tuple of str
        One sentence per picture that was left out.

    Examples
    --------
    >>> from nmfcore.images import read_source
    >>> digits = read_source()
    >>> digits.matrix.shape, digits.matrix.dtype.name, digits.shape, digits.title(3)
    ((1797, 64), 'uint8', (8, 8), '3')
    """

    matrix: np.ndarray
    shape: Shape | None = None
    names: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    source: str = ""
    skipped: tuple[str, ...] = ()

    def title(self, row: int) -> str:
        """Return what to write over the picture in `row`: name, label or number.

        Parameters
        ----------
        row : int
            Number of the row.

        Returns
        -------
        str
        """
        if self.names is not None:
            return self.names[row]
        if self.labels is not None:
            return str(self.labels[row])
        return f"row {row}"


def read_source(
    source: str | os.PathLike[str] | None = None,
    size: tuple[int, int] | None = None,
    skip_broken: bool = False,
    progress: Progress | bool | None = None,
    *,
    mode: Mode = "L",
) -> Pictures:
    """Read pictures from whatever `source` is.

    Parameters
    ----------
    source : path-like or None
        None for scikit-learn's bundled digits, a folder of pictures, an IDX file (``.gz`` or
        not), a ``.csv`` or ``.tsv`` table (``.gz`` or not), a ``.npy`` or a ``.npz`` file.
    size : tuple of (height, width) or None
        Pictures in a folder are resized to it. For a matrix it states how a row folds to a picture,
        in colour if a row has three numbers to the pixel.
    skip_broken : bool
        Leave out pictures of a folder that cannot be read, instead of raising.
    progress : callable(done, total), bool or None
        As in `load_images`.
    mode : {"L", "RGB"}
        How pictures in a folder are decoded: grey, or in colour. A matrix is taken as it is.

    Returns
    -------
    Pictures

    Raises
    ------
    InputError
        When there is no such source, or it cannot be read.
    ImportError
        When pictures are to be decoded and Pillow is missing.

    Examples
    --------
    >>> from nmfcore.images import read_source
    >>> read_source().labels[:4].tolist()
    [0, 1, 2, 3]
    >>> read_source("no/such/file.csv")
    Traceback (most recent call last):
    nmfcore.images.InputError: there is no file or folder 'no/such/file.csv': check the path
    """
    if source is None:
        return _with_size(_read_digits(), size)
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return load_images(path, size, mode, skip_broken, progress)
        if not path.exists():
            raise InputError(f"there is no file or folder '{path}': check the path")
        return _with_size(_reader(path)(path), size)
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}") from error


def load_images(
    folder: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    mode: Mode = "L",
    skip_broken: bool = False,
    progress: Progress | bool | None = True,
    *,
    out: str | os.PathLike[str] | None = None,
) -> Pictures:
    """Decode a folder of pictures into one uint8 matrix, grey or in colour.

    Files are taken in natural order (``2.jpg`` before ``10.jpg``), turned upright as their EXIF
    data says, and converted to 8 bits. Files without a picture's suffix, hidden files and
    subfolders are passed over.

    Parameters
    ----------
    folder : path-like
        Folder with picture files.
    size : tuple of (height, width) or None
        Size of every picture, whatever its proportions. None takes the first picture's size;
        pictures of another size but the same proportions (within 2 %) are resized to it, others
        are errors: resizing would distort them.
    mode : {"L", "RGB"}
        Grey, or red, green and blue.
    skip_broken : bool
        Leave out pictures that cannot be decoded, or would be distorted, and name them in
        ``skipped``.
    progress : callable(done, total), bool or None
        A callable is called in the calling thread with the number of pictures done. True shows a
        bar on a terminal and in a notebook, if rich is installed.
    out : path-like or None
        A ``.npy`` file to hold the matrix instead of memory; it must not exist yet. It is written
        beside and renamed when it is complete, and ``matrix`` is then a read-only memory map of it.

    Returns
    -------
    Pictures
        ``matrix`` has shape (n_pictures, height·width), and ``shape`` is (height, width); in colour
        (n_pictures, height·width·3) and (height, width, 3). uint8.

    Raises
    ------
    InputError
        When the folder is missing or holds no picture, a picture is broken or of other
        proportions, or `out` exists or there is no room for it.
    ValueError
        When the mode is neither of the two.
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
    """
    _check_mode(mode)
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"there is no folder '{root}': check the path")
    files = sorted((file for file in root.iterdir() if _is_picture(file)), key=lambda file: _natural(file.name))
    if not files:
        raise InputError(_empty_folder(root))
    if size is not None and min(size) < 1:
        raise InputError(f"size must be at least 1x1 pixels, got {_size(size)}")
    target = None if out is None else Path(out).expanduser()
    if target is not None:
        _check_new(target)

    with warnings.catch_warnings(), _shown(progress) as show:
        warnings.filterwarnings("ignore", module=r"PIL\b")  # remarks on metadata; what matters becomes an error below
        warnings.simplefilter("error", _pillow().DecompressionBombWarning)
        return _decode_all(root, files, size, mode, skip_broken, show, target)


def cached_images(
    folder: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    mode: Mode = "L",
    skip_broken: bool = False,
    progress: Progress | bool | None = True,
) -> Pictures:
    """Decode a folder of pictures once, into a file beside it, and map that file from then on.

    For a folder ``cats``, the matrix lies in ``cats.nmfcore.npy`` and what is known about it in
    ``cats.nmfcore.json``. Both are made anew when the names, sizes or dates of the picture files
    have changed, or others are asked for.

    Parameters
    ----------
    folder : path-like
        Folder with picture files; the one that holds it must be writable.
    size : tuple of (height, width) or None
        As for `load_images`.
    mode : {"L", "RGB"}
        Grey, or red, green and blue.
    skip_broken : bool
        As for `load_images`.
    progress : callable(done, total), bool or None
        As for `load_images`; not used if the pictures are decoded already.

    Returns
    -------
    Pictures
        ``matrix`` is a read-only memory map of shape (n_pictures, features), uint8.

    Raises
    ------
    InputError
        As `load_images`, or if a file is in the way that is no such cache.
    ImportError
        When pictures are to be decoded and Pillow is missing.
    OSError
        When the files cannot be written.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from PIL import Image
    >>> from nmfcore.images import cached_images
    >>> place = tempfile.TemporaryDirectory()
    >>> folder = pathlib.Path(place.name) / "cats"
    >>> folder.mkdir()
    >>> Image.new("L", (6, 4), 7).save(folder / "1.png")
    >>> pictures = cached_images(folder)
    >>> pictures.matrix.shape, sorted(file.name for file in pathlib.Path(place.name).iterdir())
    ((1, 24), ['cats', 'cats.nmfcore.json', 'cats.nmfcore.npy'])
    >>> del pictures
    >>> place.cleanup()
    """
    _check_mode(mode)
    root = Path(os.path.realpath(Path(folder).expanduser()))
    if not root.is_dir():
        raise InputError(f"there is no folder '{folder}': check the path")
    matrix, about = (root.with_name(f"{root.name}.nmfcore{suffix}") for suffix in (".npy", ".json"))
    stats = [(file.name, file.stat()) for file in sorted(root.iterdir()) if _is_picture(file)]
    asked = {
        "format": _CACHE,
        "size": None if size is None else list(size),
        "mode": mode,
        "skip_broken": skip_broken,
        "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
    }
    kept = _cache(about, matrix)
    if kept is None or {name: kept[name] for name in asked} != asked:
        if kept is not None:  # of other pictures
            about.unlink()
            matrix.unlink(missing_ok=True)
        found = load_images(folder, size, mode, skip_broken, progress, out=matrix)
        kept = {**asked, "shape": found.shape, "names": found.names, "skipped": found.skipped}
        with replacing(about) as file:
            file.write(json.dumps(kept).encode())
    shape, names, skipped = (tuple(kept[name]) for name in ("shape", "names", "skipped"))
    return Pictures(np.load(matrix, mmap_mode="r"), cast(Shape, shape), names, None, str(folder), skipped)


_CACHE = "nmfcore-pictures-1"


def _cache(about: Path, matrix: Path) -> dict[str, Any] | None:
    """Return what a cache says of itself; None if there is none."""
    if not about.exists():
        return None
    try:
        kept = json.loads(about.read_bytes())
        if kept["format"] == _CACHE:
            return kept if matrix.exists() else {**kept, "files": None}
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"'{about}' is in the way, and no cache of pictures: move it")


def picture_row(picture: Any, shape: Shape) -> np.ndarray:
    """Make one picture a row like those of a model, to be coded and searched by.

    It is turned upright, converted to grey or colour, and resized, as `load_images` does with the
    pictures of a folder. The picture may come from anyone: only the usual formats are opened, and
    one that would unfold to too many pixels is refused before it is decoded.

    Parameters
    ----------
    picture : path-like, bytes, binary file, PIL.Image.Image or ndarray
        A picture file, by its name, its content, or opened; a picture of Pillow's; or an array of
        whole numbers from 0 to 255 (or of bool), of shape (height, width), (height, width, 3), or
        that of a row.
    shape : tuple of (height, width) or (height, width, 3)
        The picture shape of the model.

    Returns
    -------
    ndarray of shape (height·width,) or (height·width·3,), uint8

    Raises
    ------
    InputError
        When the picture cannot be read, has too many pixels, or the array holds no picture.
    ImportError
        When Pillow is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.images import picture_row
    >>> picture_row(np.full((60, 80), 7, np.uint8), (2, 3)).tolist()
    [7, 7, 7, 7, 7, 7]
    >>> picture_row(b"no picture", (2, 3))
    Traceback (most recent call last):
    nmfcore.images.InputError: what was given is not a picture that can be read
    """
    shape = tuple(shape)
    if len(shape) not in (2, 3) or min(shape) < 1 or shape[2:] not in ((), (3,)):
        raise InputError(f"a picture's shape must be (height, width) or (height, width, 3), got {shape}")
    mode: Mode = "RGB" if len(shape) == 3 else "L"
    name = "what was given"
    try:
        if isinstance(picture, np.ndarray):
            if picture.shape == (math.prod(shape),):
                picture = picture.reshape(shape)
            picture = _from_array(picture)
        elif isinstance(picture, bytes | bytearray | memoryview):
            picture = io.BytesIO(picture)
        elif isinstance(picture, str | os.PathLike):
            picture = Path(picture).expanduser()
            name = f"'{picture}'"
        return _decode(picture, (shape[0], shape[1]), mode, True).reshape(-1)
    except _Broken as error:
        raise InputError(f"{name} {error}") from error


def read_idx(path: str | os.PathLike[str]) -> Pictures:
    """Read an IDX file of pictures, MNIST's format; an unpacked one is memory-mapped.

    Parameters
    ----------
    path : path-like
        The pictures, packed with gzip or not. A file beside it that is named as MNIST names its
        labels (``train-images-idx3-ubyte.gz`` → ``train-labels-idx1-ubyte.gz``) is read too.

    Returns
    -------
    Pictures
        ``matrix`` has shape (n_pictures, height·width) in the file's type.

    Raises
    ------
    InputError
        When the file is damaged or does not hold pictures, or the labels beside it do not match it.

    Examples
    --------
    >>> import tempfile, pathlib, struct
    >>> from nmfcore.images import read_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "two-images-idx3-ubyte"
    ...     _ = file.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 2, 1, 3) + bytes(range(6)))
    ...     read_idx(file).matrix.tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    path = Path(path)
    pixels = _idx_array(path)
    if pixels.ndim == 1:
        raise InputError(f"'{path}' holds one number per sample (labels?), not pictures: give the file with the images")
    shape = _folded(pixels.shape, path)
    matrix = _filled(pixels.reshape(len(pixels), math.prod(pixels.shape[1:])), path)
    labels = None
    beside = _labels_beside(path)
    if beside is not None:
        labels = _idx_array(beside)
        if labels.shape != (len(matrix),):
            raise InputError(
                f"'{beside}' holds {len(labels)} labels but '{path.name}' {len(matrix)} pictures: "
                "they do not belong together, so move or rename one of them"
            )
    return Pictures(matrix, shape, None, labels, str(path))


def read_csv(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Pictures:
    r"""Read a table with one picture per line, or several, as Kaggle publishes MNIST.

    With a header, a column called ``label``, ``labels``, ``class`` or ``target`` is kept apart as
    the labels. Without one, every column is data, except in MNIST's label-first form: whole
    numbers 0 to 255 throughout, and one column more than a square number of at least 64. Columns
    may be separated by commas, semicolons or tabs.

    Several tables are put below one another (``["train.csv", "test.csv"]``). They must have the
    same columns, but for the labels: where some tables have labels and others have none, the rows
    of the others get the label −1, or "" where labels are strings.

    Parameters
    ----------
    path : path-like, or a sequence of them
        The table, packed with gzip or not.

    Returns
    -------
    Pictures
        ``matrix`` holds the smallest integer type that fits, or float64 if any number has a point
        or an exponent; a square number of columns folds to a square picture.

    Raises
    ------
    InputError
        When the table is empty, ragged, or has a cell that is no number; the line is named. When a
        table has other columns than the first, or has −1 or "" for a label itself while another
        has no labels; the table is named.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from nmfcore.images import read_csv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "train.csv"
    ...     _ = file.write_text("label,pixel0,pixel1,pixel2,pixel3\n7,0,1,2,255\n")
    ...     table = read_csv(file)
    >>> table.labels.tolist(), table.matrix.dtype.name, table.shape
    ([7], 'uint8', (2, 2))
    """
    if isinstance(path, str | os.PathLike):
        return _read_csv(Path(path))[0]
    paths = [Path(one) for one in path]
    if not paths:
        raise InputError("no table was given: name at least one file")
    return _below_one_another(paths)


def read_npy(path: str | os.PathLike[str]) -> Pictures:
    """Read a ``.npy`` file, memory-mapped, or the one matrix of a ``.npz`` file.

    Parameters
    ----------
    path : path-like
        ``.npy``: an array of shape (n, n_features), (n, height, width) or (n, height, width, 3).
        ``.npz``: such an array alone, or named ``X`` or ``arr_0``; one-dimensional ``y`` or
        ``labels`` of the same length beside it are kept as labels.

    Returns
    -------
    Pictures
        ``matrix`` has shape (n, n_features) in the file's type; a square number of features folds
        to a square picture.

    Raises
    ------
    InputError
        When the file is damaged, or holds no matrix of real numbers.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from nmfcore.images import read_npy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(pathlib.Path(folder) / "x.npy", np.zeros((5, 4, 3), np.uint8))
    ...     pictures = read_npy(pathlib.Path(folder) / "x.npy")
    >>> pictures.matrix.shape, pictures.shape
    ((5, 12), (4, 3))
    """
    path = Path(path)
    labels = None
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded as archive:
                array, labels = _from_archive(path, archive)
        else:
            array = loaded
    except InputError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(
            f"'{path}' is damaged, or holds Python objects: expected a numpy file with one array of numbers"
        ) from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"'{path}' holds {array.dtype} values: expected real numbers")
    shape = _folded(array.shape, path)
    array = array.reshape(len(array), math.prod(array.shape[1:]))
    return Pictures(_filled(array, path), shape, None, labels, str(path))


def model_of(estimator: Any, W: np.ndarray, pictures: Pictures | None = None, **changes: Any) -> Model:
    """Gather a fitted estimator and what it was fitted on into a `Model`, to be saved.

    Parameters
    ----------
    estimator : NMF or MiniBatchNMF
        Fitted estimator.
    W : ndarray of shape (n_samples, k), float32 or float64
        The transformed data, as ``fit_transform`` returned it.
    pictures : Pictures or None
        Gives the model its picture shape, names, labels and source.
    **changes
        Fields of `Model` to set otherwise.

    Returns
    -------
    Model

    Raises
    ------
    AttributeError
        When the estimator is not fitted.
    TypeError
        When a keyword is not a field of `Model`.

    Examples
    --------
    >>> from nmfcore import NMF
    >>> from nmfcore.images import model_of, read_source
    >>> digits = read_source()
    >>> estimator = NMF(4, init="nndsvd", max_iter=20, tol=0)
    >>> model = model_of(estimator, estimator.fit_transform(digits.matrix), digits)
    >>> model.components.shape, model.shape
    ((4, 64), (8, 8))
    """
    known: dict[str, Any] = {
        "W": W,
        "components": estimator.components_,
        "parameters": {
            name: value
            for name, value in estimator.get_params(deep=False).items()
            if name not in ("callback", "device")  # who reads the model computes where their X is
        },
        "estimator": type(estimator).__name__,
        "history": dict(getattr(estimator, "history_", {})),
        "n_iter": int(estimator.n_iter_),
        "reconstruction_err": float(estimator.reconstruction_err_),
        "kkt_residual": float(getattr(estimator, "kkt_residual_", math.nan)),
        "converged": bool(getattr(estimator, "converged_", False)),
        "stop_reason": str(getattr(estimator, "stop_reason_", "")),
    }
    if pictures is not None:
        known |= {field: getattr(pictures, field) for field in ("shape", "names", "labels", "source")}
    return Model(**(known | changes))


def estimator_from(model: Model) -> Any:
    """Rebuild the estimator a model was made with, ready to ``transform`` new rows.

    Parameters
    ----------
    model : Model
        As ``nmfcore.load`` returns it.

    Returns
    -------
    NMF or MiniBatchNMF
        With the model's parameters, ``components_``, ``n_components_``, ``n_features_in_``,
        ``n_iter_``, ``reconstruction_err_``, ``converged_``, ``stop_reason_``, ``kkt_residual_``
        and ``history_``.

    Raises
    ------
    ModelFileError
        When the model names an estimator or a parameter that this nmfcore does not have.

    Examples
    --------
    >>> from nmfcore import NMF
    >>> from nmfcore.images import estimator_from, model_of, read_source
    >>> X = read_source().matrix
    >>> fitted = NMF(4, init="nndsvd", max_iter=20, tol=0)
    >>> model = model_of(fitted, fitted.fit_transform(X))
    >>> bool((estimator_from(model).transform(X) == fitted.transform(X)).all())
    True
    """
    from . import estimators

    if model.estimator not in ("NMF", "MiniBatchNMF"):
        raise ModelFileError(f"the model was made by {model.estimator!r}: this nmfcore knows NMF and MiniBatchNMF")
    parameters = dict(model.parameters)
    if isinstance(parameters.get("dtype"), str):
        parameters["dtype"] = np.dtype(parameters["dtype"]).type
    try:
        estimator = getattr(estimators, model.estimator)(**parameters)
    except TypeError as error:
        written = model.versions.get("nmfcore", "unknown")
        raise ModelFileError(
            f"the model was written by nmfcore {written} and does not fit this one: {error}"
        ) from error
    estimator.components_ = model.components
    estimator.n_components_, estimator.n_features_in_ = model.components.shape
    estimator.n_iter_ = model.n_iter
    estimator.reconstruction_err_ = np.float64(model.reconstruction_err)
    estimator.converged_ = model.converged
    estimator.stop_reason_ = model.stop_reason
    estimator.kkt_residual_ = model.kkt_residual
    estimator.history_ = dict(model.history)
    return estimator


# ------------------------------------------------------------------------------------------------
# what is it


def _reader(path: Path) -> Callable[[Path], Pictures]:
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower() if suffix == ".gz" else suffix
    if inner in TABLE_SUFFIXES:
        return read_csv
    if inner in (".npy", ".npz") and inner == suffix:
        return read_npy
    if suffix in PICTURE_SUFFIXES:
        raise InputError(f"'{path}' is a single picture: give the folder that holds all of them")
    if _idx_header(path) is not None:
        return read_idx
    raise InputError(
        f"'{path}' is of no known kind: expected a folder of pictures, an IDX file (.gz or not), .csv, .npy or .npz"
    )


def _with_size(pictures: Pictures, size: tuple[int, int] | None) -> Pictures:
    """State the picture shape of a matrix; pixels are left alone."""
    if size is None or size == (pictures.shape or ())[:2]:
        return pictures
    features = pictures.matrix.shape[1]
    if 3 * size[0] * size[1] == features:
        return dataclasses.replace(pictures, shape=(*size, 3))
    if size[0] * size[1] != features:
        raise InputError(
            f"--size {_size(size)} makes {size[0] * size[1]} pixels but a row of "
            f"'{pictures.source}' has {features}: "
            "only pictures in a folder can be resized"
        )
    return dataclasses.replace(pictures, shape=size)


def _filled(matrix: np.ndarray, path: Path) -> np.ndarray:
    if 0 in matrix.shape:
        raise InputError(f"'{path}' is empty: it holds {matrix.shape[0]} samples of {matrix.shape[1]} features")
    return matrix


def _folded(shape: tuple[int, ...], path: Path) -> Shape | None:
    """Return the picture shape of an array of samples."""
    if len(shape) == 2:
        return _square(shape[1])
    if len(shape) == 3 or (len(shape) == 4 and shape[3] == 1):
        return shape[1:3]
    if len(shape) == 4 and shape[3] == 3:
        return shape[1:]
    raise InputError(
        f"'{path}' holds an array of shape {shape}: expected samples × features, pictures × rows × columns, "
        "or pictures × rows × columns × 3"
    )


def _square(features: int) -> tuple[int, int] | None:
    side = math.isqrt(features)
    return (side, side) if side * side == features and side > 1 else None


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _read_digits() -> Pictures:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Pictures(digits.data.astype(np.uint8), (8, 8), None, np.asarray(digits.target), "digits")


# ------------------------------------------------------------------------------------------------
# folders of pictures


class _Broken(Exception):
    """Why one picture cannot be used."""


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'nmfcore[app]'") from error
    return Image


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key: runs of digits count as numbers; the name itself breaks ties."""
    parts = re.split(r"([0-9]+)", name.casefold())  # text and digits alternate, so like is compared with like
    return [int(part) if odd else part for part, odd in zip(parts, itertools.cycle((False, True)), strict=False)], name


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".") and not file.is_dir()


def _empty_folder(root: Path) -> str:
    message = f"the folder '{root}' holds no pictures (jpg, png, tif, pgm, bmp, gif, webp)"
    entries = sorted((entry for entry in root.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)
    for entry in entries:
        if entry.is_dir() and any(_is_picture(file) for file in entry.iterdir()):
            return f"{message}; its subfolder does: give '{entry}'"
        if entry.suffix.lower() in {".gz", ".csv", ".npy", ".npz"}:
            return f"{message}; to read a file in it, give the file itself, like '{entry}'"
    return f"{message}: give a folder that does"


def _check_mode(mode: str) -> None:
    if mode not in ("L", "RGB"):
        raise ValueError(f'mode must be "L" (grey) or "RGB", got {mode!r}')


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of the formats that this Pillow was built with."""
    Image = _pillow()
    Image.init()
    return tuple(name for name in PICTURE_FORMATS if name in Image.OPEN)


def _open_picture(file: Path | BinaryIO) -> Any:
    Image = _pillow()
    try:
        picture = Image.open(file, formats=_formats())
    except Image.UnidentifiedImageError as error:
        raise _Broken("is not a picture that can be read") from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        picture.close()
        raise _Broken(f"has more than {limit:,} pixels, too many to be decoded safely")
    return picture


def _from_array(array: np.ndarray) -> Any:
    """Return an array of pixels as a picture of Pillow's."""
    Image = _pillow()
    if array.dtype == bool:
        array = np.uint8(255) * array
    if not ((array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) and array.size):
        raise _Broken(f"has shape {array.shape}: expected height × width, height × width × 3, or a row of the model's")
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise _Broken(f"holds {array.dtype} values: expected whole numbers from 0 to 255, like numpy.uint8")
    return Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))


def _decode(picture: Any, size: tuple[int, int] | None, mode: Mode, any_shape: bool) -> np.ndarray:
    """Decode one picture (a file or Pillow's) to 8 bits of `size`; `any_shape` allows to distort it."""
    from PIL import Image, ImageOps

    try:
        with ExitStack() as opened:
            if not isinstance(picture, Image.Image):
                picture = opened.enter_context(_open_picture(picture))
                if size is not None:
                    if not any_shape:
                        _check_aspect(picture, size)
                    picture.draft(None, (2 * max(size),) * 2)  # a far too large JPEG is decoded at a fraction
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):  # 16 bits: Pillow's own conversion clips at 255
                wide = np.clip(np.asarray(upright, dtype=np.int64), 0, 65535)
                upright = Image.fromarray((wide >> 8).astype(np.uint8))
            elif upright.mode == "F":
                raise _Broken("holds floating-point pixels; save it with 8 or 16 bits")
            upright = upright.convert(mode)
            if size is not None and upright.size != (size[1], size[0]):
                upright = upright.resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0)
            return np.asarray(upright)
    except _Broken:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _Broken("has too many pixels to be decoded safely") from error
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise _Broken("does not exist: check the path") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise _Broken(f"is broken ({error or type(error).__name__})") from error


def _check_aspect(picture: Any, size: tuple[int, int]) -> None:
    width, height = picture.size
    if picture.getexif().get(_ORIENTATION, 1) >= 5:  # lies on its side
        width, height = height, width
    ratio = (width * size[0]) / (height * size[1])
    if not 1 / (1 + ASPECT_TOLERANCE) <= ratio <= 1 + ASPECT_TOLERANCE:
        raise _Broken(f"has other proportions ({height}x{width}) than the first picture ({_size(size)})")


def _advice(reason: str) -> str:
    if "proportions" in reason:
        return "give --size HEIGHTxWIDTH to resize all to one size, or --skip-broken to leave it out"
    return "repair or remove it, or give --skip-broken to leave it out"


def _decode_all(
    root: Path,
    files: Sequence[Path],
    size: tuple[int, int] | None,
    mode: Mode,
    skip_broken: bool,
    progress: Progress | None,
    out: Path | None,
) -> Pictures:
    any_shape = size is not None
    skipped: list[str] = []

    def refuse(file: Path, reason: str) -> None:
        if not skip_broken:
            raise InputError(f"'{file}' {reason}: {_advice(reason)}")
        skipped.append(f"'{file.name}' {reason}")

    while size is None and files:
        try:
            height, width = _decode(files[0], None, mode, True).shape[:2]
            size = (height, width)
        except _Broken as error:
            refuse(files[0], str(error))
            files = files[1:]
    total = len(files) + len(skipped)
    kept: list[int] = []

    def decode(matrix: np.ndarray) -> None:
        """Fill the rows of the matrix, and note which are good."""

        def task(start: int) -> list[str | None]:
            stop = min(start + _PER_TASK, len(files))
            return [_decode_row(files[i], matrix[i], size, mode, any_shape) for i in range(start, stop)]

        starts = range(0, len(files), _PER_TASK)
        pool = ThreadPoolExecutor(_cpus(), thread_name_prefix="nmfcore-pictures")
        try:
            for start, reasons in zip(starts, pool.map(task, starts), strict=True):
                for index, reason in enumerate(reasons, start):
                    if reason is None:
                        kept.append(index)
                    else:
                        refuse(files[index], reason)
                if progress is not None:
                    progress(len(kept) + len(skipped), total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if not kept:
            raise InputError(nothing())

    def nothing() -> str:
        return f"none of the {total} pictures in '{root}' can be read; the first: {skipped[0]}"

    if size is None:
        raise InputError(nothing())
    shape: Shape = size if mode == "L" else (*size, 3)
    if out is None:
        matrix = _allocate(root, len(files), shape)
        decode(matrix)
        if len(kept) < len(matrix):
            matrix = matrix[kept]
    else:
        matrix = _decode_to_file(out, decode, kept, len(files), shape)
    return Pictures(matrix, shape, tuple(files[index].name for index in kept), None, str(root), tuple(skipped))


def _decode_row(file: Path, row: np.ndarray, size: tuple[int, int] | None, mode: Mode, any_shape: bool) -> str | None:
    try:
        row[:] = _decode(file, size, mode, any_shape).reshape(-1)
    except _Broken as error:
        return str(error)
    return None


def _allocate(root: Path, rows: int, shape: Shape) -> np.ndarray:
    features = math.prod(shape)
    needed = rows * features
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        memory = sys.maxsize
    if needed > memory:
        raise InputError(
            f"{rows} pictures of {_size((shape[0], shape[1]))} from '{root}' need {needed / 1e9:.1f} GB, this "
            f"machine has {memory / 1e9:.1f} GB: give a smaller --size HEIGHTxWIDTH, or a file to hold them (out=)"
        )
    return np.empty((rows, features), np.uint8)


def _check_new(target: Path) -> None:
    if target.suffix.lower() != ".npy":
        raise InputError(f"out must name a .npy file, got '{target}'")
    if os.path.lexists(target):
        raise InputError(f"'{target}' exists: choose another name, or remove it first")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder '{target.parent}' to write to: create it first")


def _decode_to_file(
    out: Path, decode: Callable[[np.ndarray], None], kept: list[int], rows: int, shape: Shape
) -> np.ndarray:
    """Let `decode` fill a memory-mapped .npy file; its rows that were not `kept` are closed up."""
    features = math.prod(shape)
    free = shutil.disk_usage(out.parent).free
    if rows * features > free:
        raise InputError(
            f"'{out}' would take {rows * features / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free: "
            "give a smaller size, or another out"
        )
    with replacing(out) as file:
        header = _npy_header(rows, features)
        file.write(header)
        file.truncate(len(header) + rows * features)
        file.flush()
        _reserve(file, len(header) + rows * features)
        matrix = np.memmap(file.name, np.uint8, "r+", len(header), (rows, features))
        decode(matrix)
        if len(kept) < rows:
            for place, row in enumerate(kept):
                if place < row:
                    matrix[place] = matrix[row]
        matrix.flush()
        del matrix
        if len(kept) < rows:
            header = _npy_header(len(kept), features)
            file.seek(0)
            file.write(header)
            file.truncate(len(header) + len(kept) * features)
        _check_new(out)  # decoding took its time
    return cast(np.ndarray, np.load(out, mmap_mode="r", allow_pickle=False))


def _reserve(file: BinaryIO, size: int) -> None:
    """Take the room on the disk at once: one that fills up under a memory map ends the process, it does not raise."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot
            raise


def _npy_header(rows: int, features: int) -> bytes:
    """Return the header of an .npy file of uint8; numpy pads it, so its length does not depend on the numbers."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (rows, features)})
    return head.getvalue()


@contextmanager
def _shown(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """Turn what the caller wants to see into what is to be called."""
    if not isinstance(progress, bool):
        yield progress
        return
    with ExitStack() as bar:
        yield _bar(bar) if progress else None


def _bar(shown: ExitStack) -> Progress | None:
    """Show a bar of rich's until `shown` is closed, where someone can see it."""
    try:
        from rich import progress as rich
        from rich.console import Console
        from rich.errors import LiveError
    except ImportError:
        return None
    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        return None
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
    try:
        bar = shown.enter_context(rich.Progress(*columns, console=console, transient=True))
    except LiveError:  # the caller shows something of their own
        return None
    task = bar.add_task("reading pictures")
    return lambda done, total: bar.update(task, completed=done, total=total)


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


# ------------------------------------------------------------------------------------------------
# IDX: two zero bytes, a type, the number of dimensions, one big-endian uint32 per dimension, then
# the numbers


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _open_binary(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if _is_gzip(path) else open(path, "rb")


def _idx_header(path: Path) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Type and shape, or None when this is no IDX file."""
    try:
        with _open_binary(path) as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES or not 1 <= magic[3] <= 4:
                return None
            sizes = file.read(4 * magic[3])
            if len(sizes) < 4 * magic[3]:
                return None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return None
    return np.dtype(IDX_TYPES[magic[2]]), tuple(int(size) for size in np.frombuffer(sizes, ">u4"))


def _idx_array(path: Path) -> np.ndarray:
    header = _idx_header(path)
    if header is None:
        raise InputError(f"'{path}' is not an IDX file, or its header is damaged: fetch it again")
    dtype, shape = header
    offset, count = 4 + 4 * len(shape), math.prod(shape)
    promised = count * dtype.itemsize
    stored = path.stat().st_size
    damaged = InputError(
        f"'{path}' is damaged: its header promises {promised:,} bytes of numbers, {shape}, and "
        "the file does not hold just that: fetch it again"
    )
    if not _is_gzip(path):
        if stored - offset != promised:
            raise damaged
        if dtype.itemsize == 1 and count:
            return np.memmap(path, dtype.newbyteorder("="), "r", offset, shape)
        return np.fromfile(path, dtype, count, offset=offset).astype(dtype.newbyteorder("=")).reshape(shape)
    if promised > 1100 * stored:  # more than deflate can pack: do not reserve memory for a false promise
        raise damaged
    numbers = np.empty(count, dtype)
    view = memoryview(numbers.view(np.uint8))  # type: ignore[arg-type]
    try:
        with gzip.open(path, "rb") as file:
            file.read(offset)
            filled = 0
            while filled < promised and (got := file.readinto(view[filled : filled + (1 << 20)])):
                filled += got
            if filled < promised or file.read(1):
                raise damaged
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise damaged from error
    return numbers.astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def _labels_beside(path: Path) -> Path | None:
    if "images" not in path.name:
        return None
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    plain = name.removesuffix(".gz")
    for candidate in (name, plain, plain + ".gz"):
        if (beside := path.with_name(candidate)).is_file():
            return beside
    return None


# ------------------------------------------------------------------------------------------------
# tables and numpy archives


def _open_text(path: Path) -> TextIO:
    return io.TextIOWrapper(_open_binary(path), encoding="utf-8-sig", newline="")


def _lines(file: TextIO) -> Iterator[list[tuple[int, str]]]:
    """Yield groups of (line number, text), blank lines left out."""
    numbered = ((number, line.strip()) for number, line in enumerate(file, 1))
    filled = (pair for pair in numbered if pair[1])
    while group := list(itertools.islice(filled, _LINES)):
        yield group


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_csv(path: Path) -> tuple[Pictures, list[str] | None]:
    """Return a table and the names of its columns, labels aside; None without a header."""
    try:
        with _open_text(path) as file:
            return _read_table(path, file)
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not a text table in UTF-8: save it again as CSV UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"'{path}' is damaged: {error}") from error


def _below_one_another(paths: Sequence[Path]) -> Pictures:
    tables: list[Pictures] = []
    names: list[str] | None = None
    for path in paths:
        table, columns = _read_csv(path)
        first = tables[0].matrix.shape[1] if tables else table.matrix.shape[1]
        if table.matrix.shape[1] != first:
            raise InputError(
                f"'{path}' has {table.matrix.shape[1]} columns (labels aside), but '{paths[0]}' has {first}: "
                "tables that are read together need the same columns"
            )
        if names and columns and names != columns:
            one, other = next(pair for pair in zip(columns, names, strict=True) if pair[0] != pair[1])
            raise InputError(
                f"'{path}' has a column '{one}' where '{paths[0]}' has '{other}': "
                "tables that are read together need the same columns in the same order"
            )
        names = names or columns
        tables.append(table)
    return Pictures(
        np.concatenate([table.matrix for table in tables]),
        tables[0].shape,
        None,
        _joined_labels(tables),
        " + ".join(map(str, paths)),
    )


def _joined_labels(tables: Sequence[Pictures]) -> np.ndarray | None:
    """Return the labels of all rows, with a mark for those of tables without."""
    given = [table.labels for table in tables if table.labels is not None]
    if not given:
        return None
    numbers = all(labels.dtype.kind == "i" for labels in given)
    unlabelled = -1 if numbers else ""
    joined = []
    for table in tables:
        if table.labels is None:
            joined.append(np.full(len(table.matrix), unlabelled))
            continue
        if len(given) < len(tables) and (table.labels == unlabelled).any():
            raise InputError(
                f"'{table.source}' has the label '{unlabelled}', which would stand for no label, and another table "
                "has no labels: read them one by one, or write other labels"
            )
        joined.append(table.labels if numbers else table.labels.astype(str))
    return np.concatenate(joined)


def _read_table(path: Path, file: TextIO) -> tuple[Pictures, list[str] | None]:
    groups = _lines(file)
    group = next(groups, [])
    if not group:
        raise InputError(f"'{path}' is empty: expected one picture per line")
    delimiter = max(",;\t", key=group[0][1].count)
    first = _cells(group[0][1], delimiter)
    columns = len(first)
    label_column = None
    header: list[str] | None = None
    if not all(map(_is_number, first)):  # a header
        names = [name.lower() for name in first]
        if names[0] == "":
            raise InputError(
                f"the first column of '{path}' has no name, so it looks like a row number: "
                "write the table without it "
                "(in pandas: to_csv(..., index=False))"
            )
        label_column = next((index for index, name in enumerate(names) if name in LABEL_COLUMNS), None)
        header = [name for index, name in enumerate(first) if index != label_column]
        group = group[1:]

    blocks: list[np.ndarray] = []
    labels: list[str] = []
    for lines in itertools.chain([group], groups):
        if not lines:
            continue
        if label_column is not None:
            lines, some = _split_labels(path, lines, label_column, columns, delimiter)
            labels += some
        blocks.append(_numbers(path, lines, columns - (label_column is not None), delimiter))
    if not blocks:
        raise InputError(f"'{path}' holds a header and nothing else: expected one picture per line")
    matrix = np.concatenate(blocks)
    kept: np.ndarray | None = None
    if label_column is not None:
        kept = np.array([int(label) for label in labels]) if all(map(_is_integer, labels)) else np.array(labels)
    elif matrix.dtype == np.uint8 and not _square(columns) and columns - 1 >= 64 and _square(columns - 1):
        kept, matrix = matrix[:, 0].astype(np.int64), np.ascontiguousarray(matrix[:, 1:])
    return Pictures(_filled(matrix, path), _square(matrix.shape[1]), None, kept, str(path)), header


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None


def _split_labels(
    path: Path, lines: list[tuple[int, str]], column: int, columns: int, delimiter: str
) -> tuple[list[tuple[int, str]], list[str]]:
    if columns == 1:
        raise InputError(f"'{path}' has a label column and no other: expected numbers beside it")
    rest, labels = [], []
    for number, line in lines:
        if column == 0 and not line.startswith('"'):  # Kaggle's form, and by far the fastest to take apart
            label, _, others = line.partition(delimiter)
        else:
            cells = _cells(line, delimiter)
            if len(cells) != columns:
                raise InputError(_ragged(path, number, columns, len(cells)))
            label = cells.pop(column)
            others = delimiter.join(cells)
        labels.append(label.strip())
        rest.append((number, others))
    return rest, labels


def _ragged(path: Path, number: int, expected: int, got: int) -> str:
    return f"line {number} of '{path}' has {got} columns, expected {expected} as in the first line: repair the line"


def _numbers(path: Path, lines: list[tuple[int, str]], columns: int, delimiter: str) -> np.ndarray:
    """Parse lines to a block of the smallest integer type that holds them, or of float64."""
    texts = [text.replace('"', "") for _, text in lines]
    for dtype in (np.int64, np.float64):
        if dtype is np.int64 and any(not _INTEGERS.fullmatch(text) for text in texts):
            continue
        try:
            block = np.loadtxt(texts, dtype=dtype, delimiter=delimiter, comments=None, ndmin=2)
        except (ValueError, OverflowError):
            continue
        if block.shape == (len(texts), columns):
            return _narrow(block) if dtype is np.int64 else block
    for number, text in zip((number for number, _ in lines), texts, strict=True):
        cells = text.split(delimiter)
        if len(cells) != columns:
            raise InputError(_ragged(path, number, columns, len(cells)))
        for position, cell in enumerate(cells, 1):
            if not _is_number(cell):
                what = "is empty" if not cell.strip() else f"is {cell.strip()!r}"
                raise InputError(
                    f"line {number} of '{path}': number {position} {what}, expected a number: fill in or drop the line"
                )
    raise InputError(f"lines {lines[0][0]} to {lines[-1][0]} of '{path}' cannot be read as numbers")


_INTEGERS = re.compile(r"[0-9+\-,;\t ]*")


def _narrow(block: np.ndarray) -> np.ndarray:
    low, high = int(block.min()), int(block.max())
    for dtype in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return block.astype(dtype)
    return block


def _from_archive(path: Path, archive: Any) -> tuple[np.ndarray, np.ndarray | None]:
    names = list(archive.files)
    name = next((name for name in ("X", "arr_0") if name in names), names[0] if len(names) == 1 else None)
    if name is None:
        held = ", ".join(f"'{other}'" for other in names[:6]) or "nothing"
        raise InputError(f"'{path}' holds {held}: expected a single array, or one named X")
    array = archive[name]
    for other in ("y", "labels"):
        if other in names and archive[other].shape == array.shape[:1]:
            return array, archive[other]
    return array, None
