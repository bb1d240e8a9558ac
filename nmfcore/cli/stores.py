"""Matrices that are fitted where they lie on the disk: HDF5, Zarr, and ``.npy`` under a budget of memory."""

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .common import Stop, reading_bar, refusals, say_skipped, warnings_as_notes

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from .._typing import Matrix, Settings
    from ..images import Pictures

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".h5ad", ".zarr")
_DENSE = 0.25  # of the memory that a sparse matrix of a store may take when it is made dense


def read_store(
    source: str | None,
    size: tuple[int, int] | None,
    memory: str | None,
    skip_broken: bool,
    notes: "Console",
    rgb: bool,
    how: "Settings | None" = None,
) -> "Pictures | None":
    """Return what `source` names without reading it; None if it is to be read into memory or mapped.

    A row of an array with more dimensions is all that belongs to a sample: n × height × width gives pictures. Under a
    budget of memory a folder of pictures is decoded into a file beside it.
    """
    from ..images import Pictures, cached_images
    from ..images.sources import check_of_folder
    from ..rows.disk import parse_bytes, source_of

    try:
        if memory is not None:
            parse_bytes(memory)
    except ValueError as error:
        raise Stop(f"--{error}") from error
    path = Path(os.path.expanduser((source or "").partition("::")[0]))
    suffix = path.suffix.lower()
    if memory is not None and source is not None and suffix != ".zarr" and path.is_dir():
        try:
            with refusals(), warnings_as_notes(notes), reading_bar(notes) as progress:
                pictures = cached_images(path, size, "RGB" if rgb else "L", skip_broken, progress, **(how or {}))
        except OSError as error:
            raise Stop(f"the pictures of '{source}' cannot be kept beside it: {error.strerror or error}") from error
        say_skipped(pictures, notes)
        return pictures
    if source is None or not (suffix in SUFFIXES or (suffix == ".npy" and memory is not None)):
        return None
    with refusals():
        check_of_folder(source, **{name: (how or {}).get(name, False) for name in ("fit", "mask_transparent")})
        try:
            matrix = source_of(source, fold=True)
        except (ValueError, OSError) as error:
            raise Stop(str(error)) from error
    if hasattr(matrix, "toarray"):
        matrix = _dense(matrix, source)
    shape = getattr(matrix, "sample", None)
    pictures = Pictures(matrix=matrix, shape=shape if _is_picture(shape) else None, source=source)
    if size is not None and size != (pictures.shape or ())[:2]:
        if math.prod(size) != matrix.shape[1]:
            raise Stop(
                f"--size {size[0]}x{size[1]} makes {math.prod(size)} pixels but a row of '{source}' has "
                f"{matrix.shape[1]}: only pictures in a folder can be resized"
            )
        pictures = dataclasses.replace(pictures, shape=size)
    return pictures


def _dense(X: "Matrix", source: str) -> "np.ndarray":
    """Return a sparse matrix as a dense one, which plots and searches need."""
    from .._files import machine_memory

    needed, memory = math.prod(X.shape) * X.dtype.itemsize, machine_memory()
    if memory is not None and needed > _DENSE * memory:
        raise Stop(
            f"'{source}' is a sparse matrix, {X.shape[0]:,} × {X.shape[1]:,}, which takes {needed / 1e9:,.1f} GB as a "
            f"dense one: fit it in Python, with nmfcore.NMF(...).fit('{source}')"
        )
    return X.toarray()


def _is_picture(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3))
