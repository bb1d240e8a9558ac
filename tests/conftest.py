"""Fixtures for every test: the digits, a seeded generator, and the folder with real data."""

import os
import signal
import warnings
import zlib
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from sklearn.datasets import load_digits


def pytest_addoption(parser):
    parser.addoption(
        "--few-cases",
        action="store_true",
        help="run the first case of each parametrised test only, but for those that are marked in_order",
    )


def pytest_collection_modifyitems(config, items):
    """Keep few cases where that is asked for: versions of libraries matter to what a test calls, not to every case."""
    if not config.getoption("--few-cases"):
        return
    cases = {}
    for item in items:
        every = item.get_closest_marker("in_order") is not None
        cases.setdefault(item.nodeid if every else item.nodeid.split("[")[0], item)
    kept = {id(item) for item in cases.values()}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]


# Kernels compile inside the first example, so there is no deadline; CI draws the same examples in
# every run, so that a red run is about the change and can be repeated.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


# A shell starts what runs in the background with SIGINT ignored, and then no test could press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_folder():
    """Return the folder with real data sets, named by NMFCORE_DATA; without it the test skips."""
    named = os.environ.get("NMFCORE_DATA")
    if not named:
        pytest.skip("real data: set NMFCORE_DATA to the folder that holds mnist/, faces/, text/")
    folder = Path(named)
    if not folder.is_dir():
        # Skipping here would hide a typing error in the CI's settings.
        pytest.fail(f"NMFCORE_DATA names {named!r}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def digits():
    """Return scikit-learn's digits, 1797×64 float64 in 0…16; read-only, as tests share it."""
    X = np.ascontiguousarray(load_digits().data)
    X.setflags(write=False)
    return X


@pytest.fixture(params=["emulated", pytest.param("real", marks=pytest.mark.gpu)])
def cupy(request, monkeypatch):
    """Give CuPy: a stand-in whose kernels the emulator runs, and the real one where a GPU answers."""
    from nmfcore.backends import cuda, cuda_ops

    if request.param == "real":
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # what CuPy warns of at its import is no reason to skip
            reason = cuda.probe()
        if reason is not None:
            pytest.skip(f"needs a GPU: {reason}")
        yield cuda.cupy()
        return
    from cuda_emulator import fake_cupy, module

    if module.unavailable():
        pytest.skip(module.unavailable())
    yield fake_cupy.install(monkeypatch)
    cuda._probed.cache_clear()
    for cached in vars(cuda_ops).values():  # kernels, plans that hold them, and what lies on the device
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()


emulated = pytest.mark.parametrize("cupy", ["emulated"], indirect=True)


@pytest.fixture
def rng(request):
    """Return a generator of this test's own; the seed is shown when the test fails."""
    seed = zlib.crc32(request.node.nodeid.encode())
    print(f"rng: numpy.random.default_rng({seed})")
    return np.random.default_rng(seed)
