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
        n_init: Annotated[
            int,
            Option(
                min=1,
                metavar="RUNS",
                help="Runs from different random starts, of which the best is kept; with 2 or more, the table and the "
                "report say how well the runs agree on each part. The default makes one run, which tells nothing of "
                "that.",
                rich_help_panel="Model",
            ),
        ] = 1,
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
        exclude: Annotated[
            list[str] | None,
            Option(
                metavar="PATTERN",
                help="Leave out files and subfolders of a folder of pictures whose name, or path below it, matches, "
                "like '*.gif', drafts or 'cats/old*'; may be given several times.",
                show_default="none are left out",
                rich_help_panel="Input",
            ),
        ] = None,
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
        begin: Annotated[
            str | None,
            Option(
                "--from",
                metavar="MODEL",
                help="Begin with the parts of this model: its number of parts, its size of pictures, and its SOURCE if "
                "none is given.",
                show_default="a new start",
                rich_help_panel="Model",
            ),
        ] = None,
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

            nmfcore fit pictures/ -k 20 --n-init 8

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
                "n_init": n_init,
            }
            shape = size_option(size)
            how = {"crop": crop, "background": background, "recursive": recursive, "exclude": exclude or []}
            how |= {"fit": "letterbox" if letterbox else "stretch", "mask_transparent": mask_transparent}
            code = command.fit(
                source, k, settings, shape, skip_broken, out, force, rgb, pictures, scheduler, how, begin
            )
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
        method: Annotated[
            str | None,
            Option(
                help="bicross leaves out blocks of rows and columns; holdout single entries, or tiles of a picture.",
                show_default="bicross; holdout where pixels are masked",
                rich_help_panel="Validation",
            ),
        ] = None,
        holdout: Annotated[
            float,
            Option(
                metavar="SHARE", help="How much --method holdout leaves out, below 1.", rich_help_panel="Validation"
            ),
        ] = 0.05,
        repeats: Annotated[
            int, Option(min=1, help="Random splits, the same for every k.", rich_help_panel="Validation")
        ] = 3,
        folds: Annotated[
            str,
            Option(
                metavar="RxC",
                help="Into how many folds rows and columns are cut, with --method bicross.",
                rich_help_panel="Validation",
            ),
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
        letterbox: Annotated[
            bool,
            Option(
                "--letterbox",
                help="Keep the proportions of a folder's pictures: each as large as fits, between bars that are left "
                "out.",
                rich_help_panel="Input",
            ),
        ] = False,
        mask_transparent: Annotated[
            bool,
            Option(
                "--mask-transparent",
                help="Leave transparent pixels out, instead of laying pictures on a background.",
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
        compared with the block (bicross-validation). --method holdout leaves out single entries instead, which takes
        less time. Of pictures, pixels are left out by tiles. The table shows the
        loss of the fitted and of the left-out pixels for each number of parts; nothing is written without --out.

        Ctrl-C stops early and shows what has been found.

        Examples
        --------
            nmfcore rank pictures/ -k 4:64 --out curve.png

            nmfcore rank train.csv -k 5,10,15,20 --repeats 5 --out fits.csv

            nmfcore rank train.csv --method holdout --holdout 0.1

        Next: nmfcore fit SOURCE -k with the number that was found.
        """
        from . import rank as command
        from .common import Stop, errors_as_sentences, size_option

        with errors_as_sentences():
            if rule not in ("1se", "min"):
                raise Stop(f"--rule {rule!r} is unknown: expected 1se or min")
            if method not in (None, "bicross", "holdout"):
                raise Stop(f"--method {method!r} is unknown: expected bicross or holdout")
            if not 0 < holdout < 1:
                raise Stop(f"--holdout {holdout:g}: give a share above 0 and below 1")
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
                "method": method,
                "holdout": holdout,
                "repeats": repeats,
                "folds": command.pair_option(folds, "--folds"),
                "tiles": command.pair_option(tiles, "--tiles"),
                "max_rows": max_rows,
                "max_time": max_time,
            }
            reading = {"crop": crop, "background": background, "recursive": recursive}
            reading |= {"fit": "letterbox" if letterbox else "stretch", "mask_transparent": mask_transparent}
            if method == "bicross" and (letterbox or mask_transparent):
                raise Stop(
                    "--method bicross does not go with masked pixels, which blocks cannot do without: give holdout"
                )
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
        space: Annotated[str | None, spaces] = None,
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
        force: Annotated[bool, replace] = False,
    ) -> None:
        """Find the pictures most similar to one or several, and the parts they have in common.

        Examples
        --------
            nmfcore search nmfcore-pictures 3 -n 9 --out similar.png

            nmfcore search nmfcore-pictures my-cat.jpg --dissimilar

            nmfcore search nmfcore-pictures a.jpg + b.jpg - c.jpg --label cat --min-score 0.8 --copy-to found

        Next: nmfcore serve MODEL searches by clicking.
        """
        from . import search as command
        from .common import Stop, errors_as_sentences

        with errors_as_sentences():
            if as_json and as_csv:
                raise Stop("--json and --csv exclude each other: give one of them")
            form = "json" if as_json else "csv" if as_csv else None
            scores = (min_score, max_score)
            command.search(folder, query, n, dissimilar, space, out, force, form, label, scores, offset, copy_to)

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
        from . import duplicates as command
        from .common import Stop, errors_as_sentences, size_option

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
    def update(
        folder: Annotated[str, model],
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
        from . import update as command
        from .common import errors_as_sentences

        with errors_as_sentences():
            command.update(folder, pictures, yes)

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
