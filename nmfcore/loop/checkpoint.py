"""Checkpoints: all that a fit needs to go on, in one ``.npz`` file, without pickle, which is never half-written.

The file holds a JSON object ``meta`` and the arrays that it refers to: the rows of the state (W and the buffers that
travel with it), the small factor, the memory of solver, stop rule and loop, and the identity of the fit, made of its
parameters and of sums and a digest of X. Numbers keep their types, which decide how a product is rounded, so that a fit
that goes on has the bits of one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import logging
import os
import platform
import secrets
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from .._files import expanded, mapped, replacing
from .._typing import Array
from ..backends import cuda

if TYPE_CHECKING:
    from types import ModuleType

    from ..backends.operations import Backend
    from ..solvers._common import Memory, Small

fcntl: ModuleType | None
msvcrt: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

logger = logging.getLogger("nmfcore")

FORMAT, VERSION = "nmfcore-checkpoint", 4


class Kept(NamedTuple):
    """The contents of a checkpoint."""

    rows: dict[str, Array]  # row-aligned buffers by name, memory-mapped if `Checkpoint.mapped` is True
    Ht: Array  # m × k
    parts: dict[str, object]  # "small", "solver", "rule" and "loop", as `_encode` has written them
    arrays: Mapping[str, Array]  # that the parts refer to

    def restored(self, small: Small, backend: Backend) -> tuple[Small, Memory, dict[str, object], Any]:
        """Return the small factor, and the memory of solver, rule and loop.

        Parameters
        ----------
        small : object
            The small factor of a solver that has just started, which has the type of the one to return.
        backend : module
            Makes arrays where X is computed on.
        """
        of_solver, of_rule, of_loop = (
            _decode(self.parts[name], self.arrays, None, backend) for name in ("solver", "rule", "loop")
        )
        return _decode(self.parts["small"], self.arrays, small, backend), of_solver, of_rule, of_loop


class Checkpoint:
    """A file that a fit writes now and then, and from which it goes on.

    Parameters
    ----------
    path : path-like
        The file; its folder must exist.
    every : float
        Seconds from one writing to the next.
    identity : dict of str to str
        Properties of the fit and of X. A fit goes on from a file only if all of them are the same.
    mapped : bool
        Whether the rows of an earlier fit are memory-mapped instead of read, because they are copied to other machines
        or files anyway. Defaults to False.

    Attributes
    ----------
    passes : int or None
        Number of passes of the fit in the file; None if there is no file.
    """

    def __init__(self, path: str | os.PathLike[str], every: float, identity: dict[str, str], mapped: bool = False):
        self.path = expanded(path)
        self.every, self.identity, self.mapped = every, identity, mapped
        self.passes: int | None = None
        self._last = time.perf_counter()
        self._marked: tuple[int, dict[str, object], dict[str, Array], Callable[[], list[Any]]] | None = None
        self._found: Kept | None = None

    def found(self) -> Kept | None:
        """Return what an earlier fit has written to the path; None if there is no file.

        Raises
        ------
        ValueError
            If the file belongs to another fit, or is no checkpoint.
        """
        if self._found is None and self.path.exists():
            meta, arrays = self._read()
            for name, value in self.identity.items():
                kept = meta["identity"].get(name)
                if kept != value:
                    msg = (
                        f"the checkpoint '{self.path}' is of another fit: it has {name} = {kept}, this one {value}. "
                        "Give what it was made with to go on from it, or another path, or delete it."
                    )
                    raise ValueError(msg)
            rows = {name: arrays[key] for name, key in meta["rows"].items()}
            (key,) = meta["small"]["fields"]["Ht"].values()
            Ht = arrays[key]
            self._found = Kept(rows, Ht, meta, arrays)
            self.passes = int(_decode(meta["loop"], arrays, None, None)[0])  # type: ignore[arg-type]
            logger.info("going on from the checkpoint '%s'", self.path)
        return self._found

    def release(self) -> None:
        """Drop the references to what `found` has read, so that its memory is freed when the loop replaces it."""
        self._found = None

    def _read(self) -> tuple[dict[str, Any], dict[str, Array]]:
        written = VERSION
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                meta = json.loads(str(archive["meta"][()]))
                if meta["format"] == FORMAT and type(meta["version"]) is int:
                    written = meta["version"]
                if meta["format"] == FORMAT and written == VERSION:
                    apart = set(meta["rows"].values()) if self.mapped else set()
                    arrays = {name: archive[name] for name in archive.files if name != "meta" and name not in apart}
                    if apart:
                        if archive.zip.testzip() is not None:
                            raise zipfile.BadZipFile
                        arrays |= mapped(self.path, apart)
                    return meta, arrays
        except (zipfile.BadZipFile, EOFError, KeyError, TypeError, ValueError, AttributeError):
            pass
        msg = f"'{self.path}' is no checkpoint that this nmfcore can read: give checkpoint= another path, or delete it."
        if written != VERSION:
            msg = (
                f"the checkpoint '{self.path}' was written by another version of nmfcore (in format {written}, this "
                f"one reads {VERSION}): end the fit with that version, give checkpoint= another path, or delete it."
            )
        raise ValueError(msg)

    def mark(
        self,
        passes: int,
        rows: dict[str, Array],
        small: Small | None,
        solver: Memory,
        rule: dict[str, object],
        loop: Callable[[], list[Any]],
    ) -> None:
        """Note the state of the fit, for `save` to write. Arrays are not copied, as none of them changes any more.

        What `loop` returns is as long as the history of the fit: it is called when it is written, and not in each pass.
        """
        arrays: dict[str, Array] = {}
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "identity": self.identity,
            "rows": {name: _refer(A, arrays) for name, A in rows.items()},
            "small": _encode(small, arrays),
            "solver": _encode(solver, arrays),
            "rule": _encode(rule, arrays),
        }
        self._marked = passes, meta, arrays, loop

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.perf_counter() - self._last >= self.every

    def save(self) -> None:
        """Write the state that was noted last. If it cannot be written, warn, and let the fit go on.

        If rows are on workers that are gone, nothing is written, and the file stays as it is.
        """
        if self._marked is None or any(getattr(A, "lost", False) for A in self._marked[2].values()):
            return
        passes, meta, arrays, loop = self._marked
        arrays = dict(arrays)  # a writing that fails is tried again
        meta = {**meta, "loop": _encode(loop(), arrays)}
        try:
            with replacing(self.path, _part(self.path, secrets.token_hex(8))) as file:
                _write(file, {"meta": np.array(json.dumps(meta)), **arrays})
        except OSError as error:
            warnings.warn(
                f"The checkpoint '{self.path}' could not be written ({error.strerror or error}); the fit goes on.",
                UserWarning,
                stacklevel=2,
            )
        else:
            self._marked, self.passes = None, passes
        self._last = time.perf_counter()

    def remove(self) -> None:
        """Delete the file, once the fit is over."""
        self.path.unlink(missing_ok=True)


@contextmanager
def held(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Reserve the path of a checkpoint for one fit; None reserves nothing.

    The operating system locks a file beside the checkpoint, and unlocks it when the process ends, even if it is killed.
    Where there are no file locks, nothing is locked.

    Raises
    ------
    RuntimeError
        If another fit, of this process or another one, has reserved the path.
    FileNotFoundError, PermissionError
        If nothing can be written to the path, see `check_place`.
    """
    if path is None:
        yield
        return
    check_place(path)
    target = Path(os.path.realpath(expanded(path)))
    lock_path = target.with_name(f".{target.name}.lock")
    handle = _locked(lock_path, path)
    try:
        for left in target.parent.glob(glob.escape(f".{target.name}.") + "[0-9a-f]" * 16 + ".part"):
            left.unlink(missing_ok=True)  # half-written by a fit that was killed
        yield
    finally:
        if handle is not None:
            if os.name == "posix":  # deleted before it is unlocked, or another process could lock a deleted file
                lock_path.unlink(missing_ok=True)
            os.close(handle)
            if os.name != "posix":  # an open file cannot be deleted there
                with suppress(OSError):
                    lock_path.unlink(missing_ok=True)


