// The CUDA kernels of nmfcore. cuda_ops.py compiles a family at a time, with these macros:
//
//   FAMILY_…   which kernels: OPENING, ROWS, PRODUCTS, SWEEP, BETA, SQUARES, CODE, SPARSE, NEAREST, SELECT, MERGE
//   XT         type that X is stored in: unsigned char, unsigned short (with X_HALF: the bits of a float16), float, double
//   FT         compute type: float, double
//   KT         columns of a product's tile: 8, 16, 32, 64
//   KL, L      coordinates per lane and lanes per row of a sweep
//   SHARED_G   whether the Gram matrix of a sweep fits into shared memory
//
// X is n × m, rows ld numbers apart; F (rows of W, or of Ht) n × k, Ht m × k, Gram matrices k × k in float64. Sums over
// rows go through partial sums that a second kernel adds up in a fixed order: no atomics, the same bits run to run.
// The tests compile this file for the host (tests/cuda_emulator) and run it against the naive references; NVRTC
// compiles it for real processors without one.

typedef long long i64;

#ifdef NMFCORE_EMULATOR
#include "emulator.h"
#else
#define DYNAMIC_SHARED(T, name)                                     \
  extern __shared__ __align__(16) unsigned char name##_bytes[];     \
  T* name = reinterpret_cast<T*>(name##_bytes)
#endif

#define EVERY_LANE 0xffffffffu
#define EPSILON 1.1920928955078125e-07  // scikit-learn's floor for WH and for denominators
#define THREADS 128

// entries of `stats`
#define VIOLATION 0
#define KKT 1
#define SWEEPS 2
#define UNSETTLED 3
#define TOTAL 4
#define CROSS 5
#define SQUARE 6
#define STATS 7

#ifdef X_HALF
// By its bits: cuda_fp16.h is not at hand where NVRTC is all there is, and the emulator has no half.
__device__ __forceinline__ FT widen(XT bits) {
  unsigned magnitude = bits & 0x7fffu;
  float value = __uint_as_float(magnitude << 13) * 5.192296858534828e33f;  // 2^112
  if (magnitude >= 0x7c00u) value = __uint_as_float((magnitude << 13) | 0x7f800000u);  // infinity, NaN
  // a subnormal is exact as an integer; its bits as a float would be flushed to zero
  if (magnitude < 0x0400u) value = (float)magnitude * 5.9604644775390625e-08f;  // 2^-24
  return (FT)(bits & 0x8000u ? -value : value);
}
#else
__device__ __forceinline__ FT widen(XT x) { return (FT)x; }
#endif

template <class T>
__device__ __forceinline__ T larger(T a, T b) {
  return a > b ? a : b;
}

// Σ over the lanes of a group of W neighbours: the same bits in each of them.
template <int W, class T>
__device__ __forceinline__ T sum_lanes(T value) {
#pragma unroll
  for (int step = W / 2; step; step >>= 1) value += __shfl_xor_sync(EVERY_LANE, value, step);
  return value;
}

// Thread 0 gets the sum over a block of THREADS threads. Every thread must call it.
__device__ __forceinline__ double sum_block(double value, double* room) {
  value = sum_lanes<32>(value);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) room[threadIdx.x >> 5] = value;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0)
    for (int w = 0; w < THREADS / 32; ++w) total += room[w];
  return total;
}

// Thread 0 gets the least number of a block, which must not be read or written through `room` by others meanwhile.
__device__ __forceinline__ double least_of_block(double least, double* room) {
#pragma unroll
  for (int step = 16; step; step >>= 1) {
    double other = __shfl_xor_sync(EVERY_LANE, least, step);
    if (other < least) least = other;
  }
  if ((threadIdx.x & 31) == 0) room[threadIdx.x >> 5] = least;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 0; w < THREADS / 32; ++w)
      if (room[w] < least) least = room[w];
  return least;
}

#ifdef FAMILY_OPENING
// parts[block] = [min, number of non-finite values, Σx, Σx²] of some rows of X.
extern "C" __global__ void __launch_bounds__(THREADS) opening(const XT* X, i64 ld, i64 n, i64 m, i64 chunk, double* parts) {
  __shared__ double room[THREADS / 32];
  double least = (double)__uint_as_float(0x7f800000u), bad = 0.0, total = 0.0, squares = 0.0;
  i64 first = (i64)blockIdx.x * chunk, last = first + chunk < n ? first + chunk : n;
  for (i64 i = first; i < last; ++i)
    for (i64 j = threadIdx.x; j < m; j += THREADS) {
      double x = (double)widen(X[i * ld + j]);
      if (x < least) least = x;
      if (x - x != 0.0) bad += 1.0;
      total += x;
      squares += x * x;
    }
  least = least_of_block(least, room);
  bad = sum_block(bad, room);
  total = sum_block(total, room);
  squares = sum_block(squares, room);
  if (threadIdx.x == 0) {
    double* to = parts + 4 * (i64)blockIdx.x;
    to[0] = least;
    to[1] = bad;
    to[2] = total;
    to[3] = squares;
  }
}
#endif  // FAMILY_OPENING

// ---- sums that come in parts ------------------------------------------------------------------------------------------

#ifdef FAMILY_ROWS
// Σ_s parts[s·length + i], in the order of s.
__device__ __forceinline__ double added(const double* parts, i64 length, int count, i64 i) {
  double total = 0.0;
  for (int s = 0; s < count; ++s) total += parts[s * length + i];
  return total;
}

// Number i of `stats` from its parts, `length` numbers each, of which SWEEPS is a maximum; those from `wide` on belong to
// `columns`. A block for each number.
__device__ __forceinline__ void add_stats(const double* parts, int length, int wide, int count, int i, double* stats,
                                          double* columns) {
  __shared__ double room[THREADS / 32];
  double total = 0.0, most = 0.0;
  for (int s = threadIdx.x; s < count; s += THREADS) {
    double part = parts[(i64)s * length + i];
    total += part;
    most = larger(most, part);
  }
#pragma unroll
  for (int step = 16; step; step >>= 1) most = larger(most, __shfl_xor_sync(EVERY_LANE, most, step));
  total = sum_block(total, room);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) room[threadIdx.x >> 5] = most;
  __syncthreads();
  if (threadIdx.x) return;
  for (int w = 0; w < THREADS / 32; ++w) most = larger(most, room[w]);
  double* to = i < wide ? stats + i : columns + (i - wide);
  *to = i == SWEEPS ? larger(*to, most) : *to + total;
}

// All sums of a pass from their parts. The first `blocks` blocks add XtF (`length` numbers in `count` parts), then FtF
// (small numbers) and FtD (twice as many), in that order in `of_grams`, if they are not null; a block for each number of
// stats follows.
extern "C" __global__ void __launch_bounds__(THREADS)
finish(int blocks, const double* parts, i64 length, int count, double* XtF, const double* of_grams, i64 small, int few,
       double* FtF, double* FtD, const double* of_stats, int statistics, int wide, int pieces, double* stats,
       double* columns) {
  if (blockIdx.x >= blocks) {  // the same for the whole block
    add_stats(of_stats, statistics, wide, pieces, blockIdx.x - blocks, stats, columns);
    return;
  }
  const i64 grams = (FtF ? small : 0) + (FtD ? 2 * small : 0);
  i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (i < length) {
    XtF[i] += added(parts, length, count, i);
    return;
  }
  i -= length;
  if (i >= grams) return;
  const double sum = added(of_grams, grams, few, i);
  if (FtF && i < small)
    FtF[i] += sum;
  else
    FtD[FtF ? i - small : i] += sum;
}

// What the host reads of a pass, in one row. Slot s of `count` has size_s numbers: A_s[i·step_s], or, where B_s is not
// null, one: Σ (A_s − ½·half_s)·B_s. A block for each slot.
#define TAKE(s)     \
  case s:           \
    A = A##s;       \
    half = half##s; \
    B = B##s;       \
    size = size##s; \
    step = step##s; \
    break
#define PLACE(s) \
  if (blockIdx.x > s) at += B##s ? 1 : size##s
extern "C" __global__ void __launch_bounds__(THREADS)
collect(const double* A0, const double* half0, const double* B0, i64 size0, i64 step0,
        const double* A1, const double* half1, const double* B1, i64 size1, i64 step1,
        const double* A2, const double* half2, const double* B2, i64 size2, i64 step2,
        const double* A3, const double* half3, const double* B3, i64 size3, i64 step3,
        const double* A4, const double* half4, const double* B4, i64 size4, i64 step4,
        const double* A5, const double* half5, const double* B5, i64 size5, i64 step5,
        const double* A6, const double* half6, const double* B6, i64 size6, i64 step6,
        const double* A7, const double* half7, const double* B7, i64 size7, i64 step7,
        double* row) {
  __shared__ double room[THREADS / 32];
  const double *A = 0, *half = 0, *B = 0;
  i64 size = 0, step = 1, at = 0;
  switch (blockIdx.x) {
    TAKE(0);
    TAKE(1);
    TAKE(2);
    TAKE(3);
    TAKE(4);
    TAKE(5);
    TAKE(6);
    TAKE(7);
  }
  PLACE(0);
  PLACE(1);
  PLACE(2);
  PLACE(3);
  PLACE(4);
  PLACE(5);
  PLACE(6);
  if (!B) {
    for (i64 i = threadIdx.x; i < size; i += THREADS) row[at + i] = A[i * step];
    return;
  }
  double total = 0.0;
  for (i64 i = threadIdx.x; i < size; i += THREADS) total += (half ? A[i] - 0.5 * half[i] : A[i]) * B[i];
  total = sum_block(total, room);
  if (threadIdx.x == 0) row[at] = total;
}

