"""Bytes of a file, past the kernel's cache where that cache cannot hold the file anyway.

A file larger than memory is read anew in every pass: the pages that the cache keeps are those that were read last, and
the pass begins with the others. Taking them in and giving them up costs the processors 0.1–0.3 s a GB, which a fit
has better use for; the disk's own transfer into our buffer costs 0.04 (measured in a virtual machine, 3 GB, 2 cores).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..._files import machine_memory, reason
from ..._typing import Array
from .sources import SLACK, ReadError

ALIGNMENT = SLACK  # positions, sizes and addresses that are multiples of it suit every disk and file system
_SPAN = 4 << 20  # bytes of one request: 2.8 GB/s where those of 16 MiB gave 2.4 (pages are pinned before it starts)

Fill = Callable[[int, Array], None]  # fill(position, out): bytes of the file from there on into out, uint8


def outgrows_cache(nbytes: int) -> bool:
    """Whether the kernel's cache can hardly hold so much: more than half of the memory there is."""
    memory = machine_memory()
    return memory is not None and nbytes > memory / 2


def aligned(buffer: Array, size: int, position: int) -> Array:
    """Return `size` bytes of a buffer that has SLACK more, where the disk can put bytes from `position` on."""
    shift = (position - buffer.ctypes.data) % ALIGNMENT
    return buffer[shift : shift + size]


@contextmanager
def open_bytes(path: Path, direct: bool) -> Iterator[Fill]:
    """Open a file and give a function that reads its bytes, see `Fill`.

    Parameters
    ----------
    path : Path
        The file.
    direct : bool
        Whether whole pages go from the disk to where `aligned` has put them. What cannot go that way (ends, other
        places in memory, file systems that do not offer it) goes through the cache.
    """
    with open(path, "rb", buffering=0) as cached:
        straight = _open_direct(path) if direct else None
        if straight is not None and hasattr(os, "posix_fadvise"):  # a page, not what may follow it
            os.posix_fadvise(cached.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

        def through_cache(position: int, out: Array) -> None:
            cached.seek(position)
            while len(out):
                with _named_errors(path):
                    got = cached.readinto(out)
                if not got:
                    msg = f"'{path}' has become shorter while it was read."
                    raise ValueError(msg)
                out = out[got:]

        def fill(position: int, out: Array) -> None:
            first = done = 0
            if straight is not None and not (out.ctypes.data - position) % ALIGNMENT:
                first = min(-position % ALIGNMENT, len(out))
                last = first + (len(out) - first) // ALIGNMENT * ALIGNMENT
                with _named_errors(path):
                    done = first + _read_direct(straight, position + first, out[first:last])
            through_cache(position, out[:first])
            through_cache(position + done, out[done:])

        try:
            yield fill
        finally:
            if straight is not None:
                os.close(straight)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Name the file in an error of the disk."""
    try:
        yield
    except OSError as error:
        msg = f"'{path}' cannot be read ({reason(error)})"
        raise ReadError(msg) from error


def _open_direct(path: Path) -> int | None:
    if not hasattr(os, "O_DIRECT") or not hasattr(os, "preadv"):
        return None
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system without it
            return None
        raise


def _read_direct(file: int, position: int, out: Array) -> int:
    """Read whole pages; return the bytes read, which are fewer where the file ends or the file system refuses."""
    done = 0
    while done < len(out):
        view: Array = out[done : done + _SPAN]
        try:
            got = os.preadv(file, [view], position + done)
        except OSError as error:
            if error.errno == errno.EINVAL:
                break
            raise
        done += got // ALIGNMENT * ALIGNMENT
        if got < len(view):
            break
    return done
