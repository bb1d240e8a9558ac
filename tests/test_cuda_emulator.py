"""The stand-ins that CUDA code is tested with: they compute what a GPU does, and catch what it does not forgive."""

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cuda_emulator import fake_cupy, module
from scipy import sparse

pytestmark = pytest.mark.skipif(module.unavailable() is not None, reason=str(module.unavailable()))

SEEDS = range(6)
SANITIZED = "-fsanitize" in os.environ.get("NMFCORE_EMULATOR_FLAGS", "")  # this run: see module.py
BEGIN = """
#ifdef NMFCORE_EMULATOR
#include "emulator.h"
#endif
typedef long long i64;
#define EVERY_LANE 0xffffffffu
"""


@pytest.fixture
def cupy(monkeypatch):
    return fake_cupy.install(monkeypatch)


# ---- kernels that are sound ------------------------------------------------------------------------------------------

SOUND = (
    BEGIN
    + """
extern "C" __global__ void where_am_i(int* out) {
  int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}

// Every barrier is needed: numbers go around the block, in static and in dynamic shared memory.
extern "C" __global__ void __launch_bounds__(256) go_around(double* out, int steps) {
  __shared__ double fixed[256];
  DYNAMIC_SHARED(double, dynamic);
  const int t = threadIdx.x, next = (t + 1) % blockDim.x;
  double value = t;
  for (int i = 0; i < steps; ++i) {
    fixed[t] = value;
    __syncthreads();
    dynamic[t] = fixed[next];
    __syncthreads();
    value = dynamic[next];
  }
  out[blockIdx.x * blockDim.x + t] = value;
}

// The second barrier is missing.
extern "C" __global__ void go_around_too_soon(double* out, int steps) {
  __shared__ double fixed[256];
  const int t = threadIdx.x, next = (t + 33) % blockDim.x;
  double value = t;
  for (int i = 0; i < steps; ++i) {
    fixed[t] = value;
    __syncthreads();
    value = fixed[next];
  }
  out[t] = value;
}

template <class T>
__device__ __forceinline__ T never_written() {
  __shared__ T room[3];
  T found = room[1];
  room[1] = 1;
  return found;
}
extern "C" __global__ void poison(double* out) {
  DYNAMIC_SHARED(float, dynamic);
  out[blockIdx.x * 3] = never_written<float>();
  out[blockIdx.x * 3 + 1] = never_written<double>();
  out[blockIdx.x * 3 + 2] = dynamic[threadIdx.x];
  dynamic[threadIdx.x] = 1;
}

template <class T>
__device__ __forceinline__ void shuffles(T value, int width, T* out) {
  const int lane = threadIdx.x;
  out[lane] = __shfl_sync(EVERY_LANE, value, lane * 5, width);
  out[32 + lane] = __shfl_xor_sync(EVERY_LANE, value, 3, width);
  out[64 + lane] = __shfl_down_sync(EVERY_LANE, value, 2, width);
  out[96 + lane] = __shfl_up_sync(EVERY_LANE, value, 1, width);
}
#define SHUFFLES(T, name) \\
  extern "C" __global__ void shuffle_##name(const T* in, int width, T* out) { \\
    shuffles<T>(in[threadIdx.x], width, out); \\
  }
SHUFFLES(int, int32)
SHUFFLES(unsigned, uint32)
SHUFFLES(i64, int64)
SHUFFLES(float, float32)
SHUFFLES(double, float64)

// Half warps go separate ways, one of them more often, and meet again.
extern "C" __global__ void votes(const int* in, unsigned* out) {
  const int lane = threadIdx.x & 31, half = lane / 16;
  const unsigned mine = 0xffffu << 16 * half;
  unsigned found = 0;
  for (int i = 0; i <= 2 * half; ++i) found += __ballot_sync(mine, in[threadIdx.x]);
  __syncwarp();
  unsigned* to = out + 4 * threadIdx.x;
  to[0] = found;
  to[1] = __any_sync(EVERY_LANE, in[threadIdx.x]);
  to[2] = __all_sync(mine, in[threadIdx.x] >= 0);
  to[3] = __ballot_sync(EVERY_LANE, in[threadIdx.x]);
}

extern "C" __global__ void multiply_tf32(const unsigned* a, const unsigned* b, float* d) {
  mma_m16n8k8_tf32(d + 4 * threadIdx.x, a + 4 * threadIdx.x, b + 2 * threadIdx.x);
}
extern "C" __global__ void multiply_bf16(const unsigned* a, const unsigned* b, float* d) {
  mma_m16n8k16_bf16(d + 4 * threadIdx.x, a + 4 * threadIdx.x, b + 2 * threadIdx.x);
}
extern "C" __global__ void to_tf32(const float* x, float* out) {
  out[threadIdx.x] = __uint_as_float(round_tf32(x[threadIdx.x]));
}

extern "C" __global__ void functions(float x, double y, int n, double* out) {
  static_assert(sizeof(sqrt(x)) == 4 && sizeof(sqrt(y)) == 8 && sizeof(sqrt(n)) == 8, "types as in CUDA");
  static_assert(sizeof(pow(x, x)) == 4 && sizeof(pow(x, y)) == 8 && sizeof(fmaf(x, x, x)) == 4, "types as in CUDA");
  double found[] = {
      sqrt(x), sqrt(y), sqrt(n), exp(y), log(y), log1p(x), pow(y, 0.3), pow(y, n), fmax(x, y), fminf(x, 2.0f),
      fma(y, y, 1.0), fmaf(x, x, 1.0f), (double)max(n, 2), min(x, 0.5f), fabs(-y), (double)abs(-n), floor(y), rsqrt(y),
      (double)__popc(n), (double)__clz(n), (double)__ffs(n), isnan(y - y / 0.0 * 0),
      __ldg(out) * 0 + make_float4(1, 2, 3, 4).w, (double)__double_as_longlong(1.0), (double)__float_as_uint(1.0f)};
#pragma unroll
  for (int i = 0; i < (int)(sizeof found / sizeof *found); ++i) out[i] = found[i];
}

extern "C" __global__ void every_type(const unsigned char* a, const unsigned short* b, const float* __restrict__ c,
                                      double* d, int* e, i64* f, int g, i64 h, float i, double j) {
  d[0] = a[0] + b[0] + c[0] + e[0] + f[0] + g + h + i + j;
}
extern "C" __global__ void nothing() {}
"""
)


