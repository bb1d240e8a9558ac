"""The options of ``nmfcore search``."""

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
    from typer import Argument, Option

    @app.command()
    def search(
        folder: Annotated[str, model_argument()],
        query: Annotated[
            list[str],
            Argument(
                metavar="QUERY",
                help="A picture file, a picture's name, or a row number; or several, with + or - between them, each "
                "sign with spaces around it. A number is the picture of that name where there is one (4802 for "
                "4802.jpg); 'row 4802' is the row.",
                show_default=False,
            ),
        ],
        n: Annotated[int, Option("-n", min=1, help="How many pictures to find.")] = 8,
        dissimilar: Annotated[bool, Option("--dissimilar", help="Find the most dissimilar ones instead.")] = False,
        space: Annotated[str | None, space_option()] = None,
        label: Annotated[
            list[str] | None,
            Option(
                metavar="LABEL",
                help="Find pictures with this label only; may be given several times.",
                show_default="any",
            ),
        ] = None,
        min_score: Annotated[
            float | None,
            Option(min=-1, max=1, help="Find pictures with at least this score only.", show_default="no limit"),
        ] = None,
        max_score: Annotated[
            float | None,
            Option(
                min=-1,
                max=1,
                help="With --dissimilar: find pictures with at most this score only.",
                show_default="no limit",
            ),
        ] = None,
        offset: Annotated[int, Option(min=0, help="How many of the best to skip.")] = 0,
        out: Annotated[
            Path | None,
            Option(metavar="PNG", help="Draw them over their reconstructions (.png, .pdf, .svg).", show_default=False),
        ] = None,
        copy_to: Annotated[
            Path | None,
            Option(
                metavar="DIR",
                help="Copy the pictures found to this folder, numbered, the best first. No file is replaced.",
                show_default=False,
            ),
        ] = None,
        as_json: Annotated[bool, Option("--json", help="Print JSON for another program to read.")] = False,
        as_csv: Annotated[bool, Option("--csv", help="Print comma-separated values.")] = False,
        force: Annotated[bool, force_option()] = False,
    ) -> None:
        """Find the pictures most similar to one or several, and the parts they have in common.

        Examples
        --------
            nmfcore search nmfcore-pictures 3 -n 9 --out similar.png

            nmfcore search nmfcore-pictures my-cat.jpg --dissimilar

            nmfcore search nmfcore-pictures a.jpg + b.jpg - c.jpg --label cat --min-score 0.8 --copy-to found

        Next: nmfcore serve MODEL searches by clicking.
        """
        from .. import search as command
        from ..common import Stop, errors_as_sentences

        with errors_as_sentences():
            if as_json and as_csv:
                raise Stop("--json and --csv exclude each other: give one of them")
            form = "json" if as_json else "csv" if as_csv else None
            scores = (min_score, max_score)
            command.search(folder, query, n, dissimilar, space, out, force, form, label, scores, offset, copy_to)
