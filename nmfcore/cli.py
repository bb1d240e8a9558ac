"""The command line: parse, call the public API, print.

typer, rich, matplotlib and Pillow belong to the extra ``app``; they are imported when a command
needs them, and a missing one is named before anything is computed.
"""

import dataclasses
import errno
import importlib.util
import logging
import math
import os
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

# No "from __future__ import annotations" here: typer evaluates the annotations of its commands.
if TYPE_CHECKING:
    import numpy as np

    from .images import Pictures
    from .persistence import Model

__all__ = ["main"]

APP_MODULES = {"typer": "typer", "rich": "rich", "matplotlib": "matplotlib", "PIL": "Pillow"}
WRITTEN = ("model.npz", "components.png", "reconstructions.png", "convergence.png")
BAD_INPUT, INTERRUPTED = 2, 130
_SHOWN = 10  # pictures in reconstructions.png
_REFRESH = 0.1  # seconds between updates of the progress bar


class _Stop(Exception):
    """Ends the command: what to say on stderr, and the exit code."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str or None
        What follows the program's name; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        The exit code: 0 when all went well, 2 on bad input, 130 when interrupted.

    Examples
    --------
    >>> from nmfcore.cli import main
    >>> main(["fit", "no-such-folder"])
    2
    """
    missing = [name for module, name in APP_MODULES.items() if not importlib.util.find_spec(module)]
    if missing:
        sys.stderr.write(f"nmfcore: the command line needs {' and '.join(missing)}: pip install 'nmfcore[app]'\n")
        return BAD_INPUT
    try:
        _app()(args=None if arguments is None else list(arguments), prog_name="nmfcore")
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    return 0


def _app() -> Any:
    """Declare the commands; typer reads their signatures."""
    from typing import Annotated

    import typer
    from typer import Argument, Option

    from .solvers import SOLVERS

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
            from . import __version__

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

    @app.command()
    def fit(
        source: Annotated[
            str | None,
            Argument(
                metavar="SOURCE",
                help="A folder of pictures, an IDX file as MNIST comes in (.gz or not), a .csv "
                "table (Kaggle's MNIST form; a label column is kept apart), a .npy or a .npz file. "
                "Without it, scikit-learn's 1,797 handwritten digits.",
                show_default=False,
            ),
        ] = None,
        k: Annotated[int, Option("-k", "--components", min=1, help="Number of parts to learn.")] = 16,
        solver: Annotated[
            str | None,
            Option(
                help=f"Algorithm: {', '.join(SOLVERS)}.",
                show_default=f"{_default_solver(True)}; {_default_solver(False)} for other losses",
            ),
        ] = None,
        init: Annotated[
            str | None,
            Option(
                help="Start: random, nndsvd, nndsvda, nndsvdar, or auto (hals only).",
                show_default="what suits the solver",
            ),
        ] = None,
        beta_loss: Annotated[
            str,
            Option(help="frobenius, kullback-leibler, itakura-saito, or any number beta."),
        ] = "frobenius",
        extrapolate: Annotated[
            bool,
            Option("--extrapolate", help="Solver mu, beta from 1 to 2: step from points ahead, for fewer iterations."),
        ] = False,
        max_iter: Annotated[int, Option(min=1, help="Iterations at most.")] = 1000,
        tol: Annotated[float, Option(min=0, help="Stop when progress falls below this.")] = 1e-4,
        max_time: Annotated[
            float | None,
            Option(min=0, metavar="SECONDS", help="Stop after this time.", show_default="no limit"),
        ] = None,
        size: Annotated[
            str | None,
            Option(
                metavar="HxW",
                help="Resize the pictures of a folder to this height and width; for a matrix, the "
                "picture a row folds to.",
                show_default="the first picture's",
            ),
        ] = None,
        skip_broken: Annotated[bool, Option("--skip-broken", help="Leave out pictures that cannot be used.")] = False,
        seed: Annotated[int, Option(min=0, help="Seed of the random numbers.")] = 0,
        n_jobs: Annotated[int | None, Option(help="Threads; -1 for all.", show_default="as many as are free")] = None,
        device: Annotated[
            str | None,
            Option(help="Where to compute: cpu, cuda, cuda:1, or auto (a GPU if one works).", show_default="cpu"),
        ] = None,
        scheduler: Annotated[
            str | None,
            Option(metavar="ADDRESS", help="Compute on the Dask cluster of the scheduler at tcp://host:port."),
        ] = None,
        out: Annotated[
            Path | None,
            Option(
                metavar="DIR",
                help="Folder to write the results to.",
                show_default="nmfcore-<name of SOURCE>",
            ),
        ] = None,
        force: Annotated[bool, Option("--force", help="Replace earlier results in that folder.")] = False,
    ) -> None:
        """Learn the parts of pictures, and write what was learned to a folder.

        The folder then holds model.npz (read it with nmfcore.load), components.png (the parts),
        reconstructions.png (originals over reconstructions) and convergence.png (loss over time).

        Ctrl-C stops early and keeps the best result so far.
        """
        try:
            settings = {
                "solver": solver,
                "init": init,
                "beta_loss": _beta_loss(beta_loss),
                "extrapolate": extrapolate,
                "max_iter": max_iter,
                "tol": tol,
                "max_time": max_time,
                "random_state": seed,
                "n_jobs": n_jobs,
                "device": device,
            }
            code = _fit(source, k, settings, _size(size), skip_broken, out, force, scheduler)
        except _Stop as stop:
            typer.echo(f"nmfcore: {stop}", err=True)
            raise typer.Exit(stop.code) from None
        except KeyboardInterrupt:
            typer.echo("nmfcore: interrupted; nothing was written", err=True)
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(code)

    @app.command()
    def info() -> None:
        """Show versions, threads, vector width and GPU, and what is missing."""
        _info()

    return app


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) not in (1, 2) or not all(side.isdecimal() and int(side) for side in sides):
        raise _Stop(f"--size {text!r} is no size: give height and width in pixels, like 64x48")
    return int(sides[0]), int(sides[-1])


