"""Which picture files the rows of a model were made of, so that their folder can be compared with it later.

A model keeps it as ``Model.files``, plain data of which ``models.save`` writes the arrays as they are::

    root, recursive, exclude    the folder, and how `nmfcore.images.load_images` looked through it
    names                       paths of the files below the folder
    reasons                     of those that cannot be read: why, by name
    sizes, times                bytes, and time of the last change in nanoseconds; n_files, int64
    digests                     BLAKE2b of the bytes; n_files × 16, uint8
    rows                        the number of each row's file, -1 for none; n_samples, int64
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from .._files import reason
from ..images import Pictures
from ..images._decoding import picture_suffixes
from ..images._listing import names_in
from ..models import Model, ModelFileError

__all__ = ["Manifest", "Record", "digest_of", "digests_of", "file_of", "looked_at", "noted", "sure_time"]

DIGEST = 16  # bytes
UNKNOWN = bytes(DIGEST)  # the digest of a file of which no more than the name is known
UNSURE = -1  # the time of a file that may change once more without a change of its size and time
# A file may be written twice before the clock of its file system moves on; that of FAT moves every two seconds.
_TICK = 2 * 10**9


class Record(NamedTuple):
    """What is known of a picture file.

    Attributes
    ----------
    size : int
        Bytes.
    time : int
        Of the last change, in nanoseconds; `UNSURE` where it does not tell.
    digest : bytes
        Of the content; `UNKNOWN` where it was not read.
    reason : str
        Why it cannot be read as a picture; "" where it can.
    """

    size: int
    time: int
    digest: bytes
    reason: str = ""


@dataclass(frozen=True)
class Manifest:
    """The picture files of a model.

    Attributes
    ----------
    root : str
        Their folder, as an absolute path.
    recursive : bool
        Whether the folders in it were read, too.
    exclude : tuple of str
        Patterns of what was left out.
    records : dict of str to Record
        What is known of each file, by its path below the folder.
    owners : tuple of n_samples str
        The file that each row was made of; "" for a row that was made of none.
    """

    root: str
    recursive: bool = False
    exclude: tuple[str, ...] = ()
    records: dict[str, Record] = field(default_factory=dict)
    owners: tuple[str, ...] = ()

    def plain(self) -> dict[str, object]:
        """Return it as ``Model.files`` keeps it.

        Returns
        -------
        dict
        """
        names = list(dict.fromkeys([*self.records, *(owner for owner in self.owners if owner)]))
        numbers = {name: number for number, name in enumerate(names)}
        nothing = Record(UNSURE, UNSURE, UNKNOWN)
        records = [self.records.get(name, nothing) for name in names]
        return {
            "root": self.root,
            "recursive": self.recursive,
            "exclude": list(self.exclude),
            "names": names,
            "reasons": {name: record.reason for name, record in self.records.items() if record.reason},
            "sizes": np.array([record.size for record in records], np.int64),
            "times": np.array([record.time for record in records], np.int64),
            "digests": np.frombuffer(b"".join(record.digest for record in records), np.uint8).reshape(-1, DIGEST),
            "rows": np.array([numbers[owner] if owner else -1 for owner in self.owners], np.int64),
        }

    @classmethod
    def of(cls, model: Model) -> Manifest:
        """Return what a model knows of its files.

        Parameters
        ----------
        model : Model
            One without ``files`` gets a manifest without records: its rows are named by their files.

        Returns
        -------
        Manifest

        Raises
        ------
        ModelFileError
            When what it knows is not whole.
        """
        n = len(model.W)
        if model.files is None:
            owners = tuple(file_of(name) for name in model.names or ("",) * n)
            recursive = any("/" in owner for owner in owners)
            return cls(
                os.path.abspath(os.path.expanduser(model.source)) if model.source else "", recursive, (), {}, owners
            )
        try:
            plain = model.files
            names, why = cast("list[str]", plain["names"]), cast("dict[str, str]", plain["reasons"])
            sizes, times, digests, rows = (
                cast("np.ndarray", plain[name]) for name in ("sizes", "times", "digests", "rows")
            )
            exclude, root = cast("list[str]", plain["exclude"]), plain["root"]
            texts = (root, *names, *why.values(), *exclude)
            whole = (
                all(isinstance(text, str) for text in texts)
                and all(array.shape == (len(names),) and array.dtype == np.int64 for array in (sizes, times))
                and digests.shape == (len(names), DIGEST)
                and digests.dtype == np.uint8
                and rows.dtype == np.int64
                and rows.ndim == 1
                and len(rows) <= n
                and -1 <= rows.min(initial=-1) <= rows.max(initial=-1) < len(names)
            )
            if not whole:
                raise ValueError("what it knows of its files is not whole")
            packed = digests.tobytes()
            records = {
                name: Record(size, changed, packed[DIGEST * row : DIGEST * (row + 1)], why.get(name, ""))
                for row, (name, size, changed) in enumerate(zip(names, sizes.tolist(), times.tolist(), strict=True))
            }
            owners = tuple("" if row < 0 else names[row] for row in rows.tolist())
            owners += ("",) * (n - len(owners))  # rows that `SearchEngine.add` put at the end
            return cls(str(root), bool(plain["recursive"]), tuple(exclude), records, owners)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"the list of files in the model is damaged ({reason(error)}): fit once more"
            ) from error

    def chosen(self, rows: Sequence[int]) -> Manifest:
        """Return the manifest of some of the rows, without the files of which no row is left.

        Parameters
        ----------
        rows : sequence of int
            Numbers of the rows.

        Returns
        -------
        Manifest
        """
        owners = tuple(self.owners[row] for row in rows)
        lost = set(self.owners) - set(owners)
        records = {name: record for name, record in self.records.items() if name not in lost}
        return replace(self, records=records, owners=owners)


def file_of(name: str) -> str:
    """Return the file of a row, by the row's name.

    Parameters
    ----------
    name : str
        As `nmfcore.images.Pictures` has it.

    Returns
    -------
    str

    Examples
    --------
    >>> from nmfcore.search.manifest import file_of
    >>> file_of("cats/1.png"), file_of("stack.tif#3")
    ('cats/1.png', 'stack.tif')
    """
    file, mark, page = name.rpartition("#")
    if mark and page.isdecimal() and os.path.splitext(name)[1].lower() not in picture_suffixes():
        return file
    return name


def looked_at(source: object, recursive: bool = False, exclude: str | Sequence[str] = ()) -> dict[str, Record]:
    """Return sizes and dates of the picture files of a folder; to be called before the files are decoded.

    A file that is written after this call has another size or date than its record, or another digest.

    Parameters
    ----------
    source : object
        The folder; of anything else nothing is known.
    recursive : bool
        As for `nmfcore.images.load_images`. Defaults to False.
    exclude : str or sequence of str
        As for `nmfcore.images.load_images`. Defaults to none.

    Returns
    -------
    dict of str to Record
        What is known of each file, by its path below the folder.
    """
    if not isinstance(source, str | os.PathLike):
        return {}
    root, looked = Path(os.path.expanduser(source)), time.time_ns()
    stats = {name: _stat(root / name) for name in (names_in(root, recursive, exclude) if root.is_dir() else ())}
    there = {name: seen for name, seen in stats.items() if seen is not None and stat.S_ISREG(seen.st_mode)}
    return {
        name: Record(there[name].st_size, sure_time(there[name].st_mtime_ns, looked), digest)
        for name, digest in digests_of(root, there).items()
        if isinstance(digest, bytes)
    }


def noted(pictures: Pictures, records: Mapping[str, Record]) -> dict[str, object] | None:
    """Note the files that pictures were read from.

    Parameters
    ----------
    pictures : Pictures
        As they were read from a folder.
    records : mapping of str to Record
        What `looked_at` found there before. Of a file without one, no more than the name is known.

    Returns
    -------
    dict or None
        ``files`` of the model that is made of them; None if they were read from no folder.
    """
    if pictures.selection is None or pictures.names is None:
        return None
    root = os.path.abspath(os.path.expanduser(pictures.source))
    owners = tuple(map(file_of, pictures.names))
    known = {name: records[name] for name in dict.fromkeys(owners) if name in records}
    exclude = tuple(cast("list[str]", pictures.selection["exclude"]))
    return Manifest(root, bool(pictures.selection["recursive"]), exclude, known, owners).plain()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def digest_of(path: Path) -> bytes:
    """Return a digest of a file's content.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    bytes
        BLAKE2b, 16 bytes.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST)).digest()


def digests_of(root: Path, names: Iterable[str] | Mapping[str, object]) -> dict[str, bytes | OSError]:
    """Return digests of files, read by several threads.

    Parameters
    ----------
    root : Path
        Their folder.
    names : iterable of str
        Their paths below it.

    Returns
    -------
    dict of str to bytes or OSError
        The digest of each, or why it cannot be read.
    """

    def one(name: str) -> bytes | OSError:
        try:
            return digest_of(root / name)
        except OSError as error:
            return error

    listed = list(names)
    with ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 4), thread_name_prefix="nmfcore-files") as pool:
        return dict(zip(listed, pool.map(one, listed), strict=True))


def sure_time(changed: int, looked: int) -> int:
    """Return the time of a file's last change, or `UNSURE` where it is so recent that another change may not show.

    Parameters
    ----------
    changed : int
        In nanoseconds.
    looked : int
        When the file's date was read, in nanoseconds.

    Returns
    -------
    int
    """
    return changed if changed < looked - _TICK else UNSURE
