"""The options of ``nmfcore update``."""

from typing import Annotated, Any

from .shared import model_argument

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
    def update(
        folder: Annotated[str, model_argument()],
        pictures: Annotated[
            str | None,
            Argument(
                metavar="FOLDER",
                help="The folder of pictures. Without it, the one that the model was made of.",
                show_default=False,
            ),
        ] = None,
        yes: Annotated[
            bool,
            Option(
                "--yes", help="Go on although more than half of the pictures are gone; without it, that is refused."
            ),
        ] = False,
    ) -> None:
        """Follow a folder of pictures that has changed since the fit: new pictures are coded, the parts stay.

        Files of the same size and date are left alone; of others the content decides what is new, changed or renamed.
        Pictures that are gone are taken out of the model. Killed at any moment, this leaves the former model or the
        new one.

        Examples
        --------
            nmfcore update nmfcore-pictures

            nmfcore update nmfcore-pictures moved/pictures --yes

        Next: nmfcore search MODEL; where new pictures are unlike the former ones, nmfcore fit FOLDER --from MODEL.
        """
        from .. import update as command
        from ..common import errors_as_sentences

        with errors_as_sentences():
            command.update(folder, pictures, yes)
