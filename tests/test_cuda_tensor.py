"""The products on tensor cores (cuda_tensor.cu) against float64: the real source, run by the emulator on the host."""

from importlib import resources

import numpy as np
import pytest
from cuda_emulator import fake_cupy, module

pytestmark = pytest.mark.skipif(module.unavailable() is not None, reason=str(module.unavailable()))

STORED = {"uint8": "unsigned char", "uint16": "unsigned short", "float16": "unsigned short", "float32": "float"}
SOURCE = (resources.files("nmfcore.backends") / "cuda_tensor.cu").read_text(encoding="utf-8")
SPAN, DEPTH = 64, 32
TOLERANCE = 5e-7  # of Σ|x·h|: one product may be off by 4.6e-7
AROUND = 7.0  # what is around an array of results

# around the tiles: 64 rows or columns, 32 terms (16 at a time, 256 until sums are put aside), 32 or 64 components
SHAPES = [
    (1, 1, 25), (15, 7, 31), (16, 8, 32), (17, 9, 33), (63, 31, 63), (64, 64, 64), (65, 33, 65), (130, 9, 100),
    (1, 257, 64), (17, 100, 32), (65, 257, 25), (130, 1, 31), (63, 8, 65),
]  # fmt: skip
# where X begins in memory, and how many numbers there are between its rows; None: up to the next multiple of 4
LAYOUTS = [(0, 0), (0, None), (4, None), (1, 0), (2, 3), (3, 2)]


def build(stored, width, source=SOURCE):
    options = [f"-DXT={STORED[stored]}", "-DFT=float", f"-DKT={width}"] + ["-DX_HALF"] * (stored == "float16")
    return module.compiled(source, tuple(options))


def numbers(rng, stored, *shape):
    if stored.startswith("uint"):
        return rng.integers(0, np.iinfo(stored).max, shape, stored, endpoint=True)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(stored)


def apart(X, start, gap):
    """X among numbers that must not be read into a sum → its memory, its first number, and the length of its rows."""
    n, m = X.shape
    ld = m + (-m % 4 if gap is None else gap)
    memory = np.full(start + (n + SPAN) * ld, np.nan if X.dtype.kind == "f" else np.iinfo(X.dtype).max, X.dtype)
    memory[start : start + n * ld].reshape(n, ld)[:, :m] = X
    return fake_cupy.ndarray(memory), fake_cupy.ndarray(memory[start:]), ld


def among(F, value=np.nan):
    """A factor in longer memory: as results need it, too."""
    memory = np.full(F.size + SPAN * F.shape[1], value, F.dtype)
    memory[: F.size] = F.reshape(-1)
    return fake_cupy.ndarray(memory)


