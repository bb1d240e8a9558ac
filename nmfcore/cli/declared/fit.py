"""The options of ``nmfcore fit``."""

from pathlib import Path
from typing import Annotated, Any

from .shared import beta_loss_option, number_of_parts

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
        from .. import fit as command
        from ..common import errors_as_sentences, size_option

        with errors_as_sentences():
            settings = {
                "solver": solver,
                "init": init,
                "beta_loss": beta_loss_option(beta_loss),
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
