"""Curves: how a fit went, and how many components are enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ._shared import BLUE, FAINT, INK, ORANGE, RULE, add_legend, new_axes, write_heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["convergence", "error_against_k", "loss_against_k"]


def convergence(
    history: Mapping[str, ArrayLike],
    *,
    norm: float | None = None,
    n_iter: int | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the loss over time, with the iterations along the top.

    The curve joins accepted iterations. A cross stands for a rejected one, at the loss for which it was rejected; if
    that is above all others, at the upper edge. Where the start, or the compilation of kernels, took longest (the
    first iteration ended after more than four times what all others took), time counts from the end of the first
    iteration, and the axis says so.

    Parameters
    ----------
    history : mapping with "loss" and "seconds", array-likes of shape (n_recorded,), float64
        ``history_`` of an estimator, or of a model; seconds count from the call of `fit`. NaN where the loss was not
        recorded. Without "accepted", an array-like of bool, all iterations count as accepted.
    norm : float or None
        ‖X‖_F. Given it, the relative error √(2·loss)/‖X‖ is drawn instead of the loss; right for
        the Frobenius loss without penalties.
    n_iter : int or None
        How many iterations there were (``n_iter_``); as many as the history has entries by default.
    heading : str or None
        Title of the whole.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When "loss" and "seconds" are missing or differ in length, or "accepted" does.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> from nmfcore.plots import convergence
    >>> axes = convergence({"loss": [8.0, 2.0, 0.5], "seconds": [0.1, 0.2, 0.3]}, norm=4.0)
    >>> axes.get_ylabel(), axes.lines[0].get_ydata().tolist()
    ('relative error', [1.0, 0.5, 0.25])
    """
    if "loss" not in history or "seconds" not in history:
        raise ValueError(f"history needs 'loss' and 'seconds', got {sorted(history)}")
    loss = np.asarray(history["loss"], dtype=float)
    seconds = np.asarray(history["seconds"], dtype=float)
    accepted = np.asarray(history.get("accepted", np.ones(loss.shape)), dtype=bool)
    if loss.shape != seconds.shape or loss.ndim != 1:
        raise ValueError(f"loss {loss.shape} and seconds {seconds.shape} must be as long as each other")
    if accepted.shape != loss.shape:
        raise ValueError(f"loss {loss.shape} and accepted {accepted.shape} must be as long as each other")
    axes = new_axes(axes, (7.0, 4.2))
    first = seconds[0] if len(seconds) > 1 and seconds[0] > 4 * (seconds[-1] - seconds[0]) else 0.0
    seconds = seconds - first
    recorded = np.isfinite(loss) & accepted
    all_values = np.sqrt(2 * np.maximum(loss, 0)) / norm if norm else loss
    values, times = all_values[recorded], seconds[recorded]
    few = len(values) <= 30
    axes.plot(times, values, color=BLUE, linewidth=1.8, marker="o" if few else "", markersize=4)
    if len(values) and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
    since = f" since the first iteration ended, {first:.3g} s after the call" if first else ""
    axes.set_xlabel(f"seconds{since}", color=INK)
    axes.set_ylabel("relative error" if norm else "loss", color=INK)
    _rules(axes)
    if len(values):
        axes.annotate(
            f"{values[-1]:.4g}",
            (times[-1], values[-1]),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
            fontsize=9,
            color=BLUE,
        )
        axes.set_xlim(left=0, right=max(seconds[-1], 1e-9) * 1.02)
        _crosses(axes, seconds[~accepted], all_values[~accepted])
        _iterations_on_top(axes, seconds, n_iter)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no loss was recorded", transform=axes.transAxes, ha="center")
    write_heading(axes, "Convergence" if heading is None else heading)
    return axes


