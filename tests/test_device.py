"""Where to compute: the choice, the sentences when there is no GPU, and whose arrays come back."""

import importlib.util
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
from scipy import sparse

import nmfcore
from nmfcore import NMF, MiniBatchNMF, cli, images
from nmfcore.backends import cuda
from nmfcore.estimators._validation import Checks


class Foreign:
    """An array of some library on a GPU, as far as anybody can tell without importing it."""

    def __init__(self, shape=(4, 3), dtype=np.float32, number=0):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.device = types.SimpleNamespace(id=number)

    __cuda_array_interface__ = property(lambda self: {"shape": self.shape})


class Dlpack:
    """An array that only says where it is."""

    def __init__(self, kind, number=0):
        self._where = (kind, number)

    def __dlpack_device__(self):
        return self._where


@pytest.fixture(autouse=True)
def forgetful():
    cuda._probed.cache_clear()
    yield
    cuda._probed.cache_clear()


@pytest.fixture
def stub(monkeypatch):
    """A cupy whose parts a test can break."""
    made = types.ModuleType("cupy")
    made.__version__ = "14.2.0"
    made.__spec__ = types.SimpleNamespace(name="cupy", loader=None)
    made.ones = lambda shape, dtype: np.ones(shape, dtype)

    class Device:
        def __init__(self, number=0):
            self.id = number

        def __enter__(self):
            return self

        def __exit__(self, *stop):
            return None

    made.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=lambda: 1), Device=Device)
    monkeypatch.setitem(sys.modules, "cupy", made)
    return made


def without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


# --- the five sentences --------------------------------------------------------------------------


def test_without_cupy(monkeypatch):
    without_cupy(monkeypatch)
    assert "CuPy is not installed: pip install 'nmfcore[gpu]'" in cuda.probe()


def test_a_cupy_that_does_not_import(monkeypatch, stub):
    def broken():
        raise ImportError("libsomething.so")

    monkeypatch.setattr(cuda, "cupy", broken)
    assert "does not import (ImportError: libsomething.so)" in cuda.probe()


def test_a_page_of_complaints_becomes_one_sentence(monkeypatch, stub):
    banner = "=" * 64

    def broken():
        said = f"\n{banner}\nFailed to import CuPy.\n\nOriginal error:\n  OSError: no\n  libcudart\n{banner}\n"
        raise ImportError(said)

    monkeypatch.setattr(cuda, "cupy", broken)
    assert "does not import (OSError: no libcudart): pip" in cuda.probe()
    monkeypatch.undo()
    cuda._probed.cache_clear()

    def missing(shape, dtype):
        raise ImportError('\nFailure finding "libcublas.so"\nSet CUDA_PATH.\n')

    stub.ones = missing
    monkeypatch.setitem(sys.modules, "cupy", stub)
    assert '(ImportError: Failure finding "libcublas.so" Set CUDA_PATH.)' in cuda.probe()


def test_no_driver(stub):
    def none():
        raise RuntimeError("cudaErrorInsufficientDriver")

    stub.cuda.runtime.getDeviceCount = none
    assert "no usable NVIDIA driver (cudaErrorInsufficientDriver)" in cuda.probe()


def test_no_device(stub):
    stub.cuda.runtime.getDeviceCount = lambda: 0
    assert "no CUDA device is visible" in cuda.probe()
    cuda._probed.cache_clear()

    def none():
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    stub.cuda.runtime.getDeviceCount = none
    assert "no CUDA device is visible" in cuda.probe()
    stub.cuda.runtime.getDeviceCount = lambda: 2
    assert "only 0 to 1 are visible to this process, cuda:2 is not" in cuda.probe(2)


def test_libraries_that_do_not_work(stub):
    def missing(shape, dtype):
        raise ImportError('Failure finding "libcublas.so"')

    stub.ones = missing
    assert "the CUDA libraries do not work (ImportError" in cuda.probe()
    cuda._probed.cache_clear()
    stub.ones = lambda shape, dtype: np.zeros(shape, dtype)
    assert "computes wrong results" in cuda.probe()


def test_one_that_works(stub):
    assert cuda.probe() is None


