"""`select_rank`: its options, what it chooses, and what it says of it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from .. import scale
from .._typing import Array, Matrix, Seed
from ..estimators import NMF
from ..estimators._halves import check_zeros
from ..objective import beta_of
from .fits import Task
from .given import Given, blocks, estimator_of, opened_for, scattered
from .run import Cell, RankProgress, Run
from .selection import RULES, RankSelection, chosen, is_flat
from .splits import Tiles, group_labels, tile_labels

__all__ = ["RankProgress", "select_rank"]

METHODS = ("bicross", "holdout")


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
    wanted, model = _numbers(k), estimator_of(estimator)
    entropy = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=4)
    seeds = np.random.SeedSequence(entropy.tolist())
    with np.errstate(under="ignore"), opened_for(X, model, n_jobs) as data:
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
        mean, given = data.summary().mean, Given(data, rows_used, shape, of_rows, of_columns)
        cells: Sequence[Cell]
        if method == "bicross":
            cells, most = blocks(given, wanted, folds, seeds.spawn(repeats), model)
        else:
            cells, most = entries, _ = scattered(given, wanted, float(holdout), seeds.spawn(repeats), model)
            entries[0].check(Task(model, power, mean, 1))
    fixed = model.random_state if isinstance(model.random_state, Integral) else None
    run = Run(cells, Task(model, power, mean, 1), seeds, fixed, begun, max_time, n_jobs, callback)
    try:
        reason = run.search(most) if wanted is None else run.all(wanted)
    except KeyboardInterrupt:
        if run.nothing:
            raise
        reason = "interrupted"
    return _result(run, method, rule, reason, shape[0], max_time, most)


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


# ---- the result ----------------------------------------------------------------------------------


def _result(
    run: Run, method: str, rule: str, reason: str, n_rows: int, max_time: float | None, most: int
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


def _warn_of_limits(run: Run) -> None:
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
