// The two products of a dense X with a factor, on tensor cores: for the compute type float32 and wide factors, where
// arithmetic and not memory holds up the kernels of cuda_kernels.cu. cuda_ops.py compiles this with these macros:
//
//   XT  type that X is stored in: unsigned char, unsigned short (with X_HALF: the bits of a float16), float
//   KT  columns of the result per block: 32, 64
//
// A tensor core multiplies TF32 numbers: 11 significant bits. So a number is split, x = high + low with 11 bits each,
// and a product becomes high·high + high·low + low·high; low·low, at most 2^-22 of it, is left out. uint8 and float16
// are TF32 numbers as they are: high·high + high·low then, with the factor split.
//
// Tensor cores do not round a sum, they cut it off: errors of one sign, which grow with the length of a sum. So a sum
// stays in one for 16 terms only, small products first; it is then added, rounded, to a sum in float32, and that after
// 256 terms to a sum aside (float32, or float64 over rows). The order is fixed: the same bits run to run.
//
// Not a number stays that. An infinity, or a float of 3.402e38 and more (its high part overflows), ends as an infinity
// or as not a number: never as something finite.

typedef long long i64;

#ifdef NMFCORE_EMULATOR
#include "emulator.h"
#else
// d += a·b, a 16 × 8, b 8 × 8. With g = lane / 4 and t = lane % 4, a lane has (g, t), (g + 8, t), (g, t + 4) and
// (g + 8, t + 4) of a, (t, g) and (t + 4, g) of b, (g, 2t), (g, 2t + 1), (g + 8, 2t) and (g + 8, 2t + 1) of d.
__device__ __forceinline__ void mma_m16n8k8_tf32(float d[4], const unsigned a[4], const unsigned b[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

#define THREADS 128  // four warps, two by two: each has half of the block's rows and half of its columns
#define BLOCKS_AT_ONCE (KT == 32 ? 4 : 3)  // on a multiprocessor: 128 or 168 registers a thread
#define SPAN 64  // rows of X per block in X·Ht, columns of X in Xᵀ·F
#define DEPTH 32  // terms per tile
#define FLUSH 8  // tiles after which sums are put aside: 256 terms
#define GROUPS (KT / 16)  // groups of 8 columns of the result per warp
#define MINE (8 * GROUPS)  // numbers of the result per thread

#ifdef X_HALF
// As in cuda_kernels.cu.
__device__ __forceinline__ float widen(XT bits) {
  unsigned magnitude = bits & 0x7fffu;
  float value = __uint_as_float(magnitude << 13) * 5.192296858534828e33f;  // 2^112
  if (magnitude >= 0x7c00u) value = __uint_as_float((magnitude << 13) | 0x7f800000u);  // infinity, NaN
  if (magnitude < 0x0400u) value = (float)magnitude * 5.9604644775390625e-08f;  // 2^-24: subnormal
  return bits & 0x8000u ? -value : value;
}
constexpr bool EXACT = true;
#else
__device__ __forceinline__ float widen(XT x) { return (float)x; }
constexpr bool EXACT = sizeof(XT) == 1;
#endif

// ---- tiles ----------------------------------------------------------------------------------------------------------

// A pack is four neighbours of a row. Tiles lie in shared memory as packs whose places in a row are permuted, so that
// lanes that read at the same time read from different banks. In a tile whose rows a sum runs over, these read rows
// 4t + … for t = 0 … 3 and packs g, g + 1; in the other one (X in X·Ht), rows g, g + 1 and packs t. The place of pack p
// of a row is p ⊕ turn(row), and turn is linear in ⊕: what is constant in the number of a row is a constant in it.
template <bool SUMMED_DOWN>
__device__ __forceinline__ constexpr int turn(int row) {
  return SUMMED_DOWN ? (row >> 2 & 3) << 1 : (row & 1) << 2;
}

struct alignas(16) Pack {
  float at[4];
};

template <int WORDS>
struct alignas(4 * WORDS) Words {
  unsigned at[WORDS];
};

__device__ __forceinline__ unsigned bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ unsigned bits_of(unsigned short x) { return x; }
__device__ __forceinline__ unsigned bits_of(unsigned char x) { return x; }

__device__ __forceinline__ float number(unsigned bits, const float*) { return __uint_as_float(bits); }
__device__ __forceinline__ float number(unsigned bits, const unsigned short*) { return widen((XT)bits); }
__device__ __forceinline__ float number(unsigned bits, const unsigned char*) { return widen((XT)bits); }

// HIGH × WIDE numbers on their way from memory to shared memory. Registers hold them as they were read, so that nothing
// waits for them before they are stashed: as packs where rows are aligned and no pack is cut, else one by one.
template <int HIGH, int WIDE, bool SUMMED_DOWN, class T>
struct Tile {
  static constexpr int ACROSS = WIDE / 4, DOWN = THREADS / ACROSS, PACKS = HIGH / DOWN;  // packs in a row, rows at once
  static constexpr int STRIP = THREADS / WIDE, NUMBERS = HIGH / STRIP;  // rows at once, number by number
  static constexpr int WORDS = sizeof(T);  // in a pack
  unsigned held[NUMBERS];
  bool packed;

  template <bool WHOLE>
  __device__ __forceinline__ void fetch_packs(const T* at, i64 step, int high, bool mine) {
#pragma unroll
    for (int i = 0; i < PACKS; ++i, at += step) {
      Words<WORDS> words = {};
      if (WHOLE || (mine && i * DOWN < high)) words = *reinterpret_cast<const Words<WORDS>*>(at);
#pragma unroll
      for (int w = 0; w < WORDS; ++w) held[i * WORDS + w] = words.at[w];
    }
  }

  template <bool WHOLE>
  __device__ __forceinline__ void fetch_numbers(const T* at, i64 step, int high, bool mine) {
#pragma unroll
    for (int i = 0; i < NUMBERS; ++i, at += step) held[i] = WHOLE || (mine && i * STRIP < high) ? bits_of(*at) : 0u;
  }

  // What there is of the tile whose first number is A[0]: `high` rows of `wide` numbers, and zeros.
  __device__ __forceinline__ void fetch(const T* A, i64 ld, int high, int wide, bool aligned) {
    const bool whole = high == HIGH && wide == WIDE;
    packed = aligned && wide % 4 == 0;
    const int r = packed ? threadIdx.x / ACROSS : threadIdx.x / WIDE;
    const int c = packed ? threadIdx.x % ACROSS * 4 : threadIdx.x % WIDE;
    const T* at = A + r * ld + c;
    if (packed && whole)
      fetch_packs<true>(at, DOWN * ld, 0, true);
    else if (packed)
      fetch_packs<false>(at, DOWN * ld, high - r, c < wide);
    else if (whole)
      fetch_numbers<true>(at, STRIP * ld, 0, true);
    else
      fetch_numbers<false>(at, STRIP * ld, high - r, c < wide);
  }

  __device__ __forceinline__ void stash(float* tile) const {
    if (packed) {
      const int r = threadIdx.x / ACROSS, at = r * ACROSS + (threadIdx.x % ACROSS ^ turn<SUMMED_DOWN>(r));
#pragma unroll
      for (int i = 0; i < PACKS; ++i) {
        Pack pack;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          constexpr int BITS = 8 * WORDS;
          unsigned word = held[i * WORDS + e * WORDS / 4];
          if (BITS < 32) word = word >> e * BITS % 32 & ((1u << BITS % 32) - 1u);
          pack.at[e] = number(word, (const T*)nullptr);
        }
        reinterpret_cast<Pack*>(tile)[(at ^ turn<SUMMED_DOWN>(i * DOWN)) + i * DOWN * ACROSS] = pack;
      }
    } else {
      const int r = threadIdx.x / WIDE, at = r * WIDE + (threadIdx.x % WIDE ^ 4 * turn<SUMMED_DOWN>(r));
#pragma unroll
      for (int i = 0; i < NUMBERS; ++i)
        tile[(at ^ 4 * turn<SUMMED_DOWN>(i * STRIP)) + i * STRIP * WIDE] = number(held[i], (const T*)nullptr);
    }
  }
};

// ---- arithmetic -----------------------------------------------------------------------------------------------------

// x = high + low. By the bits, as cvt.rna takes an instruction more; of `low` the tensor core reads the upper 19 bits.
// Of an infinity low is not a number; not a number stays one in low, even where the bits of high run over.
__device__ __forceinline__ void split(float x, unsigned& high, unsigned& low) {
  high = (__float_as_uint(x) + 0x1000u) & 0xffffe000u;
  low = __float_as_uint(x - __uint_as_float(high));
}

__device__ __forceinline__ void split_x(float x, unsigned& high, unsigned& low) {
  if (EXACT) {
    high = __float_as_uint(x + 0.0f);  // a new register, where mma wants it: else it is copied at each use
    low = 0;
  } else {
    split(x, high, low);
  }
}

// sum += the product of a tile of X (SUMMED_DOWN: DEPTH × SPAN, else SPAN × DEPTH) and one of the factor (DEPTH × KT).
//
// The order of terms is free where both sides keep to it, that of rows and columns where the writing undoes it; so a
// lane reads packs. Of 16 terms, 4t … 4t + 3 are the terms t and t + 4 of two steps of mma; of the result, every
// GROUPS-th column makes a group of 8, and four rows in a pack of X (SUMMED_DOWN) are rows g and g + 8 of two groups.
template <bool SUMMED_DOWN>
__device__ __forceinline__ void multiply(const float* tile, const float* side, float (&sum)[2][GROUPS][4]) {
  struct alignas(4 * GROUPS) Few {
    float at[GROUPS];
  };
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3, down = threadIdx.x >> 5 & 1, across = threadIdx.x >> 6;
  const int pack = SUMMED_DOWN ? 4 * t * (SPAN / 4) + (8 * down + g ^ turn<true>(4 * t))
                               : (32 * down + g) * (DEPTH / 4) + (t ^ turn<false>(g));
  const Pack* packs = reinterpret_cast<const Pack*>(tile);
  const float* factors = side + 4 * t * KT + (KT / 2 * across + GROUPS * g ^ 4 * turn<true>(4 * t));
#pragma unroll 1
  for (int d = 0; d < DEPTH; d += 16) {
    unsigned high[2][2][4], low[2][2][4];  // of X: group of 16 rows, step of 8 terms, register
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      Pack first, second;
      if (SUMMED_DOWN) {  // i: the step
        first = packs[pack + (d + 2 * i) * (SPAN / 4)];
        second = packs[pack + (d + 2 * i + 1) * (SPAN / 4)];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          split_x(first.at[e], high[e / 2][i][e % 2], low[e / 2][i][e % 2]);
          split_x(second.at[e], high[e / 2][i][e % 2 + 2], low[e / 2][i][e % 2 + 2]);
        }
      } else {  // i: the group
        first = packs[(pack ^ d / 4) + 16 * i * (DEPTH / 4)];
        second = packs[(pack ^ d / 4) + (16 * i + 8) * (DEPTH / 4)];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          split_x(first.at[e], high[i][e / 2][e % 2 * 2], low[i][e / 2][e % 2 * 2]);
          split_x(second.at[e], high[i][e / 2][e % 2 * 2 + 1], low[i][e / 2][e % 2 * 2 + 1]);
        }
      }
    }
    Few factor[4];  // terms 4t + …