# --- the choice ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "CPU", ""])
def test_devices_that_nobody_knows(device):
    with pytest.raises(ValueError, match="is not known: it is None"):
        NMF(2, device=device).fit(np.ones((4, 3)))


def test_a_gpu_that_was_asked_for_is_never_the_cpu(monkeypatch):
    without_cupy(monkeypatch)
    X = np.random.RandomState(0).rand(8, 5)
    for run in (
        lambda: NMF(2, device="cuda").fit(X),
        lambda: NMF(2, device="cuda:1").fit_transform(X),
        lambda: NMF(2).fit(Foreign()),
    ):
        with pytest.raises(cuda.DeviceError, match=r"cannot be used: CuPy is not installed"):
            run()
    with pytest.raises(ValueError, match="is not known"):
        NMF(2, device="cuda:one").fit(X)
    plain = NMF(2, tol=0, max_iter=3, random_state=0).fit_transform(X)
    auto = NMF(2, tol=0, max_iter=3, random_state=0, device="auto").fit_transform(X)
    np.testing.assert_array_equal(auto, plain)


def test_X_decides_where_it_is_computed_on(stub):
    stub.cuda.runtime.getDeviceCount = lambda: 2
    host = np.ones((3, 2))
    assert cuda.resolve(None, host) is None
    assert cuda.resolve("cpu", host) is None
    assert cuda.resolve("cuda", host) == 0
    assert cuda.resolve("cuda:1", host) == 1
    assert cuda.resolve("auto", host) == 0
    assert cuda.resolve(None, Foreign(number=1)) == 1
    assert cuda.resolve("cuda", Foreign(number=1)) == 1
    assert cuda.resolve("auto", Foreign(number=1)) == 1
    with pytest.raises(ValueError, match="X is on cuda:1 and device='cpu'"):
        cuda.resolve("cpu", Foreign(number=1))
    with pytest.raises(ValueError, match="X is on cuda:1 and device='cuda:0'"):
        cuda.resolve("cuda:0", Foreign(number=1))


def test_cuda_is_cupys_current_device(stub):
    class Current(stub.cuda.Device):
        def __init__(self, number=1):
            super().__init__(number)

    stub.cuda.Device = Current
    stub.cuda.runtime.getDeviceCount = lambda: 2
    host = np.ones((3, 2))
    assert cuda.resolve("cuda", host) == cuda.resolve("auto", host) == 1
    assert cuda.resolve("cuda:0", host) == 0
    assert cuda.resolve("cuda", Foreign(number=0)) == 0


def test_only_cupy_can_tell_where_a_bare_interface_lives(stub):
    class Bare:
        __cuda_array_interface__ = {}

    stub.cuda.runtime.getDeviceCount = lambda: 2
    stub.asarray = lambda X: types.SimpleNamespace(device=types.SimpleNamespace(id=1))
    assert cuda.resolve(None, Bare()) == 1
    with pytest.raises(ValueError, match="X is on cuda:1 and device='cuda:0'"):
        cuda.resolve("cuda:0", Bare())


def test_auto_takes_the_cpu_for_what_the_gpu_lacks(stub, monkeypatch):
    X = sparse.random(20, 6, 0.5, "csr", random_state=0)

    def place(X, **settings):
        chosen = []
        with monkeypatch.context() as patched:
            patched.setattr(Checks, "place", lambda self, device: chosen.append(device) or 1 / 0)
            with pytest.raises(ZeroDivisionError):
                NMF(2, **settings).fit(X)
        return chosen

    assert place(X, device="auto") == [True]
    assert place(X, device="auto", solver="mu", beta_loss=1) == [True]
    assert place(X, device="auto", solver="mu", beta_loss=0.5) == [False]
    assert place(X.toarray(), device="auto", solver="mu", beta_loss=0.5) == [True]
    assert place(X, device="cuda", solver="mu", beta_loss=0.5) == [True]  # and raises later


