"""Powers, logarithms and exponentials as straight-line arithmetic.

Calls of pow, log and exp in a loop keep LLVM from vectorising it.
"""

import numpy as np

from ._decorators import exact, inner
from ._ratios import raise_line
from ._simd import (
    bits_of_double,
    double_of_bits,
    out_of_line,
)

LN2 = 0.6931471805599453
MAGIC = 6755399441055744.0  # 1.5 · 2^52: adding it rounds a small double to an integer in its low bits


@exact
def logarithm(x):
    """Return the logarithm of a positive normal double, to about 2 ulp: 2·artanh((m − 1)/(m + 1)) + e·ln 2."""
    bits = bits_of_double(x)
    # the exponent, counted so that the mantissa m lies in [√½, √2)
    exponent = (bits - np.int64(0x3FE6A09E667F3BCD)) >> 52
    m = double_of_bits(bits - (exponent << 52))
    e = double_of_bits(exponent + np.int64(0x4338000000000000)) - MAGIC
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = 1 / 21.0
    series = series * z + 1 / 19.0
    series = series * z + 1 / 17.0
    series = series * z + 1 / 15.0
    series = series * z + 1 / 13.0
    series = series * z + 1 / 11.0
    series = series * z + 1 / 9.0
    series = series * z + 1 / 7.0
    series = series * z + 1 / 5.0
    series = series * z + 1 / 3.0
    return e * LN2 + (2.0 * s + 2.0 * s * z * series)


@exact
def exponential(y):
    """Return e^y: zero for y below −708, infinity above 709."""
    y = min(max(y, -745.0), 710.0)
    shifted = y * (1.0 / LN2) + MAGIC
    n = shifted - MAGIC
    f = (y - n * 0.6931471803691238) - n * 1.9082149292705877e-10  # ln 2 in two parts
    series = 1 / 6227020800.0
    series = series * f + 1 / 479001600.0
    series = series * f + 1 / 39916800.0
    series = series * f + 1 / 3628800.0
    series = series * f + 1 / 362880.0
    series = series * f + 1 / 40320.0
    series = series * f + 1 / 5040.0
    series = series * f + 1 / 720.0
    series = series * f + 1 / 120.0
    series = series * f + 1 / 24.0
    series = series * f + 1 / 6.0
    series = series * f + 0.5
    series = series * f + 1.0
    series = series * f + 1.0
    exponent = bits_of_double(shifted) - np.int64(0x4338000000000000)
    # in two factors, so that neither leaves the range of exponents
    low = exponent >> 1
    return series * double_of_bits((low + 1023) << 52) * double_of_bits((exponent - low + 1023) << 52)


@exact
def power(x, p):
    """Return x^p for x ≥ 0; 0^p is 0 for p > 0 and infinity for p < 0. Subnormal x counts as zero."""
    value = exponential(p * logarithm(max(x, 2.2250738585072014e-308)))
    if x < 2.2250738585072014e-308:
        value = 0.0 if p > 0 else np.inf
    return value


@exact
def inverse_root(x):
    """Return 1/√x to about 1 ulp: four Newton steps from a guess by bits, faster than the root and the division."""
    y = double_of_bits(np.int64(0x5FE6EB50C7B537A9) - (bits_of_double(x) >> 1))
    half_x = 0.5 * x
    y = y * (1.5 - half_x * y * y)
    y = y * (1.5 - half_x * y * y)
    y = y * (1.5 - half_x * y * y)
    return y * (1.5 - half_x * y * y)


@inner
def raise_to(s, p):
    """Raise s to the power p in place. Multiples of ½ up to 4 are made of roots and products."""
    out_of_line()
    n, one = s.size, s.dtype.type(1)
    twice = int(2 * p)
    if twice == 2 * p and abs(twice) <= 8:
        whole, odd = abs(twice) // 2, abs(twice) % 2
        if odd and s.itemsize == 8:
            for j in range(n):
                x = s[j]
                root = inverse_root(np.float64(x))
                step = root * root if twice < 0 else np.float64(x)
                root = root if twice < 0 else x * root
                s[j] = root if whole == 0 else root * step if whole == 1 else root * step * (
                    step if whole == 2 else step * step
                )  # fmt: skip
            return
        if odd:
            for j in range(n):
                root = np.sqrt(s[j])
                s[j] = root if whole == 0 else root * s[j] if whole == 1 else root * s[j] * (
                    s[j] if whole == 2 else s[j] * s[j]
                )  # fmt: skip
        else:
            for j in range(n):
                square = s[j] * s[j]
                s[j] = (
                    one if whole == 0 else s[j] if whole == 1 else square if whole == 2
                    else square * s[j] if whole == 3 else square * square
                )  # fmt: skip
        if twice < 0:
            for j in range(n):
                s[j] = one / s[j]
        return
    raise_line(s, n, p)