@pytest.fixture
def sound():
    return module.compiled(SOUND)


@pytest.fixture(params=SEEDS)
def seed(request):
    with module.scheduled(request.param):
        yield request.param


def test_every_thread_knows_its_place(cupy, sound, seed):
    grid, block = (3, 2, 2), (5, 3, 2)
    out = cupy.empty(12 * 30, np.int32)
    sound.get_function("where_am_i")(grid, block, (out,))
    np.testing.assert_array_equal(out.get(), (1000 * np.arange(12)[:, None] + np.arange(30)).ravel())


@pytest.mark.parametrize("threads", [1, 31, 32, 33, 100, 256])
def test_barriers(cupy, sound, seed, threads):
    out = cupy.empty((2, threads))
    sound.get_function("go_around")((2,), (threads,), (out, np.int32(5)), shared_mem=8 * threads)
    np.testing.assert_array_equal(out.get(), np.tile((np.arange(threads) + 10) % threads, (2, 1)))


def test_a_missing_barrier_is_seen_by_some_order_of_threads(cupy, sound):
    found = []
    for seed in range(4):
        with module.scheduled(seed):
            out = cupy.empty(256)
            sound.get_function("go_around_too_soon")((1,), (256,), (out, np.int32(3)))
            found.append(out.get().tobytes())
    assert len(set(found)) > 1