// XtZ = XtW + β(XtW − XtW of before), and of the Gram matrices ZtZ = (1 + β)WtW − β·(WtW of before) + β(1 + β)·DtD.
// The pace of this step is written to `pace`: its weight, β, cap, and how weight and cap grow from one step to the next.
// It grows out of that of the step before, or without `earlier` it is the given numbers.
extern "C" __global__ void __launch_bounds__(THREADS)
mixed(const double* XtW, const double* XtW_before, i64 length, const double* WtW, const double* WtW_before,
      const double* DtD, int small, const double* earlier, double weight, double beta, double cap, double grow,
      double cap_grow, double* pace, double* XtZ, double* ZtZ) {
  i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (i == 0) {
    if (earlier) {
      grow = earlier[3];
      cap_grow = earlier[4];
      cap = earlier[2];
      const double grown = grow * earlier[0], wider = cap_grow * cap;
      weight = grown < cap ? grown : cap;
      cap = wider < 1.0 ? wider : 1.0;
    }
    pace[0] = weight;
    pace[1] = earlier ? earlier[0] : beta;
    pace[2] = cap;
    pace[3] = grow;
    pace[4] = cap_grow;
  }
  if (earlier) beta = earlier[0];
  if (i < length) {
    XtZ[i] = (1.0 + beta) * XtW[i] - beta * XtW_before[i];
    return;
  }
  i -= length;
  if (i < small) ZtZ[i] = (1.0 + beta) * WtW[i] - beta * WtW_before[i] + beta * (1.0 + beta) * DtD[i];
}

// seen = [min, number of non-finite values, Σx, Σx²] of X from the `count` parts that `opening` makes. One block.
extern "C" __global__ void __launch_bounds__(THREADS) opened(const double* parts, i64 count, double* seen) {
  __shared__ double room[THREADS / 32];
  double least = (double)__uint_as_float(0x7f800000u), bad = 0.0, total = 0.0, squares = 0.0;
  for (i64 s = threadIdx.x; s < count; s += THREADS) {
    const double* part = parts + 4 * s;
    if (part[0] < least) least = part[0];
    bad += part[1];
    total += part[2];
    squares += part[3];
  }
  least = least_of_block(least, room);
  bad = sum_block(bad, room);
  total = sum_block(total, room);
  squares = sum_block(squares, room);
  if (threadIdx.x) return;
  seen[0] = least;
  seen[1] = bad;
  seen[2] = total;
  seen[3] = squares;
}