#pragma unroll
    for (int e = 0; e < 4; ++e) factor[e] = *reinterpret_cast<const Few*>(factors + (d + e) * KT);
#pragma unroll
    for (int q = 0; q < GROUPS; ++q) {
      unsigned upper[2][2], lower[2][2];  // of the factor: step, register
#pragma unroll
      for (int e = 0; e < 4; ++e) split(factor[e].at[q], upper[e / 2][e % 2], lower[e / 2][e % 2]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          if (!EXACT) mma_m16n8k8_tf32(part, low[i][s], upper[s]);
          mma_m16n8k8_tf32(part, high[i][s], lower[s]);
        }
#pragma unroll
        for (int s = 0; s < 2; ++s) mma_m16n8k8_tf32(part, high[i][s], upper[s]);
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][q][e] += part[e];
      }
    }
  }
}

// out[x, t] = Σ_d X[x, d]·F[d, t] (SUMMED_DOWN: X[d, x]) of `terms` terms, for x below `high` and t below `wide`. X, F
// and out begin where the block's part of them does.
template <bool SUMMED_DOWN, class SUM>
__device__ __forceinline__ void multiply_tiles(const XT* X, i64 ld, const float* F, int k, int high, int wide,
                                               i64 terms, float* tile, float* side, SUM* asides, SUM* out) {
  Tile<SUMMED_DOWN ? DEPTH : SPAN, SUMMED_DOWN ? SPAN : DEPTH, SUMMED_DOWN, XT> x;
  Tile<DEPTH, KT, true, float> f;
  SUM* aside = asides + threadIdx.x;
  float sum[2][GROUPS][4];
#pragma unroll
  for (int i = 0; i < MINE; ++i) {
    sum[i / 4 / GROUPS][i / 4 % GROUPS][i % 4] = 0.0f;
    aside[i * THREADS] = 0;
  }
  const bool x_aligned = (size_t)X % (4 * sizeof(XT)) == 0 && ld % 4 == 0;
  const bool f_aligned = (size_t)F % (4 * sizeof(float)) == 0 && k % 4 == 0;
  int tiles = 0, deep = terms < DEPTH ? (int)terms : DEPTH;
  x.fetch(X, ld, SUMMED_DOWN ? deep : high, SUMMED_DOWN ? high : deep, x_aligned);
  f.fetch(F, k, deep, wide, f_aligned);
  while (terms > 0) {
    x.stash(tile);
    f.stash(side);
    __syncthreads();
    terms -= DEPTH;
    if (terms > 0) {
      X += SUMMED_DOWN ? DEPTH * ld : DEPTH;
      F += DEPTH * k;
      deep = terms < DEPTH ? (int)terms : DEPTH;
      x.fetch(X, ld, SUMMED_DOWN ? deep : high, SUMMED_DOWN ? high : deep, x_aligned);
      f.fetch(F, k, deep, wide, f_aligned);
    }
    multiply<SUMMED_DOWN>(tile, side, sum);
    if (++tiles == FLUSH) {
      tiles = 0;
#pragma unroll
      for (int i = 0; i < MINE; ++i) {
        aside[i * THREADS] += (SUM)sum[i / 4 / GROUPS][i / 4 % GROUPS][i % 4];
        sum[i / 4 / GROUPS][i / 4 % GROUPS][i % 4] = 0.0f;
      }
    }
    __syncthreads();
  }
  const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3, down = threadIdx.x >> 5 & 1, across = threadIdx.x >> 6;
  const int column = KT / 2 * across + 2 * GROUPS * t;  // of the first of 2·GROUPS neighbours
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // group i / 2, row g or g + 8
    const int row = 32 * down + (SUMMED_DOWN ? 4 * g + i : 16 * (i / 2) + 8 * (i % 2) + g);
    if (row < high) {
#pragma unroll
      for (int c = 0; c < 2 * GROUPS; ++c) {
        const int q = c % GROUPS, e = i % 2 * 2 + c / GROUPS;
        if (column + c < wide)
          out[(i64)row * k + column + c] = aside[((i / 2 * GROUPS + q) * 4 + e) * THREADS] + (SUM)sum[i / 2][q][e];
      }
    }
  }
}