def test_shared_memory_begins_as_nan_in_every_block(cupy, sound, seed):
    out = cupy.zeros((4, 3))
    sound.get_function("poison")((4,), (1,), (out,), shared_mem=4)
    assert np.isnan(out.get()[:, 2 * SANITIZED :]).all()


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "float32", "float64"])
def test_shuffles(cupy, sound, rng, dtype):
    lanes = np.arange(32)
    values = (1e9 * rng.random(32)).astype(dtype)
    for width in (1, 2, 4, 8, 16, 32):
        out = cupy.empty((4, 32), dtype)
        sound.get_function(f"shuffle_{dtype}")((1,), (32,), (cupy.asarray(values), np.int32(width), out))
        segment, place = lanes // width * width, lanes % width
        across = lanes ^ 3
        expected = [
            segment + lanes * 5 % width,
            np.where(across // width > lanes // width, lanes, across),
            np.where(place + 2 < width, lanes + 2, lanes),
            np.where(place >= 1, lanes - 1, lanes),
        ]
        np.testing.assert_array_equal(out.get(), values[np.array(expected)])


def test_votes_of_half_warps_and_of_whole_ones(cupy, sound, rng, seed):
    given = (rng.random(96) < 0.3).astype(np.int32)
    given[32:64] = 0
    out = cupy.empty((96, 4), np.uint32)
    sound.get_function("votes")((1,), (96,), (cupy.asarray(given), out))
    bits = [int(sum(int(bit) << i for i, bit in enumerate(warp))) for warp in given.reshape(3, 32)]
    for thread, found in enumerate(out.get()):
        whole, upper = bits[thread // 32], thread % 32 >= 16
        half = whole & 0xFFFF0000 if upper else whole & 0xFFFF
        assert found.tolist() == [(3 if upper else 1) * half % 2**32, whole != 0, 1, whole]


def fragments(matrix, places):
    """The registers of 32 lanes: places(g, t) are (row, column) of each register of the lane 4g + t."""
    return np.array([[matrix[place] for place in places(lane // 4, lane % 4)] for lane in range(32)])


def of_d(g, t):  # PTX ISA, the figures of mma.m16n8k8 and m16n8k16
    return (g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1)


def test_products_of_tf32_lie_as_ptx_says(cupy, sound, rng, seed):
    A, B, C = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (8, 8), (16, 8)))
    a = fragments(A, lambda g, t: ((g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)))
    b = fragments(B, lambda g, t: ((t, g), (t + 4, g)))
    d = cupy.asarray(fragments(C, of_d))
    as_bits = [cupy.asarray(each.view(np.uint32)) for each in (a, b)]
    sound.get_function("multiply_tf32")((1,), (32,), (*as_bits, d))
    cut = [(each.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(float) for each in (A, B)]
    np.testing.assert_array_equal(d.get(), fragments((C + cut[0] @ cut[1]).astype(np.float32), of_d))


def test_products_of_bf16_lie_as_ptx_says(cupy, sound, rng, seed):
    A, B, C = (rng.integers(-9, 9, shape).astype(np.float32) for shape in ((16, 16), (16, 8), (16, 8)))

    def pairs(matrix, places):
        """Two neighbours along the sum per register, the first in its lower half; these integers are exact."""
        upper = fragments(matrix.view(np.uint32) >> 16, lambda g, t: sum(places(g, t), ()))
        return cupy.asarray((upper[:, ::2] | upper[:, 1::2] << 16).astype(np.uint32))

    a = pairs(A, lambda g, t: [((r, c), (r, c + 1)) for c in (2 * t, 2 * t + 8) for r in (g, g + 8)])
    b = pairs(B, lambda g, t: [((r, g), (r + 1, g)) for r in (2 * t, 2 * t + 8)])
    d = cupy.asarray(fragments(C, of_d))
    sound.get_function("multiply_bf16")((1,), (32,), (a, b, d))
    np.testing.assert_array_equal(d.get(), fragments(C + A @ B, of_d))


def test_rounding_to_tf32(cupy, sound):
    ulp = 2.0**-10
    x = [1.0, 1 + 0.49 * ulp, 1 + 0.5 * ulp, -1 - 0.5 * ulp, 1 + 1.5 * ulp, 3.4028235e38, np.inf, -np.inf, np.nan, 0.0]
    expected = [1.0, 1.0, 1 + ulp, -1 - ulp, 1 + 2 * ulp, np.inf, np.inf, -np.inf, np.nan, 0.0]
    out = cupy.empty(len(x), np.float32)
    sound.get_function("to_tf32")((1,), (len(x),), (cupy.asarray(np.array(x, np.float32)), out))
    np.testing.assert_array_equal(out.get(), np.array(expected, np.float32))


def test_functions_are_those_of_cuda(cupy, sound):
    x, y, n, out = np.float32(1.5), 2.25, 12, cupy.zeros(25)
    sound.get_function("functions")((1,), (1,), (x, np.float64(y), np.int32(n), out))
    expected = [
        np.sqrt(x), np.sqrt(y), np.sqrt(12.0), np.exp(y), np.log(y), np.log1p(x), y**0.3, y**12, y, 1.5, y * y + 1,
        3.25, 12, 0.5, y, 12, 2, 1 / 1.5, 2, 28, 3, 1, 4, 0x3FF0000000000000, 0x3F800000,
    ]  # fmt: skip
    np.testing.assert_allclose(out.get(), expected, rtol=3e-16)


def test_half_a_million_barriers_take_no_time(cupy, sound):
    """20 blocks of 256 threads with 100 barriers: 20 ms, where the swapcontext of glibc takes 340."""
    out = cupy.empty((20, 256))
    sound.get_function("go_around")((20,), (256,), (out, np.int32(50)), shared_mem=2048)
    np.testing.assert_array_equal(out.get()[0], (np.arange(256) + 100) % 256)


# ---- kernels that are not --------------------------------------------------------------------------------------------

FAULTY = (
    BEGIN
    + """
#define KERNEL(name) extern "C" __global__ void name(int* out, int n)
KERNEL(exited_lane) { if (threadIdx.x == 7) return; out[0] = __any_sync(EVERY_LANE, n); }
KERNEL(lane_at_barrier) { if (threadIdx.x == 7) __syncthreads(); else out[0] = __any_sync(EVERY_LANE, n); }
KERNEL(different_masks) { out[0] = __any_sync(threadIdx.x == 7 ? 0xffffu : EVERY_LANE, n); }
KERNEL(own_lane_left_out) { out[0] = __any_sync(0xffffff7fu, n); }
KERNEL(source_left_out) { if (threadIdx.x < 16) out[0] = __shfl_sync(0xffffu, n, 20); }
KERNEL(source_not_there) { out[0] = __shfl_sync(EVERY_LANE, n, 31); }
KERNEL(width_of_three) { out[0] = __shfl_sync(EVERY_LANE, n, 0, 3); }
KERNEL(another_operation) { if (threadIdx.x < 16) out[0] = __shfl_sync(EVERY_LANE, n, 0);
  else out[1] = __any_sync(EVERY_LANE, n); }
KERNEL(missing_at_barrier) { if (threadIdx.x < 40) __syncthreads(); }
KERNEL(two_barriers) { if (threadIdx.x < 32) __syncthreads();
  else __syncthreads(); }
KERNEL(never_together) { if (threadIdx.x < 32) __syncthreads();
  else if (threadIdx.x < 48) __syncwarp(); else __syncthreads(); }
KERNEL(in_a_circle) { if (threadIdx.x < 3) __syncwarp(1u << threadIdx.x | 1u << (threadIdx.x + 1) % 3); }
KERNEL(half_a_warp_multiplies) { float d[4]; unsigned a[4] = {}, b[2] = {}; mma_m16n8k8_tf32(d, a, b); }
KERNEL(null_pointer) { int* none = nullptr; if (threadIdx.x == 9) none[n] = 1; }
KERNEL(full_stack) { volatile char room[300000]; room[n] = 1; out[0] = room[n + 1]; }
KERNEL(division) { out[0] = n / (n - 1); }
KERNEL(sound) { out[threadIdx.x] = __shfl_xor_sync(EVERY_LANE, (int)threadIdx.x, 1); }
"""
)
FAULTS = {
    "exited_lane": (64, "names lane 7, which has returned, line {line}; block (0, 0, 0), thread"),
    "lane_at_barrier": (64, "names lane 7, which waits at the barrier of line {line}, line {line}"),
    "different_masks": (64, "lanes of one collective give the masks 0x"),
    "own_lane_left_out": (64, "mask 0xffffff7f leaves out the lane that calls it, line {line}; block (0, 0, 0)"),
    "source_left_out": (64, "a shuffle reads lane 20, which its mask 0xffff leaves out, line {line}"),
    "source_not_there": (24, "a shuffle reads lane 31, which is not there, line {line}"),
    "width_of_three": (64, "a shuffle of width 3, line {line}"),
    "another_operation": (64, "which waits at that of line "),
    "missing_at_barrier": (64, "of 64 threads have returned without the barrier at which the others wait, line {line}"),
    "two_barriers": (64, "threads wait at two barriers, the other in line"),
    "never_together": (64, "names lane"),
    "in_a_circle": (64, "a deadlock: a collective whose lanes do not come together, line {line}"),
    "half_a_warp_multiplies": (16, "a warp that is not whole, line {line}"),
    "null_pointer": (64, "a memory access at 0x4, which is not mapped; block (0, 0, 0), thread (9, 0, 0)"),
    "full_stack": (64, "a thread's local variables take more than 256 KB"),
    "division": (64, "an integer is divided by zero"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_exceptions(cupy, seed, name):
    faulty, (threads, told) = module.compiled(FAULTY), FAULTS[name]
    if name in ("null_pointer", "full_stack", "division") and SANITIZED:
        pytest.skip("the sanitizer ends the process at these")
    out = cupy.empty(64, np.int32)
    with pytest.raises(module.EmulationError) as caught:
        faulty.get_function(name)((1,), (threads,), (out, np.int32(1)))
    line = FAULTY[: FAULTY.index(f"KERNEL({name})")].count("\n") + 1
    assert told.format(line=line) in str(caught.value)
    assert str(caught.value).startswith(f"{name}: ")
    # and the next launch finds everything in order
    faulty.get_function("sound")((1,), (64,), (out, np.int32(1)))
    np.testing.assert_array_equal(out.get(), np.arange(64) ^ 1)


# ---- modules and launches --------------------------------------------------------------------------------------------


def test_signatures_are_read_from_the_preprocessed_text():
    text = (
        BEGIN
        + """
#define SCALE(T, name) \\
  extern "C" __global__ void __launch_bounds__(THREADS, (FT)2 > 1 ? 4 : 3) name(const T* a, i64 n, FT by, T *out) \\
  { if (n) out[0] = a[0] * by; }
SCALE(float, scale_float)
#ifdef MORE
SCALE(double, scale_double)
#endif
"""
    )
    options = ("-std=c++17", "-DFT=float", "-DTHREADS=96", "--use_fast_math", "-ftz=true", "-arch=sm_90")
    few = module.EmulatedModule(text, options)
    more = module.EmulatedModule(text, (*options, "-DMORE", "-UFT", "-DFT=double"))
    assert few.kernels == ("scale_float",)
    assert more.kernels == ("scale_float", "scale_double")
    kernel = more.get_function("scale_double")
    assert kernel.signature == ("const float64*", "int64", "float64", "float64*")
    assert few.get_function("scale_float").signature == ("const float32*", "int64", "float32", "float32*")
    assert kernel.max_threads == 96
    with pytest.raises(module.EmulationError, match="97 threads, its __launch_bounds__ are 96"):
        kernel((1,), (97,), (None, np.int64(0), np.float64(1), None))
    with pytest.raises(module.EmulationError, match="no kernel 'scale', only scale_float, scale_double"):
        more.get_function("scale")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('extern "C" __global__ void f(float* x) { atomicAdd(x, 1.0f); }', "kernels.cu:7:.*atomicAdd"),
        ('extern "C" __global__ void f(bool* x) {}', "Type<bool"),
        ("__global__ void f(float* x) {}", 'f is not extern "C"'),
        ("#error nothing here", "nothing here"),
    ],
)
def test_what_does_not_compile(text, told):
    with pytest.raises(module.EmulationError, match=told):
        module.EmulatedModule(BEGIN + text)


ARGUMENTS = {"a": "uint8", "b": "uint16", "c": "float32", "d": "float64", "e": "int32", "f": "int64"}
NUMBERS = {"g": np.int32(1), "h": np.int64(1), "i": np.float32(1), "j": np.float64(1)}


def test_arguments_of_every_type(cupy, sound):
    arrays = {name: cupy.ones(1, dtype) for name, dtype in ARGUMENTS.items()}
    sound.get_function("every_type")((1,), (1,), (*arrays.values(), *NUMBERS.values()))
    assert arrays["d"].item() == 9
    half = cupy.asarray(np.array([1.0], np.float16))  # by its bits
    sound.get_function("every_type")((1,), (1,), (*(arrays | {"b": half}).values(), *NUMBERS.values()))
    assert arrays["d"].item() == 9 - 1 + 0x3C00


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("c", np.ones(1, np.float32), "argument 2 .const float32.*on the device is expected, numpy.ndarray of float32"),
        ("c", "float64", "an array of float32 is expected, cupy.ndarray of float64"),
        ("b", "int16", "an array of uint16 is expected"),
        ("e", "int64", "an array of int32 is expected"),
        ("c", 3, "an array on the device is expected, int is given"),
        ("g", 1, "argument 6 .int32.: a numpy.int32 is expected, int is given"),
        ("g", np.int64(1), "a numpy.int32 is expected, numpy.int64"),
        ("i", 1.0, "a numpy.float32 is expected, float is given"),
        ("j", np.float32(1), "a numpy.float64 is expected, numpy.float32"),
        ("h", np.array(1), "a numpy.int64 is expected, numpy.ndarray"),
        ("h", None, "a numpy.int64 is expected, NoneType"),
    ],
)
def test_arguments_of_other_types_are_refused(cupy, sound, name, value, told):
    given = {name: cupy.ones(1, dtype) for name, dtype in ARGUMENTS.items()} | NUMBERS
    given[name] = cupy.ones(1, value) if isinstance(value, str) else value
    with pytest.raises(module.EmulationError, match=told):
        sound.get_function("every_type")((1,), (1,), tuple(given.values()))
    with pytest.raises(module.EmulationError, match="takes 10 arguments, 9 are given"):
        sound.get_function("every_type")((1,), (1,), tuple(given.values())[:9])


@pytest.mark.parametrize(
    ("grid", "block", "shared"),
    [
        ((0,), (1,), 0), ((1, 65536), (1,), 0), ((1, 1, 65536), (1,), 0), ((2**31,), (1,), 0), ((1, 1, 0), (1,), 0),
        ((1,), (0,), 0), ((1,), (1025,), 0), ((1,), (32, 33), 0), ((1,), (1, 1, 65), 0), ((1, 1, 1, 1), (1,), 0),
        ([1], (1,), 0), ((1,), (1,), 48 * 1024 + 1), ((1,), (1,), 227 * 1024 + 1), ((1,), (1,), -1),
    ],
)  # fmt: skip
def test_launches_that_no_device_takes(sound, grid, block, shared):
    with pytest.raises(module.EmulationError, match="nothing"):
        sound.new_kernel("nothing")(grid, block, (), shared_mem=shared)


def test_more_shared_memory_has_to_be_asked_for(cupy):
    raw = cupy.RawModule(code=SOUND, options=("-std=c++17",))
    kernel = raw.get_function("nothing")
    with pytest.raises(module.EmulationError, match="max_dynamic_shared_size_bytes is 49152"):
        kernel((1,), (1,), (), shared_mem=50_000)
    with pytest.raises(module.EmulationError, match="a device has"):
        kernel.max_dynamic_shared_size_bytes = 228 * 1024
    kernel.max_dynamic_shared_size_bytes = 100_000
    raw.get_function("nothing")((1,), (1,), (), shared_mem=100_000)  # the device remembers
    with pytest.raises(module.EmulationError):  # but another module does not know
        cupy.RawModule(code=SOUND).get_function("nothing")((1,), (1,), (), shared_mem=50_000)


def test_launches_are_written_down(sound):
    with module.recording() as launches:
        sound.get_function("nothing")((2,), (32, 2), (), shared_mem=64)
    sound.get_function("nothing")((1,), (1,), ())
    assert launches == module.LAUNCHES == [("nothing", (2, 1, 1), (32, 2, 1), 64)]


def test_modules_are_compiled_once(monkeypatch, tmp_path, cupy):
    """However many ask at the same time; the next process finds them."""
    monkeypatch.setenv("NMFCORE_EMULATOR_CACHE", str(tmp_path / "cache"))
    text = BEGIN + 'extern "C" __global__ void twice(int* x) { x[threadIdx.x] *= 2; }'
    x, failed = [cupy.ones(32, np.int32) for _ in range(3)], []

    def use(number):
        try:
            module.EmulatedModule(text).get_function("twice")((1,), (32,), (x[number],))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all((each.get() == 2).all() for each in x)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()].count(".so") >= 1
    monkeypatch.setattr(module.subprocess, "run", None)
    module.EmulatedModule(text)


def test_the_sanitizer_sees_what_is_out_of_bounds(tmp_path):
    variables = module.asan_environment()
    if variables is None:
        pytest.skip("g++ has no libasan")
    script = tmp_path / "beyond.py"
    script.write_text(
        f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent)]}
