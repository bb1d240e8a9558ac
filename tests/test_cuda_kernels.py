"""Every operation of the CUDA backend against its naive twin: the real kernels, run by the emulator on the host."""

import itertools

import numpy as np
import pytest
import reference as ref
from conftest import emulated
from cuda_emulator import fake_cupy, module
from scipy import sparse

from nmfcore.backends import cpu, cuda_ops
from nmfcore.rows import device as device_rows
from nmfcore.solvers import accelerated_hals
from nmfcore.solvers.accelerated_hals import Momentum

pytestmark = pytest.mark.usefixtures("cupy")

STORED = ["uint8", "uint16", "float16", "float32", "float64"]
# around the tiles (64 rows, 32 columns, 8 … 64 components), the lanes of a sweep, and a warp
SHAPES = [(1, 1, 1), (3, 2, 2), (63, 33, 7), (65, 64, 16), (130, 31, 17), (70, 129, 33), (40, 50, 70)]
DTYPES = [np.float32, np.float64]


def tolerance(dtype):
    return 2e-5 if dtype == np.float32 else 1e-12


def close(found, expected, dtype, scale=None):
    found, expected = cuda_ops.to_numpy(found), np.asarray(expected)
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype) * max(scale, 1e-30))


def forget():
    """Let kernels be compiled anew."""
    for value in vars(cuda_ops).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def problem(rng, n, m, k, dtype, stored=None, layout="C"):
    X = (rng.integers(0, 100, (n, m)) * (rng.random((n, m)) < 0.7)).astype(stored or dtype)
    X = sparse.csr_matrix(X) if layout == "csr" else X
    return X, rng.random((n, k)).astype(dtype), rng.random((m, k)).astype(dtype)


def up(cupy, *arrays):
    return [cupy.asarray(array) for array in arrays]


def zeros(cupy, *shapes):
    return [cupy.zeros(shape) for shape in shapes]


def blocks(X, dtype, cuts=1):
    """Blocks of X on the device; a sparse one is one block."""
    data = device_rows.as_device_rows(X, dtype)
    n = X.shape[0]
    bounds = [0, n] if data.sparse or cuts == 1 else [n * i // cuts for i in range(cuts + 1)]
    return [(a, b, cuda_ops.cut(data.X, (a, b))) for a, b in itertools.pairwise(bounds)], data


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "csr"])
@pytest.mark.parametrize("stored", STORED)
def test_products_read_every_type_where_it_lies(rng, cupy, stored, layout, dtype):
    if layout == "csr" and stored == "float16":
        pytest.skip("scipy has no sparse float16")
    n, m, k = 150, 71, 5
    X, F, Ht = problem(rng, n, m, k, dtype, stored, layout)
    cut, data = blocks(X, dtype, 2)
    assert data.X.dtype == stored
    F_d, Ht_d = up(cupy, F, Ht)
    out, XtF = cupy.empty((n, k), dtype), cupy.zeros((m, k))
    for lo, hi, block in cut:
        cuda_ops.products(block, Ht_d, out[lo:hi])
        if layout == "C":
            cuda_ops.add_products(block, F_d[lo:hi], XtF)
    close(out, ref.products(X, Ht), dtype)
    XtF = XtF if layout == "C" else data.transposed_products(F)
    close(XtF, ref.products(ref.dense(X).T, F), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("stored", "k"), [*((stored, 5) for stored in STORED), ("uint8", 33), ("float64", 70)])
def test_gram_matrices_beside_x_of_every_type(rng, cupy, stored, k, dtype):
    """They come out of the same launch as XᵀF, and are of factors, whose type is not X's."""
    n, m = 150, 71
    X, F, Ht = problem(rng, n, m, k, dtype, stored)
    F, Ht = F / 7, Ht / 7
    (_, _, block), *_ = blocks(X, dtype)[0]
    out, XtF, FtF, FtD, stats = cupy.empty((n, k), dtype), *zeros(cupy, (m, k), (k, k), (2 * k, k), (cuda_ops.STATS,))
    begin = cuda_ops.Beginning(cupy.asarray(F), np.ones(2 * k, dtype), 0.0, FtD)
    F_d, Ht_d, G_d = up(cupy, F, Ht, ref.gram(Ht))
    cuda_ops.descend(block, F_d, Ht_d, G_d, 0, 0, np.arange(k), 1, 0.0, out, XtF, FtF, stats, 0.0, begin)
    found = cuda_ops.to_numpy(out)
    D = found - F
    close(XtF, ref.products(X.T, found), dtype)
    close(FtF, ref.gram(found), dtype)
    close(FtD, np.vstack([ref.products(found.T, D), ref.gram(D)]), dtype)


