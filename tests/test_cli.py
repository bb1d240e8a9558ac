"""The main job end to end: one command, four files, a table; bad input gets one sentence."""

import csv
import errno
import importlib.machinery
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import nmfcore
import nmfcore.images
from nmfcore import cli
from nmfcore.analysis import explained_share
from nmfcore.solvers import SOLVERS

for module in cli.APP_MODULES:
    pytest.importorskip(module, reason="the command line needs the extra 'app'")
from PIL import Image  # noqa: E402

FILES = {"model.npz", "pictures.npy", "components.png", "reconstructions.png", "convergence.png"}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run(capsys):
    """Run the command line here; give the exit code, stdout, and the lines of stderr."""

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, [line.rstrip() for line in err.splitlines() if line.strip()]

    return run


def listing(folder="."):
    return sorted(os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)


def table(out):
    """Read the printed table as {name: value}."""
    return dict(re.split(" {3,}", line.strip(), maxsplit=1) for line in out.splitlines())


def pictures(folder, sizes):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(sizes, 1):
        pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


# --------------------------------------------------------------------------------------------------
# the main job


def test_the_main_job_on_the_digits(run):
    code, out, notes = run("fit")
    assert code == 0
    assert os.listdir(".") == ["nmfcore-digits"]
    assert set(os.listdir("nmfcore-digits")) == FILES
    for name in sorted(name for name in FILES if name.endswith(".png")):
        with Image.open(f"nmfcore-digits/{name}") as image:
            image.load()
            assert min(image.size) > 150
    model = nmfcore.load("nmfcore-digits/model.npz")
    assert model.W.shape == (1797, 16)
    assert model.components.shape == (16, 64)
    assert model.shape == (8, 8)
    assert model.labels[:5].tolist() == [0, 1, 2, 3, 4]
    assert model.parameters["n_components"] == 16

    X = nmfcore.images.read_source().matrix.astype(float)
    error = np.linalg.norm(X - model.W @ model.components) / np.linalg.norm(X)
    assert model.relative_error == pytest.approx(error, rel=1e-5)
    assert error < 0.30  # the best of rank 16 without signs is 0.251, the mean picture 0.60
    shown = table(out)
    assert shown["shape"] == "1,797 × 64 uint8 (8×8 pictures)"
    assert shown["k"] == "16"
    assert shown["relative error"] == f"{model.relative_error:.6f}"
    assert shown["iterations"] == f"{model.n_iter:,}"
    assert float(shown["seconds"]) > 0
    assert shown["stopped"] == model.stop_reason != ""
    assert shown["written to"] == "nmfcore-digits/"
    assert any(line.startswith("fitting") and "error 0." in line for line in notes)


def test_parts_are_written_in_the_order_of_their_shares(run):
    code, out, _ = run("fit", "-k", 10)
    assert code == 0
    model = nmfcore.load("nmfcore-digits")
    shares = explained_share(nmfcore.images.read_source().matrix, model.W, model.components)
    assert (np.diff(shares) <= 0).all()
    named = ", ".join(f"part {number} ({100 * shares[number]:.1f} %)" for number in range(3))
    assert table(out)["largest"] == named
    assert "below 0.1 %" not in out


def test_parts_below_a_thousandth_are_named(run):
    X = np.zeros((60, 9))
    X[:30, 0], X[30:, 1], X[0, 2] = 1000, 900, 1
    np.save("X.npy", X)
    code, out, _ = run("fit", "X.npy", "-k", 3, "--solver", "cd", "--max-iter", 500)
    assert code == 0
    assert table(out)["below 0.1 %"] == "part 2"


def test_a_fit_whose_parts_cannot_be_sorted_is_kept(run, monkeypatch):
    def fail(*arguments, **keywords):
        raise MemoryError("no room")

    monkeypatch.setattr("nmfcore.analysis.explained_share", fail)
    code, out, notes = run("fit", "-k", 4)
    assert code == 0
    assert "largest" not in table(out)
    assert any("not sorted by their shares (no room)" in line for line in notes)
    assert nmfcore.load("nmfcore-digits").components.shape == (4, 64)


def test_the_next_step_is_said_on_a_terminal(run, monkeypatch):
    if importlib.util.find_spec("nmfcore.cli.rank") is None:  # as if there were the command
        module = types.ModuleType("nmfcore.cli.rank")
        module.__spec__ = importlib.machinery.ModuleSpec("nmfcore.cli.rank", None)
        monkeypatch.setitem(sys.modules, "nmfcore.cli.rank", module)
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, _, notes = run("fit", "--max-iter", 20, "--out", "a b")
    text = " ".join(" ".join(notes).split())
    assert "next: nmfcore report 'a b'" in text
    assert "k = 16 was a guess: nmfcore rank finds out" in text
    _, _, notes = run("fit", "-k", 3, "--max-iter", 20, "--out", "c")
    assert "was a guess" not in " ".join(notes)


@pytest.mark.parametrize("solver", ["cd", "hals"])  # which would begin with an NNDSVD, and with samples
def test_several_runs_are_those_of_the_estimator_and_say_how_stable_parts_are(run, solver):
    X = nmfcore.images.read_source().matrix
    code, out, _ = run("fit", "-k", 6, "--n-init", 3, "--seed", 4, "--solver", solver, "--max-iter", 60)
    assert code == 0
    expected = nmfcore.NMF(6, solver=solver, n_init=3, random_state=4, max_iter=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        W = expected.fit_transform(X)
    order = np.argsort(-explained_share(X, W, expected.components_), kind="stable")
    model = nmfcore.load("nmfcore-digits")
    np.testing.assert_array_equal(model.components, expected.components_[order])
    np.testing.assert_array_equal(model.component_stability, expected.component_stability_[order])
    np.testing.assert_array_equal(model.init_losses, expected.init_losses_)
    printed = table(out)
    assert printed["runs"].startswith("3, ")
    mean, few = re.fullmatch(r"([\d.]+) on the average(.*)", printed["stability"]).groups()
    assert mean == f"{model.component_stability.mean():.2f}"
    named = re.findall(r"part (\d+) \(", few)
    assert [int(number) for number in named] == np.flatnonzero(model.component_stability < 0.8)[:3].tolist()
    run("report", "nmfcore-digits")
    page = Path("nmfcore-digits/report.html").read_text()
    assert all(f"</b> · {value:.2f}<" in page for value in model.component_stability)


def test_one_run_says_nothing_of_stability(run):
    code, out, _ = run("fit", "-k", 3, "--max-iter", 20)
    assert code == 0 and not {"runs", "stability"} & set(table(out))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-init", 3, "--init", "nndsvd"], "--init nndsvd .* give random, nndsvdar or auto"),
        (["--n-init", 2, "--init", "nndsvda"], "--init nndsvda "),
        (["--n-init", 2, "--checkpoint", "x.ckpt"], "--checkpoint keeps a single run"),
        (["--n-init", 0], "'--n-init'"),
    ],
)
def test_runs_that_would_be_alike_are_refused_before_anything_is_read(run, monkeypatch, options, message):
    monkeypatch.setattr(nmfcore.images, "read_source", None)
    code, out, notes = run("fit", *options)
    assert (code, out) == (2, "") and len(notes) == 1 and re.search(message, notes[0])
    assert os.listdir() == []


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_every_solver(run, solver):
    code, out, _ = run("fit", "-k", 4, "--solver", solver, "--max-iter", 30, "--out", "x")
    assert code == 0
    assert nmfcore.load("x").parameters["solver"] == solver
    assert float(table(out)["relative error"]) < 0.5


def test_extrapolated_mu(run):
    code, _, _ = run("fit", "-k", 4, "--extrapolate", "--beta-loss", 1, "--max-iter", 30, "--out", "x")
    assert code == 0
    parameters = nmfcore.load("x").parameters
    assert (parameters["solver"], parameters["extrapolate"]) == ("mu", True)
    code, _, errors = run("fit", "-k", 4, "--extrapolate", "--solver", "cd", "--out", "y")
    assert code == 2
    assert "only solver='mu'" in " ".join(" ".join(errors).split())


