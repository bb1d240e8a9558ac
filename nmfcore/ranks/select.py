"""`select_rank`: which numbers of components are tried on which blocks, in which order, and until when."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from .. import _compat, scale
from .._typing import Array, Matrix, Seed
from ..backends import cuda
from ..estimators import NMF
from ..estimators._halves import check_solver, check_zeros, opened_whole
from ..objective import beta_of
from ..rows import Rows
from ..rows.masks import Hashed, Mask
from ..rows.threads import effective_threads, run_all
from .bicross import Block
from .fits import Found, Task
from .scattered import Scattered, check_share
from .selection import RULES, RankSelection, RankTable, chosen, is_flat
from .splits import Tiles, group_labels, split, tile_labels

__all__ = ["RankProgress", "select_rank"]

# Parameters of an estimator that are about one fit, with the value that they must have and what to do instead.
_OF_ONE_FIT = {
    "callback": "give select_rank a callback of its own",
    "checkpoint": "leave it out",
    "max_time": "give select_rank a max_time of its own",
    "feature_weight": "leave it out, as every column of a block counts as much",
}
# Of fits of the default estimator. MNIST, k of 20, 40, 60: 50 passes on the average instead of 56 with 1e-4, and test
# losses of 0.4407, 0.3904, 0.3623 instead of 0.4407, 0.3905, 0.3623.
TOL = 3e-4
_SIDE_BY_SIDE = 1 << 29  # bytes of a block that is fitted by all threads together
METHODS = ("bicross", "holdout")
_GAIN = 0.01  # share of the train loss by which "auto" wants a doubling of k to lower it
_SHALLOW = 0.38  # golden section: share of an interval between its end and a point in it


class RankProgress(NamedTuple):
    """What the callback of `select_rank` receives after each fit."""

    done: int  # fits so far
    total: int  # fits that are planned; "auto" plans more as it goes
    k: int  # of the last fit
    repeat: int
    fold: int
    seconds: float  # since the call
    seconds_left: float  # of what is planned, from the time that fits of the same cost have taken; NaN before the first


def select_rank(
    X: Matrix,
    k: Iterable[int] | int | str,
    *,
    estimator: NMF | None = None,
    method: str = "bicross",
    folds: tuple[int, int] = (2, 2),
    tiles: Tiles | None = None,
    groups: ArrayLike | None = None,
    repeats: int = 3,
    holdout: float = 0.05,
    max_rows: int | None = 20_000,
    rule: str = "1se",
    random_state: Seed = None,
    max_time: float | None = None,
    n_jobs: int | None = None,
    callback: Callable[[RankProgress], object] | None = None,
) -> RankSelection:
    r"""Find the number of components whose factors best predict entries of X that were left out.

    Bicross-validation [1]_ leaves out a block of rows I and columns J,

    .. math:: X = \begin{pmatrix} A & B \\ C & D \end{pmatrix}, \quad A = X_{I J}, \; D = X_{\bar I \bar J},

    fits :math:`D \approx W_D H_D`, and predicts A from the rest of its rows and columns:

    .. math:: W_A = \arg\min_{W \ge 0} D_\beta(B | W H_D), \quad H_A = \arg\min_{H \ge 0} D_\beta(C | W_D H).

    The test loss of a repeat is :math:`\sum \|A - W_A H_A\|^2 / \sum \|A\|^2` over all pairs of a fold of rows and a
    fold of columns, so that every entry is left out once. It falls as long as further components describe X, and rises
    when they describe its noise; the loss of the fitted entries falls in any case. The loss and the penalties are those
    of the estimator, and the penalties are scaled with the size of the block as they are in a fit. For another loss
    than the Frobenius norm, losses are relative to that of the mean of X.

    ``method="holdout"`` leaves out single entries [2]_, those where a hash of the seed, i and j is below `holdout`, and
    fits the others once: the test loss of a repeat is :math:`\sum_{\text{left out}} (X - W H)_{ij}^2 / \sum_{\text{left
    out}} X_{ij}^2`. It takes a half to a third of the time of 2×2 folds, fits nearly all of X, so that larger k can be
    told apart, and takes an X with missing entries; but its spread is larger, because a repeat tests few entries.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Whatever `NMF.fit` takes: arrays, sparse matrices, memory maps, matrices on disk, Dask arrays, arrays on a
        device. It is read once to be checked, and once more for the rows that are used; by "holdout", if all rows are
        used, in every pass. Missing entries, of a ``numpy.ma.MaskedArray`` or for the `missing_values` of the
        estimator, are for "holdout" only.
    k : int, iterable of int, or "auto"
        Numbers of components to try. "auto" tries 2, 4, 8, … until the test loss has risen twice or a doubling lowers
        the train loss by less than 1 %, and then narrows the best one down to a width of 2 by golden section. The
        largest k that a block allows is not tried: it describes whatever the block holds.
    estimator : NMF or None, default=None
        Its parameters are used, but for `n_components` and `n_jobs`. Its `random_state` is that of every fit if it is
        an integer. None is ``NMF(solver="hals", tol=3e-4)``.
    method : {"bicross", "holdout"}, default="bicross"
        How entries are left out: a block of rows and columns at a time, so that every entry is left out once in a
        repeat, or single entries, a share `holdout` of them. "holdout" computes on the CPU, and takes the time of a
        dense X for a sparse one, the zeros of which are observed.
    folds : tuple of (int, int), default=(2, 2)
        Number of folds of the rows and of the columns, each at least 2. With (2, 2) all fits of one k in one repeat
        take about as long as a fit of X; more folds fit larger blocks and take longer. It has no effect on "holdout".
    tiles : tuple or None, default=None
        For pictures: (height, width) or (height, width, channels) of the pictures, whose columns are then left out by
        tiles of an eighth of the height and width; or ((height, width), (tile height, tile width)). Neighbouring pixels
        share their noise, so that a pixel left out alone is predicted by its neighbours, and too many components seem
        to be good. None leaves out columns at random. "holdout" leaves out a share of the tiles of each picture.
    groups : array-like of shape (n_samples,) or None, default=None
        Rows of the same group, such as near-copies, get into the same fold; with "holdout", the same columns of them
        are left out. None: each row is on its own.
    repeats : int, default=3
        Number of random splits. They are the same for all k.
    holdout : float, default=0.05
        Share of the entries that ``method="holdout"`` leaves out, at least ten of them. It has no effect on "bicross".
    max_rows : int or None, default=20_000
        Number of rows that are used at most; they are drawn at random. None uses all, and "bicross" brings an X on disk
        into memory then.
    rule : {"1se", "min"}, default="1se"
        "1se" chooses the smallest k whose difference to the least test loss, paired over the repeats, is within one
        standard error. "min" chooses the k of the least test loss, and so does "1se" with a single repeat.
    random_state : int, RandomState or None, default=None
        Draws the rows, the splits and the seeds of the fits. None uses numpy's global generator.
    max_time : float or None, default=None
        Seconds after which what has been found so far is returned. None means no limit.
    n_jobs : int or None, default=None
        Number of threads, as that of `NMF`; None takes that of the estimator. Fits of small blocks run side by side.
        Results have the same bits for any number.
    callback : callable or None, default=None
        Called in the calling thread with a `RankProgress` for each fit; what has been found so far is returned if it
        returns True.

    Returns
    -------
    selection : RankSelection
        With ``best``, the curves, a table of all fits, and ``plot()``. After Ctrl-C or `max_time` it holds what had
        been found; ``stop_reason`` says so.

    Raises
    ------
    ValueError
        If a parameter or X is invalid, if k is larger than a block allows (the error names the largest), or if the time
        was over before anything was found.
    KeyboardInterrupt
        If Ctrl-C was pressed before anything was found.

    Warns
    -----
    UserWarning
        If the least test loss lies at the smallest or the largest k that was tried, if the curve is flat, or if the
        rule "1se" has a single repeat only.
    ConvergenceWarning
        If fits reached `max_iter`.

    See Also
    --------
    NMF : Fits X with the k that was found.

    References
    ----------
    .. [1] A. B. Owen, P. O. Perry, "Bi-cross-validation of the SVD and the nonnegative matrix factorization", Annals of
       Applied Statistics 3(2), 2009.
    .. [2] H. Wold, "Cross-validatory estimation of the number of components in factor and principal components models",
       Technometrics 20(4), 1978.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import NMF, select_rank
    >>> rng = np.random.default_rng(0)
    >>> W, H = rng.exponential(size=(300, 5)), rng.exponential(size=(5, 80))
    >>> X = rng.poisson(4 * W @ H)  # counts of five parts
    >>> found = select_rank(X, range(2, 9), random_state=0)
    >>> found.best
    5
    >>> model = NMF(found.best, solver="hals", random_state=0).fit(X)
    """
    begun = time.perf_counter()
    _check_options(method, folds, repeats, holdout, max_rows, rule, max_time)
    wanted, model = _numbers(k), _estimator(estimator)
    entropy = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=4)
    seeds = np.random.SeedSequence(entropy.tolist())
    with np.errstate(under="ignore"), _open(X, model, n_jobs) as data:
        n, m = data.shape
        of_rows = None if groups is None else group_labels(groups, n)
        of_columns = None if tiles is None else tile_labels(tiles, m)[0]
        if data.summary().total == 0:
            raise ValueError("Every value of X is 0: any number of components describes it, and none can be chosen.")
        check_zeros(model, data)
        rows_used = None
        if max_rows is not None and n > max_rows:
            drawn = np.random.default_rng(seeds).choice(n, max_rows, replace=False, shuffle=False)
            rows_used = np.sort(drawn)
            of_rows = None if of_rows is None else np.unique(of_rows[rows_used], return_inverse=True)[1]
        shape = (n if rows_used is None else len(rows_used), m)
        power = scale.comfortable(data).power if beta_of(model.beta_loss) == 2 else 0
        mean, given = data.summary().mean, _Given(data, rows_used, shape, of_rows, of_columns)
        cells: Sequence[_Cell]
        if method == "bicross":
            cells, most = _blocks(given, wanted, folds, seeds.spawn(repeats), model)
        else:
            cells, most = entries, _ = _scattered(given, wanted, float(holdout), seeds.spawn(repeats), model)
            entries[0].check(Task(model, power, mean, 1))
    fixed = model.random_state if isinstance(model.random_state, Integral) else None
    run = _Run(cells, Task(model, power, mean, 1), seeds, fixed, begun, max_time, n_jobs, callback)
    try:
        reason = run.search(most) if wanted is None else run.all(wanted)
    except KeyboardInterrupt:
        if run.nothing:
            raise
        reason = "interrupted"
    return _result(run, method, rule, reason, shape[0], max_time, most)


# ---- what is given -------------------------------------------------------------------------------


def _check_options(
    method: str, folds: object, repeats: object, holdout: object, max_rows: object, rule: str, max_time: object
) -> None:
    if method not in METHODS:
        raise ValueError(f"method = {method!r} is unknown: expected {' or '.join(map(repr, METHODS))}.")
    if not (isinstance(holdout, Real) and 0 < float(holdout) < 1):
        raise ValueError(f"holdout = {holdout!r}: give the share of the entries to leave out, above 0 and below 1.")
    if rule not in RULES:
        raise ValueError(f"rule = {rule!r} is unknown: expected {' or '.join(map(repr, RULES))}.")
    pair = isinstance(folds, tuple | list) and len(folds) == 2 and all(_is_whole(each, 2) for each in folds)
    if not pair:
        raise ValueError(f"folds = {folds!r}: give the numbers of folds of rows and of columns, each at least 2.")
    if not _is_whole(repeats, 1):
        raise ValueError(f"repeats = {repeats!r}: give a number of splits, at least 1.")
    if max_rows is not None and not _is_whole(max_rows, 4):
        raise ValueError(f"max_rows = {max_rows!r}: give a number of rows, at least 4, or None for all.")
    if max_time is not None and not (isinstance(max_time, Real) and float(max_time) > 0):
        raise ValueError(f"max_time = {max_time!r}: give a number of seconds above 0, or None for no limit.")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least


def _numbers(k: Iterable[int] | int | str) -> list[int] | None:
    """Return the numbers of components, increasing; None is "auto"."""
    if isinstance(k, str):
        if k != "auto":
            raise ValueError(f"k = {k!r}: give numbers of components, such as range(2, 20) or [5, 10, 20], or 'auto'.")
        return None
    given = [k] if isinstance(k, Integral) else list(k)  # type: ignore[arg-type]  # int is an Integral
    if not given or not all(_is_whole(each, 1) for each in given):
        raise ValueError(f"k = {k!r}: give at least one number of components, each a whole number of at least 1.")
    return sorted({int(each) for each in given})


def _estimator(estimator: object) -> NMF:
    """Return an estimator of our own with the caller's parameters."""
    if estimator is None:
        return NMF(solver="hals", tol=TOL)
    if not isinstance(estimator, NMF):
        raise ValueError(
            f"estimator must be an NMF, with the parameters that the fits are to have, not {type(estimator).__name__}: "
            "whatever it is, the k that an NMF finds can be tried with it."
        )
    model: NMF = clone(estimator)
    _compat.check_parameters(model)
    for name, instead in _OF_ONE_FIT.items():
        if getattr(model, name) is not None:
            raise ValueError(f"the estimator has {name} = {getattr(model, name)!r}, which is for one fit: {instead}.")
    if model.init == "custom":
        raise ValueError("the estimator has init='custom', but blocks of X have no start of their own: give another.")
    check_solver(model)
    return model