def test_rows_that_lie_apart_are_read_where_they_lie(rng, cupy):
    X, _, Ht = problem(rng, 70, 45, 3, np.float32)
    wide = cupy.asarray(np.hstack([X, 9 + 0 * X]))
    out = cupy.empty((70, 3), np.float32)
    cuda_ops.products(cuda_ops.cut(wide[:, :45], (0, 70)), *up(cupy, Ht), out)
    close(out, ref.products(X, Ht), np.float32)


def test_float16_is_widened_exactly(cupy):
    bits = np.arange(2**16, dtype=np.uint16)
    X = bits.view(np.float16)
    X = X[np.isfinite(X)].reshape(-1, 8)
    out = cupy.empty((len(X), 8), np.float32)
    cuda_ops.products(cuda_ops.cut(cupy.asarray(X), (0, len(X))), cupy.asarray(np.eye(8, dtype=np.float32)), out)
    np.testing.assert_array_equal(cuda_ops.to_numpy(out), X.astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["C", "csr"])
def test_one_pass_of_coordinate_descent(rng, cupy, shape, layout, dtype):
    n, m, k = shape
    X, F, Ht = problem(rng, n, m, k, dtype, layout=layout)
    F[rng.random(F.shape) < 0.3] = 0
    Ht[:, rng.random(k) < 0.2] = 0  # a dead component stays as it is
    G, order = ref.gram(Ht), rng.permutation(k)
    l1, l2 = 0.3, 0.2
    expected, violation, newton, _ = ref.sweep(F, G, ref.products(X, Ht), l1, l2, order)
    F_d, Ht_d, G_d = up(cupy, F, Ht, G)
    out, XtF = cupy.empty((n, k), dtype), cupy.zeros((0 if layout == "csr" else m, k))
    FtF, stats = zeros(cupy, (k, k), (cuda_ops.STATS,))
    for lo, hi, block in blocks(X, dtype, min(n, 2))[0]:
        cuda_ops.descend(block, F_d[lo:hi], Ht_d, G_d, l1, l2, order, 1, 0.0, out[lo:hi], XtF, FtF, stats)
    (stats,) = cuda_ops.read(stats)
    close(out, expected, dtype, 30 * max(1.0, np.abs(expected).max()))
    found = cuda_ops.to_numpy(out)
    if layout == "C":
        close(XtF, ref.products(ref.dense(X).T, found), dtype)
    close(FtF, ref.gram(found), dtype)
    assert stats[cpu.VIOLATION] == pytest.approx(violation, rel=50 * tolerance(dtype))
    assert stats[cpu.KKT] == pytest.approx(newton, rel=50 * tolerance(dtype), abs=1e-6)
    assert stats[cpu.TOTAL] == pytest.approx(found.sum(dtype=float), rel=1e-12)


@pytest.mark.parametrize(("k", "most"), [(6, 60), (40, 60), (140, 4)])  # one lane a row, several, Gram not shared
def test_settled_rows_are_frozen_one_by_one(rng, cupy, monkeypatch, k, most):
    if k == 140:
        monkeypatch.setattr(cuda_ops, "SHARED_MOST", 64 << 10)
    tol, n, m = 1e-2, 7, 2 * k + 3
    X, F, Ht = problem(rng, n, m, k, np.float64)
    G, order, nothing = ref.gram(Ht), np.arange(k), cupy.zeros((0, k))
    expected, of_cpu, none = np.empty_like(F), np.zeros(cpu.STATS), np.zeros((0, k))
    cpu.descend(cpu.cut(X, (0, n), 64), 0 * F, Ht, G, 0, 0, order, most, tol, expected, none, none, of_cpu)
    (_, _, block), *_ = blocks(X, np.float64)[0]
    F_d, Ht_d, G_d = up(cupy, 0 * F, Ht, G)
    out, stats = cupy.empty((n, k)), cupy.zeros(cuda_ops.STATS)
    cuda_ops.descend(block, F_d, Ht_d, G_d, 0, 0, order, most, tol, out, nothing, nothing, stats)
    close(out, expected, np.float64, 1e3 * expected.max())
    (stats,) = cuda_ops.read(stats)
    for i in range(n if k < 10 else 1):  # each alone, and by itself
        row, n_iter = ref.cd_transform_row(X[i], Ht.T, tol, most)
        np.testing.assert_allclose(cuda_ops.to_numpy(out)[i], row, atol=1e-8 * max(1, row.max()))
        assert n_iter <= stats[cpu.SWEEPS]
    assert stats[cpu.SWEEPS] == of_cpu[cpu.SWEEPS]
    assert stats[cpu.UNSETTLED] == of_cpu[cpu.UNSETTLED]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [5, 20])
