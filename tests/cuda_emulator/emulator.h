// The part of CUDA C++ that our kernels use, on the host: one fiber per CUDA thread, one block after another.
//
// Collectives are strict: one that names a lane that has returned, or that waits elsewhere, is a fault; so is a barrier
// that not every thread reaches. Seeds decide in which order threads run: 0 in their order, other even ones shuffled
// after every stop, odd ones a warp at a time as far as it can go (a missing barrier shows only then). Dynamic shared
// memory begins as NaN. There are no atomics: the kernels must not use any.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if !defined(__x86_64__) || defined(__SANITIZE_ADDRESS__)
#define EMULATOR_UCONTEXT 1  // the sanitizer follows these switches; ours, 20 times as fast, it cannot
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__ __restrict
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(emulator::shared_memory())

struct dim3 {
  unsigned x, y, z;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct double2 {
  double x, y;
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};

namespace emulator {

enum class State { ready, at_barrier, at_collective, done };

struct Fiber {
#ifdef EMULATOR_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer;
#endif
  std::unique_ptr<char[]> stack;
  State state;
  unsigned number, mask, collectives;
  dim3 index;
};

struct Warp {
  uint64_t slot[2][32];
  float fragment[2][32][6];
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<char> shared;
  std::function<void()> body;
  std::string fault;
  dim3 grid, block, block_index;
  Fiber* current;
  unsigned seed;
#ifdef EMULATOR_UCONTEXT
  ucontext_t scheduler;
#else
  void* scheduler;
#endif
};

inline Machine& machine() {
  static Machine only;
  return only;
}

constexpr size_t STACK = 64 << 10;

#ifdef EMULATOR_UCONTEXT
inline void to_scheduler() { swapcontext(&machine().current->context, &machine().scheduler); }
inline void to_fiber(Fiber& fiber) {
  machine().current = &fiber;
  swapcontext(&machine().scheduler, &fiber.context);
}
#else
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
inline void to_scheduler() { emulator_switch(&machine().current->stack_pointer, machine().scheduler); }
inline void to_fiber(Fiber& fiber) {
  machine().current = &fiber;
  emulator_switch(&machine().scheduler, fiber.stack_pointer);
}
#endif

inline void stop(State state) {
  machine().current->state = state;
  to_scheduler();
}

// A fault in a kernel ends the launch: its fibers are left where they are, the scheduler throws.
inline void fail(const std::string& what) {
  if (machine().fault.empty()) machine().fault = what;
  stop(State::done);
}

inline void begin_fiber() {
  machine().body();
  stop(State::done);
}

inline void prepare(Fiber& fiber) {
  if (!fiber.stack) fiber.stack.reset(new char[STACK]);
#ifdef EMULATOR_UCONTEXT
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, begin_fiber, 0);
#else
  uintptr_t top = (reinterpret_cast<uintptr_t>(fiber.stack.get()) + STACK) & ~uintptr_t(15);
  void** at = reinterpret_cast<void**>(top);
  *--at = nullptr;  // where begin_fiber would return to
  *--at = reinterpret_cast<void*>(&begin_fiber);
  for (int i = 0; i < 6; ++i) *--at = nullptr;
  fiber.stack_pointer = at;
#endif
}

// Let go the collectives of one warp that all of their lanes have reached.
inline bool release(Machine& all, size_t first) {
  size_t last = std::min(all.fibers.size(), first + 32);
  unsigned gone = 0, waiting = 0, elsewhere = 0, there = 0;
  for (size_t i = first; i < last; ++i) {
    unsigned bit = 1u << (i - first);
    there |= bit;
    State state = all.fibers[i].state;
    if (state == State::done) gone |= bit;
    if (state == State::at_collective) waiting |= bit;
    if (state == State::at_barrier) elsewhere |= bit;
  }
  bool any = false;
  for (size_t i = first; i < last; ++i) {
    Fiber& fiber = all.fibers[i];
    if (fiber.state != State::at_collective) continue;
    unsigned mask = fiber.mask & there;
    if (mask & gone) throw std::runtime_error("a warp's collective names a lane that has returned");
    if (mask & elsewhere) throw std::runtime_error("a warp's collective names a lane that waits at __syncthreads");
    if ((mask & waiting) != mask) continue;
    for (size_t j = first; j < last; ++j)
      if (mask >> (j - first) & 1) {
        if (all.fibers[j].mask != fiber.mask) throw std::runtime_error("lanes of one collective give different masks");
      }
    for (size_t j = first; j < last; ++j)
      if (mask >> (j - first) & 1) all.fibers[j].state = State::ready;
    any = true;
  }
  return any;
}

inline void run_block(Machine& all) {
  size_t count = all.fibers.size(), warps = (count + 31) / 32;
  for (size_t i = 0; i < count; ++i) {
    Fiber& fiber = all.fibers[i];
    unsigned x = all.block.x, y = all.block.y, n = unsigned(i);
    fiber.state = State::ready;
    fiber.number = n;
    fiber.collectives = 0;
    fiber.index = {n % x, n / x % y, n / (x * y)};
    prepare(fiber);
  }
  std::vector<size_t> order(warps), lanes(32);
  for (size_t i = 0; i < warps; ++i) order[i] = i;
  for (size_t i = 0; i < 32; ++i) lanes[i] = i;
  std::mt19937 random(all.seed);
  const bool greedy = all.seed & 1, shuffled = all.seed > 1;
  for (;;) {
    if (shuffled) std::shuffle(order.begin(), order.end(), random);
    bool ran = false;
    for (size_t warp : order) {
      bool going;
      do {
        going = false;
        if (shuffled) std::shuffle(lanes.begin(), lanes.end(), random);
        for (size_t lane : lanes) {
          size_t i = warp * 32 + lane;
          if (i >= count || all.fibers[i].state != State::ready) continue;
          to_fiber(all.fibers[i]);
          if (!all.fault.empty()) throw std::runtime_error(all.fault);
          ran = going = true;
        }
        if (release(all, warp * 32)) ran = going = true;
      } while (greedy && going);
    }
    size_t alive = 0, at_barrier = 0;
    for (Fiber& fiber : all.fibers) {
      alive += fiber.state != State::done;
      at_barrier += fiber.state == State::at_barrier;
    }
    if (!alive) return;
    if (at_barrier == count) {
      for (Fiber& fiber : all.fibers) fiber.state = State::ready;
    } else if (!ran) {
      throw std::runtime_error("deadlock: not every thread of the block reached the barrier");
    }
  }
}

inline void launch(const unsigned* grid, const unsigned* block, size_t shared, unsigned seed, std::function<void()> body) {
  Machine& all = machine();
  all.grid = {grid[0], grid[1], grid[2]};
  all.block = {block[0], block[1], block[2]};
  all.fibers.resize(size_t(block[0]) * block[1] * block[2]);
  all.warps.resize((all.fibers.size() + 31) / 32);
  all.seed = seed;
  all.body = body;
  all.fault.clear();
  for (unsigned z = 0; z < grid[2]; ++z)
    for (unsigned y = 0; y < grid[1]; ++y)
      for (unsigned x = 0; x < grid[0]; ++x) {
        all.block_index = {x, y, z};
        all.shared.assign(shared + 64, char(0xff));
        run_block(all);
      }
}

inline char* shared_memory() {
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(machine().shared.data()) + 63) & ~uintptr_t(63));
}

