"""The options of ``nmfcore serve``."""

from typing import Annotated, Any

from .shared import model_argument, space_option

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
    def serve(
        folder: Annotated[str, model_argument()],
        port: Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = 8765,
        host: Annotated[
            str, Option(help="Address to listen on. Any other than this lets other machines in.")
        ] = "127.0.0.1",
        space: Annotated[str | None, space_option()] = None,
        allow_host: Annotated[
            list[str] | None,
            Option(
                metavar="NAME",
                help="With --host, a name that the page may have in the address bar, such as that of a proxy; may be "
                "given several times. Numerical addresses and the names of this machine need not be listed.",
                show_default=False,
            ),
        ] = None,
        browse: Annotated[bool, Option("--open", help="Open it in the browser.")] = False,
    ) -> None:
        """Search pictures by sight: a local page with all of them, until Ctrl-C.

        Examples
        --------
            nmfcore serve nmfcore-pictures --open

            nmfcore serve nmfcore-pictures --host 0.0.0.0 --allow-host cats.example
        """
        from .. import pages as command
        from ..common import errors_as_sentences

        with errors_as_sentences("stopped") as answered:
            answered.set()  # the server answers by itself
            command.serve(folder, host, port, space, browse, allow_host or [])