def test_a_pass_with_momentum(rng, cupy, k, dtype):
    n, m = 70, 41
    X, F, Ht = problem(rng, n, m, k, dtype)
    before, scale = rng.random((n, k)).astype(dtype), rng.random(2 * k).astype(dtype) + dtype(0.5)
    G, order = ref.gram(Ht), np.arange(k)
    for weight in (0.4, 0.0):
        B = F * scale[:k]
        start = np.maximum(0, B + weight * (B - before * scale[k:]))
        expected = ref.settle(start, G, ref.products(X, Ht), 0.1, 0.2, 3, 0.1)
        out, XtF, FtF, FtD, stats = zeros(cupy, (n, k), (m, k), (k, k), (2 * k, k), (cuda_ops.STATS,))
        out = out.astype(dtype)
        begin = cuda_ops.Beginning(cupy.asarray(before), scale, weight, FtD)
        (_, _, block), *_ = blocks(X, dtype)[0]
        F_d, Ht_d, G_d = up(cupy, F, Ht, G)
        cuda_ops.descend(block, F_d, Ht_d, G_d, 0.1, 0.2, order, 3, 0.0, out, XtF, FtF, stats, 0.1, begin)
        found = cuda_ops.to_numpy(out)
        if dtype == np.float64:  # in float32 a row may settle a sweep earlier
            close(out, expected, dtype, 30 * np.abs(expected).max())
        D = found - B
        close(FtD[:k], ref.products(found.T, D), dtype)
        close(FtD[k:], ref.gram(D), dtype)
        cross = ((ref.products(X, Ht) - 0.1) * D).sum()
        size = np.abs(ref.products(X, Ht) * D).sum()
        assert cuda_ops.read(stats)[0][cpu.CROSS] == pytest.approx(cross, abs=20 * tolerance(dtype) * size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_step_of_the_small_factor(rng, cupy, shape, dtype):
    _, m, k = shape
    F = rng.random((m, k)).astype(dtype)
    G, C = ref.gram(rng.random((40, k))), rng.random((m, k)) * 5
    F_d, G_d, C_d = up(cupy, F, G, C)
    for name in ("sweep", "scale"):
        out, FtF, stats = cupy.empty_like(F_d), cupy.zeros((k, k)), cupy.zeros(cuda_ops.STATS + 2 * k)
        if name == "sweep":
            cuda_ops.sweep(F_d, G_d, C_d, 0.1, 0.2, np.arange(k), out, FtF, stats)
            expected = ref.sweep(F, G, C, 0.1, 0.2)[0]
        else:
            cuda_ops.scale(F_d, G_d, C_d, 0.1, 0.2, out, FtF, stats)
            expected = F * C / (F @ G + 0.1 + 0.2 * F)
        close(out, expected, dtype, 10 * max(1.0, np.abs(expected).max()))
        found = cuda_ops.to_numpy(out)
        close(FtF, ref.gram(found), dtype)
        (stats,) = cuda_ops.read(stats)
        assert stats[cpu.CROSS] == pytest.approx((C * found).sum(), rel=20 * tolerance(dtype))
        assert stats[cpu.SQUARE] == pytest.approx((G * ref.gram(found)).sum(), rel=20 * tolerance(dtype))
    close(cuda_ops.gram(F_d), ref.gram(F), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 5, 16, 20, 70])
