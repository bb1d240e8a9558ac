"""The folder that a model lives in: what its files are called, and how they are replaced.

All of them are replaced at once (`replaced_folder`), or originals are put at the end of theirs (`append_rows`) and the
model, which says which of them belong to it, is replaced after that: a model is whole whenever the process is killed.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._files import npy_header, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._typing import Array

__all__ = ["MASK", "MODEL", "PICTURES", "SETTINGS", "append_rows", "exchanged", "held", "replaced_folder"]

_HERE, _EXCHANGE, _SWAP = -100, 2, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
MODEL, PICTURES, MASK, SETTINGS = "model.npz", "pictures.npy", "mask.npy", "search.json"


@contextmanager
def replaced_folder(home: Path, ours: Collection[str] = (PICTURES, MASK, SETTINGS, MODEL)) -> Iterator[Path]:
    """Give a new folder whose files take the place of those in `home`, all of them or none.

    The new folder is made beside `home`, and the two exchange their names in one step, where the system can do that;
    elsewhere (Windows, some network file systems) `home` is away for a moment, between two renames. The working
    directory, and a folder in one that cannot be written to, keep their places: there the files are replaced one after
    the other, the model last.

    Parameters
    ----------
    home : Path
        The folder. If it does not exist, it is made; if it does, only the files in `ours` are replaced or removed.
        Other files stay, those too that came into it while the new folder was being filled.
    ours : collection of str
        Names of the files that may be replaced or removed.

    Yields
    ------
    folder : Path
        An empty folder to write to. It takes its place when the block ends, and is removed when the block raises.

    Raises
    ------
    OSError
        When the folder cannot be made or replaced; `home` is then as it was.
    """
    real, token = Path(os.path.realpath(home)), secrets.token_hex(6)
    there = real.is_dir()
    beside = not there or (os.access(real.parent, os.W_OK | os.X_OK) and not os.path.samefile(real, os.curdir))
    staging = (real.parent if beside else real) / f".nmfcore-{token}.part"
    staging.mkdir()
    made = os.stat(staging)
    try:
        yield staging
        sync_folder(staging)
        if not there:
            staging.rename(real)
        elif beside:
            _swap(staging, real, real.with_name(f".nmfcore-{token}.former"), ours)
        else:
            for name in sorted(ours, key=lambda name: name == MODEL):  # a model with too many pictures still opens
                if (staging / name).exists():
                    (staging / name).replace(real / name)
                else:
                    (real / name).unlink(missing_ok=True)
            staging.rmdir()
        sync_folder(real if there and not beside else real.parent)
    except BaseException:
        with suppress(OSError):
            if os.path.samestat(os.stat(staging), made):  # and not the former folder, which may hold other files
                shutil.rmtree(staging, ignore_errors=True)
        raise


def _swap(staging: Path, real: Path, former: Path, ours: Collection[str]) -> None:
    """Put `staging` in the place of `real`, with the files of `real` that are not ours."""
    shutil.copymode(real, staging)
    for entry in real.iterdir():
        if entry.name not in ours:
            with suppress(OSError):  # a folder, or a disk without hard links: it is moved below
                os.link(entry, staging / entry.name, follow_symlinks=False)
    if exchanged(staging, real):
        former = staging
    else:
        real.rename(former)
        try:
            staging.rename(real)
        except BaseException:
            former.rename(real)
            raise
    for entry in former.iterdir():
        if entry.name not in ours:
            entry.replace(real / entry.name)
    shutil.rmtree(former, ignore_errors=True)


def exchanged(a: Path, b: Path) -> bool:
    """Exchange the names of two folders in one step, so that neither name is without a folder for a moment.

    Parameters
    ----------
    a, b : Path
        The folders, in one file system.

    Returns
    -------
    bool
        Whether they were exchanged; False where the system or the file system cannot, and nothing has changed.
    """
    first, second = os.fsencode(a), os.fsencode(b)
    calls = {
        "linux": ("renameat2", (_HERE, first, _HERE, second, _EXCHANGE)),
        "darwin": ("renamex_np", (first, second, _SWAP)),
    }
    name, arguments = calls.get(sys.platform, ("", ()))
    call = getattr(ctypes.CDLL(None), name, None) if name else None  # older C libraries have none
    return call is not None and call(*arguments) == 0


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Keep other processes that ask for it from writing to a folder meanwhile; they wait.

    Parameters
    ----------
    home : Path
        The folder. A process that is killed lets it go. Where the system cannot hold a folder (Windows, some network
        file systems), it is not held.

    Yields
    ------
    None
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(home, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def append_rows(path: Path, blocks: Iterable[Array]) -> int:
    """Put rows at the end of a ``.npy`` file, without writing to those that it has.

    The numbers are on the disk before the header counts them. Until then the file holds the rows that it had, and bytes
    behind them, which no reader reads and the next call overwrites.

    Parameters
    ----------
    path : Path
        The file, which holds a matrix in C order.
    blocks : iterable of ndarray of shape (n_i, m)
        The rows, in a type that can be cast to that of the file.

    Returns
    -------
    int
        How many rows the file had.

    Raises
    ------
    FileFault
        When it is no such file.
    ValueError
        When it is in Fortran order, or its header has no room.
    OSError
        When writing fails; the file is then what it was.
    """
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        header = npy_header(file, size)
        file.seek(0)
        start = file.read(header.offset)
        if header.fortran or len(header.shape) != 2:
            raise ValueError(f"'{path}' holds an array of shape {header.shape} that no rows can be added to")
        rows, end = header.shape[0], header.offset + header.nbytes
        file.seek(end)
        added = 0
        try:
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype=header.dtype).data)
                added += len(block)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise
        if added:
            file.seek(0)
            file.write(_counting(start, header.dtype, (rows + added, header.shape[1])))
            file.flush()  # one write of some hundred bytes, which is made or not
            os.fsync(file.fileno())
    return rows


def _counting(start: bytes, dtype: np.dtype, shape: tuple[int, int]) -> bytes:
    """Return the start of a .npy file with another shape in its header, and as long as it was."""
    first = 10 if start[6] == 1 else 12  # magic, version, and the length of the text that follows
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}).encode()
    room = len(start) - first - 1
    if len(text) > room:
        raise ValueError("the header of the .npy file has no room for a larger shape: save it with numpy.save again")
    return start[:first] + text.ljust(room) + b"\n"