def test_table_bar_and_plot_count_the_same_iterations(run, monkeypatch):
    asked = ("fit", "-k", 16, "--solver", "hals", "--init", "nndsvd", "--tol", 0)
    assert run(*asked, "--max-iter", 300, "--out", "long")[0] == 0
    history = nmfcore.load("long").history
    last = int(np.flatnonzero(~history["accepted"])[-1]) + 1  # a fit that ends with a rejected iteration
    drawn, convergence = [], nmfcore.plots.convergence

    def spy(*arguments, **options):
        drawn.append(convergence(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr("nmfcore.plots.convergence", spy)
    code, out, notes = run(*asked, "--max-iter", last)
    assert code == 0
    model, shown = nmfcore.load("nmfcore-digits"), table(out)
    assert not model.history["accepted"][-1]
    np.testing.assert_array_equal(model.history["loss"], history["loss"][:last])
    assert shown["iterations"] == f"{last}" and model.n_iter == last == len(model.history["loss"])
    (axes,) = drawn
    (top,) = (other for other in axes.figure.axes if other is not axes)
    assert str(last) in [label.get_text() for label in top.get_xticklabels()]
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(model.relative_error, rel=1e-4)
    assert any(line.startswith("fitting") and f" {last} " in line for line in notes), notes
    assert 0 < model.history["seconds"][-1] <= float(shown["seconds"]) + 0.01


def test_a_folder_of_pictures(run, tmp_path):
    pictures(tmp_path / "cats", [(12, 9)] * 8 + [(24, 18)])
    code, out, _ = run("fit", "cats", "-k", 3, "--max-iter", 20, "--tol", 0)
    assert code == 0
    assert table(out)["shape"] == "9 × 108 uint8 (12×9 pictures)"
    model = nmfcore.load("nmfcore-cats")
    assert model.names == tuple(f"{number}.png" for number in range(1, 10))
    assert model.n_iter == 20
    code, out, _ = run("fit", "cats/", "-k", 3, "--size", "6x6", "--force")
    assert code == 0
    assert nmfcore.load("nmfcore-cats").shape == (6, 6)


def test_a_table_with_labels(run):
    rng = np.random.default_rng(0)
    rows = "".join(f"{i % 3}," + ",".join(map(str, rng.integers(0, 9, 16))) + "\n" for i in range(9))
    with open("train.csv", "w", encoding="utf-8") as file:
        file.write("label," + ",".join(f"pixel{i}" for i in range(16)) + "\n" + rows)
    code, _, _ = run("fit", "train.csv", "-k", 2)
    assert code == 0
    model = nmfcore.load("nmfcore-train")
    assert model.labels.tolist() == [0, 1, 2] * 3
    assert model.components.shape == (2, 16)


def test_a_matrix_without_a_picture_shape(run):
    np.save("x.npy", np.random.default_rng(0).random((20, 15)))
    code, out, _ = run("fit", "x.npy", "-k", 3)
    assert code == 0
    assert table(out)["shape"] == "20 × 15 float64"
    assert nmfcore.load("nmfcore-x").shape is None
    assert set(os.listdir("nmfcore-x")) == FILES


def test_another_loss_takes_the_solver_that_can(run):
    options = ("--beta-loss", "kullback-leibler", "--max-iter", 20)
    code, out, notes = run("fit", "-k", 4, *options, "--out", "x")
    assert code == 0
    model = nmfcore.load("x")
    assert (model.parameters["solver"], model.parameters["init"]) == ("mu", "nndsvda")
    shown = float(table(out)["divergence per entry"])
    assert shown == pytest.approx(model.reconstruction_err**2 / 2 / (1797 * 64), rel=1e-4)
    assert np.isnan(model.relative_error)
    assert not any("Traceback" in line for line in notes)


def test_the_seed_decides(run):
    for seed, out in ((1, "a"), (1, "b"), (2, "c")):
        options = ("--init", "random", "--max-iter", 5, "--seed", seed, "--out", out)
        assert run("fit", "-k", 3, *options)[0] == 0
    a, b, c = (nmfcore.load(name).components for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_warnings_are_one_short_line(run):
    code, out, notes = run("fit", "-k", 4, "--max-iter", 2)
    assert code == 0
    (warning,) = (line for line in notes if line.startswith("warning:"))
    assert "Maximum number of iterations 2 reached" in warning
    assert not any("ConvergenceWarning" in line or ".py:" in line for line in notes)
    assert table(out)["iterations"] == "2"


def test_max_time_stops(run):
    code, out, _ = run("fit", "--tol", 0, "--max-iter", 10**9, "--max-time", 0.5)
    assert code == 0
    assert float(table(out)["seconds"]) < 60
    assert not nmfcore.load("nmfcore-digits").converged


def test_it_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "nmfcore", "fit", "-k", "3", "--max-iter", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "relative error" in done.stdout
    assert set(os.listdir(tmp_path / "nmfcore-digits")) == FILES


# --------------------------------------------------------------------------------------------------
# bad input: one sentence, exit code 2, nothing written


def nothing_there(path):
    return "there is no file or folder 'source'"


def empty_folder(path):
    path.mkdir()
    return "the folder 'source' holds no pictures"


def broken_picture(path):
    pictures(path, [(6, 8)] * 5)
    (path / "3.png").write_bytes(b"no picture")
    return r"'source/3\.png' is not a picture that can be read: .*--skip-broken"


def mixed_sizes(path):
    pictures(path, [(6, 8)] * 4 + [(8, 6)])
    return r"'source/5\.png' has other proportions .*--size .*--skip-broken"


def damaged_npy(path):
    path.with_suffix(".npy").write_bytes(b"no numbers")
    return r"'source\.npy' is damaged"


def unknown_kind(path):
    path.with_suffix(".mat").write_bytes(b"anything")
    return r"'source\.mat' is of no known kind"


def npy(path, value):
    X = np.random.default_rng(0).random((30, 20))
    X[17, 3] = value
    np.save(path.with_suffix(".npy"), X)


def not_a_number(path):
    npy(path, np.nan)
    return r"'source\.npy' holds NaN \(row 17, column 3\)"


def infinite(path):
    npy(path, np.inf)
    return r"'source\.npy' holds infinity \(row 17, column 3\)"


def negative(path):
    npy(path, -0.5)
    return r"'source\.npy' holds a negative value \(row 17, column 3\)"


def too_few(path):
    np.save(path.with_suffix(".npy"), np.ones((30, 9)))
    return "16 components are more than the data allows: .* at most 9"


@pytest.mark.parametrize(
    "make",
    [
        nothing_there,
        empty_folder,
        broken_picture,
        mixed_sizes,
        damaged_npy,
        unknown_kind,
        not_a_number,
        infinite,
        negative,
        too_few,
    ],
)
def test_bad_input(run, tmp_path, make):
    message = make(tmp_path / "source")
    given = next(iter(os.listdir()), "source")
    before = listing()
    k = 3 if make is not too_few else 16
    code, out, notes = run("fit", given, "-k", k)
    assert code == 2
    assert out == ""
    said = [line for line in notes if line.startswith("nmfcore: ")]
    assert len(said) == 1
    assert re.match(f"nmfcore: {message}", said[0])
    assert not any("Traceback" in line for line in notes)
    assert listing() == before
    assert os.listdir() == ([given] if before or make is empty_folder else [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "3y4"), "--size '3y4' is no size: give height and width"),
        (("--size", "0x4"), "--size '0x4' is no size"),
        (("--size", "5x5"), "--size 5x5 makes 25 pixels but a row of 'digits' has 64"),
        (("-k", "65"), "65 components are more than the data allows"),
        (("--solver", "magic"), "The 'solver' parameter of NMF must be a str among"),
        (("--init", "magic"), "The 'init' parameter of NMF must be a str among"),
        (("--beta-loss", "magic"), "The 'beta_loss' parameter of NMF must be"),
        (("--solver", "cd", "--beta-loss", "1"), "Invalid beta_loss parameter: solver 'cd'"),
        (("--out", "no/such/folder"), "there is no folder"),
    ],
)
def test_bad_options(run, options, message):
    code, _, notes = run("fit", *options)
    assert code == 2
    (said,) = (line for line in notes if line.startswith("nmfcore: "))
    assert said.startswith(f"nmfcore: {message}")
    assert os.listdir() == []


@pytest.mark.parametrize("options", [("-k", "0"), ("--max-iter", "0"), ("--tol", "-1"), ("--what",)])
def test_options_out_of_range_are_refused_by_name(run, options):
    code, _, notes = run("fit", *options)
    assert code == 2
    assert any(options[0] in line for line in notes)
    assert os.listdir() == []


def test_skip_broken_goes_on_and_says_so(run, tmp_path):
    broken_picture(tmp_path / "cats")
    code, _, notes = run("fit", "cats", "-k", 2, "--skip-broken")
    assert code == 0
    assert any(line.startswith("skipped 1 picture: '3.png' is not a picture") for line in notes)
    assert nmfcore.load("nmfcore-cats").names == ("1.png", "2.png", "4.png", "5.png")


def test_a_folder_that_cannot_be_written_to(run, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    code, _, notes = run("fit")
    assert code == 2
    assert f"the folder '{tmp_path}' cannot be written to" in notes[0]


# --------------------------------------------------------------------------------------------------
# the output folder


def test_an_existing_folder_is_refused_at_once(run, tmp_path, monkeypatch):
    (tmp_path / "nmfcore-digits").mkdir()
    monkeypatch.setattr(nmfcore.images, "read_source", None)  # not even read
    code, _, notes = run("fit")
    assert code == 2
    assert notes == ["nmfcore: the folder 'nmfcore-digits' exists: choose another --out, or --force replaces it"]
    (tmp_path / "file").touch()
    code, _, notes = run("fit", "--out", "file", "--force")
    assert code == 2
    assert "exists and is not a folder" in notes[0]


def test_force_replaces_earlier_results(run, tmp_path):
    assert run("fit", "-k", 2, "--max-iter", 3)[0] == 0
    assert run("fit", "-k", 3, "--max-iter", 3, "--force")[0] == 0
    assert nmfcore.load("nmfcore-digits").components.shape == (3, 64)
    assert os.listdir() == ["nmfcore-digits"]
    (tmp_path / "empty").mkdir()
    assert run("fit", "-k", 2, "--max-iter", 3, "--out", "empty", "--force")[0] == 0


def test_force_never_deletes_what_is_not_ours(run, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    code, _, notes = run("fit", "--out", "home", "--force")
    assert code == 2
    assert "holds what nmfcore did not write ('thesis.tex')" in notes[0]
    assert listing() == ["./home/thesis.tex"]


def test_a_linked_folder_stays_a_link(run, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to("far")
    assert run("fit", "-k", 2, "--max-iter", 3, "--out", "near", "--force")[0] == 0
    assert (tmp_path / "near").is_symlink()
    assert set(os.listdir("far")) == FILES


def no_space(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


class Full:
    """A disk that takes so many more files, then is full."""

    def __init__(self, room, monkeypatch):
        self.room, self.sync = room, os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, handle):
        self.room -= 1
        return no_space() if self.room < 0 else self.sync(handle)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_nothing_half_written(run, monkeypatch, earlier):
    if earlier:
        assert run("fit", "-k", 2, "--max-iter", 3)[0] == 0
    before = {path: Path(path).read_bytes() for path in listing()}
    with monkeypatch.context() as patch:
        Full(0, patch)
        code, out, notes = run("fit", "-k", 3, "--max-iter", 3, "--force")
    assert code == 2
    assert out == ""
    (said,) = (line for line in notes if line.startswith("nmfcore: "))
    assert said.startswith("nmfcore: the disk is full, so the results could not be written to")
    assert {path: Path(path).read_bytes() for path in listing()} == before


@pytest.mark.parametrize("earlier", [False, True])
def test_a_disk_that_is_full_after_the_model_keeps_the_model(run, monkeypatch, earlier):
    if earlier:
        assert run("fit", "-k", 2, "--max-iter", 3)[0] == 0
    with monkeypatch.context() as patch:
        Full(2, patch)
        code, out, notes = run("fit", "-k", 3, "--max-iter", 3, "--force")
    assert code == 1
    assert table(out)["written to"] == "nmfcore-digits/"
    assert notes[-1] == (
        "nmfcore: the model is in 'nmfcore-digits/', which lacks pictures.npy and components.png and "
        "reconstructions.png and convergence.png: pictures.npy could not be made (No space left on device)"
    )
    assert os.listdir() == ["nmfcore-digits"]
    assert os.listdir("nmfcore-digits") == ["model.npz"]
    assert nmfcore.load("nmfcore-digits").components.shape == (3, 64)


def test_a_disk_that_is_full_before_the_model_sends_it_to_another(run, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    mkdir = Path.mkdir

    def full_here(path, *rest, **options):
        return no_space() if path.parent == tmp_path else mkdir(path, *rest, **options)

    monkeypatch.setattr(Path, "mkdir", full_here)
    code, out, notes = run("fit", "-k", 3, "--max-iter", 3)
    assert (code, out) == (1, "")
    (kept,) = (tmp_path / "temporary").glob("*/nmfcore-digits")
    assert f"the model alone was saved in '{kept}'" in notes[-1]
    assert nmfcore.load(kept).components.shape == (3, 64)


def test_earlier_results_come_back_when_the_swap_fails(run, monkeypatch):
    assert run("fit", "-k", 2, "--max-iter", 3)[0] == 0
    before = listing()
    rename = Path.rename

    def fail(path, target):
        return no_space() if path.suffix == ".part" else rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr("nmfcore.search.folders.exchanged", lambda *_: False)  # as on a system that cannot
        patch.setattr(Path, "rename", fail)
        assert run("fit", "-k", 3, "--max-iter", 3, "--force")[0] == 2
    assert listing() == before
    assert nmfcore.load("nmfcore-digits").components.shape == (2, 64)


# --------------------------------------------------------------------------------------------------
# interruptions


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_ctrl_c_keeps_the_best_so_far(run, monkeypatch, solver):
    @contextmanager
    def bar(notes, max_iter):
        """Press Ctrl-C in a while, once it runs."""
        pressed = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))

        def show(report, norm, final=False, n_iter=None):
            if report.iteration == 3:
                pressed.start()

        yield show

    monkeypatch.setattr("nmfcore.cli.fit.progress_bar", bar)
    code, out, _ = run("fit", "--solver", solver, "--tol", 0, "--max-iter", 10**9)
    assert code == 130
    assert set(os.listdir("nmfcore-digits")) == FILES
    model = nmfcore.load("nmfcore-digits")
    assert table(out)["stopped"] == model.stop_reason
    assert model.stop_reason == f"interrupted after {model.n_iter:,} iterations"
    assert not model.converged
    assert model.n_iter >= 3
    assert {values.shape for values in model.history.values()} == {(model.n_iter,)}
    X = nmfcore.images.read_source().matrix.astype(float)
    error = np.linalg.norm(X - model.W @ model.components) / np.linalg.norm(X)
    assert model.relative_error == pytest.approx(error, rel=1e-4)


def test_ctrl_c_keeps_the_best_of_several_runs(run, monkeypatch):
    @contextmanager
    def bar(notes, max_iter):
        def show(report, norm, final=False, n_iter=None):
            if report.iteration == 6 and getattr(report, "run", None) == 1:  # the last report is of no run
                raise KeyboardInterrupt

        yield show

    monkeypatch.setattr("nmfcore.cli.fit.progress_bar", bar)
    code, _, _ = run("fit", "-k", 5, "--n-init", 3, "--tol", 0)
    assert code == 130 and set(os.listdir("nmfcore-digits")) == FILES
    model = nmfcore.load("nmfcore-digits")
    assert not model.converged and model.n_iter in (5, 6) and model.stop_reason == "interrupted"
    X = nmfcore.images.read_source().matrix.astype(float)
    error = np.linalg.norm(X - model.W @ model.components)
    assert model.reconstruction_err == pytest.approx(error, rel=1e-4)
    assert np.sqrt(2 * model.init_losses.min()) == pytest.approx(error, rel=1e-4)
    assert model.component_stability.shape == (5,)


@pytest.mark.parametrize("where", ["read_source", "model_of"])
def test_ctrl_c_before_there_is_anything_to_keep(run, monkeypatch, where):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(nmfcore.models if where == "model_of" else nmfcore.images, where, interrupt)
    code, _, notes = run("fit", "--max-iter", 3)
    assert code == 130
    assert notes[-1] == "nmfcore: interrupted; nothing was written"
    assert os.listdir() == []


def test_ctrl_c_while_modules_load_gets_a_line(run, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert run("info") == (130, "", ["nmfcore: interrupted; nothing was written"])


def test_a_folder_that_cannot_be_made_is_refused_before_work(run, monkeypatch):
    monkeypatch.setattr("nmfcore.images.read_source", lambda *_, **__: pytest.fail("it began"))
    code, _, notes = run("fit", "--out", "a" * 300)
    assert code == 2
    assert re.fullmatch(r"nmfcore: the folder 'a+…a+' cannot be made \(.*\): choose another --out", notes[0])


def test_ctrl_c_while_drawing_keeps_the_model(run, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("nmfcore.plots.reconstructions", interrupt)
    code, _, notes = run("fit", "--max-iter", 3)
    assert code == 130
    assert notes[-1] == (
        "nmfcore: interrupted; 'nmfcore-digits/' holds the model and lacks reconstructions.png and convergence.png"
    )
    assert set(os.listdir("nmfcore-digits")) == FILES - {"reconstructions.png", "convergence.png"}


# --------------------------------------------------------------------------------------------------
# a finished fit is never lost


FAILURES = {
    "nmfcore.search.blocks.write_rows": "pictures.npy",
    "nmfcore.plots.components_grid": "components.png",
    "nmfcore.plots.reconstructions": "reconstructions.png",
    "nmfcore.plots.convergence": "convergence.png",
    "nmfcore.images.Pictures.title": "reconstructions.png",
    "nmfcore.cli.fit.print_pairs": "the table of results",
}


@pytest.mark.parametrize("error", [RuntimeError("it\nfailed"), no_space, UserWarning("w"), MemoryError(), Exception()])
@pytest.mark.parametrize("where", FAILURES)
def test_whatever_fails_after_the_last_pass(run, monkeypatch, where, error):
    def fail(*args, **options):
        raise error if isinstance(error, Exception) else OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(where, fail)
    code, _, notes = run("fit", "-k", 3, "--max-iter", 3)
    assert code == 1
    assert notes[-1].startswith(f"nmfcore: the model is in 'nmfcore-digits/', which lacks {FAILURES[where]}: ")
    assert sum(line.startswith("nmfcore: ") for line in notes) == 1
    assert nmfcore.load("nmfcore-digits").components.shape == (3, 64)
    assert set(os.listdir("nmfcore-digits")) == FILES - {FAILURES[where]}


def test_labels_that_cannot_be_saved_do_not_lose_the_factors(run, monkeypatch):
    save = nmfcore.models.save

    def refuse(model, path):
        if model.labels is not None:
            raise TypeError("these labels cannot be stored")
        save(model, path)

    monkeypatch.setattr(nmfcore.models, "save", refuse)
    code, _, notes = run("fit", "-k", 3, "--max-iter", 3)
    assert code == 0
    assert "warning: the model lacks names, labels and parameters" in " ".join(notes)
    assert nmfcore.load("nmfcore-digits").components.shape == (3, 64)


def test_a_folder_that_appears_during_the_fit_is_left_alone(run, tmp_path, monkeypatch):
    show = nmfcore.cli.fit.progress_bar

    @contextmanager
    def bar(notes, max_iter):
        (tmp_path / "nmfcore-digits").mkdir()
        (tmp_path / "nmfcore-digits" / "thesis.tex").write_text("years of work")
        with show(notes, max_iter) as report:
            yield report

    monkeypatch.setattr("nmfcore.cli.fit.progress_bar", bar)
    code, out, notes = run("fit", "-k", 3, "--max-iter", 3)
    assert code == 0
    assert table(out)["written to"] == "nmfcore-digits-2/"
    assert any("'nmfcore-digits' appeared during the fit" in line for line in notes)
    assert os.listdir("nmfcore-digits") == ["thesis.tex"]
    assert set(os.listdir("nmfcore-digits-2")) == FILES


def test_force_keeps_a_file_that_comes_during_the_fit(run, tmp_path, monkeypatch):
    assert run("fit", "-k", 2, "--max-iter", 3)[0] == 0
    show = nmfcore.cli.fit.progress_bar

    @contextmanager
    def bar(notes, max_iter):
        (tmp_path / "nmfcore-digits" / "notes.txt").write_text("precious")
        with show(notes, max_iter) as report:
            yield report

    monkeypatch.setattr("nmfcore.cli.fit.progress_bar", bar)
    assert run("fit", "-k", 3, "--max-iter", 3, "--force")[0] == 0
    assert (tmp_path / "nmfcore-digits" / "notes.txt").read_text() == "precious"
    assert nmfcore.load("nmfcore-digits").components.shape == (3, 64)
    assert os.listdir() == ["nmfcore-digits"]


# --------------------------------------------------------------------------------------------------
# any text may be a name, on any console


NAMES = {
    "mathematics": ["$_$", "5$ and 10$ {", "a_$b_$c", "ke$ha", r"\$x\$", "$$"],
    "markup": ["[red]x[/red]", "[/]", "<b>x</b>", "{% x %}", "&amp;", "%s %d"],
    "scripts": ["猫の写真", "고양이", "кошка", "قطة", "חתול", "Ψ", "\U0001d520at", "🐈", "e\u0301\u200d", "\u202egnp"],
    "control": ["a\tb", "line\nfeed", "\x1b]0;owned\x07", "\x9b31m", "\u2028", "\x7f"],
    "bytes": [os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff\xfe"), "\udfff"],
}


def unsafe(text):
    return [letter for letter in text if letter != "\n" and (ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0)]


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_every_kind(run, kind, tmp_path):
    """A model with such names and labels is searched, reported and drawn, in one line each and without a warning."""
    names = [f"{name}.png" for name in NAMES[kind]]
    rng = np.random.default_rng(0)
    model = nmfcore.models.Model(
        W=rng.random((len(names), 2)),
        components=rng.random((2, 16)),
        shape=(4, 4),
        names=tuple(names),
        labels=None if kind == "bytes" else np.array([NAMES[kind][row // 2] for row in range(len(names))]),
        parameters={"n_components": 2},
        source=names[0],
    )
    engine = nmfcore.search.engine.SearchEngine.from_model(model, rng.random((len(names), 16)))
    engine.save("m")
    code, out, notes = run("search", "m", 0, "-n", 9, "--out", "x.png")
    assert (code, notes) == (0, [])
    assert not unsafe(out)
    assert len(out.splitlines()) == len(names) + 2
    out.encode("utf-8")
    assert run("report", "m")[0] == 0
    Path("m/report.html").read_text(encoding="utf-8")
    code, out, notes = run("search", "m", f"no {names[-1]}")
    assert code == 2
    assert len(notes) == 1
    assert not unsafe(notes[0])


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX systems")
def test_a_folder_with_names_of_every_kind(run, tmp_path):
    names = [name for kind in NAMES for name in NAMES[kind] if "/" not in name and name != "\udfff"]
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(f"in/{name}.png")
    code, out, notes = run("fit", "in", "-k", 2, "--max-iter", 3)
    assert code == 0
    assert not unsafe(out + "".join(notes))
    assert set(os.listdir("nmfcore-in")) == FILES
    assert sorted(nmfcore.load("nmfcore-in").names) == sorted(f"{name}.png" for name in names)


def command(*arguments, python=(), cwd=None, stdout=subprocess.PIPE, **environment):
    done = subprocess.run(
        [sys.executable, *python, "-m", "nmfcore", *map(str, arguments)],
        stdout=stdout, stderr=subprocess.PIPE, cwd=cwd, timeout=200,
        env={**os.environ, "PYTHONPATH": str(Path(nmfcore.__file__).parents[1]), **environment},
    )  # fmt: skip
    return done.returncode, (done.stdout or b"").decode("latin-1"), done.stderr.decode("latin-1")


@pytest.fixture
def odd_folder(tmp_path):
    (tmp_path / "猫").mkdir()
    rng = np.random.default_rng(0)
    for name in ("$_$", "猫", "é"):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "猫" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("python", "environment"),
    [
        ((), {"MPLBACKEND": "no_such_backend", "PYTHONIOENCODING": "ascii"}),
        (
            (),
            {
                "MPLBACKEND": "module://matplotlib_inline.backend_that_is_not_there",
                "PYTHONIOENCODING": "cp1252",
                "TERM": "dumb",
            },
        ),
        (("-W", "error"), {}),
        (("-X", "dev"), {}),
    ],
)
def test_every_console_and_environment(odd_folder, python, environment):
    options = ("-k", 1, "--max-iter", 2, "--out", "m")
    code, _, err = command("fit", "猫", *options, python=python, cwd=odd_folder, **environment)
    assert code == 0, err
    assert set(os.listdir(odd_folder / "m")) == FILES
    for text in ("Traceback", "site-packages", "Warning:", "Exception ignored"):
        assert text not in err
    code, _, err = command("search", "m", 0, "--out", "x.png", python=python, cwd=odd_folder, **environment)
    said = [line for line in err.splitlines() if not line.startswith("nmfcore compiles its kernels")]
    assert (code, said) == (0, [])
    code, _, err = command("report", "m", python=python, cwd=odd_folder, **environment)
    assert code == 0, err
    assert "Traceback" not in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_table_that_cannot_be_printed_loses_nothing(tmp_path):
    with open("/dev/full", "w") as full:
        code, _, err = command("fit", "-k", 2, "--max-iter", 2, "--out", "m", cwd=tmp_path, stdout=full)
    assert code == 1
    assert "Traceback" not in err and "Exception ignored" not in err
    assert err.splitlines()[-1].startswith("nmfcore: ")
    assert set(os.listdir(tmp_path / "m")) == FILES


def test_notes_that_cannot_be_printed_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stderr", full := Full())
    assert cli.main(["fit", "-k", "2", "--max-iter", "2", "--out", "m"]) == 0
    assert set(os.listdir("m")) == FILES and sys.stderr is full


@pytest.mark.parametrize(
    "error", [TypeError("no\nsuch thing"), KeyError("x"), EOFError(), RecursionError("deep"), OSError()]
)
def test_what_nobody_expected_is_one_sentence(run, fitted, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(nmfcore.search.engine.SearchEngine, "search", fail)
    code, out, notes = run("search", fitted, 0)
    assert code in (1, 2)
    assert out == ""
    assert len(notes) == 1
    assert notes[0].startswith("nmfcore: ")


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ("foo", "--scheduler 'foo' is no address: give one like tcp://127.0.0.1:8786"),
        ("tcp://127.0.0.1:x", "--scheduler 'tcp://127.0.0.1:x' is no address"),
        ("tcp://[::1", "--scheduler 'tcp://[::1' is no address"),
        ("127.0.0.1:1", "no Dask scheduler answers at '127.0.0.1:1' (Connection refused): start one with"),
        ("tcp://no-such-host.invalid:8786", "no Dask scheduler answers at 'tcp://no-such-host.invalid:8786' ("),
    ],
)
def test_a_scheduler_that_is_not_there(run, scheduler, message):
    pytest.importorskip("distributed", reason="needs the extra 'dask'")
    start = time.monotonic()
    code, out, notes = run("fit", "--scheduler", scheduler)
    assert (code, out, len(notes)) == (2, "", 1)
    assert notes[0].startswith(f"nmfcore: {message}")
    assert time.monotonic() - start < 20


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
def test_an_interrupt_that_python_cannot_act_on_is_answered(capfd):
    from nmfcore.cli.console import interrupts_answered

    with interrupts_answered() as answered:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        time.sleep(1.2)
        assert not answered.is_set()
    assert "interrupted; waiting for the step that is running to end" in capfd.readouterr().err
    with interrupts_answered() as answered:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        answered.set()
        time.sleep(1.2)
    assert capfd.readouterr().err == ""


# --------------------------------------------------------------------------------------------------
# originals and colours


def test_originals_are_kept_or_not(run, monkeypatch):
    options = ("fit", "-k", 2, "--max-iter", 3)
    assert run(*options, "--out", "kept")[0] == 0
    X = nmfcore.images.read_source().matrix
    np.testing.assert_array_equal(np.load("kept/pictures.npy"), X)
    assert run(*options, "--no-pictures", "--out", "not")[0] == 0
    assert set(os.listdir("not")) == FILES - {"pictures.npy"}
    monkeypatch.setattr("nmfcore.cli.fit._KEPT", X.nbytes - 1)
    assert run(*options, "--out", "large")[0] == 0
    assert set(os.listdir("large")) == FILES - {"pictures.npy"}
    assert run(*options, "--pictures", "--out", "asked")[0] == 0
    assert set(os.listdir("asked")) == FILES


def test_colours_are_kept_on_request(run, tmp_path):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "in" / f"{number}.png")
    code, out, _ = run("fit", "in", "-k", 2, "--max-iter", 3, "--rgb")
    assert code == 0
    assert table(out)["shape"] == "9 × 60 uint8 (4×5 colour pictures)"
    assert nmfcore.load("nmfcore-in").shape == (4, 5, 3)
    np.testing.assert_array_equal(np.load("nmfcore-in/pictures.npy"), pixels.reshape(9, 60))
    code, out, _ = run("search", "nmfcore-in", "in/3.png", "-n", 1, "--out", "found.png")
    assert code == 0
    assert run("report", "nmfcore-in")[0] == 0
    assert os.path.exists("nmfcore-in/report.html")


# --------------------------------------------------------------------------------------------------
# search, transform, report, serve


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "model"
    assert cli.main(["fit", "-k", "8", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def fitted(fitted_once):
    """Give the folder of a model of the digits, the test's own."""
    shutil.copytree(fitted_once, "model")
    return "model"


def found_rows(out):
    """Read the table of `nmfcore search` as (row, score)."""
    lines = [line.split() for line in out.splitlines() if re.match(r" *\d+ ", line)]
    return [(int(cells[0]), float(cells[2])) for cells in lines]


@pytest.mark.parametrize("space", [None, "codes", "reconstruction", "centred"])
@pytest.mark.parametrize("dissimilar", [False, True])
def test_search(run, fitted, space, dissimilar):
    options = ["--dissimilar"] * dissimilar + ["--space", space] * (space is not None)
    code, out, _ = run("search", fitted, 5, "-n", 6, *options)
    assert code == 0
    engine = nmfcore.search.engine.SearchEngine.load(fitted, space=space)
    found = engine.search(5, 6, not dissimilar, space=space)
    assert [row for row, _ in found_rows(out)] == found.indices.tolist()
    np.testing.assert_allclose([score for _, score in found_rows(out)], found.scores, atol=5e-4)
    why = engine.explain(5, found.indices[0], 3)
    if len(why.components):
        assert f"{why.components[0]} ({why.shares[0]:.0%})" in out
    assert os.listdir() == [fitted]


def test_search_draws_what_it_found(run, fitted):
    code, out, _ = run("search", fitted, 5, "--out", "found.png")
    assert code == 0
    assert "written to   found.png" in out
    with Image.open("found.png") as image:
        assert image.width > image.height > 150
    code, _, notes = run("search", fitted, 5, "--out", "found.png")
    assert code == 2
    assert notes == ["nmfcore: the file 'found.png' exists: choose another --out, or --force replaces it"]
    assert run("search", fitted, 5, "--out", "found.png", "--force")[0] == 0


def test_search_by_a_picture_and_by_name(run, tmp_path):
    pictures(tmp_path / "cats", [(12, 9)] * 8)
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (12, 9), dtype=np.uint8)).save(tmp_path / "cats" / "3.png")
    assert run("fit", "cats", "-k", 2)[0] == 0
    by_file, by_name = (run("search", "nmfcore-cats", query, "-n", 1)[1] for query in ("cats/3.png", "3.png"))
    assert "most similar to 3.png" in by_file
    assert "most similar to row 2, 3.png" in by_name
    assert re.search(r"^ *2  3\.png  1\.000", by_file, re.MULTILINE)  # a file is not excluded by what it looks like
    assert not re.search(r"^ *2  3\.png", by_name, re.MULTILINE)
    code, _, notes = run("search", "nmfcore-cats", "3.pn")
    assert code == 2
    assert notes == ["nmfcore: there is no picture '3.pn', neither by name nor as a file; do you mean '3.png'?"]


@pytest.mark.parametrize(
    ("words", "queries", "weights"),
    [
        (["3", "+", "row", "5", "-", "12"], [3, 5, 12], [1, 1, -1]),
        (["-", "3", "−", "row 5"], [3, 5], [-1, -1]),
        (["+", "3"], [3], [1]),
    ],
)
def test_search_by_several(run, fitted, words, queries, weights):
    engine = nmfcore.search.engine.SearchEngine.load(fitted)
    for options, wish in (
        ([], {}),
        (
            ["--label", 7, "--label", 4, "--min-score", 0.2, "--offset", 3],
            {"labels": [4, 7], "threshold": 0.2, "offset": 3},
        ),
        (["--dissimilar", "--max-score", -0.2], {"similar": False, "threshold": -0.2}),
    ):
        found = engine.search(queries, 6, weights=weights, **wish)
        code, out, notes = run("search", fitted, *words, "-n", 6, *options)
        assert (code, notes) == (0, ["nothing was found that meets the conditions"] * (not len(found)))
        assert out.startswith(f"most {'similar' if found.similar else 'dissimilar'} to {found.title}")
        assert [row for row, _ in found_rows(out)] == found.indices.tolist()
        told = json.loads(run("search", fitted, *words, "-n", 6, "--json", *options)[1])
        assert [each["score"] for each in told["found"]] == found.scores.tolist()
        assert [(term["row"], term["weight"]) for term in told["terms"]] == list(zip(queries, weights, strict=True))
        assert told["offset"] == found.offset


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("3", "+"), "'3 +' has no picture after a '+'"),
        (("3", "-", "-", "5"), "has no picture after a '-'"),
        (("3", "-", "3"), "its pictures cancel each other"),
        (("3", "--label", "cat"), "no picture has the label 'cat': there are '0', '1', "),
        (("3", "--dissimilar", "--min-score", "0"), "--min-score limits what is similar: give --max-score"),
        (("3", "--max-score", "0"), "--max-score limits what is dissimilar: give --min-score"),
        (("3", "--min-score", "80"), "--min-score"),
        (("3", "--offset", "-1"), "--offset"),
        (("3", "--copy-to", "model/model.npz"), "is no folder"),
        (("3", "--copy-to", "a/b"), "there is no folder"),
    ],
)
def test_searches_that_are_refused(run, fitted, arguments, sentence):
    before = listing()
    code, out, notes = run("search", fitted, *arguments)
    assert (code, out, len(notes)) == (2, "", 1) and sentence in notes[0]
    assert listing() == before


def test_what_was_found_is_copied(run, tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "b [red]").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(f"in/a/{number}.png")
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(f"in/b [red]/{number} $x$.png")
    assert run("fit", "in", "-k", 2, "--recursive", "--max-iter", 5, "--out", "m")[0] == 0
    engine = nmfcore.search.engine.SearchEngine.load("m")
    found = engine.search(0, 8)
    for page in (0, 4):
        code, out, notes = run("search", "m", "row", 0, "-n", 4, "--offset", page, "--copy-to", "found")
        assert (code, notes) == (0, []) and "copied to   found (4 pictures)" in out
    copies = sorted(os.listdir("found"))
    assert copies == [f"{place:02d}-{Path(name).name}" for place, name in enumerate(found.names, 1)]
    for copy, name in zip(copies, found.names, strict=True):
        assert (tmp_path / "found" / copy).read_bytes() == (tmp_path / "in" / name).read_bytes()

    # What would replace a file, or lacks one, is refused before the first copy.
    before = {path: Path(path).stat().st_mtime_ns for path in listing()}
    for number in range(4, 9):  # the last copies of ten would not be in the way
        os.rename(f"found/{copies[number - 1]}", f"found/{number}")
    os.rename("in/" + found.names[2], "in/gone")
    for options, sentence in (
        (("-n", 2), "the file 'found/01-"),
        (("-n", 4, "--offset", 2), f"the picture 'in/{found.names[2]}' is not there"),
    ):
        kept = listing()
        code, out, notes = run("search", "m", "row", 0, *options, "--copy-to", "found")
        assert (code, out, len(notes)) == (2, "", 1) and sentence in notes[0] and listing() == kept
    assert run("search", "m", "row", 0, "--copy-to", "in/x")[2][0].startswith("nmfcore: 'in/x' holds the pictures")
    assert len(before) == len(listing())


def test_rows_that_were_no_files_are_drawn(run, fitted):
    found = nmfcore.search.engine.SearchEngine.load(fitted).search(5, 3)
    assert run("search", fitted, 5, "-n", 3, "--copy-to", "found", "--csv")[0] == 0
    assert sorted(os.listdir("found")) == [f"{place:02d}-row-{row}.png" for place, row in enumerate(found.indices, 1)]
    digits = nmfcore.images.read_source().matrix
    with Image.open(f"found/01-row-{found.indices[0]}.png") as image:
        np.testing.assert_allclose(np.asarray(image).ravel(), digits[found.indices[0]] / 16 * 255, atol=0.5)


def test_names_of_a_model_do_not_lead_out_of_its_folder(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("x")
    names = ("a.png", "../secret", "/etc/hostname", "b.png")
    rng = np.random.default_rng(0)
    model = nmfcore.models.Model(
        W=rng.random((4, 2)), components=rng.random((2, 16)), shape=(4, 4), names=names, source="in",
        parameters={"n_components": 2}, decoding={"proportions": "stretched", "background": "#ffffff", "levels": 256},
    )  # fmt: skip
    nmfcore.search.engine.SearchEngine.from_model(model, rng.random((4, 16))).save("m")
    code, _, notes = run("search", "m", 0, "--copy-to", "found")
    assert code == 2 and "is not named like one of 'in'" in notes[0] and not os.path.exists("found")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.png", "a.png"), ("a b.png", "a b.png"), ("a:b*?.png", "a_b__.png"), ("a\\b\x1b\n.png", "a_b__.png"),
        ("caf\udce9.png", "caf_.png"), ("x. ", "x"), ("", "picture"), ("é" * 200 + ".jpeg", "é" * 57 + ".jpeg"),
    ],
)  # fmt: skip
def test_names_of_copies_are_safe(name, safe):
    from nmfcore.cli.copies import safe_name

    assert safe_name(name) == safe


def test_a_copy_that_fails_says_what_is_there(run, fitted, monkeypatch):
    from nmfcore.cli import copies

    whole, calls = copies.written, []

    def fail(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(copies, "written", fail)
    code, _, notes = run("search", fitted, 5, "--copy-to", "found")
    assert (code, notes) == (130, ["nmfcore: interrupted; 2 of 8 pictures are in 'found'"])
    assert len(os.listdir("found")) == 2


def test_a_number_that_is_a_name(run, tmp_path):
    pictures(tmp_path / "in", [(8, 8)] * 5)
    assert run("fit", "in", "-k", 2, "--max-iter", 5, "--out", "m")[0] == 0
    code, out, notes = run("search", "m", 3)
    assert code == 0 and out.startswith("most similar to row 2, 3.png\n")
    assert notes == ["'3' is taken for '3.png' (row 2); row 3 is another picture: 'row 3' means that one"]
    code, out, notes = run("search", "m", "row", 3, "--out", "x.png")
    assert (code, notes) == (0, []) and out.startswith("most similar to row 3, 4.png\n")


def test_transform(run, fitted):
    X = nmfcore.images.read_source().matrix
    np.save("more.npy", X[:50])
    code, out, _ = run("transform", fitted, "more.npy")
    assert code == 0
    assert table(out)["codes"] == "50 rows × 8 parts, float32"
    codes = np.load("codes.npy", allow_pickle=False)
    expected = nmfcore.images.estimator_from(nmfcore.load(fitted)).transform(X[:50])
    np.testing.assert_array_equal(codes, expected)
    code, _, notes = run("transform", fitted, "more.npy")
    assert code == 2
    assert "the file 'codes.npy' exists" in notes[0]
    Image.new("L", (30, 30), 9).save("one.png")
    assert run("transform", fitted, "one.png", "--out", "one.npy")[0] == 0
    assert np.load("one.npy").shape == (1, 8)


def test_codes_of_named_pictures_are_written_with_their_names(run, fitted):
    os.mkdir("more")
    names = ["a,b.png", 'say "hi".png', "é.png"]
    for shade, name in enumerate(names):
        Image.new("L", (8, 8), 60 * shade + 9).save(os.path.join("more", name))
    assert run("transform", fitted, "more", "--out", "codes.csv")[0] == 0
    with open("codes.csv", encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["name", *(f"part {number}" for number in range(8))]
    assert run("transform", fitted, "more")[0] == 0
    kept = json.loads(Path("codes.names.json").read_text())
    assert [row[0] for row in rows] == kept and sorted(kept) == sorted(names)
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), np.load("codes.npy"))
    os.remove("codes.npy")
    code, _, notes = run("transform", fitted, "more")
    assert code == 2 and "the file 'codes.names.json' exists" in notes[0] and not os.path.exists("codes.npy")
    code, _, notes = run("transform", fitted, "more", "--out", "codes.txt")
    assert code == 2 and "neither a .npy nor a .csv file" in notes[0]


def test_search_for_other_programs(run, fitted):
    engine = nmfcore.search.engine.SearchEngine.load(fitted)
    found = engine.search(5, 4)
    code, out, _ = run("search", fitted, 5, "-n", 4, "--json")
    told = json.loads(out)
    assert code == 0 and told["similar"] is True and told["space"] == "codes"
    assert [each["row"] for each in told["found"]] == found.indices.tolist()
    assert [each["score"] for each in told["found"]] == found.scores.tolist()
    assert [each["label"] for each in told["found"]] == engine.model.labels[found.indices].tolist()
    code, out, _ = run("search", fitted, 5, "-n", 4, "--csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert [int(row["row"]) for row in rows] == found.indices.tolist()
    code, _, notes = run("search", fitted, 5, "--csv", "--json")
    assert code == 2 and "exclude each other" in notes[0]
    frame = found.to_pandas()
    assert frame["row"].tolist() == found.indices.tolist() and list(frame) == ["row", "name", "score"]


@pytest.mark.parametrize("form", ["txt", "header", "npy", "idx"])
def test_report_with_labels_of_every_form(run, fitted, form):
    words = np.where(np.arange(1797) % 2, "odd", "even")
    path = f"labels.{form}"
    if form in ("txt", "header"):
        Path(path).write_text("\n".join(["label"] * (form == "header") + list(words)), encoding="utf-8")
    elif form == "npy":
        np.save(path, words)
        path = "labels.npy"
    else:
        numbers = np.uint8(words == "odd")
        Path(path).write_bytes(bytes([0, 0, 8, 1]) + len(numbers).to_bytes(4, "big") + numbers.tobytes())
    code, out, _ = run("report", fitted, "--labels", path, "--out", "page.html")
    assert code == 0
    assert table(out)["written to"] == "page.html"
    page = Path("page.html").read_text(encoding="utf-8")
    expected = ("0", "1") if form == "idx" else ("even", "odd")
    assert all(f"mean of class {name}" in page for name in expected)
    assert "mean of class 7" not in page


def test_report_in_the_folder_of_the_model(run, fitted):
    for _ in range(2):  # its own page is replaced without asking
        assert run("report", fitted)[0] == 0
    page = Path(fitted, "report.html").read_text(encoding="utf-8")
    assert "mean of class 7" in page
    assert run("fit", "-k", 3, "--max-iter", 3, "--out", fitted, "--force")[0] == 0  # and knows it as its own
    assert not os.path.exists(f"{fitted}/report.html")


def spoil_model(folder):
    Path(folder, "model.npz").write_bytes(b"no model")


def spoil_pictures(folder):
    np.save(f"{folder}/pictures.npy", np.zeros((3, 4)))


def spoil_labels(folder):
    Path("short.txt").write_text("a\nb\n", encoding="utf-8")


def occupy(folder):
    Path("taken").write_text("mine", encoding="utf-8")


def only_pictures(folder):
    pictures(Path("pictures"), [(4, 4)])


def fitted_beside(folder):
    only_pictures(folder)
    shutil.copytree(folder, "nmfcore-pictures")


def nothing(folder):
    pass


def test_a_k_that_fits_few_pictures_and_a_word_about_black_ones(run, tmp_path):
    pictures(tmp_path / "few", [(8, 8)] * 12)
    assert run("fit", "few", "--max-iter", 3)[0] == 0
    assert nmfcore.load("nmfcore-few").components.shape == (6, 64)
    np.save("black.npy", np.zeros((9, 16), np.uint8))
    code, _, notes = run("fit", "black.npy")
    assert code == 0
    assert any("every value is 0 (all pictures are black)" in line for line in notes)


@pytest.mark.parametrize(
    ("arguments", "spoil", "message"),
    [
        (("search", "nowhere", "0"), nothing, "there is no model 'nowhere': give the folder that nmfcore fit wrote"),
        (("search", ".", "0"), nothing, "there is no model file 'model.npz'"),
        (("search", "model/pictures.npy", "0"), nothing, "'model/pictures.npy' is no model: give the folder"),
        (("search", "pictures", "0"), only_pictures, "there is no model file 'pictures/model.npz': it is a folder of "),
        (("search", "pictures", "0"), fitted_beside, "there is no model file 'pictures/model.npz': did you mean "),
        (("fit", "model"), nothing, "'model' holds what nmfcore fit wrote: give the folder of pictures"),
        (("search", "model", "0"), spoil_model, "'model/model.npz' is not an nmfcore model, or it is damaged"),
        (("search", "model", "0"), spoil_pictures, "'model/pictures.npy' (3, 4) does not belong to the model"),
        (("search", "model", "1797"), nothing, "there is no row 1797: rows are numbered 0 to 1,796"),
        (("search", "model", "x.png"), nothing, "there is no picture 'x.png', neither by name nor as a file"),
        (("search", "model", "taken"), occupy, "'taken' is not a picture that can be read"),
        (
            ("search", "model", "0", "--space", "x"),
            nothing,
            "--space 'x' is unknown: expected codes, reconstruction or centred",
        ),
        (("search", "model", "0", "--out", "x.doc"), nothing, "'x.doc' names no kind of picture"),
        (("search", "model", "0", "--out", "no/x.png"), nothing, "there is no folder"),
        (("search", "model", "0", "--out", "model.png/"), nothing, None),
        (("transform", "model", "nowhere"), nothing, "there is no file or folder 'nowhere': check the path"),
        (("transform", "model", "model"), nothing, None),
        (("transform", "model", "model/pictures.npy", "--out", "taken"), occupy, "the file 'taken' exists"),
        (("transform", "model", "model/pictures.npy", "--out", "model"), nothing, "'model' is a folder"),
        (("report", "nowhere"), nothing, "there is no"),
        (("report", "model", "--out", "taken"), occupy, "the file 'taken' exists"),
        (("report", "model", "--labels", "nowhere"), nothing, "there is no file 'nowhere': give --labels a text file"),
        (
            ("report", "model", "--labels", "short.txt"),
            spoil_labels,
            "'short.txt' holds 2 labels, the model has 1,797 rows",
        ),
        (
            ("report", "model", "--labels", "model/pictures.npy"),
            nothing,
            "'model/pictures.npy' holds an array of shape",
        ),
        (("serve", "nowhere"), nothing, "there is no model 'nowhere'"),
        (("serve", "model", "--host", "256.0.0.1"), nothing, "port 8765 of 256.0.0.1 cannot be opened"),
    ],
)
def test_other_commands_refuse_in_one_sentence(run, fitted, arguments, spoil, message):
    if arguments[0] == "serve":
        pytest.importorskip("uvicorn", reason="the search page needs the extra 'serve'")
    spoil(fitted)
    before = {path: Path(path).read_bytes() for path in listing()}
    code, out, notes = run(*arguments)
    assert {path: Path(path).read_bytes() for path in listing()} == before or code == 0
    if message is None:
        assert code in (0, 2)
        return
    assert code == 2
    assert out == ""
    (said,) = (line for line in notes if line.startswith("nmfcore: "))
    assert said.startswith(f"nmfcore: {message}")
    assert not any("Traceback" in line for line in notes)


def test_serve_says_when_its_port_is_taken(run, fitted):
    pytest.importorskip("uvicorn", reason="the search page needs the extra 'serve'")
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, notes = run("serve", fitted, "--port", port)
    assert code == 2
    assert notes[-1].startswith(f"nmfcore: port {port} of 127.0.0.1 cannot be opened (Address already in use)")


@pytest.mark.parametrize("missing", [["starlette"], ["uvicorn"], ["starlette", "uvicorn"]])
def test_serve_names_its_extra(run, fitted, monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in missing else find(name, *rest))
    code, _, notes = run("serve", fitted)
    assert code == 2
    assert notes == [f"nmfcore: nmfcore serve needs {' and '.join(missing)}: pip install 'nmfcore[serve]'"]


def test_report_names_its_extra(run, fitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, _, notes = run("report", fitted)
    assert code == 2
    assert notes[-1] == "nmfcore: a report needs Jinja2: pip install 'nmfcore[app]'"
    assert not os.path.exists(f"{fitted}/report.html")


# --------------------------------------------------------------------------------------------------
# how many parts


def test_rank_prints_a_table_and_writes_what_is_asked_for(run):
    code, out, notes = run("rank", "-k", "2,8,16,24", "--repeats", 2, "--out", "curve.png", "--out", "fits.csv")
    assert code == 0
    head, *rows = [line.split() for line in out.splitlines()[:5]]
    assert head == ["k", "train", "test", "±"]
    assert [int(row[0]) for row in rows] == [2, 8, 16, 24]
    trains = [float(row[1]) for row in rows]
    assert trains == sorted(trains, reverse=True)
    (best,) = (int(row[0]) for row in rows if row[-1] == "chosen")
    assert table("\n".join(out.splitlines()[5:]))["k"].startswith(f"{best} (the smallest within one standard error")
    assert "all 4 numbers of components were tried" in out
    assert any("pixels are left out by tiles of 2×2" in line for line in notes)
    with Image.open("curve.png") as image:
        assert min(image.size) > 150
    with open("fits.csv", encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert lines[0] == "k,repeat,fold,train,test,n_iter,seconds" and len(lines) == 1 + 4 * 2 * 4
    assert sorted(os.listdir()) == ["curve.png", "fits.csv"]


def test_rank_without_out_writes_nothing_and_ranks_what_is_no_picture(run):
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.poisson(4 * rng.exponential(size=(200, 3)) @ rng.exponential(size=(3, 67))))
    code, out, notes = run("rank", "x.npy", "-k", "1:4")
    assert code == 0
    assert re.search(r"^3 .*chosen", out, re.MULTILINE)
    assert not any("tiles" in line for line in notes)
    assert os.listdir() == ["x.npy"]


def test_rank_leaves_out_tiles_of_each_picture(run):
    found = [
        run("rank", "-k", "4,8", "--method", "holdout", "--max-rows", 300, *more, "--out", f"{number}.csv")
        for number, more in enumerate(((), ("--holdout", 0.2)))
    ]
    assert [code for code, *_ in found] == [0, 0]
    assert any("pixels are left out by tiles of 2×2" in line for line in found[0][2])
    tables = [Path(f"{number}.csv").read_text().splitlines() for number in (0, 1)]
    assert all(len(lines) == 1 + 2 * 3 for lines in tables)  # one fit for each k and repeat
    assert tables[0][1] != tables[1][1]


def test_rank_says_what_it_warns_of(run):
    code, _, notes = run("rank", "-k", "2,3", "--repeats", 1, "--max-rows", 200)
    assert code == 0
    assert any("warning: The test loss is least at k = 3, the largest that was tried" in line for line in notes)
    assert any("warning: rule='1se' needs the spread" in line for line in notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-k", "400"), "k = 400 is larger than a block"),
        (("--folds", "2"), "--folds '2' is no pair of numbers"),
        (("--folds", "1x2"), r"folds = \(1, 2\)"),
        (("--tiles", "8x8"), "folds = .* need 2 tiles, but X has 1"),
        (("--rule", "best"), "--rule 'best' is unknown"),
        (("--method", "wold"), "--method 'wold' is unknown: expected bicross or holdout"),
        (("--holdout", "1"), "--holdout 1: give a share above 0"),
        (("--out", "curve.doc"), "'curve.doc' is neither a picture nor a table"),
        (("--out", "no/such/curve.png"), "there is no folder"),
        (("--device", "tpu"), ".*device"),
        (("--solver", "magic"), "The 'solver' parameter"),
    ],
)
def test_rank_refuses_in_one_sentence(run, options, message):
    code, out, notes = run("rank", *options)
    assert (code, out) == (2, "")
    (said,) = (line for line in notes if line.startswith("nmfcore: "))
    assert re.match(f"nmfcore: {message}", said), said
    assert os.listdir() == []


@pytest.mark.parametrize("text", ["0", "x", "4:", "9:4", "4:9:0", "1:2:3:4", "3,0", ""])
def test_rank_names_what_k_may_be(run, text):
    code, _, notes = run("rank", "-k", text)
    assert code == 2
    assert "-k" in notes[0] and "a range like 4:64 or 4:64:4" in notes[0] and len(notes) == 1


def test_rank_does_not_overwrite_without_force(run):
    Path("curve.png").write_text("mine")
    assert run("rank", "-k", "2,4", "--out", "curve.png")[0] == 2
    assert Path("curve.png").read_text() == "mine"
    assert run("rank", "-k", "2,4,30", "--max-rows", 300, "--out", "curve.png", "--force")[0] == 0


def test_ctrl_c_shows_what_rank_has_found(run, monkeypatch):
    from nmfcore.ranks import bicross

    real, calls = bicross.predict, []

    def predict(*args):
        calls.append(1)
        if len(calls) > 14:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(bicross, "predict", predict)
    code, out, _ = run("rank", "-k", "2,4,8", "--n-jobs", 1)
    assert code == 130
    assert "interrupted; 14 of 36 fits were made, of which 12 count" in out


def test_fit_k_auto_says_what_it_found_and_fits_that(run):
    code, out, notes = run("fit", "-k", "auto")
    assert code == 0
    (said,) = (line for line in notes if line.startswith("k = "))
    k = int(re.match(r"k = (\d+): test loss 0\.\d+; tried 2, 4, 8", said)[1])
    assert table(out)["k"] == str(k)
    assert nmfcore.load("nmfcore-digits").components.shape == (k, 64)
    assert 5 < k < 32


def test_ctrl_c_while_k_is_being_found_writes_nothing(run, monkeypatch):
    from nmfcore.ranks import bicross

    def predict(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(bicross, "predict", predict)
    code, _, notes = run("fit", "-k", "auto")
    assert (code, os.listdir()) == (130, [])
    assert notes[-1] == "nmfcore: interrupted; nothing was written"


def test_a_long_fit_says_what_it_will_take(run, monkeypatch):
    from nmfcore.cli import fit

    monkeypatch.setattr(fit, "_LONG", 0)
    monkeypatch.setattr(fit, "_MINUTE", 0)
    code, _, notes = run("fit", "-k", 4)
    assert code == 0
    pattern = r"60 passes of [\d.e-]+ s take about \d+ s, and [\d.e-]+ GB of memory; Ctrl-C keeps the best so far"
    assert any(re.fullmatch(pattern, line) for line in notes)


# --------------------------------------------------------------------------------------------------
# help, version, and a missing extra


def test_help_names_every_option(run):
    code, out, _ = run("fit", "--help")
    assert code == 0
    for option in (
        *("SOURCE", "--components", "-k", "--solver", "--init", "--beta-loss", "--max-iter"),
        *("--tol", "--max-time", "--size", "--skip-broken", "--seed", "--n-jobs", "--out"),
        *("--rgb", "--pictures", "--no-pictures"),
        "--force",
    ):
        assert option in out
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in ("fit", "rank", "search", "transform", "report", "serve", "info"))


def test_help_has_groups_examples_and_a_next_step(run):
    _, out, _ = run("fit", "--help")
    assert all(group in out for group in ("Model", "Stopping", "Input", "Computing", "Output"))
    for command in ("fit", "rank", "search", "transform", "report", "serve"):
        _, out, _ = run(command, "--help")
        assert f"nmfcore {command} " in out.partition("Example")[2]
        assert "Next: " in out or command == "serve"


@pytest.mark.parametrize(
    "arguments",
    [("fit", "--what"), ("nothing",), ("search",), ("fit", "a", "b"), ("fit", "-k", "x"), ("fit", "--size")],
)
def test_errors_in_options_are_one_sentence_like_all_others(run, arguments):
    code, out, notes = run(*arguments)
    assert (code, out, len(notes)) == (2, "", 1)
    assert re.fullmatch(r"nmfcore: .*: see nmfcore( fit| search)? --help", notes[0])


def test_version(run):
    assert run("--version")[:2] == (0, f"nmfcore {nmfcore.__version__}\n")


@pytest.mark.parametrize("missing", [["typer"], ["matplotlib", "PIL"]])
def test_a_missing_extra_is_named(run, monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    code, _, notes = run("fit")
    assert code == 2
    names = " and ".join(cli.APP_MODULES[module] for module in missing)
    assert notes == [
        f"nmfcore: the command line needs {names}: pip install 'nmfcore[app]'",
    ]


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from nmfcore.cli import main\n"
        "assert main(['fit', '--help']) == 0\n"
        "heavy = {'matplotlib', 'PIL', 'numba', 'sklearn', 'scipy', 'nmfcore.estimators'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