def test_whose_array_it_is():
    def of(module, **attributes):
        return type("Array", (), {"__module__": module, **attributes})()

    assert cuda.kind_of(np.ones(2)) is None
    assert cuda.kind_of([[1.0]]) is None
    assert cuda.kind_of(of("cupy")) == "cupy"
    assert cuda.kind_of(of("cupyx.scipy.sparse._csr")) == "cupyx"
    assert cuda.kind_of(of("torch", is_cuda=True)) == "torch"
    assert cuda.kind_of(of("torch", is_cuda=False)) is None
    assert cuda.kind_of(Foreign()) == "cuda"
    assert cuda.kind_of(Dlpack(2)) == "cuda"
    assert cuda.kind_of(Dlpack(1)) is None
    assert cuda.kind_of(type("Mine", (type(of("torch")),), {"is_cuda": True})()) == "torch"
    assert cuda.kind_of(sparse.eye(3)) is None


# --- in and out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["torch", "array_library"])
def test_arrays_of_others_come_in_and_go_out_without_a_copy(monkeypatch, stub, library):
    """By DLPack both ways, of the module that made X."""
    stub.from_dlpack = lambda X: ("adopted", X)
    stub.asarray = lambda A: A
    other = types.ModuleType(library)
    other.from_dlpack = lambda A: ("given back", A)
    monkeypatch.setitem(sys.modules, library, other)

    class Tensor(Dlpack):
        __module__ = library
        is_cuda, layout = True, "torch.strided"

        def __dlpack__(self):
            raise AssertionError("nobody but CuPy asks for it")

        def __array_namespace__(self):
            return other

        def detach(self):
            return "detached"

        def get_device(self):
            return self._where[1]

        device = property(lambda self: types.SimpleNamespace(index=self._where[1]))

    X = Tensor(2, 1)
    stub.cuda.runtime.getDeviceCount = lambda: 2
    kind = cuda.kind_of(X)
    assert kind == library
    assert cuda.resolve(None, X) == 1
    assert cuda.adopt(X) == ("adopted", "detached" if library == "torch" else X)
    assert cuda.give_back("W", kind) == ("given back", "W")
    Tensor.layout = "torch.sparse_csr"
    if library == "torch":
        with pytest.raises(TypeError, match="give a dense one, or a cupyx"):
            cuda.adopt(X)


def test_bare_interfaces_come_back_as_cupys(stub):
    stub.asarray = lambda A: ("cupy", A)
    X = Foreign()
    assert cuda.adopt(X) == ("cupy", X)
    assert cuda.give_back("W", cuda.kind_of(X)) == ("cupy", "W")


@pytest.fixture
def card(stub):
    """CuPy's arrays as far as files and factors go: what is on the host, and a way to get it."""

    class ndarray:
        __module__ = "cupy"

        def __init__(self, host):
            self.host = np.asarray(host)

        shape = property(lambda self: self.host.shape)
        dtype = property(lambda self: self.host.dtype)
        device = types.SimpleNamespace(id=0)

        def __array__(self, *args, **kwargs):
            raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    stub.asnumpy = lambda A: A.host
    return ndarray


def test_models_leave_the_device_when_they_are_kept(card, tmp_path):
    X = np.random.default_rng(0).random((12, 5))
    model = NMF(2, max_iter=5, tol=0, random_state=0, device="cpu")
    W, H = model.fit_transform(X), model.components_
    model.components_ = card(H)
    assert type(model.components_) is card
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).components_, H)
    nmfcore.save(images.model_of(model, card(W)), tmp_path / "model.npz")
    kept = nmfcore.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(kept.components, H)
    np.testing.assert_array_equal(kept.W, W)
    assert "device" not in kept.parameters
    # and host data asks for host codes, wherever the model was learned
    expected = NMF(2, max_iter=5, tol=0, random_state=0).fit(X)
    np.testing.assert_array_equal(model.transform(X), expected.transform(X))
    np.testing.assert_array_equal(model.inverse_transform(W), W @ H)


