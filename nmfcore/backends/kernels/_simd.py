"""SIMD building blocks: two LLVM intrinsics that the CPU kernels are made of.

``micro1``, ``micro2``, ``micro3`` are register tiles of the product

    c[r, :] (+)= Σ_t x[r·rs + t·ts] · b[t, :]          r < STRIP[v], c and b rows of v vectors

which ask the processor meanwhile for memory that is needed next: for each t one cache line, of rows that are `apart`
bytes apart. The rows begin at the address `ahead`; 2^shift lines of a row are asked for, before those of the next.

With ``(rs, ts) = (ld, 1)`` this is X·Ht, with ``(1, ld)`` it is Xᵀ·F: the same tile of X serves both products.
``transpose`` turns a square of LANES × LANES numbers inside registers.

The vector length follows the processor (and the documented switches of Numba: ``NUMBA_CPU_NAME`` and
``NUMBA_CPU_FEATURES`` limit it, to measure AVX2 on an AVX-512 machine). The number of rows per register tile follows
from the number of registers: accumulators + one row of b + one broadcast must fit. LLVM splits vectors that the
processor lacks, so a wrong guess costs speed, never correctness.

These blocks have no substitute: importing them raises ImportError where Numba or llvmlite lack a name that they need.
"""

import os

import llvmlite
import numba

try:
    import llvmlite.binding as llvm
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.core.base import BaseContext
    from numba.extending import intrinsic

    # What the blocks call when kernels are compiled, looked up now.
    _NEEDED = (
        cgutils.get_or_insert_function, cgutils.for_range, cgutils.for_range_slice,
        BaseContext.make_array, BaseContext.get_dummy_value, BaseContext.get_value_type, BaseContext.populate_array,
        ir.Type.as_pointer, ir.VectorType, ir.IRBuilder.shuffle_vector,
        llvm.get_host_cpu_name, llvm.get_host_cpu_features,
    )  # fmt: skip
except (ImportError, AttributeError) as error:
    raise ImportError(
        "nmfcore builds its CPU kernels with names of Numba and llvmlite that are missing in numba "
        f"{numba.__version__} with llvmlite {llvmlite.__version__} ({error}): install numba 0.60 to 0.68, which work."
    ) from error


def _vector_bytes() -> int:
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is not None:
        has = {name[1:] for name in features.split(",") if name.startswith("+")}
    elif os.environ.get("NUMBA_CPU_NAME", llvm.get_host_cpu_name()) == llvm.get_host_cpu_name():
        has = {name for name, present in llvm.get_host_cpu_features().items() if present}
    else:  # a named processor: what LLVM knows of it is not readable from here, AVX2 is safe for all of the last decade
        name = os.environ["NUMBA_CPU_NAME"]
        wide = ("skylake-avx512", "icelake", "sapphirerapids", "znver4", "znver5", "cascadelake")
        has = {"avx512f"} if name.startswith(wide) else set() if name == "generic" else {"avx2"}
    if "avx512f" in has:
        return 64
    return 32 if "avx" in has or "avx2" in has else 16


VECTOR_BYTES = _vector_bytes()
# Rows per register tile, by vectors per row; AVX-512 and NEON have 32 registers, AVX and SSE 16. All divide 16. Four
# vectors are done as two and two: 4 × 4 tiles reach 115 GFLOP/s on one core where 2 × 8 reach 155.
STRIP = {1: 16, 2: 8, 3: 8} if VECTOR_BYTES == 64 else {1: 8, 2: 4, 3: 4}
# Whether `shift` counts and products may end in half a vector: with AVX2 these two cost an iteration 5 and 4 %.
LONG_VECTORS = VECTOR_BYTES == 64
GRAIN = 8  # rows of a product come in multiples of this
INDEX = ir.IntType(64)


def _constant(i):
    return ir.Constant(INDEX, i)


def _scalar(array_type):
    return ir.FloatType() if array_type.dtype.bitwidth == 32 else ir.DoubleType()


def _element(array_type):
    return _scalar(array_type), VECTOR_BYTES * 8 // array_type.dtype.bitwidth


def _data(context, builder, array_type, array):
    return context.make_array(array_type)(context, builder, array).data


def _vector_pointer(builder, pointer, offset, vector):
    return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())


def _load(builder, pointer, offset, vector, align):
    value = builder.load(_vector_pointer(builder, pointer, offset, vector))
    value.align = align
    return value


def _store(builder, value, pointer, offset, vector, align):
    builder.store(value, _vector_pointer(builder, pointer, offset, vector)).align = align


def _broadcast(builder, scalar, vector):
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)


def _fetch(builder, address):
    """Ask for the cache line at an address, which need not be readable, into the second-level cache."""
    word, byte = ir.IntType(32), ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
    hints = [ir.Constant(word, hint) for hint in (0, 2, 1)]  # to read, not the nearest level, data
    builder.call(prefetch, [builder.inttoptr(address, byte), *hints])


