// The CUDA C++ that our kernels are written in, for the host: what a .cu text includes where NMFCORE_EMULATOR is defined.
//
// Kernels are compiled against this header alone (no standard one: it is included in every module, a module has to
// compile in half a second). Threads, barriers and warps are in emulator.cpp, which is compiled once; the two meet in
// emulator::Machine.
//
// There are no atomics: sums must have the same bits run to run, so a kernel that uses one must not compile. What our
// kernels do not use is not here either.
#pragma once
#ifndef EMULATOR_LISTING  // module.py looks for the kernels of a text: their marks are to stay where they are

// ---- the language -------------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)  // module.py compares a launch with it
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static  // the sanitizer watches the edges of these
#else
#define __shared__ static thread_local  // all of a module side by side, so that emulator.cpp can poison them
#endif
#define DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(emulator::machine->shared)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 : uint3 {
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : uint3{x, y, z} {}
};

#define EMULATOR_VECTORS(name, T)                                           \
  struct alignas(2 * sizeof(T)) name##2 {                                   \
    T x, y;                                                                 \
  };                                                                        \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 {         \
    T x, y, z, w;                                                           \
  };                                                                        \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(uint, unsigned)
EMULATOR_VECTORS(ushort, unsigned short)
EMULATOR_VECTORS(uchar, unsigned char)

constexpr int warpSize = 32;
typedef decltype(sizeof(0)) size_t;

// ---- where the kernel meets the machine ---------------------------------------------------------------------------------

namespace emulator {

enum Kind { SYNCWARP, SHUFFLE, VOTE, MULTIPLY };

struct Registers {  // of one lane, as it hands them to the others of its warp
  unsigned word[6];
};

struct Thread {
  uint3 index;
  unsigned lane, company;  // of its warp, which lanes there are
  Registers own;           // what it brings to a collective
  const Registers* given;  // what the 32 lanes of its warp have brought to the last one
};

struct Machine {
  Thread* now;  // the thread that runs
  uint3 grid, block, block_index;
  void* shared;
  void (*barrier)(int line);
  void (*collective)(Kind kind, unsigned mask, int line);
  void (*fail)(int line, const char* format, ...);  // ends the launch, does not return
};

static Machine* machine;  // set when the module is loaded

template <class T>
inline const Registers* exchange(Kind kind, unsigned mask, T value, int line) {
  Thread* me = machine->now;
  static_assert(sizeof(T) <= sizeof(Registers), "more than a lane can bring");
  __builtin_memcpy(&me->own, &value, sizeof(T));
  machine->collective(kind, mask, line);
  return me->given;
}

template <class T>
inline T shuffle(unsigned mask, T value, int source, int width, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "__shfl_*_sync moves numbers of 4 or 8 bytes");
  if (width < 1 || width > 32 || (width & (width - 1))) machine->fail(line, "a shuffle of width %d", width);
  if (!(mask >> source & 1)) machine->fail(line, "a shuffle reads lane %d, which its mask %#x leaves out", source, mask);
  if (!(machine->now->company >> source & 1)) machine->fail(line, "a shuffle reads lane %d, which is not there", source);
  const Registers* given = exchange(SHUFFLE, mask, value, line);
  T found;
  __builtin_memcpy(&found, &given[source], sizeof(T));
  return found;
}

}  // namespace emulator

#define threadIdx (const_cast<const uint3&>(emulator::machine->now->index))
#define blockIdx (const_cast<const uint3&>(emulator::machine->block_index))
#define blockDim (const_cast<const uint3&>(emulator::machine->block))
#define gridDim (const_cast<const uint3&>(emulator::machine->grid))

// ---- barriers, shuffles, votes; `line` is where they are called -----------------------------------------------------------

inline void __syncthreads(int line = __builtin_LINE()) { emulator::machine->barrier(line); }

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  emulator::machine->collective(emulator::SYNCWARP, mask, line);
}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
  int lane = emulator::machine->now->lane;
  return emulator::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), width, line);
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int change, int width = 32, int line = __builtin_LINE()) {
  int lane = emulator::machine->now->lane, source = lane ^ change;
  // beyond its own segment a lane may read those before it, never those behind
  return emulator::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, width, line);
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
  int lane = emulator::machine->now->lane, source = lane + (int)by;
  return emulator::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, width, line);
}

template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
  int lane = emulator::machine->now->lane, source = lane - (int)by;
  return emulator::shuffle(mask, value, source < (lane & ~(width - 1)) ? lane : source, width, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  const emulator::Registers* given = emulator::exchange(emulator::VOTE, mask, unsigned(predicate != 0), line);
  unsigned found = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1 && given[lane].word[0]) found |= 1u << lane;
  return found;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, !predicate, line) == 0;
}

// ---- numbers --------------------------------------------------------------------------------------------------------------

#define EMULATOR_CAST(name, To, From)              \
  inline To name(From value) {                     \
    static_assert(sizeof(To) == sizeof(From), ""); \
    To bits;                                       \
    __builtin_memcpy(&bits, &value, sizeof(To));   \
    return bits;                                   \
  }
