"""The options of ``nmfcore transform``."""

from pathlib import Path
from typing import Annotated, Any

from .shared import force_option, model_argument

# No "from __future__ import annotations" here: typer evaluates the annotations of its commands.

__all__ = ["declare"]


def declare(app: Any) -> None:
    """Declare the command; typer reads its signature.

    Parameters
    ----------
    app : typer.Typer
        The command line.
    """
    from typer import Argument, Option

    @app.command()
    def transform(
        folder: Annotated[str, model_argument()],
        source: Annotated[
            str,
            Argument(
                metavar="SOURCE",
                help="A folder of pictures, a picture, an IDX, .csv, .npy or .npz file.",
                show_default=False,
            ),
        ],
        out: Annotated[
            Path | None, Option(metavar="FILE", help="File to write: .npy or .csv.", show_default="codes.npy")
        ] = None,
        skip_broken: Annotated[bool, Option("--skip-broken", help="Leave out pictures that cannot be used.")] = False,
        force: Annotated[bool, force_option()] = False,
    ) -> None:
        """Write other pictures as mixtures of the learned parts: a file with a row of weights each.

        A .npy file holds the weights; names of pictures are written to codes.names.json beside it. A .csv file holds
        both.

        Example:

            nmfcore transform nmfcore-pictures more-pictures/ --out codes.npy

        Next: numpy.load reads the file.
        """
        from .. import search as command
        from ..common import errors_as_sentences

        with errors_as_sentences():
            command.transform(folder, source, out, skip_broken, force)