import numpy as np
from cuda_emulator import fake_cupy, module
text = '''{BEGIN}extern "C" __global__ void fill(float* x, int n) {{ DYNAMIC_SHARED(float, room);
  room[threadIdx.x] = 1; __syncthreads(); int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = room[(threadIdx.x + 1) % blockDim.x]; }}'''
cupy = fake_cupy._modules["cupy"]
x = cupy.empty(100, np.float32)
fill = module.EmulatedModule(text).get_function("fill")
fill((2,), (64,), (x, np.int32(100)), shared_mem=256)
print("sound:", x.get().sum(), flush=True)
fill((2,), (64,), (x, np.int32(101)), shared_mem=256)
print("not seen")
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)], env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode
    assert done.stdout.strip() == "sound: 100.0", done.stderr[-2000:]
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "WRITE of size 4" in done.stderr
    assert "0 bytes after 400-byte region" in done.stderr or "0 bytes to the right of 400-byte" in done.stderr


# ---- arrays ----------------------------------------------------------------------------------------------------------


def test_cupy_is_there_until_the_test_ends():
    before = importlib.util.find_spec("cupy")
    with pytest.MonkeyPatch.context() as patch:
        installed = fake_cupy.install(patch)
        import cupy
        import cupyx.scipy.sparse

        assert cupy is installed
        assert importlib.util.find_spec("cupy") is cupy.__spec__
        assert cupy.__version__ == "14.2.0"
        assert type(cupy.ones(3)).__module__ == "cupy"
        assert cupyx.scipy.sparse.issparse(cupyx.scipy.sparse.csr_matrix(sparse.eye_array(3, format="csr")))
    assert importlib.util.find_spec("cupy") is before


