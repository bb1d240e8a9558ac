"""The script for a card that is there for minutes: it is run here on the stand-in, so that no minute of a card is."""

import json
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import emulated
from cuda_emulator import fake_cupy, module

from benchmarks import card, device, gpu, records
from benchmarks.card import operations
from nmfcore import NMF
from nmfcore.backends import cuda_ops

ROOT = Path(__file__).parents[1]
emulator = pytest.mark.skipif(module.unavailable() is not None, reason=str(module.unavailable()))
# What the stand-in does not have: CuPy's own modules, and the tools that come with a driver.
LACKING = {
    ("p0", "NVRTC"), ("p0", "nvidia-smi"), ("p0", "show_config"), ("p3", "cuBLAS TF32"), ("p3", "cuBLAS bfloat16"),
}  # fmt: skip


def without_numba(folder):
    """An environment whose Python has no Numba, as that of a card's machine may be."""
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['numba'] = sys.modules['llvmlite'] = None\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The rows of a whole run on the stand-in, in a Python without Numba."""
    if module.unavailable():
        pytest.skip(module.unavailable())
    folder, out = tmp_path_factory.mktemp("python"), tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "benchmarks/device.py", "--smoke", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=without_numba(folder), capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(card.rows_of(out))
    assert len(rows) == len((out / "rows.jsonl").read_text().splitlines())
    return rows, done.stdout, out


@pytest.mark.timeout(1200)  # the first one runs it all, beside other tests
def test_all_phases_run_to_their_end(smoke):
    rows, told, out = smoke
    log = (out / "log").read_text()
    outcome = {row["case"]: row["status"] for row in rows if row["phase"] == "all"}
    assert outcome == dict.fromkeys(["begin", *device.SECONDS, "end"], "ok"), log[-2000:]
    failed = {(row["phase"], row["case"]): row["why"] for row in rows if row["status"] not in ("ok", "skipped")}
    assert set(failed) == LACKING, (failed, log[-2000:])
    assert not [row for row in rows if row.get("wrong")]
    assert "p2 products:" in told
    assert len(told) <= device.SIZE + 200


@pytest.mark.timeout(1200)  # the first one runs it all, beside other tests
def test_every_figure_is_there(smoke):
    rows, _, _ = smoke
    of = {phase: [row for row in rows if row["phase"] == phase and row["status"] == "ok"] for phase in device.SECONDS}
    assert {row["family"] for row in of["p2"] if "family" in row} == set(operations.families())
    assert all(row["inputs_as_golden"] for row in of["p2"] if "inputs_as_golden" in row)
    timed = [row for row in of["p3"] if "floor_us" in row and "plain_us" in row]
    assert {row["case"] for row in timed} >= {
        "products", "add_products", "sweep of W, 4", "sweep of H, 8", "gram of W", "finish, 41 parts", "KL whole pass",
        "opening", "cuBLAS X·Hᵀ", "column sums by CuPy", "descend with momentum",
    }  # fmt: skip
    for row in timed:
        assert row["us"] > 0 and row["host_us"] > 0 and row["floor_us"] > 0
        assert row["share_of_floor"] == pytest.approx(row["floor_us"] / row["us"], rel=1e-6)
    assert {row["case"] for row in of["p4"]} >= {
        "launch of a kept kernel", "read of 3 arrays", "replay of a graph of 8", "set from pinned", "streamed products",
    }  # fmt: skip
    assert [row["right"] for row in of["p4"] if row["case"] == "captured and replayed"] == [True]
    (overlap,) = (row for row in of["p4"] if "behind other work" in row["case"])
    assert overlap["blocks"] > 3 and overlap["error"] < 1e-5
    passes = [row for row in of["p5"] if row["case"] == "pass"]
    assert {(row["solver"], row["graphs"]) for row in passes} == set(product(("hals", "cd", "mu"), (True, False)))
    assert {row["solver"] for row in passes if row["replayed"]} == {"cd"}  # the others make too few passes here
    assert all(row["as_with_graphs"] for row in passes) and not any(
        row["replayed"] for row in passes if not row["graphs"]
    )
    (tests,) = (row for row in of["p6"] if row["case"] == "pytest")
    assert tests["executed"] > 0 and tests["failed"] == 0


@pytest.mark.timeout(1200)  # the first one runs it all, beside other tests
def test_kernels_have_the_bits_of_the_goldens(smoke):
    """As long as these were made of the same sources; else `python benchmarks/goldens/make.py` makes them anew."""
    rows, _, _ = smoke
    compared = [row for row in rows if "bits_as_emulator" in row]
    assert len(compared) >= 25
    if not all(row["goldens_current"] for row in compared):
        pytest.skip("the CUDA sources have changed since: python benchmarks/goldens/make.py")
    assert [row["case"] for row in compared if not row["bits_as_emulator"]] == []
    assert {row["off_emulator_eps"] for row in compared if "off_emulator_eps" in row} == {0.0}


def test_goldens_travel():
    files = [path for path in card.GOLDENS.iterdir() if path.is_file()]
    assert {"operations.json", "operations.npz", "modules.json", "fits.json"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < 4 << 20
    known = operations.Goldens()
    assert set(known.facts["operations"]) == {operation.name for operation in operations.operations()}
    assert max(facts["error_eps"] for facts in known.facts["operations"].values()) < 20


@emulated
def test_every_module_of_a_fit_is_compiled_beforehand(cupy, monkeypatch):
    """By p1: what is not in modules.json is compiled while something is measured."""
    if not operations.Goldens().current:
        pytest.skip("the CUDA sources have changed since: python benchmarks/goldens/make.py")
    known = {(each["source"], tuple(map(tuple, each["macros"]))) for each in device._modules()}
    asked = set()
    plain = cupy.RawModule

    def recorded(code, options):
        name, macros = operations.taken_apart(code)
        asked.add((name, tuple(macros)))
        return plain(code=code, options=options)

    monkeypatch.setattr(cupy, "RawModule", recorded)
    X = np.random.default_rng(0).integers(0, 256, (200, 40)).astype(np.uint8)
    for settings in ({"solver": "hals"}, {"solver": "cd"}, {"solver": "mu", "beta_loss": "kullback-leibler"}):
        NMF(15, max_iter=3, tol=0, random_state=0, device="cuda", **settings).fit(X)
    assert asked <= known


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_case_that_fails_is_a_row_and_the_next_one_runs(tmp_path):
    def halfway():
        yield {"value": 1}
        raise ValueError("of\n  some kind")

    recorder = card.Recorder(tmp_path, "p3")
    second = {"value": np.float32(2), "ok": np.bool_(True)}
    recorder.run([card.Case("first", halfway), card.Case("second", lambda: second), card.Case("none", lambda: None)])
    rows = list(card.rows_of(tmp_path))
    assert [(row["case"], row["status"]) for row in rows] == [("first", "ok"), ("first", "failed"), ("second", "ok")]
    assert rows[1]["why"] == "ValueError: of some kind"
    assert rows[1]["where"].startswith("test_device_harness.py:")
    assert rows[2]["value"] == 2 and rows[2]["ok"] is True


def test_rows_are_there_when_the_process_is_killed(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from benchmarks.card import Case, Recorder\n"
        "cases = [Case('one', lambda: {'value': 1}), Case('two', lambda: os._exit(9))]\n"
        "Recorder(pathlib.Path(sys.argv[1]), 'p3').run(cases)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == 9
    with open(tmp_path / "rows.jsonl", "a") as cut:
        cut.write('{"phase": "p3", "ca')
    assert [row["case"] for row in card.rows_of(tmp_path)] == ["one"]


def test_a_card_that_is_lost_costs_one_case(tmp_path):
    """After an illegal address nothing works in a process: the next cases are run by a new one."""
    code = (
        "import pathlib, sys\n"
        "from benchmarks.card import Case, Recorder\n"
        "after = next((int(a.split('=')[1]) for a in sys.argv if a.startswith('--after')), 0)\n"
        "broken = []\n"
        "def fails():\n"
        "    broken.append(1)\n"
        "    raise RuntimeError('cudaErrorIllegalAddress: an illegal memory access was encountered')\n"
        "def works():\n"
        "    assert not broken, 'in the same process'\n"
        "    return {'value': 1}\n"
        "cases = [Case('a', works), Case('b', fails), Case('c', works), Case('d', works)]\n"
        "Recorder(pathlib.Path(sys.argv[1]), 'p2').run(cases, after)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, env=environment)
    found = [(row["case"], row["status"]) for row in card.rows_of(tmp_path)]
    assert found == [("a", "ok"), ("b", "failed"), ("c", "ok"), ("d", "ok")]


def test_a_phase_out_of_time_takes_its_children_along(tmp_path):
    code = (
        "import subprocess, sys, time, signal\n"
        "for number in (signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    begun = time.monotonic()
    assert device.limited([sys.executable, "-c", code], 2, tmp_path / "log") is None
    assert time.monotonic() - begun < 20
    assert (tmp_path / "log").read_text() == "begun\n"
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    deadline = time.monotonic() + 5
    while stat.exists() and stat.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not stat.exists() or stat.read_text().split()[2] == "Z"
    assert device.limited([sys.executable, "-c", "raise SystemExit(3)"], 20, tmp_path / "log") == 3


def test_pytest_out_of_time_writes_what_it_has_seen(tmp_path):
    (tmp_path / "test_slow.py").write_text("import time\ndef test_a(): pass\ndef test_b(): time.sleep(60)\n")
    report = tmp_path / "gpu.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(tmp_path)]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    code = device.limited([*command, "-c", os.devnull], 15, tmp_path / "log", environment)
    row = device.tested(report, code)
    assert (row["status"], row["executed"]) in {("out of time", 1), ("out of time", 2)}, (tmp_path / "log").read_text()


def test_what_a_phase_runs_ends_before_the_phase(tmp_path):
    """Else it would stay behind, as it is in a group of its own."""
    code = (
        "import sys; from benchmarks import device\n"
        "print(device.limited([sys.executable, '-c', 'import time; time.sleep(60)'], 50))\n"
    )
    begun = time.monotonic()
    assert device.limited([sys.executable, "-c", code], 15, tmp_path / "log") == 0
    assert (tmp_path / "log").read_text() == "None\n"
    assert time.monotonic() - begun < 14


def test_the_phases_fit_into_a_command():
    assert device.WHOLE <= 8.5 * 60
    assert sum(device.SECONDS.values()) <= device.WHOLE + 40  # the last ones get what is left


def test_phases_after_the_whole_time_are_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(device, "WHOLE", 4)
    assert device.main(["p0", "p3", "--out", str(tmp_path)]) == 0
    rows = [row for row in card.rows_of(tmp_path) if row["case"] in device.SECONDS]
    assert [row["status"] for row in rows] == ["skipped", "skipped"]
    assert "p3: skipped" in capsys.readouterr().out


def test_what_is_asked_for_must_be_there(tmp_path, capsys):
    for arguments, text in ((["p9", "--out", str(tmp_path)], "no phase 'p9'"), (["p1"], "--out is missing")):
        with pytest.raises(SystemExit):
            device.main(arguments)
        assert text in capsys.readouterr().err


REPORT = "<testsuites><testsuite>{}</testsuite></testsuites>"


@pytest.mark.parametrize(
    ("cases", "code", "expected"),
    [
        ('<testcase name="a"/>', 0, {"executed": 1, "failed": 0}),
        ('<testcase name="a"><skipped message="needs a GPU"/></testcase>', 0,
         {"status": "failed", "executed": 0, "why": "no test was executed: ['needs a GPU']"}),
        ("", 5, {"status": "failed", "executed": 0, "why": "no test was executed: []"}),
        ('<testcase name="a"/><testcase name="b"><failure message="1 is\n2"/></testcase>', 1,
         {"status": "failed", "failed": 1, "tests": ["b: 1 is 2"]}),
        ('<testcase name="a"><error message="no"/></testcase><testcase name="b"/>', 1,
         {"status": "failed", "failed": 1}),
        ('<testcase name="a"/>', 3, {"status": "failed", "why": "pytest ended with 3"}),
    ],
)  # fmt: skip
def test_a_run_of_no_test_has_failed(tmp_path, cases, code, expected):
    report = tmp_path / "gpu.xml"
    report.write_text(REPORT.format(cases))
    row = device.tested(report, code)
    assert {key: row.get(key) for key in expected} == expected
    assert ("status" in row) == ("status" in expected)
    assert device.tested(tmp_path / "none.xml", 1)["status"] == "failed"
    assert device.tested(tmp_path / "none.xml", None)["status"] == "out of time"
    assert device.tested(report, None)["status"] == ("failed" if "status" in expected and code != 3 else "out of time")


def test_errors_are_seen():
    answer = np.array([1.0, 2.0])
    eps = np.finfo(np.float32).eps
    assert operations.error(np.array([1.0, 2.0 + 6 * eps]), answer, "float32") == pytest.approx(3)
    assert operations.error(np.array([1.0 + 6 * eps, 2.0]), (answer, answer), "float32") == pytest.approx(6)
    assert operations.error(np.array([1.0, np.nan]), answer, "float32") == float("inf")
    assert operations.error(answer, answer, "float64") == 0


@emulated
def test_a_wrong_kernel_is_seen(cupy, monkeypatch):
    goldens = operations.Goldens()
    some = [each for each in operations.operations() if each.few and each.family in ("products", "tensor")]
    plain = cuda_ops.add_products

    def off(block, F, XtF):
        plain(block, F, XtF)
        XtF[0, 0] *= 1 + 1e-4

    assert not any(operations.compared(each, goldens)["wrong"] for each in some)
    monkeypatch.setattr(cuda_ops, "add_products", off)
    rows = [operations.compared(each, goldens) for each in some]
    assert rows and all(row["wrong"] and not row["bits_as_emulator"] for row in rows)


# ---- the user's command ---------------------------------------------------------------------------------------------


@emulated
def test_figures_of_a_user_are_kept_one_by_one(cupy, monkeypatch, tmp_path, capsys):
    """Figures come before the tests; a part that fails is a row; numpy's booleans are written."""
    seen = []

    def iterations(self):
        yield self._row("mnist", self.X["mnist"], 15, "hals iteration", np.float64(0.1), wrong=np.bool_(False))
        seen.append(len((tmp_path / "gpu.jsonl").read_text().splitlines()))
        raise RuntimeError("out of luck")

    def part(name):
        def run(self):
            seen.append(name)
            yield {"case": name, "skipped": "here"}

        return run

    monkeypatch.setattr(gpu.Bench, "iterations", iterations)
    for name in ("whole_calls", "divergence", "search", "large", "peers", "parity", "sanitizer"):
        monkeypatch.setattr(gpu.Bench, name, part(name))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--scale", "0.002", "--out", str(tmp_path / "gpu.jsonl")])
    assert gpu.main() == 1
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert seen == [1, "whole_calls", "divergence", "search", "large", "peers", "parity", "sanitizer"]
    assert [row.get("failed") for row in rows[:2]] == [None, "RuntimeError: out of luck"]
    assert rows[0]["wrong"] is False and rows[0]["seconds"] == 0.1
    assert "out of luck" in capsys.readouterr().out


