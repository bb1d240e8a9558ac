"""``nmfcore report`` and ``nmfcore serve``: a page to keep, and a page to search on."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import expanded
from .common import Stop, count, new_file, note, open_model, print_pairs, refusals, written

if TYPE_CHECKING:
    from typing import Protocol

    import numpy as np

    class Started(Protocol):
        """What `_open_browser` needs of a server."""

        started: bool
        should_exit: bool


def report(folder: str, labels: Path | None, space: str | None, out: Path | None, force: bool) -> None:
    """Run the command."""
    from rich.console import Console

    home = expanded(folder)
    target = new_file(out, (home if home.is_dir() else home.parent) / "report.html", force)
    engine = open_model(folder, space)
    given = None if labels is None else _labels(labels, len(engine))
    with refusals():
        from ..pages.report import report as make

        with Console(stderr=True).status("drawing"):
            page = make(engine, labels=given)
    with written(target, force or out is None) as file:
        file.write(page.encode("utf-8"))
    print_pairs(
        [("report", f"{len(page.encode()) / 1e6:.1f} MB, one self-contained page"), ("written to", str(target))]
    )


def _labels(path: Path, n: int) -> "np.ndarray":
    """Read a label per row: a text file with one per line, a .npy file, or an IDX file as MNIST's."""
    import numpy as np

    from ..images import InputError
    from ..images.idx import _idx_array, _idx_header

    kinds = "a text file with one label per line, a .npy or an IDX file"
    if not path.is_file():
        raise Stop(f"there is no file '{path}': give --labels {kinds}")
    try:
        if path.suffix.lower() == ".npy":
            labels = np.load(path, allow_pickle=False)
        elif _idx_header(path) is not None:
            labels = _idx_array(path)
        else:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            labels = np.array([line.strip().strip('"') for line in lines])
    except InputError as error:
        raise Stop(str(error)) from error
    except (OSError, ValueError) as error:
        raise Stop(f"'{path}' cannot be read as labels: give --labels {kinds}") from error
    if labels.shape == (n + 1,) and labels.dtype.kind == "U" and labels[0].lower() in ("label", "labels", "class"):
        labels = labels[1:]
    if labels.shape != (n,) or labels.dtype.kind not in "biuU":
        held = count(len(labels), "label") if labels.ndim == 1 else f"an array of shape {labels.shape}"
        raise Stop(f"'{path}' holds {held}, the model has {count(n, 'row')}: give one whole number or word per row")
    return labels


def serve(folder: str, host: str, port: int, space: str | None, browse: bool, allow: Sequence[str] = ()) -> None:
    """Run the command until Ctrl-C."""
    import importlib.util

    from rich.console import Console

    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise Stop(f"nmfcore serve needs {' and '.join(missing)}: pip install 'nmfcore[serve]'")
    from ..pages.serve import LOCAL, create_app
    from . import server as web

    notes = Console(stderr=True)
    listening = web.listen(host, port)
    with contextlib.closing(listening):
        engine = open_model(folder, space)
        alone = web.is_loopback(listening)
        # A page elsewhere could let a name of its own point at this machine, and read the pictures by it.
        hosts = {*LOCAL, host, f"[{host}]", *allow, *(() if alone else web.own_names())}
        with refusals(), notes.status("getting ready"):
            app = create_app(engine, hosts=None if "*" in allow else hosts, addresses=not alone)
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}/"
        if not alone:
            note(notes, "warning: everyone who reaches this machine can see the pictures; there is no password")
        note(notes, f"{count(len(engine), 'picture')} at {url}   (Ctrl-C stops)")
        running = web.server(app, lambda text: note(notes, text))
        if browse:
            _open_browser(running, url)
        with contextlib.suppress(KeyboardInterrupt):  # the way it is meant to end
            running.run(sockets=[listening])
    note(notes, "stopped")


def _open_browser(server: "Started", url: str) -> None:
    import threading
    import time
    import webbrowser

    def wait() -> None:
        while not (server.started or server.should_exit):
            time.sleep(0.05)
        if server.started:
            webbrowser.open(url)

    threading.Thread(target=wait, daemon=True).start()
