"""SIMD steps that turn WH into what the β-divergences need of it: WH^(β−1), and X ⊙ WH^(β−2).

`raise_line` raises numbers to any power. `ratio_…` and `power_…` work on a strip of a tile whose product was just
formed, so that its numbers are still in the first-level cache. WH has scikit-learn's floors: at least ε under
WH^(β−2) for β < 2, and under WH^(β−1) for β < 1.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ._simd import (
    INDEX,
    STRIP,
    _broadcast,
    _constant,
    _convert,
    _data,
    _element,
    _lanes_below,
    _load,
    _masked,
    _multiply_add,
    _store,
)

# Polynomials through the Chebyshev points of their intervals, by bytes of a number:
# log₂ m = s·(2/ln 2 + z·L(z)) with s = (m − 1)/(m + 1), z = s² and m in [√½, √2); 2^g = 1 + g·E(g) with |g| ≤ ½.
# In float32 they err by 3·10⁻⁹ and 5·10⁻⁹ of the result, in float64 by 5·10⁻¹⁸ and 8·10⁻¹⁸.
_LOGARITHM = {
    4: (0.9617969589910254, 0.5769161541379687, 0.42674846297545643),
    8: (
        0.961796693925976, 0.5770780163541355, 0.412198583898078, 0.32059873801756367, 0.2623236397004895,
        0.221189987214124, 0.21087079476015172,
    ),
}  # fmt: skip
_EXPONENTIAL = {
    4: (
        0.6931471880262288, 0.24022650760568126, 0.05550357114219078, 0.009618082557277852, 0.0013390863364671234,
        0.0001545316294512069,
    ),
    8: (
        0.6931471805599453, 0.24022650695910097, 0.0555041086648216, 0.009618129107606888, 0.0013333558146416936,
        0.0001540353044173605, 1.525273382983612e-05, 1.321544258792169e-06, 1.0178062445845774e-07,
        7.072585949269223e-09, 4.4549605981865186e-10,
    ),
}  # fmt: skip
_TWO_OVER_LN2 = 2.8853900817779268
# By bytes of a number: bits of the mantissa, the bits of √½, and the exponent's offset.
_FORMAT = {4: (23, 0x3F3504F3, 127), 8: (52, 0x3FE6A09E667F3BCD, 1023)}


class _Powers:
    """Code for x^p of vectors: the constants, which belong before a loop, and `of`, which belongs into it.

    With x = m·2^e, p·log₂ x = p·e + p·log₂ m is cut into a whole number and a rest whose error is that of p·log₂ m
    alone, as p·e is not rounded: results err by 2 ulp for |p| ≤ 1.3, and by 5 for |p| ≤ 4. 0^p is 0 for p > 0 and
    infinity for p < 0, ∞^p the reverse, and NaN stays NaN. A result below the least normal number is 0.
    """

    def __init__(self, builder, p, vector, size):
        self.builder, self.vector, self.size = builder, vector, size
        self.whole = ir.VectorType(ir.IntType(8 * size), vector.count)
        scalar = vector.element
        high = _convert(builder, p, scalar)
        self.high, self.low = _broadcast(builder, high, vector), None
        if size == 4:  # p has more digits than a float32 holds
            rest = builder.fsub(p, builder.fpext(high, p.type))
            self.low = _broadcast(builder, _convert(builder, rest, scalar), vector)

    def all_of(self, value):
        """Return a vector of equal numbers."""
        return ir.Constant(self.vector, [value] * self.vector.count)

    def whole_of(self, value):
        """Return a vector of equal whole numbers."""
        return ir.Constant(self.whole, [value] * self.vector.count)

    def series(self, z, coefficients):
        """Return Σ c_i z^i."""
        total = self.all_of(coefficients[-1])
        for c in coefficients[-2::-1]:
            total = _multiply_add(self.builder, total, z, self.all_of(c))
        return total

    def rounded(self, y):
        """Return the nearest whole numbers, as floating-point numbers and as whole ones."""
        builder, lanes = self.builder, self.vector.count
        kind = ir.FunctionType(self.vector, [self.vector])
        rint = cgutils.get_or_insert_function(builder.module, kind, f"llvm.rint.v{lanes}f{8 * self.size}")
        n = builder.call(rint, [y])
        number = builder.fptosi(n, ir.VectorType(ir.IntType(32), lanes))
        return n, number if self.size == 4 else builder.sext(number, self.whole)

    def of(self, x):
        """Return x^p for x ≥ 0."""
        builder, all_of, whole_of = self.builder, self.all_of, self.whole_of
        digits, root_half, offset = _FORMAT[self.size]
        least = 2.0 ** (1 - offset)  # below it, numbers have fewer digits
        tiny = builder.fcmp_ordered("<", x, all_of(least))
        scaled = builder.select(tiny, builder.fmul(x, all_of(2.0**digits)), x)
        bits = builder.bitcast(scaled, self.whole)
        exponent = builder.ashr(builder.sub(bits, whole_of(root_half)), whole_of(digits))
        m = builder.bitcast(builder.sub(bits, builder.shl(exponent, whole_of(digits))), self.vector)
        exponent = builder.sub(exponent, builder.select(tiny, whole_of(digits), whole_of(0)))
        if self.size == 4:
            e = builder.sitofp(exponent, self.vector)
        else:  # few processors convert 64 bits
            magic = builder.bitcast(builder.add(exponent, whole_of(0x4338000000000000)), self.vector)
            e = builder.fsub(magic, all_of(6755399441055744.0))
        zero, infinite = all_of(0.0), all_of(float("inf"))
        e = builder.select(builder.fcmp_ordered("==", x, zero), all_of(float("-inf")), e)
        e = builder.select(builder.fcmp_ordered("==", x, infinite), infinite, e)
        s = builder.fdiv(builder.fsub(m, all_of(1.0)), builder.fadd(m, all_of(1.0)))
        z = builder.fmul(s, s)
        rest = builder.fmul(builder.fmul(s, z), self.series(z, _LOGARITHM[self.size]))
        log = _multiply_add(builder, s, all_of(_TWO_OVER_LN2), rest)
        y = _multiply_add(builder, self.high, log, builder.fmul(self.high, e))
        n, number = self.rounded(y)
        g = _multiply_add(builder, self.high, e, builder.fneg(n))
        if self.low is not None:
            g = _multiply_add(builder, self.low, e, g)
        g = _multiply_add(builder, self.high, log, g)
        value = _multiply_add(builder, g, self.series(g, _EXPONENTIAL[self.size]), all_of(1.0))
        bits = builder.add(builder.bitcast(value, self.whole), builder.shl(number, whole_of(digits)))
        value = builder.bitcast(bits, self.vector)
        value = builder.select(builder.fcmp_ordered("<", y, all_of(float(1 - offset))), zero, value)
        value = builder.select(builder.fcmp_ordered(">", y, all_of(offset + 0.9999999)), infinite, value)
        return builder.select(builder.fcmp_unordered("uno", x, x), x, value)


@intrinsic
def raise_line(typingctx, s, n, p):
    """Raise s[:n], numbers ≥ 0, to the power p (float64), in place."""
    signature = types.void(s, types.intp, types.float64)

    def codegen(context, builder, sig, args):
        s, n, p = args
        scalar, lanes = _element(sig.args[0])
        lanes *= 2
        vector, size = ir.VectorType(scalar, lanes), sig.args[0].dtype.bitwidth // 8
        start, powers = _data(context, builder, sig.args[0], s), _Powers(builder, p, vector, size)
        align, one = ir.Constant(ir.IntType(32), size), powers.all_of(1.0)
        with cgutils.for_range_slice(builder, _constant(0), n, _constant(lanes), INDEX) as (t, _):
            address, suffix = _masked(builder, start, t, vector)
            mask = _lanes_below(builder, t, n, lanes)
            kind = ir.FunctionType(vector, [address.type, align.type, mask.type, vector])
            load = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.{suffix}")
            value = powers.of(builder.call(load, [address, align, mask, one]))
            kind = ir.FunctionType(ir.VoidType(), [vector, address.type, align.type, mask.type])
            store = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.{suffix}")
            builder.call(store, [value, address, align, mask])
        return context.get_dummy_value()

    return signature, codegen


def _inverse_root(builder, x, vector, size):
    """Return 1/√x of a vector to about 1 ulp, x ≥ 0 (a huge number for 0): a guess by bits, two fourth-order steps.

    With e = 1 − x·y²: y ← y·(1 + e/2 + 3e²/8 + 5e³/16); the guess has |e| < 0.07, so 24 bits need 1½ steps.
    """
    lanes = vector.count
    whole = ir.VectorType(ir.IntType(size * 8), lanes)
    magic = 0x5FE6EB50C7B537A9 if size == 8 else 0x5F375A86

    def all_of(value):
        return ir.Constant(vector, [value] * lanes)

    shifted = builder.lshr(builder.bitcast(x, whole), ir.Constant(whole, [1] * lanes))
    y = builder.bitcast(builder.sub(ir.Constant(whole, [magic] * lanes), shifted), vector)
    for order in (3, 3 if size == 8 else 1):
        e = _multiply_add(builder, builder.fneg(builder.fmul(x, y)), y, all_of(1.0))
        series = all_of((0.5, 0.375, 0.3125)[order - 1])
        for c in (0.5, 0.375)[order - 2 :: -1] if order > 1 else ():
            series = _multiply_add(builder, series, e, all_of(c))
        y = _multiply_add(builder, builder.fmul(y, e), series, y)
    return y


def _of_one(builder, beta, floor, vector, size):
    """Make the code for β = 1: X / WH, and no power."""
    least = _broadcast(builder, floor, vector)

    def form(wh, x):
        return builder.fdiv(x, builder.select(builder.fcmp_ordered("<", wh, least), least, wh)), None

    return form


def _of_zero(builder, beta, floor, vector, size):
    """Make the code for β = 0: 1/WH once."""
    least, one = _broadcast(builder, floor, vector), ir.Constant(vector, [1.0] * vector.count)

    def form(wh, x):
        power = builder.fdiv(one, builder.select(builder.fcmp_ordered("<", wh, least), least, wh))
        return builder.fmul(builder.fmul(x, power), power), power

    return form


def _of_half(builder, beta, floor, vector, size):
    """Make the code for β = ½: 1/√WH once."""
    least = _broadcast(builder, floor, vector)

    def form(wh, x):
        power = _inverse_root(builder, builder.select(builder.fcmp_ordered("<", wh, least), least, wh), vector, size)
        return builder.fmul(builder.fmul(x, power), builder.fmul(power, power)), power

    return form


def _of_three_halves(builder, beta, floor, vector, size):
    """Make the code for β = 1½: √WH, which has no floor, is WH/√WH."""
    lanes = vector.count
    kind = builder.module, ir.FunctionType(vector, [vector]), f"llvm.sqrt.v{lanes}f{size * 8}"
    root = builder.call(cgutils.get_or_insert_function(*kind), [_broadcast(builder, floor, vector)])
    most = builder.fdiv(ir.Constant(vector, [1.0] * lanes), root)

    def form(wh, x):
        inverse = _inverse_root(builder, wh, vector, size)
        high = builder.select(builder.fcmp_ordered(">", inverse, most), most, inverse)
        return builder.fmul(x, high), builder.fmul(wh, inverse)

    return form


def _of_three(builder, beta, floor, vector, size):
    """Make the code for β = 3, which has no floors."""

    def form(wh, x):
        return builder.fmul(x, wh), builder.fmul(wh, wh)

    return form


def _of_any(builder, beta, floor, vector, size):
    """Make the code for any β: one power, and a product or a quotient for the other.

    For 1 < β < 2 this power is WH^(β−1), which has no floor, and else WH^(β−2), which has that of WH^(β−1).
    """

    def number(value):
        return ir.Constant(beta.type, value)

    def chosen(where, a, b):
        return _broadcast(builder, builder.select(where, a, b), vector)

    none, one = ir.Constant(vector.element, 0.0), ir.Constant(vector, [1.0] * vector.count)
    below = builder.fcmp_ordered("<", beta, number(1.0))
    between = builder.and_(builder.fcmp_ordered(">", beta, number(1.0)), builder.fcmp_ordered("<", beta, number(2.0)))
    powers = _Powers(builder, builder.fsub(beta, builder.select(between, number(1.0), number(2.0))), vector, size)
    low, limit = chosen(below, floor, none), chosen(between, floor, none)
    least = _broadcast(builder, floor, vector)
    most = builder.fdiv(powers.of(least), least)
    kind = ir.VectorType(ir.IntType(1), vector.count)
    middle = _broadcast(builder, between, kind)

    def form(wh, x):
        floored = builder.select(builder.fcmp_ordered("<", wh, low), low, wh)
        power = powers.of(floored)
        high = builder.fdiv(power, builder.select(middle, floored, one))
        high = builder.select(builder.fcmp_ordered("<", wh, limit), most, high)
        return builder.fmul(x, high), builder.fmul(power, builder.select(middle, one, floored))

    return form


def _joined(builder, vectors):
    """Return two or four vectors, or one, as a longer one."""
    while len(vectors) > 1:
        every = list(range(2 * vectors[0].type.count))
        order = ir.Constant(ir.VectorType(ir.IntType(32), len(every)), every)
        vectors = [builder.shuffle_vector(a, b, order) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def _parted(builder, vector, parts):
    """Return the parts of a long vector."""
    lanes = vector.type.count // parts
    kind, none = ir.VectorType(ir.IntType(32), lanes), ir.Constant(vector.type, ir.Undefined)
    orders = [ir.Constant(kind, list(range(p * lanes, (p + 1) * lanes))) for p in range(parts)]
    return [builder.shuffle_vector(vector, none, order) for order in orders] if parts > 1 else [vector]


def _make_ratio(of, with_x: bool = True, together: int = 1):
    """Make the step that turns S = WH of a register tile into X ⊙ WH^(β−2), and Q into WH^(β−1) (not for β = 1).

    It follows the product of the tile. Without X, S itself becomes WH^(β−1). `together`: rows that are worked on at a
    time, a power of two.
    """

    @intrinsic
    def ratio(typingctx, s, q, s0, ld, x, x0, ldx, rows, vectors, floor, beta):
        signature = types.void(
            s, q, types.intp, types.intp, x, types.intp, types.intp, types.intp, types.intp, s.dtype, types.float64
        )  # fmt: skip

        def codegen(context, builder, sig, args):
            s, q, s0, ld, x, x0, ldx, rows, vectors, floor, beta = args
            scalar, lanes = _element(sig.args[0])
            size = sig.args[0].dtype.bitwidth // 8
            vector = ir.VectorType(scalar, lanes)
            sp = builder.gep(_data(context, builder, sig.args[0], s), [s0])
            qp = builder.gep(_data(context, builder, sig.args[1], q), [s0])
            xp = builder.gep(_data(context, builder, sig.args[4], x), [x0])
            several = ir.VectorType(scalar, lanes * together)
            form, value = of(builder, beta, floor, several, size), ir.Constant(several, [1.0] * several.count)
            along_rows = cgutils.for_range_slice(builder, _constant(0), rows, _constant(together), INDEX)
            with along_rows as (row, _), cgutils.for_range(builder, vectors, intp=INDEX) as column:
                along = builder.mul(column.index, _constant(lanes))

                def places(stride):
                    each = [builder.add(row, _constant(r)) for r in range(together)]
                    return [builder.add(builder.mul(r, stride), along) for r in each]

                at = places(ld)
                wh = _joined(builder, [_load(builder, sp, place, vector, size) for place in at])
                if with_x:
                    value = _joined(builder, [_load(builder, xp, place, vector, size) for place in places(ldx)])
                ratio, power = form(wh, value)
                for to, made in ((sp, ratio if with_x else power), (qp, power if with_x else None)):
                    if made is not None:
                        for place, part in zip(at, _parted(builder, made, together), strict=True):
                            _store(builder, part, to, place, vector, size)
            return context.get_dummy_value()

        return signature, codegen

    return ratio


# A general power is a long chain of operations: the processor works on two of them at a time. Four at a time saved 2 to
# 5 % of the time, for code of twice the size.
_OF = (_of_one, _of_zero, _of_half, _of_three_halves, _of_three)
ratio_one, ratio_zero, ratio_half, ratio_three_halves, ratio_three = (_make_ratio(of) for of in _OF)
power_zero, power_half, power_three_halves, power_three = (_make_ratio(of, with_x=False) for of in _OF[1:])
ratio_any, power_any = (_make_ratio(_of_any, with_x, together=2) for with_x in (True, False))


def _make_formed(of):
    """Make a register tile of WH that meanwhile turns the one above it into X ⊙ WH^(β−2), and Q into WH^(β−1).

    The divider works beside the multipliers then, and loads and stores fit in between. The bits are those of a product
    and a `ratio` after it.
    """
    vectors, rows = 3, STRIP[3]

    @intrinsic
    def formed(typingctx, f, f0, kp, h, h0, ldh, k, s, q, s0, ld, x, x0, ldx, above, floor, beta):
        """s[s0 + r·ld :] = Σ_t f[f0 + r·kp + t]·h[h0 + t·ldh :], three vectors, r < STRIP[3].

        With above = 1 row r of the tile above, s[s0 + (r − STRIP[3])·ld :], is turned at term r, and k is at least
        STRIP[3].
        """
        i = types.intp
        signature = types.void(f, i, i, h, i, i, i, s, q, i, i, x, i, i, i, f.dtype, types.float64)

        def codegen(context, builder, sig, args):
            f, f0, kp, h, h0, ldh, k, s, q, s0, ld, x, x0, ldx, above, floor, beta = args
            scalar, lanes = _element(sig.args[0])
            size = sig.args[0].dtype.bitwidth // 8
            vector = ir.VectorType(scalar, lanes)
            fp = builder.gep(_data(context, builder, sig.args[0], f), [f0])
            hp = builder.gep(_data(context, builder, sig.args[3], h), [h0])
            sp = builder.gep(_data(context, builder, sig.args[7], s), [s0])
            qp = builder.gep(_data(context, builder, sig.args[8], q), [s0])
            xp = builder.gep(_data(context, builder, sig.args[11], x), [x0])
            form, offsets = of(builder, beta, floor, vector, size), [builder.mul(kp, _constant(r)) for r in range(rows)]
            at_v = [_constant(v * lanes) for v in range(vectors)]

            def turn(t):
                row = builder.sub(t, _constant(rows))
                at, at_x = builder.mul(row, ld), builder.mul(row, ldx)
                for v in at_v:
                    place, value = builder.add(at, v), _load(builder, xp, builder.add(at_x, v), vector, size)
                    ratio, power = form(_load(builder, sp, place, vector, size), value)
                    _store(builder, ratio, sp, place, vector, size)
                    if power is not None:
                        _store(builder, power, qp, place, vector, size)

            def terms(first, last, starts, turning):
                """Add terms first … last to the sums; with `turning`, turn a row of the tile above at each."""
                before, body, behind = (
                    builder.block, builder.append_basic_block("terms"), builder.append_basic_block("terms.end")
                )  # fmt: skip
                builder.cbranch(builder.icmp_signed("<", first, last), body, behind)
                builder.position_at_end(body)
                t, sums = builder.phi(INDEX), [builder.phi(vector) for _ in range(rows * vectors)]
                at_h = builder.mul(t, ldh)
                of_h = [_load(builder, hp, builder.add(at_h, v), vector, size) for v in at_v]
                new = []
                for r in range(rows):
                    number = builder.load(builder.gep(fp, [builder.add(offsets[r], t)]))
                    number = _broadcast(builder, number, vector)
                    of_row = sums[r * vectors : (r + 1) * vectors]
                    new += [_multiply_add(builder, number, b, old) for b, old in zip(of_h, of_row, strict=True)]
                if turning:
                    turn(t)
                after = builder.add(t, _constant(1))
                builder.cbranch(builder.icmp_signed("<", after, last), body, behind)
                builder.position_at_end(behind)
                ends = [builder.phi(vector) for _ in sums]
                for phi, start, end in zip((t, *sums), (first, *starts), (after, *new), strict=True):
                    phi.add_incoming(start, before)
                    phi.add_incoming(end, body)
                for phi, start, end in zip(ends, starts, new, strict=True):
                    phi.add_incoming(start, before)
                    phi.add_incoming(end, body)
                return ends

            sums = [ir.Constant(vector, [0.0] * lanes)] * (rows * vectors)
            turned = builder.mul(above, _constant(rows))
            sums = terms(_constant(0), turned, sums, True)
            sums = terms(turned, k, sums, False)
            for r in range(rows):
                for v in range(vectors):
                    place = builder.add(builder.mul(ld, _constant(r)), at_v[v])
                    _store(builder, sums[r * vectors + v], sp, place, vector, size)
            return context.get_dummy_value()

        return signature, codegen

    return formed


formed_one, formed_three = _make_formed(_of_one), _make_formed(_of_three)