@pytest.mark.parametrize("weight", [0.7, 0.0])
def test_a_step_ahead(rng, cupy, weight, k, dtype):
    """The step of the small factor and all that follows it, of both backends."""
    n, m, beta, l1, l2 = 40, 67, 0.6, 0.3, 0.2
    X, V, Ht = problem(rng, n, m, k, np.float64)
    Ht, before, W = Ht.astype(dtype), rng.random((m, k)).astype(dtype), V + 0.1 * rng.random((n, k))
    D = W - V
    sums, earlier = (X.T @ W, W.T @ W, np.concatenate([W.T @ D, D.T @ D])), (X.T @ V, V.T @ V)
    expected = ref.step_ahead(Ht, before, weight, beta, sums, earlier, l1, l2, 3, 0.01)
    for backend in (cpu, cuda_ops):
        on = np.asarray if backend is cpu else cupy.asarray
        found = backend.step_ahead(
            on(Ht), on(before), backend.Pace(weight, beta), backend.Weighed(*map(on, sums)),
            backend.Weighed(*map(on, earlier)), l1, l2, np.arange(k), 3, 0.01, 0,
        )  # fmt: skip
        for squares, G in zip(backend.read(*found.squares), (sums[1], found.HHt), strict=True):
            np.testing.assert_array_equal(squares, np.diagonal(cuda_ops.to_numpy(G)))
        cross, square = backend.read(*found.change)
        stats = backend.read(found.stats)[0]
        if dtype == np.float64:  # in float32 a row may settle a sweep earlier
            close(found.step, expected[0], dtype, 1e3 * np.abs(expected[0]).max())
        step, ahead = (cuda_ops.to_numpy(A) for A in (found.step, found.Ht))
        if weight:
            close(ahead, np.maximum(0, step + dtype(weight) * (step - before)), dtype)
        else:
            np.testing.assert_array_equal(ahead, step)
        close(found.HHt, ref.gram(ahead), dtype)
        change = ahead.astype(float) - Ht
        assert cross == pytest.approx((sums[0] * change).sum(), abs=tolerance(dtype) * np.abs(sums[0] * change).sum())
        both = np.abs((ahead.astype(float) + Ht).T) @ np.abs(change) * np.abs(sums[1])
        wanted = ((ahead.astype(float) + Ht).T @ change * sums[1]).sum()
        assert square == pytest.approx(wanted, abs=tolerance(dtype) * both.sum())
        if dtype == np.float64:
            assert (cross, square) == pytest.approx(expected[3:], rel=1e-6)
        assert stats[cpu.TOTAL] == pytest.approx(step.sum(dtype=float), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("weight", "cap"), [(0.5, 1.0), (0.9, 0.905), (0.995, 0.999)])
def test_the_pace_of_steps_ahead(rng, cupy, weight, cap, dtype):
    """A device makes the momentum grow by itself, with the bits of `Momentum.grown`, and sweeps begin by it."""
    k, momentum, pace = 3, Momentum(weight, cap), None
    F, G = cupy.asarray(rng.random((9, k)).astype(dtype)), cupy.asarray(np.eye(k) + rng.random((k, k)))
    before, C = cupy.asarray(rng.random((9, k)).astype(dtype)), cupy.asarray(rng.random((9, k)))
    sums = cuda_ops.Weighed(C, G, cupy.asarray(rng.random((2 * k, k))))
    block = cuda_ops.Block(cupy.asarray(rng.random((9, 5)).astype(dtype)), 9, 5)
    Ht, none = cupy.asarray(rng.random((5, k)).astype(dtype)), cupy.zeros((0, k))
    for _ in range(4):
        begin, momentum = momentum.weight, momentum.grown()
        given = cuda_ops.Pace(momentum.weight, begin, momentum.cap, accelerated_hals.GROW, accelerated_hals.CAP_GROW)
        expected, found = (
            cuda_ops.step_ahead(F, before, each, sums, sums, 0.0, 0.0, np.arange(k), 1, 0.0, 0)
            for each in (given, given if pace is None else pace)
        )
        pace = found.pace
        assert cuda_ops.read(pace)[0] == list(given)
        np.testing.assert_array_equal(cuda_ops.to_numpy(found.Ht), cuda_ops.to_numpy(expected.Ht))
        made = []
        for each in (begin, pace):
            out, stats = cupy.empty(F.shape, dtype), cupy.zeros(cuda_ops.STATS)
            start = cuda_ops.Beginning(before, np.ones(2 * k, dtype), each, none)
            cuda_ops.descend(block, F, Ht, G, 0.0, 0.0, np.arange(k), 1, 0.0, out, none, none, stats, begin=start)
            made.append(cuda_ops.to_numpy(out))
        np.testing.assert_array_equal(*made)


def test_the_change_of_the_loss(rng, cupy):
    k = 9
    WtD, G = rng.normal(size=(2 * k, k)), rng.normal(size=(k, k))
    expected = ref.changes(WtD[:k], WtD[k:], G)
    assert cpu.read(*cpu.changes(WtD, G)) == pytest.approx(expected, rel=1e-12)
    assert cuda_ops.read(*cuda_ops.changes(*up(cupy, WtD, G))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (300, 5), (700, 16), (257, 130)])
