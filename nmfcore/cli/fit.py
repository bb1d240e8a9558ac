"""``nmfcore fit``: learn the parts of pictures, and write what was learned to a folder."""

import dataclasses
import importlib.util
import math
import os
import shlex
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import expanded, shortened
from .._text import masked_text
from .cluster import as_numpy, check_scheduler, spread
from .common import (
    INCOMPLETE,
    INTERRUPTED,
    Stop,
    about_writing,
    count,
    note,
    one_line,
    print_pairs,
    read_pictures,
    refusals,
    warnings_as_notes,
)
from .console import interrupts_held
from .drawing import Drawing, pencil
from .stores import SUFFIXES, read_store

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from .._typing import Matrix, Settings
    from ..estimators import NMF
    from ..images import Pictures
    from ..loop.session import Progress
    from ..models import Model
    from ..ranks import RankSelection

_DRAWN = ("components.png", "reconstructions.png", "convergence.png")
WRITTEN = (
    *("model.npz", "pictures.npy", *_DRAWN),
    "mask.npy",  # which pixels of the pictures are masked, where some are
    *("search.json", "report.html"),  # what SearchEngine.save and nmfcore report add
)
_COMPONENTS = 16  # unless the data are few
_SHOWN = 10  # pictures in reconstructions.png
_NAMED = 3  # parts named in the table
_KEPT = 1 << 30  # bytes up to which the originals are kept beside the model without being asked
_MINUTE = 60.0  # seconds of a fit above which is said what it will take
_LONG = 1e12  # multiplications and additions, below which no machine takes so long
_ALIKE = ("nndsvd", "nndsvda")  # starts that draw nothing
_PASSES = {"hals": 60}  # that a fit takes, roughly; with other solvers 200


@dataclasses.dataclass(frozen=True)
class _Result:
    model: "Model"
    seconds: float
    norm: float  # ‖X‖_F
    code: int
    shares: "np.ndarray | None" = None  # of ‖X‖², by part


def fit(
    source: str | None,
    k: int | str | None,
    settings: "Settings",
    size: tuple[int, int] | None,
    skip_broken: bool,
    out: Path | None,
    force: bool,
    rgb: bool = False,
    keep: bool | None = None,
    scheduler: str | None = None,
    how: "Settings | None" = None,
    begin: str | None = None,
) -> int:
    """Run the command; return its exit code."""
    import numpy as np
    from rich.console import Console

    from ..rows.disk import ReadError
    from ..search.manifest import looked_at, noted

    notes = Console(stderr=True)
    start = None
    if begin is not None:
        from .again import beginning

        start = beginning(begin, source, k, settings, size, scheduler, how or {})
        source, k, size, how, rgb = start.source, start.k, start.size, start.how, start.rgb or rgb
    check_scheduler(scheduler, **{name: settings[name] for name in ("device", "memory")})
    check_masking(how or {}, settings, scheduler)
    target = _target(source, out)
    _check_target(target, force)
    _check_source(source)
    _check_device(settings["device"])
    _check_runs(settings)
    try:
        folder = how or {}
        records = looked_at(source, bool(folder.get("recursive")), folder.get("exclude") or ())
        pictures = read_store(source, size, settings["memory"], skip_broken, notes, rgb, how)
        pictures = pictures or read_pictures(source, size, skip_broken, notes, rgb, how)
        if scheduler is not None and not isinstance(pictures.matrix, np.ndarray):
            raise Stop(
                f"'{source}' is fitted where it lies, --scheduler sends rows: give a .npy, or a dask array to NMF"
            )
        files = noted(pictures, records)
        guessed = k is None
        k, selection = _number_of_components(k, pictures, settings, notes)
        H = None if start is None else start.parts(pictures)
        result = _factorise(pictures, k, settings, notes, scheduler, selection, H)
        result = dataclasses.replace(result, model=dataclasses.replace(result.model, files=files))
    except MemoryError as error:
        raise Stop(_about_memory(source)) from error
    except ReadError as error:
        raise Stop(str(error)) from error
    with interrupts_held() as pressed:
        target = _save_model(result.model, target, force, notes)
    missing = _add_the_rest(target, result, pictures, keep, KeyboardInterrupt() if pressed.is_set() else None)
    try:
        _print_table(result, pictures, target)
    except Exception as error:
        missing["the table of results"] = one_line(str(error)) or type(error).__name__
    if any(isinstance(reason, KeyboardInterrupt) for reason in missing.values()):
        raise Stop(f"interrupted; '{target}{os.sep}' holds the model and lacks {' and '.join(missing)}", INTERRUPTED)
    if missing:
        name, reason = next(iter(missing.items()))
        raise Stop(
            f"the model is in '{target}{os.sep}', which lacks {' and '.join(missing)}: "
            f"{name} could not be made ({reason})",
            result.code or INCOMPLETE,
        )
    if notes.is_terminal and not result.code:
        _note_next(notes, target, source or "", k if guessed else None)
    return result.code


