"""``nmfcore fit``: learn the parts of pictures, and write what was learned to a folder."""

import dataclasses
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cluster import check_scheduler, here, spread
from .common import INTERRUPTED, Stop, about_writing, count, heard, print_pairs, read_pictures
from .stores import SUFFIXES, read_store

if TYPE_CHECKING:
    import numpy as np

    from ..images import Pictures
    from ..models import Model

WRITTEN = (
    *("model.npz", "pictures.npy", "components.png", "reconstructions.png", "convergence.png"),
    *("search.json", "report.html"),  # what SearchEngine.save and nmfcore report add
)
_SHOWN = 10  # pictures in reconstructions.png
_PARTS = 16  # to learn where nothing is said
_REFRESH = 0.1  # seconds between updates of the progress bar
_KEPT = 1 << 30  # bytes up to which the originals are kept beside the model without being asked


@dataclasses.dataclass(frozen=True)
class _Result:
    model: "Model"
    seconds: float
    norm: float  # ‖X‖_F
    code: int


def fit(
    source: str | None,
    k: int | None,
    settings: dict[str, Any],
    size: tuple[int, int] | None,
    skip_broken: bool,
    out: Path | None,
    force: bool,
    rgb: bool = False,
    keep: bool | None = None,
    scheduler: str | None = None,
    how: dict[str, Any] | None = None,
) -> int:
    """Run the command; return its exit code."""
    import numpy as np
    from rich.console import Console

    from ..rows.disk import ReadError

    notes = Console(stderr=True)
    check_scheduler(scheduler, **{name: settings[name] for name in ("device", "memory")})
    target = _target(source, out)
    _check_target(target, force)
    _check_device(settings["device"])
    try:
        pictures = read_store(source, size, settings["memory"], skip_broken, notes, rgb, how)
        pictures = pictures or read_pictures(source, size, skip_broken, notes, rgb, how)
        k = _checked_k(k, pictures)
        if scheduler is not None and not isinstance(pictures.matrix, np.ndarray):
            raise Stop(
                f"'{source}' is fitted where it lies, --scheduler sends rows: give a .npy, or a dask array to NMF"
            )
        result = _factorise(pictures, k, settings, notes, scheduler)
        model = result.model
        with _all_or_nothing(target, force) as folder:
            _write(folder, model, pictures, result.norm, keep)
    except MemoryError as error:
        raise Stop("not enough memory: give a smaller --size, or fewer pictures") from error
    except ReadError as error:
        raise Stop(str(error)) from error
    except OSError as error:
        raise Stop(about_writing(error, target)) from error
    _print_table(result, pictures, target)
    return result.code


def _target(source: str | None, out: Path | None) -> Path:
    if out is not None:
        return out.expanduser()
    if source is None:
        return Path("nmfcore-digits")
    path = Path(os.path.expanduser(source.partition("::")[0]))  # which leaves the homes of unknown users alone
    name = path.name or path.resolve().name or "pictures"
    while (suffix := Path(name).suffix) and suffix.lower() in {".gz", ".csv", ".tsv", ".npy", ".npz", *SUFFIXES}:
        name = name.removesuffix(suffix)
    return Path(f"nmfcore-{name}")