// One multiplicative step: out = F ⊙ (N / (D + l1 + l2·F))^γ, at least `floor` or zero, and the parts of the residual.
// N and D in type T; D of `rows_D` rows: n, 1 for all, or 0: then it is F·G, formed here. With G (β = 2), whose diagonal
// plus l2 is hess, as multiply_rows in cpu_kernels.py says: parts[KKT] = Σ hess s², and where N is GIVEN parts[CROSS] =
// Σ N·out; without: parts[VIOLATION] = Σ|f·∇|, parts[KKT] = Σ f·N, and by column Σ f, Σ max(0, −∇) over f = 0, and Σ out.
// A block has `chunk` rows; its threads lie `across` side by side in a row.
template <class T, bool GIVEN>
__device__ __forceinline__ void multiply_rows(const FT* F, const T* N, const T* D, i64 rows_D, const double* G, i64 n,
                                              int k, FT l1, FT l2, double gamma, FT floor, int chunk, int across, FT* out,
                                              double* parts) {
  DYNAMIC_SHARED(double, room);  // THREADS numbers
  int lane = threadIdx.x % across, down = threadIdx.x / across, strip = THREADS / across;
  i64 first = (i64)blockIdx.x * chunk, last = first + chunk < n ? first + chunk : n;
  double* to = parts + (i64)blockIdx.x * (STATS + (G ? 0 : 3 * k));
  double residual = 0.0, scale = 0.0, total = 0.0, cross = 0.0;
  for (int t0 = 0; t0 < k; t0 += across) {
    int t = t0 + lane;
    double sum_f = 0.0, pull = 0.0, sum_made = 0.0;
    if (t < k) {
      const double h = G ? G[(i64)t * k + t] + (double)l2 : 0.0;
      for (i64 i = first + down; i < last; i += strip) {
        FT f = F[i * k + t];
        T numerator = N[i * k + t], below = 0;
        if (rows_D) {
          below = D[(rows_D == 1 ? 0 : i) * k + t];
        } else {
          for (int u = 0; u < k; ++u) below += (T)F[i * k + u] * (T)G[(i64)u * k + t];
        }
        T denominator = below + (T)l1 + (T)l2 * (T)f;
        double gradient = (double)denominator - (double)numerator;
        if (G) {
          if (h > 0.0) {
            double step = larger((double)f - gradient / h, 0.0) - (double)f;
            scale += h * step * step;
          }
        } else {
          residual += fabs((double)f * gradient);
          scale += (double)f * (double)numerator;
          sum_f += (double)f;
          if (f == 0) pull += larger(0.0, -gradient);
        }
        if (denominator == 0) denominator = (T)EPSILON;
        FT ratio = (FT)(numerator / denominator);
        if (gamma == 0.5)
          ratio = sqrt(ratio);
        else if (gamma != 1.0)
          ratio = (FT)pow((double)ratio, gamma);
        FT made = f * ratio;
        made = made < floor ? (FT)0 : made;
        out[i * k + t] = made;
        sum_made += (double)made;
        if (GIVEN && G) cross += (double)numerator * (double)made;
      }
    }
    total += sum_made;
    if (!G) {  // the same for every thread
      for (int what = 0; what < 3; ++what) {
        __syncthreads();
        room[threadIdx.x] = what == 0 ? sum_f : what == 1 ? pull : sum_made;
        __syncthreads();
        if (down == 0 && t < k) {
          double sum = 0.0;
          for (int s = 0; s < strip; ++s) sum += room[s * across + lane];
          to[STATS + what * k + t] = sum;
        }
      }
    }
  }
  __syncthreads();
  residual = sum_block(residual, room);
  scale = sum_block(scale, room);
  total = sum_block(total, room);
  if (GIVEN) cross = sum_block(cross, room);
  if (threadIdx.x == 0) {
    for (int i = 0; i < STATS; ++i) to[i] = 0.0;
    to[VIOLATION] = residual;
    to[KKT] = scale;
    to[TOTAL] = total;
    to[CROSS] = cross;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
multiply(const FT* F, const FT* N, const FT* D, i64 rows_D, const double* G, i64 n, int k, FT l1, FT l2, double gamma,
         FT floor, int chunk, int across, FT* out, double* parts) {
  multiply_rows<FT, false>(F, N, D, rows_D, G, n, k, l1, l2, gamma, floor, chunk, across, out, parts);
}

extern "C" __global__ void __launch_bounds__(THREADS)
multiply_given(const FT* F, const double* N, const double* D, i64 rows_D, const double* G, i64 n, int k, FT l1, FT l2,
               double gamma, FT floor, int chunk, int across, FT* out, double* parts) {
  multiply_rows<double, true>(F, N, D, rows_D, G, n, k, l1, l2, gamma, floor, chunk, across, out, parts);
}

// parts[block] = Σ over `chunk` rows of F, by column.
extern "C" __global__ void __launch_bounds__(THREADS)
column_sums(const FT* F, i64 n, int k, int chunk, int across, double* parts) {
  __shared__ double room[THREADS];
  int lane = threadIdx.x % across, down = threadIdx.x / across, strip = THREADS / across;
  i64 first = (i64)blockIdx.x * chunk, last = first + chunk < n ? first + chunk : n;
  for (int t0 = 0; t0 < k; t0 += across) {
    int t = t0 + lane;
    double sum = 0.0;
    if (t < k)
      for (i64 i = first + down; i < last; i += strip) sum += (double)F[i * k + t];
    __syncthreads();
    room[threadIdx.x] = sum;
    __syncthreads();
    if (down == 0 && t < k) {
      const i64 block = blockIdx.x;
      for (int s = 1; s < strip; ++s) sum += room[s * across + lane];
      parts[block * k + t] = sum;
    }
  }
}
#endif  // FAMILY_ROWS

// ---- products ---------------------------------------------------------------------------------------------------------

#ifdef FAMILY_PRODUCTS
// Tiles of X go through shared memory in the compute type, the next one on its way in registers meanwhile.
#define ROWS 64   // of X per block in X·Ht
#define DEPTH 32  // columns of X per tile there
#define FLUSH 4   // tiles after which partial sums in the compute type are put aside: 128 terms
#define COLUMNS 64  // of X per block in Xᵀ·F
#define FLUSH_ROWS 8  // tiles of DEPTH rows there: 256 terms
#define MINE (KT / 2)  // columns of the result per thread: two threads share a row (a column) of X

// out[r, t] = Σ_j X[r, j]·Ht[j, t].  grid: rows, columns of out.
extern "C" __global__ void __launch_bounds__(THREADS)
products(const XT* X, i64 ld, const FT* Ht, i64 n, i64 m, int k, FT* out) {
  __shared__ __align__(16) FT tile[ROWS][DEPTH + 1];
  __shared__ __align__(16) FT side[DEPTH][KT];
  const int tid = threadIdx.x, row = tid % ROWS, part = tid / ROWS, column = tid % DEPTH, above = tid / DEPTH;
  const i64 r0 = (i64)blockIdx.x * ROWS;
  const int t0 = blockIdx.y * KT;
  constexpr int LOADS = ROWS * DEPTH / THREADS, EACH = THREADS / DEPTH;
  FT ahead[LOADS], sum[MINE], aside[MINE];
#pragma unroll
  for (int q = 0; q < MINE; ++q) sum[q] = aside[q] = 0;
#pragma unroll
  for (int i = 0; i < LOADS; ++i) {
    i64 r = r0 + above + i * EACH;
    ahead[i] = r < n && column < m ? widen(X[r * ld + column]) : (FT)0;
  }
  int tiles = 0;
  for (i64 j0 = 0; j0 < m; j0 += DEPTH) {
#pragma unroll
    for (int i = 0; i < LOADS; ++i) tile[above + i * EACH][column] = ahead[i];
    for (int i = tid; i < DEPTH * KT; i += THREADS) {
      i64 j = j0 + i / KT;
      int t = t0 + i % KT;
      side[i / KT][i % KT] = j < m && t < k ? Ht[j * k + t] : (FT)0;
    }
    __syncthreads();
    i64 next = j0 + DEPTH + column;
    if (j0 + DEPTH < m) {
#pragma unroll
      for (int i = 0; i < LOADS; ++i) {
        i64 r = r0 + above + i * EACH;
        ahead[i] = r < n && next < m ? widen(X[r * ld + next]) : (FT)0;
      }
    }
#pragma unroll 8
    for (int j = 0; j < DEPTH; ++j) {
      FT x = tile[row][j];
#pragma unroll
      for (int q = 0; q < MINE; ++q) sum[q] += x * side[j][part * MINE + q];
    }
    if (++tiles == FLUSH) {
      tiles = 0;
#pragma unroll
      for (int q = 0; q < MINE; ++q) {
        aside[q] += sum[q];
        sum[q] = 0;
      }
    }
    __syncthreads();
  }
  if (r0 + row < n) {
#pragma unroll
    for (int q = 0; q < MINE; ++q) {
      int t = t0 + part * MINE + q;
      if (t < k) out[(r0 + row) * k + t] = aside[q] + sum[q];
    }
  }
}

// A number of X, or of a factor, in the compute type.
template <class S>
struct Reading {
#ifdef X_HALF
  static __device__ __forceinline__ FT number(S x) { return widen(x); }
#else
  static __device__ __forceinline__ FT number(S x) { return (FT)x; }
#endif
};
#ifdef X_HALF
template <>
struct Reading<FT> {
  static __device__ __forceinline__ FT number(FT x) { return x; }
};
#endif

// Whether X is stored in the compute type.
template <class S>
struct Alike {
  static constexpr bool yes = false;
};
template <>
struct Alike<FT> {
  static constexpr bool yes = true;
};

// to[j, t] = Σ over rows first … last of X[r, j]·F[r, t], for columns j0 … of X (of m) and t0 … of F (of k).
template <class S>
__device__ __forceinline__ void add_tiles(const S* X, i64 ld, const FT* F, i64 first, i64 last, i64 j0, i64 m, int t0, int k,
                                          FT (*tile)[COLUMNS], FT (*side)[KT], double* to) {
  const int tid = threadIdx.x, column = tid % COLUMNS, part = tid / COLUMNS;
  const i64 j = j0 + column;
  constexpr int EACH = THREADS / COLUMNS, LOADS = DEPTH / EACH;
  FT ahead[LOADS], sum[MINE];
  double aside[MINE];
#pragma unroll
  for (int q = 0; q < MINE; ++q) {
    sum[q] = 0;
    aside[q] = 0;
  }
#pragma unroll
  for (int i = 0; i < LOADS; ++i) {
    i64 r = first + part + i * EACH;
    ahead[i] = r < last && j < m ? Reading<S>::number(X[r * ld + j]) : (FT)0;
  }
  int tiles = 0;
  for (i64 i0 = first; i0 < last; i0 += DEPTH) {
#pragma unroll
    for (int i = 0; i < LOADS; ++i) tile[part + i * EACH][column] = ahead[i];
    for (int i = tid; i < DEPTH * KT; i += THREADS) {
      i64 r = i0 + i / KT;
      int t = t0 + i % KT;
      side[i / KT][i % KT] = r < last && t < k ? F[r * k + t] : (FT)0;
    }
    __syncthreads();
    if (i0 + DEPTH < last) {
#pragma unroll
      for (int i = 0; i < LOADS; ++i) {
        i64 r = i0 + DEPTH + part + i * EACH;
        ahead[i] = r < last && j < m ? Reading<S>::number(X[r * ld + j]) : (FT)0;
      }
    }
#pragma unroll 8
    for (int i = 0; i < DEPTH; ++i) {
      FT x = tile[i][column];
#pragma unroll
      for (int q = 0; q < MINE; ++q) sum[q] += x * side[i][part * MINE + q];
    }
    if (++tiles == FLUSH_ROWS) {
      tiles = 0;
#pragma unroll
      for (int q = 0; q < MINE; ++q) {
        aside[q] += (double)sum[q];
        sum[q] = 0;
      }
    }
    __syncthreads();
  }
  if (j < m) {
#pragma unroll
    for (int q = 0; q < MINE; ++q) {
      int t = t0 + part * MINE + q;
      if (t < k) to[j * k + t] = aside[q] + (double)sum[q];
    }
  }
}

// parts[s, j, t] = Σ over the rows of chunk s of X[r, j]·F[r, t]; and beside them, from tile `tiles` of columns on, the
// same of up to three pairs of factors (n × k): grams[s, g, u, t] = Σ left_g[r, u]·right_g[r, t].
// grid: columns of X and then of each left factor, columns of F, chunks.
extern "C" __global__ void __launch_bounds__(THREADS, KT <= 16 && sizeof(FT) == 4 ? 4 : 2)
add_products(int tiles, const XT* X, i64 ld, const FT* F, i64 n, i64 m, int k, i64 chunk, double* parts, int pairs,
             const FT* left0, const FT* right0, const FT* left1, const FT* right1, const FT* left2, const FT* right2,
             double* grams) {
  __shared__ __align__(16) FT tile[DEPTH][COLUMNS];
  __shared__ __align__(16) FT side[DEPTH][KT];
  const i64 first = (i64)blockIdx.z * chunk, last = first + chunk < n ? first + chunk : n;
  const int t0 = blockIdx.y * KT;
  const bool of_X = blockIdx.x < tiles;
  const int high = (k + COLUMNS - 1) / COLUMNS, beside = of_X ? 0 : blockIdx.x - tiles, pair = beside / high;
  const FT* left = pair == 0 ? left0 : pair == 1 ? left1 : left2;
  const FT* right = of_X ? F : pair == 0 ? right0 : pair == 1 ? right1 : right2;
  const i64 j0 = (i64)(of_X ? blockIdx.x : beside % high) * COLUMNS, wide = of_X ? m : (i64)k;
  double* to = of_X ? parts + (i64)blockIdx.z * m * k : grams + ((i64)blockIdx.z * pairs + pair) * k * k;
  if (Alike<XT>::yes)  // one copy of the code: two of the widest need more registers than there are
    add_tiles<FT>(of_X ? reinterpret_cast<const FT*>(X) : left, of_X ? ld : (i64)k, right, first, last, j0, wide, t0, k, tile,
                  side, to);
  else if (of_X)
    add_tiles<XT>(X, ld, right, first, last, j0, wide, t0, k, tile, side, to);
  else if (KT < 64 || sizeof(FT) < 8)
    add_tiles<FT>(left, k, right, first, last, j0, wide, t0, k, tile, side, to);
}
#endif  // FAMILY_PRODUCTS

// ---- coordinate descent -------------------------------------------------------------------------------------------------

#ifdef FAMILY_SWEEP
// Sweeps over rows of F, each row until it has settled; see sweep_rows in cpu_kernels.py for the rules. A row belongs to L
// lanes, which hold KL of its coordinates each: position p = i·L + lane of the order. Positions beyond k are zero.
#define KP (KL * L)

// Number `at` of the Gram matrix in the order of a sweep, of each row a lane's numbers side by side, with l2.
__device__ __forceinline__ FT arranged_at(const double* G, const int* order, int k, FT l2, int at) {
  int p = at / KP, rest = at % KP, lane = rest / KL, q = rest % KL * L + lane;
  return p < k && q < k ? (FT)(G[(i64)order[p] * k + order[q]] + (p == q ? (double)l2 : 0.0)) : (FT)0;
}

// The same in global memory (KP × KP), for a Gram matrix that is too large to be shared.
extern "C" __global__ void __launch_bounds__(THREADS)
arrange(const double* G, const int* order, int k, FT l2, FT* arranged) {
  i64 at = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (at < KP * KP) arranged[at] = arranged_at(G, order, k, l2, (int)at);
}

// One coordinate's step → its new value; and what the sweep tells of itself.
__device__ __forceinline__ FT coordinate_step(FT gradient, FT w, FT hess, FT inverse, bool first, bool by_step, bool moving,
                                              double& now, double& kkt, FT& moved) {
  FT projected = w == 0 && gradient > 0 ? (FT)0 : gradient;
  FT made = larger(w - gradient * inverse, (FT)0);
  FT step = hess != 0 ? made - w : (FT)0;
  if (first || !by_step) now += fabs((double)projected);
  if (first) kkt += (double)hess * (double)step * (double)step;
  if (hess == 0 || !(first || moving)) return w;
  moved += step * step;
  return made;
}

// Number t of row `row` of the point that a sweep begins at: max(0, B + momentum·(B − before·scale of it)), B = F·scale.
// scale: k numbers for F, k for before; null for ones. With no momentum `before` is not read: it may never have been
// written.
__device__ __forceinline__ FT scaled(const FT* F, const FT* scale, i64 at, int t) { return scale ? F[at] * scale[t] : F[at]; }

__device__ __forceinline__ FT beginning(const FT* F, const FT* before, const FT* scale, FT momentum, i64 at, int t, int k) {
  const FT b = scaled(F, scale, at, t);
  return momentum == 0 ? b : larger(b + momentum * (b - scaled(before, scale ? scale + k : scale, at, t)), (FT)0);
}

// The momentum is a number, or with `pace` it lies in the memory of the device: the β, or for GIVEN the weight, that `mixed`
// has written there.
// GIVEN is the step of the small factor: parts[CROSS] = ⟨C, out⟩; and with `beyond`, for P = max(0, out + momentum·(out −
// before)), beyond = [P, P + F, P − F] and parts[SQUARE] = ⟨A, P − F⟩. Else the sweeps begin where `beginning` says, and
// with `beyond` D = out − F·scale is written there, and parts[CROSS] = ⟨C − l1, D⟩.
template <class T, bool GIVEN>
__device__ __forceinline__ void sweep_rows(const FT* F, const FT* before, const FT* scale, FT momentum, const T* C,
                                           const double* G, const int* order, i64 n, int k, FT l1, FT l2, int sweeps,
                                           double tol, FT delta, FT* out, FT* beyond, const double* A, double* parts,
                                           const FT* arranged) {
  DYNAMIC_SHARED(double, shared);
  __shared__ double room[THREADS / 32];
  FT* hess = reinterpret_cast<FT*>(shared);  // KP
  FT* inverse = hess + KP;                   // KP
  FT* gram = inverse + KP;                   // with SHARED_G: KP × KP, of each row a lane's numbers side by side
  int* place = reinterpret_cast<int*>(gram + (SHARED_G ? KP * KP : 0));
  for (int p = threadIdx.x; p < KP; p += THREADS) {
    int t = p < k ? order[p] : 0;
    place[p] = t;
    FT h = p < k ? (FT)(G[(i64)t * k + t] + (double)l2) : (FT)0;
    hess[p] = h;
    inverse[p] = h != 0 ? 1 / h : (FT)0;
  }
  __syncthreads();
#if SHARED_G
  for (int at = threadIdx.x; at < KP * KP; at += THREADS) gram[at] = arranged_at(G, place, k, l2, at);
  __syncthreads();
#endif
  const int lane = threadIdx.x % L;
  const i64 row = ((i64)blockIdx.x * THREADS + threadIdx.x) / L;
  const bool live = row < n;  // every lane stays for the shuffles
  FT w[KL], c[KL];
#pragma unroll
  for (int i = 0; i < KL; ++i) {
    int p = i * L + lane;
    bool there = live && p < k;
    const i64 at = row * k + place[p];
    w[i] = !there ? (FT)0 : GIVEN ? F[at] : beginning(F, before, scale, momentum, at, place[p], k);
    c[i] = there ? (FT)C[at] : (FT)0;
  }
  double violation = 0.0, kkt = 0.0, first = 0.0;
  FT limit = 0;
  bool moving = live;
  int done = 0;
  for (int s = 0; s < sweeps; ++s) {
    double now = 0.0;
    FT moved = 0;
#if KL > 16
#pragma unroll 1
    for (int i = 0; i < KL; ++i) {
      FT mine = 0, wanted = 0;
#pragma unroll
      for (int j = 0; j < KL; ++j) {
        mine = i == j ? w[j] : mine;
        wanted = i == j ? c[j] : wanted;
      }
#pragma unroll 1
      for (int owner = 0; owner < L; ++owner) {
        int p = i * L + owner;
        if (p >= k) break;  // the same for every lane
        FT g = 0;
#pragma unroll
        for (int j = 0; j < KL; ++j) {
#if SHARED_G
          g += w[j] * gram[p * KP + lane * KL + j];
#else
          g += w[j] * arranged[p * KP + lane * KL + j];
#endif
        }
        g = sum_lanes<L>(g);
        if (lane == owner) {
          mine = coordinate_step(g - wanted + l1, mine, hess[p], inverse[p], s == 0, delta > 0, moving, now, kkt, moved);
#pragma unroll
          for (int j = 0; j < KL; ++j) w[j] = i == j ? mine : w[j];
        }
      }
    }
#else
#pragma unroll
    for (int i = 0; i < KL; ++i) {
#pragma unroll 1
      for (int owner = 0; owner < L; ++owner) {
        int p = i * L + owner;
        if (p >= k) break;  // the same for every lane
        FT g = 0;
#pragma unroll
        for (int j = 0; j < KL; ++j) {
#if SHARED_G
          g += w[j] * gram[p * KP + lane * KL + j];
#else
          g += w[j] * arranged[p * KP + lane * KL + j];
#endif
        }
        g = sum_lanes<L>(g);
        if (lane == owner) {
          w[i] = coordinate_step(g - c[i] + l1, w[i], hess[p], inverse[p], s == 0, delta > 0, moving, now, kkt, moved);
        }
      }
    }
#endif
    now = sum_lanes<L>(now);
    moved = sum_lanes<L>(moved);
    if (s == 0) {
      violation = now;
      first = now;
      limit = moved * delta * delta;
    }
    if (moving) done = s + 1;
    moving = moving && (delta > 0 ? moved > limit : !(now <= tol * first));
    if (!__any_sync(EVERY_LANE, moving)) break;
  }
  double total = 0.0, cross = 0.0, square = 0.0;
#pragma unroll
  for (int i = 0; i < KL; ++i) {
    int p = i * L + lane;
    if (live && p < k) {
      const i64 at = row * k + place[p];
      out[at] = w[i];
      total += (double)w[i];
      if (GIVEN) {
        cross += (double)C[at] * (double)w[i];  // not c[i]: the loss needs C unrounded
        if (beyond) {
          const FT f = F[at], made = momentum == 0 ? w[i] : larger(w[i] + momentum * (w[i] - before[at]), (FT)0);
          beyond[at] = made;
          beyond[n * k + at] = made + f;
          beyond[2 * (n * k) + at] = made - f;
          square += A[at] * (double)(made - f);
        }
      } else if (beyond) {
        const FT D = w[i] - scaled(F, scale, at, place[p]);
        beyond[at] = D;
        cross += ((double)C[at] - (double)l1) * (double)D;
      }
    }
  }
  double* to = parts + (i64)blockIdx.x * STATS;
  double most = done;
#pragma unroll
  for (int step = 16; step; step >>= 1) most = larger(most, __shfl_xor_sync(EVERY_LANE, most, step));
  if ((threadIdx.x & 31) == 0) room[threadIdx.x >> 5] = most;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 0; w < THREADS / 32; ++w) most = larger(most, room[w]);
  bool leader = live && lane == 0;
  double sums[STATS];
  sums[VIOLATION] = sum_block(leader ? violation : 0.0, room);
  sums[KKT] = sum_block(live ? kkt : 0.0, room);
  sums[SWEEPS] = most;
  sums[UNSETTLED] = sum_block(leader && moving ? 1.0 : 0.0, room);
  sums[TOTAL] = sum_block(total, room);
  sums[CROSS] = sum_block(cross, room);
  sums[SQUARE] = GIVEN ? sum_block(square, room) : 0.0;
  if (threadIdx.x == 0)
    for (int i = 0; i < STATS; ++i) to[i] = sums[i];
}

extern "C" __global__ void __launch_bounds__(THREADS, KL > 16 ? 2 : 3)
sweep(const FT* F, const FT* before, const FT* scale, FT momentum, const double* pace, const FT* C, const double* G,
      const int* order, i64 n, int k, FT l1, FT l2, int sweeps, double tol, FT delta, FT* out, FT* beyond, const double* A,
      double* parts, const FT* arranged) {
  sweep_rows<FT, false>(F, before, scale, pace ? (FT)pace[1] : momentum, C, G, order, n, k, l1, l2, sweeps, tol, delta, out, beyond, A, parts,
                        arranged);
}

extern "C" __global__ void __launch_bounds__(THREADS, KL > 16 ? 2 : 3)
sweep_given(const FT* F, const FT* before, const FT* scale, FT momentum, const double* pace, const double* C,
            const double* G, const int* order, i64 n, int k, FT l1, FT l2, int sweeps, double tol, FT delta, FT* out,
            FT* beyond, const double* A, double* parts, const FT* arranged) {
  sweep_rows<double, true>(F, before, scale, pace ? (FT)pace[0] : momentum, C, G, order, n, k, l1, l2, sweeps, tol, delta, out, beyond, A,
                           parts, arranged);
}
#endif  // FAMILY_SWEEP

// ---- β-divergence -------------------------------------------------------------------------------------------------------

#if defined(FAMILY_BETA) || defined(FAMILY_CODE) || defined(FAMILY_SPARSE)
// x^p for x ≥ 0. β is the same for every thread: the branches cost nothing.
__device__ __forceinline__ FT power(FT x, double p) {
  if (p == 0) return (FT)1;
  if (p == 1) return x;
  if (p == -1) return 1 / x;
  if (p == 2) return x * x;
  if (p == -2) return 1 / (x * x);
  if (p == 0.5) return sqrt(x);
  if (p == -0.5) return 1 / sqrt(x);
  if (p == -1.5) return 1 / (x * sqrt(x));
  return (FT)pow((double)x, p);
}

// x·s^(β−2) and s^(β−1) with scikit-learn's floors under s = WH (none under the denominator for 1 < β < 2).
__device__ __forceinline__ void terms(FT x, FT s, double beta, FT* ratio, FT* below) {
  FT floored = beta < 2 ? larger(s, (FT)EPSILON) : s;
  if (beta == 1) {
    *ratio = x / floored;
    *below = 1;
    return;
  }
  FT p = power(floored, beta - 2);
  *ratio = x * p;
  *below = beta > 1 && beta < 2 && s < (FT)EPSILON ? power(s, beta - 1) : p * floored;
}

// D_β(x | s) in float64: terms of x only where x > ε, s at least ε there.
__device__ __forceinline__ double divergence_of(double x, double s, double beta) {
  if (beta == 2) return 0.5 * (x - s) * (x - s);
  double floored = larger(s, EPSILON), safe = larger(x, EPSILON);
  if (beta == 1) return s + (x > EPSILON ? x * log(safe / floored) - x : 0.0);
  if (beta == 0) return (x > EPSILON ? safe / floored - log(safe / floored) : 0.0) - 1.0;
  double below = pow(floored, beta - 1);
  double data = x > EPSILON ? pow(safe, beta) - beta * safe * below : 0.0;
  double whole = beta < 0 || s >= EPSILON ? below * floored : pow(s, beta);
  return (data + (beta - 1) * whole) / (beta * (beta - 1));
}
#endif

#if defined(FAMILY_BETA) || defined(FAMILY_SQUARES)
#define HEIGHT 32  // rows of a tile of WH
#define WIDTH 32   // columns
#define SLAB 32    // components of both factors at a time
#define DOWN 4     // of the tile a thread has DOWN rows and ACROSS columns, side by side
#define ACROSS 2
#define PITCH 36   // numbers from one component of a tile to the next in shared memory: each begins at 16 bytes
#define TOP (DOWN * (threadIdx.x / (WIDTH / ACROSS)))    // this thread's first row
#define LEFT (ACROSS * (threadIdx.x % (WIDTH / ACROSS)))  // and column

// WH over a tile: this thread's numbers, s[ACROSS·i + c] of row TOP + i and column LEFT + c. Both factors go through
// shared memory, SLAB components at a time, each component's rows side by side: DOWN numbers of F and ACROSS of Ht, read
// at a time, make DOWN·ACROSS products. Every thread must call it.
__device__ __forceinline__ void form_tile(const FT* F, const FT* Ht, i64 i0, i64 j0, i64 n, i64 m, int k,
                                          FT (*of_F)[PITCH], FT (*of_H)[PITCH], FT* s) {
  const int top = TOP, left = LEFT;
#pragma unroll
  for (int i = 0; i < DOWN * ACROSS; ++i) s[i] = 0;
  for (int t0 = 0; t0 < k; t0 += SLAB) {
    __syncthreads();
    for (int at = threadIdx.x; at < HEIGHT * SLAB; at += THREADS) {
      int r = at / SLAB, t = at % SLAB;
      of_F[t][r] = i0 + r < n && t0 + t < k ? F[(i0 + r) * k + t0 + t] : (FT)0;
      of_H[t][r] = j0 + r < m && t0 + t < k ? Ht[(j0 + r) * k + t0 + t] : (FT)0;
    }
    __syncthreads();
    int depth = k - t0 < SLAB ? k - t0 : SLAB;
#pragma unroll 4
    for (int t = 0; t < depth; ++t) {
      FT f[DOWN], h[ACROSS];
#pragma unroll
      for (int i = 0; i < DOWN; ++i) f[i] = of_F[t][top + i];
#pragma unroll
      for (int c = 0; c < ACROSS; ++c) h[c] = of_H[t][left + c];
#pragma unroll
      for (int i = 0; i < DOWN; ++i)
#pragma unroll
        for (int c = 0; c < ACROSS; ++c) s[i * ACROSS + c] += f[i] * h[c];
    }
  }
}

// losses[r] for the rows of a tile, from what each thread has summed up over its columns.
__device__ __forceinline__ void write_losses(const double* loss, i64 i0, i64 n, double* losses) {
  const int top = TOP, left = LEFT;
#pragma unroll
  for (int i = 0; i < DOWN; ++i) {  // the lanes of half a warp hold the same rows'
    double of_row = sum_lanes<WIDTH / ACROSS>(loss[i]);
    if (left == 0 && i0 + top + i < n) losses[i0 + top + i] = of_row;
  }
}
#endif

#ifdef FAMILY_SQUARES
// losses[r] = ½‖x_r − (F·Htᵀ)_r‖², as `beta_rows` measures it for β = 2. A family of its own: every fit ends with it, and
// compiles in a sixth of the time that the kernels for any β take.
extern "C" __global__ void __launch_bounds__(THREADS)
squared_errors(const XT* X, i64 ld, const FT* F, const FT* Ht, i64 n, i64 m, int k, double* losses) {
  __shared__ __align__(16) FT of_F[SLAB][PITCH], of_H[SLAB][PITCH];
  const int top = TOP, left = LEFT;
  const i64 i0 = (i64)blockIdx.x * HEIGHT;
  FT s[DOWN * ACROSS];
  double loss[DOWN];
#pragma unroll
  for (int i = 0; i < DOWN; ++i) loss[i] = 0.0;
  for (i64 j0 = 0; j0 < m; j0 += WIDTH) {
    form_tile(F, Ht, i0, j0, n, m, k, of_F, of_H, s);
#pragma unroll
    for (int i = 0; i < DOWN; ++i)
#pragma unroll
      for (int c = 0; c < ACROSS; ++c) {
        i64 r = i0 + top + i, j = j0 + left + c;
        if (r >= n || j >= m) continue;
        double rest = (double)widen(X[r * ld + j]) - (double)s[i * ACROSS + c];
        loss[i] += 0.5 * rest * rest;
      }
  }
  write_losses(loss, i0, n, losses);
}
#endif  // FAMILY_SQUARES

#ifdef FAMILY_BETA
// N[r, :] = Σ_j x·s^(β−2)·Ht[j, :], D[r, :] = Σ_j s^(β−1)·Ht[j, :] (β ≠ 1), for the rows of a block; with `losses`
// D_β of each row at the incoming pair. For β = 1 D is of one row, Σ_j Ht[j, :]. update = 0: the losses only.
// grid: rows, columns of the result.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
beta_rows(const XT* X, i64 ld, const FT* F, const FT* Ht, i64 n, i64 m, int k, double beta, int update, FT* N, FT* D,
          double* losses) {
  __shared__ __align__(16) FT of_F[SLAB][PITCH], of_H[SLAB][PITCH], side[WIDTH][KT];
  __shared__ FT ratios[HEIGHT][WIDTH + 1], powers[HEIGHT][WIDTH + 1];
  constexpr int SHARE = HEIGHT * KT / THREADS;  // numbers of the result per thread: a row's, side by side
  const int tid = threadIdx.x, top = TOP, left = LEFT, row = tid % HEIGHT, part = tid / HEIGHT;
  const i64 i0 = (i64)blockIdx.x * HEIGHT;
  const int t0 = blockIdx.y * KT;
  FT s[DOWN * ACROSS], num[SHARE], den[SHARE];
  double num_aside[SHARE], den_aside[SHARE], loss[DOWN];
#pragma unroll
  for (int q = 0; q < SHARE; ++q) {
    num[q] = den[q] = 0;
    num_aside[q] = den_aside[q] = 0.0;
  }
#pragma unroll
  for (int i = 0; i < DOWN; ++i) loss[i] = 0.0;
  int tiles = 0;
  const bool summing = update && beta == 1 && blockIdx.x == 0 && tid < KT;
  double sum_H = 0.0;
  for (i64 j0 = 0; j0 < m; j0 += WIDTH) {
    form_tile(F, Ht, i0, j0, n, m, k, of_F, of_H, s);
    for (int at = tid; at < WIDTH * KT; at += THREADS) {
      int j = at / KT, t = at % KT;
      side[j][t] = j0 + j < m && t0 + t < k ? Ht[(j0 + j) * k + t0 + t] : (FT)0;
    }
#pragma unroll
    for (int i = 0; i < DOWN; ++i)
#pragma unroll
      for (int c = 0; c < ACROSS; ++c) {
        const int r = top + i, column = left + c;
        bool there = i0 + r < n && j0 + column < m;
        FT x = there ? widen(X[(i0 + r) * ld + j0 + column]) : (FT)0, wh = s[i * ACROSS + c];
        FT ratio = 0, below = 0;
        if (there) {
          if (update) terms(x, wh, beta, &ratio, &below);
          if (losses && blockIdx.y == 0) loss[i] += divergence_of((double)x, (double)wh, beta);
        }
        ratios[r][column] = ratio;
        powers[r][column] = below;
      }
    __syncthreads();
    if (summing)
      for (int j = 0; j < WIDTH; ++j) sum_H += (double)side[j][tid];
    if (update) {
#pragma unroll 4
      for (int j = 0; j < WIDTH; ++j) {
        FT a = ratios[row][j], b = powers[row][j];
#pragma unroll
        for (int q = 0; q < SHARE; ++q) {
          FT h = side[j][part * SHARE + q];
          num[q] += a * h;
          if (beta != 1) den[q] += b * h;
        }
      }
      if (++tiles == 4) {
        tiles = 0;
#pragma unroll
        for (int q = 0; q < SHARE; ++q) {
          num_aside[q] += (double)num[q];
          den_aside[q] += (double)den[q];
          num[q] = den[q] = 0;
        }
      }
    }
    __syncthreads();
  }
  if (summing && t0 + tid < k) D[t0 + tid] = (FT)sum_H;
  if (update && i0 + row < n) {
#pragma unroll
    for (int q = 0; q < SHARE; ++q) {
      int t = t0 + part * SHARE + q;
      if (t < k) {
        N[(i0 + row) * k + t] = (FT)(num_aside[q] + (double)num[q]);
        if (beta != 1) D[(i0 + row) * k + t] = (FT)(den_aside[q] + (double)den[q]);
      }
    }
  }
  if (losses && blockIdx.y == 0) write_losses(loss, i0, n, losses);
}

// parts[s, j, t] = Σ over the rows of chunk s of x·s^(β−2)·F[r, t]; below them, for β ≠ 1, of s^(β−1)·F[r, t].
// grid: columns of X, columns of F, chunks.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
beta_columns(const XT* X, i64 ld, const FT* F, const FT* Ht, i64 n, i64 m, int k, double beta, i64 chunk, double* numerators,
             double* denominators) {
  __shared__ __align__(16) FT of_F[SLAB][PITCH], of_H[SLAB][PITCH], side[HEIGHT][KT];
  __shared__ FT ratios[HEIGHT][WIDTH + 1], powers[HEIGHT][WIDTH + 1];
  constexpr int SHARE = WIDTH * KT / THREADS;
  const int tid = threadIdx.x, top = TOP, left = LEFT, column = tid % WIDTH, part = tid / WIDTH;
  const i64 j0 = (i64)blockIdx.x * WIDTH;
  const int t0 = blockIdx.y * KT;
  const i64 first = (i64)blockIdx.z * chunk, last = first + chunk < n ? first + chunk : n;
  FT s[DOWN * ACROSS], num[SHARE], den[SHARE];
  double num_aside[SHARE], den_aside[SHARE];
#pragma unroll
  for (int q = 0; q < SHARE; ++q) {
    num[q] = den[q] = 0;
    num_aside[q] = den_aside[q] = 0.0;
  }
  int tiles = 0;
  for (i64 i0 = first; i0 < last; i0 += HEIGHT) {
    form_tile(F, Ht, i0, j0, last, m, k, of_F, of_H, s);
    for (int at = tid; at < HEIGHT * KT; at += THREADS) {
      int r = at / KT, t = at % KT;
      side[r][t] = i0 + r < last && t0 + t < k ? F[(i0 + r) * k + t0 + t] : (FT)0;
    }
#pragma unroll
    for (int i = 0; i < DOWN; ++i)
#pragma unroll
      for (int c = 0; c < ACROSS; ++c) {
        const int r = top + i, j = left + c;
        FT ratio = 0, below = 0;
        if (i0 + r < last && j0 + j < m) terms(widen(X[(i0 + r) * ld + j0 + j]), s[i * ACROSS + c], beta, &ratio, &below);
        ratios[r][j] = ratio;
        powers[r][j] = below;
      }
    __syncthreads();
#pragma unroll 4
    for (int i = 0; i < HEIGHT; ++i) {
      FT a = ratios[i][column], b = powers[i][column];
#pragma unroll
      for (int q = 0; q < SHARE; ++q) {
        FT f = side[i][part * SHARE + q];
        num[q] += a * f;
        if (beta != 1) den[q] += b * f;
      }
    }
    if (++tiles == 8) {
      tiles = 0;
#pragma unroll
      for (int q = 0; q < SHARE; ++q) {
        num_aside[q] += (double)num[q];
        den_aside[q] += (double)den[q];
        num[q] = den[q] = 0;
      }
    }
    __syncthreads();
  }
  if (j0 + column < m) {
#pragma unroll
    for (int q = 0; q < SHARE; ++q) {
      int t = t0 + part * SHARE + q;
      if (t < k) {
        i64 at = ((i64)blockIdx.z * m + j0 + column) * k + t;
        numerators[at] = num_aside[q] + (double)num[q];
        if (beta != 1) denominators[at] = den_aside[q] + (double)den[q];
      }
    }
  }
}
#endif  // FAMILY_BETA

// ---- rows of W alone (transform), multiplicative --------------------------------------------------------------------------

#ifdef FAMILY_CODE
// Σ over the block of what each thread holds, in every thread.
__device__ __forceinline__ double sum_everywhere(double value, double* room) {
  value = sum_lanes<32>(value);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) room[threadIdx.x >> 5] = value;
  __syncthreads();
  double total = 0.0;
  for (int w = 0; w < THREADS / 32; ++w) total += room[w];
  __syncthreads();
  return total;
}