def _note_next(notes: "Console", target: Path, source: str, guess: int | None) -> None:
    """Say what can be done with a model, and how k can be chosen if it was a guess."""
    folder = shlex.quote(str(target))
    note(notes, f"next: nmfcore report {folder}, or nmfcore search {folder} 0, or nmfcore serve {folder}")
    if guess is not None and importlib.util.find_spec("nmfcore.cli.rank") is not None:
        command = shlex.join(["nmfcore", "rank", *([source] if source else [])])
        note(notes, f"k = {guess} was a guess: {command} finds out which k suits the data")


def _target(source: str | None, out: Path | None) -> Path:
    if out is not None:
        return expanded(out)
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
    if not os.path.lexists(target):  # a name that is too long, a full or odd file system
        try:
            target.mkdir()
            target.rmdir()
        except OSError as error:
            reason = error.strerror or str(error)
            raise Stop(f"the folder '{shortened(target)}' cannot be made ({reason}): choose another --out") from error


def _check_device(device: str | None) -> None:
    """Refuse a device that cannot be used before any picture is read."""
    from ..backends.cuda import DeviceError, resolve

    try:
        resolve(device, None)
    except (DeviceError, ValueError) as error:
        raise Stop(str(error)) from error


def _check_runs(settings: "Settings") -> None:
    """Refuse several runs that would be alike, or could not be kept, before any picture is read."""
    runs, init, checkpoint = (settings[name] for name in ("n_init", "init", "checkpoint"))
    if runs > 1 and init in _ALIKE:
        raise Stop(
            f"--init {init} begins every one of the {runs} runs of --n-init alike: give random, nndsvdar or auto, or "
            "leave it out"
        )
    if runs > 1 and checkpoint is not None:
        raise Stop(f"--checkpoint keeps a single run, and --n-init {runs} makes several: leave one of them out")


def check_masking(how: "Settings", settings: "Settings", scheduler: str | None = None) -> None:
    """Refuse what cannot be done with masked pixels before any picture is read.

    Parameters
    ----------
    how : dict
        How pictures are read: "fit", "mask_transparent" and "crop" are looked at.
    settings : dict
        Of the fit: "device" and "extrapolate" are looked at.
    scheduler : str or None
        The cluster to compute on. None, the default, is this machine.

    Raises
    ------
    Stop
        When options do not go together.
    """
    from ..images.folders import check_fit

    with refusals():
        check_fit(how.get("fit", "stretch"), how.get("crop", False))
    masking = "--letterbox" if how.get("fit") == "letterbox" else "--mask-transparent"
    if masking == "--mask-transparent" and not how.get("mask_transparent"):
        return
    refused = {
        f"--device {settings['device']}": settings["device"] not in (None, "cpu", "auto"),
        "--scheduler": scheduler is not None,
        "--extrapolate": settings["extrapolate"],
    }
    for option, given in refused.items():
        if given:
            raise Stop(f"{option} does not go with {masking}, which leaves pixels out of the fit: give one of them")


def _check_source(source: str | None) -> None:
    """Refuse the results of a fit where pictures are expected: they are pictures of components."""
    from ..search.folders import MODEL

    if source is not None and (Path(os.path.expanduser(source)) / MODEL).is_file():
        raise Stop(f"'{source}' holds what nmfcore fit wrote: give the folder of pictures that it was fitted on")


