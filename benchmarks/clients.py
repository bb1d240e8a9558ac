"""Runs libraries that call scikit-learn's NMF with that and with nmfcore in its place, and shows what differs.

By hand, on a machine that reaches PyPI; minutes and up to several GB each (turftopic brings torch)::

    python benchmarks/clients.py                   # all of them
    python benchmarks/clients.py librosa cnmf      # some
    python benchmarks/clients.py --table           # results/clients.md from the newest records

Each client gets a new virtual environment with its newest release that this Python can install, and this nmfcore. What
its program in `client_programs.py` computes is compared; a client that cannot be installed is a row that says so. Rows
are added to benchmarks/results/clients.jsonl, and clients.md shows the newest of each client.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import records  # noqa: E402
from benchmarks.client_programs import PROGRAMS, VERSIONS, WAYS  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
RECORDS, PAGE = RESULTS / "clients.jsonl", RESULTS / "clients.md"
INSTALLING, RUNNING = 2400, 1200  # seconds at most
BESIDE = {"cvanmf": ("statsmodels<0.15",)}  # what a client's newest release needs and does not ask pip for
NICE = ("nice", "-n", "10") if os.name == "posix" else ()
HEAD = ("client", "version", "what is called", "nmfcore is", "largest relative difference", "warnings", "scikit-learn",
        "nmfcore")  # fmt: skip
ABOUT = """# Clients

Made by `python benchmarks/clients.py`; do not edit. Libraries that call scikit-learn's NMF, each in a fresh virtual
environment: a short program (`benchmarks/client_programs.py`) runs with scikit-learn's NMF and with nmfcore. *in its
place*: the names of `sklearn.decomposition` and of its module `_nmf` are nmfcore's before the client is imported, and
what scikit-learn computes with raises. *given*: the client has scikit-learn's names, and is given an object of
nmfcore's. The difference is the largest of any number of any result, in units of the largest number of that result.
Seconds are those of the second call in a process, of the whole program; the machine was not quiet, so they only show
that neither is out of proportion. Codes of `transform` with `solver="mu"` differ because nmfcore stops row by row."""


def row_of(client: str, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a client: one for each call and way, or one that says why there are none."""
    head = {
        "client": client,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "commit": commit(),
        "python": platform.python_version(),
    }
    python = str(folder / "venv" / "bin" / "python")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=INSTALLING)
        quiet = ("--quiet", "--disable-pip-version-check")
        install = [*NICE, python, "-m", "pip", "install", *quiet, client, *BESIDE.get(client, ()), "-e", str(ROOT)]
        subprocess.run(install, check=True, capture_output=True, text=True, timeout=INSTALLING, cwd=folder)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return [{**head, "status": "not installed", "why": last_line(error)}]
    rows: list[dict[str, Any]] = []
    found: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = {}
    for way in WAYS:
        if way == "given" and not any(takes_object for _, takes_object in PROGRAMS[client].values()):
            continue
        try:
            found[way] = results_of(client, way, python, folder)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            rows.append({**head, "way": way, "status": "failed", "why": last_line(error)})
    if WAYS[0] not in found:
        return rows
    for way, (facts, arrays) in found.items():
        if way != WAYS[0]:
            rows += [compared(call, way, found[WAYS[0]], (facts, arrays), head) for call in facts["calls"]]
    return rows