@pytest.mark.parametrize(
    "mix",
    [
        lambda d, h: d + h, lambda d, h: h * d, lambda d, h: d @ h, lambda d, h: np.maximum(d, h), lambda d, h: d == h,
        lambda d, h: np.add(h, h, out=d), lambda d, h: np.concatenate([d, h]), lambda d, h: np.where(d > 0, d, h),
        lambda d, h: d.__setitem__(0, h[0]), lambda d, h: d.__setitem__(slice(None), h), lambda d, h: d.dot(h),
        lambda d, h: d.__iadd__(h), lambda d, h: np.einsum("ij,ij->i", d, h), lambda d, h: h.__iadd__(d),
    ],
)  # fmt: skip
def test_arrays_of_the_host_do_not_mix_in(cupy, mix):
    with pytest.raises((TypeError, ValueError)):
        mix(cupy.ones((3, 3)), np.ones((3, 3)))


def test_arrays_do_not_become_numpys_by_themselves(cupy):
    d = cupy.ones((3, 3))
    for convert in (np.asarray, np.array, np.float64, lambda a: np.testing.assert_allclose(a, 1)):
        with pytest.raises(TypeError):
            convert(d)
    with pytest.raises(HostError := fake_cupy.HostArrayError, match=r"numpy\.ndarray"):
        cupy.sqrt(np.ones(2))
    assert issubclass(HostError, TypeError)


