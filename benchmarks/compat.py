"""Runs the test suite with every minor version of scikit-learn that nmfcore supports.

By hand, on a machine with the Pythons below (on PATH or under ~/.pyenv/versions)::

    python benchmarks/compat.py                  # all of them; a few minutes each
    python benchmarks/compat.py 1.6 1.9          # some
    python benchmarks/compat.py 1.6 --dry-run    # make the environment, run no test

Each version gets a new virtual environment with the newest release of that minor version and, as
a user of its day had, a numpy, scipy and pandas that it was released against. The table is printed
and written to benchmarks/results/compat.json; a run of some versions replaces their rows only.
"""

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "compat.json"

# minor version: Python, and what pip must not take newer than the day's
ERAS = {
    "1.6": ("3.11", ["numpy<2.3", "scipy<1.16", "pandas<3"]),
    "1.7": ("3.12", ["numpy<2.4", "scipy<1.17", "pandas<3"]),
    # load_digits of 1.8 sets a shape, which NumPy 2.5 deprecates
    "1.8": ("3.13", ["numpy<2.5", "pandas<3"]),
    "1.9": ("3.13", []),
}
SHOWN = ["scikit-learn", "numpy", "scipy", "numba", "threadpoolctl", "pandas"]


def find_python(version):
    """Return the path of a Python of this minor version that starts, or raise RuntimeError."""
    places = [shutil.which(f"python{version}")]
    places += sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    probe = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    for place in filter(None, places):
        # A pyenv shim may be on PATH and refuse to start, so ask.
        done = subprocess.run([place, "-c", probe], capture_output=True, text=True)
        if done.stdout.strip() == version:
            return str(place)
    raise RuntimeError(f"no Python {version} on PATH or in ~/.pyenv/versions")


def make_environment(folder, minor):
    """Make a virtual environment with nmfcore and this scikit-learn; return its Python."""
    version, era = ERAS[minor]
    subprocess.run([find_python(version), "-m", "venv", folder], check=True)
    python = str(Path(folder) / "bin" / "python")
    subprocess.run(
        [
            *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *(f"scikit-learn=={minor}.*", *era, "-e", f"{ROOT}[test]"),
        ],
        check=True,
    )
    return python


def versions_in(python):
    """Return {name: version} of what matters in the environment of this Python."""
    listing = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    installed = {row["name"].lower(): row["version"] for row in json.loads(listing.stdout)}
    return {name: installed[name] for name in SHOWN}


def run_suite(python, cache, arguments):
    """Run pytest; return its counts and, if it failed, the lines that name the failures."""
    # Not numba's default cache: that one lies in the checkout, which all environments share.
    env = {**os.environ, "NUMBA_CACHE_DIR": cache, "CI": "true"}
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines() or [""]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", lines[-1])}
    kept = ("passed", "failed", "error", "errors", "skipped", "xfailed")
    row = {"ok": done.returncode == 0, **{word: counts[word] for word in kept if word in counts}}
    if done.returncode:
        named = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        row["failures"] = named or (lines + done.stderr.splitlines())[-20:]
    return row


def row_of(minor, arguments, dry_run):
    """Return one row of the table: what was installed and how the suite went."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f"compat-{minor}-") as scratch:
        try:
            python = make_environment(f"{scratch}/venv", minor)
            row = {"python": ERAS[minor][0], "versions": versions_in(python)}
            row |= {"ok": None} if dry_run else run_suite(python, f"{scratch}/numba", arguments)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            row = {"ok": False, "failures": [str(error)]}
    return {**row, "seconds": round(time.perf_counter() - started), "date": time.strftime("%Y-%m-%d")}


def line_of(minor, row):
    """Return one line of the printed table."""
    verdict = {True: "ok", False: "FAILED", None: "made"}[row["ok"]]
    versions = " ".join(f"{name} {version}" for name, version in row.get("versions", {}).items())
    counts = ", ".join(f"{row[w]} {w}" for w in ("passed", "failed", "skipped") if w in row)
    return f"{minor:4} {verdict:6} {row['seconds']:4d} s  {counts:32} {versions}"


def main():
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minor", nargs="*", help=f"of scikit-learn: {', '.join(ERAS)}; default all")
    parser.add_argument("--dry-run", action="store_true", help="make environments, run no test")
    parser.add_argument("--pytest", default="", help="as --pytest='-m \"not slow\"'")
    chosen = parser.parse_args()
    unknown = set(chosen.minor) - set(ERAS)
    if unknown:
        parser.error(f"unknown version {', '.join(sorted(unknown))}: choose from {', '.join(ERAS)}")

    rows = {}
    for minor in chosen.minor or ERAS:
        rows[minor] = row_of(minor, shlex.split(chosen.pytest), chosen.dry_run)
        print(line_of(minor, rows[minor]), flush=True)
        for failure in rows[minor].get("failures", []):
            print(f"       {failure}")
    if not chosen.dry_run:
        before = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
        machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
        table = {"date": time.strftime("%Y-%m-%d"), "machine": machine}
        RESULTS.parent.mkdir(exist_ok=True)
        table["rows"] = {minor: (before | rows)[minor] for minor in ERAS if minor in before | rows}
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    return int(any(row["ok"] is False for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
