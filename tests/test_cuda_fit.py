"""Whole fits on the emulated device: the solvers' own code, the real kernels, against the CPU's answers."""

import numpy as np
import pytest
from conftest import emulated
from cuda_emulator import fake_cupy
from scipy import sparse

from nmfcore import NMF, non_negative_factorization
from nmfcore.backends import cuda, cuda_ops
from nmfcore.loop import solve
from nmfcore.rows import device as device_rows
from nmfcore.search.cosine import cosine_topk
from nmfcore.starts import samples

pytestmark = pytest.mark.usefixtures("cupy")


def pixels(rng, n=90, m=33, k=5, dtype=np.uint8, layout="C"):
    X = rng.random((n, k)) ** 3 @ rng.random((k, m)) ** 3
    X = np.round(255 * X / X.max() * (rng.random((n, m)) < 0.8)).astype(dtype)
    return sparse.csr_matrix(X.astype(float)) if layout == "csr" else X


def start(rng, X, k, dtype):
    n, m = X.shape
    scale = np.sqrt(X.mean() / k)
    return (scale * rng.random((n, k))).astype(dtype), (scale * rng.random((k, m))).astype(dtype)


def both(rng, X, k=4, **settings):
    """The CPU's model and W, and the device's, from one start."""
    small = X.dtype.itemsize <= 2 or X.dtype == np.float32
    W, H = start(rng, X, k, np.float32 if small else np.float64)
    settings = {"init": "custom", "max_iter": 12, "tol": 0, "random_state": 0} | settings
    given = {"W": W, "H": H} if settings["init"] == "custom" else {}
    found = []
    for device in ("cpu", "cuda"):
        model = NMF(k, device=device, **settings)
        found.append((model, model.fit_transform(X, **given)))
    return found


def alike(pairs, rtol):
    (model, W), (other, V) = pairs
    assert isinstance(V, np.ndarray)
    assert isinstance(other.components_, np.ndarray)
    assert V.dtype == W.dtype
    assert other.n_iter_ == model.n_iter_
    np.testing.assert_allclose(V, W, rtol=0, atol=rtol * W.max())
    np.testing.assert_allclose(other.components_, model.components_, rtol=0, atol=rtol * model.components_.max())
    assert other.reconstruction_err_ == pytest.approx(model.reconstruction_err_, rel=rtol)
    loss, of_device = model.history_["loss"], other.history_["loss"]
    np.testing.assert_allclose(of_device, loss, rtol=rtol)
    assert other.kkt_residual_ == pytest.approx(model.kkt_residual_, rel=200 * rtol)
    assert other.converged_ == model.converged_


@pytest.mark.parametrize("stored", ["uint8", "float32", "float64", "int64", "float16", "bool"])
@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_the_cpus_iterates(rng, solver, stored):
    X = pixels(rng, dtype=stored)
    exact = stored in ("float64", "int64")
    alike(both(rng, X, solver=solver), 1e-8 if exact else 2e-3)


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("layout", ["C", "csr"])
def test_penalties(rng, solver, layout):
    X = pixels(rng, dtype=np.float64, layout=layout)
    alike(both(rng, X, solver=solver, alpha_W=0.3, alpha_H=0.1, l1_ratio=0.4), 1e-8)


@pytest.mark.parametrize(
    ("beta", "layout"),
    [*[(beta, "C") for beta in ("kullback-leibler", "itakura-saito", 0.5, 1.5, 3)], ("kullback-leibler", "csr")],
)
def test_every_beta(rng, beta, layout):
    X = pixels(rng, n=40, m=29, dtype=np.float64, layout=layout)
    X = X + 1 if layout == "C" else X
    alike(both(rng, X, solver="mu", beta_loss=beta, alpha_W=0.01), 1e-8)


@pytest.mark.parametrize("init", [None, "random", "nndsvd", "nndsvda", "nndsvdar", "auto"])
@pytest.mark.parametrize("layout", ["C", "csr"])
def test_every_start(rng, init, layout):
    X = pixels(rng, dtype=np.float64, layout=layout)
    solver = "hals" if init == "auto" else "cd"
    alike(both(rng, X, solver=solver, init=init, max_iter=4), 1e-6)


