"""The command line: parse, call the public API, print.

Each command's work is in a module of its own. typer, rich, matplotlib and Pillow belong to the extra
``app``; they are imported when a command needs them, and a missing one is named before anything is computed.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# No "from __future__ import annotations" here: typer evaluates the annotations of its commands.

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


def _main(arguments: Sequence[str]) -> int:
    from .console import any_text_printable, quiet_libraries

    missing = [name for module, name in APP_MODULES.items() if not importlib.util.find_spec(module)]
    if missing:
        sys.stderr.write(f"nmfcore: the command line needs {' and '.join(missing)}: pip install 'nmfcore[app]'\n")
        return BAD_INPUT
    with any_text_printable(), quiet_libraries():
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
        code = _app()(args=arguments or ["--help"], prog_name="nmfcore", standalone_mode=False)
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


def _app() -> Any:
    """Declare the commands; typer reads their signatures."""
    from typing import Annotated

    import typer
    from typer import Argument, Option

    from ..solvers import SOLVERS
    from .fit import default_solver

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

    def number_of_parts(text: str | None) -> Any:
        return None if text is None else parsed(text, several=False)

    def numbers_of_parts(text: str) -> Any:
        return parsed(text, several=True)

    def parsed(text: str, several: bool) -> Any:
        from .rank import parse_k

        try:
            return parse_k(text, several)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    @app.command()
    def fit(
        source: Annotated[
            str | None,
            Argument(
                metavar="SOURCE",
                help="A folder of pictures, an IDX file as MNIST comes in (.gz or not), a .csv "
                "table (Kaggle's MNIST form; a label column is kept apart), a .npy or a .npz file; or an HDF5 file "
                "(.h5) or Zarr array (.zarr), which may be larger than memory (FILE::NAME names one of several). "
                "Without it, scikit-learn's 1,797 handwritten digits.",
                show_default=False,
            ),
        ] = None,
        k: Annotated[
            str | None,
            Option(
                "-k",
                "--components",
                metavar="NUMBER",
                callback=number_of_parts,
                help="Number of parts to learn; auto finds one first, as nmfcore rank does.",
                show_default="16, or half of what fits",
            ),
        ] = None,
        solver: Annotated[
            str | None,
            Option(
                help=f"Algorithm: {', '.join(SOLVERS)}.",
                show_default=f"{default_solver(True)}; {default_solver(False)} for other losses",
                rich_help_panel="Model",
            ),
        ] = None,
        init: Annotated[
            str | None,
            Option(
                help="Start: random, nndsvd, nndsvda, nndsvdar, or auto (hals only).",
                show_default="what suits the solver",
                rich_help_panel="Model",
            ),
        ] = None,
        beta_loss: Annotated[
            str,
            Option(
                help="frobenius, kullback-leibler, itakura-saito, or any number beta.",
                rich_help_panel="Model",
            ),
        ] = "frobenius",
        extrapolate: Annotated[
            bool,
            Option(
                "--extrapolate",
                help="Solver mu, beta from 1 to 2: step from points ahead, for fewer iterations.",
                rich_help_panel="Model",
            ),
        ] = False,
        max_iter: Annotated[
            int,
            Option(
                min=1,
                help="Iterations at most.",
                rich_help_panel="Stopping",
            ),
        ] = 1000,
        tol: Annotated[
            float,
            Option(
                min=0,
                help="Stop when progress falls below this.",
                rich_help_panel="Stopping",
            ),
        ] = 1e-4,
        max_time: Annotated[
            float | None,
            Option(
                min=0,
                metavar="SECONDS",
                help="Stop after this time.",
                show_default="no limit",
                rich_help_panel="Stopping",
            ),
        ] = None,
        checkpoint: Annotated[
            Path | None,
            Option(
                metavar="FILE",
                help="Keep the fit here while it runs; a fit that was killed goes on from it.",
                rich_help_panel="Computing",
            ),
        ] = None,
        memory: Annotated[
            str | None,
            Option(
                metavar="SIZE",
                help="How much of a .npy, .h5 or .zarr may be in memory at a time, such as 2GB; a folder of pictures "
                "is then decoded into a file beside it, once.",
                show_default="512MB for .h5 and .zarr",
                rich_help_panel="Computing",
            ),
        ] = None,
        size: Annotated[
            str | None,
            Option(
                metavar="HxW",
                help="Resize the pictures of a folder to this height and width; for a matrix, the "
                "picture a row folds to.",
                show_default="the first picture's",
                rich_help_panel="Input",
            ),
        ] = None,
        rgb: Annotated[
            bool,
            Option(
                "--rgb",
                help="Keep the colours of a folder's pictures.",
                rich_help_panel="Input",
            ),
        ] = False,
        skip_broken: Annotated[
            bool,
            Option(
                "--skip-broken",
                help="Leave out pictures that cannot be used.",
                rich_help_panel="Input",
            ),
        ] = False,
        seed: Annotated[
            int,
            Option(
                min=0,
                help="Seed of the random numbers.",
                rich_help_panel="Computing",
            ),
        ] = 0,
        n_jobs: Annotated[
            int | None,
            Option(
                help="Threads; -1 for all.",
                show_default="as many as are free",
                rich_help_panel="Computing",
            ),
        ] = None,
        crop: Annotated[
            bool,
            Option(
                "--crop",
                help="Cut off the edges of pictures of other proportions.",
                rich_help_panel="Input",
            ),
        ] = False,
        letterbox: Annotated[
            bool,
            Option(
                "--letterbox",
                help="Keep the proportions of a folder's pictures: each as large as fits, between bars that the fit "
                "leaves out.",
                rich_help_panel="Input",
            ),
        ] = False,
        mask_transparent: Annotated[
            bool,
            Option(
                "--mask-transparent",
                help="Leave transparent pixels out of the fit, instead of laying pictures on a background.",
                rich_help_panel="Input",
            ),
        ] = False,
        background: Annotated[
            str,
            Option(
                metavar="COLOUR",
                help="The background of transparent pictures: a name, or #rrggbb.",
                rich_help_panel="Input",
            ),
        ] = "white",
        recursive: Annotated[
            bool,
            Option(
                "--recursive",
                help="Read the pictures in subfolders, too; their names are labels.",
                rich_help_panel="Input",
            ),
        ] = False,
        device: Annotated[
            str | None,
            Option(
                help="Where to compute: cpu, cuda, cuda:1, or auto (a GPU if one works).",
                show_default="cpu",
                rich_help_panel="Computing",
            ),
        ] = None,
        scheduler: Annotated[
            str | None,
            Option(
                metavar="ADDRESS",
                help="Compute on the Dask cluster of the scheduler at tcp://host:port.",
                rich_help_panel="Computing",
            ),
        ] = None,
        out: Annotated[
            Path | None,
            Option(
                metavar="DIR",
                help="Folder to write the results to.",
                show_default="nmfcore-<name of SOURCE>",
                rich_help_panel="Output",
            ),
        ] = None,
        pictures: Annotated[
            bool | None,
            Option(
                "--pictures/--no-pictures",
                help="Keep the originals in the folder, for search, report and serve.",
                show_default="kept up to 1 GiB",
                rich_help_panel="Output",
            ),
        ] = None,
        force: Annotated[
            bool,
            Option(
                "--force",
                help="Replace earlier results in that folder.",
                rich_help_panel="Output",
            ),
        ] = False,
    ) -> None:
        """Learn the parts of pictures, and write what was learned to a folder.

        The folder then holds model.npz (read it with nmfcore.load), components.png (the parts),
        reconstructions.png (originals over reconstructions), convergence.png (loss over time) and
        pictures.npy (the originals). search, transform, report and serve take that folder.

        Ctrl-C stops early and keeps the best result so far.

        Examples
        --------
            nmfcore fit pictures/ -k 20

            nmfcore fit train.csv -k 15 --max-time 60 --out digits

            nmfcore fit pictures/ -k auto

        Next: nmfcore report FOLDER makes a page of the results, nmfcore search FOLDER 0 finds similar pictures.
        """
        from . import fit as command
        from .common import errors_as_sentences, size_option

        with errors_as_sentences():
            settings = {
                "solver": solver,
                "init": init,
                "beta_loss": _beta_loss(beta_loss),
                "extrapolate": extrapolate,
                "max_iter": max_iter,
                "tol": tol,
                "max_time": max_time,
                "checkpoint": checkpoint,
                "memory": memory,
                "random_state": seed,
                "n_jobs": n_jobs,
                "device": device,
            }
            shape = size_option(size)
            how = {"crop": crop, "background": background, "recursive": recursive}
            how |= {"fit": "letterbox" if letterbox else "stretch", "mask_transparent": mask_transparent}
            code = command.fit(source, k, settings, shape, skip_broken, out, force, rgb, pictures, scheduler, how)
        raise typer.Exit(code)

    @app.command()
    def rank(
        source: Annotated[
            str | None,
            Argument(
                metavar="SOURCE",
                help="What nmfcore fit takes. Without it, scikit-learn's 1,797 handwritten digits.",
                show_default=False,
            ),
        ] = None,
        k: Annotated[
            str,
            Option(
                "-k",
                "--components",
                metavar="NUMBERS",
                callback=numbers_of_parts,
                help="What to try: FIRST:LAST (twelve numbers between), FIRST:LAST:STEP, a list like 5,10,15, or auto.",
            ),
        ] = "auto",
        solver: Annotated[
            str | None,
            Option(
                help=f"Algorithm: {', '.join(SOLVERS)}.",
                show_default=f"{default_solver(True)}; {default_solver(False)} for other losses",
                rich_help_panel="Model",
            ),
        ] = None,
        init: Annotated[
            str | None,
            Option(
                help="Start: random, nndsvd, nndsvda, nndsvdar, or auto (hals only).",
                show_default="what suits the solver",
                rich_help_panel="Model",
            ),
        ] = None,
        beta_loss: Annotated[
            str,
            Option(help="frobenius, kullback-leibler, itakura-saito, or any number beta.", rich_help_panel="Model"),
        ] = "frobenius",
        max_iter: Annotated[int, Option(min=1, help="Iterations of a fit at most.", rich_help_panel="Stopping")] = 200,
        tol: Annotated[
            float, Option(min=0, help="Stop a fit when progress falls below this.", rich_help_panel="Stopping")
        ] = 3e-4,
        max_time: Annotated[
            float | None,
            Option(
                min=0,
                metavar="SECONDS",
                help="Stop after this time, with what has been found.",
                show_default="no limit",
                rich_help_panel="Stopping",
            ),
        ] = None,
        rule: Annotated[
            str,
            Option(
                help="1se: the smallest k within one standard error of the least test loss; min: the least.",
                rich_help_panel="Validation",
            ),
        ] = "1se",
        repeats: Annotated[
            int, Option(min=1, help="Random splits, the same for every k.", rich_help_panel="Validation")
        ] = 3,
        folds: Annotated[
            str,
            Option(metavar="RxC", help="Into how many folds rows and columns are cut.", rich_help_panel="Validation"),
        ] = "2x2",
        tiles: Annotated[
            str | None,
            Option(
                metavar="HxW",
                help="Of pictures, the tiles that are left out together.",
                show_default="an eighth of the height and width",
                rich_help_panel="Validation",
            ),
        ] = None,
        max_rows: Annotated[
            int, Option(min=4, help="Rows to use at most, drawn at random.", rich_help_panel="Validation")
        ] = 20_000,
        memory: Annotated[
            str | None,
            Option(
                metavar="SIZE",
                help="How much of a .npy, .h5 or .zarr may be in memory at a time while it is checked.",
                show_default="512MB for .h5 and .zarr",
                rich_help_panel="Computing",
            ),
        ] = None,
        size: Annotated[
            str | None,
            Option(
                metavar="HxW",
                help="Resize the pictures of a folder to this height and width; for a matrix, the picture a row folds "
                "to.",
                show_default="the first picture's",
                rich_help_panel="Input",
            ),
        ] = None,
        rgb: Annotated[
            bool, Option("--rgb", help="Keep the colours of a folder's pictures.", rich_help_panel="Input")
        ] = False,
        skip_broken: Annotated[
            bool, Option("--skip-broken", help="Leave out pictures that cannot be used.", rich_help_panel="Input")
        ] = False,
        crop: Annotated[
            bool, Option("--crop", help="Cut off the edges of pictures of other proportions.", rich_help_panel="Input")
        ] = False,
        background: Annotated[
            str,
            Option(
                metavar="COLOUR",
                help="The background of transparent pictures: a name, or #rrggbb.",
                rich_help_panel="Input",
            ),
        ] = "white",
        recursive: Annotated[
            bool, Option("--recursive", help="Read the pictures in subfolders, too.", rich_help_panel="Input")
        ] = False,
        seed: Annotated[int, Option(min=0, help="Seed of the random numbers.", rich_help_panel="Computing")] = 0,
        n_jobs: Annotated[
            int | None,
            Option(help="Threads; -1 for all.", show_default="as many as are free", rich_help_panel="Computing"),
        ] = None,
        device: Annotated[
            str | None,
            Option(
                help="Where to compute: cpu, cuda, cuda:1, or auto (a GPU if one works).",
                show_default="cpu",
                rich_help_panel="Computing",
            ),
        ] = None,
        out: Annotated[
            list[Path] | None,
            Option(
                metavar="FILE",
                help="Draw the curve (.png, .pdf, .svg), or write the table of all fits (.csv); may be given twice.",
                show_default=False,
                rich_help_panel="Output",
            ),
        ] = None,
        force: Annotated[bool, Option("--force", help="Replace existing files.", rich_help_panel="Output")] = False,
    ) -> None:
        """Find how many parts suit the pictures: those that best predict pixels that were left out.

        A block of pictures and of pixels is left out, parts are learned from the rest, and what they predict is
        compared with the block (bicross-validation). Of pictures, pixels are left out by tiles. The table shows the
        loss of the fitted and of the left-out pixels for each number of parts; nothing is written without --out.

        Ctrl-C stops early and shows what has been found.

        Examples
        --------
            nmfcore rank pictures/ -k 4:64 --out curve.png

            nmfcore rank train.csv -k 5,10,15,20 --repeats 5 --out fits.csv

        Next: nmfcore fit SOURCE -k with the number that was found.
        """
        from . import rank as command
        from .common import Stop, errors_as_sentences, size_option

        with errors_as_sentences():
            if rule not in ("1se", "min"):
                raise Stop(f"--rule {rule!r} is unknown: expected 1se or min")
            settings = {
                "solver": solver,
                "init": init,
                "beta_loss": _beta_loss(beta_loss),
                "extrapolate": False,
                "max_iter": max_iter,
                "tol": tol,
                "memory": memory,
                "random_state": seed,
                "n_jobs": n_jobs,
                "device": device,
            }
            how = {
                "rule": rule,
                "repeats": repeats,
                "folds": command.pair_option(folds, "--folds"),
                "tiles": command.pair_option(tiles, "--tiles"),
                "max_rows": max_rows,
                "max_time": max_time,
            }
            reading = {"crop": crop, "background": background, "recursive": recursive}
            code = command.rank(
                source, k, settings, how, size_option(size), skip_broken, rgb, out or [], force, reading
            )
        raise typer.Exit(code)

    model = Argument(metavar="MODEL", help="The folder that nmfcore fit wrote.", show_default=False)
    spaces = Option(
        help="Where similarity is measured: codes (the same parts), reconstruction (pictures that look alike, "
        "whatever the scale of the parts), or centred (the same deviations from the average).",
        show_default="codes; centred for dissimilar pictures",
    )
    replace = Option("--force", help="Replace an existing file.")

    @app.command()
    def search(
        folder: Annotated[str, model],
        query: Annotated[
            str,
            Argument(metavar="QUERY", help="A picture file, a picture's name, or a row number.", show_default=False),
        ],
        n: Annotated[int, Option("-n", min=1, help="How many pictures to find.")] = 8,
        dissimilar: Annotated[bool, Option("--dissimilar", help="Find the most dissimilar ones instead.")] = False,
        space: Annotated[str | None, spaces] = None,
        out: Annotated[
            Path | None,
            Option(metavar="PNG", help="Draw them over their reconstructions (.png, .pdf, .svg).", show_default=False),
        ] = None,
        as_json: Annotated[bool, Option("--json", help="Print JSON for another program to read.")] = False,
        as_csv: Annotated[bool, Option("--csv", help="Print comma-separated values.")] = False,
        force: Annotated[bool, replace] = False,
    ) -> None:
        """Find the pictures most similar to one, and the parts they have in common.

        Examples
        --------
            nmfcore search nmfcore-pictures 3 -n 9 --out similar.png

            nmfcore search nmfcore-pictures my-cat.jpg --dissimilar

        Next: nmfcore serve MODEL searches by clicking.
        """
        from . import search as command
        from .common import Stop, errors_as_sentences

        with errors_as_sentences():
            if as_json and as_csv:
                raise Stop("--json and --csv exclude each other: give one of them")
            form = "json" if as_json else "csv" if as_csv else None
            command.search(folder, query, n, dissimilar, space, out, force, form)

    @app.command()
    def transform(
        folder: Annotated[str, model],
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
        force: Annotated[bool, replace] = False,
    ) -> None:
        """Write other pictures as mixtures of the learned parts: a file with a row of weights each.

        A .npy file holds the weights; names of pictures are written to codes.names.json beside it. A .csv file holds
        both.

        Example:

            nmfcore transform nmfcore-pictures more-pictures/ --out codes.npy

        Next: numpy.load reads the file.
        """
        from . import search as command
        from .common import errors_as_sentences

        with errors_as_sentences():
            command.transform(folder, source, out, skip_broken, force)

    @app.command()
    def report(
        folder: Annotated[str, model],
        labels: Annotated[
            Path | None,
            Option(
                metavar="FILE",
                help="A label per row: a text file with one per line, .npy, or IDX as MNIST's.",
                show_default="those the pictures came with",
            ),
        ] = None,
        space: Annotated[str | None, spaces] = None,
        out: Annotated[
            Path | None, Option(metavar="HTML", help="File to write.", show_default="report.html in the model's folder")
        ] = None,
        force: Annotated[bool, replace] = False,
    ) -> None:
        """Write one self-contained page about a model: parts, reconstructions, classes, neighbours.

        Example:

            nmfcore report nmfcore-pictures --labels classes.txt

        Next: open the page in a browser, or mail it; it loads nothing.
        """
        from . import pages as command
        from .common import errors_as_sentences

        with errors_as_sentences():
            command.report(folder, labels, space, out, force)

    @app.command()
    def serve(
        folder: Annotated[str, model],
        port: Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = 8765,
        host: Annotated[
            str, Option(help="Address to listen on. Any other than this lets other machines in.")
        ] = "127.0.0.1",
        space: Annotated[str | None, spaces] = None,
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
        from . import pages as command
        from .common import errors_as_sentences

        with errors_as_sentences("stopped") as answered:
            answered.set()  # the server answers by itself
            command.serve(folder, host, port, space, browse, allow_host or [])

    @app.command()
    def info() -> None:
        """Show versions, threads, vector width and GPU, and what is missing."""
        from .info import print_info

        print_info()

    return app


def _beta_loss(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