def _check_target(target: Path, force: bool) -> None:
    """Refuse early what writing would refuse after minutes of work."""
    if os.path.lexists(target):
        if not target.is_dir():
            raise Stop(f"'{target}' exists and is not a folder: choose another --out")
        if not force:
            raise Stop(f"the folder '{target}' exists: choose another --out, or --force replaces it")
        foreign = sorted({entry.name for entry in target.iterdir()} - set(WRITTEN))
        if foreign:
            raise Stop(
                f"'{target}' holds what nmfcore did not write ('{foreign[0]}'), and --force would "
                "delete it: choose another --out"
            )
    parent = Path(os.path.realpath(target)).parent
    if not parent.is_dir():
        raise Stop(f"there is no folder '{parent}' to write to: create it, or choose another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise Stop(f"the folder '{parent}' cannot be written to: choose another --out")


def _check_device(device: str | None) -> None:
    """Refuse a device that cannot be used before any picture is read."""
    from ..backends.cuda import DeviceError, resolve

    try:
        resolve(device, None)
    except (DeviceError, ValueError) as error:
        raise Stop(str(error)) from error


def _checked_k(k: int | None, pictures: "Pictures") -> int:
    """Return the number of parts: by default 16, or half of what the data allows."""
    n, m = pictures.matrix.shape
    if k is None:
        return max(1, min(_PARTS, min(n, m) // 2))
    if k > min(n, m):
        raise Stop(
            f"{k} components are more than the data allows: with {n:,} samples of {m:,} features "
            f"-k can be at most {min(n, m)}"
        )
    return k


def _factorise(
    pictures: "Pictures", k: int, settings: dict[str, Any], notes: Any, scheduler: str | None = None
) -> _Result:
    from ..estimators import NMF
    from ..models import model_of
    from ..search.engine import frobenius_norm

    settings = _with_defaults(settings)
    frobenius = settings["beta_loss"] in ("frobenius", 2.0)
    last: Any = None
    interrupted = False
    start = time.perf_counter()
    with spread(pictures, scheduler) as X, heard(notes), progress_bar(notes, settings["max_iter"]) as show:
        norm = frobenius_norm(pictures.matrix)

        def callback(report: Any) -> None:
            nonlocal last
            last = report
            show(report, norm if frobenius else None)

        estimator = NMF(k, callback=callback, **settings)
        try:
            W = here(estimator.fit_transform(X))
        except KeyboardInterrupt:
            if last is None:
                raise
            interrupted = True
            W = _settle(estimator, last) if scheduler is None else here(estimator.transform(X))
        except (ValueError, TypeError, RuntimeError, FileNotFoundError, PermissionError) as error:
            raise Stop(_why_refused(error, pictures)) from error
        if last is not None:
            show(last, norm if frobenius else None, final=True)
    seconds = time.perf_counter() - start

    model = model_of(estimator, W, pictures)
    if frobenius and norm > 0:
        relative = model.reconstruction_err / norm
        model = dataclasses.replace(model, relative_error=relative)
    return _Result(model, seconds, norm, INTERRUPTED if interrupted else 0)


def _settle(estimator: Any, last: Any) -> "np.ndarray":
    """Leave an interrupted estimator as the last report saw it; return its W."""
    from ..backends.cuda import to_host

    W, H = (to_host(factor) for factor in last.factors())
    if getattr(estimator, "n_iter_", None) != last.iteration:  # Ctrl-C came between two steps
        estimator.components_ = H
        estimator.n_iter_ = int(last.iteration)
        estimator.reconstruction_err_ = math.sqrt(2 * max(float(last.loss), 0.0))
        estimator.converged_ = False
    estimator.stop_reason_ = f"interrupted after {count(int(last.iteration), 'iteration')}"
    return W


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    solver, init = settings["solver"], settings["init"]
    if not solver and settings["extrapolate"]:
        solver = "mu"  # the only one that does
    elif not solver:
        solver = default_solver(settings["beta_loss"] in ("frobenius", 2.0))
    if not init:
        init = {"cd": "nndsvd", "hals": "auto", "mu": "nndsvda"}.get(solver)
    return {**settings, "solver": solver, "init": init}


def default_solver(frobenius: bool) -> str:
    """Name the solver that suits a loss."""
    return "hals" if frobenius else "mu"


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
    if not hasattr(pictures.matrix, "__array__"):  # on disk: the row has been named, and is not looked for again
        return f"'{pictures.source}': {text}"
    what, test, advice = kind
    for row, values in enumerate(pictures.matrix):
        found = test(values).nonzero()[0]
        if len(found):
            return f"'{pictures.source}' holds {what} (row {row}, column {found[0]}): {advice}"
    return text


@contextmanager
def progress_bar(notes: Any, max_iter: int) -> Iterator[Callable[..., None]]:
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


# --------------------------------------------------------------------------------------------------
# results


@contextmanager
def _all_or_nothing(target: Path, force: bool) -> Iterator[Path]:
    """Give a new folder that becomes `target` when the block ends, and vanishes when it raises."""
    from .._files import sync_folder

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


def _write(folder: Path, model: "Model", pictures: "Pictures", norm: float, keep: bool | None) -> None:
    from .._files import replacing
    from ..models import save
    from ..plots import components_grid, convergence, reconstructions
    from ..search.engine import write_rows

    save(model, folder / "model.npz")
    if keep or (keep is None and pictures.matrix.nbytes <= _KEPT):
        write_rows([pictures.matrix], folder / "pictures.npy")
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
    model = result.model
    n, m = pictures.matrix.shape
    folded = "" if pictures.shape is None else f" ({pictures.shape[0]}×{pictures.shape[1]} pictures)"
    if pictures.shape is not None and len(pictures.shape) == 3:
        folded = f" ({pictures.shape[0]}×{pictures.shape[1]} colour pictures)"
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
    print_pairs(lines)