def _locked(lock_path: Path, path: str | os.PathLike[str]) -> int | None:
    """Lock a file and return its handle; return None where there are no file locks."""
    while True:
        handle = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle)
            if os.name != "posix" or (lock_path.exists() and os.path.samestat(os.fstat(handle), lock_path.stat())):
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()} on {platform.node()}\n".encode())
                return handle
        except BlockingIOError:
            whose = ""
            with suppress(OSError):
                whose = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            msg = (
                f"checkpoint = '{path}' is in use by another fit (process {whose or 'unknown'}): give each fit a path "
                "of its own, or wait until that one has ended."
            )
            raise RuntimeError(msg) from None
        except OSError:  # this file system has no locks
            os.close(handle)
            lock_path.unlink(missing_ok=True)
            return None
        os.close(handle)  # another fit has ended and deleted the file after we opened it: open it again


def _lock(handle: int) -> None:
    """Lock an open file; raise BlockingIOError if it is locked already."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:  # lock a byte far behind the text, so that the text can still be read
        os.lseek(handle, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error
        os.lseek(handle, 0, os.SEEK_SET)


def _part(path: Path, token: str) -> str:
    """Return the name that a checkpoint has until it is complete."""
    return f".{os.path.basename(os.path.realpath(path))}.{token}.part"


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise an error if no checkpoint can be written to a path; called before anything is computed.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    PermissionError
        If the folder cannot be written to.
    """
    folder = Path(os.path.realpath(expanded(path))).parent
    if not folder.is_dir():
        msg = f"checkpoint = '{path}' cannot be written: there is no folder '{folder}'; create it first"
        raise FileNotFoundError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"checkpoint = '{path}' cannot be written: the folder '{folder}' does not allow it"
        raise PermissionError(msg)