def test_sums_of_columns(rng, cupy, n, k, dtype):
    F = rng.random((n, k)).astype(dtype)
    np.testing.assert_allclose(cuda_ops.to_numpy(cuda_ops.column_sums(*up(cupy, F))), F.sum(axis=0, dtype=float))
    np.testing.assert_array_equal(cpu.column_sums(F), F.sum(axis=0, dtype=float))


def test_one_row_for_all_that_is_read(rng, cupy):
    """Arrays of any shape and type, parts of others, and inner products, more than a launch takes."""
    A, B, C = rng.normal(size=(3, 6, 6))
    A_d, B_d, C_d = up(cupy, A, B, C)
    given = [
        (A_d, A), (A_d[2], A[2]), (A_d[2, 3], A[2, 3]), (A_d.diagonal(), A.diagonal()), (A_d.T, A.T),
        (cuda_ops.Inner(A_d, B_d), (A * B).sum()), (A_d[:, 1], A[:, 1]), (np.float64(7), 7.0),
        (cuda_ops.Inner(A_d, B_d, C_d), ((A - 0.5 * C) * B).sum()), (cupy.asarray(np.arange(200)), np.arange(200)),
        (A_d > 0, A > 0), (A_d[:0, 0], A[:0, 0]), (B_d[5], B[5]),
    ]  # fmt: skip
    for count in (1, 7, 8, 9, len(given)):
        with fake_cupy.counting() as seen:
            found = cuda_ops.read(*(array for array, _ in given[:count]))
        assert seen.count == 1
        for number, (_, expected) in zip(found, given[:count], strict=True):
            np.testing.assert_allclose(number, expected, rtol=1e-14, atol=1e-14)
    assert cuda_ops.read() == []


BETAS = [-1.2, 0, 0.5, 1, 1.2, 1.5, 2, 2.5, 3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("beta", "layout"), [*[(beta, "C") for beta in BETAS], (1, "csr"), (2, "csr")])
def test_one_pass_of_multiplicative_updates(rng, cupy, beta, layout, dtype):
    n, m, k = 45, 39, 5
    X, F, Ht = problem(rng, n, m, k, dtype, layout=layout)
    if beta <= 0:
        X = (ref.dense(X) + 1).astype(dtype)
    F[3], Ht[:4, 1] = 0, 0  # WH with zeros, which the floors must catch
    l1, l2 = 0.3, 0.2
    expected = ref.mu_rows(X, F, Ht, beta, l1, l2)
    F_d, Ht_d = up(cupy, F, Ht)
    out, stats = cupy.empty_like(F_d), cupy.zeros(cuda_ops.STATS + 2 * k)
    cut, data = blocks(X, dtype, 2)
    summed = 0 if layout == "csr" else m
    if beta == 2:
        XtF, FtF = zeros(cupy, (summed, k), (k, k))
        G = cuda_ops.gram(Ht_d)
        for lo, hi, block in cut:
            cuda_ops.multiply(block, F_d[lo:hi], Ht_d, G, l1, l2, out[lo:hi], XtF, FtF, stats)
        close(out, expected, dtype, 10 * np.abs(expected).max())
        close(FtF, ref.gram(cuda_ops.to_numpy(out)), dtype)
        top, _ = ref.kkt_parts(X, F, Ht, beta, l1, l2)
        assert cuda_ops.read(stats)[0][cpu.KKT] == pytest.approx(top, rel=1e3 * tolerance(dtype))
        return
    N, D = zeros(cupy, (summed, k), (1 if beta == 1 else m, k))
    losses = []
    for lo, hi, block in cut:
        losses.append(
            cuda_ops.multiply_beta(
                block, F_d[lo:hi], Ht_d, beta, ref.gamma(beta), l1, l2, 0.0, True, True, out[lo:hi], N, D, stats
            )
        )
    close(out, expected, dtype, 10 * np.abs(expected).max())
    found = cuda_ops.to_numpy(out)
    numerator, denominator = ref.mu_terms(ref.dense(X).T, Ht, found, beta)
    if layout == "csr":
        N = cupy.empty((m, k), dtype)
        cuda_ops.kl_numerators(cuda_ops.cut(data.T.X, (0, m)), Ht_d, out, N)
    else:
        close(cupy.zeros((m, k)) + D, denominator, dtype, 10 * np.abs(denominator).max())
    close(N, numerator, dtype, 10 * np.abs(numerator).max())
    total = sum(cuda_ops.read(*losses))
    assert total == pytest.approx(ref.beta_divergence(X, F, Ht.T, beta), rel=20 * tolerance(dtype))
    top, bottom = ref.kkt_parts(X, F, Ht, beta, l1, l2)
    (stats,) = cuda_ops.read(stats)
    pulls = np.dot(stats[cpu.STATS : cpu.STATS + k], stats[cpu.STATS + k :]) / n
    assert stats[cpu.VIOLATION] + pulls == pytest.approx(top, rel=1e3 * tolerance(dtype))
    assert stats[cpu.KKT] == pytest.approx(bottom, rel=20 * tolerance(dtype))