def test_numpys_functions_reach_the_device_where_cupy_has_them(cupy):
    h = np.arange(12.0).reshape(3, 4)
    d = cupy.asarray(h)
    for work in (
        np.sqrt, np.sum, np.diagonal, np.zeros_like, lambda a: np.trace(a[:, :3]), lambda a: np.maximum(a, 3),
        lambda a: np.where(a > 2, a, 0.0), lambda a: np.concatenate([a, a]), lambda a: np.outer(a[0], a[1]),
        lambda a: np.einsum("ij,kj->ik", a, a), lambda a: 2 - a / (a + 1) ** 2, lambda a: a.T @ a,
        lambda a: -a[1:, ::2], lambda a: a.sum(axis=0, dtype=np.float32),
        lambda a: a.max(), lambda a: np.float64(2) * a, np.isfinite, abs,
        lambda a: a.reshape(-1).argmax(), np.linalg.norm, lambda a: np.stack([a[0], a[1]]),
        lambda a: a[a[:, 0].argsort()], lambda a: a.astype(np.uint8) % 3,
    ):  # fmt: skip
        found, expected = work(d), np.asarray(work(h))
        assert type(found) is cupy.ndarray
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(found.get(), expected)
    for lacking in (lambda a: np.insert(a, 0, 1), np.spacing, lambda a: np.add(a, 1, where=a > 1), np.add.reduce):
        with pytest.raises(TypeError):
            lacking(d)


def test_types_follow_numpy_2(cupy):
    d = cupy.ones(3, np.float32)
    assert (d * 2.0).dtype == (d * np.float32(2)).dtype == np.float32
    assert (d * np.float64(2)).dtype == (d * cupy.ones((), np.float64)).dtype == np.float64
    assert cupy.ones(3, np.uint8).sum().dtype == np.uint64


def test_parts_are_views_and_one_number_stays_on_the_device(cupy):
    d = cupy.zeros((3, 4))
    one, row = d[1, 2], d[1]
    assert type(one) is cupy.ndarray
    assert one.shape == ()
    d[1, 2] = 5
    one += 1
    assert row.get().tolist() == [0, 0, 6, 0]
    assert d[1:, 1:].data.ptr == d.data.ptr + 8 * 5
    assert not d[:, 1:].flags.c_contiguous
    assert d.T.flags.f_contiguous
    assert d.reshape(-1).data.ptr == d.data.ptr
    d[[0, 2]] = cupy.ones((2, 4))
    d[0] *= 3
    assert d.sum().item() == 12 + 4 + 6
    with pytest.raises(TypeError, match="0-d"):
        list(one)
    with pytest.raises(TypeError, match="unsized"):
        len(one)
    with pytest.raises(TypeError):
        hash(d)
    with pytest.raises(ValueError, match="the same place twice"):
        d[cupy.asarray(np.array([0, 0]))] = cupy.ones((2, 4))


def test_fresh_memory_holds_nothing_useful(cupy):
    for dtype in (np.float16, np.float32, np.float64):
        assert np.isnan(cupy.empty((2, 3), dtype).get()).all()
        assert np.isnan(np.empty_like(cupy.zeros(3, dtype)).get()).all()
    assert (cupy.empty(4, np.int32).get() == -1).all()
    assert (cupy.empty(4, np.uint8).get() == 255).all()
    assert (cupy.cuda.alloc_pinned_memory(8)[0]) == 255
    assert cupy.empty(0).data.ptr == 0


READ = {
    "float": float,
    "int": int,
    "bool": bool,
    "round": round,
    "str": str,
    "item": lambda d: d.item(),
    "tolist": lambda d: d.tolist(),
    "get": lambda d: d.get(),
    "if": lambda d: 1 if d > 0 else 0,
    "format": lambda d: f"{d:.2f}",
    "in": lambda d: 1.0 in d.reshape(1),
    "max of Python": lambda d: max(d, d + 1),
    "range": lambda d: range(d.astype(int)),
    "asnumpy": lambda d: fake_cupy._modules["cupy"].asnumpy(d),
    "mask": lambda d: d.reshape(1)[d.reshape(1) > 0],
    "nonzero": lambda d: np.nonzero(d.reshape(1)),
    "where": lambda d: np.where(d.reshape(1)),
}


@pytest.mark.parametrize("way", READ)
def test_whatever_waits_for_the_device_is_counted(cupy, way):
    d = cupy.ones(())
    with fake_cupy.counting() as counted:
        d2 = np.sqrt(d + 1).reshape(1)[0] * cupy.arange(3).sum()
        d.fill(d2 - d2 + 1)
        repr(d), d.shape, len(d.reshape(1)), d is None
    assert counted.count == 0
    with fake_cupy.counting() as counted:
        READ[way](d)
    assert counted.count == 1
    assert counted.places[0].startswith(__file__)
    with fake_cupy.reads_allowed(0), pytest.raises(fake_cupy.DeviceReadError, match="where 0 are allowed"):
        READ[way](d)


def test_reads_are_allowed_by_number_and_by_region(cupy):
    d = cupy.ones(())
    before = fake_cupy.reads.count
    with fake_cupy.reads_allowed(2) as outer:
        float(d)
        with fake_cupy.reads_allowed():
            for _ in range(5):
                float(d)
        float(d)
        assert outer.count == 2
        with pytest.raises(fake_cupy.DeviceReadError):
            float(d)
    assert fake_cupy.reads.count == before + 8
    with fake_cupy.counting() as counted:
        cupy.asarray(np.ones(3))
        cupy.asarray(cupy.ones(3))
        cupy.zeros((5, 5))
        cupy.cuda.get_current_stream().synchronize()
    assert (counted.count, counted.uploads.count, counted.uploads.bytes, counted.waits.count) == (0, 1, 24, 1)


