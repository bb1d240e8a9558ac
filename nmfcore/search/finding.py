"""How duplicates are found: equal files, then equal pixels, then pictures that are nearly the same.

Each kind works on what the one before has left: one picture of each group, the one to keep. So a picture is surplus in
one group at most, and when all surplus pictures are gone, one of each is left.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._typing import Array
from ..images import InputError
from .cosine import cosine_topk
from .duplicates import KINDS, DuplicateGroup, Duplicates
from .linkage import LINKAGES, linked
from .originals import PictureFiles
from .pairs import CANDIDATES, Pixels, near_pairs, norms_of

if TYPE_CHECKING:
    from .collection import Collection

__all__ = ["DISTANCE", "MAX_PAIRS", "NEAR", "find_duplicates"]

# Defaults, from `benchmarks/run.py --figures duplicates`; the page "Find duplicates" has the table. Up to a distance of
# 0.2, copies in JPEG quality 60, of half the size, brighter or mirrored are found as often with 0.995 as with 0.98.
# With 0.995 no copy of a cat is paired with another cat, with 0.98 one in 30 is.
NEAR = 0.995
DISTANCE = 0.2
MAX_PAIRS = 1_000_000
_SMALL = 64  # rows of a group whose cosines are computed in one product
_AT_ONCE = 1 << 24  # bytes of pixels that are read at a time


def find_duplicates(
    engine: Collection,
    near: float | None,
    mirrored: bool,
    distance: float | None,
    linkage: str,
    kinds: Sequence[str],
    folder: str | os.PathLike[str] | None,
    max_pairs: int,
) -> Duplicates:
    """Find the duplicates among the pictures of an engine; see `SearchEngine.duplicates`.

    Parameters
    ----------
    engine : Collection
        The pictures and their codes.
    near : float or None
        Least cosine of the codes of a near pair; None means `NEAR`.
    mirrored : bool
        Whether to look for mirror images, too.
    distance : float or None
        Largest relative distance of the pixels of a near pair; None means `DISTANCE`.
    linkage : {"single", "complete"}
        How pairs become groups.
    kinds : sequence of str
        Which of `KINDS` to look for.
    folder : path-like or None
        Where the files are; None: where the model says.
    max_pairs : int
        How many near pairs to keep at most.

    Returns
    -------
    Duplicates
    """
    near = _share("near", near, NEAR, 1.0)
    distance = _share("distance", distance, DISTANCE, 2.0)
    _check(engine, linkage, kinds, max_pairs, mirrored)
    notes: list[str] = []
    files = _files_of(engine, folder, notes)
    n, groups = len(engine), []
    there = np.ones(n, bool)  # which rows no group has made surplus
    if "file" in kinds:
        groups += [_equal("file", rows, engine, files) for rows in files.equal()]
        _leave_out(groups, there)
    if "pixels" in kinds:
        found = [
            _equal("pixels", rows, engine, files)
            for alike in _equal_rows(engine.originals, np.flatnonzero(there))
            for rows in files.alike_in_full(alike)
        ]
        _leave_out(found, there)
        groups += found
    if "near" in kinds:
        groups += _near_groups(
            engine, files, np.flatnonzero(there), near, distance, linkage, mirrored, max_pairs, notes
        )
    for text in notes:
        warnings.warn(text, UserWarning, stacklevel=3)
    found_all = Duplicates(tuple(groups), near, distance, linkage, mirrored, tuple(notes))
    object.__setattr__(found_all, "_engine", engine)
    object.__setattr__(found_all, "_files", files)
    return found_all


def _share(name: str, given: float | None, default: float, most: float) -> float:
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, int | float | np.number) or not 0 <= given <= most:
        msg = f"{name}={given!r} is out of range: give a number from 0 to {most:g}, or None for {default:g}"
        raise ValueError(msg)
    return float(given)


def _check(engine: Collection, linkage: str, kinds: Sequence[str], max_pairs: int, mirrored: bool) -> None:
    if linkage not in LINKAGES:
        msg = f"linkage={linkage!r} is unknown: expected {LINKAGES[0]!r} or {LINKAGES[1]!r}"
        raise ValueError(msg)
    if isinstance(kinds, str) or not kinds or not set(kinds) <= set(KINDS):
        msg = f"kinds={kinds!r} must name at least one of {', '.join(map(repr, KINDS))}, in a list"
        raise ValueError(msg)
    if isinstance(max_pairs, bool) or not isinstance(max_pairs, int | np.integer) or max_pairs < 1:
        msg = f"max_pairs={max_pairs!r} must be a whole number of at least 1"
        raise ValueError(msg)
    if mirrored and engine.shape is None:
        raise InputError("mirrored=True needs pictures, but rows of this model fold to none: fit with size=")


def _files_of(engine: Collection, folder: str | os.PathLike[str] | None, notes: list[str]) -> PictureFiles:
    model = engine.model
    if folder is not None:
        home = Path(os.path.expanduser(folder))
        if not home.is_dir():
            raise InputError(f"there is no folder '{folder}': give the one that the pictures were read from")
        if model.names is None:
            raise InputError(f"the rows of this model have no names to be found in '{folder}' by: leave folder out")
    else:
        home = Path(model.source) if model.source else Path("no folder at all")
    files = PictureFiles(home if home.is_dir() else None, model.names)
    if model.names is not None and files.missing:
        gone = f"{files.missing:,} of {len(engine):,} pictures have no file"
        where = f"in '{home}'" if model.source or folder else "that is known"
        notes.append(f"{gone} {where}, and are compared by their pixels alone: give folder= to compare files, too")
    return files


def _leave_out(groups: Iterable[DuplicateGroup], there: Array) -> None:
    for group in groups:
        there[group.surplus] = False


def _names(engine: Collection, rows: Array) -> tuple[str, ...]:
    names = engine.model.names
    return tuple(f"row {row}" if names is None else names[row] for row in rows.tolist())


def _kept_first(rows: Sequence[int], files: PictureFiles) -> Array:
    keep = files.best(rows)
    return np.array([keep, *sorted(row for row in rows if row != keep)], np.int64)


def _equal(kind: str, rows: Sequence[int], engine: Collection, files: PictureFiles) -> DuplicateGroup:
    order, n = _kept_first(rows, files), len(rows)
    return DuplicateGroup(kind, order, _names(engine, order), np.ones(n), np.zeros(n), np.zeros(n, bool), 1.0)


def _equal_rows(pixels: Pixels, rows: Array) -> list[list[int]]:
    """Return rows with equal pixels, at least two each."""
    alike: dict[bytes, list[int]] = defaultdict(list)
    for part in _parts(pixels, rows):
        block = np.ascontiguousarray(pixels(part))
        if block.dtype.kind == "f":
            block = block + 0.0  # −0 is 0, with other bytes
        for row, values in zip(part.tolist(), block, strict=True):
            alike[hashlib.blake2b(values.data, digest_size=16).digest()].append(row)
    return [same for same in alike.values() if len(same) > 1]


def _parts(pixels: Pixels, rows: Array) -> Iterator[Array]:
    """Cut row numbers into parts whose pixels may be in memory at a time."""
    if len(rows):
        step = max(1, _AT_ONCE // max(1, pixels(rows[:1]).nbytes))
        yield from (rows[start : start + step] for start in range(0, len(rows), step))


def _near_groups(
    engine: Collection,
    files: PictureFiles,
    rows: Array,
    near: float,
    distance: float,
    linkage: str,
    mirrored: bool,
    max_pairs: int,
    notes: list[str],
) -> list[DuplicateGroup]:
    """Return the near groups among some rows, the most similar first."""
    codes = engine.model.W[rows]

    def pixels(places: Array) -> Array:
        return engine.originals(rows[places])

    def turned(places: Array) -> Array:
        assert engine.shape is not None
        block = pixels(places)
        return block.reshape(-1, *engine.shape)[:, :, ::-1].reshape(block.shape)

    norms, unit = norms_of(pixels, len(rows))
    flipped = None
    if mirrored and len(rows):
        parts = [np.asarray(engine.transform(turned(part))) for part in _parts(pixels, np.arange(len(rows)))]
        flipped = np.concatenate(parts).astype(codes.dtype, copy=False)
    pairs = near_pairs(
        codes, pixels, norms, near, distance, max_pairs,
        flipped=None if flipped is None else (flipped, turned), unit=unit,
    )  # fmt: skip
    if pairs.crowded:
        notes.append(
            f"{pairs.crowded:,} picture{'s have' if pairs.crowded != 1 else ' has'} more than {CANDIDATES:,} others "
            f"with a cosine of at least {near:g}, and only the most similar of these were compared: a higher near "
            "leaves fewer"
        )
    if pairs.dropped:
        notes.append(
            f"more than {max_pairs:,} near pairs were found, and the {pairs.dropped:,} least similar are left out: "
            "a higher near or a lower distance finds fewer, a larger max_pairs keeps more"
        )
    groups = []
    for places in linked(len(rows), pairs.first, pairs.second, pairs.scores, linkage):
        order = np.searchsorted(rows, _kept_first(rows[places].tolist(), files))
        groups.append(_near_group(engine, rows, order, codes, flipped, pixels, turned, norms, unit))
    return sorted(groups, key=lambda group: -group.score)


def _near_group(
    engine: Collection,
    rows: Array,
    order: Array,
    codes: Array,
    flipped: Array | None,
    pixels: Pixels,
    turned: Pixels,
    norms: Array,
    unit: float,
) -> DuplicateGroup:
    """Describe a group; the first of `order` is the one to keep."""
    first, mine = pixels(order[:1]).astype(np.float64) / unit, codes[order]
    distances = _distances(pixels, order, first, unit)
    mirrored = np.zeros(len(order), bool)
    if flipped is not None:
        theirs = _distances(turned, order, first, unit)
        mirrored = theirs < distances
        mirrored[0] = False
        distances = np.where(mirrored, theirs, distances)
        mine = np.where(mirrored[:, None], flipped[order], mine)
    distances /= np.maximum(norms[order], norms[order[0]])
    distances[0] = 0.0
    scores = cosine_topk(mine, mine[:1], 1)[0][:, 0]
    numbers = rows[order]
    return DuplicateGroup("near", numbers, _names(engine, numbers), scores, distances, mirrored, _least_cosine(mine))


def _distances(pixels: Pixels, order: Array, first: Array, unit: float) -> Array:
    parts = [np.linalg.norm(pixels(part) / unit - first, axis=1) for part in _parts(pixels, order)]
    return np.concatenate(parts)


def _least_cosine(codes: Array) -> float:
    """Return the least cosine of any two rows."""
    if len(codes) > _SMALL:
        return float(cosine_topk(codes, codes, 1, largest=False)[0].min())
    units = codes.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return float(min(1.0, (units @ units.T).min()))