def _make_micro(vectors: int, rows: int, unroll: int, half: bool = False):
    """Register tile of `rows` × `vectors`; `unroll` independent sums over t where a tile alone is too short a chain.

    With `half`, vectors are half as long, and the one of c is a whole vector that ends in zeros.

    Such a tile of several sums has no `ahead`, `shift` and `apart`.
    """

    def typed(x, b, c, fetched):
        signature = types.void(
            x, types.intp, types.intp, types.intp, b, types.intp, types.intp,
            c, types.intp, types.intp, types.intp, types.intp, *[types.intp] * fetched,
        )  # fmt: skip

        def codegen(context, builder, sig, args):
            x, x0, rs, ts, b, b0, ldb, c, c0, ldc, length, accumulate, *fetched = args
            scalar, lanes = _element(sig.args[0])
            lanes = lanes // 2 if half else lanes
            size = sig.args[0].dtype.bitwidth // 8
            vector = ir.VectorType(scalar, lanes)
            name = f"llvm.fma.v{lanes}f{size * 8}"
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            xp = builder.gep(_data(context, builder, sig.args[0], x), [x0])
            bp = builder.gep(_data(context, builder, sig.args[4], b), [b0])
            cp = builder.gep(_data(context, builder, sig.args[7], c), [c0])
            zero = ir.Constant(vector, [0.0] * lanes)
            row_offsets = [builder.mul(rs, _constant(r)) for r in range(rows)]

            def step(t, sums):
                at_b, at_x = builder.mul(t, ldb), builder.mul(t, ts)
                if fetched:
                    ahead, shift, apart = fetched
                    row, line = t, _constant(0)
                    if LONG_VECTORS:
                        row = builder.ashr(t, shift)
                        line = builder.shl(builder.sub(t, builder.shl(row, shift)), _constant(6))
                    _fetch(builder, builder.add(builder.add(ahead, builder.mul(row, apart)), line))
                row = [
                    _load(builder, bp, builder.add(at_b, _constant(v * lanes)), vector, size) for v in range(vectors)
                ]
                new = []
                for r in range(rows):
                    value = builder.load(builder.gep(xp, [builder.add(row_offsets[r], at_x)]))
                    value = _broadcast(builder, value, vector)
                    new.append([builder.call(fma, [value, row[v], sums[r][v]]) for v in range(vectors)])
                return new

            # Σ over t in steps of `unroll`, then the rest one by one
            whole = length
            if unroll > 1:
                whole = builder.mul(builder.sdiv(length, _constant(unroll)), _constant(unroll))

            def loop(name, first, last, starts, steps):
                """Blocks of: for t = first, first + steps … < last; one set of sums for each of the `steps` terms."""
                before, body, behind = (
                    builder.block, builder.append_basic_block(name), builder.append_basic_block(name + ".end")
                )  # fmt: skip
                builder.cbranch(builder.icmp_signed("<", first, last), body, behind)
                builder.position_at_end(body)
                t = builder.phi(INDEX)
                t.add_incoming(first, before)
                sets = [[[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)] for _ in range(steps)]
                new = [step(builder.add(t, _constant(u)) if u else t, sets[u]) for u in range(steps)]
                after = builder.add(t, _constant(steps))
                t.add_incoming(after, body)
                builder.cbranch(builder.icmp_signed("<", after, last), body, behind)
                builder.position_at_end(behind)
                ends = [[[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)] for _ in range(steps)]
                for u in range(steps):
                    for r in range(rows):
                        for v in range(vectors):
                            start = starts[u][r][v]
                            sets[u][r][v].add_incoming(start, before)
                            sets[u][r][v].add_incoming(new[u][r][v], body)
                            ends[u][r][v].add_incoming(start, before)
                            ends[u][r][v].add_incoming(new[u][r][v], body)
                return ends

            zeros = [[[zero] * vectors for _ in range(rows)] for _ in range(unroll)]
            sets = loop("terms", _constant(0), whole, zeros, unroll)
            sums = sets[0]
            for other in sets[1:]:
                sums = [
                    [builder.fadd(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(sums, other, strict=True)
                ]
            if unroll > 1:
                (sums,) = loop("rest", whole, length, [sums], 1)
            adding = builder.icmp_signed("!=", accumulate, _constant(0))
            for r in range(rows):
                at_c = builder.mul(ldc, _constant(r))
                for v in range(vectors):
                    at = builder.add(at_c, _constant(v * lanes))
                    old = builder.select(adding, _load(builder, cp, at, vector, size), zero)
                    _store(builder, builder.fadd(old, sums[r][v]), cp, at, vector, size)
                if half:
                    _store(builder, zero, cp, builder.add(at_c, _constant(lanes)), vector, size)
            return context.get_dummy_value()

        return signature, codegen

    @intrinsic
    def micro(typingctx, x, x0, rs, ts, b, b0, ldb, c, c0, ldc, length, accumulate, ahead, shift, apart):
        return typed(x, b, c, 3)

    @intrinsic
    def line(typingctx, x, x0, rs, ts, b, b0, ldb, c, c0, ldc, length, accumulate):
        return typed(x, b, c, 0)

    return micro if unroll == 1 else line


micro1 = _make_micro(1, STRIP[1], 1)
micro1_rest = _make_micro(1, GRAIN, 1)  # the same sums; where STRIP[1] rows are more than there are
micro_half = _make_micro(1, GRAIN, 1, half=True)
micro2 = _make_micro(2, STRIP[2], 1)
micro3 = _make_micro(3, STRIP[3], 1)
line4 = _make_micro(4, 1, 2)  # one row of four vectors: the gradient of one component in a sweep


def _column_of(builder, indices, wide, begin):
    """Return a function: the loaded column number begin + p, of 32 or (wide = 1, else 0) 64 bits, without a branch."""
    word = ir.IntType(32)
    start = builder.gep(builder.inttoptr(indices, word.as_pointer()), [builder.shl(begin, wide)])
    mask = builder.neg(wide)

    def column(p):
        address = builder.gep(start, [builder.shl(p, wide)])
        low, high = builder.load(address), builder.load(builder.gep(address, [wide]))
        high = builder.and_(builder.zext(high, INDEX), mask)
        return builder.or_(builder.zext(low, INDEX), builder.shl(high, _constant(32)))

    return column


def _make_gather(vectors: int, unroll: int):
    """Make the product of a sparse row with its sums in registers, in `unroll` independent sets."""

    @intrinsic
    def gather(typingctx, x, x0, indices, wide, begin, length, b, b0, ldb, c, c0):
        """c[c0:] = Σ_p x[x0 + p] · b[b0 + j_p·ldb :], whole vectors; j_p: column numbers begin … begin + length."""
        signature = types.void(
            x, types.intp, types.intp, types.intp, types.intp, types.intp, b, types.intp, types.intp, c, types.intp
        )  # fmt: skip

        def codegen(context, builder, sig, args):
            x, x0, indices, wide, begin, length, b, b0, ldb, c, c0 = args
            scalar, lanes = _element(sig.args[0])
            size = sig.args[0].dtype.bitwidth // 8
            vector = ir.VectorType(scalar, lanes)
            kind = ir.FunctionType(vector, [vector] * 3)
            fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{lanes}f{size * 8}")
            xp = builder.gep(_data(context, builder, sig.args[0], x), [x0])
            bp = builder.gep(_data(context, builder, sig.args[6], b), [b0])
            cp = builder.gep(_data(context, builder, sig.args[9], c), [c0])
            zeros = [ir.Constant(vector, [0.0] * lanes)] * vectors

            column = _column_of(builder, indices, wide, begin)

            def step(p, sums):
                row = builder.mul(column(p), ldb)
                value = _broadcast(builder, builder.load(builder.gep(xp, [p])), vector)
                of_row = [_load(builder, bp, builder.add(row, _constant(v * lanes)), vector, size)
                          for v in range(vectors)]  # fmt: skip
                return [builder.call(fma, [value, *pair]) for pair in zip(of_row, sums, strict=True)]

            def terms(first, starts):
                """Sum terms first, first + 1, … in as many sets as there are starts → where it ended, the sets."""
                steps = len(starts)
                before, body, behind = (
                    builder.block, builder.append_basic_block("terms"), builder.append_basic_block("terms.end")
                )  # fmt: skip
                more = builder.icmp_signed("<=", builder.add(first, _constant(steps)), length)
                builder.cbranch(more, body, behind)
                builder.position_at_end(body)
                p = builder.phi(INDEX)
                sets = [[builder.phi(vector) for _ in range(vectors)] for _ in range(steps)]
                new = [step(builder.add(p, _constant(u)), sets[u]) for u in range(steps)]
                after = builder.add(p, _constant(steps))
                more = builder.icmp_signed("<=", builder.add(after, _constant(steps)), length)
                builder.cbranch(more, body, behind)
                builder.position_at_end(behind)
                end = builder.phi(INDEX)
                ends = [[builder.phi(vector) for _ in range(vectors)] for _ in range(steps)]
                for phi in (p, end):
                    phi.add_incoming(first, before)
                    phi.add_incoming(after, body)
                for u in range(steps):
                    for v in range(vectors):
                        for phi in (sets[u][v], ends[u][v]):
                            phi.add_incoming(starts[u][v], before)
                            phi.add_incoming(new[u][v], body)
                return end, ends

            p, sets = terms(_constant(0), [zeros] * unroll)
            sums = sets[0]
            for other in sets[1:]:
                sums = [builder.fadd(*pair) for pair in zip(sums, other, strict=True)]
            if unroll > 1:
                _, (sums,) = terms(p, [sums])
            for v in range(vectors):
                _store(builder, sums[v], cp, _constant(v * lanes), vector, size)
            return context.get_dummy_value()

        return signature, codegen

    return gather


# By vectors per row; other widths are done in parts. Each further variant takes some tenths of a second to compile.
gather1, gather2, gather4 = (_make_gather(*shape) for shape in ((1, 2), (2, 2), (4, 1)))


def _make_scatter(vectors: int):
    @intrinsic
    def scatter(typingctx, x, x0, indices, wide, begin, length, f, f0, sums, s0, ld):
        """sums[s0 + j_p·ld :] += x[x0 + p] · f[f0:], float64, f stays in registers; j_p as for `gather`."""
        signature = types.void(
            x, types.intp, types.intp, types.intp, types.intp, types.intp, f, types.intp, sums, types.intp, types.intp
        )  # fmt: skip

        def codegen(context, builder, sig, args):
            x, x0, indices, wide, begin, length, f, f0, sums, s0, ld = args
            lanes, source = VECTOR_BYTES // 8, _scalar(sig.args[0])
            vector, size = ir.VectorType(ir.DoubleType(), lanes), sig.args[0].dtype.bitwidth // 8
            kind = ir.FunctionType(vector, [vector] * 3)
            fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{lanes}f64")
            xp = builder.gep(_data(context, builder, sig.args[0], x), [x0])
            fp = builder.gep(_data(context, builder, sig.args[6], f), [f0])
            to = builder.gep(_data(context, builder, sig.args[8], sums), [s0])
            stored = ir.VectorType(source, lanes)
            row = [_convert(builder, _load(builder, fp, _constant(v * lanes), stored, size), vector)
                   for v in range(vectors)]  # fmt: skip

            column = _column_of(builder, indices, wide, begin)
            with cgutils.for_range(builder, length, intp=INDEX) as term:
                first = builder.mul(column(term.index), ld)
                value = _convert(builder, builder.load(builder.gep(xp, [term.index])), ir.DoubleType())
                value = _broadcast(builder, value, vector)
                for v in range(vectors):
                    at = builder.add(first, _constant(v * lanes))
                    new = builder.call(fma, [value, row[v], _load(builder, to, at, vector, 8)])
                    _store(builder, new, to, at, vector, 8)
            return context.get_dummy_value()

        return signature, codegen

    return scatter


scatter1, scatter2, scatter4 = (_make_scatter(vectors) for vectors in (1, 2, 4))


@intrinsic
def dots(typingctx, f, f0, h, ld, columns, first, vectors, out, o0, squares):
    """out[o0 + j] = Σ_t f[f0 + t]·h[j·ld + t] over whole vectors, for as many columns j of `columns` as a vector holds.

    The sums of a group are added up together, in a tree of shuffles that is the same for each of them: a number does
    not depend on its place in the group. Their squares are added to `squares`, float64 and as many, unless it is None.
    """
    signature = types.void(
        f, types.intp, h, types.intp, columns, types.intp, types.intp, out, types.intp, squares
    )  # fmt: skip

    def codegen(context, builder, sig, args):
        f, f0, h, ld, columns, first, vectors, out, o0, squares = args
        scalar, lanes = _element(sig.args[0])
        size = sig.args[0].dtype.bitwidth // 8
        vector, kind = ir.VectorType(scalar, lanes), ir.VectorType(ir.IntType(32), lanes)
        name = f"llvm.fma.v{lanes}f{size * 8}"
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
        fp = builder.gep(_data(context, builder, sig.args[0], f), [f0])
        hp = _data(context, builder, sig.args[2], h)
        numbers = builder.gep(_data(context, builder, sig.args[4], columns), [first])
        to = builder.gep(_data(context, builder, sig.args[7], out), [o0])
        chosen = [builder.sext(builder.load(builder.gep(numbers, [_constant(e)])), INDEX) for e in range(lanes)]
        rows = [builder.gep(hp, [builder.mul(j, ld)]) for j in chosen]
        before, body, behind = (
            builder.block, builder.append_basic_block("terms"), builder.append_basic_block("terms.end")
        )  # fmt: skip
        zero = ir.Constant(vector, [0.0] * lanes)
        builder.cbranch(builder.icmp_signed("<", _constant(0), vectors), body, behind)
        builder.position_at_end(body)
        v = builder.phi(INDEX)
        sums = [builder.phi(vector) for _ in range(lanes)]
        at = builder.mul(v, _constant(lanes))
        of_f = _load(builder, fp, at, vector, size)
        new = [builder.call(fma, [of_f, _load(builder, row, at, vector, size), s])
               for row, s in zip(rows, sums, strict=True)]  # fmt: skip
        after = builder.add(v, _constant(1))
        v.add_incoming(_constant(0), before)
        v.add_incoming(after, body)
        builder.cbranch(builder.icmp_signed("<", after, vectors), body, behind)
        builder.position_at_end(behind)
        parts = []
        for s, added in zip(sums, new, strict=True):
            s.add_incoming(zero, before)
            s.add_incoming(added, body)
            part = builder.phi(vector)
            part.add_incoming(zero, before)
            part.add_incoming(added, body)
            parts.append(part)
        owners = [[e] * lanes for e in range(lanes)]  # whose terms the lanes of each part hold
        group = lanes
        while group > 1:
            half = group // 2
            low, high = [], []
            for g in range(0, lanes, group):
                low += [*range(g, g + half), *range(lanes + g, lanes + g + half)]
                high += [*range(g + half, g + group), *range(lanes + g + half, lanes + g + group)]
            pairs = [(i, i + len(parts) // 2) for i in range(len(parts) // 2)]
            owners = [[(owners[a] + owners[b])[lane] for lane in low] for a, b in pairs]
            parts = [
                builder.fadd(
                    builder.shuffle_vector(parts[a], parts[b], ir.Constant(kind, low)),
                    builder.shuffle_vector(parts[a], parts[b], ir.Constant(kind, high)),
                )
                for a, b in pairs
            ]
            group = half
        for lane, e in enumerate(owners[0]):
            value = builder.extract_element(parts[0], ir.Constant(ir.IntType(32), lane))
            builder.store(value, builder.gep(to, [chosen[e]])).align = size
        if not isinstance(sig.args[9], types.NoneType):
            wide = ir.VectorType(ir.DoubleType(), lanes)
            sums = _data(context, builder, sig.args[9], squares)
            x = parts[0] if size == 8 else builder.fpext(parts[0], wide)
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(wide, [wide] * 3), f"llvm.fma.v{lanes}f64"
            )
            old = _load(builder, sums, _constant(0), wide, 8)
            _store(builder, builder.call(fma, [x, x, old]), sums, _constant(0), wide, 8)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose(typingctx, a, a0, lda, b, b0, ldb):
    """b[j·ldb + i] = a[i·lda + j] for a square of LANES × LANES numbers, in log2(LANES) rounds of shuffles."""
    signature = types.void(a, types.intp, types.intp, b, types.intp, types.intp)

    def codegen(context, builder, sig, args):
        a, a0, lda, b, b0, ldb = args
        scalar, lanes = _element(sig.args[0])
        size = sig.args[0].dtype.bitwidth // 8
        vector = ir.VectorType(scalar, lanes)
        ap = builder.gep(_data(context, builder, sig.args[0], a), [a0])
        bp = builder.gep(_data(context, builder, sig.args[3], b), [b0])
        rows = [_load(builder, ap, builder.mul(lda, _constant(i)), vector, size) for i in range(lanes)]
        half = lanes // 2
        while half:
            swapped = list(rows)
            for i in range(lanes):
                if i & half:
                    continue
                low, high = rows[i], rows[i + half]
                first, second = [], []
                for j in range(lanes):
                    if j & half:
                        first.append(lanes + (j ^ half))
                        second.append(lanes + j)
                    else:
                        first.append(j)
                        second.append(j ^ half)
                kind = ir.VectorType(ir.IntType(32), lanes)
                swapped[i] = builder.shuffle_vector(low, high, ir.Constant(kind, first))
                swapped[i + half] = builder.shuffle_vector(low, high, ir.Constant(kind, second))
            rows = swapped
            half //= 2
        for j in range(lanes):
            _store(builder, rows[j], bp, builder.mul(ldb, _constant(j)), vector, size)
        return context.get_dummy_value()

    return signature, codegen


def _lanes_below(builder, first, end, lanes):
    """Mask of the lanes t with first + t < end."""
    kind = ir.VectorType(INDEX, lanes)
    numbers = ir.Constant(kind, list(range(lanes)))
    return builder.icmp_signed("<", numbers, _broadcast(builder, builder.sub(end, first), kind))


def _convert(builder, value, kind):
    """Return the same numbers in another float type."""
    if value.type == kind:
        return value
    single = isinstance(kind.element if isinstance(kind, ir.VectorType) else kind, ir.FloatType)
    return builder.fptrunc(value, kind) if single else builder.fpext(value, kind)


def _masked(builder, pointer, offset, vector):
    """Return the address of a vector and the suffix by which LLVM names masked accesses to it."""
    address = _vector_pointer(builder, pointer, offset, vector)
    bits = 32 if isinstance(vector.element, ir.FloatType) else 64
    return address, f"v{vector.count}f{bits}.p0v{vector.count}f{bits}"


@intrinsic
def pad_row(typingctx, F, i, out, first, ld):
    """out[first : first + ld] = row i of F (C-contiguous), then zeros; ld in whole vectors of out's type."""
    if F.layout != "C":
        return None
    signature = types.void(F, types.intp, out, types.intp, types.intp)

    def codegen(context, builder, sig, args):
        F, i, out, first, ld = args
        array = context.make_array(sig.args[0])(context, builder, F)
        k = builder.extract_value(array.shape, 1)
        source, (scalar, lanes) = _scalar(sig.args[0]), _element(sig.args[2])
        vector, target = ir.VectorType(source, lanes), ir.VectorType(scalar, lanes)
        start = builder.gep(array.data, [builder.mul(i, k)])
        to = builder.gep(_data(context, builder, sig.args[2], out), [first])
        with cgutils.for_range_slice(builder, _constant(0), ld, _constant(lanes), INDEX) as (t, _):
            address, suffix = _masked(builder, start, t, vector)
            mask = _lanes_below(builder, t, k, lanes)
            kind = ir.FunctionType(vector, [address.type, ir.IntType(32), mask.type, vector])
            load = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.{suffix}")
            align = ir.Constant(ir.IntType(32), sig.args[0].dtype.bitwidth // 8)
            value = builder.call(load, [address, align, mask, ir.Constant(vector, [0.0] * lanes)])
            _store(builder, _convert(builder, value, target), to, t, target, sig.args[2].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, codegen


def _make_unpad(whole: bool):
    @intrinsic
    def unpad(typingctx, padded, first, out, i):
        """Row i of out (C-contiguous) = padded[first : first + out's columns], of out's type."""
        if out.layout != "C" or out.dtype != padded.dtype:
            return None
        signature = types.void(padded, types.intp, out, types.intp)

        def codegen(context, builder, sig, args):
            padded, first, out, i = args
            array = context.make_array(sig.args[2])(context, builder, out)
            k, (scalar, lanes) = builder.extract_value(array.shape, 1), _element(sig.args[0])
            vector = ir.VectorType(scalar, lanes)
            start = builder.gep(_data(context, builder, sig.args[0], padded), [first])
            to = builder.gep(array.data, [builder.mul(i, k)])
            size = sig.args[0].dtype.bitwidth // 8
            with cgutils.for_range_slice(builder, _constant(0), k, _constant(lanes), INDEX) as (t, _):
                value = _load(builder, start, t, vector, size)
                if whole:
                    _store(builder, value, to, t, vector, size)
                else:
                    address, suffix = _masked(builder, to, t, vector)
                    mask = _lanes_below(builder, t, k, lanes)
                    kind = ir.FunctionType(ir.VoidType(), [vector, address.type, ir.IntType(32), mask.type])
                    store = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.{suffix}")
                    builder.call(store, [value, address, ir.Constant(ir.IntType(32), size), mask])
            return context.get_dummy_value()

        return signature, codegen

    return unpad


unpad_row = _make_unpad(False)
spill_row = _make_unpad(True)  # in whole vectors: the next numbers of out are overwritten, and there must be some


@intrinsic
def clear_vector(typingctx, out, first):
    """Put a vector of zeros at out[first:]."""
    signature = types.void(out, types.intp)

    def codegen(context, builder, sig, args):
        scalar, lanes = _element(sig.args[0])
        vector = ir.VectorType(scalar, lanes)
        zero = ir.Constant(vector, [0.0] * lanes)
        _store(
            builder,
            zero,
            _data(context, builder, sig.args[0], args[0]),
            args[1],
            vector,
            sig.args[0].dtype.bitwidth // 8,
        )
        return context.get_dummy_value()

    return signature, codegen


# Storage types that `widen_line` reads by vectors, by the kernels' code: those of images and tables.
_BY_VECTORS = {0: ("u", 8), 2: ("u", 16), 5: ("i", 32), 7: ("i", 64), 9: ("f", 32), 10: ("f", 64)}


@intrinsic
def widen_line(typingctx, address, code, out, first, n):
    """out[first : first + n] = n numbers of X side by side at `address`, in whole vectors; the last two may overlap.

    Returns how many were read: none if there is less than a vector of them, or of another storage type.
    In cache it widens an int64 in 0.11 ns, 74 GB/s: narrowing them to 16 bits first could not be faster.
    """
    signature = types.intp(types.intp, types.intp, out, types.intp, types.intp)

    def codegen(context, builder, sig, args):
        address, code, out, first, n = args
        scalar, lanes = _element(sig.args[2])
        vector = ir.VectorType(scalar, lanes)
        size = sig.args[2].dtype.bitwidth // 8
        to = builder.gep(_data(context, builder, sig.args[2], out), [first])
        last = builder.sub(n, _constant(lanes))
        begin = builder.block
        cases = builder.append_basic_block("cases")
        end = builder.append_basic_block("end")
        builder.cbranch(builder.icmp_signed("<", last, _constant(0)), end, cases)
        builder.position_at_end(cases)
        switch = builder.switch(code, end)
        done = [(begin, 0), (cases, 0)]
        for number, (kind, bits) in _BY_VECTORS.items():
            block = builder.append_basic_block(f"from_{kind}{bits}")
            switch.add_case(_constant(number), block)
            builder.position_at_end(block)
            element = ir.IntType(bits) if kind != "f" else ir.FloatType() if bits == 32 else ir.DoubleType()
            source = ir.VectorType(element, lanes)
            start = builder.inttoptr(address, element.as_pointer())
            with cgutils.for_range_slice(builder, _constant(0), n, _constant(lanes), INDEX) as (t, _):
                at = builder.select(builder.icmp_signed("<", t, last), t, last)
                value = _load(builder, start, at, source, 1)
                if kind == "f":
                    value = _convert(builder, value, vector)
                else:
                    value = (builder.uitofp if kind == "u" else builder.sitofp)(value, vector)
                _store(builder, value, to, at, vector, size)
            done.append((builder.block, 1))
            builder.branch(end)
        builder.position_at_end(end)
        count = builder.phi(INDEX)
        for block, all_of_them in done:
            count.add_incoming(n if all_of_them else _constant(0), block)
        return count

    return signature, codegen


@intrinsic
def out_of_line(typingctx):
    """Keep the function that calls this out of its callers: copies in each multiply the time to compile."""

    def codegen(context, builder, sig, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def view(typingctx, address, like):
    """Numbers of like's type (one dimension, C-contiguous) that lie at `address`, as an array of no known length.

    For the register tiles, which take a buffer and offsets; the caller keeps the numbers alive.
    """
    signature = like(types.intp, like)

    def codegen(context, builder, sig, args):
        array = context.make_array(sig.return_type)(context, builder)
        itemsize = _constant(sig.return_type.dtype.bitwidth // 8)
        context.populate_array(
            array,
            data=builder.inttoptr(args[0], array.data.type),
            shape=[_constant(2**62)],
            strides=[itemsize],
            itemsize=itemsize,
            meminfo=None,
        )
        return array._getvalue()

    return signature, codegen


# The next four are the steps of conjugate gradients on four vectors of rows. LLVM vectorises such loops, too, but tests
# first which of their up to six buffers overlap: steps took 3.8 times as long with k = 15, and 2.5 times with k = 50.


def _lines(context, builder, array_type, array, first):
    """Return functions that load vector v of the four at array[first:], and store one; and the type of a vector."""
    scalar, lanes = _element(array_type)
    vector, size = ir.VectorType(scalar, lanes), array_type.dtype.bitwidth // 8
    start = builder.gep(_data(context, builder, array_type, array), [first])

    def load(v):
        return _load(builder, start, _constant(v * lanes), vector, size)

    def store(v, value):
        _store(builder, value, start, _constant(v * lanes), vector, size)

    return load, store, vector


def _multiply_add(builder, a, b, c):
    vector = a.type
    bits = 32 if isinstance(vector.element, ir.FloatType) else 64
    kind, name = ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{vector.count}f{bits}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])


@intrinsic
def begin_line(typingctx, W, C, Q, R, P, at, keep, rho, l1, inverse):
    """r = (c − l1 − q)·keep where w > 0, else 0; p = r·inverse; rho += r·p. For W, C, Q, R, P from number `at` on."""
    signature = types.void(W, C, Q, R, P, types.intp, keep, rho, W.dtype, W.dtype)

    def codegen(context, builder, sig, args):
        at, zero_at = args[5], _constant(0)
        parts = [_lines(context, builder, sig.args[i], args[i], at) for i in range(5)]
        (w, _, vector), (c, *_), (q, *_), (_, to_r, _), (_, to_p, _) = parts
        keep, *_ = _lines(context, builder, sig.args[6], args[6], zero_at)
        rho, to_rho, _ = _lines(context, builder, sig.args[7], args[7], zero_at)
        l1, inverse = (_broadcast(builder, number, vector) for number in args[8:])
        zero = ir.Constant(vector, [0.0] * vector.count)
        for v in range(4):
            r = builder.fmul(builder.fsub(builder.fsub(c(v), l1), q(v)), keep(v))
            r = builder.select(builder.fcmp_ordered(">", w(v), zero), r, zero)
            p = builder.fmul(r, inverse)
            to_r(v, r)
            to_p(v, p)
            to_rho(v, _multiply_add(builder, r, p, rho(v)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def bound_line(typingctx, W, P, Q, at, length, bound):
    """length += p·q; bound = min(bound, −w/p) where p < 0. For W, P and Q from number `at` on."""
    signature = types.void(W, P, Q, types.intp, length, bound)

    def codegen(context, builder, sig, args):
        at, zero_at = args[3], _constant(0)
        (w, _, vector), (p, *_), (q, *_) = [_lines(context, builder, sig.args[i], args[i], at) for i in range(3)]
        length, to_length, _ = _lines(context, builder, sig.args[4], args[4], zero_at)
        bound, to_bound, _ = _lines(context, builder, sig.args[5], args[5], zero_at)
        zero = ir.Constant(vector, [0.0] * vector.count)
        for v in range(4):
            of_p = p(v)
            to_length(v, _multiply_add(builder, of_p, q(v), length(v)))
            reached, old = builder.fdiv(builder.fneg(w(v)), of_p), bound(v)
            falls, nearer = builder.fcmp_ordered("<", of_p, zero), builder.fcmp_ordered("<", reached, old)
            to_bound(v, builder.select(builder.and_(falls, nearer), reached, old))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def step_line(typingctx, W, P, Q, R, at, length, renewed, near, inverse):
    """w += length·p, 0 unless more than near·w; r −= length·q, 0 where w is; renewed += r²·inverse."""
    signature = types.void(W, P, Q, R, types.intp, length, renewed, W.dtype, W.dtype)

    def codegen(context, builder, sig, args):
        at, zero_at = args[4], _constant(0)
        parts = [_lines(context, builder, sig.args[i], args[i], at) for i in range(4)]
        (w, to_w, vector), (p, *_), (q, *_), (r, to_r, _) = parts
        length, *_ = _lines(context, builder, sig.args[5], args[5], zero_at)
        renewed, to_renewed, _ = _lines(context, builder, sig.args[6], args[6], zero_at)
        near, inverse = (_broadcast(builder, number, vector) for number in args[7:])
        zero = ir.Constant(vector, [0.0] * vector.count)
        for v in range(4):
            old, far = w(v), length(v)
            new = _multiply_add(builder, far, p(v), old)
            new = builder.select(builder.fcmp_ordered(">", new, builder.fmul(near, old)), new, zero)
            left = _multiply_add(builder, builder.fneg(far), q(v), r(v))
            left = builder.select(builder.fcmp_ordered(">", new, zero), left, zero)
            to_w(v, new)
            to_r(v, left)
            to_renewed(v, _multiply_add(builder, builder.fmul(left, left), inverse, renewed(v)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def turn_line(typingctx, W, R, P, at, turn, going, inverse):
    """p = r·inverse + turn·p where w > 0 and going > 0, else 0. For W, R and P from number `at` on."""
    signature = types.void(W, R, P, types.intp, turn, going, W.dtype)

    def codegen(context, builder, sig, args):
        at, zero_at = args[3], _constant(0)
        parts = [_lines(context, builder, sig.args[i], args[i], at) for i in range(3)]
        (w, _, vector), (r, *_), (p, to_p, _) = parts
        turn, *_ = _lines(context, builder, sig.args[4], args[4], zero_at)
        going, *_ = _lines(context, builder, sig.args[5], args[5], zero_at)
        inverse, zero = _broadcast(builder, args[6], vector), ir.Constant(vector, [0.0] * vector.count)
        for v in range(4):
            new = _multiply_add(builder, turn(v), p(v), builder.fmul(r(v), inverse))
            moves = builder.and_(builder.fcmp_ordered(">", w(v), zero), builder.fcmp_ordered(">", going(v), zero))
            to_p(v, builder.select(moves, new, zero))
        return context.get_dummy_value()

    return signature, codegen


_SOURCES = {
    "u8": types.uint8, "i8": types.int8, "u16": types.uint16, "i16": types.int16,
    "u32": types.uint32, "i32": types.int32, "u64": types.uint64, "i64": types.int64,
    "f32": types.float32, "f64": types.float64,
}  # fmt: skip


def _make_reader(source):
    @intrinsic
    def reader(typingctx, address, index):
        """Read number `index` of an array at `address`, which need not be aligned (memory maps, fields of records)."""

        def codegen(context, builder, sig, args):
            start = builder.inttoptr(args[0], context.get_value_type(source).as_pointer())
            value = builder.load(builder.gep(start, [args[1]]))  # an address LLVM can follow through a loop
            value.align = 1
            return value

        return source(types.intp, types.intp), codegen

    return reader


read_u8, read_i8, read_u16, read_i16, read_u32, read_i32, read_u64, read_i64, read_f32, read_f64 = (
    _make_reader(source) for source in _SOURCES.values()
)


def _make_bitcast(source, target):
    @intrinsic
    def bitcast(typingctx, value):
        def codegen(context, builder, sig, args):
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), codegen

    return bitcast


bits_of_double = _make_bitcast(types.float64, types.int64)
double_of_bits = _make_bitcast(types.int64, types.float64)
float_of_bits = _make_bitcast(types.uint32, types.float32)
