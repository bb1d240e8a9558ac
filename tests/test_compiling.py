"""A second process compiles a kernel for the first fit of a machine; whatever becomes of it, the fit is made."""

import os
import subprocess
import sys
import time

import numba
import numpy as np
import pytest

from nmfcore import NMF, cli
from nmfcore.backends import compiling
from nmfcore.backends.kernels import _caching, _decorators, _pairs, passes

WELL, ILL, NEVER = "pass", "raise SystemExit(3)", "import time; time.sleep(600)"


@pytest.fixture
def second(monkeypatch):
    """Begin with a second process that runs some code instead of compiling; return it."""
    monkeypatch.setattr(compiling, "_lies_in_cache", lambda kernel: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)

    def begun(code):
        monkeypatch.setattr(compiling, "_CODE", code.replace("{", "{{").replace("}", "}}"))
        assert compiling.begin("float32")
        return compiling._running["frobenius_pass"]

    yield begun
    compiling.end()


@pytest.mark.parametrize(("code", "made"), [(WELL, True), (ILL, False), (NEVER, False)])
def test_a_kernel_is_looked_for_again_only_where_the_process_ended_well(second, monkeypatch, code, made):
    process = second(code)
    assert not compiling.awaited("product_pass_0123"), "no other kernel is waited for"
    if code == NEVER:
        monkeypatch.setattr(compiling, "LONGEST", 0.05)
    assert compiling.awaited("frobenius_pass_0123") is made
    assert process.poll() is not None, "it has ended"
    assert not compiling.awaited("frobenius_pass_0123"), "it is waited for once"


def test_an_interrupted_wait_ends_the_process(second, monkeypatch):
    process = second(NEVER)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compiling.awaited("frobenius_pass_0123")
    assert process.poll() is not None


def test_it_is_not_begun_twice_nor_where_it_is_of_no_use(second, monkeypatch, tmp_path):
    process = second(NEVER)
    assert not compiling.begin("float32") and process.poll() is None
    compiling.end()
    assert process.poll() is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
        patch.setattr(os, "cpu_count", lambda: 1)
        assert not compiling.begin("float32"), "one processor"
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "_lies_in_cache", lambda kernel: True)
        patch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("all is compiled"))
        assert not compiling.begin("float32")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "nothing"))
        assert not compiling.begin("float32"), "no Python to be started"


@pytest.mark.parametrize("below", ["", "a-folder-of-numbas"])
def test_a_kernel_that_lies_in_the_cache_is_found(monkeypatch, tmp_path, below):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert not compiling._lies_in_cache("frobenius_pass")
    (tmp_path / below).mkdir(exist_ok=True)
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    (tmp_path / below / f"descent.frobenius_pass_{_decorators.DIGEST}-1.{version}.nbi").touch()
    assert compiling._lies_in_cache("frobenius_pass") and not compiling._lies_in_cache("product_pass")


def test_what_is_compiled_ahead_is_what_a_fit_of_pictures_calls():
    compiling.descent("float32")
    known = set(passes.frobenius_pass.overloads)
    X = np.random.default_rng(0).integers(0, 256, (40, 16)).astype(np.uint8)
    NMF(3, solver="hals", random_state=0, max_iter=25, tol=0).fit(X)  # more than 20: conjugate gradients
    assert set(passes.frobenius_pass.overloads) == known


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["fit"], True),
        (["fit", "pictures", "-k", "20"], True),
        (["fit", "images.idx3-ubyte.gz"], True),
        (["fit", "train.csv.gz"], False),
        (["fit", "faces.h5::X"], False),
        (["fit", "--solver", "mu"], False),
        (["fit", "--solver=mu"], False),
        (["fit", "-h"], False),
        (["info"], False),
    ],
)
def test_the_command_line_compiles_ahead_for_pictures(monkeypatch, options, expected):
    begun, ended = [], []
    monkeypatch.setattr(compiling, "begin", begun.append)
    monkeypatch.setattr(compiling, "end", lambda: ended.append(len(begun)))
    monkeypatch.setattr(cli, "_run", lambda arguments: 0)
    assert cli.main(options) == 0
    assert begun == (["float32"] if expected else [])
    assert ended == ([1] if expected else []), "what is not waited for ends with the command"


def test_kernels_of_the_cache_are_loaded_without_the_compiler():
    """What Numba can compile is loaded when something is compiled: here a function that is not ours."""
    fit = "import sys, numpy as np, numba; from nmfcore import NMF; NMF(2, max_iter=2, tol=0).fit(np.eye(4))\n"
    again = fit + (
        "assert 'numba.typed.typeddict' not in sys.modules, 'a kernel was compiled'\n"
        "assert numba.njit(lambda a: np.sort(a)[0] + len(set(a)))(np.array([2, 1, 2])) == 3\n"
    )
    for code in (fit, again):  # the first compiles what has not been compiled before
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_importing_it_loads_no_numba():
    code = "import sys, nmfcore.backends.compiling; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_second_process_ends_with_this_one(tmp_path):
    code = (
        "import sys; from nmfcore.backends import compiling; compiling._lies_in_cache = lambda kernel: False; "
        "compiling._CODE = 'import time; time.sleep(600)'; import os; os.sched_getaffinity = lambda process: {0, 1}; "
        "assert compiling.begin('float32'); print(compiling._running['frobenius_pass'].pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with pytest.raises(OSError):
        os.kill(int(done.stdout), 0)


def test_passes_that_kernels_go_without_are_passes_of_numbas():
    """A name that Numba no longer has would be looked for in vain, and nobody would notice."""
    from numba.core.compiler import DefaultPassBuilder, Flags, StateDict

    state = StateDict()
    state.flags, state.func_ir = Flags(), None
    known = {each.name() for each, _ in DefaultPassBuilder.define_nopython_pipeline(state).passes}
    pipeline = sys.modules[_caching.KernelCompiler.__module__]
    assert not pipeline._NOT_NEEDED - known


def test_the_larger_and_the_smaller_of_two_numbers_are_those_of_python():
    more, less = _pairs.max, _pairs.min
    both = numba.njit(lambda a, b: (more(a, b), less(a, b)))
    for a, b in [(1.5, -2.0), (-2.0, 1.5), (np.nan, 1.0), (1.0, np.nan), (0.0, -0.0), (-0.0, 0.0)]:
        expected = np.array([max(a, b), min(a, b)])
        assert np.array(both(a, b)).tobytes() == expected.tobytes(), (a, b)
    assert both(3, 2.5) == (3.0, 2.5) and both(-1, 2) == (2, -1)
