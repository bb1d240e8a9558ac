"""The progress bar of a fit: in a terminal, in a notebook, and as a callback."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from rich.console import Console

    from ..loop.session import Progress as Report
    from .nmf import NMF

__all__ = ["ProgressBar", "fit_shown", "fitting_bar", "shown"]

_REFRESH = 0.1  # seconds between updates


class _Line(NamedTuple):
    """What a bar says."""

    description: str
    done: int
    total: int | None  # None: not known yet
    n_iter: str = ""
    loss: str = ""
    rate: str = ""


_PREPARING = _Line("preparing", 0, None)  # the start is made, and kernels that are new to this machine are compiled


class Show(Protocol):
    """Puts a report on a bar.

    Takes the report of an iteration, and ‖X‖ to show the relative error instead of the loss. The final call fills the
    bar: a fit that its stop rule ended is complete. `n_iter` is the number of iterations to show if it is not that of
    the report, after which others may have been rejected.
    """

    def __call__(
        self, report: Report, norm: float | None = None, final: bool = False, n_iter: int | None = None
    ) -> None: ...


class _Lines:
    """Makes a line of each report, but no more than a few in a second."""

    def __init__(self, max_iter: int):
        self.max_iter, self._shown, self._loss = max_iter, 0.0, ""
        self._first: tuple[int, float] | None = (
            None  # iteration and seconds from which the rate counts: after the start
        )

    def of(self, report: Report, norm: float | None, final: bool, n_iter: int | None) -> _Line | None:
        """Return the line to be shown, or None if the last one is too young."""
        now = time.perf_counter()
        if self._first is None or report.iteration <= self._first[0]:  # of several runs another one
            self._first = report.iteration, report.seconds  # not the report, which holds all factors
        if math.isfinite(report.loss):
            self._loss = f"loss {report.loss:.5g}"
            if norm:
                self._loss = f"error {math.sqrt(2 * max(report.loss, 0.0)) / norm:.5f}"
        if now - self._shown < _REFRESH and not final:
            return None
        self._shown = now
        done = n_iter or report.iteration
        made, seconds = report.iteration - self._first[0], report.seconds - self._first[1]
        rate = f"{made / seconds:.3g}/s" if made > 0 and seconds > 0 else ""
        total = done if final else self.max_iter
        return _Line("fitting", done, total, f"{done}" if final else f"{done}/{total}", self._loss, rate)


@contextmanager
def fitting_bar(console: Console, max_iter: int, transient: bool = False) -> Iterator[Show]:
    """Show iteration, loss and rate of a fit in a terminal.

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
    show : Show
        Puts a report on the bar.
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
    lines = _Lines(max_iter)
    with Progress(*columns, console=console, transient=transient) as bar:
        task = bar.add_task(_PREPARING.description, total=None, count="", loss="", rate="")

        def show(report: Report, norm: float | None = None, final: bool = False, n_iter: int | None = None) -> None:
            line = lines.of(report, norm, final, n_iter)
            if line is not None:
                bar.update(
                    task, description=line.description, completed=line.done, total=line.total, count=line.n_iter,
                    loss=line.loss, rate=line.rate,
                )  # fmt: skip

        yield show


@contextmanager
def _notebook_bar(max_iter: int, transient: bool) -> Iterator[Show]:
    """Show iteration, loss and rate of a fit below a notebook's cell, as HTML: no widgets have to be installed."""
    from IPython.display import HTML, display

    lines = _Lines(max_iter)
    cell: Any = display(HTML(_html(_PREPARING)), display_id=True)  # None where IPython has no shell

    def show(report: Report, norm: float | None = None, final: bool = False, n_iter: int | None = None) -> None:
        line = lines.of(report, norm, final, n_iter)
        if line is not None and cell is not None:
            cell.update(HTML(_html(line)))

    try:
        yield show
    finally:
        if transient and cell is not None:
            cell.update(HTML(""))


