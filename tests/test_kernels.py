"""Every operation of the CPU backend against its naive twin, over ragged shapes and all storage types."""

import itertools
import logging
import subprocess
import sys

import numpy as np
import pytest
import reference as ref
from scipy import sparse

from nmfcore.backends import cpu
from nmfcore.backends.kernels.arguments import in_strips
from nmfcore.rows.memory import as_rows

STORED = ["uint8", "bool", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32",
          "float64"]  # fmt: skip
# around the register tiles (16 rows, 8 or 16 lanes, 3 vectors) and the sweep's width
SHAPES = [
    (203, 21, 4),
    (1, 1, 1),
    (3, 2, 2),
    (15, 17, 3),
    (16, 16, 16),
    (33, 31, 8),
    (65, 48, 17),
    (70, 129, 26),
    (130, 5, 50),
]
DTYPES = [np.float32, np.float64]


def tolerance(dtype):
    return 2e-5 if dtype == np.float32 else 1e-12


def close(found, expected, dtype, scale=None):
    expected = np.asarray(expected)
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype) * max(scale, 1e-30))


def problem(rng, n, m, k, dtype, stored=None, layout="C"):
    X = rng.integers(0, 2 if stored == "bool" else 100, (n, m)) * (rng.random((n, m)) < 0.7)
    X = X.astype(stored or dtype)
    X = {
        "C": lambda: X,
        "F": lambda: np.asfortranarray(X),
        "strided": lambda: np.repeat(np.repeat(X, 2, 0), 3, 1)[::2, ::3],
        "reversed": lambda: X[::-1, ::-1].copy()[::-1, ::-1],
        "csr": lambda: sparse.csr_matrix(X),
    }[layout]()
    return X, rng.random((n, k)).astype(dtype), rng.random((m, k)).astype(dtype)


def blocks(X, height, cuts=1):
    bounds = [X.shape[0] * i // cuts for i in range(cuts + 1)]
    return [(a, b, cpu.cut(X, (a, b), height)) for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "csr"])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("n", [37, 150])  # one tile, and several with a rest
def test_products_read_every_type_where_it_lies(rng, stored, layout, dtype, n):
    if layout == "csr" and stored == "float16":
        pytest.skip("scipy has no sparse float16")
    m, k = 29, 5
    X, F, Ht = problem(rng, n, m, k, dtype, stored, layout)
    before = X.copy()
    out, XtF = np.empty_like(F), np.zeros((m, k))
    for lo, hi, block in blocks(X, 64, cuts=2):
        cpu.products(block, Ht, out[lo:hi])
        cpu.add_products(block, F[lo:hi], XtF)
    close(out, ref.products(X, Ht), dtype)
    close(XtF, ref.products(ref.dense(X).T, F), dtype)
    assert (before != X).sum() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["C", "csr"])