def test_a_model_that_was_fitted_on_a_gpu_serves_without_one(monkeypatch, tmp_path):
    """What is asked for at fit time is a GPU; what a fitted model computes with is where its X is."""
    without_cupy(monkeypatch)
    X = np.random.default_rng(0).random((12, 5))
    model = NMF(2, max_iter=5, tol=0, random_state=0)
    W = model.fit_transform(X)
    codes, score, back = model.transform(X), model.score(X), model.inverse_transform(W)
    np.save(tmp_path / "X.npy", X)
    for device in ("cuda", "cuda:1", "auto"):
        served = pickle.loads(pickle.dumps(model.set_params(device=device)))
        np.testing.assert_array_equal(served.transform(X), codes)
        np.testing.assert_array_equal(served.transform(tmp_path / "X.npy"), codes)
        np.testing.assert_array_equal(served.inverse_transform(W), back)
        assert served.score(X) == score
        if device != "auto":
            with pytest.raises(cuda.DeviceError, match="CuPy is not installed"):
                served.fit(X)
            with pytest.raises(cuda.DeviceError, match="CuPy is not installed"):
                served.fit_transform(X)
    with pytest.raises(ValueError, match="is not known"):
        model.set_params(device="gpu").transform(X)
    with pytest.raises(cuda.DeviceError, match="X is on cuda:0"):
        model.set_params(device=None).transform(Foreign((12, 5)))


def test_factors_to_begin_with_may_live_on_a_device(card):
    rng = np.random.default_rng(0)
    X, W, H = rng.random((12, 5)), rng.random((12, 2)), rng.random((2, 5))
    settings = {"init": "custom", "max_iter": 3, "tol": 0}
    found = NMF(2, **settings).fit_transform(X, W=card(W), H=card(H))
    np.testing.assert_array_equal(found, NMF(2, **settings).fit_transform(X, W=W, H=H))


@pytest.mark.parametrize(
    ("X", "text"),
    [
        (np.ones(5), "Expected 2D array, got 1D array instead"),
        (np.ones((0, 5)), r"Found array with 0 sample\(s\) \(shape=\(0, 5\)\) while a minimum of 1 is required by NMF"),
        (np.ones((5, 0)), r"0 feature\(s\)"),
        (np.ones((4, 3)) * 1j, "Complex data not supported"),
        (np.ones((4, 3), "m8[s]"), "X on a device has dtype timedelta64"),
    ],
)
def test_an_X_on_a_device_is_checked_as_scikit_learn_does(card, X, text):
    with pytest.raises(ValueError, match=text):
        NMF(2).fit(card(X))


def test_features_are_counted(card):
    model = NMF(2, max_iter=2, tol=0).fit(np.random.default_rng(0).random((12, 5)))
    with pytest.raises(ValueError, match="X has 4 features, but NMF is expecting 5 features as input"):
        model.transform(card(np.ones((3, 4))))


def test_mini_batches_stay_on_the_cpu(stub):
    X = np.random.RandomState(0).rand(8, 5)
    expected = MiniBatchNMF(2, max_iter=2, tol=0, random_state=0).fit(X).components_
    found = MiniBatchNMF(2, max_iter=2, tol=0, random_state=0, device="auto").fit(X).components_
    np.testing.assert_array_equal(found, expected)
    for model, given in ((MiniBatchNMF(2, device="cuda"), X), (MiniBatchNMF(2), Foreign())):
        with pytest.raises(NotImplementedError, match="MiniBatchNMF computes on the CPU"):
            model.fit(given)


def test_nobody_imports_cupy_who_does_not_ask_for_it():
    code = (
        "import sys, numpy as np, nmfcore\n"
        "nmfcore.NMF(2, max_iter=2, tol=0, solver='hals').fit(np.ones((6, 5)) + np.eye(6, 5))\n"
        "sys.exit('cupy' in sys.modules or 'cupyx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


# --- the command line ----------------------------------------------------------------------------


def test_fit_says_why_there_is_no_gpu(monkeypatch, capsys, tmp_path):
    without = cuda.probe() is not None
    if not without:
        pytest.skip("there is a GPU")
    assert cli.main(["fit", "--device", "cuda", "--out", str(tmp_path / "made")]) == 2
    assert "device='cuda:0' cannot be used" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "made").exists()


def test_info(capsys):
    assert cli.main(["info"]) == 0
    told = capsys.readouterr().out
    for name in ("nmfcore", "numpy", "numba", "scikit-learn", "threads", "SIMD", "GPU", "extra gpu"):
        assert name in told
    if cuda.probe() is not None:
        assert "none: " in told
