"""The one evaluator: all factors are judged here, in float64, with the clock stopped."""

from __future__ import annotations

import re
import time
from collections import deque
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.special import xlogy

from benchmarks.contenders import Result, Task

EPSILON = float(np.finfo(np.float32).eps)  # scikit-learn's floor under WH for beta != 2
_BLOCK_BYTES = 32 << 20  # a block of WH in float64


def loss(X: Any, W: np.ndarray, H: np.ndarray, beta: float = 2.0) -> float:
    r"""Return :math:`\sqrt{2 D_\beta(X | WH)}`, and relative to :math:`\|X\|_F` for beta = 2.

    Parameters
    ----------
    X : ndarray or sparse matrix, shape (n_samples, n_features)
    W : ndarray, shape (n_samples, k)
    H : ndarray, shape (k, n_features)
    beta : float
    """
    H = H.astype(np.float64)
    total = squares = 0.0
    rows = max(1, _BLOCK_BYTES // (8 * X.shape[1]))
    if sp.issparse(X):
        X = sp.csr_matrix(X)
    for top in range(0, X.shape[0], rows):
        V = X[top : top + rows]
        V = V.toarray() if sp.issparse(V) else V
        V = V.astype(np.float64)
        WH = W[top : top + rows].astype(np.float64) @ H
        squares += float(np.vdot(V, V))
        total += 2.0 * _divergence(V, WH, beta)
    if beta == 2:
        return float(np.sqrt(total / squares)) if squares else 0.0
    return float(np.sqrt(max(total, 0.0)))


def _divergence(V: np.ndarray, WH: np.ndarray, beta: float) -> float:
    """Return D_beta(V | WH) of one block, with zeros of V treated as scikit-learn does."""
    if beta == 2:
        V -= WH
        return 0.5 * float(np.vdot(V, V))
    WH = np.maximum(WH, EPSILON)
    if beta == 1:
        return float((xlogy(V, V / WH) - V + WH).sum())
    if beta == 0:
        ratio = V / WH
        return float((ratio - np.log(ratio) - 1.0).sum())
    terms = V**beta + (beta - 1.0) * WH**beta - beta * V * WH ** (beta - 1.0)
    return float(terms.sum()) / (beta * (beta - 1.0))


def check_factors(task: Task, result: Result) -> str | None:
    """Return what is wrong with the factors by themselves, or None: shapes, finite, no negative."""
    n, m = task.problem.X.shape
    for name, factor, shape in (("W", result.W, (n, task.k)), ("H", result.H, (task.k, m))):
        if factor.shape != shape:
            return f"{name} has shape {factor.shape}, not {shape}"
        if not np.isfinite(factor).all():
            return f"{name} is not finite"
        if factor.min() < 0:
            return f"{name} has negative entries, the least {factor.min():.2e}"
    return None


def distance(result: Result, reference: Result) -> float:
    """Return the larger of the relative distances of W and of H to the reference's."""
    pairs = ((result.W, reference.W), (result.H, reference.H))
    return max(float(np.linalg.norm(a.astype(np.float64) - b) / max(np.linalg.norm(b), 1e-300)) for a, b in pairs)


# (loss, factors), relative: rounding only. float32 factors differ visibly where the problem is
# ill-conditioned while the loss does not, hence the wide second number.
SAME_ITERATES = {"float64": (1e-9, 1e-6), "float32": (1e-4, 5e-2)}


def check_iterates(task: Task, result: Result, reference: Result) -> dict[str, Any]:
    """Compare with the reference's iterate after the same number of steps from the same start.

    Returns
    -------
    check : dict
        ``ok``, ``why`` (when not), ``loss``, ``loss_difference`` and ``factor_distance``
        (both relative), ``precision`` (the coarser of the two).
    """
    precision = "float64"
    if np.float32 in (result.W.dtype, reference.W.dtype):
        precision = "float32"
    limit_loss, limit_factors = SAME_ITERATES[precision]
    ours = loss(task.problem.X, result.W, result.H, task.beta)
    theirs = loss(task.problem.X, reference.W, reference.H, task.beta)
    difference = abs(ours - theirs) / max(theirs, 1e-300)
    apart = distance(result, reference)
    why = []
    if result.n_iter != reference.n_iter:
        why.append(f"{result.n_iter} iterations, the reference {reference.n_iter}")
    if not difference <= limit_loss:
        why.append(f"loss differs by {difference:.1e} (limit {limit_loss:g})")
    if not apart <= limit_factors:
        why.append(f"factors differ by {apart:.1e} (limit {limit_factors:g})")
    return {
        "ok": not why,
        "why": "; ".join(why),
        "loss": ours,
        "loss_difference": difference,
        "factor_distance": apart,
        "precision": precision,
        "n_iter": int(result.n_iter),
    }


def check_quality(task: Task, result: Result, reference: Result, limit: float = 1e-3) -> dict[str, Any]:
    """Require a loss at most (1 + limit) × the reference's, and so for the codes of transform."""
    X, why = task.problem.X, []
    facts: dict[str, Any] = {"n_iter": int(result.n_iter)}
    for what in ("W", "codes"):
        ours, theirs = getattr(result, what), getattr(reference, what)
        if theirs is None:
            continue
        a = loss(X, ours, result.H, task.beta)
        b = loss(X, theirs, reference.H, task.beta)
        name = "loss" if what == "W" else "loss_of_codes"
        facts[name] = a
        facts[f"{name}_ratio"] = a / max(b, 1e-300)
        if not a <= b * (1.0 + limit):
            why.append(f"{name} is {a / max(b, 1e-300):.6f} × the reference's (limit 1+{limit:g})")
    return {"ok": not why, "why": "; ".join(why), **facts}


# ---- what a fit with hals says of itself ---------------------------------------------------------

FELL = re.compile(r"the relative error fell by less than tol = \S+ in (\d+) iterations")
# Share of tol by which a true fall may miss a sentence that the recorded losses make true: their rounding.
ROUNDING = 0.05


class Watch:
    """A callback that keeps the factors of the last accepted iterations, and counts the seconds it takes itself."""

    def __init__(self, passes: int = 10):
        self.pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=passes + 1)
        self.seconds = 0.0

    def __call__(self, progress: Any) -> None:
        begun = time.perf_counter()
        self.pairs.append(progress.factors())
        self.seconds += time.perf_counter() - begun


