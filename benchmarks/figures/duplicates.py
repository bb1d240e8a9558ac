"""Which planted copies of real pictures are found as duplicates, and what else is; and how long a search takes."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np

from benchmarks.contenders import Task
from benchmarks.harness import Context, Row, describe_case, summary

ABOUT = (
    "Copies of some pictures, changed in one way each, are planted among all pictures of a set at 64×64 pixels. "
    "*recall*: share of the copies that are a pair with their original. *precision*: of the pairs of a copy of this "
    "kind with any original, the share that is with its own. Both depend on the least cosine of the codes (near) and "
    "the largest relative distance of the pixels (distance). *pairs of originals*: what is found among the pictures of "
    "the set; some are true duplicates that it holds. The last row is the search alone, on codes and pixels of MNIST."
)
LIMITS = ((0.98, 0.3), (0.98, 0.2), (0.99, 0.3), (0.99, 0.2), (0.99, 0.15), (0.995, 0.2), (0.995, 0.1))
LOOSEST = (min(near for near, _ in LIMITS), max(distance for _, distance in LIMITS))
PLANTED = 300
Change = Callable[[np.ndarray, np.random.RandomState], np.ndarray]


def _jpeg(picture: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=60)
    with Image.open(file) as again:
        return np.asarray(again.convert("L"))


def _half(picture: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    from PIL import Image

    height, width = picture.shape
    small = Image.fromarray(picture).resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    return np.asarray(small.resize((width, height), Image.Resampling.LANCZOS))


def _brighter(picture: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    return np.minimum(np.rint(1.05 * picture.astype(float)), 255).astype(np.uint8)


def _cropped(picture: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Cut 3 % of the height and width off, shared out between the edges at random, and resize to the old size."""
    from PIL import Image

    height, width = picture.shape
    left, top = rng.rand(2) * 0.03
    box = (left * width, top * height, (0.97 + left) * width, (0.97 + top) * height)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS, box=box))


def _mirrored(picture: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    return picture[:, ::-1]


CHANGES: dict[str, Change] = {
    "JPEG quality 60": _jpeg,
    "half size": _half,
    "brightness +5 %": _brighter,
    "3 % cropped": _cropped,
    "mirrored": _mirrored,
}


def run(context: Context) -> Iterator[list[Row]]:
    for name, k in context.cases((("cats", 32), ("orl", 25)), smoke=1):
        problem = context.problem(name, "uint8")
        yield list(_planted(Task(problem, min(k, 8) if context.smoke else k), context))
    problem = context.problem("mnist", "uint8")
    yield [_seconds(context, Task(problem, 8 if context.smoke else 15))]


def _planted(task: Task, context: Context) -> Iterator[Row]:
    from nmfcore.search import SearchEngine
    from nmfcore.search.pairs import near_pairs, norms_of

    originals = task.problem.X
    n, m = originals.shape
    side = math.isqrt(m)
    rng = np.random.RandomState(0)
    chosen = rng.choice(n, min(PLANTED, n // 2), replace=False)
    copies = [change(originals[row].reshape(side, side), rng).ravel() for change in CHANGES.values() for row in chosen]
    X = np.concatenate([originals, np.stack(copies)])
    source = np.concatenate([np.arange(n), np.tile(chosen, len(CHANGES))])
    kind = np.concatenate([np.full(n, -1), np.repeat(np.arange(len(CHANGES)), len(chosen))])
    engine = SearchEngine(task.k, max_iter=20 if context.smoke else 200, tol=1e-3)
    engine.fit(X, size=(side, side), progress=False)
    flipped = engine.transform(X.reshape(-1, side, side)[:, :, ::-1].reshape(X.shape))

    def turned(rows: np.ndarray) -> np.ndarray:
        return X[rows].reshape(-1, side, side)[:, :, ::-1].reshape(len(rows), m)

    norms, _ = norms_of(X.__getitem__, len(X))
    plain = near_pairs(engine.model.W, X.__getitem__, norms, *LOOSEST, 10**7)
    either = near_pairs(engine.model.W, X.__getitem__, norms, *LOOSEST, 10**7, flipped=(flipped, turned))
    for near, distance in LIMITS:
        limits = f"near {near:g}, distance {distance:g}"
        for number, change in enumerate(CHANGES):
            pairs = either if change == "mirrored" else plain
            kept = (pairs.scores >= near) & (pairs.distances <= distance) & (kind[pairs.first] == -1)
            found = kept & (kind[pairs.second] == number)
            right = int((source[pairs.first] == source[pairs.second])[found].sum())
            yield _row(task, f"{limits}, {change}: recall", right / len(chosen))
            yield _row(task, f"{limits}, {change}: precision", right / max(1, int(found.sum())))
        among = (plain.scores >= near) & (plain.distances <= distance)
        among &= (kind[plain.first] == -1) & (kind[plain.second] == -1)
        yield _row(task, f"{limits}: pairs of originals", float(among.sum()))


def _row(task: Task, case: str, value: float) -> Row:
    row = describe_case(task, case, "", "nmfcore")
    row.update(status="ok", **summary([value]))
    return row


def _seconds(context: Context, task: Task) -> Row:
    from nmfcore import NMF
    from nmfcore.search.finding import DISTANCE, MAX_PAIRS, NEAR
    from nmfcore.search.pairs import near_pairs, norms_of

    X = np.ascontiguousarray(task.problem.X)
    codes = NMF(task.k, solver="hals", max_iter=20, tol=0, random_state=0).fit_transform(X).astype(np.float32)
    times, busy = [], []
    for turn in range(context.repeats + 1):
        start, working = time.perf_counter(), time.process_time()
        norms, unit = norms_of(X.__getitem__, len(X))
        pairs = near_pairs(codes, X.__getitem__, norms, NEAR, DISTANCE, MAX_PAIRS, unit=unit)
        if turn:  # the first one loads kernels
            times.append(time.perf_counter() - start)
            busy.append(time.process_time() - working)
    row = describe_case(task, f"near pairs of {len(X):,} × {task.k} codes", "s", "nmfcore")
    note = f"{len(pairs.first):,} pairs; {median(busy):.2g} s of all cores together"  # wherever others compute, too
    row.update(status="ok", note=note, **summary(times), limits=dict(context.limits.values))
    if context.real_size:
        row["target"] = {"value": 5.0}
    return row