// Updates of one row of F at a time, H fixed, from √(mean of the row / k), until its own e = √(2 D_β) falls by less than
// tol × its first value in 10 of them. A block takes rows blockIdx, blockIdx + grid, …. Dense X, or with indptr CSR
// (β = 1, 2). β = 2 works with C = X·Ht and G = HHᵀ instead of X. scratch: 2·length numbers per block. sum_H: Σ_j Ht[j, :].
extern "C" __global__ void __launch_bounds__(THREADS, 3)
code_rows(const XT* X, i64 ld, const int* indptr, const int* indices, const FT* Ht, const FT* C, const double* G,
          const double* sum_H, i64 n, i64 m, int k, double beta, double gamma, FT l1, FT l2, FT floor, double tol,
          int max_iter, int across, i64 length, FT* scratch, FT* out, double* parts) {
  DYNAMIC_SHARED(double, shared);
  double* partial = shared;                           // THREADS
  FT* f = reinterpret_cast<FT*>(partial + THREADS);   // k
  FT* numerator = f + k;                              // k
  FT* denominator = numerator + k;                    // k
  __shared__ double room[THREADS / 32];
  const int tid = threadIdx.x, lane = tid % across, down = tid / across, strip = THREADS / across;
  FT* ratios = scratch + (i64)blockIdx.x * 2 * length;
  FT* powers = ratios + length;
  double most = 0.0, unsettled = 0.0;
  for (i64 row = blockIdx.x; row < n; row += gridDim.x) {
    const i64 begin = indptr ? indptr[row] : row * ld;
    const i64 count = indptr ? indptr[row + 1] - begin : m;
    double total = 0.0, squares = 0.0;
    for (i64 p = tid; p < count; p += THREADS) {
      double x = (double)widen(X[begin + p]);
      total += x;
      squares += x * x;
    }
    total = sum_everywhere(total, room);
    squares = sum_everywhere(squares, room);
    for (int t = tid; t < k; t += THREADS) f[t] = (FT)sqrt(total / (double)m / (double)k);
    __syncthreads();
    double start = 0.0, before = 0.0;
    bool active = true;
    int iteration = 0;
    for (; active; ) {
      bool check = iteration % 10 == 0 && (tol > 0 || iteration == 0);
      double loss = 0.0;
      if (beta == 2) {
        for (int t = tid; t < k; t += THREADS) {
          double s = 0.0;
          for (int u = 0; u < k; ++u) s += G[(i64)u * k + t] * (double)f[u];
          denominator[t] = (FT)s;
          numerator[t] = C[row * k + t];
          loss += 0.5 * (double)f[t] * (s - 2.0 * (double)C[row * k + t]);
        }
        if (tid == 0) loss += 0.5 * squares;
      } else {
        for (i64 p = tid; p < count; p += THREADS) {
          const FT* h = Ht + (indptr ? (i64)indices[begin + p] : p) * k;
          FT x = widen(X[begin + p]), s = 0, ratio, below;
          for (int t = 0; t < k; ++t) s += f[t] * h[t];
          terms(x, s, beta, &ratio, &below);
          ratios[p] = ratio;
          powers[p] = below;
          // CSR: what the zeros add comes from the sums of H
          if (check) loss += divergence_of((double)x, (double)s, beta) - (indptr ? (double)s : 0.0);
        }
        if (indptr && check)
          for (int t = tid; t < k; t += THREADS) loss += (double)f[t] * sum_H[t];
      }
      if (check) {
        loss = sum_everywhere(loss, room);
        double error = sqrt(larger(2.0 * loss, 0.0));
        if (iteration == 0) {
          start = error;
          active = error > 0;
        } else if ((before - error) / start < tol) {
          active = false;
        }
        before = error;
      }
      if (!active || iteration == max_iter) break;
      ++iteration;
      __syncthreads();
      if (beta != 2)
        for (int what = 0; what < (beta == 1 ? 1 : 2); ++what) {
          const FT* weights = what ? powers : ratios;
          for (int t0 = 0; t0 < k; t0 += across) {
            int t = t0 + lane;
            double sum = 0.0;
            if (t < k)
              for (i64 p = down; p < count; p += strip)
                sum += (double)weights[p] * (double)Ht[(indptr ? (i64)indices[begin + p] : p) * k + t];
            partial[tid] = sum;
            __syncthreads();
            if (down == 0 && t < k) {
              double all = 0.0;
              for (int s = 0; s < strip; ++s) all += partial[s * across + lane];
              (what ? denominator : numerator)[t] = (FT)all;
            }
            __syncthreads();
          }
        }
      for (int t = tid; t < k; t += THREADS) {
        FT below = (beta == 1 ? (FT)sum_H[t] : denominator[t]) + l1 + l2 * f[t];
        if (below == 0) below = (FT)EPSILON;
        FT ratio = numerator[t] / below;
        if (gamma == 0.5)
          ratio = sqrt(ratio);
        else if (gamma != 1.0)
          ratio = (FT)pow((double)ratio, gamma);
        FT made = f[t] * ratio;
        f[t] = made < floor ? (FT)0 : made;
      }
      __syncthreads();
    }
    most = larger(most, (double)iteration);
    unsettled += active ? 1.0 : 0.0;
    for (int t = tid; t < k; t += THREADS) out[row * k + t] = f[t];
    __syncthreads();
  }
  double* to = parts + (i64)blockIdx.x * STATS;
  if (tid == 0) {
    for (int i = 0; i < STATS; ++i) to[i] = 0.0;
    to[SWEEPS] = most;
    to[UNSETTLED] = unsettled;
  }
}
#endif  // FAMILY_CODE