def _open(X: Matrix, model: NMF, n_jobs: int | None) -> Rows:
    """Return X as rows, checked as the estimator checks it."""
    cuda.resolve(model.device, None)  # raises if it names what does not work
    model.n_jobs = model.n_jobs if n_jobs is None else n_jobs
    opening: NMF = clone(model)
    opening.device, opening.n_components = (None if cuda.kind_of(X) is not None else "cpu"), 1
    return opened_whole(X, opening)


def _check_folds(shape: tuple[int, int], folds: tuple[int, int], groups: Array | None, tiles: Array | None) -> None:
    """Raise ValueError if there is not a row, group, column or tile for each fold."""
    names = (("rows", "groups"), ("columns", "tiles"))
    for count, parts, labels, (single, joint) in zip(shape, folds, (groups, tiles), names, strict=True):
        what, number = (single, count) if labels is None else (joint, int(labels.max()) + 1)
        if number < parts:
            raise ValueError(f"folds = {folds!r}: {parts} folds of {single} need {parts} {what}, but X has {number:,}.")


class _Given(NamedTuple):
    """X, and what of it is used."""

    data: Rows
    rows_used: Array | None
    shape: tuple[int, int]  # of what is used
    of_rows: Array | None  # labels of rows that stay together
    of_columns: Array | None