def test_more_components_than_a_tile(rng, cupy):
    """Of products, of WH and of the sums: k above 64."""
    n, m, k = 33, 35, 70
    X, F, Ht = problem(rng, n, m, k, np.float64)
    F_d, Ht_d = up(cupy, F, Ht)
    out, N, D = cupy.empty_like(F_d), *zeros(cupy, (m, k), (m, k))
    (_, _, block), *_ = blocks(X, np.float64)[0]
    stats = cupy.zeros(cuda_ops.STATS + 2 * k)
    cuda_ops.multiply_beta(block, F_d, Ht_d, 1.5, 1.0, 0, 0, 0.0, True, False, out, N, D, stats)
    close(out, ref.mu_rows(X, F, Ht, 1.5), np.float64, 10)
    numerator, denominator = ref.mu_terms(X.T, Ht, cuda_ops.to_numpy(out), 1.5)
    close(N, numerator, np.float64)
    close(D, denominator, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("beta", "layout"), [*[(beta, "C") for beta in (-1.2, 0, 0.5, 1, 1.2, 2, 3)], (1, "csr"), (2, "csr")]
)
def test_divergence(rng, cupy, beta, layout, dtype):
    X, F, Ht = problem(rng, 70, 39, 4, dtype, layout=layout)
    F_d, Ht_d = up(cupy, F, Ht)
    parts = [cuda_ops.divergence(block, F_d[lo:hi], Ht_d, beta) for lo, hi, block in blocks(X, dtype, 2)[0]]
    assert sum(cuda_ops.read(*parts)) == pytest.approx(ref.beta_divergence(X, F, Ht.T, beta), rel=20 * tolerance(dtype))


@emulated
def test_more_losses_than_a_launch_adds_up(rng, cupy, monkeypatch):
    losses = rng.random(100)
    monkeypatch.setattr(cuda_ops, "MOST_PARTS", 30)
    assert float(cuda_ops._total(cupy.asarray(losses))) == pytest.approx(losses.sum(), rel=1e-14)


@pytest.mark.parametrize("layout", ["C", "csr"])
def test_the_worst_rows(rng, cupy, layout):
    X, F, Ht = problem(rng, 70, 39, 4, np.float64, layout=layout)
    D = ref.dense(X)
    losses = 0.5 * ((D - F @ Ht.T) ** 2).sum(axis=1)
    (_, _, block), *_ = blocks(X, np.float64)[0]
    (worst,) = zeros(cupy, (3, 40))
    cuda_ops.worst_rows(block, *up(cupy, F, Ht), worst)
    order = np.argsort(-losses)[:3]
    np.testing.assert_allclose(cuda_ops.to_numpy(worst)[:, 0], losses[order])
    np.testing.assert_allclose(cuda_ops.to_numpy(worst)[:, 1:], np.maximum(0, D - F @ Ht.T)[order], atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("beta", "layout"), [*[(beta, "C") for beta in (0.5, 1, 1.5, 2, 3)], (1, "csr"), (2, "csr")])