// ---- CSR ----------------------------------------------------------------------------------------------------------------

#ifdef FAMILY_SPARSE
// A warp per row; lane l has components l, l + 32, …, 32·KC of them at most at a time.
#ifndef KC
#define KC 1
#endif

// out[r, :] = Σ_p x_p·Ht[column_p, :].  grid: rows, slabs of 32·KC components.
extern "C" __global__ void __launch_bounds__(THREADS)
sparse_products(const XT* X, const int* indptr, const int* indices, const FT* Ht, i64 n, int k, FT* out) {
  const i64 row = ((i64)blockIdx.x * THREADS + threadIdx.x) / 32;
  const int lane = threadIdx.x & 31, t0 = blockIdx.y * 32 * KC + lane;
  if (row >= n) return;
  double sum[KC];
#pragma unroll
  for (int c = 0; c < KC; ++c) sum[c] = 0.0;
  for (i64 p = indptr[row]; p < indptr[row + 1]; ++p) {
    const FT* h = Ht + (i64)indices[p] * k;
    FT x = widen(X[p]);
#pragma unroll
    for (int c = 0; c < KC; ++c)
      if (t0 + 32 * c < k) sum[c] += (double)(x * h[t0 + 32 * c]);
  }
#pragma unroll
  for (int c = 0; c < KC; ++c)
    if (t0 + 32 * c < k) out[row * k + t0 + 32 * c] = (FT)sum[c];
}