def test_one_pass_of_coordinate_descent(rng, shape, layout, dtype):
    n, m, k = shape
    X, F, Ht = problem(rng, n, m, k, dtype, layout=layout)
    F[rng.random(F.shape) < 0.3] = 0
    Ht[:, rng.random(k) < 0.2] = 0  # a dead component stays as it is
    G, order = ref.gram(Ht), rng.permutation(k)
    l1, l2 = 0.3, 0.2
    expected, violation, newton, _ = ref.sweep(F, G, ref.products(X, Ht), l1, l2, order)
    out, XtF, FtF, stats = np.empty_like(F), np.zeros((m, k)), np.zeros((k, k)), np.zeros(cpu.STATS)
    for lo, hi, block in blocks(X, 64, cuts=min(n, 3)):
        cpu.descend(block, F[lo:hi], Ht, G, l1, l2, order, 1, 0.0, out[lo:hi], XtF, FtF, stats)
    scale = max(1.0, np.abs(expected).max())
    close(out, expected, dtype, 30 * scale)
    close(XtF, ref.products(ref.dense(X).T, out), dtype)
    close(FtF, ref.gram(out), dtype)
    assert stats[cpu.VIOLATION] == pytest.approx(violation, rel=50 * tolerance(dtype))
    assert stats[cpu.KKT] == pytest.approx(newton, rel=50 * tolerance(dtype), abs=1e-6)
    assert stats[cpu.TOTAL] == pytest.approx(out.sum(dtype=float), rel=1e-12)


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pass_over_rows_so_long_that_they_are_read_in_strips(rng, layout, dtype):
    """Two tiles of three strips; k ends in half a vector where vectors are long."""
    n, m, k = 300, 1701, 116
    assert in_strips(m, k)
    X = np.asarray(rng.integers(0, 256, (n, m), dtype=np.uint8), order=layout)
    F, Ht = rng.random((n, k)).astype(dtype), rng.random((m, k)).astype(dtype)
    G, order = cpu.gram(Ht), np.arange(k)
    D = X.astype(float)
    block = cpu.cut(X, (0, n), 64)
    expected, _, _, _ = ref.sweep(F, G, D @ Ht, 0.0, 0.0, order)
    out, XtF, FtF, stats = np.empty_like(F), np.zeros((m, k)), np.zeros((k, k)), np.zeros(cpu.STATS)
    cpu.descend(block, F, Ht, G, 0.0, 0.0, order, 1, 0.0, out, XtF, FtF, stats)
    close(out, expected, dtype, 30 * np.abs(expected).max())
    close(XtF, D.T @ out, dtype)
    alone, product = np.zeros((m, k)), np.empty_like(F)
    cpu.products(block, Ht, product)
    cpu.add_products(block, out, alone)
    close(product, D @ Ht, dtype)
    np.testing.assert_array_equal(alone, XtF)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_step_of_the_small_factor(rng, shape, dtype):
    _, m, k = shape
    F = rng.random((m, k)).astype(dtype)
    G, C = ref.gram(rng.random((40, k))), rng.random((m, k)) * 5
    for name in ("sweep", "scale"):
        out, FtF, stats = np.empty_like(F), np.zeros((k, k)), np.zeros(cpu.STATS)
        if name == "sweep":
            cpu.sweep(F, G, C, 0.1, 0.2, np.arange(k), out, FtF, stats)
            expected = ref.sweep(F, G, C, 0.1, 0.2)[0]
        else:
            cpu.scale(F, G, C, 0.1, 0.2, out, FtF, stats)
            expected = F * C / (F @ G + 0.1 + 0.2 * F)
        close(out, expected, dtype, 10 * max(1.0, np.abs(expected).max()))
        close(FtF, ref.gram(out), dtype)
        assert stats[cpu.CROSS] == pytest.approx((C * out).sum(), rel=1e-12)
    close(cpu.gram(F), ref.gram(F), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [-1.2, -0.5, 0, 0.2, 0.5, 1, 1.2, 1.5, 2, 2.5, 3, 3.7])
@pytest.mark.parametrize("layout", ["C", "csr"])
def test_one_pass_of_multiplicative_updates(rng, beta, layout, dtype):
    n, m, k = 21, 19, 5
    X, F, Ht = problem(rng, n, m, k, dtype, layout=layout)
    if beta <= 0:
        X = (ref.dense(X) + 1).astype(dtype)
    F[3], Ht[:4, 1] = 0, 0  # WH with zeros, which the floors must catch
    l1, l2 = 0.3, 0.2
    expected = ref.mu_rows(X, F, Ht, beta, l1, l2)
    out, stats = np.empty_like(F), np.zeros(cpu.STATS + 2 * k)
    if beta == 2:
        XtF, FtF = np.zeros((m, k)), np.zeros((k, k))
        for lo, hi, block in blocks(X, 64, cuts=2):
            cpu.multiply(block, F[lo:hi], Ht, cpu.gram(Ht), l1, l2, out[lo:hi], XtF, FtF, stats)
        close(out, expected, dtype, 10 * np.abs(expected).max())
        close(XtF, ref.products(ref.dense(X).T, out), dtype)
        return
    N, D = np.zeros((m, k)), np.zeros((1 if beta == 1 else m, k))
    loss = 0.0
    for lo, hi, block in blocks(X, 64, cuts=2):
        loss += cpu.multiply_beta(
            block, F[lo:hi], Ht, beta, ref.gamma(beta), l1, l2, 0.0, True, True, out[lo:hi], N, D, stats
        )
    close(out, expected, dtype, 10 * np.abs(expected).max())
    numerator, denominator = ref.mu_terms(ref.dense(X).T, Ht, out, beta)
    close(N, numerator, dtype, 10 * np.abs(numerator).max())
    close(np.broadcast_to(D, (m, k)), denominator, dtype, 10 * np.abs(denominator).max())
    assert loss == pytest.approx(ref.beta_divergence(X, F, Ht.T, beta), rel=20 * tolerance(dtype))
    top, bottom = ref.kkt_parts(X, F, Ht, beta, l1, l2)
    pulls = (stats[cpu.STATS : cpu.STATS + k] * stats[cpu.STATS + k :]).sum() / n
    assert stats[cpu.VIOLATION] + pulls == pytest.approx(top, rel=1e3 * tolerance(dtype))
    assert stats[cpu.KKT] == pytest.approx(bottom, rel=20 * tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "F", "csr", "full"])  # "full": few zeros, which are not left out
