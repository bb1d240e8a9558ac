"""A second process draws the pictures of a fit; whatever becomes of it, they are drawn."""

import os
import subprocess
import sys

import numpy as np
import pytest

from nmfcore import cli
from nmfcore.cli import drawing
from nmfcore.cli.drawing import Drawing, Pencil

CURVE = Drawing("convergence", ({"loss": [3.0, 2.0, 1.9], "seconds": [0.1, 0.2, 0.3]},), {"n_iter": 3})
PARTS = Drawing("components_grid", (np.eye(4), (2, 2)), {"shares": np.array([0.4, 0.3, 0.2, 0.1])})
ECHO = "import sys, pickle; told = pickle.loads(sys.stdin.buffer.read()); sys.stdout.buffer.write(pickle.dumps({}))"


@pytest.fixture
def second(monkeypatch):
    """Begin a pencil whose second process runs some code; it is begun even where this one has drawn before."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(drawing, "_LOADED", ())
    pencils = []

    def made(code=drawing._CODE):
        monkeypatch.setattr(drawing, "_CODE", code)
        pencils.append(Pencil(drawing._begun()))
        assert pencils[-1]._process is not None
        return pencils[-1]

    yield made
    for pencil in pencils:
        pencil.end()


def here():
    raise AssertionError("this process draws")


def test_the_second_process_draws_the_same_pictures_and_leaves_out_what_cannot_be_drawn(second):
    pencil, wrong = second(), Drawing("components_grid", (np.eye(4), (3, 3)), {})
    pencil.hand_over({"curve.png": CURVE, "parts.png": PARTS, "wrong.png": wrong})
    assert pencil.png("curve.png", here) == CURVE.png()
    assert pencil.png("parts.png", here) == PARTS.png()
    with pytest.raises(ValueError, match="shape"):
        pencil.png("wrong.png", lambda: wrong)


@pytest.mark.parametrize(
    "code",
    ["raise SystemExit(3)", "print('no picture')", ECHO, "import time; time.sleep(600)"],
    ids=["fails", "talks nonsense", "makes none", "hangs"],
)
def test_where_it_does_not_do_well_this_process_draws(second, monkeypatch, code):
    monkeypatch.setattr(drawing, "LONGEST", 0.05 if "sleep" in code else 60)
    pencil = second(code)
    process = pencil._process
    pencil.hand_over({"curve.png": CURVE})
    picture = pencil.png("curve.png", lambda: CURVE)
    assert picture.startswith(b"\x89PNG")
    pencil.end()
    assert process.poll() is not None, "it has ended"


def test_what_cannot_be_told_is_drawn_here(second):
    pencil = second("import time; time.sleep(600)")
    pencil.hand_over({"curve.png": CURVE._replace(options={"n_iter": lambda: 3})})
    assert pencil._process is None and pencil.png("curve.png", lambda: CURVE).startswith(b"\x89PNG")


def test_it_is_not_begun_where_it_is_of_no_use(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("begun"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    with drawing.beside(wanted=False):
        pass
    monkeypatch.setitem(sys.modules, "matplotlib", sys)
    with drawing.beside(wanted=True):
        assert drawing.pencil().png("curve.png", lambda: Drawn) == b"drawn here"
    monkeypatch.setattr(drawing, "_LOADED", ())
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with drawing.beside(wanted=True):
        pass


class Drawn:
    @staticmethod
    def png():
        return b"drawn here"


@pytest.mark.parametrize(
    ("options", "wanted"), [(["fit"], True), (["fit", "-h"], False), (["info"], False), (["rank", "x"], False)]
)
def test_the_command_line_begins_it_for_a_fit(monkeypatch, options, wanted):
    begun = []
    monkeypatch.setattr(drawing, "_begun", lambda: begun.append(True))
    monkeypatch.setattr(cli, "_run", lambda arguments: 0)
    monkeypatch.setattr(cli, "_compiled_ahead", lambda arguments: drawing.beside(False))
    assert cli.main(options) == 0
    assert begun == [True] * wanted


def test_the_pictures_of_a_fit_are_those_that_the_second_process_made(tmp_path):
    code = (
        "import os, sys; os.sched_getaffinity = lambda process: {0, 1}; os.cpu_count = lambda: 2\n"
        "from nmfcore.cli import main\n"
        "assert main(['fit', '-k', '2', '--max-iter', '2', '--out', sys.argv[1]]) == 0\n"
        "assert 'matplotlib' not in sys.modules, 'this process has drawn'\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "fit")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("components.png", "reconstructions.png", "convergence.png"):
        assert (tmp_path / "fit" / name).read_bytes().startswith(b"\x89PNG")