inline void collective(unsigned mask) {
  Fiber& fiber = *machine().current;
  if (!(mask >> (fiber.number & 31) & 1)) fail("a lane calls a collective that its own mask leaves out");
  fiber.mask = mask;
  stop(State::at_collective);
}

// Every lane of the mask leaves a value; the slots take turns, so that a fast lane cannot overwrite what is being read.
template <class T>
uint64_t* deposit(unsigned mask, T value) {
  static_assert(sizeof(T) <= 8, "shuffles move 8 bytes at most");
  Fiber& fiber = *machine().current;
  uint64_t* slots = machine().warps[fiber.number / 32].slot[fiber.collectives++ & 1];
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  slots[fiber.number & 31] = bits;
  collective(mask);
  return slots;
}

template <class T>
T shuffle(unsigned mask, T value, int source) {
  uint64_t* slots = deposit(mask, value);
  if (!(mask >> source & 1)) fail("a shuffle reads a lane that its mask leaves out");
  T found;
  std::memcpy(&found, &slots[source], sizeof(T));
  return found;
}

inline int lane() { return int(machine().current->number & 31); }

}  // namespace emulator

#define threadIdx (emulator::machine().current->index)
#define blockIdx (emulator::machine().block_index)
#define blockDim (emulator::machine().block)
#define gridDim (emulator::machine().grid)

inline void __syncthreads() { emulator::stop(emulator::State::at_barrier); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::collective(mask); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  int lane = emulator::lane();
  return emulator::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int change, int width = 32) {
  int lane = emulator::lane(), source = lane ^ change;
  if ((source & ~(width - 1)) != (lane & ~(width - 1))) source = lane;
  return emulator::shuffle(mask, value, source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  int lane = emulator::lane(), source = lane + int(by);
  if ((source & ~(width - 1)) != (lane & ~(width - 1))) source = lane;
  return emulator::shuffle(mask, value, source);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  uint64_t* slots = emulator::deposit(mask, predicate != 0);
  unsigned found = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1 && slots[i]) found |= 1u << i;
  return found;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

template <class T>
T __ldg(const T* at) {
  return *at;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
using std::fabs;
using std::fma;
using std::log;
using std::pow;
using std::sqrt;

// cvt.rna.tf32.f32: to 10 bits of mantissa, halves away from zero.
inline unsigned round_tf32(float value) {
  unsigned bits = __float_as_uint(value);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;
  return bits & 0xffffe000u;
}

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32, each lane's registers where the PTX ISA has them: of A (16 × 8) in
// lane 4g + t rows g, g + 8 and columns t, t + 4; of B (8 × 8) rows t, t + 4 of column g; of D rows g, g + 8, columns
// 2t, 2t + 1. Products are exact, their sum is rounded once.
inline void mma_m16n8k8_tf32(float d[4], const unsigned a[4], const unsigned b[2]) {
  emulator::Fiber& fiber = *emulator::machine().current;
  auto& fragments = emulator::machine().warps[fiber.number / 32].fragment[fiber.collectives++ & 1];
  int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) fragments[lane][i] = __uint_as_float(a[i] & 0xffffe000u);
  for (int i = 0; i < 2; ++i) fragments[lane][4 + i] = __uint_as_float(b[i] & 0xffffe000u);
  emulator::collective(0xffffffffu);
  for (int i = 0; i < 4; ++i) {
    int row = lane / 4 + (i >= 2 ? 8 : 0), column = 2 * (lane % 4) + i % 2;
    double sum = d[i];
    for (int k = 0; k < 8; ++k)
      sum += double(fragments[row % 8 * 4 + k % 4][(row >= 8 ? 1 : 0) + (k >= 4 ? 2 : 0)]) *
             double(fragments[column * 4 + k % 4][k >= 4 ? 5 : 4]);
    d[i] = float(sum);
  }
}
