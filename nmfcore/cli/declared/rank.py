"""The options of ``nmfcore rank``."""

from pathlib import Path
from typing import Annotated, Any

from .shared import beta_loss_option, numbers_of_parts

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

    from ...solvers import SOLVERS
    from ..fit import default_solver

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
        from .. import rank as command
        from ..common import Stop, errors_as_sentences, size_option

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
                "beta_loss": beta_loss_option(beta_loss),
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