def _blocks(
    given: _Given, wanted: Sequence[int] | None, folds: tuple[int, int], seeds: list[np.random.SeedSequence], model: NMF
) -> tuple[list[Block], int]:
    """Return the folds of all repeats, and the largest k that they allow."""
    data, rows_used, shape, of_rows, of_columns = given
    if data.masked:
        raise ValueError(
            "X has missing entries, which blocks of rows and columns cannot be predicted around: use method='holdout'."
        )
    _check_folds(shape, folds, of_rows, of_columns)
    splits = [split(shape, folds, of_rows, of_columns, each) for each in seeds]
    most = min(each.largest_k for each in splits)
    if wanted is not None and wanted[-1] > most:
        raise ValueError(
            f"k = {wanted[-1]} is larger than a block: with folds = {tuple(folds)!r} the largest k possible is {most}. "
            "Give smaller numbers, more folds, or more rows."
        )
    if data.backend.xp is not np:  # blocks are cut on the host, and computed on where X is
        model.device = f"cuda:{getattr(data, 'number', 0)}"
    X, _ = _in_memory(data, rows_used)
    return [Block(X, r, f, each) for r, each in enumerate(splits) for f in range(len(each.cells))], most


def _scattered(
    given: _Given, wanted: Sequence[int] | None, share: float, seeds: list[np.random.SeedSequence], model: NMF
) -> tuple[list[Scattered], int]:
    """Return the entries that the repeats leave out, and the largest k."""
    data, rows_used, shape, of_rows, of_columns = given
    most, labels = min(shape), (of_rows, of_columns)
    if wanted is not None and wanted[-1] > most:
        raise ValueError(
            f"k = {wanted[-1]} is larger than X: with {shape[0]:,} rows and {shape[1]:,} columns the largest k possible"
            f" is {most}. Give smaller numbers, or more rows."
        )
    kinds = [count if label is None else int(label.max()) + 1 for count, label in zip(shape, labels, strict=True)]
    single = of_rows is None and of_columns is None
    check_share(share, math.prod(kinds), "entries" if single else "tiles of groups of rows")
    check_share(share, data.entries, "observed entries")
    rows, columns = (np.arange(count) if label is None else label for count, label in zip(shape, labels, strict=True))
    if rows_used is None and data.local and data.backend.xp is np:
        X, known = data.X, getattr(data, "mask", None)  # where it lies
    else:
        X, known = _in_memory(data, rows_used)
    cells = []
    for repeat, seed in enumerate(seeds):
        hashed = Hashed(int(seed.generate_state(1, np.uint64)[0]), share, rows, columns)
        cells.append(Scattered(X, known, repeat, hashed))
    return cells, most


