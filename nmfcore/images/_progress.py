"""Progress of decoding: a callable of the caller's, or a bar of rich's on a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

Progress = Callable[[int, int], None]


@contextmanager
def showing(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """Give the callable that reports progress: the caller's own, a bar's, or None."""
    if not isinstance(progress, bool):
        yield progress
        return
    with ExitStack() as bar:
        yield _bar(bar) if progress else None


def _bar(shown: ExitStack) -> Progress | None:
    """Show a bar of rich's until `shown` is closed; None where there is no terminal and no notebook."""
    try:
        from rich import progress as rich
        from rich.console import Console
        from rich.errors import LiveError
    except ImportError:
        return None
    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        return None
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
    try:
        bar = shown.enter_context(rich.Progress(*columns, console=console, transient=True))
    except LiveError:  # the caller shows a display of rich's already
        return None
    task = bar.add_task("reading pictures")
    return lambda done, total: bar.update(task, completed=done, total=total)
