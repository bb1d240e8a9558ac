"""The examples run as their users run them: in a process of their own, on the digits, from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ALONE = sorted(path.stem for path in EXAMPLES.glob("*.py"))
WRITES = {
    "cat_search": {
        "parts", "reconstructions", "best-and-worst", "similar", "dissimilar", "clusters", "error-against-k",
    },
    "mnist_patterns": {
        f"k{k}/{name}"
        for k in (5, 15)
        for name in (
            "samples", "components", "one-sample", "features-by-class", "class-means", "top-components",
            "rebuilt-classes", "reconstructions", "best-and-worst", "overlay", "convergence",
        )
    },
}  # fmt: skip
ARGUMENTS = {"cat_search": ["-k", "10"], "mnist_patterns": ["-k", "5", "15"]}


@pytest.mark.parametrize("name", ALONE)
def test_example_runs_on_the_digits(name, tmp_path):
    arguments = [*ARGUMENTS.get(name, []), *(["--out", "out"] if name in WRITES else [])]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "PYTHONWARNINGS": "error::RuntimeWarning"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    written = {str(path.relative_to(tmp_path / "out"))[: -len(".png")] for path in tmp_path.glob("out/**/*.png")}
    assert written == WRITES.get(name, set())


@pytest.mark.parametrize("name", ALONE)
def test_example_is_short_and_says_how_it_is_run(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    assert f"python examples/{name}.py" in text