@pytest.mark.parametrize("penalty", [(0.0, 0.0), (0.3, 0.2)])
def test_coordinate_descent_of_the_kullback_leibler_divergence(rng, layout, penalty, dtype):
    n, m, k = 21, 19, 5
    X, F, Ht = problem(rng, n, m, k, dtype, layout="C" if layout == "full" else layout)
    if layout == "full":
        X = (X + (rng.random(X.shape) < 0.9)).astype(dtype)
    F[3], F[5], F[7, 2], Ht[4, 1] = 0, 100, 0, 0  # far below and above the minimum, and zeros
    order = np.array([3, 0, 4, 2], np.intp)  # the second coordinate is left alone
    out, stats, losses = np.empty_like(F), np.zeros(cpu.STATS + 2 * k), np.zeros(n)
    totals = Ht.sum(axis=0, dtype=np.float64)
    for lo, hi, block in blocks(X, 64, cuts=2):
        cpu.descend_kl(
            block, F[lo:hi], (F[lo:hi], 0.0), Ht, totals, *penalty, order, 2, 0.0, out[lo:hi], stats, losses[lo:hi]
        )
    expected, violation, (top, bottom) = ref.kl_sweeps(X, F, Ht, *penalty, 2, order)
    close(out, expected, dtype, 10 * np.abs(expected).max())
    by_row = [ref.beta_divergence(ref.dense(X)[[i]], expected[[i]], Ht.T, 1) for i in range(n)]
    np.testing.assert_allclose(losses, by_row, rtol=50 * tolerance(dtype))
    pulls = (stats[cpu.STATS : cpu.STATS + k] * stats[cpu.STATS + k :]).sum() / n
    assert stats[cpu.VIOLATION] == pytest.approx(violation, rel=20 * tolerance(dtype))
    assert stats[cpu.CROSS] + pulls == pytest.approx(top, rel=20 * tolerance(dtype))
    assert stats[cpu.KKT] == pytest.approx(bottom, rel=20 * tolerance(dtype))
    assert stats[cpu.TOTAL] == pytest.approx(out.sum(dtype=float), rel=1e-12)
    assert stats[cpu.SQUARE] == pytest.approx((out.astype(float) ** 2).sum(), rel=1e-12)


def test_no_step_of_a_coordinate_raises_the_kullback_leibler_divergence(rng):
    m, k = 7, 3
    for _ in range(300):
        X = rng.gamma(0.3, 1.0, (1, m)) * 10.0 ** rng.integers(-3, 4, (1, m)) * (rng.random((1, m)) < 0.7)
        F, Ht = rng.gamma(0.3, 1.0, (1, k)) * 10.0 ** rng.integers(-3, 4, (1, k)), rng.gamma(0.2, 1.0, (m, k))
        l1, l2 = rng.random(2) * (rng.random(2) < 0.5)
        out, stats, losses = np.empty_like(F), np.zeros(cpu.STATS + 2 * k), np.zeros(0)
        order = rng.integers(0, k, 1)
        totals = Ht.sum(axis=0)
        cpu.descend_kl(blocks(X, 64)[0][2], F, (F, 0.0), Ht, totals, l1, l2, order, 1, 0.0, out, stats, losses)
        before, after = (ref.objective(X, f, Ht.T, 1, l1_W=l1, l2_W=l2) for f in (F, out))
        assert after <= before + 1e-12 * (abs(before) + X.sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [-1.2, 0, 0.5, 1, 1.2, 1.5, 2, 3])
