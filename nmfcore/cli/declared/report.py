"""The options of ``nmfcore report``."""

from pathlib import Path
from typing import Annotated, Any

from .shared import force_option, model_argument, space_option

# No "from __future__ import annotations" here: typer evaluates the annotations of its commands.

__all__ = ["declare"]


def declare(app: Any) -> None:
    """Declare the command; typer reads its signature.

    Parameters
    ----------
    app : typer.Typer
        The command line.
    """
    from typer import Option

    @app.command()
    def report(
        folder: Annotated[str, model_argument()],
        labels: Annotated[
            Path | None,
            Option(
                metavar="FILE",
                help="A label per row: a text file with one per line, .npy, or IDX as MNIST's.",
                show_default="those the pictures came with",
            ),
        ] = None,
        space: Annotated[str | None, space_option()] = None,
        out: Annotated[
            Path | None, Option(metavar="HTML", help="File to write.", show_default="report.html in the model's folder")
        ] = None,
        force: Annotated[bool, force_option()] = False,
    ) -> None:
        """Write one self-contained page about a model: parts, reconstructions, classes, neighbours.

        Example:

            nmfcore report nmfcore-pictures --labels classes.txt

        Next: open the page in a browser, or mail it; it loads nothing.
        """
        from .. import pages as command
        from ..common import errors_as_sentences

        with errors_as_sentences():
            command.report(folder, labels, space, out, force)