def test_set_and_get(cupy):
    d = cupy.empty((3, 2), np.float32)
    host = np.arange(6, dtype=np.float32).reshape(3, 2)
    d.set(host)
    host[...] = 0
    np.testing.assert_array_equal(d.get(), np.arange(6).reshape(3, 2))
    with pytest.raises(TypeError, match="float64 array cannot be set to float32"):
        d.set(np.ones((3, 2)))
    with pytest.raises(ValueError, match="Shape mismatch"):
        d.set(np.ones((2, 3), np.float32))
    with pytest.raises(RuntimeError, match="non-contiguous"):
        d[:, :1].set(host[:, :1])
    out = np.empty((3, 2), np.float32)
    assert d.get(out=out) is out
    np.testing.assert_array_equal(out, np.arange(6).reshape(3, 2))
    d.get(out=out, blocking=False)  # arrives with the synchronization
    assert np.isnan(out).all()
    cupy.cuda.get_current_stream().synchronize()
    np.testing.assert_array_equal(out, np.arange(6).reshape(3, 2))


def test_arrays_of_other_libraries_are_taken_as_they_are(cupy):
    host = np.arange(12.0).reshape(3, 4)

    class Theirs:
        __cuda_array_interface__ = host[:, ::2].__array_interface__ | {"version": 3}

    d = cupy.asarray(Theirs())
    np.testing.assert_array_equal(d.get(), host[:, ::2])
    d[0, 0] = 99
    assert host[0, 0] == 99
    assert cupy.asarray(d) is d
    assert d.__cuda_array_interface__["data"][0] == host.ctypes.data


def test_memory_is_counted_and_limited(monkeypatch):
    cupy = fake_cupy.install(monkeypatch, memory=1 << 20)
    pool = cupy.get_default_memory_pool()
    d = cupy.zeros(1000)
    assert pool.used_bytes() == 8192
    assert cupy.cuda.runtime.memGetInfo() == cupy.cuda.Device().mem_info == ((1 << 20) - 8192, 1 << 20)
    view = d[:10]
    del d
    assert pool.used_bytes() == 8192
    del view
    assert pool.used_bytes() == 0
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="Out of memory allocating"):
        cupy.empty(1 << 20)


def test_devices(monkeypatch):
    cupy = fake_cupy.install(monkeypatch, devices=2)
    assert cupy.cuda.runtime.getDeviceCount() == 2
    on_first = cupy.ones(3)
    with cupy.cuda.Device(1):
        on_second = cupy.ones(3)
        assert on_second.device.id == cupy.cuda.Device().id == 1
        with pytest.raises(ValueError, match=r"resides \(0\) is different from the current device \(1\)"):
            on_first + on_second
    assert cupy.cuda.Device().id == 0
    with pytest.raises(ValueError, match="different from the current device"):
        module.compiled(SOUND).get_function("to_tf32")((1,), (3,), (on_first, on_second.astype(np.float32)))
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="invalid device"):
        cupy.cuda.Device(2).use()
    cupy = fake_cupy.install(monkeypatch, devices=0)
    assert not cupy.is_available()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="NoDevice"):
        cupy.cuda.runtime.getDeviceCount()


# ---- streams ---------------------------------------------------------------------------------------------------------


def stream_blocks(cupy, waits_for_use=True, waits_for_copy=True, host_waits=True):
    """Blocks through two buffers, as `device_rows` streams them; each wait may be forgotten."""
    work, copies = cupy.cuda.get_current_stream(), cupy.cuda.Stream(non_blocking=True)
    pinned = [sys.modules["cupyx"].empty_pinned(4) for _ in range(2)]
    device = [cupy.empty(4) for _ in range(2)]
    used, arrived = ([cupy.cuda.Event() for _ in range(2)] for _ in range(2))
    total = cupy.zeros(())
    for slot in range(2):
        used[slot].record(work)
    for number in range(6):
        slot = number % 2
        if number >= 2 and host_waits:
            arrived[slot].synchronize()
        pinned[slot][...] = number
        if waits_for_use:
            copies.wait_event(used[slot])
        device[slot].set(pinned[slot], stream=copies)
        arrived[slot].record(copies)
        if waits_for_copy:
            work.wait_event(arrived[slot])
        total += device[slot].sum()
        used[slot].record(work)
    return float(total)


def test_streams_that_wait_for_each_other(cupy):
    assert stream_blocks(cupy) == 4 * 15


@pytest.mark.parametrize(
    ("forgotten", "told"),
    [
        ("waits_for_use", "stream 1 writes what stream 0"),
        ("waits_for_copy", "stream 0 reads what stream 1 writes"),
        ("host_waits", "pinned memory is sent again"),
    ],
)
def test_a_forgotten_wait_is_seen(cupy, forgotten, told):
    with pytest.raises(fake_cupy.StreamOrderError, match=told):
        stream_blocks(cupy, **{forgotten: False})


def test_streams_and_kernels(cupy, sound):
    side = cupy.cuda.Stream(non_blocking=True)
    x, out = cupy.ones(32, np.float32), cupy.empty(32, np.float32)
    kernel = sound.get_function("to_tf32")
    with side, pytest.raises(fake_cupy.StreamOrderError, match="stream 1 reads what stream 0 writes"):
        kernel((1,), (32,), (x, out))
    side.wait_event(cupy.cuda.get_current_stream().record())
    with side:
        kernel((1,), (32,), (x, out))
        assert cupy.cuda.get_current_stream() is side
    kernel((1,), (32,), (x, x.copy()))  # both only read x
    with pytest.raises(fake_cupy.StreamOrderError, match="stream 0 writes what stream 1 reads"):
        x += 1
    with pytest.raises(fake_cupy.StreamOrderError, match="nothing has recorded"):
        side.wait_event(cupy.cuda.Event())
    side.synchronize()
    assert float((x + out).sum()) == 64
    blocking = cupy.cuda.Stream()  # the null stream and this one wait for each other
    with blocking:
        x *= 2
    assert float(x.sum()) == 64


