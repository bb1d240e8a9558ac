"""How launches are cut: limits of grids, blocks and shared memory for any shape, and indices of 64 bits in the kernels.

The plans are pure arithmetic. The grids of whole operations are looked at as well: on arrays of any size that have no
memory behind them.
"""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda_compile import SHARED_LEAST, SOURCES, StandIn, forget, signatures

from nmfcore.backends import cpu, cuda, cuda_ops

ROWS = st.one_of(st.integers(1, 5000), st.integers(1, 2**33))
COLUMNS = st.one_of(st.integers(1, 5000), st.integers(1, 2**22))
COMPONENTS = st.integers(1, 1024)
POWERS = {2**e for e in range(11)}


@pytest.fixture(autouse=True)
def no_device(monkeypatch):
    """Let a plan that asks for the card fail: sums would have other bits on another one."""

    def refuse():
        raise AssertionError("a plan looks at the device")

    monkeypatch.setattr(cuda, "cupy", refuse)


# ---- plans -----------------------------------------------------------------------------------------------------------


@given(COMPONENTS)
def test_tiles_hold_the_components(k):
    width = cuda_ops.tile_width(k)
    assert width in (8, 16, 32, 64)
    assert width >= k or width == 64
    assert width == 8 or k > width // 2, "a narrower tile would do"
    assert -(-k // width) <= 65535
    assert cuda_ops.tile_width(k + 1) >= width


@given(ROWS, COLUMNS, COMPONENTS, st.sampled_from([cuda_ops.COLUMNS, cuda_ops.WIDTH]))
def test_chunks_cover_every_row_once(n, m, k, columns):
    chunk, count = cuda_ops.plan_chunks(n, m, k, columns)
    assert (chunk, count) == cuda_ops.plan_chunks(n, m, k, columns)
    assert (count - 1) * chunk < n <= count * chunk, "rows left out, or a chunk without any"
    assert chunk % cuda_ops.DEPTH == 0 and chunk % cuda_ops.HEIGHT == 0
    assert 1 <= count <= 65535
    assert count == 1 or 8 * count * m * k <= cuda_ops.PARTS_BYTES
    assert -(-m // columns) <= 2**31 - 1


@pytest.mark.parametrize("resident", [132 * each for each in (2, 3, 4)])
@pytest.mark.parametrize(("n", "m"), [(70_000, 784), (15_747, 4_096), (60_000, 3_072), (1_000_000, 500)])
def test_the_last_round_of_blocks_is_not_nearly_empty(n, m, resident):
    tiles = -(-m // cuda_ops.WIDTH)
    blocks = tiles * cuda_ops.plan_chunks(n, m, 15, cuda_ops.WIDTH, resident)[1]
    assert blocks / resident > 0.9 * -(-blocks // resident), (blocks, resident)


@given(ROWS, st.integers(1, 300), COMPONENTS)
def test_chunks_fill_a_card(n, m, k):
    """Enough blocks, unless rows or memory are too few."""
    chunk, count = cuda_ops.plan_chunks(n, m, k)
    blocks = count * -(-m // cuda_ops.COLUMNS) * -(-k // cuda_ops.tile_width(k))
    memory = 8 * (2 * count + 1) * m * k > cuda_ops.PARTS_BYTES
    assert blocks >= cuda_ops.BLOCKS // 2 or chunk <= 512 or memory
    assert count == 1 or chunk >= 128, "a chunk's sum should be longer than what it costs to add it up"


@given(COMPONENTS, st.sampled_from([4, 8]))
def test_lanes_hold_the_components(k, itemsize):
    each, lanes, shared, held = cuda_ops.plan_sweep(k, itemsize)
    width = each * lanes
    assert {each, lanes} <= POWERS
    assert lanes <= 32 and cuda_ops.THREADS % lanes == 0, "a row is within a warp"
    assert each <= 32 and width >= k
    assert width < 2 * k or width == 8 or lanes == 4
    small = width * (2 * itemsize + 4)
    assert held == small + (width * width * itemsize if shared else 0)
    assert shared == (small + width * width * itemsize <= cuda_ops.SHARED_MOST)
    assert held <= cuda_ops.SHARED_MOST
    if k < 1024:
        more = cuda_ops.plan_sweep(k + 1, itemsize)
        assert more[0] * more[1] >= width and more[1] >= lanes


@pytest.mark.parametrize("itemsize", [4, 8])
def test_more_components_than_registers_are_refused(itemsize):
    with pytest.raises(ValueError, match=r"n_components = 1025 .* use device='cpu'"):
        cuda_ops.plan_sweep(1025, itemsize)


def test_shared_memory_is_what_every_card_grants():
    """163 KB on an A100, 227 KB on an H100, but 99 KB on the other cards of their generations and the next."""
    static = 32  # bytes that the kernel has besides
    assert cuda_ops.SHARED_MOST + static <= SHARED_LEAST


@given(COMPONENTS)
def test_threads_side_by_side(k):
    across = cuda_ops.plan_across(k)
    assert across in POWERS and cuda_ops.THREADS % across == 0
    assert across >= min(k, cuda_ops.THREADS) and (across == 1 or across < 2 * k)


# ---- grids of whole operations ---------------------------------------------------------------------------------------


class Ghost(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of any size, without memory: its shape, its type, and what becomes of them."""

    def __init__(self, shape, dtype=np.float64):
        self.shape, self.dtype = tuple(shape) if np.iterable(shape) else (shape,), np.dtype(dtype)
        self.ndim, self.itemsize = len(self.shape), self.dtype.itemsize
        self.size = int(np.prod([1, *self.shape], dtype=object))
        steps = [np.prod([1, *self.shape[d + 1 :]], dtype=object) for d in range(self.ndim)]
        self.strides = tuple(int(step) * self.itemsize for step in steps)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return Ghost(np.broadcast_shapes(*(np.shape(each) for each in inputs)))

    def __getitem__(self, key):
        keys = key if isinstance(key, tuple) else (key,)
        left = [
            range(*one.indices(size)).__len__() if isinstance(one, slice) else None
            for one, size in zip(keys, self.shape, strict=False)
        ]
        return Ghost([size for size in left if size is not None] + list(self.shape[len(keys) :]), self.dtype)

    def __setitem__(self, key, value):
        pass

    def __len__(self):
        return self.shape[0]

    def sum(self, axis=None, dtype=None):
        return Ghost(() if axis is None else [size for d, size in enumerate(self.shape) if d != axis])

    min = sum

    def diagonal(self):
        return Ghost(self.shape[0])

    def astype(self, dtype):
        return Ghost(self.shape, dtype)

    def reshape(self, *shape):
        return Ghost(shape[0] if np.iterable(shape[0]) else shape, self.dtype)


class Ghosts(StandIn):
    """CuPy as the operations see it, with arrays of any size; `largest`: of those that were made, in bytes."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __getattr__(self, name):  # nothing of numpy's own: it would take the memory
        if name == "minimum":
            return np.minimum
        raise AttributeError(name)

    def empty(self, shape, dtype=np.float64):
        made = Ghost(shape, dtype)
        self.largest = max(self.largest, made.size * made.itemsize)
        return made

    zeros = ones = empty
    full = staticmethod(lambda shape, value: Ghost(shape))

    def empty_like(self, like):
        return self.empty(like.shape, like.dtype)

    def asarray(self, array):
        return array

    ascontiguousarray = asarray

    def diagonal(self, array):
        return Ghost(array.shape[0])

    def concatenate(self, arrays):
        return Ghost(4)

    def array(self, numbers):
        return Ghost(len(numbers))

    def arange(self, k, dtype):
        return Ghost(k, dtype)


FAR = 2**32, 2**36  # rows, and numbers of a factor (n·k): more than a card holds, and where a grid may be refused


def operations(n, m, k, compute):
    """Return every operation on arrays of this shape, by name."""
    F, Ht, out = Ghost((n, k), compute), Ghost((m, k), compute), Ghost((n, k), compute)
    G, XtF, stats, begin = Ghost((k, k)), Ghost((m, k)), Ghost(cuda_ops.STATS + 2 * k), np.arange(k)
    C, nothing = Ghost((n, k)), Ghost((0, k))
    block = cuda_ops.Block(Ghost((n, m), np.uint8), n, m)
    csr = cuda_ops.Block(Ghost(2**31 - 1, np.float32), n, m, Ghost(n + 1, np.int32), Ghost(2**31 - 1, np.int32))
    moved = cuda_ops.Beginning(F, Ghost(2 * k, compute), 0.5, Ghost((2 * k, k)))
    sums, weighed = (Ghost((m, k)), Ghost((m, k))), cuda_ops.Weighed(Ghost((m, k)), G, Ghost((2 * k, k)))
    return {
        "opening": lambda: cuda_ops.opening(block, compute),
        "products": lambda: cuda_ops.products(block, Ht, out),
        "products, CSR": lambda: cuda_ops.products(csr, Ht, out),
        "add_products": lambda: cuda_ops.add_products(block, F, XtF),
        "gram": lambda: cuda_ops.gram(F),
        "descend": lambda: cuda_ops.descend(block, F, Ht, G, 0, 0, begin, 1, 0.0, out, XtF, G, stats, begin=moved),
        "sweep": lambda: cuda_ops.sweep(F, G, C, 0, 0, begin, out, G, stats),
        "step_ahead": lambda: cuda_ops.step_ahead(
            Ht, Ht, cuda_ops.Pace(0.5, 0.5), weighed, weighed, 0, 0, begin, 1, 0.1, 0
        ),
        "column_sums": lambda: cuda_ops.column_sums(F),
        "multiply": lambda: cuda_ops.multiply(block, F, Ht, G, 0, 0, out, XtF, G, stats),
        "multiply_beta": lambda: cuda_ops.multiply_beta(
            block, F, Ht, 0.5, 1.0, 0, 0, 0.0, True, True, out, *sums, stats
        ),
        "multiply_beta, CSR": lambda: cuda_ops.multiply_beta(
            csr, F, Ht, 1, 1.0, 0, 0, 0.0, True, True, out, nothing, nothing, stats
        ),
        "divergence": lambda: cuda_ops.divergence(block, F, Ht, 1),
        "divergence, CSR": lambda: cuda_ops.divergence(csr, F, Ht, 2),
        "code": lambda: cuda_ops.code(block, Ht, 1, 1.0, 0, 0, 0.0, 0.0, 9, False, out, stats),
        "code, CSR": lambda: cuda_ops.code(csr, Ht, 2, 1.0, 0, 0, 0.0, 0.0, 9, False, out, stats),
    }


NAMES = sorted(operations(1, 1, 1, np.float32))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(n=ROWS, m=COLUMNS, k=COMPONENTS, compute=st.sampled_from([np.float32, np.float64]))
def test_grids_are_within_limits(name, n, m, k, compute):
    stand_in = Ghosts()
    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "cupy", lambda: stand_in)
        try:
            operations(n, m, k, compute)[name]()
        except ValueError as error:
            assert "more than a grid may have" in str(error)
            assert n > FAR[0] or n * k > FAR[1]
    forget()
    for launch in stand_in.launches:
        x, *yz = launch.grid
        assert 1 <= x <= 2**31 - 1 and all(1 <= size <= 65535 for size in yz), launch.name
        assert np.prod(launch.block) <= 1024
        assert launch.shared <= launch.allowed
        assert launch.shared <= SHARED_LEAST - 64, "with static shared memory besides"
    own = max(8 * max(n, m) * k, 8 * n)  # a factor, a row's loss
    own *= 3 if name == "step_ahead" else 1  # three arrays of the small factor's shape, side by side
    assert stand_in.largest <= max(own, cuda_ops.PARTS_BYTES, 2**30 + 2 * 8 * m), "working memory"


def test_a_ghost_goes_through_every_operation():
    """At a shape that no grid refuses, each operation comes to its end and has launched something."""
    for name in NAMES:
        stand_in = Ghosts()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda, "cupy", lambda stand_in=stand_in: stand_in)
            forget()
            operations(2**21, 2**12, 200, np.float32)[name]()
        assert stand_in.launches, name
    forget()


# ---- what the kernels and cuda_ops both say --------------------------------------------------------------------------


def test_sizes_are_those_of_the_kernels():
    kernels = next(source for source in SOURCES if source.name == "cuda_kernels.cu").read_text(encoding="utf-8")
    defined = dict(re.findall(r"^#define (\w+) (\d+)(?!\S)", kernels, re.MULTILINE))
    for name in ("THREADS", "ROWS", "DEPTH", "COLUMNS", "HEIGHT", "WIDTH"):
        assert int(defined[name]) == getattr(cuda_ops, name), name
    for name in ("VIOLATION", "KKT", "SWEEPS", "UNSETTLED", "TOTAL", "CROSS", "SQUARE", "STATS"):
        assert int(defined[name]) == getattr(cpu, name) == getattr(cuda_ops, name), name


# ---- 64 bits ---------------------------------------------------------------------------------------------------------

LARGE = {"n", "m", "ld", "rows_D"}  # parameters that a shape bounds; products with them have 64 bits if they have
DECLARED = re.compile(r"\b(?:const(?:expr)? )?(i64|int|unsigned|size_t|bool|float|double|XT|FT|T) (\w+)(?= ?[=,;:)])")


def without_comments(source):
    """Return the code alone."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL)


def declarations(code):
    """Return [(place, name, type)] of every declared name, the further ones of a statement included."""
    found = []
    for first in DECLARED.finditer(code):
        kind, name, place = first[1], first[2], first.end()
        found.append((first.start(), name, kind))
        if code[place : place + 2].lstrip()[:1] not in ("=", ","):
            continue
        depth, start = 0, place
        for at in range(place, len(code)):  # names after commas of the same statement
            depth += (code[at] in "([{") - (code[at] in ")]}")
            if depth < 0 or code[at] == ";":
                break
            if code[at] == "," and depth == 0:
                more = re.match(r", ?(\w+)(?= ?[=,;])", code[at:])
                if more:
                    found.append((start, more[1], kind))
    return sorted(found)


def width_faults(source):
    """Yield every product that has 32 bits though it may be as large as X or a factor.

    `name * k`, `(…) * k` and `blockIdx.x * …`: an operand must be an i64 by its nearest declaration above, or be cast.
    """
    code = without_comments(source)
    declared = declarations(code)

    def wide(text, place):
        """Whether an expression has an operand of 64 bits."""
        if "(i64)" in text:
            return True
        for name in re.findall(r"(?<![\w.])[A-Za-z_]\w*", text):
            kinds = [kind for at, other, kind in declared if other == name and at <= place]
            if kinds and kinds[-1] == "i64":
                return True
        return False

    def line(place):
        return code[code.rfind("\n", 0, place) + 1 : code.find("\n", place)].strip()

    for product in re.finditer(r"(\(i64\))?blockIdx\.([xyz]) \* (\w+)", code):
        cast, axis, other = product.groups()
        # components (grid.y) are few; a product with a 64-bit number has 64 bits
        if not cast and axis != "y" and not wide(other, product.start()):
            yield f"32 bits: {line(product.start())}"
    for product in re.finditer(r"(\(i64\))?(\b[a-zA-Z_]\w*|\))((?:\[[^][]*\])?) \* k\b", code):
        cast, left, _ = product.groups()
        operand = left
        if left == ")":  # back to its opening parenthesis
            end, depth = product.start(2), 1
            at = end
            while depth:
                at -= 1
                depth += (code[at] == ")") - (code[at] == "(")
            operand = code[at:end]
        few = operand in ("what", "DEPTH")  # constants
        if not cast and not few and not wide(operand, product.start()):
            yield f"32 bits: {line(product.start())}"
    for name, parameters in signatures(code).items():
        for parameter in parameters:
            kind, _, called = parameter.rpartition(" ")
            if called in LARGE and kind != "i64":
                yield f"{name}: {parameter}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_indices_have_64_bits(source):
    assert list(width_faults(source.read_text(encoding="utf-8"))) == []


NARROWED = {
    "a block's first row": ("i64 r0 = (i64)blockIdx.x * ROWS", "i64 r0 = blockIdx.x * ROWS"),
    "a row": ("const i64 row = ((i64)blockIdx.x * THREADS + threadIdx.x) / L;", "const int row = threadIdx.x / L;"),
    "a column's factor": ("i64 j = j0 + i / KT;", "int j = j0 + i / KT;"),
    "an entry of the Gram matrix": ("G[(i64)t * k + t]", "G[t * k + t]"),
    "a column of CSR": ("(i64)indices[p] * k", "indices[p] * k"),
    "a sum of two": ("const i64 i0 = (i64)blockIdx.x * HEIGHT;", "const int i0 = (int)((i64)blockIdx.x * HEIGHT);"),
    "a shape": ("X, i64 ld, const FT* Ht, i64 n,", "X, i64 ld, const FT* Ht, int n,"),
}  # fmt: skip


@pytest.mark.parametrize("fault", NARROWED)
def test_a_narrow_index_is_caught(fault):
    sound, narrow = NARROWED[fault]
    source = next(source for source in SOURCES if source.name == "cuda_kernels.cu").read_text(encoding="utf-8")
    assert sound in source, "the kernels say it in another way now: plant the fault anew"
    assert list(width_faults(source.replace(sound, narrow))) != []


def test_every_name_of_a_statement_is_declared():
    found = declarations("void f(i64 n, int k) { const i64 a = g(n, k), b = a * 2; for (int i = 0, j; i < k; ++i) {} }")
    assert [(name, kind) for _, name, kind in found] == [
        ("n", "i64"), ("k", "int"), ("a", "i64"), ("b", "i64"), ("i", "int"), ("j", "int"),
    ]  # fmt: skip


def test_kernels_are_ascii_but_for_comments():
    for source in SOURCES:
        assert without_comments(source.read_text(encoding="utf-8")).isascii(), source.name
