"""scikit-learn's own tests of NMF, unchanged, run against nmfcore.

The installed ``sklearn/decomposition/tests/test_nmf.py`` runs in a process of its own with the
plugin ``sklearn_patch``: the names it imports are nmfcore's, and scikit-learn's implementation
raises whenever it is reached.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sklearn

TESTS = Path(__file__).parent
SKLEARN = Path(sklearn.__file__).parent
TEST_FILE = SKLEARN / "decomposition" / "tests" / "test_nmf.py"

# Tests that cannot apply because of a deviation listed in CONTRACT.md: name → reason.
INAPPLICABLE = {
    "test_minibatch_nmf_partial_fit": (
        "The caller's arrays are never written (defect e). The test gives one H to two models; in "
        "scikit-learn both write to it and hold it as components_, so it compares an array with "
        "itself: its batches X[j : j + 10] are not those of fit, and with copies of H it fails "
        "there too. test_parity.py::test_minibatch_partial_fit_is_fit is the test it means to be."
    ),
}

# What must not be delegated; the plugin reports what it made raise.
MUST_RAISE = {
    "_fit_coordinate_descent",
    "_fit_multiplicative_update",
    "_update_coordinate_descent",
    "_update_cdnmf_fast",
    "_multiplicative_update_w",
    "_multiplicative_update_h",
    "_initialize_nmf",
    "_beta_divergence",
    "_special_sparse_dot",
    "non_negative_factorization",
    "NMF.fit_transform",
    "NMF._fit_transform",
    "NMF.transform",
    "MiniBatchNMF.fit_transform",
    "MiniBatchNMF._minibatch_step",
    "MiniBatchNMF.partial_fit",
}


def run(folder, *extra, target=TEST_FILE):
    """Run pytest with the plugin in a process of its own; return its report and its output."""
    report = folder / "report.json"
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = dict(os.environ)
    paths = [str(TESTS), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["SKLEARN_PATCH_REPORT"] = str(report)
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", str(target), "-p", "sklearn_patch"]
    command += ["-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider", "-q"]
    if target == TEST_FILE:
        command += ["--rootdir", str(SKLEARN), "--confcutdir", str(SKLEARN)]
    command += extra
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
    output = (done.stdout + done.stderr)[-8000:]
    if not report.exists():
        pytest.fail(f"pytest ended without a report:\n{output}")
    return json.loads(report.read_text()), output


def test_sklearn_own_tests_pass(tmp_path):
    if not TEST_FILE.exists():
        pytest.fail(
            f"scikit-learn {sklearn.__version__} is installed without {TEST_FILE}; "
            "install it from a wheel that ships its tests"
        )
    here = TEST_FILE.relative_to(SKLEARN).as_posix()
    options = [f"--deselect={here}::{name}" for name in INAPPLICABLE]
    report, output = run(tmp_path, *options)

    missing = MUST_RAISE - set(report["sabotaged"])
    assert not missing, f"left able to do the work: {sorted(missing)}"

    failed = [name for name, outcome in report["outcomes"].items() if outcome != "passed"]
    assert not failed, f"{len(failed)} not passed: {failed}\n{output}"

    passed = [name for name, outcome in report["outcomes"].items() if outcome == "passed"]
    assert len(passed) > 0
    assert sorted(passed) == sorted(report["collected"])
    assert report["exitstatus"] == 0, output

    left_out = {name.split("::", 1)[1].split("[")[0] for name in report["deselected"]}
    assert left_out == {name.split("[")[0] for name in INAPPLICABLE}


def test_what_is_inapplicable_fails(tmp_path):
    """The list is exactly what cannot pass: an entry that passes has to go."""
    if INAPPLICABLE:
        report, output = run(tmp_path, "-k", " or ".join(INAPPLICABLE))
        outcomes = {name.split("::", 1)[1]: value for name, value in report["outcomes"].items()}
        assert outcomes == dict.fromkeys(INAPPLICABLE, "failed"), output


def test_patched_run_would_notice_delegation(tmp_path):
    """The guard itself can fail: a call of scikit-learn's own code is reported as such."""
    (tmp_path / "test_delegates.py").write_text(
        "import sys\n"
        "import numpy as np\n"
        "import pytest\n"
        "from sklearn.decomposition import NMF, MiniBatchNMF, non_negative_factorization\n"
        "from sklearn.decomposition import _nmf as nmf\n"
        "import sklearn_patch\n"
        "def test_function():\n"
        "    with pytest.raises(sklearn_patch.Delegated):\n"
        "        sklearn_patch.ORIGINAL._initialize_nmf(np.ones((3, 2)), 1)\n"
        "def test_class():\n"
        "    with pytest.raises(sklearn_patch.Delegated):\n"
        "        sklearn_patch.ORIGINAL.NMF(2).fit(np.ones((3, 2)))\n"
        "def test_compiled():\n"
        "    with pytest.raises(sklearn_patch.Delegated):\n"
        "        sklearn_patch.KERNELS._update_cdnmf_fast(None, None, None, None)\n"
        "def test_fails():\n"
        "    assert NMF(1) is None\n"
    )
    report, output = run(tmp_path, target=tmp_path / "test_delegates.py")
    outcomes = {name.split("::")[-1]: value for name, value in report["outcomes"].items()}
    assert outcomes == {
        "test_function": "passed",
        "test_class": "passed",
        "test_compiled": "passed",
        "test_fails": "failed",
    }, output
    assert report["exitstatus"] == 1
