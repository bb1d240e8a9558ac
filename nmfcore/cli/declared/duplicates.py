"""The options of ``nmfcore duplicates``."""

from pathlib import Path
from typing import Annotated, Any

# No "from __future__ import annotations" here: typer evaluates the annotations of its commands.

__all__ = ["declare"]


def declare(app: Any) -> None:
    """Declare the command; typer reads its signature.

    Parameters
    ----------
    app : typer.Typer
        The command line.
    """
    import typer
    from typer import Argument, Option

    @app.command()
    def duplicates(
        source: Annotated[
            str | None,
            Argument(
                metavar="FOLDER|MODEL",
                help="A folder of pictures, or the folder that nmfcore fit wrote.",
                show_default=False,
            ),
        ] = None,
        near: Annotated[
            float | None,
            Option(
                min=0,
                max=1,
                metavar="COSINE",
                help="Least similarity of the mixtures of near pictures.",
                show_default="0.995",
            ),
        ] = None,
        distance: Annotated[
            float | None,
            Option(
                min=0,
                max=2,
                metavar="SHARE",
                help="Largest distance of their pixels, as a share of the norm of the larger one.",
                show_default="0.2",
            ),
        ] = None,
        linkage: Annotated[
            str,
            Option(
                help="single: what a chain of pairs connects is a group; complete: every two of a group are a pair."
            ),
        ] = "single",
        mirrored: Annotated[bool, Option("--mirrored", help="Find mirror images, too.")] = False,
        exact: Annotated[bool, Option("--exact", help="Find equal files and equal pixels only.")] = False,
        pictures: Annotated[
            Path | None,
            Option(
                metavar="DIR",
                help="Where the files of a model's pictures are now.",
                show_default="where the model was made",
            ),
        ] = None,
        size: Annotated[
            str | None,
            Option(
                metavar="HxW",
                help="Size at which the pictures of a folder are compared.",
                show_default="64x64",
                rich_help_panel="A folder of pictures",
            ),
        ] = None,
        rgb: Annotated[
            bool, Option("--rgb", help="Compare colours, not only grey.", rich_help_panel="A folder of pictures")
        ] = False,
        recursive: Annotated[
            bool,
            Option("--recursive", help="Read the pictures in subfolders, too.", rich_help_panel="A folder of pictures"),
        ] = False,
        as_json: Annotated[
            bool, Option("--json", help="Print JSON for another program to read.", rich_help_panel="Output")
        ] = False,
        as_csv: Annotated[
            bool, Option("--csv", help="Print comma-separated values.", rich_help_panel="Output")
        ] = False,
        move_to: Annotated[
            Path | None,
            Option(
                metavar="DIR",
                help="Move all but one of each group there; without --yes, only say which.",
                show_default=False,
                rich_help_panel="Moving",
            ),
        ] = None,
        yes: Annotated[bool, Option("--yes", help="Do move them.", rich_help_panel="Moving")] = False,
        undo: Annotated[
            Path | None,
            Option(
                metavar="FILE",
                help="Move files back to where they were; FILE is what --move-to wrote.",
                show_default=False,
                rich_help_panel="Moving",
            ),
        ] = None,
    ) -> None:
        """Find pictures that are there more than once: equal files, equal pixels, and nearly the same.

        Nothing is ever deleted, and nothing is moved without --move-to and --yes. Of each group, the picture with the
        most pixels is kept; of these the largest file, then the oldest, then the first by name.

        A folder of pictures is read at 64x64 pixels, whatever the proportions, and 32 parts are learned to compare the
        pictures by; nothing of that is kept. A model has both already.

        Examples
        --------
            nmfcore duplicates pictures/

            nmfcore duplicates nmfcore-pictures --near 0.98 --distance 0.3 --json

            nmfcore duplicates pictures/ --move-to surplus/ --yes

            nmfcore duplicates --undo surplus/nmfcore-undo.json
        """
        from .. import duplicates as command
        from ..common import Stop, errors_as_sentences, size_option

        with errors_as_sentences():
            if undo is not None:
                if source is not None or move_to is not None:
                    raise Stop("--undo takes the file that --move-to wrote, and nothing else")
                code = command.undo(undo)
            else:
                if source is None:
                    raise Stop("give a folder of pictures, the folder that nmfcore fit wrote, or --undo FILE")
                if as_json and as_csv:
                    raise Stop("--json and --csv exclude each other: give one of them")
                if yes and move_to is None:
                    raise Stop("--yes confirms --move-to DIR: give both, or neither")
                settings: dict[str, Any] = {
                    "near": near,
                    "distance": distance,
                    "linkage": linkage,
                    "mirrored": mirrored,
                }
                if pictures is not None:
                    settings["folder"] = pictures
                form = "json" if as_json else "csv" if as_csv else None
                reading = {"recursive": recursive}
                code = command.duplicates(source, settings, exact, reading, size_option(size), rgb, form, move_to, yes)
        raise typer.Exit(code)