def _in_memory(data: Rows, rows_used: Array | None) -> tuple[Matrix, Mask | None]:
    """Return the rows that are used as an array or a CSR matrix on the host, and their mask.

    Of an X in memory all rows are no copy.
    """
    here = data.local and data.in_memory and data.backend.xp is np
    if rows_used is None and here and not _is_mapped(data.X):
        return data.X, getattr(data, "mask", None)
    rows = data.take(np.arange(data.shape[0]) if rows_used is None else rows_used, None)
    taken: Matrix = rows.X
    if isinstance(taken, tuple):  # CSR on a device
        numbers, indices, indptr, shape = (cuda.to_host(part) if hasattr(part, "dtype") else part for part in taken)
        return sparse.csr_matrix((numbers, indices, indptr), shape=shape), None
    return taken if sparse.issparse(taken) else np.asarray(cuda.to_host(taken)), getattr(rows, "mask", None)


def _is_mapped(X: Matrix) -> bool:
    """Return whether an array is a view of a memory map."""
    while X is not None and not isinstance(X, np.memmap):
        X = getattr(X, "base", None)
    return X is not None


# ---- the run -------------------------------------------------------------------------------------


class _Cell(Protocol):
    """What one fit leaves out; `select` fits it with every k."""

    repeat: int
    fold: int
    left: int  # fits that are still to come
    X: Matrix

    def predict(
        self, k: int, seed: int, task: Task, stop: Callable[[object], bool], max_time: float | None
    ) -> Found | None:
        """Fit with k components, and measure what is left out; None if the fit was ended."""

    def done(self) -> None:
        """Take note that a fit is over."""


