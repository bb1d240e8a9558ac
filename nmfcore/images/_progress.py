"""How far the decoding is: the caller's callable, or a bar of rich's where someone can see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

Progress = Callable[[int, int], None]


@contextmanager
def showing(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """Turn what the caller wants to see into what is to be called."""
    if not isinstance(progress, bool):
        yield progress
        return
    with ExitStack() as bar:
        yield _bar(bar) if progress else None


def _bar(shown: ExitStack) -> Progress | None:
    """Show a bar of rich's until `shown` is closed, where someone can see it."""
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
    except LiveError:  # the caller shows something of their own
        return None
    task = bar.add_task("reading pictures")
    return lambda done, total: bar.update(task, completed=done, total=total)
