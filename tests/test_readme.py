"""The README's commands, one after the other, as a reader would give them in a folder with pictures and tables."""

import gzip
import re
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

pytest.importorskip("typer", reason="the extra 'app' is not installed")

from nmfcore import cli
from nmfcore.backends import cuda

README = Path(__file__).parents[1] / "README.md"
LINES = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("nmfcore ")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make what the commands name: a folder of pictures, a table, an IDX file, arrays."""
    from PIL import Image

    root = tmp_path_factory.mktemp("reader")
    X, labels = load_digits().data.astype(np.uint8) * 15, load_digits().target
    (root / "pictures").mkdir()
    for number in range(60):
        Image.fromarray(X[number].reshape(8, 8)).save(root / "pictures" / f"{number}.png")
    table = np.column_stack([labels, X])
    header = ",".join(["label", *(f"pixel{i}" for i in range(64))])
    np.savetxt(root / "train.csv", table, "%d", ",", header=header, comments="")
    with gzip.open(root / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, len(X), 8, 8) + X.tobytes())
    with gzip.open(root / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4BI", 0, 0, 8, 1, len(X)) + labels.astype(np.uint8).tobytes())
    np.save(root / "pixels.npy", X)
    return root


def test_there_are_commands():
    assert len(LINES) > 8 and {line.split()[1] for line in LINES} >= {"fit", "search", "report", "serve", "info"}


@pytest.mark.in_order
@pytest.mark.parametrize("line", LINES)  # in their order: later ones use what earlier ones wrote
def test_command(line, folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = shlex.split(line, comments=True)[1:]
    if "cuda" in line and cuda.probe() is not None:
        pytest.skip(f"needs a GPU: {cuda.probe()}")
    if "--scheduler" in words:
        pytest.skip("tests/test_distributed.py starts a scheduler")
    if words[0] == "serve":
        pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
        pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
        import uvicorn

        served = []
        monkeypatch.setattr(uvicorn.Server, "run", lambda self, *args, **kwargs: served.append(self))
    assert cli.main([*words, "--force"] if words[0] == "fit" else words) == 0
    if words[0] == "serve":
        assert served
