"""The search page: how long a click waits, at a running server."""

from __future__ import annotations

import http.client
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.harness import Context, Row, describe_case, summary

ABOUT = (
    "`nmfcore serve` of 15,747 pictures of 64×64 at k=50, asked over one connection by another process: seconds from "
    "request to the last byte of the answer. *A click*: the most similar and the most dissimilar pictures and the parts"
    " that they share. *An upload*: the same for a PNG. *A sheet*: a PNG of 128 pictures of the wall. The rows are "
    "pictures at several brightnesses where the data set has fewer. The target is for the median; the notes tell what "
    "95 % of the answers took at most."
)
ROWS, LIMIT = 15747, 0.05


def run(context: Context) -> Iterator[list[Row]]:
    problem = context.problem("cats", "uint8")
    k = 8 if context.smoke else 50
    task = context.task(problem, k, max_iter=20)
    rows = {case: describe_case(task, case, "s", "nmfcore") for case in ("a click", "an upload", "a sheet")}
    try:
        import PIL
        import starlette
        import uvicorn  # noqa: F401
    except ImportError as error:
        for row in rows.values():
            row.update(status="skipped", why=f"the extra 'serve' is not installed ({error.name})")
        yield list(rows.values())
        return
    del PIL, starlette
    X = pictures_of(problem.X, ROWS if context.real_size else problem.X.shape[0])
    side = int(X.shape[1] ** 0.5)
    asked = np.random.RandomState(0).permutation(len(X))[: 20 if context.smoke else 300]
    with tempfile.TemporaryDirectory() as folder:
        _save(X.reshape(-1, side, side), k, folder)
        with _server(folder) as ask:
            asks: dict[str, Callable[[int], tuple[str, bytes | None]]] = {
                "a click": lambda row: (f"/api/neighbours/{row}", None),
                "an upload": lambda row: ("/api/neighbours", _png(X[row].reshape(side, side))),
                "a sheet": lambda row: (f"/sheets/{row // 128}.png", None),
            }
            for case, request in asks.items():
                requests = [request(int(row)) for row in (asked if case == "a click" else asked[:100])]
                times = [ask(*each) for each in requests]
                rows[case].update(
                    status="ok", check={"ok": True, "why": ""}, **summary(times), limits=dict(context.limits.values),
                    note=f"95 % within {np.quantile(times, 0.95) * 1e3:.1f} ms",
                )  # fmt: skip
                if context.real_size:
                    rows[case]["target"] = {"value": LIMIT}
    yield list(rows.values())


def pictures_of(X: np.ndarray, rows: int) -> np.ndarray:
    """As many rows as wanted: the pictures, then the same ones darker."""
    times = -(-rows // len(X))
    return np.concatenate([(X * (1 - i / (times + 1))).astype(np.uint8) if i else X for i in range(times)])[:rows]


def _save(pictures: np.ndarray, k: int, folder: str) -> None:
    from nmfcore.search.engine import SearchEngine

    SearchEngine(k, max_iter=20, tol=0).fit(pictures).save(folder, overwrite=True)


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@contextmanager
def _server(folder: str) -> Iterator[Callable[[str, bytes | None], float]]:
    """Start `nmfcore serve`; give what asks it once and returns the seconds that took."""
    command = [sys.executable, "-m", "nmfcore", "serve", folder, "--port", "0"]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            said = []
            for line in process.stderr or ():
                said.append(line)
                if " at http://" in line:
                    break
            else:
                raise RuntimeError("the server did not start: " + "".join(said)[-500:])
            where = urlsplit(said[-1].split(" at ")[1].split()[0]).netloc
            deadline = time.monotonic() + 30
            while True:
                connection = http.client.HTTPConnection(where, timeout=30)
                with suppress(ConnectionError):
                    _ask(connection, "/api/model", None)
                    break
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the server at {where} does not answer")
                time.sleep(0.1)
            for _ in range(3):  # warm
                _ask(connection, "/api/neighbours/0", None)
            yield lambda address, body: _ask(connection, address, body)
        finally:
            process.terminate()


def _ask(connection: http.client.HTTPConnection, address: str, body: bytes | None) -> float:
    headers: dict[str, Any] = {"Origin": f"http://{connection.host}:{connection.port}"} if body else {}
    start = time.perf_counter()
    connection.request("POST" if body else "GET", address, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    took = time.perf_counter() - start
    if answer.status != 200:
        raise RuntimeError(f"{address}: {answer.status} {content[:200]!r}")
    return took
