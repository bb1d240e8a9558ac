"""Every kernel compiles for real processors, without one: NVRTC makes machine code of all that `cuda_ops` can ask for.

No list of modules is kept here. A stand-in for CuPy, arrays of numpy and kernels that do nothing, is handed to the
operations; what they ask for is compiled. That they are asked for everything is checked against the sources: every call
of `_kernel` and every kernel of every .cu file must have been seen.
"""

import ast
import inspect
import os
import re
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import nvrtc
import pytest

from nmfcore.backends import cuda, cuda_ops

BACKENDS = Path(cuda_ops.__file__).parent
SOURCES = sorted(BACKENDS.glob("*.cu"))

needs_nvrtc = pytest.mark.skipif(nvrtc.available() is not None, reason=str(nvrtc.available()))

# ---- budgets ---------------------------------------------------------------------------------------------------------

SECONDS = 8  # of processor time per module, which users wait for once; the slowest takes 2 here
STATIC = 48 << 10  # bytes of static shared memory: more does not compile
SHARED_LEAST = 99 << 10  # of a block, static and dynamic: sm_86, sm_89 and sm_120; sm_80 grants 163 KB, sm_90 227 KB
ALL = os.environ.get("NMFCORE_COMPILE") == "all"  # else a sample, see `architectures`

# Registers per thread of each kernel, for the compute types float32 and float64, by the width (KT, KL, KC) that it is
# compiled for: 15 % over what NVRTC 13.5 takes, 255 at most, 0 where it is not compiled. To measure anew and print the
# table: python tests/test_cuda_compile.py
BUDGET = {
    "add_products": {8: (112, 168), 16: (144, 208), 32: (168, 240), 64: (216, 255)},
    "add_products_tensor": {32: (128, 0), 64: (168, 0)},  # as their launch bounds say
    "arrange": {8: (24, 24), 16: (24, 24), 32: (24, 24)},
    "beta_columns": {8: (144, 168), 16: (192, 232), 32: (168, 216), 64: (216, 0)},
    "beta_rows": {8: (144, 176), 16: (136, 168), 32: (160, 200), 64: (224, 0)},
    "code_rows": {1: (144, 152)},
    "collect": {1: (40, 40)},
    "column_sums": {1: (48, 48)},
    "finish": {1: (40, 40)},
    "merge_best": {1: (48, 0)},
    "mixed": {1: (24, 24)},
    "multiply": {1: (72, 80)},
    "multiply_given": {1: (72, 80)},
    "nearest": {8: (112, 144), 16: (128, 168), 32: (112, 152), 64: (152, 240)},
    "opened": {1: (40, 40)},
    "opening": {1: (48, 40)},
    "products": {8: (160, 168), 16: (168, 208), 32: (144, 216), 64: (192, 255)},
    "products_tensor": {32: (128, 0), 64: (168, 0)},
    "select_rows": {1: (48, 48)},
    "sparse_products": {1: (40, 40), 2: (40, 48), 4: (48, 48), 8: (56, 64), 16: (80, 72), 32: (112, 112)},
    "sparse_ratios": {1: (48, 48), 2: (56, 56), 4: (64, 72), 8: (88, 104), 16: (136, 168), 32: (200, 255)},
    "sparse_squares": {1: (40, 40), 2: (40, 40), 4: (40, 40), 8: (40, 40), 16: (40, 40), 32: (40, 40)},
    "squared_errors": {1: (112, 96)},
    "sweep": {8: (64, 96), 16: (96, 144), 32: (168, 255)},
    "sweep_given": {8: (64, 96), 16: (104, 144), 32: (176, 255)},
}


def width_of(module):
    """Return the width that a module is compiled for; 1 where there is none."""
    return next((int(module.macros[name]) for name in ("KT", "KL", "KC") if name in module.macros), 1)


def budget(name, module):
    """Return how many registers a kernel may take; 0 where nobody has said."""
    return BUDGET.get(name, {}).get(width_of(module), (0, 0))[module.macros.get("FT") == "double"]


def architectures(module):
    """Return what to compile a module for: nearly everything for sm_90, a sample for sm_80.

    Left out unless NMFCORE_COMPILE=all, as X of another type differs in one conversion only: for sm_80 types other
    than float32; for both, of the divergences (two seconds each) and the search, types other than the factors', but
    for the narrowest tiles in float32.
    """
    stored, compute = (module.macros.get(name, "") for name in ("XT", "FT"))
    if ALL:
        return ["sm_80", "sm_90"]
    if stored != compute and not {"FAMILY_BETA", "FAMILY_NEAREST"}.isdisjoint(module.macros):
        return ["sm_90"] if compute == "float" and width_of(module) == 8 else []
    return ["sm_80", "sm_90"] if stored == "float" else ["sm_90"]