def results_of(client: str, way: str, python: str, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Run the programs of a client in one way."""
    out = folder / f"{way.replace(' ', '-')}.npz"
    env = {"NUMBA_CACHE_DIR": str(folder / "numba"), **os.environ, "MPLBACKEND": "agg"}
    env.pop("PYTHONPATH", None)
    command = [*NICE, python, "-P", str(ROOT / "benchmarks" / "client_programs.py"), client, way, str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=RUNNING, cwd=folder, env=env)
    with np.load(out) as archive:
        names = archive["names"].tolist()
        return json.loads(str(archive["facts"])), {name: archive[f"a{i}"] for i, name in enumerate(names)}


def compared(
    call: str, way: str, theirs: tuple[dict[str, Any], dict[str, np.ndarray]],
    ours: tuple[dict[str, Any], dict[str, np.ndarray]], head: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Return the row of one call: how far the results are apart, which warnings only one of them gives, and seconds."""
    versions = ours[0]["versions"]
    row = {**head, "version": versions[head["client"]], "versions": versions, "call": call, "way": way}
    other, own = theirs[0]["calls"][call], ours[0]["calls"][call]
    for facts, whose in ((other, "scikit-learn"), (own, "nmfcore")):
        if "error" in facts:
            return {**row, "status": "failed", "why": f"with {whose}: {without_folders(facts['error'])}"}
    apart = {}
    for name in [name for name in theirs[1] if name.startswith(f"{call}/")]:
        apart[name.removeprefix(f"{call}/")] = difference(theirs[1][name], ours[1].get(name))
    of_theirs, of_ours = ({without_folders(text) for text in facts["warnings"]} for facts in (other, own))
    only = {"scikit-learn": sorted(of_theirs - of_ours), "nmfcore": sorted(of_ours - of_theirs)}
    seconds = {"scikit-learn": other["seconds"], "nmfcore": own["seconds"]}
    return {**row, "status": "ok", "difference": apart, "warnings": only, "seconds": seconds}


def difference(A: np.ndarray, B: np.ndarray | None) -> float:
    """Return the largest difference of two arrays in units of the largest number of the first; infinite if unlike."""
    if B is None or A.shape != B.shape or (np.isfinite(A) != np.isfinite(B)).any():
        return float("inf")
    known = np.isfinite(A)
    size = float(np.abs(A[known]).max(initial=0.0))
    most = float(np.abs(A[known] - B[known]).max(initial=0.0))
    return most / size if size else most


def last_line(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    """Say in one line why a command failed."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"not done after {error.timeout:.0f} s"
    lines = [line.strip() for line in str(error.stderr or "").splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line and not line.startswith(("note:", "hint:"))]
    return without_folders((telling or lines or [f"exit code {error.returncode}"])[-1])[:300]


def without_folders(text: str) -> str:
    """Return a message with the names of temporary folders left out, which differ from run to run."""
    return re.sub(re.escape(tempfile.gettempdir()) + r"/[^/\s'\")]+", "…", text)


def commit() -> str:
    """Return the commit of the working tree."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def newest(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the newest run of each client, in the order of `PROGRAMS`."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    last = {row["client"]: row["date"] for row in rows}
    return [row for client in PROGRAMS for row in rows if row["client"] == client and row["date"] == last[client]]


def page(rows: list[dict[str, Any]]) -> str:
    """Return the table of rows in Markdown, with what each environment held."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in rows]
    held = {}
    missing = [client for client in PROGRAMS if client not in {row["client"] for row in rows}]
    lines += [f"| {client} | | **not run yet** | | | | | |" for client in missing]
    for row in rows:
        versions = ", ".join(f"{name} {row['versions'][name]}" for name in VERSIONS) if "versions" in row else ""
        held[row["client"]] = (
            f"- {row['client']}: {row['date'][:10]}, commit {row['commit']}, Python {row['python']}"
            + (f", {versions}" if versions else "")
        )
    return "\n\n".join([ABOUT, "\n".join(lines), "\n".join(held.values())]) + "\n"


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row."""
    first = [row["client"], row.get("version", ""), row.get("call", ""), row.get("way", "")]
    if row["status"] != "ok":
        return [*first, f"**{row['status']}**: {row['why']}", "", "", ""]
    worst = max(
        row["difference"], key=lambda name: np.inf if row["difference"][name] is None else row["difference"][name]
    )
    apart = row["difference"][worst]
    said = [f"only {whose}: {'; '.join(texts)}" for whose, texts in row["warnings"].items() if texts]
    return [
        *first, "results do not match" if apart is None else f"{apart:.1e} ({worst})", " · ".join(said) or "the same",
        *(records.quantity(row["seconds"][whose], "s") for whose in ("scikit-learn", "nmfcore")),
    ]  # fmt: skip


def main() -> int:
    """Parse, install, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("client", nargs="*", help=f"of {', '.join(PROGRAMS)}; default all")
    parser.add_argument("--table", action="store_true", help="only write clients.md")
    chosen = parser.parse_args()
    unknown = set(chosen.client) - set(PROGRAMS)
    if unknown:
        parser.error(f"unknown client {', '.join(sorted(unknown))}: choose from {', '.join(PROGRAMS)}")
    for client in () if chosen.table else chosen.client or PROGRAMS:
        with tempfile.TemporaryDirectory(prefix=f"client-{client}-") as scratch:
            rows = row_of(client, Path(scratch))
        records.append(RECORDS, rows)
        for row in rows:
            print(" · ".join(cell for cell in cells(row) if cell), flush=True)
    PAGE.write_text(page(newest(RECORDS)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