def test_a_warm_start_from_samples(rng, monkeypatch):
    import nmfcore.starts.samples

    monkeypatch.setattr(nmfcore.starts.samples, "sample_rows", lambda n, m, k: 40)
    for layout in ("C", "csr"):
        X = pixels(rng, n=200, m=21, dtype=np.float64, layout=layout)
        (model, _), (other, _) = both(rng, X, 3, solver="hals", init="auto", tol=1e-4, max_iter=60)
        assert other.reconstruction_err_ == pytest.approx(model.reconstruction_err_, rel=1e-3)


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_stop_rules_and_messages(rng, solver):
    X = pixels(rng, dtype=np.float64)
    pairs = both(rng, X, solver=solver, tol=1e-2, max_iter=200)
    (model, _), (other, _) = pairs
    assert model.converged_
    assert other.stop_reason_ == model.stop_reason_
    assert other.n_iter_ == model.n_iter_ < 200


@pytest.mark.parametrize(
    ("solver", "beta", "layout"),
    [("cd", 2, "C"), ("cd", 2, "csr"), ("mu", 2, "C"), ("mu", 1, "csr"), ("mu", 1, "C"), ("hals", 2, "C")],
)
def test_transform(rng, solver, beta, layout):
    X = pixels(rng, dtype=np.float64, layout=layout)
    (model, _), (other, _) = both(rng, X, solver=solver, beta_loss=beta)
    other.components_ = model.components_
    np.testing.assert_allclose(other.transform(X), model.transform(X), atol=1e-6 * model.transform(X).max())


def test_outputs_follow_X(rng, cupy):
    X = pixels(rng, dtype=np.float32)
    on_card = cupy.asarray(X)
    model = NMF(4, solver="hals", max_iter=5, tol=0, random_state=0)
    W = model.fit_transform(on_card)
    assert type(W) is cupy.ndarray
    assert type(model.components_) is cupy.ndarray
    assert type(model.transform(on_card)) is cupy.ndarray
    assert type(model.inverse_transform(W)) is cupy.ndarray
    assert isinstance(model.reconstruction_err_, float)
    expected = NMF(4, solver="hals", max_iter=5, tol=0, random_state=0, device="cuda").fit_transform(X)
    np.testing.assert_array_equal(cuda_ops.to_numpy(W), expected)
    codes = model.transform(X)  # numpy in, numpy out, whatever the model was fitted on
    assert isinstance(codes, np.ndarray)
    W, H, _ = non_negative_factorization(on_card, n_components=4, max_iter=5, tol=0, random_state=0)
    assert type(W) is type(H) is cupy.ndarray


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("stored", ["uint8", "float64", "int64"])
def test_an_X_larger_than_the_card_is_streamed(rng, monkeypatch, solver, stored):
    X = pixels(rng, n=300, m=33, dtype=stored)
    whole = both(rng, X, solver=solver)
    monkeypatch.setattr(device_rows, "ROOM", 0)
    monkeypatch.setattr(device_rows, "BLOCK_BYTES", 64 * 33 * X.itemsize)
    seen = []
    stream = device_rows._Buffers.stream

    def watched(self, X):
        for lo, hi, block in stream(self, X):
            seen.append((lo, hi))
            yield lo, hi, block

    monkeypatch.setattr(device_rows._Buffers, "stream", watched)
    rng = np.random.default_rng(0)
    pairs = both(rng, X, solver=solver)
    assert len(seen) % 5 == 0
    # one opening pass, one for the final error, and one read of X per iteration; mu asks for the error of its start
    passes = len(seen) // 5
    assert passes == 12 + 2
    alike(pairs, 2e-3 if stored == "uint8" else 1e-8)
    assert whole[1][0].n_iter_ == pairs[1][0].n_iter_


@emulated
@pytest.mark.parametrize(("solver", "beta"), [("cd", 2), ("hals", 2), ("mu", 2), ("mu", 1), ("mu", 0.5)])
def test_the_device_is_read_only_where_the_rule_is_checked(rng, cupy, solver, beta):
    """The host waits once a pass: an iteration more costs what its own decision needs, and nothing else."""
    X = cupy.asarray(pixels(rng, dtype=np.float32) + np.float32(1))
    counts = []
    NMF(4, max_iter=1, tol=0).fit(X)  # asks once whether the device works
    for passes in (5, 9):
        model = NMF(4, solver=solver, beta_loss=beta, init="random", tol=0, max_iter=passes, random_state=0)
        with fake_cupy.counting() as reads:
            model.fit(X)
        counts.append(reads.count + reads.waits.count)
    assert counts[1] - counts[0] == 4