# ---- what cuda_ops asks for ------------------------------------------------------------------------------------------


class Module(NamedTuple):
    """What a RawModule is made of."""

    code: str
    options: tuple[str, ...]

    def __str__(self):
        return " ".join(f"{name}={value}" for name, value in self.macros.items())

    @property
    def macros(self):
        """What stands in front of the source."""
        return dict(re.findall(r"^#define (\w+) (.*)$", self.code.partition("#line 1\n")[0], re.MULTILINE))

    @property
    def source(self):
        """The code without its macros."""
        return self.code.partition("#line 1\n")[2] or self.code


class Launch(NamedTuple):
    """One launch: of which kernel, and how."""

    module: Module
    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    allowed: int  # dynamic shared memory that was asked for
    line: int  # of the call of `_kernel`
    arguments: tuple


class StandIn:
    """CuPy as the operations see it: numpy's arrays, and kernels that write down how they are launched."""

    def __init__(self):
        self.launches, self.line = [], 0
        self.cuda = types.SimpleNamespace(
            get_current_stream=lambda: types.SimpleNamespace(synchronize=lambda: None),
            Device=lambda number=0: types.SimpleNamespace(id=number, compute_capability="90"),
            runtime=types.SimpleNamespace(getDevice=lambda: 0),
        )

    def __getattr__(self, name):
        return getattr(np, name)

    empty, empty_like, asnumpy = map(staticmethod, (np.zeros, np.zeros_like, np.asarray))

    def RawModule(self, *, code, options):
        return types.SimpleNamespace(get_function=lambda name: Kernel(self, Module(code, tuple(options)), name))


class Kernel:
    """A kernel that does nothing."""

    def __init__(self, stand_in, module, name):
        self.stand_in, self.module, self.name = stand_in, module, name
        self.max_dynamic_shared_size_bytes = 48 << 10

    def __call__(self, grid, block, arguments, shared_mem=0):
        self.stand_in.launches.append(
            Launch(self.module, self.name, grid, block, shared_mem, self.max_dynamic_shared_size_bytes,
                   self.stand_in.line, tuple(arguments))
        )  # fmt: skip


STORED = ["uint8", "uint16", "float16", "float32", "float64"]
COMPUTE = [np.float32, np.float64]
WIDTHS = [5, 8, 15, 16, 17, 32, 33, 64, 65, 128, 129, 256, 512, 1024]  # both sides of every change of plan
SHAPE = 6, 5


def operate(stored, compute, k):
    """Ask for every operation there is, on X of a type and factors of another."""
    n, m = SHAPE
    F, Ht, out = (np.ones((rows, k), compute) for rows in (n, m, n))
    G, C, stats, order = np.eye(k), np.ones((n, k)), np.zeros(cuda_ops.STATS + 2 * k), np.arange(k)
    XtF, FtF, nothing = np.zeros((m, k)), np.zeros((k, k)), np.zeros((0, k))
    dense = cuda_ops.Block(np.ones(SHAPE, stored), n, m)
    numbers, bounds = np.ones(n, stored), np.arange(n + 1, dtype=np.int32)
    csr = cuda_ops.Block(numbers, n, m, bounds, np.zeros(n, np.int32))
    blocks = [dense] if stored == "float16" else [dense, csr]  # there is no sparse float16: scipy has none
    for block in blocks:
        sums = XtF if block is dense else nothing
        cuda_ops.opening(block, compute)
        cuda_ops.products(block, Ht, out)
        for begin in (None, cuda_ops.Beginning(F, np.full(2 * k, 2, compute), 0.5, np.zeros((2 * k, k)))):
            cuda_ops.descend(block, F, Ht, G, 0, 0, order, 1, 0.0, out, sums, FtF, stats, begin=begin)
        cuda_ops.multiply(block, F, Ht, G, 0, 0, out, sums, FtF, stats)
        for beta in (0.5, 1) if block is dense else (1,):
            D = np.zeros((1 if beta == 1 else m, k))
            cuda_ops.multiply_beta(block, F, Ht, beta, 1.0, 0, 0, 0.0, True, True, out, sums, D, stats)
            cuda_ops.code(block, Ht, beta, 1.0, 0, 0, 0.0, 0.0, 1, False, out, stats)
        for beta in (1, 2):
            cuda_ops.divergence(block, F, Ht, beta)
        cuda_ops.code(block, Ht, 2, 1.0, 0, 0, 0.0, 0.0, 1, False, out, stats)
        cuda_ops.worst_rows(block, F, Ht, np.zeros((2, 1 + block.columns)))
        cuda_ops.squares(block, np.ones(n))
        for columns in (k, 70):  # rows in registers, and by products
            wide = block._replace(columns=columns)
            wide = wide if block is csr else wide._replace(X=np.ones((n, columns), stored))
            cuda_ops.nearest(wide, np.ones(n), np.ones((4, columns)), np.ones(4), 2, 1.0, 0.0, 0.0, None,
                             np.zeros((4, 0), np.int64), compute)  # fmt: skip
    cuda_ops.add_products(dense, F, XtF)
    if len(blocks) > 1:
        cuda_ops.kl_numerators(csr, F, Ht, out)
    cuda_ops.gram(F)
    cuda_ops.sweep(F, G, C, 0, 0, order, out, FtF, stats)
    cuda_ops.scale(F, G, C, 0, 0, out, FtF, stats)
    cuda_ops.multiply_given(F, C, np.ones((1, k)), 0, 0, 1.0, 0.0, out, stats)
    cuda_ops.column_sums(F)
    cuda_ops.read(stats, cuda_ops.changes(np.ones((2 * k, k)), G)[0])
    sums = cuda_ops.Weighed(np.ones((n, k)), G, np.ones((2 * k, k)))
    cuda_ops.step_ahead(F, F, cuda_ops.Pace(0.5, 0.5), sums, sums, 0, 0, order, 1, 0.1, 0)


