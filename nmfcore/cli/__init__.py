"""The command line: parse, call the public API, print.

The options of a command are in ``declared/``, and what it does is in a module of its own. typer, rich, matplotlib and
Pillow belong to the extra ``app``; they are imported when a command needs them, and a missing one is named before
anything is computed.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

# No "from __future__ import annotations" here: typer evaluates the annotations of the callback.

__all__ = ["main"]

APP_MODULES = {"typer": "typer", "rich": "rich", "matplotlib": "matplotlib", "PIL": "Pillow"}
INCOMPLETE, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str or None
        What follows the program's name; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        The exit code: 0 when all went well, 1 when a part of the results is missing, 2 on bad input, 130 when
        interrupted.

    Examples
    --------
    >>> from nmfcore.cli import main
    >>> main(["fit", "no-such-folder"])
    2
    """
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # while modules are loaded; later ones are answered by the command
        sys.stderr.write("nmfcore: interrupted; nothing was written\n")
        return INTERRUPTED


# Options with which a fit may need another kernel than that of the default solver, or none; and data whose type of
# numbers is not known before they are read. Pictures are bytes, which are computed with in float32.
_OTHERS = ("--solver", "--beta-loss", "--extrapolate", "--device", "--scheduler", "--help", "-h", "--letterbox")
_TYPED = (".csv", ".tsv", ".npy", ".npz", ".h5", ".hdf5", ".zarr")


@contextlib.contextmanager
def _compiled_ahead(arguments: Sequence[str]) -> Iterator[None]:
    """Have the kernel of a fit of pictures compiled on a second processor, where this machine has not done so yet."""

    def known(option: str) -> bool:
        name = option.partition("::")[0].removesuffix(".gz")
        return not option.startswith((*_OTHERS, "--mask")) and not name.endswith(_TYPED)

    if list(arguments[:1]) != ["fit"] or not all(map(known, arguments)):
        yield
        return
    from ..backends import compiling

    try:
        compiling.begin("float32")
        yield
    finally:
        compiling.end()


def _main(arguments: Sequence[str]) -> int:
    from .console import any_text_printable, quiet_libraries
    from .drawing import beside
    from .starting import imports_put_off, seldom_collecting

    missing = [name for module, name in APP_MODULES.items() if not importlib.util.find_spec(module)]
    if missing:
        sys.stderr.write(f"nmfcore: the command line needs {' and '.join(missing)}: pip install 'nmfcore[app]'\n")
        return BAD_INPUT
    draws = list(arguments[:1]) == ["fit"] and not {"--help", "-h"} & set(arguments)
    with (
        seldom_collecting(),
        imports_put_off(),
        _compiled_ahead(arguments),
        beside(draws),
        any_text_printable(),
        quiet_libraries(),
    ):
        code = _run(list(arguments))
        try:
            sys.stdout.flush()
        except OSError as error:
            sys.stderr.write(f"nmfcore: the table could not be printed ({error.strerror or error})\n")
            with contextlib.suppress(OSError, ValueError):  # else Python fails once more when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return code or INCOMPLETE
    return code


def _run(arguments: list[str]) -> int:
    """Run a command; return its exit code. Errors in options are one sentence, like all others."""
    import typer

    from .common import one_line

    refused: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
    try:
        code = _app(arguments[:1])(args=arguments or ["--help"], prog_name="nmfcore", standalone_mode=False)
    except refused as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "nmfcore"
        message = one_line(error.format_message()).rstrip(".")
        sys.stderr.write(f"nmfcore: {message[:1].lower()}{message[1:]}: see {command} --help\n")
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("nmfcore: interrupted; nothing was written\n")
        return INTERRUPTED
    except SystemExit as end:  # of rich, when what reads the output has gone
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return code if isinstance(code, int) else 0


# In the order in which the help lists them.
_COMMANDS = ("fit", "rank", "search", "duplicates", "transform", "update", "report", "serve", "info")


def _app(first: Sequence[str] = ()) -> Any:
    """Declare the commands: the one that the first argument names, or all of them."""
    from typing import Annotated

    import typer
    from typer import Option

    app = typer.Typer(
        name="nmfcore",
        help="Learn the parts that pictures are made of, by non-negative matrix factorisation.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            from .. import __version__

            typer.echo(f"nmfcore {__version__}")
            raise typer.Exit

    @app.callback()
    def nmfcore(
        version: Annotated[
            bool,
            Option("--version", callback=show_version, is_eager=True, help="Show the version."),
        ] = False,
    ) -> None:
        del version  # its callback has printed it and left

    for command in [name for name in first if name in _COMMANDS] or _COMMANDS:
        importlib.import_module(f".declared.{command}", __name__).declare(app)
    return app