def _about_memory(source: str | None) -> str:
    """Say what to do where the memory does not suffice."""
    path = Path(os.path.expanduser((source or "").partition("::")[0]))
    if path.suffix.lower() in (*SUFFIXES, ".npy"):
        return "not enough memory: give a smaller --memory, such as 256MB, or fewer components (-k)"
    if path.is_dir():
        return "not enough memory: give a smaller --size, or --memory 1GB to keep the pictures in a file"
    return "not enough memory: save the matrix as a .npy file and fit that with --memory 1GB, or give fewer rows"


def _number_of_components(
    k: int | str | None, pictures: "Pictures", settings: "Settings", notes: "Console"
) -> tuple[int, "RankSelection | None"]:
    """Return k if the data allow it; without one, as many as suit the data; for "auto", what is found, and how."""
    n, m = pictures.matrix.shape
    if k is None:
        return min(_COMPONENTS, max(1, min(n, m) // 2)), None
    if isinstance(k, str):
        from .rank import chosen

        limit, begun = settings["max_time"], time.perf_counter()
        found = chosen(pictures, _with_defaults(settings | {"n_init": 1}), notes, None if limit is None else limit / 2)
        if limit is not None:  # the fit gets what is left
            settings["max_time"] = max(limit / 2, limit - (time.perf_counter() - begun))
        return found.best, found
    if k > min(n, m):
        raise Stop(
            f"{k} components are more than the data allows: with {n:,} samples of {m:,} features "
            f"-k can be at most {min(n, m)}"
        )
    return k, None


def _factorise(
    pictures: "Pictures", k: int, settings: "Settings", notes: "Console", scheduler: str | None = None,
    selection: "RankSelection | None" = None, H: "np.ndarray | None" = None,
) -> _Result:  # fmt: skip
    from ..estimators import NMF
    from ..models import model_of
    from ..search.blocks import frobenius_norm

    settings = _with_defaults(settings)
    frobenius = settings["beta_loss"] in ("frobenius", 2.0)
    if scheduler is None:
        _say_how_long(pictures, k, settings, notes)
    last: Progress | None = None
    interrupted = False
    start = time.perf_counter()
    with spread(pictures, scheduler) as X, warnings_as_notes(notes), progress_bar(notes, settings["max_iter"]) as show:
        norm = frobenius_norm(pictures.matrix, pictures.mask)
        if norm == 0:
            note(notes, "warning: every value is 0 (all pictures are black): there is nothing to learn from them")

        def callback(report: "Progress") -> None:
            nonlocal last
            if last is None or report.run == last.run or report.loss < last.loss:  # of several runs the best
                last = report
            show(report, norm if frobenius else None)

        estimator = NMF(k, callback=callback, **settings)
        try:
            start_H = {} if H is None else {"H": H}
            W = as_numpy(estimator.fit_transform(X, mask=pictures.mask, **start_H))
        except KeyboardInterrupt:
            if last is None:
                raise
            if estimator.n_init > 1 and not hasattr(estimator, "components_"):
                raise
            interrupted = True
            note(notes, "interrupted: the best factors so far are being written")
            if scheduler is not None:
                W = as_numpy(estimator.transform(X))
            elif estimator.n_init > 1:
                W = _rows_of_best(estimator, last, X)
            else:
                W = _settle(estimator, last)
        except (ValueError, TypeError, RuntimeError, FileNotFoundError, PermissionError) as error:
            raise Stop(_why_refused(error, pictures)) from error
        except OSError as error:
            raise Stop(_about_reading(error, pictures, settings)) from error
        if last is not None:
            end = last if estimator.n_init == 1 else _end_of(estimator)
            show(end, norm if frobenius else None, final=not interrupted, n_iter=int(estimator.n_iter_))
    seconds = time.perf_counter() - start

    if selection is not None:
        estimator.rank_selection_ = selection  # type: ignore[attr-defined]
    model = model_of(estimator, W, pictures)
    if frobenius and norm > 0:
        relative = model.reconstruction_err / norm
        model = dataclasses.replace(model, relative_error=relative)
    model, shares, stopped = _by_share(model, pictures, notes)
    return _Result(model, seconds, norm, INTERRUPTED if interrupted or stopped else 0, shares)


def _rows_of_best(estimator: "NMF", last: "Progress", X: "Matrix") -> "np.ndarray":
    """Return W of the run that an interrupted estimator has kept: that of its last report, if this is of that run."""
    import numpy as np

    from ..backends.cuda import to_host

    W, H = (to_host(factor) for factor in last.factors())
    return W if np.array_equal(H, estimator.components_) else as_numpy(estimator.transform(X))


def _end_of(estimator: "NMF") -> Any:
    """Return iteration, loss and seconds of the end of the run that was kept, as a report tells them."""
    seconds, loss = (float(estimator.history_[name][-1]) for name in ("seconds", "loss"))
    return types.SimpleNamespace(iteration=int(estimator.n_iter_), loss=loss, seconds=seconds)


def _by_share(model: "Model", pictures: "Pictures", notes: "Console") -> tuple["Model", "np.ndarray | None", bool]:
    """Return a model with its parts in the order of how much they explain, these shares, and whether Ctrl-C came."""
    import numpy as np

    from ..analysis import explained_share

    stopped, reason = False, ""
    try:
        shares = explained_share(pictures.matrix, model.W, model.components, mask=pictures.mask)
        order = np.argsort(-shares, kind="stable")
        return model.in_order(order), shares[order], False
    except KeyboardInterrupt:
        stopped, reason = True, "interrupted"
    except Exception as error:  # the model is not lost because its parts could not be sorted
        reason = one_line(str(error)) or type(error).__name__
    note(notes, f"warning: the parts are not sorted by their shares ({reason})")
    return model, None, stopped


def _say_how_long(pictures: "Pictures", k: int, settings: "Settings", notes: "Console") -> None:
    """Say what a fit of more than a minute will take, before it begins."""
    import numpy as np

    X = pictures.matrix
    passes = min(_PASSES.get(settings["solver"], 200), settings["max_iter"]) * settings["n_init"]
    if settings["device"] not in (None, "cpu") or 4.0 * k * math.prod(X.shape) * passes < _LONG:
        return
    from ..forecast import estimate
    from .rank import duration

    given = {name: settings[name] for name in ("solver", "beta_loss", "init", "n_jobs", "memory")}
    on_disk = isinstance(X, np.memmap) or not isinstance(X, np.ndarray)
    try:
        found = estimate(X.shape, k, X.dtype, on_disk=on_disk, **given)
    except (ValueError, MemoryError):  # the fit itself says what is wrong
        return
    if passes * found.seconds > _MINUTE:
        whole = f"{passes} passes of {found.seconds:.2g} s take about {duration(passes * found.seconds)}"
        note(notes, f"{whole}, and {found.bytes / 1e9:.2g} GB of memory; Ctrl-C keeps the best so far")


def _settle(estimator: "NMF", last: "Progress") -> "np.ndarray":
    """Leave an interrupted estimator as the last report saw it; return its W."""
    from ..backends.cuda import to_host

    W, H = (to_host(factor) for factor in last.factors())
    if getattr(estimator, "n_iter_", None) != last.iteration:  # Ctrl-C came between two steps
        estimator.components_ = H
        estimator.n_iter_ = int(last.iteration)
        history = getattr(estimator, "history_", {})
        estimator.history_ = {name: values[: estimator.n_iter_] for name, values in history.items()}
        estimator.kkt_residual_ = float(last.kkt)
        estimator.reconstruction_err_ = math.sqrt(2 * max(float(last.loss), 0.0))  # type: ignore[assignment]
        estimator.converged_ = False
    estimator.stop_reason_ = f"interrupted after {count(int(last.iteration), 'iteration')}"
    return W


def _with_defaults(settings: "Settings") -> "Settings":
    solver, init = settings["solver"], settings["init"]
    frobenius = settings["beta_loss"] in ("frobenius", 2.0)
    if not solver and settings["extrapolate"]:
        solver = "mu"  # the only one that does
    elif not solver:
        solver = default_solver(frobenius)
    if not init and settings.get("n_init", 1) > 1:
        init = "auto" if solver == "hals" and frobenius else "random"
    elif not init:
        init = {"cd": "nndsvd", "hals": "auto" if frobenius else "nndsvda", "mu": "nndsvda"}.get(solver)
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


def _about_reading(error: OSError, pictures: "Pictures", settings: "Settings") -> str:
    """Say which file failed during a fit."""
    reason = error.strerror or one_line(str(error))
    checkpoint = settings["checkpoint"]
    if checkpoint is not None and Path(str(error.filename or "")).name.startswith(Path(checkpoint).name):
        return f"the checkpoint '{checkpoint}' could not be written ({reason}): choose another --checkpoint"
    return f"'{error.filename or pictures.source}' could not be read or written during the fit ({reason})"


@contextmanager
def progress_bar(notes: "Console", max_iter: int) -> Iterator[Callable[..., None]]:
    """Show iteration, loss and rate while fitting."""
    from ..estimators.progress_bar import fitting_bar

    with fitting_bar(notes, max_iter) as show:
        yield show


# --------------------------------------------------------------------------------------------------
# results


def _save_model(model: "Model", target: Path, force: bool, notes: "Console") -> Path:
    """Put the model on the disk before anything else is tried; return the folder that it is in."""
    from ..search.folders import MODEL, replaced_folder

    def write(folder: Path) -> None:
        with replaced_folder(folder, WRITTEN) as new:
            _save_what_can_be_saved(model, new / MODEL, notes)

    try:
        if not (force or not os.path.lexists(target)):  # it appeared during the fit
            free = _free_name(target)
            note(notes, f"'{target}' appeared during the fit: the results are written to '{free}'")
            target = free
        write(target)
        return target
    except (OSError, MemoryError) as error:
        reason: OSError | MemoryError = error
    kept = None
    try:
        kept = Path(tempfile.mkdtemp(prefix="nmfcore-")) / target.name
        write(kept)
    except (OSError, MemoryError):
        if kept is not None:
            kept.parent.rmdir()
        raise Stop(about_writing(reason, target, "nothing was kept")) from reason
    raise Stop(about_writing(reason, target, f"the model alone was saved in '{kept}'"), INCOMPLETE) from reason


def _save_what_can_be_saved(model: "Model", path: Path, notes: "Console") -> None:
    """Save a model; without its names, labels and parameters if these are what cannot be written."""
    from ..models import save

    try:
        save(model, path)
    except (TypeError, ValueError) as error:
        save(dataclasses.replace(model, names=None, labels=None, parameters={}, source=""), path)
        note(notes, f"warning: the model lacks names, labels and parameters, which could not be saved ({error})")


def _free_name(target: Path) -> Path:
    number = 2
    while os.path.lexists(free := target.with_name(f"{target.name}-{number}")):
        number += 1
    return free


def _add_the_rest(
    folder: Path,
    result: _Result,
    pictures: "Pictures",
    keep: bool | None,
    interrupt: KeyboardInterrupt | None,
) -> dict[str, str | KeyboardInterrupt]:
    """Add originals and plots to the folder of the model; return what could not be made, and why."""
    from ..search.blocks import write_rows
    from ..search.masks import write_mask

    missing: dict[str, str | KeyboardInterrupt] = {}

    def drawn(name: str) -> Callable[[Path], None]:
        return lambda path: _draw(path, name, result, pictures)

    if interrupt is None:
        try:
            pencil().hand_over({name: _drawing(name, result, pictures) for name in _DRAWN})
        except KeyboardInterrupt as error:
            interrupt = error
        except Exception:  # the step that makes the picture says what is wrong
            pencil().end()
    steps: dict[str, Callable[[Path], None]] = {}
    if keep or (keep is None and pictures.matrix.nbytes <= _KEPT):
        mask = pictures.mask
        if mask is not None:
            steps["mask.npy"] = lambda path: write_mask(mask, path)
        steps["pictures.npy"] = lambda path: write_rows([pictures.matrix], path)
    steps |= {name: drawn(name) for name in _DRAWN}
    for name, step in steps.items():
        try:
            if interrupt is not None:
                raise interrupt
            step(folder / name)
        except KeyboardInterrupt as error:
            interrupt = missing[name] = error
        except Exception as error:
            missing[name] = one_line(getattr(error, "strerror", None) or str(error)) or type(error).__name__
    return missing


def _draw(path: Path, name: str, result: _Result, pictures: "Pictures") -> None:
    from .._files import replacing

    picture = pencil().png(name, lambda: _drawing(name, result, pictures))
    with replacing(path) as file:
        file.write(picture)


def _drawing(name: str, result: _Result, pictures: "Pictures") -> Drawing:
    """Return what a picture is drawn from."""
    from ..analysis import held_by_evidence

    model = result.model
    if name == "components.png":
        parts = model.components
        if pictures.mask is not None:
            parts = held_by_evidence(parts, model.W, pictures.mask)
        return Drawing("components_grid", (parts, model.shape), {"shares": result.shares})
    if name == "reconstructions.png":
        rows = _examples(pictures)
        titles = [pictures.title(row) for row in rows]
        mask = None if pictures.mask is None else pictures.mask[rows]
        drawn = (pictures.matrix[rows], model.reconstruct(rows), model.shape, titles)
        return Drawing("reconstructions", drawn, {"mask": mask})
    relative = math.isfinite(model.relative_error)
    options = {"norm": result.norm if relative else None, "n_iter": model.n_iter}
    return Drawing("convergence", (model.history,), options)


def _examples(pictures: "Pictures") -> list[int]:
    """Choose rows to show: one of each class where there are a few classes, else evenly spread."""
    import numpy as np

    n = len(pictures.matrix)
    if pictures.labels is not None:
        classes, first = np.unique(pictures.labels, return_index=True)
        if 1 < len(classes) <= _SHOWN:
            return [int(row) for row in first]
    return [int(row) for row in np.unique(np.linspace(0, n - 1, min(n, _SHOWN)).round())]


def _about_parts(shares: "np.ndarray | None") -> list[tuple[str, str]]:
    """Name the largest parts, and those that explain next to nothing."""
    from .._text import FAINT, part_name

    if shares is None:
        return []
    lines = [("largest", ", ".join(part_name(number, shares[number]) for number in range(min(_NAMED, len(shares)))))]
    faint = [number for number, share in enumerate(shares) if share < FAINT]
    if faint:
        some = ", ".join(part_name(number) for number in faint[:_NAMED])
        lines.append((f"below {100 * FAINT:g} %", some if len(faint) <= _NAMED else f"{some}, … ({len(faint)} parts)"))
    return lines


def _about_runs(model: "Model") -> list[tuple[str, str]]:
    """Say how well the runs of a fit agree on its parts, and name those that they do not find again."""
    from .._text import UNSTABLE, part_name

    stability, losses = model.component_stability, model.init_losses
    if stability is None or losses is None:
        return []
    made = int((losses == losses).sum())
    lines = [("runs", f"{made}, of which the best is kept")]
    if made > 1:
        few = [f"{part_name(number)} ({value:.2f})" for number, value in enumerate(stability) if value < UNSTABLE]
        some = ", ".join(few[:_NAMED]) + (f", … ({len(few)} parts)" if len(few) > _NAMED else "")
        few_said = f"; below {UNSTABLE:g}: {some}" if few else f", {stability.min():.2f} at least"
        lines.append(("stability", f"{stability.mean():.2f} on the average{few_said}"))
    return lines


def _print_table(result: _Result, pictures: "Pictures", target: Path) -> None:
    model = result.model
    n, m = pictures.matrix.shape
    folded = "" if pictures.shape is None else f" ({pictures.shape[0]}×{pictures.shape[1]} pictures)"
    if pictures.shape is not None and len(pictures.shape) == 3:
        folded = f" ({pictures.shape[0]}×{pictures.shape[1]} colour pictures)"
    if math.isfinite(model.relative_error):
        error = ("relative error", f"{model.relative_error:.6f}")
    else:
        divergence = model.reconstruction_err**2 / 2 / (n * m - model.masked)
        error = ("divergence per entry", f"{divergence:.6g}")
    lines = [
        ("shape", f"{n:,} × {m:,} {pictures.matrix.dtype}{folded}"),
        *([("masked", masked_text(model.masked, n * m, model.shape))] if model.masked else []),
        ("k", f"{len(model.components)}"),
        *_about_parts(result.shares),
        *_about_runs(model),
        error,
        ("iterations", f"{model.n_iter:,}"),
        ("seconds", f"{result.seconds:.2f}"),
        ("stopped", model.stop_reason),
        ("written to", f"{target}{os.sep}"),
    ]
    print_pairs(lines)
