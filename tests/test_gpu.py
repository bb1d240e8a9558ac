"""What only a card can show: more than 2³¹ numbers, memory given back, torch, streams. ``pytest -m gpu`` on one.

Tests that ask for `cupy` run on the stand-in, too, so that what they call is known to be there.
"""

import gc
import importlib
import warnings

import numpy as np
import pytest

from nmfcore import NMF
from nmfcore.backends import cuda, cuda_ops
from nmfcore.search.cosine import cosine_topk

with warnings.catch_warnings():
    warnings.simplefilter("default")  # what CuPy warns of at its import is no reason to skip everything
    REASON = cuda.probe()
on_a_card = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None, reason=f"needs a GPU: {REASON}"),
]


@pytest.fixture(params=[pytest.param("real", marks=on_a_card)])
def gpu(request):
    cupy = cuda.cupy()
    yield cupy
    cupy.get_default_memory_pool().free_all_blocks()


def free(cupy):
    gc.collect()
    cupy.cuda.runtime.deviceSynchronize()
    cupy.get_default_memory_pool().free_all_blocks()
    return cupy.cuda.runtime.memGetInfo()[0]


def test_more_numbers_than_an_int_counts(gpu):
    n, m, k = (2**31 // 1024) + 70_000, 1024, 4
    if free(gpu) < 2.2 * n * m:
        pytest.skip(f"needs {2.2 * n * m / 1e9:.0f} GB of the card")
    rng = gpu.random.default_rng(0)
    parts = rng.random((k, m), dtype=gpu.float32)
    X = gpu.empty((n, m), gpu.uint8)
    for lo in range(0, n, 100_000):
        W = rng.random((min(100_000, n - lo), k), dtype=gpu.float32)
        X[lo : lo + 100_000] = (60 * W @ parts).astype(gpu.uint8)
    model = NMF(k, solver="hals", init="random", random_state=0, max_iter=30, tol=0).fit(X)
    W = model.transform(X[-1000:])
    tail = X[-1000:].astype(gpu.float32)  # the rows beyond 2³¹
    assert float(gpu.linalg.norm(tail - W @ model.components_) / gpu.linalg.norm(tail)) < 0.1
    norm = float(sum(gpu.square(X[lo : lo + 100_000], dtype=gpu.float32).sum() for lo in range(0, n, 100_000))) ** 0.5
    assert model.reconstruction_err_ / norm < 0.1


def test_no_memory_is_left_behind(gpu):
    X = gpu.random.default_rng(0).random((20_000, 500), dtype=gpu.float32)

    def fit(solver, **more):
        NMF(8, solver=solver, init="random", random_state=0, max_iter=5, tol=0, **more).fit(X)

    for solver, more in (("hals", {}), ("cd", {}), ("mu", {"beta_loss": "kullback-leibler"})):
        fit(solver, **more)  # modules are loaded, once
        before = free(gpu)
        for _ in range(5):
            fit(solver, **more)
        assert before - free(gpu) < 1 << 20, solver


def test_memory_is_given_back_after_an_exception(gpu):
    X = gpu.random.default_rng(0).random((20_000, 500), dtype=gpu.float32)

    def stop(progress):
        raise RuntimeError("enough")

    def fit():
        with pytest.raises(RuntimeError, match="enough"):
            NMF(8, solver="hals", init="random", random_state=0, callback=stop).fit(X)

    fit()
    before = free(gpu)
    fit()
    assert before - free(gpu) < 1 << 20


def test_torch_in_torch_out(gpu):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    X = torch.rand(3000, 200, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    model = NMF(6, solver="hals", init="random", random_state=0, max_iter=20, tol=0)
    W = model.fit_transform(X)
    assert isinstance(W, torch.Tensor) and W.is_cuda and isinstance(model.components_, torch.Tensor)
    same = NMF(6, solver="hals", init="random", random_state=0, max_iter=20, tol=0)
    expected = same.fit_transform(gpu.from_dlpack(X))
    np.testing.assert_array_equal(W.cpu().numpy(), gpu.asnumpy(expected))


def test_dlpack_shares_memory(gpu):
    X = gpu.random.default_rng(0).random((500, 40), dtype=gpu.float32)

    class Other:
        """An array of another library."""

        __dlpack__, __dlpack_device__ = X.__dlpack__, X.__dlpack_device__
        shape, dtype = X.shape, X.dtype

    assert cuda.adopt(Other()).data.ptr == X.data.ptr


def test_the_callers_stream_is_kept(cupy):
    rng = np.random.RandomState(0)
    X = rng.rand(300, 40).astype(np.float32)

    def fit():
        return cupy.asnumpy(
            NMF(6, solver="hals", init="random", random_state=0, max_iter=10, tol=0).fit_transform(cupy.asarray(X))
        )

    expected = fit()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        np.testing.assert_array_equal(fit(), expected)
        assert cupy.cuda.get_current_stream() == stream


def test_process_wide_settings_are_left_alone(cupy):
    geterr = importlib.import_module("cupyx").geterr
    before = cupy.cuda.Device().id, cupy.get_default_memory_pool().get_limit(), geterr()
    X = cupy.asarray(np.random.RandomState(0).rand(200, 30).astype(np.float32))
    NMF(5, solver="hals", init="random", random_state=0, max_iter=3, tol=0).fit(X)
    assert before == (cupy.cuda.Device().id, cupy.get_default_memory_pool().get_limit(), geterr())


@pytest.mark.parametrize("k", [25, 31, 32, 33, 64, 65, 100])
@pytest.mark.parametrize("stored", ["uint8", "uint16", "float16", "float32"])
def test_products_on_tensor_cores(rng, cupy, stored, k):
    """Every type that they read, both widths of their tile, rows that begin anywhere: as good as in float32."""
    for n, m, start, gap in ((67, 71, 1, 0), (33, 45, 0, 3), (290, 8, 0, 0)):
        if stored.startswith("uint"):
            memory = rng.integers(0, np.iinfo(stored).max, start + n * (m + gap), stored, endpoint=True)
        else:
            memory = rng.random(start + n * (m + gap)).astype(stored)
        F, Ht = rng.standard_normal((n, k)).astype(np.float32), rng.standard_normal((m, k)).astype(np.float32)
        X = cupy.asarray(memory)[start:].reshape(n, m + gap)[:, :m]
        block = cuda_ops.cut(X, (0, n))
        F_d, Ht_d = cupy.asarray(F), cupy.asarray(Ht)
        assert cuda_ops._tensor(k, X.dtype, F_d.dtype)
        out, XtF = cupy.empty((n, k), np.float32), cupy.zeros((m, k))
        cuda_ops.products(block, Ht_d, out)
        cuda_ops.add_products(block, F_d, XtF)
        D = memory[start:].reshape(n, m + gap)[:, :m].astype(np.float64)
        for found, A, B in ((out, D, Ht), (XtF, D.T, F)):
            size = np.abs(A) @ np.abs(B).astype(np.float64)
            assert (np.abs(cuda_ops.to_numpy(found) - A @ B.astype(np.float64)) <= 5e-7 * size).all(), (
                n,
                m,
                start,
                gap,
            )


def test_search_of_seventy_thousand(gpu):
    rng = np.random.RandomState(0)
    codes = np.maximum(rng.randn(70_000, 15), 0).astype(np.float32)
    scores, rows = cosine_topk(gpu.asarray(codes), gpu.asarray(codes), 10)
    few = rng.choice(70_000, 200, replace=False)
    expected = cosine_topk(codes[few], codes, 10)
    np.testing.assert_allclose(gpu.asnumpy(scores)[few], expected[0], rtol=0, atol=4e-15)
    assert (gpu.asnumpy(rows)[few] == expected[1]).mean() > 0.999