def test_rows_hold_what_numpy_gives(tmp_path):
    row = {
        "a": np.float64(1.5),
        "b": np.bool_(True),
        "c": [np.int64(3)],
        "d": np.float32(np.nan),
        "e": {"f": np.uint8(1)},
    }
    records.append(tmp_path / "rows.jsonl", [row])
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {
        "a": 1.5,
        "b": True,
        "c": [3],
        "d": None,
        "e": {"f": 1},
    }


@emulated
def test_the_stand_in_replays_what_was_captured(cupy):
    parts, out = cupy.asarray(np.ones((2, 8))), cupy.zeros(8)
    cuda_ops._finish(cuda_ops._Parts(parts, 8, 2), cupy.zeros(8))
    cupy.cuda.runtime.deviceSynchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        cuda_ops._finish(cuda_ops._Parts(parts, 8, 2), out)
        graph = stream.end_capture()
        assert float(out.get().sum()) == 0
        graph.launch()
        graph.launch(stream)
        assert float(out.get().sum()) == 2 * 2 * 8
        with pytest.raises(fake_cupy.CUDARuntimeError, match="no capture has begun"):
            stream.end_capture()
    with pytest.raises(fake_cupy.CUDARuntimeError, match="null stream"):
        fake_cupy.Stream.null.begin_capture()