def forget():
    """Empty the caches that hold what one CuPy has made."""
    for value in vars(cuda_ops).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@pytest.fixture(scope="module")
def launches():
    """Return what all operations launch."""
    return recorded()


def recorded():
    """Return what all operations launch for every pair of types and every width."""
    stand_in, kernel = StandIn(), cuda_ops._kernel

    def seen(*args, **sizes):
        stand_in.line = sys._getframe(1).f_lineno
        return kernel(*args, **sizes)

    forget()
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(cuda, "cupy", lambda: stand_in)
        patch.setattr(cuda_ops, "_kernel", seen)
        for compute in COMPUTE:
            for stored in STORED:
                for k in WIDTHS:
                    operate(stored, compute, k)
    forget()
    return stand_in.launches


def test_the_operations_are_asked_for_every_kernel(launches):
    tree = ast.parse(inspect.getsource(cuda_ops))
    calls = {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_kernel", "cuda_ops._kernel")
    }
    assert len(calls) > 10
    assert {launch.line for launch in launches} == calls, "a call of _kernel that no operation here leads to"
    names = {cuda_ops._source(source.name): source.name for source in SOURCES}
    kernels = {(source.name, name) for source in SOURCES for name in signatures(source)}
    assert len(kernels) > 15
    assert {(names[each.module.source], each.name) for each in launches} == kernels
    assert {each.module.options for each in launches} == {cuda_ops.OPTIONS}


# ---- launches --------------------------------------------------------------------------------------------------------

BOUNDS = r"(?:\s+__launch_bounds__\((?:[^()]|\([^()]*\))*\))?"
SIGNATURE = re.compile(rf'extern "C" __global__ void{BOUNDS}\s+(\w+)\s*\(([^)]*)\)')
SCALARS = {"i64": np.int64, "int": np.int32, "double": np.float64, "float": np.float32}
TYPES = {**SCALARS, "unsigned char": np.uint8, "unsigned short": np.uint16}


def signatures(source):
    """Return {kernel: [declared parameters]} of a .cu file, or of its text."""
    text = source if isinstance(source, str) else source.read_text(encoding="utf-8")
    return {
        name: [" ".join(declared.split()) for declared in parameters.split(",")]
        for name, parameters in SIGNATURE.findall(text)
    }


def argument_faults(launch, declared):
    """Yield what is wrong with the arguments of a launch: CuPy passes them on as they are."""
    if len(launch.arguments) != len(declared):
        yield f"{launch.name}: {len(launch.arguments)} arguments for {len(declared)} parameters"
        return
    defined = launch.module.macros
    for parameter, given in zip(declared, launch.arguments, strict=True):
        kind, name = re.fullmatch(r"(?:const )?(.*?\*?) ?(\w+)", parameter).groups()
        pointer, kind = kind.endswith("*"), kind.removesuffix("*").strip()
        wanted = TYPES[defined.get(kind, kind)]
        if pointer and given is None:
            continue
        if not (isinstance(given, np.ndarray) if pointer else type(given) is wanted):
            yield f"{launch.name}: {name} is a {type(given).__name__}"
        elif pointer and given.dtype != wanted and not ("X_HALF" in defined and kind == "XT"):
            yield f"{launch.name}: {name} points to {given.dtype}, not to {np.dtype(wanted)}"
        elif pointer and "const" not in parameter and not given.flags.c_contiguous:
            yield f"{launch.name}: {name} is not contiguous"