// N[r, :] = Σ_p x_p/s_p·Ht[column_p, :], s_p = f·h_p, at least ε: the numerators of β = 1; and with `losses` D_1 of each
// row. k ≤ 32·KC.
extern "C" __global__ void __launch_bounds__(THREADS)
sparse_ratios(const XT* X, const int* indptr, const int* indices, const FT* F, const FT* Ht, const double* sum_H, i64 n, int k,
              int update, FT* N, double* losses) {
  const i64 row = ((i64)blockIdx.x * THREADS + threadIdx.x) / 32;
  const int lane = threadIdx.x & 31;
  if (row >= n) return;  // whole warps: the others keep their company
  FT f[KC];
  double sum[KC], loss = 0.0;
#pragma unroll
  for (int c = 0; c < KC; ++c) {
    int t = lane + 32 * c;
    f[c] = t < k ? F[row * k + t] : (FT)0;
    sum[c] = 0.0;
  }
  for (i64 p = indptr[row]; p < indptr[row + 1]; ++p) {
    const FT* h = Ht + (i64)indices[p] * k;
    FT x = widen(X[p]), own[KC], s = 0;
#pragma unroll
    for (int c = 0; c < KC; ++c) {
      int t = lane + 32 * c;
      own[c] = t < k ? h[t] : (FT)0;
      s += f[c] * own[c];
    }
    s = sum_lanes<32>(s);
    if (losses && lane == 0) loss += divergence_of((double)x, (double)s, 1.0) - (double)s;
    FT ratio = x / larger(s, (FT)EPSILON);
#pragma unroll
    for (int c = 0; c < KC; ++c) sum[c] += (double)(ratio * own[c]);
  }
  if (losses) {
#pragma unroll
    for (int c = 0; c < KC; ++c)
      if (lane + 32 * c < k) loss += (double)f[c] * sum_H[lane + 32 * c];
    loss = sum_lanes<32>(loss);
    if (lane == 0) losses[row] = loss;
  }
  if (update) {
#pragma unroll
    for (int c = 0; c < KC; ++c)
      if (lane + 32 * c < k) N[row * k + lane + 32 * c] = (FT)sum[c];
  }
}

