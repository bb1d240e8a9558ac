"""The progress bar of a fit, on a terminal and in a notebook."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ..estimators import NMF
    from ..loop.session import Progress as Report

__all__ = ["fit_shown", "fitting_bar"]

_REFRESH = 0.1  # seconds between updates


@contextmanager
def fitting_bar(console: Console, max_iter: int, transient: bool = False) -> Iterator[Callable[..., None]]:
    """Show iteration, loss and rate of a fit.

    Until the first iteration ends, the bar only shows that something happens: the start is made then, and kernels
    that this machine has not run yet are compiled.

    Parameters
    ----------
    console : rich Console
        Where to show it.
    max_iter : int
        Iterations at most.
    transient : bool
        Whether the bar goes when the block ends.

    Yields
    ------
    show : callable(report, norm, final=False, n_iter=None)
        Takes the report of an iteration, and ‖X‖ to show the relative error instead of the loss. The final call
        fills the bar: a fit that its stop rule ended is complete. `n_iter` is the number of iterations to show if it
        is not that of the report, after which others may have been rejected.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=transient) as bar:
        task = bar.add_task("preparing", total=None, count="", loss="", rate="")
        shown, loss = 0.0, ""
        first: tuple[int, float] | None = None  # iteration and seconds from which the rate counts, after the start

        def show(report: Report, norm: float | None, final: bool = False, n_iter: int | None = None) -> None:
            nonlocal shown, loss, first
            now = time.perf_counter()
            if first is None or report.iteration <= first[0]:  # of several runs another one
                first = report.iteration, report.seconds  # not the report, which holds all factors
            if math.isfinite(report.loss):
                loss = f"loss {report.loss:.5g}"
                if norm:
                    loss = f"error {math.sqrt(2 * max(report.loss, 0.0)) / norm:.5f}"
            if now - shown < _REFRESH and not final:
                return
            shown = now
            done = n_iter or report.iteration
            made, seconds = report.iteration - first[0], report.seconds - first[1]
            rate = f"{made / seconds:.3g}/s" if made and seconds > 0 else ""
            count = f"{done}" if final else f"{done}/{max_iter}"
            total = done if final else max_iter
            bar.update(task, description="fitting", completed=done, total=total, count=count, loss=loss, rate=rate)

        yield show


@contextmanager
def fit_shown(estimator: NMF, norm: float, wanted: bool) -> Iterator[None]:
    """Show a bar while an estimator is fitted, where someone can see it; its own callback is called as before.

    Parameters
    ----------
    estimator : NMF
        What will be fitted.
    norm : float
        ‖X‖_F, for the relative error.
    wanted : bool
        Whether to show a bar at all.
    """
    with ExitStack() as opened:
        show = _bar(opened, estimator.max_iter) if wanted else None
        if show is None:
            yield
            return
        own = estimator.callback
        relative = norm if norm > 0 and estimator.beta_loss in ("frobenius", 2) else None

        def callback(report: Report) -> object:
            show(report, relative)
            return None if own is None else own(report)

        estimator.callback = callback
        try:
            yield
        finally:
            estimator.callback = own


def _bar(opened: ExitStack, max_iter: int) -> Callable[..., None] | None:
    try:
        from rich.console import Console
        from rich.errors import LiveError
    except ImportError:
        return None
    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        return None
    try:
        return opened.enter_context(fitting_bar(console, max_iter, transient=True))
    except LiveError:  # the caller shows something of their own
        return None