def test_a_dead_component_is_revived(rng):
    X = pixels(rng, dtype=np.float64)
    W, H = start(rng, X, 4, np.float64)
    W[:, 2], H[2] = 0, 0
    models = []
    for device in ("cpu", "cuda"):
        model = NMF(4, solver="hals", init="custom", tol=0, max_iter=30, device=device)
        V = model.fit_transform(X, W=W, H=H)
        assert V[:, 2].any()
        models.append(model)
    assert models[1].reconstruction_err_ == pytest.approx(models[0].reconstruction_err_, rel=1e-3)


def test_callback_and_history(rng):
    X = pixels(rng, dtype=np.float64)
    seen = []
    model = NMF(4, solver="cd", max_iter=9, tol=0, device="cuda", callback=lambda p: seen.append((p.iteration, p.loss)))
    model.fit(X)
    kinds = []
    NMF(4, max_iter=1, tol=0, device="cuda", callback=lambda p: kinds.extend(map(type, p.factors()))).fit(X)
    assert kinds == [np.ndarray, np.ndarray]
    assert [number for number, _ in seen] == list(range(1, 10))
    np.testing.assert_allclose([loss for _, loss in seen], model.history_["loss"])
    assert NMF(4, max_iter=50, tol=0, device="cuda", callback=lambda p: p.iteration == 3).fit(X).n_iter_ == 3


def test_bad_numbers_are_found_on_the_device(rng, cupy):
    X = pixels(rng, dtype=np.float32)
    for value, words in ((np.nan, "NaN"), (-1, "Negative")):
        Y = X.copy()
        Y[5, 5] = value
        for given, device in ((Y, "cuda"), (cupy.asarray(Y), None)):
            with pytest.raises(ValueError, match=words):
                NMF(2, device=device).fit(given)


@pytest.mark.parametrize("layout", ["C", "csr"])
@pytest.mark.parametrize(("dtype", "p"), [(np.float32, 50), (np.float64, -300)])
def test_an_x_of_another_unit(rng, layout, dtype, p):
    """NMF of 4^p·X is 4^p times NMF of X."""
    X = pixels(rng, dtype=np.float64).astype(dtype) / 64
    found = []
    for power in (0, p):
        given = np.ldexp(X, 2 * power)
        model = NMF(4, device="cuda", solver="hals", max_iter=12, tol=0, random_state=0)
        W = model.fit_transform(sparse.csr_matrix(given) if layout == "csr" else given)
        found.append((np.ldexp(W, -power), np.ldexp(model.components_, -power), model.reconstruction_err_))
        codes = model.transform(sparse.csr_matrix(given) if layout == "csr" else given)
        found[-1] += (np.ldexp(codes, -power),)
    for one, other in zip(*(each[:2] + each[3:] for each in found), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * one.max())
    assert found[1][2] == pytest.approx(np.ldexp(found[0][2], 2 * p), rel=1e-5)


