"""How kernels are compiled and kept: Numba's internals missing, its folders read-only, and its settings left alone."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import nmfcore

PACKAGE = os.path.dirname(nmfcore.__file__)
FIT = """
import sys, warnings
import numpy as np
from nmfcore import NMF
from nmfcore.backends.kernels import _decorators

warnings.simplefilter("ignore")
X = np.random.default_rng(0).random((60, 20)) + 0.1
arrays = []
for solver in sys.argv[2:]:
    model = NMF(3, solver=solver, init="random", random_state=0, max_iter=15, tol=0)
    arrays += [model.fit_transform(X), model.components_]
np.savez(sys.argv[1], *arrays)
"""
SOLVERS = ("cd", "hals", "mu")


def run(script, *arguments, **changes):
    """Run a script in a process of its own; a variable that is None is removed from the environment."""
    environment = {name: value for name, value in (os.environ | changes).items() if value is not None}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done


def arrays_of(path):
    with np.load(path) as archive:
        return [archive[name] for name in archive.files]


# --- names of Numba's inside that are missing ------------------------------------------------------


WITHOUT = """
import numba, numba.core.compiler, numba.core.typed_passes
del numba.core.typed_passes.AnnotateTypes
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # compiles kernels anew
def test_without_numbas_inside_the_stock_pipeline_gives_the_same_to_rounding(tmp_path):
    cache = str(tmp_path / "cache")
    check = "assert _decorators.ENTRY['pipeline_class'] is None and _decorators.ENTRY['cache'] is True\n"
    done = run(WITHOUT + FIT + check, tmp_path / "stock.npz", *SOLVERS, NUMBA_CACHE_DIR=cache)
    assert done.stderr.count("stock compiler of Numba") == 1
    assert "AnnotateTypes" in done.stderr and len(done.stderr.splitlines()) == 1
    assert any(name.endswith(".nbi") for _, _, names in os.walk(cache) for name in names), "nothing was kept"
    run(FIT, tmp_path / "usual.npz", *SOLVERS)
    usual, stock = arrays_of(tmp_path / "usual.npz"), arrays_of(tmp_path / "stock.npz")
    assert len(usual) == len(stock) == 2 * len(SOLVERS)
    for one, other in zip(usual, stock, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-7, atol=1e-12)


EACH = """
import importlib, logging, sys
import numba, numba.core.caching, numba.core.codegen, numba.core.compiler, numba.core.typed_passes

said = []
logging.getLogger("nmfcore").addHandler(type("Kept", (logging.Handler,), {"emit": lambda _, r: said.append(r)})())
for place in sys.argv[1:]:
    home, _, name = place.rpartition(".")
    try:
        owner = importlib.import_module(home)
    except ModuleNotFoundError:
        module, _, cls = home.rpartition(".")
        owner = getattr(importlib.import_module(module), cls)
    kept = getattr(owner, name)
    delattr(owner, name)
    for loaded in [key for key in sys.modules if key.startswith("nmfcore.backends")]:
        del sys.modules[loaded]
    from nmfcore.backends.kernels import _caching
    assert _caching.KernelCompiler is None, place
    setattr(owner, name, kept)
    assert len(said) == 1, (place, said)
    record = said.pop()
    assert record.name == "nmfcore" and record.levelname == "WARNING" and name in record.getMessage()
del sys.modules["nmfcore.backends.kernels._caching"]
again = importlib.import_module("nmfcore.backends.kernels._caching")
assert again.KernelCompiler is not None and said == []
"""


def test_any_missing_name_is_noticed_when_kernels_are_imported():
    run(
        EACH,
        "numba.core.codegen.JITCodeLibrary",
        "numba.core.codegen.CPUCodeLibrary._finalize_final_module",
        "numba.core.compiler.CompilerBase",
        "numba.core.compiler_machinery.PassManager.add_pass_after",
        "numba.core.typed_passes.AnnotateTypes",
        "numba.core.caching._SourceFileBackedLocatorMixin",
        "numba.core.caching.CacheImpl._locator_classes",
    )


@pytest.mark.parametrize("place", ["numba.core.cgutils.for_range_slice", "numba.core.base.BaseContext.make_array"])
def test_kernels_that_cannot_be_built_name_the_versions_that_work(place):
    name = place.rpartition(".")[2]
    script = f"""
import numba, numba.core.base, numba.core.cgutils, numba.extending
del {place}
try:
    from nmfcore.backends.kernels import _simd
except ImportError as error:
    print(error)
"""
    said = run(script).stdout
    assert name in said and "numba 0.60 to" in said and len(said.splitlines()) == 1


