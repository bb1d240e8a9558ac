"""Files: written beside their target and renamed, and numpy's formats read without trust in what they declare.

Everything that numpy, zipfile and zlib raise for a damaged file becomes a `FileFault` here, whose text ends a sentence
that begins with the name of the file. Each reader turns it into an error of its own.
"""

from __future__ import annotations

import math
import os
import secrets
import stat
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ._typing import Array

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
DEFLATE = 1100  # deflate makes at most so many bytes of one
_LONGEST = 150  # characters of another library's message that are passed on


class FileFault(ValueError):
    """What is wrong with a file: the end of a sentence that begins with the file's name.

    Examples
    --------
    >>> from nmfcore._files import FileFault
    >>> f"'x.npy' {FileFault('is damaged')}"
    "'x.npy' is damaged"
    """


def reason(error: BaseException) -> str:
    """Return the message of an error in one line of limited length; the error's type where it has no message.

    Parameters
    ----------
    error : BaseException
        What was raised.

    Returns
    -------
    str
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder for "~"; unlike Path.expanduser, one of an unknown user as it is.

    Parameters
    ----------
    path : path-like
        For instance "~/pictures", or "~draft", the name of a file.

    Returns
    -------
    Path

    Examples
    --------
    >>> from nmfcore._files import expanded
    >>> expanded("~no-such-user/x").name
    'x'
    """
    return Path(os.path.expanduser(path))


@contextmanager
def faults(what: str = "is damaged", but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn whatever a library raises for a damaged file into a `FileFault`.

    Parameters
    ----------
    what : str
        What the message says; the library's own message follows in brackets.
    but : tuple of exception types
        What is passed on as it is.

    Raises
    ------
    FileFault
        For everything but a lack of memory, of permission or of the file itself, a warning that is
        an error, and an interruption.
    """
    passed: tuple[type[Exception], ...] = (
        FileFault,
        MemoryError,
        PermissionError,
        FileNotFoundError,
        IsADirectoryError,
        Warning,
        *but,
    )
    try:
        yield
    except passed:
        raise
    except Exception as error:
        msg = f"{what} ({reason(error)})"
        raise FileFault(msg) from error


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise where a path names a pipe, a socket or a device, which a reader would wait for or never come to an end of.

    Parameters
    ----------
    path : path-like
        The path; nothing need be there.

    Raises
    ------
    FileFault
        When something is there that is neither a file nor a folder.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # reported by whoever opens it
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        msg = f"is {kind}: write what it gives to a file, and give that file"
        raise FileFault(msg)


def machine_memory() -> int | None:
    """Return the bytes of memory that this machine has, or its container may use.

    Returns
    -------
    int or None
        None where the system does not say (Windows).
    """
    try:
        held = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    for name in CGROUPS:
        try:
            held = min(held, int(Path(name).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return held


def check_memory(nbytes: int) -> None:
    """Raise before memory is allocated that this machine does not have.

    Parameters
    ----------
    nbytes : int
        Bytes that are about to be allocated.

    Raises
    ------
    FileFault
        When the machine, or its container, has less.
    """
    memory = machine_memory()
    if memory is not None and nbytes > memory:
        msg = f"needs {nbytes / 1e9:,.1f} GB of memory, and this machine has {memory / 1e9:,.1f} GB"
        raise FileFault(msg)


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


class NpyHeader(NamedTuple):
    """What the header of a ``.npy`` file declares, and where the numbers begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def npy_header(file: BinaryIO, size: int) -> NpyHeader:
    """Read the header of a ``.npy`` file and check it against the size of the file.

    Parameters
    ----------
    file : binary file
        At the beginning of the ``.npy`` data; afterwards at the first number.
    size : int
        Bytes of the ``.npy`` data.

    Returns
    -------
    NpyHeader

    Raises
    ------
    FileFault
        When it is no such header, declares Python objects, or more numbers than there are.
    """
    begin = file.tell()
    with faults("is damaged: it is no .npy file, or its header is not whole"):
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if any(isinstance(side, bool) or side < 0 for side in shape):
            raise ValueError(f"shape {shape}")
    if dtype.hasobject:
        msg = "holds Python objects: save it as an array of numbers"
        raise FileFault(msg)
    header = NpyHeader(tuple(int(side) for side in shape), bool(fortran), dtype, file.tell() - begin)
    if header.offset + header.nbytes > size:
        held = max(0, size - header.offset)
        msg = f"is cut short: {held:,} bytes of the {header.shape} numbers that it says it holds."
        raise FileFault(msg)
    return header


def map_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Memory-map a ``.npy`` file, read-only.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    ndarray
        A ``numpy.memmap``; a plain array where there are no numbers.

    Raises
    ------
    FileFault
        When it is no ``.npy`` file of plain values, or is damaged.
    OSError
        When it cannot be opened.
    """
    check_regular(path)
    with open(path, "rb") as file:
        header = npy_header(file, os.fstat(file.fileno()).st_size)
    if not header.nbytes:
        return np.zeros(header.shape, header.dtype)
    with faults():
        order: Literal["F", "C"] = "F" if header.fortran else "C"
        return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)


class Archive:
    """The arrays of an ``.npz`` file, each of which is checked before memory is allocated for it.

    Parameters
    ----------
    path : path-like
        The file.

    Attributes
    ----------
    names : tuple of str
        Names of the arrays.

    Raises
    ------
    FileFault
        When it is no such archive, or its directory is damaged.
    OSError
        When it cannot be opened.

    Examples
    --------
    >>> import numpy as np, pathlib, tempfile
    >>> from nmfcore._files import Archive
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "a.npz"
    >>> np.savez(path, a=np.arange(3.0))
    >>> with Archive(path) as archive:
    ...     archive.names, archive.array("a").tolist()
    (('a',), [0.0, 1.0, 2.0])
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]):
        check_regular(path)
        self._file = open(path, "rb")  # noqa: SIM115 - closed by __exit__
        try:
            with faults("is damaged: it is no .npz archive, or its end is missing"):
                self._zip = zipfile.ZipFile(self._file)
                entries = self._zip.infolist()
        except BaseException:
            self._file.close()
            raise
        self._entries = {each.filename.removesuffix(".npy"): each for each in entries if each.filename[-4:] == ".npy"}
        self.names = tuple(self._entries)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *raised: object) -> None:
        self._zip.close()
        self._file.close()

    def header(self, name: str) -> NpyHeader:
        """Return what the header of an array declares.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        NpyHeader

        Raises
        ------
        FileFault
            When the array is damaged, or packed in a way that numpy does not write.
        """
        entry = self._entries[name]
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
            msg = f"holds '{shortened(name)}' packed in a way that numpy does not write: save it with numpy.savez"
            raise FileFault(msg)
        if entry.file_size > DEFLATE * max(entry.compress_size, 1):
            msg = f"is damaged ('{shortened(name)}' declares more bytes than can be packed into its place)"
            raise FileFault(msg)
        with faults(), self._zip.open(entry) as stream:
            return npy_header(stream, entry.file_size)  # type: ignore[arg-type]

    def array(self, name: str) -> np.ndarray:
        """Read an array.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        ndarray

        Raises
        ------
        FileFault
            When the array is damaged, holds Python objects, or needs more memory than there is.
        """
        check_memory(self.header(name).nbytes)
        with faults(), self._zip.open(self._entries[name]) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            if stream.read(1):  # at the end of the entry zipfile compares its checksum
                raise ValueError(f"'{shortened(name)}' holds more than its header declares")
            return array