// Shared memory of a block: a tile of X, one of the factor, and the sums put aside, for which registers would not do;
// each of these is one thread's own.
#define ROOM(SUM)                                         \
  __shared__ __align__(16) float tile[SPAN * DEPTH];      \
  __shared__ __align__(16) float side[DEPTH * KT];        \
  __shared__ __align__(16) SUM asides[MINE * THREADS]

__device__ __forceinline__ int least(i64 a, int b) { return a < b ? (int)a : b; }

// out[r, t] = Σ_j X[r, j]·Ht[j, t].  grid: rows, columns of out.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
products_tensor(const XT* X, i64 ld, const float* Ht, i64 n, i64 m, int k, float* out) {
  ROOM(float);
  const i64 r0 = (i64)blockIdx.x * SPAN;
  const int t0 = blockIdx.y * KT;
  multiply_tiles<false>(X + r0 * ld, ld, Ht + t0, k, least(n - r0, SPAN), least(k - t0, KT), m, tile, side, asides,
                        out + r0 * k + t0);
}

// parts[s, j, t] = Σ over the rows of chunk s of X[r, j]·F[r, t].  grid: columns of X, columns of F, chunks.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
add_products_tensor(const XT* X, i64 ld, const float* F, i64 n, i64 m, int k, i64 chunk, double* parts) {
  ROOM(double);
  const i64 j0 = (i64)blockIdx.x * SPAN, first = (i64)blockIdx.z * chunk, last = first + chunk < n ? first + chunk : n;
  const int t0 = blockIdx.y * KT;
  multiply_tiles<true>(X + first * ld + j0, ld, F + first * k + t0, k, least(m - j0, SPAN), least(k - t0, KT),
                       last - first, tile, side, asides, parts + (blockIdx.z * m + j0) * k + t0);
}