def _write(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Write a ``.npz`` archive as numpy does; arrays on other machines are fetched and written part by part."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, A in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                if hasattr(A, "parts"):
                    head = {"descr": np.lib.format.dtype_to_descr(A.dtype), "fortran_order": False, "shape": A.shape}
                    np.lib.format.write_array_header_1_0(entry, head)
                    for part in A.parts():
                        entry.write(np.ascontiguousarray(part, A.dtype).data)
                else:
                    np.lib.format.write_array(entry, np.asanyarray(cuda.to_host(A)), allow_pickle=False)


def _refer(A: Array, arrays: dict[str, Array]) -> str:
    key = f"a{len(arrays)}"
    arrays[key] = A
    return key


def _encode(value: Any, arrays: dict[str, Array]) -> object:
    """Return a value in a form that JSON can hold, with its type; arrays are added to `arrays`."""
    if value is None or isinstance(value, bool | str):
        return value
    if type(value) in (int, float):  # JSON writes floats in full
        return value
    if isinstance(value, np.generic):
        return {"scalar": _refer(np.asarray(value), arrays)}
    if dataclasses.is_dataclass(value):
        return {"fields": {f.name: _encode(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}}
    if isinstance(value, dict):
        return {"dict": {name: _encode(each, arrays) for name, each in value.items()}}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encode(each, arrays) for each in value]}
    kind = "array" if isinstance(value, np.ndarray) else "on device"
    return {kind: _refer(value, arrays)}


def _decode(code: Any, arrays: Mapping[str, Array], like: object, backend: Backend) -> Any:
    """Return the value that `_encode` has encoded; a dataclass gets the type of `like`."""
    if not isinstance(code, dict):
        return code
    ((kind, held),) = code.items()
    if kind == "scalar":
        return arrays[held][()]
    if kind == "array":
        return arrays[held]
    if kind == "on device":
        return backend.asarray(arrays[held]).reshape(arrays[held].shape)  # `asarray` may make a number an array of one
    if kind == "fields":
        return type(like)(**{n: _decode(each, arrays, getattr(like, n), backend) for n, each in held.items()})
    if kind == "dict":
        return {name: _decode(each, arrays, None, backend) for name, each in held.items()}
    return {"list": list, "tuple": tuple}[kind](_decode(each, arrays, None, backend) for each in held)