EMULATOR_CAST(__float_as_uint, unsigned, float)
EMULATOR_CAST(__uint_as_float, float, unsigned)
EMULATOR_CAST(__float_as_int, int, float)
EMULATOR_CAST(__int_as_float, float, int)
EMULATOR_CAST(__double_as_longlong, long long, double)
EMULATOR_CAST(__longlong_as_double, double, long long)

// As in CUDA, a function of floats is a float, and anything else (a double among them, integers) is computed in double.
// Templates throughout: next to the functions of <cmath>, should a text include it, they are no second definition.
namespace emulator {
template <class... A>
struct Wider {
  typedef double type;
};
template <>
struct Wider<float> {
  typedef float type;
};
template <>
struct Wider<float, float> {
  typedef float type;
};
template <>
struct Wider<float, float, float> {
  typedef float type;
};
template <class... A>
using Real = typename Wider<A...>::type;
}  // namespace emulator

#define EMULATOR_OF_ONE(name)                           \
  template <class A>                                    \
  inline emulator::Real<A> name(A x) {                  \
    if constexpr (sizeof(emulator::Real<A>) == 4)       \
      return __builtin_##name##f(x);                    \
    else                                                \
      return __builtin_##name(x);                       \
  }                                                     \
  template <class = void>                               \
  inline float name##f(float x) {                       \
    return __builtin_##name##f(x);                      \
  }
#define EMULATOR_OF_TWO(name)                           \
  template <class A, class B>                           \
  inline emulator::Real<A, B> name(A x, B y) {          \
    if constexpr (sizeof(emulator::Real<A, B>) == 4)    \
      return __builtin_##name##f(x, y);                 \
    else                                                \
      return __builtin_##name(x, y);                    \
  }                                                     \
  template <class = void>                               \
  inline float name##f(float x, float y) {              \
    return __builtin_##name##f(x, y);                   \
  }
EMULATOR_OF_ONE(sqrt)
EMULATOR_OF_ONE(exp)
EMULATOR_OF_ONE(exp2)
EMULATOR_OF_ONE(expm1)
EMULATOR_OF_ONE(log)
EMULATOR_OF_ONE(log2)
EMULATOR_OF_ONE(log1p)
EMULATOR_OF_ONE(fabs)
EMULATOR_OF_ONE(floor)
EMULATOR_OF_ONE(ceil)
EMULATOR_OF_ONE(rint)
EMULATOR_OF_ONE(trunc)
EMULATOR_OF_TWO(pow)
EMULATOR_OF_TWO(fmax)
EMULATOR_OF_TWO(fmin)
EMULATOR_OF_TWO(copysign)
EMULATOR_OF_TWO(nextafter)

template <class A, class B, class C>
inline emulator::Real<A, B, C> fma(A x, B y, C z) {
  if constexpr (sizeof(emulator::Real<A, B, C>) == 4)
    return __builtin_fmaf(x, y, z);
  else
    return __builtin_fma(x, y, z);
}
template <class = void>
inline float fmaf(float x, float y, float z) {
  return __builtin_fmaf(x, y, z);
}
template <class A>
inline emulator::Real<A> rsqrt(A x) {
  return 1 / sqrt((emulator::Real<A>)x);
}
inline float rsqrtf(float x) { return rsqrt(x); }
inline float __fdividef(float x, float y) { return x / y; }

template <class T>
inline T abs(T x) {
  return x < 0 ? -x : x == 0 ? 0 : x;  // −0.0 is not below 0
}
#define EMULATOR_LEAST_AND_MOST(T, least, most)       \
  inline T min(T a, T b) { return least; }            \
  inline T max(T a, T b) { return most; }
EMULATOR_LEAST_AND_MOST(int, b < a ? b : a, a < b ? b : a)
EMULATOR_LEAST_AND_MOST(unsigned, b < a ? b : a, a < b ? b : a)
EMULATOR_LEAST_AND_MOST(long long, b < a ? b : a, a < b ? b : a)
EMULATOR_LEAST_AND_MOST(float, __builtin_fminf(a, b), __builtin_fmaxf(a, b))
EMULATOR_LEAST_AND_MOST(double, __builtin_fmin(a, b), __builtin_fmax(a, b))

template <class T>
inline bool isnan(T x) { return x != x; }
template <class T>
inline bool isfinite(T x) { return x - x == 0; }
template <class T>
inline bool isinf(T x) { return x == x && x - x != 0; }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(bits) : 32; }

template <class T>
inline T __ldg(const T* at) {
  return *at;
}

// ---- tensor cores ---------------------------------------------------------------------------------------------------------
// Products are exact, their sum is rounded once; a real tensor core cuts off where this rounds. In both, with g = lane / 4
// and t = lane % 4, a lane's d holds (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).

// cvt.rna.tf32.f32: to 10 bits of fraction, halves away from zero.
inline unsigned round_tf32(float value) {
  unsigned bits = __float_as_uint(value);
  if (value != value) return 0x7fffffffu;
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;
  return bits & 0xffffe000u;
}