# ---- memory that is given back, and graphs that use it ---------------------------------------------------------------

COPIED = (
    BEGIN
    + """
extern "C" __global__ void copied(const double* A, double* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = A[i];
}
"""
)


def test_the_next_array_of_a_size_lies_where_the_last_one_lay(cupy):
    first, second = cupy.empty(100), cupy.zeros((20, 5)) + 1
    places = [first.data.ptr, second.data.ptr]
    kept = second[3:]
    del first, second
    again = cupy.empty((10, 10))
    assert again.data.ptr == places[0] and np.isnan(again.get()).all()
    del kept  # a view keeps all of it
    with cupy.cuda.Stream(non_blocking=True):  # the pool of each stream is its own
        assert cupy.empty(100).data.ptr not in places
    assert cupy.ones(99).data.ptr not in places
    assert cupy.ones(100).data.ptr == places[1]


def test_memory_that_another_stream_still_uses_is_not_taken(cupy):
    A, side = cupy.ones(100), cupy.cuda.Stream(non_blocking=True)
    side.wait_event(cupy.cuda.get_current_stream().record())
    with side:
        total = A.sum()
    del A  # the pool knows nothing of the other stream
    with pytest.raises(fake_cupy.StreamOrderError, match="given back while stream 1 may still use it"):
        cupy.empty(100)
    assert total.get(side) == 100
    cupy.empty(100)  # the host has waited


def captured(cupy):
    """Return a graph that copies an array of ones to another, which it clears first; and both arrays."""
    kernel = module.compiled(COPIED).get_function("copied")
    A, out, stream = cupy.ones(100), cupy.zeros(100), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        out.fill(0)
        kernel((1,), (128,), (A[50:], out, np.int32(50)))
        graph = stream.end_capture()
    assert out.get().sum() == 0
    return graph, A, out


def test_a_graph_uses_what_lies_at_its_addresses(cupy):
    graph, A, out = captured(cupy)
    out[...] = 3
    for value in (1, 7):
        A[...] = value
        graph.launch()
        assert out.get().tolist() == [value] * 50 + [0] * 50
    assert fake_cupy.graph_launches == [1, 1]


@pytest.mark.parametrize(("number", "told"), [(1, "reads"), (2, "writes")])
def test_a_graph_does_not_use_what_was_given_back(cupy, number, told):
    graph, *arrays = captured(cupy)
    graph.launch()
    del arrays[number - 1]
    with pytest.raises(fake_cupy.GivenBackError, match=f"{told} memory that was given back$"):
        graph.launch()
    other = cupy.ones(100)
    with pytest.raises(fake_cupy.GivenBackError, match=f"{told} memory that was given back and belongs to another"):
        graph.launch()
    del other


def test_what_a_graph_cannot_hold(cupy):
    A, stream = cupy.ones(100), cupy.cuda.Stream(non_blocking=True)
    stream.wait_event(cupy.cuda.get_current_stream().record())
    with stream:
        stream.begin_capture()
        assert A.reshape(10, 10)[2:].T.shape == (10, 8)  # views
        for forbidden in (lambda: A + 1, lambda: A.fill(2), lambda: A.get(), lambda: A.sum(), lambda: A[[1, 2]]):
            with pytest.raises(fake_cupy.CUDARuntimeError, match="captured"):
                forbidden()
        with pytest.raises(fake_cupy.CUDARuntimeError, match="waited for"):
            stream.synchronize()
        stream.end_capture()

    def refuse(size):
        raise MemoryError(size)

    with cupy.cuda.using_allocator(refuse), pytest.raises(MemoryError, match="800"):
        cupy.empty(100)
    assert A.get().sum() == 100


# ---- sparse matrices -------------------------------------------------------------------------------------------------


def test_sparse_matrices(cupy, rng):
    from cupyx.scipy.sparse import csc_matrix, csr_matrix, issparse

    host = sparse.random(20, 15, 0.2, format="csr", random_state=0)
    X = csr_matrix(host)
    assert issparse(X)
    assert (X.shape, X.nnz, X.dtype, X.device.id) == (host.shape, host.nnz, host.dtype, 0)
    parts = tuple(cupy.asarray(each) for each in (host.data, host.indices, host.indptr))
    with fake_cupy.counting() as counted:
        Y = csr_matrix(parts, shape=host.shape)
        Xt = X.T.tocsr()
    assert counted.count == 1  # CuPy looks at the bounds of what it is given
    assert isinstance(X.T, csc_matrix)
    assert X.T.data.data.ptr == X.data.data.ptr
    np.testing.assert_array_equal(Xt.get().toarray(), host.toarray().T)
    np.testing.assert_array_equal((Y @ cupy.eye(15)).get(), host.toarray())
    with fake_cupy.counting() as counted:
        assert X.has_canonical_format
        assert X.has_canonical_format
    assert counted.count == 1
    doubled = csr_matrix(tuple(cupy.asarray(np.array(a)) for a in ([1.0, 2.0, 3.0], [1, 0, 1], [0, 3])), shape=(1, 2))
    assert not doubled.has_canonical_format
    doubled.sum_duplicates()
    assert doubled.get().toarray().tolist() == [[2, 4]]
    assert doubled.data.get().tolist() == [2, 4]
    with pytest.raises(ValueError, match="Only bool, float32, float64"):
        csr_matrix(sparse.csr_matrix(np.eye(3, dtype=np.uint8)))
    with pytest.raises(ValueError, match="1-D cupy arrays"):
        csr_matrix((host.data, host.indices, host.indptr), shape=host.shape)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(X)