def test_rows_alone(rng, cupy, beta, layout, dtype):
    """The multiplicative coding of each row, against the CPU's kernel."""
    X, _, Ht = problem(rng, 23, 29, 5, dtype, layout=layout)
    X = X.astype(dtype)
    arguments = (beta, ref.gamma(beta), 0.1, 0.2, 0.0, 1e-3, 60, False)
    expected, stats = np.empty((23, 5), dtype), np.zeros(cpu.STATS + 10)
    cpu.code(cpu.cut(X, (0, 23), 64), Ht, *arguments, expected, stats)
    (_, _, block), *_ = blocks(X, dtype)[0]
    out, stats_d = cupy.empty((23, 5), dtype), cupy.zeros(cuda_ops.STATS + 10)
    cuda_ops.code(block, *up(cupy, Ht), *arguments, out, stats_d)
    found = cuda_ops.read(stats_d)[0]
    if dtype == np.float64:  # in float32 a row may settle ten updates earlier or later
        close(out, expected, dtype, 1e3 * np.abs(expected).max())
        assert found[cpu.SWEEPS] == stats[cpu.SWEEPS]
        assert found[cpu.UNSETTLED] == stats[cpu.UNSETTLED]
    else:
        close(out, expected, dtype, 1e3 * np.abs(expected).max())


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("value", [None, np.nan, np.inf, -3])
@pytest.mark.parametrize("layout", ["C", "csr"])
def test_opening_pass(rng, stored, value, layout):
    if (layout == "csr" and stored == "float16") or (stored.startswith("uint") and value is not None):
        pytest.skip("scipy has no sparse float16, and unsigned integers no such value")
    X = ref.dense(problem(rng, 150, 61, 2, np.float32, stored)[0]).astype(stored)
    if value is not None:
        X[131, 7] = value
    X = sparse.csr_matrix(X) if layout == "csr" else X
    opening = device_rows.as_device_rows(X, np.float64).summary()
    D = ref.dense(X)
    assert opening.finite == np.isfinite(D).all()
    if opening.finite:
        assert opening.minimum == D.min()
        assert opening.total == pytest.approx(D.sum(), rel=1e-13)
        assert opening.squares == pytest.approx((D * D).sum(), rel=1e-13)


def everything(cupy):
    """The bits that one run of every family ends with."""
    rng = np.random.default_rng(3)
    found = []
    for layout, betas in (("C", (0.5, 1)), ("csr", (1,))):
        X, F, Ht = problem(rng, 70, 45, 9, np.float32, layout=layout)
        cut, data = blocks(X, np.float32)
        block = cut[0][2]
        F_d, Ht_d = up(cupy, F, Ht)
        G = cuda_ops.gram(Ht_d)
        out, FtF, stats = cupy.empty_like(F_d), cupy.zeros((9, 9)), cupy.zeros(cuda_ops.STATS + 18)
        XtF = cupy.zeros((0 if layout == "csr" else 45, 9))
        cuda_ops.descend(block, F_d, Ht_d, G, 0.1, 0, np.arange(9), 4, 0.0, out, XtF, FtF, stats, 0.1)
        found += [out, FtF, stats, XtF, data.transposed_products(F)]
        for beta in betas:
            made, N, D = cupy.empty_like(F_d), *zeros(cupy, (XtF.shape[0], 9), (1 if beta == 1 else 45, 9))
            loss = cuda_ops.multiply_beta(block, F_d, Ht_d, beta, 1.0, 0, 0, 0.0, True, True, made, N, D, stats)
            coded = cupy.empty_like(F_d)
            cuda_ops.code(block, Ht_d, beta, 1.0, 0, 0, 0.0, 1e-3, 20, False, coded, stats)
            found += [made, N, D, loss, coded, stats]
    return [cuda_ops.to_numpy(array).tobytes() for array in found]


@emulated
def test_any_order_of_threads_gives_the_same_bits(cupy):
    first = everything(cupy)
    for seed in (1, 2, 3):
        with module.scheduled(seed):
            assert everything(cupy) == first


# Faults in what follows the sweeps of the small factor: each must be seen by the test of a step ahead.
BEYOND = "larger(w[i] + momentum * (w[i] - before[at]), (FT)0)"
FAULTS_AHEAD = {
    "a step that is not extrapolated": (BEYOND, "w[i]"),
    "no floor at zero": (
        BEYOND,
        "w[i] + momentum * (w[i] - before[at])",
    ),
    "a change from the wrong point": ("beyond[2 * (n * k) + at] = made - f;", "beyond[2 * (n * k) + at] = w[i] - f;"),
    "another row's sums": ("square += A[at] *", "square += A[at ? at - 1 : at] *"),
    "sums that are mixed wrongly": ("- beta * WtW_before[i]", "- WtW_before[i]"),
    "a pace that stays": ("weight = grown < cap ? grown : cap;", ";"),
    "a cap that stays": ("cap = wider < 1.0 ? wider : 1.0;", ";"),
    "a pace without a cap": ("weight = grown < cap ? grown : cap;", "weight = grown;"),
    "the pace of another step": ("pace ? (FT)pace[1] : momentum", "pace ? (FT)pace[0] : momentum"),
    "a slot at the wrong place": ("at += B##s ? 1 : size##s", "at += B##s ? 0 : size##s"),
}