def test_a_streamed_x_of_another_unit(rng, monkeypatch):
    X = pixels(rng, dtype=np.float64).astype(np.float32)
    monkeypatch.setattr(device_rows, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(device_rows, "ROOM", 0.0)
    found = []
    for power in (0, -55):
        model = NMF(4, device="cuda", solver="hals", init="random", max_iter=8, tol=0, random_state=0)
        W = model.fit_transform(np.ldexp(X, 2 * power))
        found.append((np.ldexp(W, -power), np.ldexp(model.components_, -power)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(other, one)


@pytest.fixture
def streamed(monkeypatch):
    """Let every X of the host be streamed, in blocks of 64 rows at most."""
    monkeypatch.setattr(device_rows, "ROOM", 0)
    monkeypatch.setattr(device_rows, "BLOCK_BYTES", 1)


@pytest.mark.parametrize("init", [None, "auto", "random", "nndsvda"])
@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_a_streamed_X_begins_and_ends_as_one_on_the_card(rng, monkeypatch, solver, init):
    """Passes follow one another without a read of the host, as those of a start by subspace iteration do."""
    if init == "auto" and solver != "hals":
        pytest.skip("init='auto' is hals's")
    X = pixels(rng, n=300, m=80, dtype=np.float32)
    settings = {"solver": solver, "init": init, "max_iter": 6, "tol": 0, "random_state": 0, "device": "cuda"}
    on_card = NMF(5, **settings)
    W = on_card.fit_transform(X)
    monkeypatch.setattr(device_rows, "ROOM", 0)
    monkeypatch.setattr(device_rows, "BLOCK_BYTES", 1)
    streamed = NMF(5, **settings)
    V = streamed.fit_transform(X)
    assert streamed.reconstruction_err_ == pytest.approx(on_card.reconstruction_err_, rel=1e-3)
    np.testing.assert_allclose(V, W, rtol=0, atol=2e-2 * W.max())
    np.testing.assert_allclose(streamed.transform(X), on_card.transform(X), rtol=0, atol=2e-2 * W.max())
    assert streamed.score(X) == pytest.approx(on_card.score(X), rel=1e-2)


@pytest.mark.parametrize("power", [0, -5])
def test_passes_over_a_streamed_X_follow_each_other_without_a_wait(rng, streamed, power):
    X = pixels(rng, n=300, m=80, dtype=np.float32)
    rows = device_rows.as_device_rows(X, np.float32).scaled(power)
    assert rows.streamed
    Q = rng.random((80, 7)).astype(np.float32)
    found = rows.transposed_products(rows.products(rows.transposed_products(rows.products(Q)).astype(np.float32)))
    D = np.ldexp(X.astype(np.float64), 2 * power)
    np.testing.assert_allclose(cuda_ops.to_numpy(found), D.T @ (D @ (D.T @ (D @ Q))), rtol=1e-5)


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_pass_over_a_streamed_X_that_fails_spoils_no_other(rng, streamed, last):
    X = pixels(rng, n=300, m=80, dtype=np.float32)
    rows = device_rows.as_device_rows(X, np.float32)
    Q = rng.random((80, 7)).astype(np.float32)
    out = cuda.cupy().empty((300, 7), np.float32)
    on_card = cuda_ops.asarray(Q)

    def visit(backend, block, part, arguments, after, sums):
        backend.products(block, on_card, out[part.first : part.first + block.rows])
        if part.first // 64 == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rows.each_block(visit, {}, None, width=7, sums={}, out={})
    np.testing.assert_allclose(cuda_ops.to_numpy(rows.products(Q)), X @ Q, rtol=1e-5)


@emulated
def test_a_copy_that_fails_leaves_no_other_on_its_way(rng, cupy, streamed, monkeypatch):
    X = pixels(rng, n=300, m=80, dtype=np.float32)
    rows = device_rows.as_device_rows(X, np.float32)
    Q = rng.random((80, 7)).astype(np.float32)
    record, calls = fake_cupy.Event.record, []

    def interrupted(self, stream=None):
        if stream is rows._buffers.copies:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
        record(self, stream)

    monkeypatch.setattr(fake_cupy.Event, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows.products(Q)
    np.testing.assert_allclose(cuda_ops.to_numpy(rows.products(Q)), X @ Q, rtol=1e-5)


def of_memory(monkeypatch, size, devices=1):
    return fake_cupy.install(monkeypatch, devices=devices, memory=size)


@emulated
@pytest.mark.parametrize("k", [3, 40])
@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_factors_count_where_X_is_kept_or_streamed(rng, cupy, monkeypatch, solver, k):
    """Whatever memory the card has, a fit is either right or ends with one sentence."""
    X = pixels(rng, n=1000, m=60, dtype=np.uint8)
    settings = {"solver": solver, "init": "random", "max_iter": 3, "tol": 0, "random_state": 0}
    expected = NMF(k, **settings).fit(X)
    monkeypatch.setattr(device_rows, "BLOCK_BYTES", 1)
    resident, ends = [], []
    for size in (X.nbytes // 2, X.nbytes * 2, X.nbytes * 8, X.nbytes * 40, X.nbytes * 200):
        of_memory(monkeypatch, size)
        resident.append(not device_rows.as_device_rows(X, np.float32, k).streamed)
        try:
            model = NMF(k, device="cuda", **settings).fit(X)
        except cuda.DeviceMemoryError as error:
            assert "the memory of cuda:0 is too small" in str(error)
            assert "device='cpu'" in str(error)
            ends.append("sentence")
            continue
        assert model.reconstruction_err_ == pytest.approx(expected.reconstruction_err_, rel=1e-4)
        ends.append("fit")
    assert resident == sorted(resident) and resident[-1] and not resident[0]
    assert ends == sorted(ends, reverse=True) and ends[-1] == "fit"
    need = device_rows._beside(X.shape, np.float32, k)
    assert need >= 7 * 1000 * k * 4
    assert resident == [X.nbytes + need <= 0.8 * size for size in
                        (X.nbytes // 2, X.nbytes * 2, X.nbytes * 8, X.nbytes * 40, X.nbytes * 200)]  # fmt: skip


@emulated
@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_memory_that_runs_out_lets_X_be_streamed(rng, cupy, monkeypatch, solver):
    """Although it was thought to fit, as where another process takes memory of the same card."""
    X = pixels(rng, n=3000, m=60, dtype=np.float32)
    settings = {"solver": solver, "init": "random", "max_iter": 3, "tol": 0, "random_state": 0}
    expected = NMF(3, **settings).fit(X)
    monkeypatch.setattr(device_rows, "ROOM", 1e9)
    monkeypatch.setattr(device_rows, "BLOCK_BYTES", 1)
    left = []
    leave = device_rows.DeviceRows._stream_from_host
    monkeypatch.setattr(device_rows.DeviceRows, "_stream_from_host", lambda self: left.append(1) or leave(self))
    for size in (0.9, 1.1, 1.2, 1.4, 1.7):  # from no room for X to room for X and some of what is beside it
        of_memory(monkeypatch, int(size * X.nbytes))
        model = NMF(3, device="cuda", **settings).fit(X)
        assert model.reconstruction_err_ == pytest.approx(expected.reconstruction_err_, rel=1e-4)
    assert left, "no fit ran out of memory on its way"


@emulated
def test_an_X_on_a_full_card_ends_with_a_sentence(rng, cupy, monkeypatch):
    X = pixels(rng, n=1000, m=60, dtype=np.int64)
    xp = of_memory(monkeypatch, X.nbytes * 3 // 2)
    with pytest.raises(cuda.DeviceMemoryError, match="the memory of cuda:0 is too small"):
        NMF(3, solver="hals", init="random").fit(xp.asarray(X))


@emulated
def test_arrays_of_another_card_are_moved(rng, cupy, monkeypatch):
    xp = of_memory(monkeypatch, 1 << 30, devices=2)
    X = pixels(rng, n=60, dtype=np.float32)
    expected = NMF(3, init="random", max_iter=5, tol=0, random_state=0).fit(X)
    W, H = start(rng, X, 3, np.float32)
    with xp.cuda.Device(1):
        there, V, G = xp.asarray(X), xp.asarray(W), xp.asarray(H)
        sparse_there = xp_sparse().csr_matrix(sparse.csr_matrix(X))
    model = NMF(3, init="random", max_iter=5, tol=0, random_state=0).fit(there)
    assert model.components_.device.id == 1
    assert model.reconstruction_err_ == pytest.approx(expected.reconstruction_err_, rel=1e-4)
    codes = model.transform(xp.asarray(X))  # on device 0, with components of device 1
    assert codes.device.id == 0
    np.testing.assert_allclose(codes.get(), expected.transform(X), rtol=0, atol=1e-3 * codes.get().max())
    back = model.inverse_transform(codes)
    assert back.device.id == 0
    custom = NMF(3, init="custom", max_iter=5, tol=0)
    custom.fit(xp.asarray(X), W=V, H=G)
    assert custom.components_.device.id == 0
    of_host = cosine_topk(X[:7], X, 3)
    allow = np.arange(0, 60, 2)
    for queries in (there[:7], sparse_there):
        found = cosine_topk(queries, xp.asarray(X), 3, allow=None)
        np.testing.assert_array_equal(found[1].get()[:7], of_host[1])
        assert found[1].device.id == 0
    with xp.cuda.Device(1):
        allowed = xp.asarray(allow)
    found = cosine_topk(there[:7], xp.asarray(X), 3, allow=allowed)
    np.testing.assert_array_equal(found[1].get(), cosine_topk(X[:7], X, 3, allow=allow)[1])
    assert int(xp.cuda.Device().id) == 0


def xp_sparse():
    import cupyx.scipy.sparse

    return cupyx.scipy.sparse


@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("where", ["host", "card"])
def test_queries_that_are_sparse_on_the_card(rng, cupy, layout, where):
    X = pixels(rng, n=60, dtype=np.float32)
    queries = (xp_sparse().csr_matrix if layout == "csr" else xp_sparse().csc_matrix)(sparse.csr_matrix(X[:7]))
    scores, rows = cosine_topk(queries, X if where == "host" else cupy.asarray(X), 3)
    assert isinstance(rows, np.ndarray) == (where == "host")
    expected = cosine_topk(X[:7], X, 3)
    np.testing.assert_array_equal(cuda_ops.to_numpy(rows), expected[1])
    np.testing.assert_allclose(cuda_ops.to_numpy(scores), expected[0], rtol=0, atol=1e-12)
    assert (cuda.to_host(queries) != sparse.csr_matrix(X[:7])).nnz == 0


TYPES = [("float32", "float32"), ("uint8", "uint8"), ("float64", "float32"), ("int64", "float32"), (">f4", "float32"),
         ("bool", "uint8")]  # fmt: skip


@emulated
@pytest.mark.parametrize(("given", "stored"), TYPES)
@pytest.mark.parametrize("layout", ["C", "F", "rows that lie apart"])
def test_an_upload_in_parts(rng, cupy, monkeypatch, layout, given, stored):
    """Through two pinned buffers, each awaited before it is written again, by several threads."""
    monkeypatch.setattr(device_rows, "COPY_BYTES", 256)
    monkeypatch.setattr(device_rows, "UPLOAD_BYTES", 1024)
    monkeypatch.setattr(device_rows, "effective_threads", lambda n_jobs: 3)
    X = (
        rng.integers(0, 2, (203, 24)).astype(given)
        if given == "bool"
        else rng.integers(0, 200, (203, 24)).astype(given)
    )
    X = np.asfortranarray(X) if layout == "F" else np.hstack([X, X])[:, :24] if layout != "C" else X
    found = device_rows._upload(X, np.dtype(stored))
    assert found.dtype == stored
    np.testing.assert_array_equal(cuda_ops.to_numpy(found), X)


def test_samples_are_fitted_in_turn(rng, cupy, monkeypatch):
    """On streams of their own, a pass of each in turn; what comes out has the bits of one after another."""
    X = cupy.asarray(rng.random((240, 20)).astype(np.float32))
    monkeypatch.setattr(samples, "sample_rows", lambda n, m, k: 50)
    monkeypatch.setattr(samples, "PASSES", 24)
    monkeypatch.setattr(samples, "TOL", 0)
    passes, made = [], solve._Passes._pass
    monkeypatch.setattr(
        solve._Passes, "_pass", lambda self, *given: passes.append((self, current())) or made(self, *given)
    )

    def current():
        return cupy.cuda.get_current_stream().ptr

    found = []
    for turns in (samples.SAMPLES, 4, 1):
        monkeypatch.setattr(device_rows.DeviceRows, "at_once", lambda self, rows, width, most, turns=turns: turns)
        passes.clear()
        model = NMF(3, solver="hals", init="auto", max_iter=3, tol=0, random_state=0)
        W = model.fit_transform(X)
        found.append((W.get(), model.components_.get(), model.history_["loss"]))
        first = [fit for fit, _ in passes[2 * turns : 3 * turns]]
        assert len(set(map(id, first))) == turns, "the passes of a fit are not between those of the others"
        assert len({stream for _, stream in passes}) == samples.SAMPLES + 1  # and that of the whole X
    for other in found[1:]:
        for expected, made_alone in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(made_alone, expected)


def test_as_many_samples_at_once_as_there_is_memory_for(cupy):
    data = device_rows.as_device_rows(np.ones((40, 30), np.float32), np.float32)
    assert data.at_once(1000, 5, 6) == 6
    free, _ = cupy.cuda.runtime.memGetInfo()
    each = free // 3 // (30 * 4 + device_rows.BESIDE * 5 * 4)  # rows of which X and the factors take a third
    assert data.at_once(each, 5, 6) == 2
    assert data.at_once(100 * each, 5, 6) == 1  # what does not fit says so when it is made