@pytest.mark.parametrize("layout", ["C", "F", "csr"])
@pytest.mark.parametrize("n", [37, 301])  # one tile, and several
def test_divergence(rng, beta, layout, dtype, n):
    X, F, Ht = problem(rng, n, 19, 4, dtype, layout=layout)
    total = sum(cpu.divergence(block, F[lo:hi], Ht, beta) for lo, hi, block in blocks(X, 64, cuts=2))
    assert total == pytest.approx(ref.beta_divergence(X, F, Ht.T, beta), rel=20 * tolerance(dtype))


def test_frobenius_divergence_does_not_cancel(rng):
    F, Ht = rng.random((50, 3)), rng.random((20, 3))
    X = F @ Ht.T
    X[7, 7] += 1e-9
    assert cpu.divergence(cpu.cut(X, (0, 50), 64), F, Ht, 2) == pytest.approx(5e-19, rel=1e-3)


@pytest.mark.parametrize("x", [1.3e-7, 1e-3, 0.1, 0.70710678, 1.0, np.nextafter(1, 2), np.e, 255.0, 1e10, 1e30])
@pytest.mark.parametrize("beta", [0.3, 1.7, -2.4, 6.2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_are_accurate(x, beta, dtype):
    """A matrix of one entry shows the powers themselves: N = wh^(β−2)·f and D = wh^(β−1)·f with wh = f."""
    X, F, Ht = np.ones((1, 1)), np.full((1, 1), x, dtype), np.ones((1, 1), dtype)
    N, D, stats = np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(cpu.STATS + 2)
    cpu.multiply_beta(cpu.cut(X, (0, 1), 64), F, Ht, beta, 1.0, 0, 0, 0.0, False, False, F, N, D, stats)
    wh, limits = np.longdouble(F[0, 0]), np.finfo(dtype)
    for found, p in ((N[0, 0], beta - 2), (D[0, 0], beta - 1)):
        power, first = wh ** np.longdouble(p), wh ** (np.longdouble(beta) - 2)  # the other is this times wh
        if max(first, power * wh) > limits.max:
            assert found == np.inf
        elif min(first, power) < limits.tiny:
            assert found <= power * wh
        else:
            assert found == pytest.approx(float(power * wh), rel=6e-7 if dtype == np.float32 else 3e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [0.3, 1.1, 1.7, 2.6])
def test_powers_of_what_is_no_ordinary_number(beta, dtype):
    """As numpy's powers, with the floors: zero, a number of fewer digits; NaN stays NaN."""
    limits, floor = np.finfo(dtype), np.finfo(np.float32).eps
    for wh in (0.0, limits.tiny / 64, limits.tiny, floor / 2, np.nan):
        X, F, Ht = np.ones((1, 5)), np.ones((1, 1), dtype), np.array([[1], [wh], [2], [wh], [3]], dtype)
        N, D, stats = np.zeros((5, 1)), np.zeros((5, 1)), np.zeros(cpu.STATS + 2)
        cpu.multiply_beta(cpu.cut(X, (0, 1), 64), F, Ht, beta, 1.0, 0, 0, 0.0, False, False, F, N, D, stats)
        given = Ht[:, 0].astype(float)
        with np.errstate(all="ignore"):
            high, low = (np.maximum(given, floor) if beta < least else given for least in (2, 1))
            np.testing.assert_allclose(N[:, 0], high ** (beta - 2), rtol=5 * limits.eps, atol=limits.tiny)
            np.testing.assert_allclose(D[:, 0], low ** (beta - 1), rtol=5 * limits.eps, atol=limits.tiny)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("height", [64, 128, 256])
def test_a_rows_bits_do_not_depend_on_its_company(rng, dtype, height):
    n, m, k = 301, 77, 11
    X, F, Ht = problem(rng, n, m, k, dtype)
    G, order = cpu.gram(Ht), np.arange(k)
    nothing = np.zeros((0, k))

    def rows(lo, hi):
        out = np.empty((hi - lo, k), dtype)
        block = cpu.cut(X, (lo, hi), height)
        cpu.descend(block, F[lo:hi], Ht, G, 0, 0, order, 3, 1e-3, out, nothing, nothing, np.zeros(cpu.STATS))
        return out

    together = rows(0, n)
    for lo, hi in [(0, 1), (63, 65), (100, 101), (17, 290), (300, 301)]:
        np.testing.assert_array_equal(rows(lo, hi), together[lo:hi])


def test_settled_rows_are_frozen_one_by_one(rng):
    X, F, Ht = problem(rng, 90, 40, 6, np.float64)
    G, order, nothing, tol = cpu.gram(Ht), np.arange(6), np.zeros((0, 6)), 1e-3
    out, stats = np.empty_like(F), np.zeros(cpu.STATS)
    cpu.descend(cpu.cut(X, (0, 90), 64), 0 * F, Ht, G, 0, 0, order, 40, tol, out, nothing, nothing, stats)
    iterations = []
    for i in range(90):
        expected, n_iter = ref.cd_transform_row(X[i], Ht.T, tol, 40)
        np.testing.assert_allclose(out[i], expected, atol=1e-9 * max(1, expected.max()))
        iterations.append(n_iter)
    assert len(set(iterations)) > 3, "rows that all settle at once prove nothing"
    assert stats[cpu.SWEEPS] == max(iterations)
    assert stats[cpu.UNSETTLED] == 0


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", ["C", "F", "csr"])
def test_opening_pass(rng, stored, value, layout):
    if layout == "csr" and stored == "float16":
        pytest.skip("scipy has no sparse float16")
    X, _, _ = problem(rng, 50, 30, 2, np.float32, stored, layout)
    opening = as_rows(X, np.float64).summary()
    D = ref.dense(X)
    assert opening.finite
    assert opening.minimum == D.min()
    assert opening.total == pytest.approx(D.sum(), rel=1e-13)
    assert opening.squares == pytest.approx((D * D).sum(), rel=1e-13)
    X = X.copy()
    X[31, 7] = value
    assert not as_rows(X, np.float64).summary().finite


def test_float16_is_widened_exactly():
    bits = np.arange(2**16, dtype=np.uint16)
    X = bits.view(np.float16)
    X = X[np.isfinite(X)].reshape(-1, 8)
    out = np.empty((len(X), 8), np.float32)
    cpu.products(cpu.cut(X, (0, len(X)), 64), np.eye(8, dtype=np.float32), out)
    np.testing.assert_array_equal(out, X.astype(np.float32))


def test_duplicate_entries_of_csr_count_together(rng):
    X = sparse.csr_matrix((np.ones(6), np.array([0, 0, 2, 1, 1, 1]), np.array([0, 3, 6])), shape=(2, 3))
    assert not X.has_canonical_format
    F, Ht = rng.random((2, 2)), rng.random((3, 2))
    block = cpu.cut(X, (0, 2), 64)
    out = np.empty((2, 2))
    cpu.products(block, Ht, out)
    np.testing.assert_allclose(out, X.toarray() @ Ht)
    N, D, stats = np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(cpu.STATS + 4)
    cpu.multiply_beta(block, F, Ht, 1.5, 1.0, 0, 0, 0.0, False, False, F, N, D, stats)
    np.testing.assert_allclose(N, ref.mu_terms(X.toarray().T, Ht, F, 1.5)[0])


NARROW = """
import numpy as np, os, sys
from nmfcore.backends import cpu
from nmfcore.backends.kernels import _simd
assert _simd.VECTOR_BYTES == int(sys.argv[1]), _simd.VECTOR_BYTES
rng = np.random.default_rng(0)
X, F, Ht = rng.integers(0, 255, (70, 45), dtype=np.uint8), rng.random((70, 19)), rng.random((45, 19))
for dtype in (np.float32, np.float64):
    F, Ht = F.astype(dtype), Ht.astype(dtype)
    out, XtF, FtF = np.empty_like(F), np.zeros((45, 19)), np.zeros((19, 19))
    block = cpu.cut(X, (0, 70), 64)
    cpu.products(block, Ht, out)
    np.testing.assert_allclose(out, X @ Ht, rtol=1e-4)
    cpu.add_products(block, F, XtF)
    np.testing.assert_allclose(XtF, X.T @ F, rtol=1e-4)
"""


@pytest.mark.parametrize(("name", "width"), [("haswell", 32), ("generic", 16)])
def test_narrower_processors_get_the_right_answer(name, width, tmp_path):
    """The documented switch: Numba compiles for the named processor, and the register tiles follow."""
    import os

    import llvmlite.binding

    if name != "generic" and not llvmlite.binding.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2 to limit itself to")
    environment = os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    if name == "haswell":
        environment["NUMBA_CPU_FEATURES"] = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+sse4.2,+sse2"
    run = [sys.executable, "-c", NARROW, str(width)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


COLD = """
import logging, numpy as np, nmfcore
logging.basicConfig(level=logging.INFO)
X = np.random.default_rng(0).random((200, 60)) + 0.1
model = nmfcore.NMF(5, solver="mu", beta_loss=1, init="random", random_state=0, max_iter=5, tol=0)
print(*(A.tobytes().hex() for A in (model.fit_transform(X), model.components_)))
"""


def test_a_compile_longer_than_a_second_says_what_the_wait_is_for(tmp_path):
    """In a process of its own with an empty cache. And what was compiled gives the bits that it gives once loaded."""
    import os

    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    run = [sys.executable, "-W", "ignore", "-c", COLD]
    cold = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert "compiles its kernels" in cold.stderr
    assert cold.stderr.count("compiles its kernels") == 1
    assert list((tmp_path / "cache").rglob("*.nbi")), "nothing was kept"
    warm = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert "compiles its kernels" not in warm.stderr
    assert cold.stdout == warm.stdout, "compiled and loaded kernels differ in their bits"
    assert len(cold.stdout) > 1000
    assert logging.getLogger("nmfcore").level == logging.NOTSET


@pytest.mark.parametrize("k", [1, 10, 17, 30, 70])  # up to four vectors, and more
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sparse_row_does_not_depend_on_its_neighbours(rng, dtype, k):
    """Empty, short and long rows, which are widened by groups; and column numbers of 64 bits are as good as of 32."""
    m = 6000
    X = sparse.vstack(
        [sparse.random(1, m, share, format="csr", random_state=i) for i, share in enumerate([0, 0.001, 1, 0.01, 0] * 9)]
    ).tocsr()
    X = sparse.csr_matrix(X.astype(dtype))
    F, Ht = rng.random((X.shape[0], k)).astype(dtype), rng.random((m, k)).astype(dtype)
    out, alone = np.empty_like(F), np.empty_like(F)
    cpu.products(cpu.cut(X, (0, len(F)), 64), Ht, out)
    for i in range(len(F)):
        cpu.products(cpu.cut(X, (i, i + 1), 64), Ht, alone[i : i + 1])
    assert np.array_equal(out, alone)
    close(out, X.astype(np.float64) @ Ht.astype(np.float64), dtype)
    XtF, wide = np.full((m, k), 3.0), X.copy()
    cpu.add_products(cpu.cut(X, (0, len(F)), 64), F, XtF)
    close(XtF, 3 + X.T.astype(np.float64) @ F.astype(np.float64), np.float64)  # float64 whatever the compute type
    wide.indptr, wide.indices = X.indptr.astype(np.int64), X.indices.astype(np.int64)
    again, sums = np.empty_like(F), np.full((m, k), 3.0)
    cpu.products(cpu.cut(wide, (0, len(F)), 64), Ht, again)
    cpu.add_products(cpu.cut(wide, (0, len(F)), 64), F, sums)
    assert np.array_equal(out, again)
    assert np.array_equal(XtF, sums)


def test_long_sums_of_sparse_rows_are_of_float64(rng):
    """In the compute type 100,000 terms would lose two digits more."""
    X = sparse.csr_matrix(rng.random((3, 100_000)).astype(np.float32))
    Ht, out = rng.random((100_000, 5)).astype(np.float32), np.empty((3, 5))
    cpu.products(cpu.cut(X, (0, 3), 64), Ht, out)
    np.testing.assert_allclose(out, X.astype(np.float64) @ Ht.astype(np.float64), rtol=2e-7)