def shortened(text: object, longest: int = 60) -> str:
    """Return a text in one line, its middle left out where it is long.

    Parameters
    ----------
    text : object
        What to show.
    longest : int
        Characters that are shown at most, but for the dots.

    Returns
    -------
    str
    """
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    half = longest // 2
    return line if len(line) <= longest else f"{line[:half]}…{line[-half:]}"


def mapped(path: str | os.PathLike[str], names: Collection[str] | None = None) -> dict[str, Array]:
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
    FileFault
        When the file is no archive, or an array is compressed, holds objects, or does not fit into its place.

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
    arrays: dict[str, Array] = {}
    check_regular(path)
    with faults(), zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if names is not None and name not in names:
                continue
            if entry.compress_type != zipfile.ZIP_STORED:
                msg = "it is compressed"
                raise ValueError(msg)
            file.seek(entry.header_offset)
            local = file.read(30)
            lengths = (int.from_bytes(local[at : at + 2], "little") for at in (26, 28))  # of its name, of extra fields
            start = entry.header_offset + 30 + sum(lengths)
            file.seek(start)
            header = npy_header(file, entry.file_size)
            if header.fortran and len(header.shape) > 1:
                msg = f"its {shortened(entry.filename)} is not in C order"
                raise ValueError(msg)
            at = start + header.offset
            arrays[name] = (
                np.memmap(path, header.dtype, "r", at, header.shape)
                if header.nbytes
                else np.zeros(header.shape, header.dtype)
            )
    return arrays
