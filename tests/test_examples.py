"""The examples run as their users run them: in a process of their own, on the digits, from any folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ALONE = sorted(path.stem for path in EXAMPLES.glob("*.py"))
WRITES = {
    "cat_search": {
        "parts", "reconstructions", "best-and-worst", "similar", "dissimilar", "clusters", "loss-against-k",
    },
    "mnist_patterns": {"loss-against-k"} | {  # in a folder named after the k that was found
        f"k/{name}"
        for name in (
            "samples", "components", "one-sample", "features-by-class", "class-means", "top-components",
            "rebuilt-classes", "reconstructions", "best-and-worst", "overlay", "convergence",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_example_runs_on_the_digits(name, tmp_path):
    arguments = ["--out", "out"] if name in WRITES else []
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "PYTHONWARNINGS": "error::RuntimeWarning"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    written = {str(path.relative_to(tmp_path / "out"))[: -len(".png")] for path in tmp_path.glob("out/**/*.png")}
    if name in WRITES:  # both choose their k, and say so
        k = int(re.search(r"^k = (\d+) of \[", done.stdout, re.MULTILINE)[1])
        assert 5 < k < 32
        written = {re.sub(f"^k{k}/", "k/", path) for path in written}
    assert written == WRITES.get(name, set())


@pytest.mark.parametrize("name", ALONE)
def test_example_is_short_and_says_how_it_is_run(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    assert f"python examples/{name}.py" in text
