"""Files that are written beside their target and renamed (a crash leaves the old one or the new one), and mapped."""

from __future__ import annotations

import io
import math
import os
import secrets
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


@contextmanager
def replacing(path: str | os.PathLike[str], beside_name: str | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing that takes `path`'s place only when it is complete and on the disk.

    Parameters
    ----------
    path : path-like
        The file to write or replace; a symbolic link is followed.
    beside_name : str or None
        Name of the new file until it is complete, which no file may have yet; None: one that nobody else has.

    Yields
    ------
    file : binary file
        A new file in the same folder. When the block ends it is synced and renamed to `path`;
        when it raises, it is removed and `path` stays as it was.

    Raises
    ------
    FileNotFoundError
        When the folder of `path` does not exist.
    OSError
        When writing fails.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from nmfcore._files import replacing
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "x.bin"
    >>> with replacing(path) as file:
    ...     _ = file.write(b"whole")
    >>> path.read_bytes()
    b'whole'
    >>> folder.cleanup()
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write '{path}': there is no folder '{target.parent}'; create it first")
    beside = target.with_name(beside_name or f".nmfcore-{secrets.token_hex(8)}.part")
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where the system can (not on Windows).

    Parameters
    ----------
    folder : Path
        The folder whose entries changed.
    """
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse to sync a folder; the rename itself is done
        pass
    finally:
        os.close(handle)


def mapped(path: str | os.PathLike[str], names: Collection[str] | None = None) -> dict[str, Any]:
    """Return the arrays of an uncompressed ``.npz`` archive, memory-mapped where they lie in it.

    Parameters
    ----------
    path : path-like
        The archive.
    names : collection of str or None
        Which ones; None: all.

    Returns
    -------
    arrays : dict of str to numpy.memmap
        Read-only; those without numbers are plain arrays.

    Raises
    ------
    ValueError
        If an array is compressed, holds objects, or does not fit into its place.
    zipfile.BadZipFile
        If the file is no archive.

    Examples
    --------
    >>> import numpy as np, pathlib, tempfile
    >>> from nmfcore._files import mapped
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "a.npz"
    >>> np.savez(path, a=np.arange(3.0))
    >>> mapped(path)["a"].tolist()
    [0.0, 1.0, 2.0]
    >>> folder.cleanup()
    """
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if names is not None and name not in names:
                continue
            if entry.compress_type != zipfile.ZIP_STORED:
                msg = "it is compressed"
                raise ValueError(msg)
            file.seek(entry.header_offset)
            local = file.read(30)
            lengths = (int.from_bytes(local[at : at + 2], "little") for at in (26, 28))  # of its name, and of more
            start = entry.header_offset + 30 + sum(lengths)
            file.seek(start)
            head = io.BytesIO(file.read(min(entry.file_size, 1 << 16)))
            version = np.lib.format.read_magic(head)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(head)
            at, bytes_ = start + head.tell(), math.prod(shape) * dtype.itemsize
            if dtype.hasobject or (fortran and len(shape) > 1) or at + bytes_ > start + entry.file_size:
                msg = f"its {entry.filename} is not what it should be"
                raise ValueError(msg)
            arrays[name] = np.memmap(path, dtype, "r", at, shape) if bytes_ else np.zeros(shape, dtype)
    return arrays