def test_arguments_have_the_declared_types(launches):
    declared = {text: signatures(text) for text in {launch.module.source for launch in launches}}
    assert {
        fault for each in launches for fault in argument_faults(each, declared[each.module.source][each.name])
    } == set()


def test_a_wrong_argument_is_caught():
    module = Module(cuda_ops.with_macros("", (("XT", "float"), ("FT", "float"))), ())
    declared = signatures('extern "C" __global__ void f(const XT* X, i64 n,\n  FT l1, double* out) {')["f"]
    right = (np.zeros(2, np.float32), np.int64(1), np.float32(1), np.zeros(2))
    assert declared == ["const XT* X", "i64 n", "FT l1", "double* out"]
    for at, wrong in enumerate((np.zeros(2), np.int32(1), np.float64(1), np.zeros(2, np.float32))):
        given = tuple(wrong if i == at else value for i, value in enumerate(right))
        for arguments, count in ((right, 0), (given, 1), (right[1:], 1)):
            launch = Launch(module, "f", (1,), (128, 1, 1), 0, 0, 0, arguments)
            assert len(list(argument_faults(launch, declared))) == count


def test_launches_are_within_limits(launches):
    for each in launches:
        x, *yz = each.grid
        assert 1 <= x <= 2**31 - 1 and all(1 <= size <= 65535 for size in yz), each.name
        assert each.block == (cuda_ops.THREADS, 1, 1)
        assert each.shared <= each.allowed, f"{each.name} needs leave for {each.shared} bytes"


# ---- compiled --------------------------------------------------------------------------------------------------------


def build(modules):
    """Compile (module, architecture) pairs on all cores; a CompileError stands where one fails."""

    def one(pair):
        module, arch = pair
        try:
            return nvrtc.compile(module.code, module.options, arch)
        except nvrtc.CompileError as error:
            return error

    # the slowest first, so that they do not come last and alone
    slow = sorted(modules, key=lambda pair: cost(pair[0]), reverse=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(slow, pool.map(one, slow), strict=True))


def cost(module):
    """Return how long a module may take, roughly."""
    return ("FAMILY_SWEEP" in module.macros, "FAMILY_BETA" in module.macros, width_of(module), str(module))


@pytest.fixture(scope="module")
def built(launches):
    """Return {(module, architecture): compiled}."""
    made = build([(module, arch) for module in {each.module for each in launches} for arch in architectures(module)])
    of_one = sorted(((c.seconds, f"{m} {arch}") for (m, arch), c in made.items() if isinstance(c, nvrtc.Compiled)))
    print(f"{len(made)} modules with NVRTC {nvrtc.version()}; seconds of the slowest:")
    print(*(f"  {seconds:5.1f}  {module}" for seconds, module in reversed(of_one[-5:])), sep="\n")
    return made


def faults(module, compiled):
    """Yield what is wrong with a compiled module, a sentence each."""
    if not isinstance(compiled, nvrtc.Compiled):
        yield f"{module}: does not compile: {[line for line in str(compiled).splitlines() if 'error' in line]}"
        return
    if "warning" in compiled.log.lower():
        yield f"{module}: {[line for line in compiled.log.splitlines() if 'warning' in line.lower()]}"
    if compiled.seconds > SECONDS:
        yield f"{module}: took {compiled.seconds:.1f} s to compile, {SECONDS} are too many"
    for name, kernel in {**compiled.kernels, **compiled.functions}.items():
        if kernel.spill or kernel.stack:
            yield f"{module}: {name} has {kernel.spill} bytes of spills, {kernel.stack} of stack"
        if kernel.shared > STATIC:
            yield f"{module}: {name} has {kernel.shared} bytes of static shared memory"
    for name, kernel in compiled.kernels.items():
        if not 0 < kernel.registers <= budget(name, module):
            yield f"{module}: {name} takes {kernel.registers} registers of {budget(name, module)}"


@needs_nvrtc
@pytest.mark.timeout(600)
def test_every_kernel_compiles_within_its_budget(built):
    assert [f"{arch}: {fault}" for (module, arch), made in built.items() for fault in faults(module, made)] == []