class _Run:
    """The fits of a selection: what has been done, and what ends it."""

    def __init__(
        self, cells: Sequence[_Cell], task: Task, seeds: np.random.SeedSequence, fixed: int | None, begun: float,
        max_time: float | None, n_jobs: int | None, callback: Callable[[RankProgress], object] | None,
    ):  # fmt: skip
        self.cells = cells
        self.task, self.fixed, self.begun, self.max_time, self.callback = task, fixed, begun, max_time, callback
        self.entropy = [int(word) for word in seeds.generate_state(4)]
        self.threads = effective_threads(task.estimator.n_jobs if n_jobs is None else n_jobs)
        self.large = _bytes(cells[0].X) > _SIDE_BY_SIDE or task.estimator.device not in (None, "cpu")
        self.found: dict[tuple[int, int], Found] = {}  # by k and number of the cell
        self.planned: dict[tuple[int, int], None] = {}
        self.told: list[tuple[int, int]] = []  # fits that the callback has not been told of
        self.caller, self.stop, self.by_callback = threading.get_ident(), threading.Event(), False
        self.one_by_one = False  # whether k came one after the other, not all at once

    @property
    def nothing(self) -> bool:
        """Whether nothing has been found that a result could be made of."""
        return not self.usable()[0]

    def over(self) -> bool:
        """Return whether no further fit is to begin."""
        return self.stop.is_set() or (self.max_time is not None and self.seconds() >= self.max_time)

    def seconds(self) -> float:
        return time.perf_counter() - self.begun

    def seed(self, k: int, cell: int) -> int:
        """Return the seed of a fit, which does not depend on what else is tried."""
        if self.fixed is not None:
            return int(self.fixed)
        return int(np.random.SeedSequence([*self.entropy, k, cell]).generate_state(1)[0] >> 1)

    def evaluate(self, ks: Sequence[int]) -> bool:
        """Make the fits of these k that have not been made; return whether all could be made."""
        todo = [(k, number) for number in range(len(self.cells)) for k in ks if (k, number) not in self.found]
        self.planned.update(dict.fromkeys(todo))
        for _, number in todo:
            self.cells[number].left += 1
        together = self.threads > 1 and not self.large and len(todo) >= self.threads
        task = self.task._replace(n_jobs=1 if together else self.threads)

        def fit(at: int) -> None:
            (k, number), cell = todo[at], self.cells[todo[at][1]]
            try:
                if self.over():
                    return
                left = None if self.max_time is None else max(1e-3, self.max_time - self.seconds())
                found = cell.predict(k, self.seed(k, number), task, lambda progress: self.stop.is_set(), left)
                if found is not None:
                    self.found[k, number] = found
                    self.told.append((k, number))
            except BaseException:
                self.stop.set()  # fits of other threads end after their pass
                raise
            finally:
                cell.done()
            if threading.get_ident() == self.caller:
                self.tell()

        run_all(fit, len(todo), self.threads if together else 1)
        self.tell()
        return all(each in self.found for each in todo)

    def tell(self) -> None:
        """Tell the callback, in the calling thread, of the fits that have ended."""
        while self.told:
            k, number = self.told.pop(0)
            if self.callback is None or self.by_callback:
                continue
            cell, seconds = self.cells[number], self.seconds()
            done = list(self.found)  # a copy: other threads add to it
            work, all_work = (sum(5 + each for each, _ in which) for which in (done, list(self.planned)))
            left = seconds * (all_work - work) / work if work else math.nan
            progress = RankProgress(len(done), len(self.planned), k, cell.repeat, cell.fold, seconds, left)
            if self.callback(progress) is True:
                self.by_callback = True
                self.stop.set()

    # -- in which order

    def all(self, ks: list[int]) -> str:
        """Try these k; return why no more was tried."""
        return f"{_count(ks)} tried" if self.evaluate(ks) else self.why()

    def why(self) -> str:
        """Return why fits are missing."""
        return "the callback returned True" if self.by_callback else "out of time"

    def search(self, most: int) -> str:
        """Try 2, 4, 8, … and narrow the best one down; return why no more was tried."""
        rises, k, reason, self.one_by_one = 0, min(2, most), "", True
        curve: dict[int, tuple[float, float]] = {}  # train and test loss by k

        def known(*ks: int) -> bool:
            if not self.evaluate([each for each in ks if each not in curve]):
                return False
            used, _, train, test, _ = self.losses()
            curve.update(zip(used, zip(train.mean(axis=0), test.mean(axis=0), strict=True), strict=True))
            return True

        while not reason:
            before = max(curve, default=None)
            if not known(k):
                return self.why()
            if before is not None:
                rises += curve[k][1] > curve[before][1]
                if rises == 2:
                    reason = "the test loss rose twice"
                elif curve[k][0] >= (1 - _GAIN) * curve[before][0]:
                    reason = f"the train loss fell by less than {_GAIN:.0%} from k = {before} to {k}"
            capped = not reason and 2 * k >= most  # the largest k describes a block whatever it holds
            if capped:
                reason = f"k = {most} is the largest possible"
            k *= 2
        tried = sorted(curve)
        at = tried.index(min(tried, key=lambda each: curve[each][1]))
        low = tried[at - 1] if at else 1
        high = [*tried, most if capped else tried[-1]][at + 1]
        if not at and not known(1):
            return self.why()
        while high - low > 2:
            step = max(1, round(_SHALLOW * (high - low)))
            first, second = low + step, high - step
            if first >= second:
                first = (low + high) // 2
                second = first + 1
            if not known(first, second):
                return self.why()
            low, high = (low, second) if curve[first][1] <= curve[second][1] else (first, high)
        if high - low == 2 and not known(low + 1):
            return self.why()
        return f"{reason}, and golden section ended between {low} and {high}"

    # -- what came out

    def usable(self) -> tuple[list[int], list[list[int]]]:
        """Return the k and, for each repeat, the cells that losses are formed of: all k have the same cells.

        Complete repeats if there are any for all k, else the folds of the first repeat that all k have, else the k that
        have the first fold. Where k came one after the other, the last one is left out if it is not complete.
        """
        ks = sorted({k for k, _ in self.found} | {k for k, _ in self.planned})
        by_repeat: dict[int, list[int]] = {}
        for number, cell in enumerate(self.cells):
            by_repeat.setdefault(cell.repeat, []).append(number)

        def complete(which: Iterable[int], numbers: Iterable[int]) -> bool:
            return all((k, number) in self.found for k in which for number in numbers)

        if self.one_by_one:
            ks = [k for k in ks if complete([k], range(len(self.cells)))] or ks
        whole = [numbers for numbers in by_repeat.values() if complete(ks, numbers)]
        if whole:
            return ks, whole
        some = [number for number in by_repeat[0] if complete(ks, [number])]
        if some:
            return ks, [some]
        return [k for k in ks if (k, 0) in self.found], [[0]]

    def losses(self) -> tuple[list[int], list[list[int]], Array, Array, bool]:
        """Return the k, the cells of each repeat, relative train and test losses (repeats × k), and is that all."""
        ks, repeats = self.usable()
        train, test = np.empty((len(repeats), len(ks))), np.empty((len(repeats), len(ks)))
        for r, numbers in enumerate(repeats):
            for at, k in enumerate(ks):
                cells = [self.found[k, number] for number in numbers]
                train[r, at] = _ratio(sum(c.train for c in cells), sum(c.train_whole for c in cells))
                test[r, at] = _ratio(sum(c.test for c in cells), sum(c.test_whole for c in cells))
        return ks, repeats, train, test, len(ks) * sum(map(len, repeats)) == len(self.planned)

    def table(self) -> RankTable:
        """Return all fits as a table."""
        each = sorted(self.found, key=lambda at: (at[0], at[1]))
        cells, found = [self.cells[number] for _, number in each], [self.found[at] for at in each]
        return RankTable(
            {
                "k": np.array([k for k, _ in each]),
                "repeat": np.array([cell.repeat for cell in cells]),
                "fold": np.array([cell.fold for cell in cells]),
                "train": np.array([_ratio(one.train, one.train_whole) for one in found]),
                "test": np.array([_ratio(one.test, one.test_whole) for one in found]),
                "n_iter": np.array([one.n_iter for one in found]),
                "seconds": np.array([one.seconds for one in found]),
            }
        )