def _html(line: _Line) -> str:
    """Return a bar and what stands beside it; a bar without a value shows that something happens."""
    value = "" if line.total is None else f' value="{line.done}" max="{max(line.total, 1)}"'
    beside = " · ".join(html.escape(text) for text in line[3:] if text)
    return f"<div>{line.description} <progress{value}></progress> {beside}</div>"


def _opened(stack: ExitStack, max_iter: int, transient: bool) -> Show | None:
    """Open a bar on the terminal or below the notebook's cell; None if there is neither, or rich is not installed."""
    try:
        from rich.console import Console
        from rich.errors import LiveError
    except ImportError:
        return None
    console = Console(stderr=True)
    if console.is_jupyter:
        return stack.enter_context(_notebook_bar(max_iter, transient))
    if not console.is_terminal:
        return None
    try:
        return stack.enter_context(fitting_bar(console, max_iter, transient))
    except LiveError:  # the caller shows something of their own
        return None


class ProgressBar:
    """Callback that shows how far a fit is: iteration, loss, iterations per second, and seconds.

    In a terminal the bar stands on standard error; in a Jupyter notebook it is HTML below the cell, for which no
    widgets have to be installed. Where the output goes to a file, nothing is shown. The bar needs the package rich,
    which the extra ``app`` installs.

    Parameters
    ----------
    transient : bool, default=False
        Whether the bar is removed when the fit ends. By default, it stays, and shows the last iteration.

    Raises
    ------
    ImportError
        If rich is not installed.

    See Also
    --------
    nmfcore.NMF : Its parameter `callback` takes any function of a report.

    Notes
    -----
    One bar may serve many fits, one after the other. Of fits that run at the same time in several threads, only the
    first is shown.

    Examples
    --------
    >>> from nmfcore import NMF, ProgressBar
    >>> X = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    >>> model = NMF(1, solver="hals", callback=ProgressBar()).fit(X)
    """

    __module__ = "nmfcore"  # the name that is imported

    def __init__(self, transient: bool = False):
        try:
            import rich  # noqa: F401  (only whether it is there)
        except ImportError as error:
            raise ImportError("ProgressBar needs the package rich: pip install 'nmfcore[app]'.") from error
        self.transient = transient
        self._show: Show | None = None

    def __call__(self, progress: Report) -> None:
        """Show a report; does nothing outside of a fit."""
        if self._show is not None:
            self._show(progress)

    def __repr__(self) -> str:
        return f"ProgressBar(transient={self.transient})" if self.transient else "ProgressBar()"

    def __reduce__(self) -> tuple[type[ProgressBar], tuple[bool]]:
        return ProgressBar, (self.transient,)

    @contextmanager
    def _over(self, max_iter: int) -> Iterator[None]:
        """Show a bar while a fit runs; it ends full if the fit ends without an error."""
        with ExitStack() as stack:
            show = None if self._show is not None else _opened(stack, max_iter, self.transient)
            if show is None:
                yield
                return
            last: Report | None = None

            def keep(report: Report, *rest: Any, **named: Any) -> None:
                nonlocal last
                last = report
                show(report, *rest, **named)

            self._show = keep
            try:
                yield
                if last is not None:
                    show(last, final=True)
            finally:
                self._show = None


@contextmanager
def shown(callback: object, max_iter: int) -> Iterator[None]:
    """Open the bar of a callback that is a `ProgressBar` while a fit runs.

    Parameters
    ----------
    callback : object
        The parameter `callback` of an estimator; nothing happens if it is anything else.
    max_iter : int
        Iterations at most.

    Yields
    ------
    None
    """
    if isinstance(callback, ProgressBar):
        with callback._over(max_iter):
            yield
    else:
        yield


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

    Yields
    ------
    None
    """
    with ExitStack() as stack:
        show = _opened(stack, estimator.max_iter, True) if wanted else None
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
