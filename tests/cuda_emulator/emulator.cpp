// The machine that kernels run on: a fiber per thread of a block, one block after another. See emulator.h and module.py.
//
// The order in which threads run is a launch's seed: 0 the order of their numbers, each until it waits for others; other
// even seeds the same in random order; odd ones a warp at a time as far as it can go, 1 from the first warp, 3 from the
// last, others at random. Blocks run in order, backwards (3), or at random. A missing barrier shows only where a warp
// runs ahead of those before and behind it.
//
// Strict where a device may forgive or hang: a collective that does not find all the lanes it names, at the same line and
// in the same operation, ends the launch, as does a barrier that not every thread of the block reaches.
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define OWN_SWITCH 1  // swapcontext asks the kernel for the signal mask each time: 20 times as slow
#else
#include <ucontext.h>  // which the sanitizer follows, too
#endif

#include "emulator.h"

namespace emulator {
namespace {

constexpr size_t STACK = 256 << 10;  // of a fiber; only what it touches is memory

enum class State { READY, AT_BARRIER, AT_COLLECTIVE, DONE };

struct Fiber : Thread {
  State state;
  Kind kind;
  unsigned mask;
  int line;  // where it waits
#ifdef OWN_SWITCH
  void* stack_pointer;
#else
  ucontext_t context;
#endif
};

struct Warp {
  Registers given[32];
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
char* stacks;  // of all fibers, each with a page below it that nobody may touch
size_t stacks_for, page;
size_t count;  // threads of a block
Machine the;
std::string fault;
uint64_t random_state;
void (*kernel)(void**);
void** kernel_arguments;

struct Fault {};  // thrown on the scheduler's own stack only, never across fibers

// ---- from fiber to fiber ------------------------------------------------------------------------------------------------

#ifdef OWN_SWITCH
void* scheduler;
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
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
.size emulator_switch, .-emulator_switch
)");
void to_scheduler(Fiber& from) { emulator_switch(&from.stack_pointer, scheduler); }
void to_fiber(Fiber& to) {
  the.now = &to;
  emulator_switch(&scheduler, to.stack_pointer);
}
#else
ucontext_t scheduler;
void to_scheduler(Fiber& from) { swapcontext(&from.context, &scheduler); }
void to_fiber(Fiber& to) {
  the.now = &to;
  swapcontext(&scheduler, &to.context);
}
#endif

Fiber& now() { return *static_cast<Fiber*>(the.now); }

void begin() {
  kernel(kernel_arguments);
  now().state = State::DONE;
  to_scheduler(now());
}

void prepare(size_t number) {
  Fiber& fiber = fibers[number];
  char* bottom = stacks + number * (STACK + page) + page;
#ifdef OWN_SWITCH
  // Not all at the same place of a page: they would share a few lines of the cache.
  uintptr_t top = reinterpret_cast<uintptr_t>(bottom + STACK) - number % 32 * 128;
  void** at = reinterpret_cast<void**>(top);
  *--at = nullptr;  // what begin would return to; leaves the stack as a call does
  *--at = reinterpret_cast<void*>(&begin);
  for (int i = 0; i < 6; ++i) *--at = nullptr;
  fiber.stack_pointer = at;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = bottom;
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, begin, 0);
#endif
  fiber.state = State::READY;
}

// ---- faults ---------------------------------------------------------------------------------------------------------------

void tell(const Fiber* of, int line, const char* format, va_list arguments) {
  char text[256];
  vsnprintf(text, sizeof text, format, arguments);
  fault = text;
  if (line) fault += ", line " + std::to_string(line);
  auto place = [](const uint3& at) {
    return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
  };
  fault += "; block " + place(the.block_index);
  if (of) fault += ", thread " + place(of->index);
}

[[noreturn]] void end_launch(const Fiber* of, int line, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  tell(of, line, format, arguments);
  va_end(arguments);
  throw Fault();
}

// Called by a kernel, on a fiber: it is left where it is, as are all others.
void fail(int line, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  tell(&now(), line, format, arguments);
  va_end(arguments);
  to_scheduler(now());
}

// What would kill the process: an address that is not there (a null pointer, far out of bounds, a stack that is full).
#ifndef __SANITIZE_ADDRESS__
const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction before[3];
sigjmp_buf before_launch;
char* volatile bad_address;

void caught(int number, siginfo_t* info, void*) {
  bad_address = static_cast<char*>(info->si_addr);
  siglongjmp(before_launch, number);
}

void describe_signal(int number) {
  auto told = [](const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    tell(&now(), 0, format, arguments);
    va_end(arguments);
  };
  const char* bottom = stacks + size_t(&now() - fibers.data()) * (STACK + page) + page;
  if (number == SIGFPE)
    told("an integer is divided by zero");
  else if (bad_address < bottom && bad_address >= bottom - page)
    told("a thread's local variables take more than %zu KB", STACK >> 10);
  else
    told("a memory access at %p, which is not mapped", static_cast<void*>(bad_address));
}
#endif

// ---- what kernels wait for ------------------------------------------------------------------------------------------------

void barrier(int line) {
  now().state = State::AT_BARRIER;
  now().line = line;
  to_scheduler(now());
}

void collective(Kind kind, unsigned mask, int line) {
  Fiber& fiber = now();
  if (!(mask >> fiber.lane & 1)) fail(line, "a collective whose mask %#x leaves out the lane that calls it", mask);
  fiber.state = State::AT_COLLECTIVE;
  fiber.kind = kind;
  fiber.mask = mask;
  fiber.line = line;
  to_scheduler(fiber);
}

// Let go those collectives of a warp that all of their lanes have reached. Every lane that is let go runs before the next
// call for its warp, and what it reads it reads first thing: nobody overwrites `given` meanwhile.
bool release(size_t warp) {
  Fiber* lanes = &fibers[warp * 32];
  const unsigned company = lanes[0].company;
  unsigned waiting = 0, gone = 0, elsewhere = 0;
  for (unsigned bits = company; bits; bits &= bits - 1) {
    const int i = __builtin_ctz(bits);
    if (lanes[i].state == State::AT_COLLECTIVE) waiting |= 1u << i;
    if (lanes[i].state == State::AT_BARRIER) elsewhere |= 1u << i;
    if (lanes[i].state == State::DONE) gone |= 1u << i;
  }
  bool any = false;
  while (waiting) {
    Fiber& first = lanes[__builtin_ctz(waiting)];
    const unsigned mask = first.mask & company;
    if (mask & gone)
      end_launch(&first, first.line, "a collective names lane %d, which has returned", __builtin_ctz(mask & gone));
    if (mask & elsewhere)
      end_launch(&first, first.line, "a collective names lane %d, which waits at the barrier of line %d",
                 __builtin_ctz(mask & elsewhere), lanes[__builtin_ctz(mask & elsewhere)].line);
    if (first.kind == MULTIPLY && company != 0xffffffffu)
      end_launch(&first, first.line, "a product on tensor cores by a warp that is not whole");
    unsigned come = 0;
    for (unsigned bits = mask & waiting; bits; bits &= bits - 1) {
      const Fiber& other = lanes[__builtin_ctz(bits)];
      if (!(other.mask >> first.lane & 1)) continue;  // it has something to do without this one first
      if (other.mask != first.mask)
        end_launch(&first, first.line, "lanes of one collective give the masks %#x and %#x", first.mask, other.mask);
      if (other.kind != first.kind || other.line != first.line)
        end_launch(&first, first.line, "a collective names lane %u, which waits at that of line %d", other.lane, other.line);
      come |= 1u << other.lane;
    }
    waiting &= ~come;
    if (come != mask) continue;
    for (unsigned bits = mask; bits; bits &= bits - 1) {
      const int i = __builtin_ctz(bits);
      warps[warp].given[i] = lanes[i].own;
      lanes[i].state = State::READY;
    }
    any = true;
  }
  return any;
}

// ---- the scheduler --------------------------------------------------------------------------------------------------------

size_t random_below(size_t bound) {  // xorshift64*: the same everywhere, unlike std::shuffle
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return size_t((random_state * 0x2545f4914f6cdd1dull >> 33) % bound);
}

void shuffle_numbers(std::vector<size_t>& numbers) {
  for (size_t i = numbers.size(); i > 1; --i) std::swap(numbers[i - 1], numbers[random_below(i)]);
}

std::vector<size_t> in_order(size_t size, unsigned seed) {
  std::vector<size_t> numbers(size);
  for (size_t i = 0; i < size; ++i) numbers[i] = seed == 3 ? size - 1 - i : i;
  return numbers;
}

void run_block(unsigned seed, std::vector<size_t>& order, std::vector<size_t>& lanes) {
  for (size_t i = 0; i < count; ++i) prepare(i);
  const bool ahead = seed & 1, shuffled = seed > 1 && seed != 3;
  for (;;) {
    if (shuffled) shuffle_numbers(order);
    bool ran = false;
    for (size_t warp : order) {
      bool going;
      do {
        going = false;
        if (shuffled) shuffle_numbers(lanes);
        for (size_t lane : lanes) {
          const size_t i = warp * 32 + lane;
          if (i >= count || fibers[i].state != State::READY) continue;
          to_fiber(fibers[i]);
          if (!fault.empty()) throw Fault();
          going = true;
        }
        if (release(warp)) going = true;
        ran |= going;
      } while (ahead && going);
    }
    size_t alive = 0, waiting = 0;
    const Fiber *at_barrier = nullptr, *other = nullptr;
    for (size_t i = 0; i < count; ++i) {
      const Fiber& fiber = fibers[i];
      alive += fiber.state != State::DONE;
      if (fiber.state == State::AT_BARRIER) {
        ++waiting;
        if (!at_barrier) at_barrier = &fiber;
      } else if (!other || fiber.state == State::AT_COLLECTIVE) {
        other = &fiber;
      }
    }
    if (!alive) return;
    if (waiting == count) {
      for (size_t i = 0; i < count; ++i) {
        if (fibers[i].line != at_barrier->line)
          end_launch(&fibers[i], at_barrier->line, "threads wait at two barriers, the other in line %d", fibers[i].line);
        fibers[i].state = State::READY;
      }
    } else if (waiting && waiting == alive) {
      end_launch(other, at_barrier->line, "%zu of %zu threads have returned without the barrier at which the others wait",
                 count - alive, count);
    } else if (!ran) {
      end_launch(other, other->line, "a deadlock: a collective whose lanes do not come together");
    }
  }
}

// The memory that `thread_local` gives this thread in the module that `inside` lies in: its static shared memory.
std::pair<char*, size_t> static_shared(char* inside) {
  std::pair<char*, size_t> found = {inside, 0};
#ifndef __SANITIZE_ADDRESS__
  auto look = [](dl_phdr_info* info, size_t, void* given) {
    auto& found = *static_cast<std::pair<char*, size_t>*>(given);
    char* start = static_cast<char*>(info->dlpi_tls_data);
    for (int i = 0; start && i < info->dlpi_phnum; ++i) {
      const auto& segment = info->dlpi_phdr[i];
      if (segment.p_type == PT_TLS && found.first >= start && found.first < start + segment.p_memsz) {
        found = {start, segment.p_memsz};
        return 1;
      }
    }
    return 0;
  };
  dl_iterate_phdr(look, &found);
#endif
  return found;
}

void make_room(size_t threads) {
  page = size_t(sysconf(_SC_PAGESIZE));
  if (stacks_for < threads) {
    if (stacks) munmap(stacks, stacks_for * (STACK + page));
    void* made = mmap(nullptr, threads * (STACK + page), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED) {
      stacks = nullptr, stacks_for = 0;
      fault = "no memory for the stacks of a block's threads";
      throw Fault();
    }
    stacks = static_cast<char*>(made);
    stacks_for = threads;
    for (size_t i = 0; i < threads; ++i) mprotect(stacks + i * (STACK + page), page, PROT_NONE);
  }
  if (fibers.size() < threads) fibers.resize(threads);
  if (warps.size() < (threads + 31) / 32) warps.resize((threads + 31) / 32);
}

void run_grid(size_t shared, unsigned seed, char* of_module) {
  count = size_t(the.block.x) * the.block.y * the.block.z;
  make_room(count);
  for (size_t i = 0; i < count; ++i) {
    Fiber& fiber = fibers[i];
    const unsigned n = unsigned(i), left = unsigned(count - i / 32 * 32);
    fiber.index = {n % the.block.x, n / the.block.x % the.block.y, n / (the.block.x * the.block.y)};
    fiber.lane = n % 32;
    fiber.company = left >= 32 ? 0xffffffffu : (1u << left) - 1;
    fiber.given = warps[i / 32].given;
  }
  const auto shared_of_module = static_shared(of_module);
  random_state = 0x9e3779b97f4a7c15ull * (seed + 1);
  auto order = in_order((count + 31) / 32, seed), lanes = in_order(32, seed);
  auto blocks = in_order(size_t(the.grid.x) * the.grid.y * the.grid.z, seed);
  if (seed > 1 && seed != 3) shuffle_numbers(blocks);
  for (size_t block : blocks) {
    the.block_index = {unsigned(block % the.grid.x), unsigned(block / the.grid.x % the.grid.y),
                       unsigned(block / the.grid.x / the.grid.y)};
    // What is in shared memory at first is anybody's guess: as NaN it shows.
    std::memset(the.shared, 0xff, shared);
    std::memset(shared_of_module.first, 0xff, shared_of_module.second);
    run_block(seed, order, lanes);
  }
}

}  // namespace
}  // namespace emulator

