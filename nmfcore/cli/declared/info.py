"""``nmfcore info``, which has no options."""

from typing import Any

# No "from __future__ import annotations" here: typer evaluates the annotations of its commands.

__all__ = ["declare"]


def declare(app: Any) -> None:
    """Declare the command; typer reads its signature.

    Parameters
    ----------
    app : typer.Typer
        The command line.
    """

    @app.command()
    def info() -> None:
        """Show versions, threads, vector width and GPU, and what is missing."""
        from ..info import print_info

        print_info()