// out[r] = Σ_p x_p².
extern "C" __global__ void __launch_bounds__(THREADS)
sparse_squares(const XT* X, const int* indptr, i64 n, double* out) {
  const i64 row = ((i64)blockIdx.x * THREADS + threadIdx.x) / 32;
  const int lane = threadIdx.x & 31;
  if (row >= n) return;
  double squares = 0.0;
  for (i64 p = indptr[row] + lane; p < indptr[row + 1]; p += 32) {
    double x = (double)widen(X[p]);
    squares += x * x;
  }
  squares = sum_lanes<32>(squares);
  if (lane == 0) out[row] = squares;
}
#endif  // FAMILY_SPARSE

// ---- cosine search ------------------------------------------------------------------------------------------------------

#if defined(FAMILY_NEAREST) || defined(FAMILY_SELECT) || defined(FAMILY_MERGE)
// The best k rows of X for each of q queries, by sign·cosine. A thread has a query: approximate scores in FT say which
// rows are worth a second look, in float64 from the stored numbers; these compete for a heap of k in global memory whose
// root is the last of its entries. Which rows win, and their order, depends on the float64 scores alone.
#ifndef KT
#define KT 8
#endif
#define TILE 32                         // rows of X in shared memory
#define EACH (KT <= 16 ? 2 : 1)         // queries of a thread: each read of shared memory serves all of them
#define INFINITE __longlong_as_double(0x7ff0000000000000LL)