EMULATOR_EXPORTED emulator::Machine* emulator_machine() {
  using namespace emulator;
  the.barrier = barrier;
  the.collective = collective;
  the.fail = fail;
  return &the;
}

// Run a kernel; nullptr, or what was wrong. One launch at a time.
EMULATOR_EXPORTED const char* emulator_launch(void (*call)(void**), void** arguments, const unsigned* grid,
                                              const unsigned* block, size_t shared, unsigned seed, void* of_module) {
  using namespace emulator;
  kernel = call;
  kernel_arguments = arguments;
  static_cast<uint3&>(the.grid) = {grid[0], grid[1], grid[2]};
  static_cast<uint3&>(the.block) = {block[0], block[1], block[2]};
  fault.clear();
  // exactly so large: beyond it there is nothing, the sanitizer says
  if (posix_memalign(&the.shared, 64, shared ? shared : 1)) return "no memory for dynamic shared memory";
#ifdef __SANITIZE_ADDRESS__
  try {
    run_grid(shared, seed, static_cast<char*>(of_module));
  } catch (const Fault&) {
  }
#else
  static char signal_stack[64 << 10];  // a fiber's own may be what is full
  stack_t mine = {}, given = {};
  mine.ss_sp = signal_stack;
  mine.ss_size = sizeof signal_stack;
  sigaltstack(&mine, &given);
  struct sigaction action = {};
  action.sa_sigaction = caught;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int i = 0; i < 3; ++i) sigaction(SIGNALS[i], &action, &before[i]);
  if (int number = sigsetjmp(before_launch, 1)) {
    describe_signal(number);
  } else {
    try {
      run_grid(shared, seed, static_cast<char*>(of_module));
    } catch (const Fault&) {
    }
  }
  for (int i = 0; i < 3; ++i) sigaction(SIGNALS[i], &before[i], nullptr);
  sigaltstack(&given, nullptr);
#endif
  free(the.shared);
  return fault.empty() ? nullptr : fault.c_str();
}
