"""Files that are written beside their target and renamed: a crash leaves the old one or the new one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