def _beta_loss(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


# --------------------------------------------------------------------------------------------------
# nmfcore fit


@dataclasses.dataclass(frozen=True)
class _Result:
    model: "Model"
    seconds: float
    norm: float  # ‖X‖_F
    code: int


def _fit(
    source: str | None,
    k: int,
    settings: dict[str, Any],
    size: tuple[int, int] | None,
    skip_broken: bool,
    out: Path | None,
    force: bool,
    scheduler: str | None = None,
) -> int:
    from rich.console import Console

    notes = Console(stderr=True)
    target = _target(source, out)
    _check_target(target, force)
    _check_device(settings["device"])
    try:
        pictures = _read(source, size, skip_broken, notes)
        _check_k(k, pictures)
        result = _factorise(pictures, k, settings, notes, scheduler)
        model = result.model
        with _all_or_nothing(target, force) as folder:
            _write(folder, model, pictures, result.norm)
    except MemoryError as error:
        raise _Stop("not enough memory: give a smaller --size, or fewer pictures") from error
    except OSError as error:
        raise _Stop(_about(error, target)) from error
    _print_table(result, pictures, target)
    return result.code


def _target(source: str | None, out: Path | None) -> Path:
    if out is not None:
        return out.expanduser()
    if source is None:
        return Path("nmfcore-digits")
    path = Path(source).expanduser()
    name = path.name or path.resolve().name or "pictures"
    while (suffix := Path(name).suffix) and suffix.lower() in {
        ".gz",
        ".csv",
        ".tsv",
        ".npy",
        ".npz",
    }:
        name = name.removesuffix(suffix)
    return Path(f"nmfcore-{name}")


def _check_target(target: Path, force: bool) -> None:
    """Refuse early what writing would refuse after minutes of work."""
    if os.path.lexists(target):
        if not target.is_dir():
            raise _Stop(f"'{target}' exists and is not a folder: choose another --out")
        if not force:
            raise _Stop(f"the folder '{target}' exists: choose another --out, or --force replaces it")
        foreign = sorted({entry.name for entry in target.iterdir()} - set(WRITTEN))
        if foreign:
            raise _Stop(
                f"'{target}' holds what nmfcore did not write ('{foreign[0]}'), and --force would "
                "delete it: choose another --out"
            )
    parent = Path(os.path.realpath(target)).parent
    if not parent.is_dir():
        raise _Stop(f"there is no folder '{parent}' to write to: create it, or choose another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise _Stop(f"the folder '{parent}' cannot be written to: choose another --out")


def _check_device(device: str | None) -> None:
    """Refuse a device that cannot be used before any picture is read."""
    from .backends.cuda import DeviceError, resolve

    try:
        resolve(device, None)
    except (DeviceError, ValueError) as error:
        raise _Stop(str(error)) from error


def _read(source: str | None, size: tuple[int, int] | None, skip_broken: bool, notes: Any) -> "Pictures":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from .images import InputError, read_source

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with ExitStack() as shown:
            bar = Progress(*columns, console=notes, transient=True)
            task = bar.add_task("reading pictures")

            def progress(done: int, total: int) -> None:
                if not notes.is_terminal:
                    return
                if not bar.live.is_started:  # sources that are read at once show no bar
                    shown.enter_context(bar)
                bar.update(task, completed=done, total=total)

            pictures = read_source(source, size, skip_broken, progress)
    except InputError as error:
        raise _Stop(str(error)) from error
    except OSError as error:
        raise _Stop(f"'{source}' cannot be read: {error.strerror or error}") from error
    if pictures.skipped:
        first = pictures.skipped[0]
        _note(notes, f"skipped {_count(len(pictures.skipped), 'picture')}: {first}"
                     + (", …" if len(pictures.skipped) > 1 else ""))  # fmt: skip
    return pictures


def _check_k(k: int, pictures: "Pictures") -> None:
    n, m = pictures.matrix.shape
    if k > min(n, m):
        raise _Stop(
            f"{k} components are more than the data allows: with {n:,} samples of {m:,} features "
            f"-k can be at most {min(n, m)}"
        )


def _factorise(
    pictures: "Pictures", k: int, settings: dict[str, Any], notes: Any, scheduler: str | None = None
) -> _Result:
    from .estimators import NMF
    from .images import model_of

    settings = _with_defaults(settings)
    frobenius = settings["beta_loss"] in ("frobenius", 2.0)
    X = pictures.matrix
    last: Any = None
    interrupted = False
    start = time.perf_counter()
    with _spread(X, scheduler) as X, _heard(notes), _progress_bar(notes, settings["max_iter"]) as show:
        norm = _norm(pictures.matrix)

        def callback(report: Any) -> None:
            nonlocal last
            last = report
            show(report, norm if frobenius else None)

        estimator = NMF(k, callback=callback, **settings)
        try:
            W = _here(estimator.fit_transform(X))
        except KeyboardInterrupt:
            if last is None:
                raise
            interrupted = True
            W = _settle(estimator, last) if scheduler is None else _here(estimator.transform(X))
        except (ValueError, TypeError) as error:
            raise _Stop(_why_refused(error, pictures)) from error
        if last is not None:
            show(last, norm if frobenius else None, final=True)
    seconds = time.perf_counter() - start

    model = model_of(estimator, W, pictures)
    if frobenius and norm > 0:
        relative = model.reconstruction_err / norm
        model = dataclasses.replace(model, relative_error=relative)
    return _Result(model, seconds, norm, INTERRUPTED if interrupted else 0)


@contextmanager
def _spread(X: Any, scheduler: str | None) -> Iterator[Any]:
    """Give X as it is, or on the cluster of a scheduler."""
    if scheduler is None:
        yield X
        return
    if not importlib.util.find_spec("distributed"):
        raise _Stop("--scheduler needs Dask: pip install 'nmfcore[dask]'")
    from .distributed import on_cluster

    try:
        with on_cluster(X, scheduler) as there:
            yield there
    except (ConnectionError, RuntimeError) as error:
        raise _Stop(str(error)) from error


def _here(W: Any) -> Any:
    """Return a factor that may be on a cluster as numpy's array."""
    return W.compute() if hasattr(W, "compute") else W


def _settle(estimator: Any, last: Any) -> "np.ndarray":
    """Leave an interrupted estimator as the last report saw it; return its W."""
    from .backends.cuda import to_host

    W, H = (to_host(factor) for factor in last.factors())
    if getattr(estimator, "n_iter_", None) != last.iteration:  # Ctrl-C came between two steps
        estimator.components_ = H
        estimator.n_iter_ = int(last.iteration)
        estimator.reconstruction_err_ = math.sqrt(2 * max(float(last.loss), 0.0))
        estimator.converged_ = False
    estimator.stop_reason_ = f"interrupted after {_count(int(last.iteration), 'iteration')}"
    return W


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    solver, init = settings["solver"], settings["init"]
    if not solver and settings["extrapolate"]:
        solver = "mu"  # the only one that does
    elif not solver:
        solver = _default_solver(settings["beta_loss"] in ("frobenius", 2.0))
    if not init:
        init = {"cd": "nndsvd", "hals": "auto", "mu": "nndsvda"}.get(solver)
    return {**settings, "solver": solver, "init": init}


def _default_solver(frobenius: bool) -> str:
    from .solvers import SOLVERS

    if not frobenius:
        return "mu"
    return "hals" if "hals" in SOLVERS else "cd"


def _norm(X: "np.ndarray") -> float:
    """‖X‖_F, a block of rows at a time."""
    import numpy as np

    rows = max(1, (1 << 20) // X.shape[1])
    total = 0.0
    for start in range(0, len(X), rows):
        block = X[start : start + rows].astype(np.float64).ravel()
        total += float(block @ block)
    return math.sqrt(total)


def _why_refused(error: Exception, pictures: "Pictures") -> str:
    """Say in one sentence why the estimator refused the data, and where the trouble is."""
    text = " ".join(str(error).split("\n")[0].split())
    kind: tuple[str, Callable[[np.ndarray], np.ndarray], str] | None = None
    if "contains NaN" in text:
        kind = ("NaN", lambda block: block != block, "fill in or drop missing values first")
    elif "infinity" in text:
        kind = ("infinity", lambda block: abs(block) == math.inf, "drop or clip such values first")
    elif "Negative values" in text:
        kind = ("a negative value", lambda block: block < 0, "NMF needs values of at least 0")
    if kind is None:
        return text
    what, test, advice = kind
    for row, values in enumerate(pictures.matrix):
        found = test(values).nonzero()[0]
        if len(found):
            return f"'{pictures.source}' holds {what} (row {row}, column {found[0]}): {advice}"
    return text


@contextmanager
def _progress_bar(notes: Any, max_iter: int) -> Iterator[Callable[..., None]]:
    """Show iteration, loss and rate while fitting."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=notes) as bar:
        task = bar.add_task("fitting", total=max_iter, loss="", rate="")
        shown, loss = 0.0, ""

        def show(report: Any, norm: float | None, final: bool = False) -> None:
            nonlocal shown, loss
            now = time.perf_counter()
            if math.isfinite(report.loss):
                loss = (
                    f"loss {report.loss:.5g}"
                    if not norm
                    else f"error {math.sqrt(2 * max(report.loss, 0.0)) / norm:.5f}"
                )
            if now - shown < _REFRESH and not final:
                return
            shown = now
            rate = f"{report.iteration / report.seconds:.3g}/s" if report.seconds > 0 else ""
            bar.update(task, completed=report.iteration, loss=loss, rate=rate)

        yield show


@contextmanager
def _heard(notes: Any) -> Iterator[None]:
    """Show warnings and the library's log as one short line each."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _note(notes, record.getMessage())

    logger, handler = logging.getLogger("nmfcore"), Handler(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    said = [item for item in caught if issubclass(item.category, UserWarning | RuntimeWarning)]
    for text in dict.fromkeys(" ".join(str(item.message).split()) for item in said):
        _note(notes, f"warning: {text}")


def _note(notes: Any, text: str) -> None:
    """Print one line on stderr above the progress bar, as it is: no markup, no wrapping."""
    notes.print(text, markup=False, highlight=False, soft_wrap=True)


# --------------------------------------------------------------------------------------------------
# results


@contextmanager
def _all_or_nothing(target: Path, force: bool) -> Iterator[Path]:
    """Give a new folder that becomes `target` when the block ends, and vanishes when it raises."""
    from .persistence import sync_folder

    real = Path(os.path.realpath(target))
    token = secrets.token_hex(6)
    staging = real.with_name(f".nmfcore-{token}.part")
    former = real.with_name(f".nmfcore-{token}.former")
    staging.mkdir()
    try:
        yield staging
        if force and real.is_dir():
            real.rename(former)
            try:
                staging.rename(real)
            except BaseException:
                former.rename(real)
                raise
            shutil.rmtree(former, ignore_errors=True)
        else:
            staging.rename(real)
        sync_folder(real.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _write(folder: Path, model: "Model", pictures: "Pictures", norm: float) -> None:
    from .persistence import replacing, save
    from .plots import components_grid, convergence, reconstructions

    save(model, folder / "model.npz")
    rows = _examples(pictures)
    relative = math.isfinite(model.relative_error)
    drawn = {
        "components.png": components_grid(model.components, model.shape),
        "reconstructions.png": reconstructions(
            pictures.matrix[rows],
            model.reconstruct(rows),
            model.shape,
            [pictures.title(row) for row in rows],
        ),
        "convergence.png": convergence(model.history, norm=norm if relative else None),
    }
    for name, axes in drawn.items():
        figure: Any = axes.figure
        with replacing(folder / name) as file:
            figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.1)


def _examples(pictures: "Pictures") -> list[int]:
    """Choose rows to show: one of each class where there are a few classes, else evenly spread."""
    import numpy as np

    n = len(pictures.matrix)
    if pictures.labels is not None:
        classes, first = np.unique(pictures.labels, return_index=True)
        if 1 < len(classes) <= _SHOWN:
            return [int(row) for row in first]
    return [int(row) for row in np.unique(np.linspace(0, n - 1, min(n, _SHOWN)).round())]


def _print_table(result: _Result, pictures: "Pictures", target: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    model = result.model
    n, m = pictures.matrix.shape
    folded = "" if pictures.shape is None else f" ({pictures.shape[0]}×{pictures.shape[1]} pictures)"
    if math.isfinite(model.relative_error):
        error = ("relative error", f"{model.relative_error:.6f}")
    else:
        divergence = model.reconstruction_err**2 / 2 / (n * m)
        error = ("divergence per entry", f"{divergence:.6g}")
    lines = [
        ("shape", f"{n:,} × {m:,} {pictures.matrix.dtype}{folded}"),
        ("k", f"{len(model.components)}"),
        error,
        ("iterations", f"{model.n_iter:,}"),
        ("seconds", f"{result.seconds:.2f}"),
        ("stopped", model.stop_reason),
        ("written to", f"{target}{os.sep}"),
    ]
    table = Table.grid(padding=(0, 3))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, Text(value))
    console = Console()
    if not console.is_terminal:  # a pipe or a file: do not break lines at 80 columns
        console = Console(width=max(80, 24 + max(len(value) for _, value in lines)))
    console.print(table)


def _about(error: OSError, target: Path) -> str:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return (
            f"the disk is full, so the results could not be written to '{target}' and nothing was "
            "kept: free some space, or choose another --out"
        )
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return f"the folder '{target}' appeared meanwhile: choose another --out"
    reason = error.strerror or str(error)
    return f"the results could not be written to '{target}' ({reason}): choose another --out"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


# --------------------------------------------------------------------------------------------------
# nmfcore info

EXTRAS = {
    "app": ("PIL", "matplotlib", "typer", "rich"),
    "gpu": ("cupy",),
    "disk": ("h5py", "zarr"),
    "dask": ("dask", "distributed"),
    "serve": ("starlette", "uvicorn", "jinja2"),
}


def _info() -> None:
    """Print a table of what there is, and of what is missing with how to get it."""
    import platform

    import numba
    import numpy
    import scipy
    import sklearn
    from rich.console import Console
    from rich.table import Table

    from . import __version__
    from .backends import cuda
    from .backends.cpu import kernels
    from .data import effective_threads

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("nmfcore", __version__),
        ("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("numpy", numpy.__version__),
        ("scipy", scipy.__version__),
        ("numba", numba.__version__),
        ("scikit-learn", sklearn.__version__),
        ("threads", str(effective_threads(None))),
        ("SIMD", f"{8 * kernels().VECTOR_BYTES} bits"),
        ("GPU", cuda.describe()),
    ):
        table.add_row(name, value)
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        needs = f"missing {', '.join(missing)}: pip install 'nmfcore[{extra}]'" if missing else "installed"
        table.add_row(f"extra {extra}", needs)
    Console(highlight=False, markup=False).print(table)
