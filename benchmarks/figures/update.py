"""An index that follows its folder: seconds of an update."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.contenders import Task
from benchmarks.figures.serve import pictures_of
from benchmarks.harness import Context, Row, describe_case, summary

ABOUT = (
    "`SearchEngine.update` of 15,747 pictures of 64×64 (PNG files in a folder) at k=50, to which 10 are added: "
    "seconds in the process that has the engine. *saved*: with `SearchEngine.save` to its own folder, which appends. "
    "*nothing new*: an update when all files are what they were. The rows are pictures at several brightnesses where "
    "the data set has fewer. The codes of the new pictures must be those of `transform` to the bit."
)
ROWS, NEW, LIMIT = 15747, 10, 1.0


def run(context: Context) -> Iterator[list[Row]]:
    problem = context.problem("cats", "uint8")
    k = 8 if context.smoke else 50
    cases = ("nothing new", "10 added", "10 added, and saved")
    rows = {case: describe_case(Task(problem, k), case, "s", "nmfcore") for case in cases}
    try:
        import PIL
    except ImportError as error:
        for row in rows.values():
            row.update(status="skipped", why=f"the extra 'app' is not installed ({error.name})")
        yield list(rows.values())
        return
    del PIL
    X = pictures_of(problem.X, (ROWS if context.real_size else problem.X.shape[0]) + NEW * (context.repeats + 1))
    with tempfile.TemporaryDirectory(prefix="nmfcore-bench-update-") as place:
        times, equal = _measured(X, k, Path(place), context.repeats)
    for case, row in rows.items():
        row.update(status="ok" if equal else "WRONG", check={"ok": equal, "why": "codes differ from transform"})
        if equal:
            row.update(**summary(times[case]), limits=dict(context.limits.values))
        if context.real_size:
            row["target"] = {"value": LIMIT}
    yield list(rows.values())


def _measured(X: np.ndarray, k: int, place: Path, repeats: int) -> tuple[dict[str, list[float]], bool]:
    """Return the seconds of each case, and whether the new codes are right."""
    from nmfcore.search import SearchEngine

    side = int(X.shape[1] ** 0.5)
    turns = repeats + 1  # the first of which loads kernels
    folder, home, waiting = place / "pictures", place / "model", place / "new"
    folder.mkdir()
    waiting.mkdir()
    first = len(X) - NEW * turns
    for number, row in enumerate(X):
        _write(row.reshape(side, side), (folder if number < first else waiting) / f"{number}.png")
    SearchEngine(k, max_iter=20, tol=0).fit(folder, progress=False).save(home)
    engine = SearchEngine.load(home)
    engine.update(progress=False)
    engine.save(home, overwrite=True)
    times: dict[str, list[float]] = {"nothing new": [], "10 added": [], "10 added, and saved": []}
    equal = True
    for turn in range(turns):
        engine = SearchEngine.load(home)
        begun = time.perf_counter()
        assert not engine.update(progress=False).lines()
        idle = time.perf_counter() - begun
        names = [f"{first + NEW * turn + number}.png" for number in range(NEW)]
        for name in names:
            shutil.move(waiting / name, folder / name)
        begun = time.perf_counter()
        changes = engine.update(progress=False)
        added = time.perf_counter() - begun
        engine.save(home, overwrite=True)
        saved = time.perf_counter() - begun
        again = SearchEngine.load(home)
        fresh = np.concatenate([again.transform(folder / name) for name in names]).astype(again.model.W.dtype)
        equal = equal and changes.added == tuple(names) and bool((again.model.W[-NEW:] == fresh).all())
        if turn:
            for case, seconds in zip(times, (idle, added, saved), strict=True):
                times[case].append(seconds)
    return times, equal


def _write(picture: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(picture).save(path, compress_level=1)
    os.utime(path, (10**9, 10**9))  # long before the fit, as most pictures of a folder are