def both(kernels, width, X, ld, n, m, F, Ht, chunk=2 * DEPTH):
    """X·Ht, and XᵀF by chunks, as the kernels compute them; nothing may be written beyond."""
    k, count = F.shape[1], -(-n // chunk)
    out = among(np.full((n, k), np.nan, np.float32), AROUND)
    parts = among(np.full((count * m, k), np.nan), AROUND)
    shape, across = (np.int64(n), np.int64(m), np.int32(k)), -(-k // width)
    block = (128, 1, 1)
    kernels.get_function("products_tensor")((-(-n // SPAN), across), block, (X, np.int64(ld), among(Ht), *shape, out))
    kernels.get_function("add_products_tensor")(
        (-(-m // SPAN), across, count), block, (X, np.int64(ld), among(F), *shape, np.int64(chunk), parts)
    )
    out, parts = out.get(), parts.get()
    assert (out[n * k :] == AROUND).all() and (parts[count * m * k :] == AROUND).all()
    return out[: n * k].reshape(n, k), parts[: count * m * k].reshape(count, m, k)


def worst(found, A, B):
    """The largest error of a product, over Σ|a·b|."""
    A, B = A.astype(np.float64), B.astype(np.float64)
    scale = np.abs(A) @ np.abs(B)
    errors = np.abs(found - A @ B) / np.where(scale > 0, scale, 1.0)
    return np.where(np.isfinite(errors), errors, np.inf).max(initial=0.0)


def error(kernels, width, X, F, Ht, layout=(0, 0), chunk=2 * DEPTH):
    n, m = X.shape
    memory, first, ld = apart(X, *layout)
    out, parts = both(kernels, width, first, ld, n, m, F, Ht, chunk)
    del memory
    by_chunk = [
        worst(part, X[i * chunk : (i + 1) * chunk].T, F[i * chunk : (i + 1) * chunk]) for i, part in enumerate(parts)
    ]
    return max(worst(out, X, Ht), *by_chunk)


def problem(rng, stored, n, m, k):
    return numbers(rng, stored, n, m), numbers(rng, "float32", n, k), numbers(rng, "float32", m, k)


def width_of(k):
    return 32 if k <= 32 else 64


@pytest.mark.parametrize("stored", STORED)
def test_products_are_as_good_as_in_float32(rng, stored):
    for i, (n, m, k) in enumerate(SHAPES):
        layout = LAYOUTS[i % len(LAYOUTS)]
        width = width_of(k)
        found = error(build(stored, width), width, *problem(rng, stored, n, m, k), layout)
        assert found <= TOLERANCE, (n, m, k, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stored", STORED)
def test_rows_lie_anywhere(rng, stored, layout):
    for n, m, k in [(65, 66, 33), (34, 68, 36)]:
        assert error(build(stored, 64), 64, *problem(rng, stored, n, m, k), layout) <= TOLERANCE, (n, m, k)


@pytest.mark.parametrize("stored", STORED)
def test_long_sums_of_one_sign(rng, stored):
    X, F, Ht = problem(rng, stored, 600, 40, 33)
    X, F = np.abs(X), rng.random(F.shape, np.float32)
    assert error(build(stored, 64), 64, X, F, Ht, chunk=608) <= TOLERANCE
    X = np.ascontiguousarray(X.T)
    assert error(build(stored, 64), 64, X, F[:40], rng.random((600, 33), np.float32)) <= TOLERANCE


@pytest.mark.parametrize("stored", STORED)
def test_any_order_of_threads_gives_the_same_bits(rng, stored):
    X, F, Ht = problem(rng, stored, 70, 290, 33)
    memory, first, ld = apart(X, 1, 2)
    for width in (32, 64):
        found = set()
        for seed in (0, 1, 2, 3):
            with module.scheduled(seed):
                made = both(build(stored, width), width, first, ld, 70, 290, F, Ht)
            found.add(b"".join(each.tobytes() for each in made))
        assert len(found) == 1
    del memory


# not a number as processors write it, with either sign, and with the lowest bit alone; infinities; the largest float
STRANGE = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000, 0xFF800000, 0x7F7FFFFF], np.uint32)


@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_what_is_not_finite_stays_so(rng, stored):
    X, F, Ht = problem(rng, stored, 70, 40, 33)
    strange = [np.nan, -np.nan, np.inf, -np.inf] if stored == "float16" else STRANGE.view(np.float32)
    F, Ht = 0.5 + rng.random(F.shape, np.float32), 0.5 + rng.random(Ht.shape, np.float32)
    F[0, 0] = F[1, 1] = Ht[0, 0] = Ht[1, 1] = 1.0  # of these, the low part is zero
    for value in strange:
        Y = X.copy()
        Y[0, 3] = value
        memory, first, ld = apart(Y, 0, 0)
        out, parts = both(build(stored, 64), 64, first, ld, 70, 40, F, Ht, 70)
        del memory
        assert not np.isfinite(out[0]).any() and not np.isfinite(parts[0, 3]).any()
        assert np.isnan(out[0]).all() or not np.isnan(value)
        rest = np.delete(Y, 0, axis=0)
        assert worst(out[1:], rest, Ht) <= TOLERANCE  # nothing of it in the other rows
        assert worst(np.delete(parts[0], 3, axis=0), np.delete(Y, 3, axis=1).T, F) <= TOLERANCE


@pytest.mark.parametrize("stored", ["uint8", "float32"])
def test_a_factor_that_is_not_finite_is_seen(rng, stored):
    X, F, Ht = problem(rng, stored, 20, 40, 33)
    X[X == 0] = 1
    for value in STRANGE.view(np.float32):
        F[2, 5] = Ht[7, 6] = value
        memory, first, ld = apart(X, 0, 0)
        out, parts = both(build(stored, 64), 64, first, ld, 20, 40, F, Ht, 32)
        del memory
        assert not np.isfinite(out[:, 6]).any() and not np.isfinite(parts[0, :, 5]).any()
        assert np.isfinite(np.delete(out, 6, axis=1)).all() and np.isfinite(np.delete(parts[0], 5, axis=1)).all()


def test_more_numbers_than_an_int_counts(rng):
    n, m, k, ld = 70, 33, 32, (1 << 25) + 3
    memory = np.zeros(n * ld, np.uint8)  # 2.3 GB, of which a few pages are touched
    X, F, Ht = problem(rng, "uint8", n, m, k)
    memory.reshape(n, ld)[:, :m] = X
    out, parts = both(build("uint8", 32), 32, fake_cupy.ndarray(memory), ld, n, m, F, Ht, 70)
    assert max(worst(out, X, Ht), worst(parts[0], X.T, F)) <= TOLERANCE


# Sums in a tensor core are cut off where float32 ends, and those of four products one after another: at worst.
CUT_OFF = """#include "emulator.h"
inline void cut_off(float d[4], const unsigned a[4], const unsigned b[2]) {
  for (int half = 0; half < 2; ++half) {
    float sum[4] = {0, 0, 0, 0};
    unsigned of_a[4] = {half ? 0 : a[0], half ? 0 : a[1], half ? a[2] : 0, half ? a[3] : 0};
    mma_m16n8k8_tf32(sum, of_a, b);
    for (int i = 0; i < 4; ++i) {
      double exact = (double)d[i] + (double)sum[i];
      d[i] = (float)exact;
      if (fabs((double)d[i]) > fabs(exact)) d[i] = nextafter(d[i], 0.0f);
    }
  }
}
"""


def with_sums_cut_off(source):
    made = source.replace('#include "emulator.h"', CUT_OFF, 1).replace("mma_m16n8k8_tf32(part,", "cut_off(part,")
    assert made.count("cut_off(") == 4  # and one for the real device
    return made


def test_sums_that_are_cut_off(rng):
    X, F, Ht = np.abs(numbers(rng, "float32", 300, 300)), *rng.random((2, 300, 25), np.float32)
    found = error(build("float32", 32, with_sums_cut_off(SOURCE)), 32, X, F, Ht, chunk=320)
    assert found <= TOLERANCE
    # a sum that stays in a tensor core for 256 terms
    long = SOURCE.replace("float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};", "float(&part)[4] = sum[i][q];", 1)
    long = long.replace("sum[i][q][e] += part[e];", ";", 1)
    assert long.count("float(&part)[4]") == 1 and "+= part[e]" not in long
    assert error(build("float32", 32, with_sums_cut_off(long)), 32, X, F, Ht, chunk=320) > 2 * TOLERANCE


# Faults that real kernels have: each must be seen by the comparisons above.
FAULTS = {
    "registers of b change places": (
        "upper[e / 2][e % 2], lower[e / 2][e % 2]",
        "upper[e / 2][1 - e % 2], lower[e / 2][1 - e % 2]",
    ),
    "a result's row has no bound": ("if (row < high) {", "{"),
    "a result's column has no bound": ("if (column + c < wide)", "if (true)"),
    "a read row has no bound": ("WHOLE || (mine && i * STRIP < high)", "WHOLE || mine"),
    "a pack has no bound": ("fetch_packs<false>(at, DOWN * ld, high - r, c < wide)",
                            "fetch_packs<true>(at, DOWN * ld, high - r, c < wide)"),
    "packs are read where rows are not aligned": ("packed = aligned && wide % 4 == 0;", "packed = aligned;"),
    "no barrier before tiles are read": ("    __syncthreads();\n    terms -= DEPTH;", "    terms -= DEPTH;"),
    "no barrier before tiles are written": ("    __syncthreads();\n  }\n  const int g", "  }\n  const int g"),
    "the low part of X is left out": ("if (!EXACT) mma_m16n8k8_tf32(part, low[i][s], upper[s]);", ""),
    "the low part of the factor is left out": ("mma_m16n8k8_tf32(part, high[i][s], lower[s]);", ""),
    "sums are never put aside": ("aside[i * THREADS] += (SUM)sum", "aside[i * THREADS] += 0 * (SUM)sum"),
}  # fmt: skip


def caught(source):
    """Whether the comparisons see that a source is wrong."""
    rng = np.random.default_rng(0)
    problems = [(problem(rng, "float32", *shape), layout) for shape, layout in
                [((66, 38, 36), (0, None)), ((66, 70, 33), (1, 2)), ((34, 290, 33), (0, 0))]]  # fmt: skip
    for (X, F, Ht), layout in problems:
        for seed in (0, 1, 2, 3):
            with module.scheduled(seed):
                try:
                    if error(build("float32", 64, source), 64, X, F, Ht, layout, 288) > TOLERANCE:
                        return True
                except (AssertionError, module.EmulationError):
                    return True
    return False


def test_the_source_itself_passes_as_faults_are_looked_for():
    assert not caught(SOURCE)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    sound, broken = FAULTS[fault]
    assert SOURCE.count(sound) == 1
    assert caught(SOURCE.replace(sound, broken))