# --- what is kept is as new as its source ----------------------------------------------------------


SQUARES = """
import sys
import numpy as np

sys.path.insert(0, sys.argv[1])
import nmfcore
from nmfcore.backends import cpu

assert nmfcore.__file__.startswith(sys.argv[1]), nmfcore.__file__
out = np.empty(2)
cpu.squares(cpu.cut(np.ones((2, 3)), (0, 2), 64), out)
print(*out)
"""


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("changed", ["kernels/reading.py", "operations.py"])
def test_a_kernel_is_compiled_again_when_any_file_that_it_contains_changes(tmp_path, changed, stock):
    """Numba compares only the file of the kernel itself with what it keeps; this one is made of functions of others."""
    shutil.copytree(PACKAGE, tmp_path / "nmfcore", ignore=shutil.ignore_patterns("__pycache__"))
    source = tmp_path / "nmfcore" / "backends" / changed
    script = (WITHOUT if stock else "") + SQUARES

    def kept_after_a_run():
        folder = tmp_path / "cache"
        said = run(script, tmp_path, NUMBA_CACHE_DIR=str(folder)).stdout
        assert said == "3.0 3.0\n"
        return {path for path in files_below(folder) if path.endswith(".nbc")}

    first = kept_after_a_run()
    assert first and kept_after_a_run() == first
    source.write_text(source.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert kept_after_a_run() - first, "the kernel of the file as it was is still in use"


# --- the folder, and the settings of the process ---------------------------------------------------


READ_ONLY = """
import tempfile
stock = tempfile.TemporaryFile
def refuse(*arguments, dir=None, **options):  # the tests may run as root, whom no permission stops
    if "nmfcore" in str(dir) and "__pycache__" in str(dir):
        raise PermissionError(dir)
    return stock(*arguments, dir=dir, **options)
tempfile.TemporaryFile = refuse

import numba, numba.core.caching
from numba.core import event
def state():
    settings = {name: value for name, value in vars(numba.config).items() if name.isupper()}
    listeners = {kind: list(found) for kind, found in event._registered.items() if found}
    return settings, listeners, list(numba.core.caching.CacheImpl._locator_classes), numba.core.caching.FunctionCache
before = state()
"""

LEFT_ALONE = """
after = state()
assert before == after, [pair for pair in zip(before, after) if pair[0] != pair[1]]
from nmfcore.backends.kernels import _caching
assert _caching.KernelCompiler.kept
print(_caching.KernelCompiler.folder)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # compiles kernels anew
def test_numbas_settings_are_left_alone_where_our_folder_keeps_the_kernels(tmp_path):
    """Neither __pycache__ nor the user's cache can be written: the kernels, and only they, go to a folder of ours."""
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("a file, in which no folder can be made")
    (tmp_path / "tmp").mkdir()
    other = tmp_path / "other.py"
    other.write_text("import numba\n\n@numba.njit(cache=True)\ndef twice(x):\n    return 2 * x\n")
    places = {"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": str(nowhere), "TMPDIR": str(tmp_path / "tmp")}
    theirs = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport other\nassert other.twice(2) == 4\n"
    script = READ_ONLY + FIT + theirs + LEFT_ALONE
    cold = run(script, tmp_path / "cold.npz", "cd", **places)
    folder = cold.stdout.strip()
    assert folder.startswith(str(tmp_path / "tmp"))
    kept = {name.partition("-")[0] for _, _, names in os.walk(folder) for name in names if name.endswith(".nbc")}
    assert kept and {name.partition("_pass")[0] for name in kept} <= {"product.product", "descent.frobenius"}, kept
    assert list((tmp_path / "__pycache__").glob("other.twice*.nbi")), "Numba keeps other functions where it did"
    assert "compiles its kernels" in cold.stderr and "later processes load them" in cold.stderr

    before = {path: os.stat(path).st_mtime_ns for path in files_below(folder)}
    warm = run(script, tmp_path / "warm.npz", "cd", **places)
    assert "compiles its kernels" not in warm.stderr
    assert before == {path: os.stat(path).st_mtime_ns for path in files_below(folder)}, "kernels were compiled again"
    for one, other in zip(arrays_of(tmp_path / "cold.npz"), arrays_of(tmp_path / "warm.npz"), strict=True):
        np.testing.assert_array_equal(one, other)


def files_below(folder):
    return sorted(os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