@emulated
@pytest.mark.parametrize("fault", FAULTS_AHEAD)
def test_planted_faults_of_a_step_ahead_are_caught(rng, cupy, monkeypatch, fault):
    source, (sound, broken) = cuda_ops._source(), FAULTS_AHEAD[fault]
    assert source.count(sound) == 1
    for text, right in ((source, True), (source.replace(sound, broken), False)):
        monkeypatch.setattr(cuda_ops, "_source", lambda text=text: text)
        forget()
        try:
            test_a_step_ahead(np.random.default_rng(1), cupy, 0.7, 5, np.float64)
            test_one_row_for_all_that_is_read(np.random.default_rng(1), cupy)
            test_the_pace_of_steps_ahead(np.random.default_rng(1), cupy, 0.9, 0.905, np.float64)
            assert right
        except AssertionError:
            assert not right
    forget()


# Faults that real kernels have: each must be seen by the comparisons above.
FAULTS = {
    "a missing barrier": ("    __syncthreads();\n    i64 next = j0", "    i64 next = j0"),
    "a row too many": ("const bool live = row < n;", "const bool live = row <= n;"),
    "a wrong shuffle width": ("for (int step = W / 2; step; step >>= 1)", "for (int step = W / 4; step; step >>= 1)"),
    "partial sums that are never flushed": ("aside[q] += sum[q];\n        sum[q] = 0;", "sum[q] = 0;"),
    "a sum that is overwritten": ("    XtF[i] += added(", "    XtF[i] = 2.0 * added("),
    "a row that a Gram matrix misses": ("right, first, last, j0", "right, first, last - 1, j0"),
    "numbers of a sweep that are left out": ("s < count; s += THREADS) {", "s < count - 1; s += THREADS) {"),
    "an early return before a shuffle": ("  FT w[KL], c[KL];", "  if (!live) return;\n  FT w[KL], c[KL];"),
    "a barrier that some threads skip": (
        "  __syncthreads();\n  if ((threadIdx.x & 31) == 0) room",
        "  if (threadIdx.x) __syncthreads();\n  if ((threadIdx.x & 31) == 0) room",
    ),
}  # fmt: skip


@emulated
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(rng, cupy, monkeypatch, fault):
    n, m, k = 70, 300, 20
    X, F, Ht = problem(rng, n, m, k, np.float32)
    G, order = ref.gram(Ht), np.arange(k)
    expected = ref.sweep(F, G, ref.products(X, Ht))[0]
    source, (sound, broken) = cuda_ops._source(), FAULTS[fault]
    assert source.count(sound) >= 1

    def wrong(text):
        monkeypatch.setattr(cuda_ops, "_source", lambda: text)
        forget()
        Ht_d, G_d = up(cupy, Ht, G)
        for seed in (0, 1, 2, 3):
            XtF, FtF, stats = zeros(cupy, (m, k), (k, k), (cuda_ops.STATS,))
            # parts of larger arrays, so that what is written beyond them is seen
            more, around = cupy.full((2 * n, k), 7, np.float32), cupy.asarray(np.vstack([F, 1 + F]))
            out = more[:n]
            try:
                with module.scheduled(seed):
                    cuda_ops.descend(
                        cuda_ops.cut(cupy.asarray(X), (0, n)),
                        around[:n],
                        Ht_d,
                        G_d,
                        0,
                        0,
                        order,
                        1,
                        0.0,
                        out,
                        XtF,
                        FtF,
                        stats,
                    )
                close(out, expected, np.float32, 30 * max(1.0, np.abs(expected).max()))
                assert (cuda_ops.to_numpy(more[n:]) == 7).all()
                close(XtF, ref.products(X.T, cuda_ops.to_numpy(out)), np.float32)
                close(FtF, ref.gram(cuda_ops.to_numpy(out)), np.float32)
                (told,) = cuda_ops.read(stats)
                assert told[cpu.TOTAL] == pytest.approx(expected.sum(), rel=1e-4)
            except (AssertionError, module.EmulationError) as caught:
                return caught
        return None

    assert wrong(source) is None
    assert wrong(source.replace(sound, broken)) is not None
    forget()