@needs_nvrtc
def test_every_kernel_is_there_for_both_architectures(built, launches):
    names = {}
    for (_, arch), made in built.items():
        names.setdefault(arch, set()).update(getattr(made, "kernels", {}))
    assert names["sm_80"] == names["sm_90"] == {launch.name for launch in launches}


@needs_nvrtc
def test_shared_memory_of_every_launch_is_granted(built, launches):
    """Static and dynamic together, on the cards that grant least."""
    found = set()
    for launch in launches:
        made = built.get((launch.module, "sm_90"))
        if isinstance(made, nvrtc.Compiled):
            total = made.kernels[launch.name].shared + launch.shared
            if total > SHARED_LEAST:
                found.add(f"{launch.name} of {launch.module}: {total} bytes")
    assert found == set()


# ---- and what does not pass ------------------------------------------------------------------------------------------

SMALL = 'extern "C" __global__ void %s(float* out, const float* in, int n) { %s }'
SOUND = "int i = threadIdx.x; if (i < n) out[i] = in[i];"
# 64 numbers that all live at once, in 32 registers; nothing to recompute them from
SPILLS = """
  float x[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) x[i] = in[i * n + threadIdx.x];
  __syncthreads();
#pragma unroll 1
  for (int s = 0; s < n; ++s)
#pragma unroll
    for (int i = 0; i < 64; ++i) x[i] = x[i] * x[(i + 7) % 64] + in[s];
#pragma unroll
  for (int i = 0; i < 64; ++i) out[i * n + threadIdx.x] = x[i];
"""
INDEXED = """
  float x[64];
  for (int i = 0; i < 64; ++i) x[i] = in[i];
  for (int i = 0; i < n; ++i) x[(int)x[i & 63] & 63] += 1;
  out[0] = x[n & 63];
"""
LARGE = "__shared__ double s[6145]; s[n] = in[0]; __syncthreads(); out[0] = s[n + 1];"
PLANTED = {
    "nothing": (SOUND, ""),
    "a syntax error": ("int i = ;", "does not compile"),
    "a warning": ("int unused; " + SOUND, "warning"),
    "spills": (SPILLS, "of spills"),
    "an array that registers cannot be": (INDEXED, "of stack"),
    "too much shared memory": (LARGE, "too much shared"),
    "too many registers": (SPILLS, "registers of 40"),
}


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_caught(monkeypatch, fault, arch):
    body, said = PLANTED[fault]
    monkeypatch.setitem(BUDGET, "f", {1: (40, 40)})
    bounds = ("-maxrregcount=32",) if fault == "spills" else ()
    module = Module(SMALL % ("f", body), ("-std=c++17", *bounds))
    found = list(faults(module, build([(module, arch)])[module, arch]))
    assert (len(found) == 0) if fault == "nothing" else len(found) == 1, found
    assert all(said in sentence for sentence in found)


@needs_nvrtc
def test_a_slow_module_is_caught(monkeypatch):
    module = Module(SMALL % ("f", SOUND), ("-std=c++17",))
    monkeypatch.setitem(BUDGET, "f", {1: (40, 40)})
    made = nvrtc.compile(*module)
    assert len(made.cubin) > 1000
    assert list(faults(module, made)) == []
    assert "took 8.1 s" in next(faults(module, made._replace(seconds=8.1)))


@needs_nvrtc
def test_an_unread_log_is_no_clean_bill():
    """Where ptxas words its log anew, the registers read are none, and that is a fault."""
    module = Module(SMALL % ("f", SOUND), ("-std=c++17",))
    made = nvrtc.compile(*module)
    log = made.log.replace("registers", "Register")
    with pytest.raises(ValueError, match="ptxas"):
        nvrtc.resources(log)
    with pytest.raises(ValueError, match="ptxas"):
        nvrtc.resources(made.log.replace("spill stores", "stores"))


# ---- the table of budgets --------------------------------------------------------------------------------------------


def table():
    """Print BUDGET as it would be with what the kernels take now."""
    taken = {}
    for (module, _), made in build([(m, arch) for m in asked_for() for arch in architectures(m)]).items():
        for name, kernel in getattr(made, "kernels", {}).items():
            of = taken.setdefault(name, {}).setdefault(width_of(module), [0, 0])
            double = module.macros.get("FT") == "double"
            of[double] = max(of[double], kernel.registers)
    for name in sorted(taken):
        widths = {
            width: tuple(min(255, -(-115 * taken // 800) * 8) for taken in of) for width, of in taken[name].items()
        }
        print(f'    "{name}": {dict(sorted(widths.items()))},')


def asked_for():
    """Return the modules that the operations ask for."""
    return {launch.module for launch in recorded()}


if __name__ == "__main__":
    table()