def error_against_k(
    ks: ArrayLike,
    errors: ArrayLike,
    *,
    chosen: int | None = None,
    spread: ArrayLike | None = None,
    label: str = "relative error",
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the error of fits with different numbers of components, to choose one.

    Parameters
    ----------
    ks : array-like of shape (n,), int
        Numbers of components, in any order.
    errors : array-like of shape (n,), any real type
        The relative error ‖X − WH‖ / ‖X‖ of each, or any other measure that falls with k.
    chosen : int or None
        One of the numbers, to be marked.
    spread : array-like of shape (n,), any real type, or None
        How far the error of each may be off, which is drawn as a bar up and down; NaN where that is not known.
    label : str
        What the errors are, along the axis.
    heading : str or None
        Title of the whole.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When there are not as many errors (or spreads) as numbers, or the chosen one is not among them.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> from nmfcore.plots import error_against_k
    >>> axes = error_against_k([20, 10, 40], [0.2, 0.3, 0.15], chosen=20)
    >>> axes.lines[0].get_xdata().tolist(), axes.lines[0].get_ydata().tolist()
    ([10, 20, 40], [0.3, 0.2, 0.15])
    """
    ks, errors = np.asarray(ks), np.asarray(errors, dtype=float)
    if ks.ndim != 1 or ks.shape != errors.shape or not len(ks):
        raise ValueError(f"ks {ks.shape} and errors {errors.shape} must be vectors as long as each other")
    if chosen is not None and chosen not in ks:
        raise ValueError(f"chosen = {chosen} is none of the numbers of components, {sorted(ks.tolist())}")
    bars = np.zeros(len(ks)) if spread is None else np.nan_to_num(np.asarray(spread, dtype=float))
    if bars.shape != ks.shape:
        raise ValueError(f"spread {bars.shape} must have one number for each of the {len(ks)} errors")
    axes = new_axes(axes, (7.0, 4.2))
    order = np.argsort(ks, kind="stable")
    ks, errors = ks[order], errors[order]
    bars = bars[order]
    if bars.any():
        axes.errorbar(ks, errors, bars, fmt="none", ecolor=BLUE, elinewidth=1.2, capsize=3, alpha=0.6, zorder=2)
    axes.plot(ks, errors, color=BLUE, linewidth=1.8, marker="o", markersize=5, zorder=3)
    _rules(axes)
    top = (errors + bars).max()
    axes.set_ylim(0, 1.08 * top if top > 0 else 1)  # from 0: the gain is seen for what it is
    axes.set_xlabel("number of components", color=INK)
    axes.set_ylabel(label, color=INK)
    for k, value in _labelled(ks, errors):
        axes.annotate(f"{value:.3g}", (k, value), (3, 5), textcoords="offset points", fontsize=8, color=INK)
    if chosen is not None:
        error = errors[list(ks).index(chosen)]
        axes.plot([chosen], [error], "o", color=ORANGE, markersize=9, zorder=4)
        # A high point has room below it; a low one has the axis there, and room above its number.
        offset, side = ((-3, -15), "right") if error > top / 2 else ((3, 17), "left")
        axes.annotate(f"k = {chosen}", (chosen, error), offset, textcoords="offset points", ha=side, color=ORANGE)
    write_heading(axes, "Error against the number of components" if heading is None else heading)
    return axes


def loss_against_k(
    ks: ArrayLike,
    test: ArrayLike,
    *,
    train: ArrayLike | None = None,
    spread: ArrayLike | None = None,
    chosen: int | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the loss of entries that were left out against the number of components.

    Parameters
    ----------
    ks : array-like of shape (n,), int
        Numbers of components, in any order.
    test : array-like of shape (n,), any real type
        Relative loss of the entries that were left out.
    train : array-like of shape (n,) or None
        Relative loss of the fitted entries, drawn as a second line.
    spread : array-like of shape (n,) or None
        Half of the length of the bars at the points of `test`; none where it is NaN.
    chosen : int or None
        One of the numbers, to be marked.
    heading : str or None
        Title of the whole.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When there are not as many losses as numbers, or the chosen one is not among them.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> from nmfcore.plots import loss_against_k
    >>> axes = loss_against_k([4, 2, 6], [0.2, 0.3, 0.25], train=[0.19, 0.29, 0.1], chosen=4)
    >>> axes.lines[0].get_xdata().tolist(), axes.lines[0].get_ydata().tolist()
    ([2, 4, 6], [0.3, 0.2, 0.25])
    """
    ks, curves = np.asarray(ks), {"test": test, "train": train, "spread": spread}
    given = {name: np.asarray(each, dtype=float) for name, each in curves.items() if each is not None}
    for name, each in given.items():
        if ks.ndim != 1 or ks.shape != each.shape or not len(ks):
            raise ValueError(f"ks {ks.shape} and {name} {each.shape} must be vectors as long as each other")
    if chosen is not None and chosen not in ks:
        raise ValueError(f"chosen = {chosen} is none of the numbers of components, {sorted(ks.tolist())}")
    axes = new_axes(axes, (7.0, 4.2))
    order = np.argsort(ks, kind="stable")
    ks, given = ks[order], {name: each[order] for name, each in given.items()}
    losses = given["test"]
    axes.plot(ks, losses, color=BLUE, linewidth=1.8, marker="o", markersize=5, zorder=3, label="left out")
    if "train" in given:
        axes.plot(ks, given["train"], color=FAINT, linewidth=1.4, marker="o", markersize=3, zorder=2, label="fitted")
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    if "spread" in given and np.isfinite(given["spread"]).any():
        axes.errorbar(ks, losses, given["spread"], fmt="none", ecolor=BLUE, elinewidth=1.2, capsize=3, zorder=3)
    if chosen is not None:
        loss = losses[list(ks).index(chosen)]
        axes.plot([chosen], [loss], "o", color=ORANGE, markersize=9, zorder=4)
        axes.annotate(f"k = {chosen}", (chosen, loss), (0, 9), textcoords="offset points", ha="center", color=ORANGE)
    _rules(axes)
    axes.set_xlabel("number of components", color=INK)
    axes.set_ylabel("relative loss", color=INK)
    write_heading(axes, "Loss of left-out entries" if heading is None else heading)
    return axes


def _labelled(ks: np.ndarray, errors: np.ndarray) -> list[tuple[float, float]]:
    """Choose the points whose numbers do not run into one another."""
    room = 0.075 * max(float(ks[-1] - ks[0]), 1e-9)
    placed: list[tuple[float, float]] = []
    for k, error in zip(ks[::-1], errors[::-1], strict=True):
        if not placed or placed[-1][0] - k >= room:
            placed.append((float(k), float(error)))
    return placed


def _crosses(axes: Axes, times: np.ndarray, values: np.ndarray) -> None:
    """Mark rejected iterations, those above all others at the upper edge; the scales stay as they are."""
    if not len(values):
        return
    bottom, top = axes.get_ylim()
    axes.plot(
        times, np.clip(values, bottom, top), "x", color=ORANGE, markersize=5, label="rejected",
        scalex=False, scaley=False, clip_on=False,
    )  # fmt: skip
    axes.set_ylim(bottom, top)
    add_legend(axes, loc="upper right", bbox_to_anchor=None)


def _rules(axes: Axes) -> None:
    """Horizontal rules, and a line along the bottom only."""
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=FAINT)


