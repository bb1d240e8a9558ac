"""``nmfcore report`` and ``nmfcore serve``: a page to keep, and a page to search on."""

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Stop, count, new_file, note, open_model, print_pairs, refusals, written

if TYPE_CHECKING:
    import numpy as np


def report(folder: str, labels: Path | None, space: str | None, out: Path | None, force: bool) -> None:
    """Run the command."""
    from rich.console import Console

    home = Path(folder).expanduser()
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


def serve(folder: str, host: str, port: int, space: str | None, browse: bool) -> None:
    """Run the command until Ctrl-C."""
    import importlib.util

    from rich.console import Console

    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise Stop(f"nmfcore serve needs {' and '.join(missing)}: pip install 'nmfcore[serve]'")
    import uvicorn

    from ..pages.serve import LOCAL, create_app

    notes = Console(stderr=True)
    listening = _listen(host, port)
    with contextlib.closing(listening):
        engine = open_model(folder, space)
        # Names that a page elsewhere could point at this machine are refused, unless the user opened it to others.
        hosts = {*LOCAL, host, f"[{host}]"} if _is_local(host) else None
        with refusals(), notes.status("getting ready"):
            app = create_app(engine, hosts=hosts)
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}/"
        if hosts is None:
            note(notes, "warning: everyone who reaches this machine can see the pictures; there is no password")
        note(notes, f"{count(len(engine), 'picture')} at {url}   (Ctrl-C stops)")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))
        if browse:
            _open_browser(server, url)
        with contextlib.suppress(KeyboardInterrupt):  # the way it is meant to end
            server.run(sockets=[listening])
    note(notes, "stopped")


def _is_local(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only for sockets that name their protocol; with it every answer to a
    # browser waits 40 ms for the acknowledgement of its headers.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Stop(
            f"port {port} of {host} cannot be opened ({error.strerror or error}): choose another --port"
        ) from error
    return listening


def _open_browser(server: Any, url: str) -> None:
    import threading
    import time
    import webbrowser

    def wait() -> None:
        while not (server.started or server.should_exit):
            time.sleep(0.05)
        if server.started:
            webbrowser.open(url)

    threading.Thread(target=wait, daemon=True).start()