def _bytes(X: Matrix) -> float:
    """Return how much memory X takes; infinity for one that is not in memory."""
    return X.data.nbytes + X.indices.nbytes if sparse.issparse(X) else getattr(X, "nbytes", math.inf)


def _ratio(loss: float, whole: float) -> float:
    return loss / whole if whole > 0 else math.nan


def _count(ks: Sequence[int]) -> str:
    return f"all {len(ks)} numbers of components were" if len(ks) > 1 else f"k = {ks[0]} alone was"


# ---- the result ----------------------------------------------------------------------------------


def _result(
    run: _Run, method: str, rule: str, reason: str, n_rows: int, max_time: float | None, most: int
) -> RankSelection:
    ks, repeats, train, test, all_made = run.losses()
    if not ks:
        limit = (
            f"max_time = {max_time:g} seconds were over" if reason == "out of time" else "the callback returned True"
        )
        raise ValueError(f"{limit} before one fit had ended: give more time, smaller k, or a smaller max_rows.")
    if not all_made:
        done = (
            f"{len(run.found)} of {len(run.planned)} fits were made, of which {len(ks) * sum(map(len, repeats))} count"
        )
        reason = f"{reason}; {done}"
    if rule == "1se" and len(repeats) == 1:
        rule = "min"
        warnings.warn(
            "rule='1se' needs the spread over at least two repeats, and there is one: the k with the least test loss "
            "was chosen.",
            UserWarning,
            stacklevel=3,
        )
    at, least = chosen(test, rule)
    edge = _edge(ks, test, least, most)
    if edge:
        warnings.warn(edge, UserWarning, stacklevel=3)
    _warn_of_limits(run)
    spread = np.full(len(ks), np.nan)
    if len(repeats) > 1:
        spread = test.std(axis=0, ddof=1) / math.sqrt(len(repeats))
    return RankSelection(
        k=np.array(ks), train=train.mean(axis=0), test=test.mean(axis=0), spread=spread, table=run.table(), best=ks[at],
        at_edge=bool(edge), stop_reason=reason, rule=rule, repeats=len(repeats), n_rows=n_rows, method=method,
    )  # fmt: skip