def dead_components(W: np.ndarray, H: np.ndarray) -> int:
    """Return how many components have a column of W or a row of H that is all zeros."""
    return int((~((W != 0).any(axis=0) & (H != 0).any(axis=1))).sum())


def accepted_losses(model: Any) -> np.ndarray:
    """Return the losses of the accepted iterations of a fitted NMF."""
    history = model.history_
    return history["loss"][history["accepted"]]


def largest_rise(losses: np.ndarray) -> float:
    """Return the largest rise from one loss to the next in units of the first of the two; 0 if none rises."""
    before, rise = losses[:-1], np.diff(losses)
    if not (rise > 0).any():
        return 0.0
    before, rise = before[rise > 0], rise[rise > 0]
    return float(np.divide(rise, before, out=np.full(rise.shape, np.inf), where=before > 0).max())


def untrue(model: Any, X: Any, W: np.ndarray, watch: Watch) -> str | None:
    """Return why ``stop_reason_`` of a fitted NMF is not true, or None.

    Parameters
    ----------
    model : nmfcore.NMF
        Fitted with solver "hals".
    X : ndarray or sparse matrix, shape (n_samples, n_features)
    W : ndarray, shape (n_samples, k)
        What ``fit_transform`` returned.
    watch : Watch
        The callback of that fit.
    """
    reason, tol = model.stop_reason_, model.tol
    if reason == f"max_iter = {model.max_iter} was reached":
        return None if model.n_iter_ == model.max_iter else f"{reason!r} after {model.n_iter_} iterations"
    if reason.startswith("the KKT residual fell to"):
        return None if model.kkt_residual_ <= tol / 10 else f"{reason!r}, but it is {model.kkt_residual_:.2g}"
    found = FELL.fullmatch(reason)
    if not found:
        return f"{reason!r} is not a sentence that can be checked"
    passes, losses = int(found[1]), accepted_losses(model)
    if len(losses) < passes:
        return f"{reason!r} after {len(losses)} accepted iterations"
    # The loss of the start is in no history; it is at least that of the first pass.
    told = 1 - _root(losses[-1] / losses[max(0, len(losses) - 1 - passes)])
    if not told < tol:
        return f"{reason!r}, but by history_ it fell by {told:.2g}"
    if len(watch.pairs) > passes:
        then, now = loss(X, *watch.pairs[-1 - passes]), loss(X, W, model.components_)
        fell = 1 - now / then if then > 0 else 0.0
        if not -ROUNDING * tol <= fell < (1 + ROUNDING) * tol:
            return f"{reason!r}, but measured directly it {'fell' if fell > 0 else 'rose'} by {abs(fell):.2g}"
    return None


def _root(ratio: float) -> float:
    return float(np.sqrt(max(ratio, 0.0)))