#ifdef X_HALF
__device__ __forceinline__ double exact(XT bits) { return (double)widen(bits); }
#else
__device__ __forceinline__ double exact(XT x) { return (double)x; }
#endif

// Whether (score, row i) comes after (other, row j): by score, and by number among equals.
__device__ __forceinline__ bool sinks(double score, i64 i, double other, i64 j) {
  return score < other || (score == other && i > j);
}

// The root of a heap of `count` entries goes, and (score, i) takes its place among the others.
__device__ __forceinline__ void replace_root(double* scores, i64* rows, int count, double score, i64 i) {
  int at = 0;
  for (;;) {
    int child = 2 * at + 1;
    if (child >= count) break;
    if (child + 1 < count && sinks(scores[child + 1], rows[child + 1], scores[child], rows[child])) ++child;
    if (!sinks(scores[child], rows[child], score, i)) break;
    scores[at] = scores[child];
    rows[at] = rows[child];
    at = child;
  }
  scores[at] = score;
  rows[at] = i;
}

// (score, i) into the heap of `count` entries; of a full one the last entry goes. Returns the new count.
__device__ __forceinline__ int keep(double* scores, i64* rows, int count, int k, double score, i64 i) {
  if (count < k) {
    int at = count;
    while (at) {
      int up = (at - 1) / 2;
      if (!sinks(score, i, scores[up], rows[up])) break;
      scores[at] = scores[up];
      rows[at] = rows[up];
      at = up;
    }
    scores[at] = score;
    rows[at] = i;
    return count + 1;
  }
  if (sinks(scores[0], rows[0], score, i)) replace_root(scores, rows, k, score, i);
  return count;
}

// What a query must exceed to be worth a second look.
__device__ __forceinline__ double limit_of(const double* scores, int count, int k, double floor, double margin) {
  return (count < k ? floor : scores[0]) - margin;
}

// Row i of X competes for the query: its score in float64, unless the query does not want it.
__device__ __forceinline__ int compete(const XT* X, i64 ld, const int* indptr, const int* indices, i64 first, i64 r, i64 m,
                                       double square, const double* query, double query_square, double sign, double floor,
                                       const i64* excluded, int e, double* scores, i64* rows, int count, int k) {
  for (int j = 0; j < e; ++j)
    if (excluded[j] == first + r) return count;
  double score = 0.0, both = square * query_square;
  if (both > 0.0) {
    if (indptr)
      for (i64 p = indptr[r]; p < indptr[r + 1]; ++p) score += exact(X[p]) * query[indices[p]];
    else
      for (i64 j = 0; j < m; ++j) score += exact(X[r * ld + j]) * query[j];
    score /= sqrt(both);
    score = sign * (score > 1.0 ? 1.0 : score < -1.0 ? -1.0 : score);
  }
  return score < floor ? count : keep(scores, rows, count, k, score, first + r);
}

#ifdef FAMILY_NEAREST
// Rows of X narrow enough for registers (m ≤ KT): scores are made and judged in one go. grid: queries, runs of X.
extern "C" __global__ void __launch_bounds__(THREADS)
nearest(const XT* X, i64 ld, const double* squares, i64 n, i64 m, i64 chunk, const double* queries,
        const double* query_squares, int q, int k, double sign, double floor, double margin, const unsigned char* allowed,
        const i64* excluded, int e, double* best, i64* found, int* counts) {
  __shared__ FT tile[TILE][KT];
  const i64 first = (i64)blockIdx.y * chunk, last = first + chunk < n ? first + chunk : n;
  FT own[EACH][KT], limit[EACH];
  i64 number[EACH];
  int count[EACH];
#pragma unroll
  for (int u = 0; u < EACH; ++u) {
    number[u] = ((i64)blockIdx.x * EACH + u) * THREADS + threadIdx.x;
    const bool there = number[u] < q;
    const double norm = there ? sqrt(query_squares[number[u]]) : 0.0;
#pragma unroll
    for (int t = 0; t < KT; ++t)
      own[u][t] = there && t < m && norm > 0.0 ? (FT)(sign * queries[number[u] * m + t] / norm) : (FT)0;
    limit[u] = there ? (FT)(floor - margin) : (FT)INFINITE;
    count[u] = 0;
  }
  for (i64 r0 = first; r0 < last; r0 += TILE) {
    __syncthreads();
    for (int s = threadIdx.x; s < TILE * KT; s += THREADS) {
      const int t = s % KT;
      const i64 r = r0 + s / KT;
      double square = r < last ? squares[r] : 0.0;
      tile[s / KT][t] = t < m && square > 0.0 ? (FT)(exact(X[r * ld + t]) / sqrt(square)) : (FT)0;
    }
    __syncthreads();
    const int rows = last - r0 < TILE ? (int)(last - r0) : TILE;
    for (int r = 0; r < rows; ++r) {
      FT score[EACH];
#pragma unroll
      for (int u = 0; u < EACH; ++u) score[u] = 0;
#pragma unroll
      for (int t = 0; t < KT; ++t)
#pragma unroll
        for (int u = 0; u < EACH; ++u) score[u] += own[u][t] * tile[r][t];
#pragma unroll
      for (int u = 0; u < EACH; ++u) {
        if (!(score[u] > limit[u]) || (allowed && !allowed[r0 + r])) continue;
        const i64 at = (i64)blockIdx.y * q + number[u];
        count[u] = compete(X + (r0 + r) * ld, ld, 0, 0, r0 + r, 0, m, squares[r0 + r], queries + number[u] * m,
                           query_squares[number[u]], sign, floor, excluded + number[u] * e, e, best + at * k, found + at * k,
                           count[u], k);
        limit[u] = (FT)limit_of(best + at * k, count[u], k, floor, margin);
      }
    }
  }
#pragma unroll
  for (int u = 0; u < EACH; ++u)
    if (number[u] < q) counts[(i64)blockIdx.y * q + number[u]] = count[u];
}
#endif  // FAMILY_NEAREST

#ifdef FAMILY_SELECT
// A block of n rows of X, the first of number `first`, whose scores with a panel of queries (n × width: row·query/|query|)
// the products have made: wide or sparse X.
extern "C" __global__ void __launch_bounds__(THREADS)
select_rows(const XT* X, i64 ld, const int* indptr, const int* indices, const FT* approximate, const double* squares, i64 n,
            i64 m, i64 first, const double* queries, const double* query_squares, int q, int width, int k, double sign,
            double floor, double margin, const unsigned char* allowed, const i64* excluded, int e, double* best, i64* found,
            int* counts) {
  const i64 j = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (j >= q) return;
  double* scores = best + j * k;
  i64* rows = found + j * k;
  int count = counts[j];
  FT limit = (FT)limit_of(scores, count, k, floor, margin);
  for (i64 r = 0; r < n; ++r) {
    const double square = squares[r];
    const FT score = square > 0.0 ? approximate[r * width + j] / (FT)sqrt(square) : (FT)0;
    if (!(score > limit) || (allowed && !allowed[first + r])) continue;
    count = compete(X, ld, indptr, indices, first, r, m, square, queries + j * m, query_squares[j], sign, floor,
                    excluded + j * e, e, scores, rows, count, k);
    limit = (FT)limit_of(scores, count, k, floor, margin);
  }
  counts[j] = count;
}
#endif  // FAMILY_SELECT

#ifdef FAMILY_MERGE
// The heaps of all runs become one sorted answer per query: the cosine (NaN where there is none) and the row (−1).
extern "C" __global__ void __launch_bounds__(THREADS, 8)
merge_best(double* best, i64* found, const int* counts, int q, int k, int runs, double sign, double* scores, i64* rows) {
  const i64 j = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (j >= q) return;
  double* own = best + j * k;
  i64* numbers = found + j * k;
  int count = counts[j];
  for (int run = 1; run < runs; ++run) {
    const i64 at = (i64)run * q + j;
    for (int s = 0; s < counts[at]; ++s) count = keep(own, numbers, count, k, best[at * k + s], found[at * k + s]);
  }
  for (int s = count; s < k; ++s) {
    scores[j * k + s] = __longlong_as_double(0x7ff8000000000000LL);
    rows[j * k + s] = -1;
  }
  while (count) {  // the root is the last of those left
    scores[j * k + count - 1] = sign * own[0] + 0.0;
    rows[j * k + count - 1] = numbers[0];
    --count;
    if (count) replace_root(own, numbers, count, own[count], numbers[count]);
  }
}
#endif  // FAMILY_MERGE
#endif  // the search