def _edge(ks: list[int], test: Array, least: int, most: int) -> str:
    """Return what is to be said of a curve whose least test loss is at an end, or that is flat; "" if it is neither."""
    if len(ks) == 1:
        return f"Only k = {ks[0]} was tried, which cannot be compared with any other: give a range of k."
    if is_flat(test, least):
        return (
            f"The test loss is the same for all k from {ks[0]} to {ks[-1]} within its spread: it cannot tell how many "
            "components X has. Give a wider range of k, or more repeats."
        )
    if least == len(ks) - 1:
        return f"The test loss is least at k = {ks[-1]}, the largest that was tried: more components may be better." + (
            f" The largest k possible is {most}." if ks[-1] < most else " X, or a block of it, allows no more."
        )
    if least == 0 and ks[0] > 1:
        return f"The test loss is least at k = {ks[0]}, the smallest that was tried: fewer components may be better."
    return ""


def _warn_of_limits(run: _Run) -> None:
    short = sum(not each.finished for each in run.found.values())
    unsettled = sum(each.unsettled for each in run.found.values())
    model = run.task.estimator
    if model.tol > 0 and (short or unsettled):
        codes = f", and {unsettled:,} rows and columns that were coded did so, too" if unsettled else ""
        warnings.warn(
            f"{short} of {len(run.found)} fits reached max_iter = {model.max_iter} before their stop rule was met"
            f"{codes}. Increase max_iter of the estimator to improve convergence.",
            ConvergenceWarning,
            stacklevel=4,
        )