def _iterations_on_top(axes: Axes, seconds: np.ndarray, n_iter: int | None) -> None:
    """Label the top edge with iteration numbers, each where it ended in time."""
    from matplotlib.ticker import MaxNLocator

    n = n_iter or len(seconds)
    if n != len(seconds):  # some iterations have no entry: spread the entries over all of them
        seconds = np.interp(np.linspace(0, len(seconds) - 1, n), np.arange(len(seconds)), seconds)
    ticks = MaxNLocator(nbins=6, integer=True, min_n_ticks=1).tick_values(1, n)
    wanted = sorted({int(tick) for tick in ticks if 1 <= tick <= n} | {n})
    left, right = axes.get_xlim()
    placed: list[tuple[int, float]] = []
    for number in reversed(wanted):  # the last one always; others where they do not run into it
        place = float(seconds[number - 1])
        if not placed or placed[-1][1] - place > 0.07 * (right - left):
            placed.append((number, place))
    top = axes.twiny()
    top.set_xlim(left, right)
    top.set_xticks([place for _, place in placed], [str(number) for number, _ in placed])
    top.set_xlabel("iterations", color=INK)
    top.tick_params(colors=INK, labelsize=9, length=3, color=FAINT)
    for spine in top.spines.values():
        spine.set_visible(False)