namespace emulator {
struct Fragments {
  unsigned word[6];
};

inline const Registers* multiply(const unsigned a[4], const unsigned b[2], int line) {
  Fragments mine = {{a[0], a[1], a[2], a[3], b[0], b[1]}};
  return exchange(MULTIPLY, 0xffffffffu, mine, line);
}
}  // namespace emulator

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32: d += a·b, 16 × 8 times 8 × 8. A lane's a holds (g, t), (g + 8, t),
// (g, t + 4), (g + 8, t + 4), its b (t, g), (t + 4, g). The unit reads the upper 19 bits of a register.
inline void mma_m16n8k8_tf32(float d[4], const unsigned a[4], const unsigned b[2], int line = __builtin_LINE()) {
  const emulator::Registers* given = emulator::multiply(a, b, line);
  const int lane = emulator::machine->now->lane;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    double sum = d[i];
    for (int k = 0; k < 8; ++k) {
      unsigned left = given[row % 8 * 4 + k % 4].word[row / 8 + k / 4 * 2];
      unsigned right = given[column * 4 + k % 4].word[4 + k / 4];
      sum += (double)__uint_as_float(left & 0xffffe000u) * (double)__uint_as_float(right & 0xffffe000u);
    }
    d[i] = (float)sum;
  }
}

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32: d += a·b, 16 × 16 times 16 × 8; a register is a pair, the first
// in its lower half. A lane's a holds (g, 2t …), (g + 8, 2t …), (g, 2t + 8 …), (g + 8, 2t + 8 …), its b (2t …, g),
// (2t + 8 …, g).
inline void mma_m16n8k16_bf16(float d[4], const unsigned a[4], const unsigned b[2], int line = __builtin_LINE()) {
  const emulator::Registers* given = emulator::multiply(a, b, line);
  const int lane = emulator::machine->now->lane;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    double sum = d[i];
    for (int k = 0; k < 16; ++k) {
      unsigned left = given[row % 8 * 4 + k % 8 / 2].word[row / 8 + k / 8 * 2] >> 16 * (k % 2);
      unsigned right = given[column * 4 + k % 8 / 2].word[4 + k / 8] >> 16 * (k % 2);
      sum += (double)__uint_as_float(left << 16) * (double)__uint_as_float(right << 16);
    }
    d[i] = (float)sum;
  }
}

// ---- what a module exports; module.py writes one EMULATOR_EXPORT per kernel -------------------------------------------------

#define EMULATOR_EXPORTED extern "C" __attribute__((visibility("default")))

namespace emulator {

template <class T>
struct Type;  // numpy's name for the type of a kernel's parameter; others are none that we use
#define EMULATOR_TYPE(T, text)                 \
  template <>                                  \
  struct Type<T> {                             \
    static constexpr const char* name = text;  \
  };                                           \
  template <>                                  \
  struct Type<T*> {                            \
    static constexpr const char* name = text "*"; \
  };                                           \
  template <>                                  \
  struct Type<const T*> {                      \
    static constexpr const char* name = "const " text "*"; \
  };
EMULATOR_TYPE(unsigned char, "uint8")
EMULATOR_TYPE(unsigned short, "uint16")
EMULATOR_TYPE(int, "int32")
EMULATOR_TYPE(unsigned, "uint32")
EMULATOR_TYPE(long long, "int64")
EMULATOR_TYPE(unsigned long long, "uint64")
EMULATOR_TYPE(float, "float32")
EMULATOR_TYPE(double, "float64")

template <class... A>
inline const char* type_of(void (*)(A...), int number) {
  const char* names[] = {Type<A>::name..., nullptr};
  return names[number];
}

struct Call {  // an initialiser in braces takes its parts in order, unlike a call
  template <class... A>
  Call(void (*kernel)(A...), A... a) {
    kernel(a...);
  }
};
template <class... A>
inline void call(void (*kernel)(A...), void** arguments) {
  int i = 0;
  (void)i, (void)arguments;
  Call{kernel, *static_cast<A*>(arguments[i++])...};
}

constexpr int first_of() { return 0; }
template <class... Rest>
constexpr int first_of(int first, Rest...) {
  return first;
}

}  // namespace emulator

#define EMULATOR_EXPORT(kernel, bounds)                                                                             \
  EMULATOR_EXPORTED void emulator_call_##kernel(void** arguments) { emulator::call(kernel, arguments); }            \
  EMULATOR_EXPORTED const char* emulator_type_##kernel(int number) { return emulator::type_of(kernel, number); }    \
  EMULATOR_EXPORTED int emulator_bounds_##kernel() { return bounds; }
#define EMULATOR_MODULE(kernels)                                                              \
  static thread_local char emulator_shared;                                                   \
  EMULATOR_EXPORTED void* emulator_attach(emulator::Machine* machine) {                       \
    emulator::machine = machine;                                                              \
    return &emulator_shared;                                                                  \
  }                                                                                           \
  EMULATOR_EXPORTED const char* emulator_kernels() { return kernels; }

#endif  // EMULATOR_LISTING
