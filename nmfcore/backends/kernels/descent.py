"""Coordinate descent on rows of a factor, and the fused pass over X of the Frobenius loss."""

import numpy as np

from ..operations import CROSS, KKT, SQUARE, STATS, SWEEPS, TOTAL, UNSETTLED, VIOLATION
from ._decorators import inner, kernel, once
from ._pairs import max, min
from ._simd import (
    GRAIN,
    begin_line,
    bound_line,
    line4,
    out_of_line,
    step_line,
    transpose,
    turn_line,
    view,
)
from .arguments import TALL, Block
from .buffers import ALIGN, aligned, clear, copy_rows, lanes_of, leading, pad_rows, round_up, zeros
from .multiplicative import add_weighed, multiply_rows
from .product import (
    DEPTH,
    accumulate_gram,
    accumulate_products,
    accumulate_weighed,
    add_rows,
    add_terms,
    columns_of,
    coming_of,
    depth_of,
    ending_in_half,
    held_back,
    lies_well,
    nothing_coming,
    product,
    rows_of_tile,
    sparse_add_products,
    sparse_rows_times,
    strip_coming,
    strip_of,
    weigh_rows,
)
from .reading import STORED, load_tile, longest_row


@inner
def conjugate_steps(W, C, Gp, k, kp, width, l1, keep, scratch, iterations, square):
    """Take up to `iterations` conjugate gradient steps on the free entries (w > 0) of rows that still move, in place.

    Where G is ill-conditioned, a point that takes hundreds of sweeps is found in about k of these steps. G is
    preconditioned by its diagonal. A step ends at the first bound that it meets, and the next direction is the
    gradient again. A row rests once the square of its residual is at most `square` × that at the beginning. W and C
    are component-major, as in `sweep_rows`.
    """
    out_of_line()
    size = kp * width
    R, P, Q, rest = scratch[:size], scratch[size : 2 * size], scratch[2 * size : 3 * size], scratch[3 * size :]
    rho, least, length = rest[:width], rest[width : 2 * width], rest[2 * width : 3 * width]
    bound, renewed = rest[3 * width : 4 * width], rest[4 * width : 5 * width]
    going, inverse = rest[5 * width : 6 * width], rest[6 * width : 6 * width + kp]
    zero, one, far = W.dtype.type(0), W.dtype.type(1), W.dtype.type(np.inf)
    near = W.dtype.type(1e-6)  # an entry that a step reduces to this share of itself has met its bound
    for b in range(width):
        rho[b] = zero
    for t in range(k):
        at, hess = t * width, Gp[t * kp + t]
        inverse[t] = one / hess if hess != 0 else zero
        line4(Gp, t * kp, kp, 1, W, 0, width, Q, at, width, k, 0)
        begin_line(W, C, Q, R, P, at, keep, rho, l1, inverse[t])
    for b in range(width):
        least[b] = square * rho[b]
    for _ in range(iterations):
        for b in range(width):
            length[b] = zero
            bound[b] = far
            renewed[b] = zero
        for t in range(k):
            at = t * width
            line4(Gp, t * kp, kp, 1, P, 0, width, Q, at, width, k, 0)
            bound_line(W, P, Q, at, length, bound)
        for b in range(width):
            step = rho[b] / length[b] if length[b] > zero else zero
            length[b] = min(step, bound[b])
            bound[b] = one if step < bound[b] else zero  # whether the whole step is taken
        for t in range(k):
            step_line(W, P, Q, R, t * width, length, renewed, near, inverse[t])
        moving = 0
        for b in range(width):
            bound[b] = bound[b] * renewed[b] / rho[b] if rho[b] > zero else zero
            rho[b] = renewed[b]
            going[b] = one if rho[b] > least[b] else zero
            moving += rho[b] > least[b]
        if moving == 0:
            break
        for t in range(k):
            turn_line(W, R, P, t * width, bound, going, inverse[t])


@inner
def sweep_rows(Fp, Cp, kp, rows, Gp, k, l1, descent, conjugate, scratch, stats, weights):
    """Coordinate descent on the rows of F, in place: each row until it has settled, with at most `sweeps` sweeps.

    For each row f, ½ fᵀGf − (c − l1)ᵀf is minimised over f ≥ 0; G has the L2 penalty on its diagonal. `descent` is
    (order of the components, sweeps, tol, delta). A row has settled, and is frozen from then on, once its violation
    Σ_t |projected gradient| is at most tol × that of its first sweep; with delta > 0, once the square of its step is
    below delta² × that of its first. After every fourth sweep, rows that still move take up to `conjugate` steps of
    `conjugate_steps`. `weights` is None, or how often each row counts in the violation and the KKT residual.

    Rows are transposed to component-major order, four vectors of rows at a time: each step is then a broadcast and a
    multiply-add, and no step needs a sum across a vector.
    """
    out_of_line()
    order, sweeps, tol, delta = descent
    lanes = lanes_of(Fp)
    width = 4 * lanes
    W, C = scratch[: kp * width], scratch[kp * width : 2 * kp * width]
    g = scratch[2 * kp * width : (2 * kp + 1) * width]
    moved = scratch[(2 * kp + 1) * width : (2 * kp + 2) * width]
    limit = scratch[(2 * kp + 2) * width : (2 * kp + 3) * width]
    keep = scratch[(2 * kp + 3) * width : (2 * kp + 4) * width]  # 1 where a row still moves, else 0
    first, now = aligned(width, stats), aligned(width, stats)
    newton = aligned(width if weights is not None else 0, stats)  # the KKT residual of each row
    violation = 0.0
    kkt = 0.0
    most = 0
    unsettled = 0
    zero, one = Fp.dtype.type(0), Fp.dtype.type(1)
    square = Fp.dtype.type(delta * delta)
    for i0 in range(0, rows, width):
        live = min(width, rows - i0)
        for b in range(0, width, lanes):
            for t in range(0, kp, lanes):
                transpose(Fp, (i0 + b) * kp + t, kp, W, t * width + b, width)
                transpose(Cp, (i0 + b) * kp + t, kp, C, t * width + b, width)
        for b in range(width):
            keep[b] = one if b < live else zero
        for s in range(sweeps):
            for b in range(width):
                now[b] = 0.0
                moved[b] = zero
                if weights is not None:
                    newton[b] = 0.0
            for position in range(k):
                t = order[position]
                line4(Gp, t * kp, kp, 1, W, 0, width, g, 0, width, k, 0)
                hess = Gp[t * kp + t]
                inverse = 1 / hess if hess != 0 else zero
                at = t * width
                w_t, c_t = W[at : at + width], C[at : at + width]
                if s == 0:
                    weighed = np.float64(0.0)
                    for b in range(width):
                        w = w_t[b]
                        gradient = g[b] - c_t[b] + l1
                        projected = min(gradient, zero) if w == 0 else gradient
                        now[b] += abs(np.float64(projected))
                        new = max(w - gradient * inverse, zero)
                        step = np.float64(new - w)
                        weighed += step * step
                        if weights is not None:
                            newton[b] += step * step * hess
                        w_t[b] = new if hess != 0 else w
                        moved[b] += (new - w) * (new - w) if hess != 0 else zero
                    if weights is None:  # noqa: SIM102 (this test stands alone, see below)
                        if hess != 0:
                            kkt += weighed * hess
                elif delta > 0:
                    if hess != 0:
                        for b in range(width):
                            w = w_t[b]
                            new = max(w - (g[b] - c_t[b] + l1) * inverse, zero)
                            new = new if keep[b] > zero else w
                            moved[b] += (new - w) * (new - w)
                            w_t[b] = new
                else:
                    for b in range(width):
                        w = w_t[b]
                        gradient = g[b] - c_t[b] + l1
                        projected = min(gradient, zero) if w == 0 else gradient
                        now[b] += abs(np.float64(projected))
                        new = max(w - gradient * inverse, zero)
                        w_t[b] = new if hess != 0 and keep[b] > zero else w
            going = 0
            if s == 0:
                for b in range(live):
                    if weights is None:
                        violation += now[b]
                    else:
                        violation += now[b] * weights[i0 + b]
                        kkt += newton[b] * weights[i0 + b]
                    first[b] = now[b]
                    limit[b] = moved[b] * square
            if delta > 0:
                for b in range(live):
                    keep[b] = keep[b] if moved[b] > limit[b] else zero
            else:
                for b in range(live):
                    keep[b] = zero if now[b] <= tol * first[b] else keep[b]
            for b in range(live):
                going += keep[b] > zero
            most = max(most, s + 1)
            if going == 0:
                break
            if conjugate is not None:  # noqa: SIM102 (Numba drops the rest only if this test stands alone)
                if conjugate > 0 and s % 4 == 3 and s < sweeps - 1:
                    room = scratch[(2 * kp + 4) * width :]
                    conjugate_steps(W, C, Gp, k, kp, width, l1, keep, room, conjugate, square)
            if s == sweeps - 1:
                unsettled += going
        for b in range(0, width, lanes):
            for t in range(0, kp, lanes):
                transpose(W, t * width + b, width, Fp, (i0 + b) * kp + t, kp)
    stats[VIOLATION] += violation
    stats[KKT] += kkt
    stats[SWEEPS] = max(stats[SWEEPS], most)
    stats[UNSETTLED] += unsettled


@once
def extrapolate(Fp, before, lo, rows, scale, weight, Bp, kp):
    """F ← max(0, B + weight·(B − before·scale)) in place, B = F·scale into Bp."""
    out_of_line()
    k, w, zero = scale.size // 2, Fp.dtype.type(weight), Fp.dtype.type(0)
    for i in range(rows):
        f, b, old = Fp[i * kp : i * kp + kp], Bp[i * kp : i * kp + kp], before[lo + i]
        for t in range(kp):
            b[t] = zero
        if weight == 0:  # `before` may never have been written
            for t in range(k):
                b[t] = f[t] * scale[t]
                f[t] = b[t]
        else:
            for t in range(k):
                b[t] = f[t] * scale[t]
                f[t] = max(b[t] + w * (b[t] - old[t] * scale[k + t]), zero)


@once
def subtract_from(Fp, Bp, Cp, l1, size):
    """B ← D = F − B in place. Returns ⟨C − l1, D⟩ in float64; padding adds nothing, as D is 0 there."""
    out_of_line()
    f, b, c, cross = Fp[:size], Bp[:size], Cp[:size], 0.0
    for i in range(size):
        d = f[i] - b[i]
        b[i] = d
        cross += (np.float64(c[i]) - np.float64(l1)) * np.float64(d)
    return cross


@kernel
def frobenius_pass(block, sparse, F, begin, Ht, G, penalty, descent, multiply, out, XtF, FtF, stats, weights):
    """Work through n rows of X once: C = X·Ht, new rows of F from (C, G), then XtF += Xᵀ·F and FtF += FᵀF.

    The new rows are those of `sweep_rows` with descent = (order, sweeps, tol, delta), or, with multiply = 1,
    F ⊙ C / (F·G + l1 + l2·F) with penalty = (l1, l2); the other of the two is None. XtF and FtF of no rows are left
    out. Where Ht has no rows, C is given in XtF: this is the step of the small factor, and stats[CROSS] += ⟨C, F⟩,
    stats[SQUARE] += ⟨G, FᵀF⟩.

    begin: None, or the fields of a `Beginning`. With a scale of 2k numbers, the sweeps begin at
    max(0, B + weight·(B − before·scale)), B = F·scale, instead of at F. For the step D = F − B of the new F from B,
    FtD += [FᵀD; DᵀD], if it has rows, and stats[CROSS] += ⟨C − l1, D⟩: the decrease of the loss from B to F follows
    from these without cancellation. With a scale of no numbers, of the beginning only `conjugate` counts, for which
    see `sweep_rows`; this spares small fits a kernel of its own.

    sparse: None if X is dense, 1 if it is CSR: a kernel for one has no code for the other.

    weights: None, or u_i ≥ 0 by which row i counts in all sums: XtF += XᵀUF, FtF += FᵀUF, FtD += [FᵀUD; DᵀUD], and
    stats. The new rows do not depend on them.

    `sparse`, `begin`, `descent`, `multiply` and `weights` are tested for None one by one: Numba leaves out the code
    behind such a test where the argument is None, and only there.
    """
    x = Block(*block)
    n, m, k, size, lanes = x.rows, x.columns, F.shape[1], F.itemsize, lanes_of(F)
    l1, l2 = F.dtype.type(penalty[0]), F.dtype.type(penalty[1])
    given, kp, kh = Ht.shape[0] == 0, round_up(k, lanes), ending_in_half(k, lanes)
    strip, height = m, x.height
    if sparse is None:
        strip = m if given else strip_of(m, k, size)
        height = height if strip == m else np.intp(TALL)
    ld = leading(strip)
    step = max(4 * lanes, ALIGN)  # rows of a sweep
    height = round_up(min(height, n), step)
    hold = held_back(x.code, size, m, sparse is None and not given)
    well = hold >= 0 and x.code == 10 and lies_well(x)
    # One piece of memory for all buffers: allocating each on its own took a tenth of the time of a small fit.
    of_tile, of_F, of_G = height * ld if sparse is None else 0, height * kp, round_up(k, ALIGN) * round_up(kp, ALIGN)
    of_H, of_c = round_up(m, ALIGN) * kp, (round_up(max(strip, k), ALIGN) + 2 * ALIGN) * kp
    of_D = 0 if multiply is None and begin is None else of_F
    of_U = 0 if weights is None else of_F
    of_sweep = (2 * kp + 4) * step if begin is None else (5 * kp + 10) * step + kp
    memory = aligned(of_tile + 2 * of_F + of_D + of_G + of_H + of_c + of_sweep + of_U + 4 * ALIGN, F)
    copied, Fp = memory[: of_tile + ALIGN], memory[of_tile + ALIGN :]
    Cp = Fp[of_F:]
    Gp = Cp[of_F:]
    Htp = Gp[of_G:]
    c = Htp[of_H:]
    scratch = c[of_c:]
    Dp = Bp = scratch[of_sweep:]
    Up = Dp[of_D:]  # the rows of F as they are weighed
    of_row = zeros(STATS if weights is not None and multiply is not None else 0, stats)
    longest, of_sums = np.intp(0), np.intp(0)
    if sparse is not None:
        longest, of_sums = max(STORED, longest_row(x)), m * kp if XtF.shape[0] else np.intp(0)
    run, sums = aligned(longest, F), zeros(of_sums, stats)
    if not given:
        pad_rows(Ht, np.intp(0), m, Htp, kp)
    pad_rows(G, np.intp(0), k, Gp, kp)
    hess = aligned(k, stats)
    for t in range(k):
        hess[t] = G[t, t] + l2
        if descent is not None:
            Gp[t * kp + t] += l2
    i0 = np.intp(0)  # for a literal Numba would compile a copy of every inner function
    while i0 < n:
        rows = rows_of_tile(i0, n, height, hold)
        padded, whole = round_up(rows, step), round_up(rows, GRAIN)
        tile, at_x, coming = copied, ld, nothing_coming(x)
        if given:
            pad_rows(XtF, i0, rows, Cp, kp)
            whole = rows
        elif sparse is not None:
            sparse_rows_times(x, i0, rows, Htp, kp, Cp, run, np.zeros((0, 0)))
            whole = rows
        elif strip < m:
            for j0 in range(0, m, strip):
                columns = min(strip, m - j0)
                load_tile(columns_of(x, j0, columns), None, i0, rows, whole, tile, ld, run)
                of_strip = Htp[j0 * kp :]
                coming = strip_coming(x, i0, rows, j0 + strip, strip)
                add_terms(tile, ld, np.intp(1), of_strip, kp, Cp, kp, whole, columns, kh, np.intp(DEPTH), j0, coming)
        else:
            if well and rows == whole and n - i0 - rows >= hold:
                tile, at_x = view(x.address + i0 * x.row_stride, copied), x.row_stride // size
            else:
                load_tile(x, None, i0, rows, whole, tile, ld, run)
            coming = coming_of(x, i0 + rows, min(rows, n - i0 - rows), m)
            ahead = add_terms(
                tile, at_x, np.intp(1), Htp, kp, Cp, kp, whole, m, kh, depth_of(m, size), np.intp(0), coming
            )
            coming = ahead, coming[1], coming[2], coming[3]
        pad_rows(F, i0, rows, Fp, kp)
        clear(Cp, whole * kp, padded * kp)
        clear(Fp, rows * kp, padded * kp)
        if begin is not None:
            before, scale, weight, FtD, _ = begin
            if scale.size:
                extrapolate(Fp, before, i0, rows, scale, weight, Bp, kp)
                clear(Bp, rows * kp, padded * kp)
        if multiply is not None:
            product(Fp, kp, np.intp(1), Gp, kp, Dp, kp, padded, k, kp, np.intp(DEPTH))
            one, zero = np.float64(1.0), np.float64(0.0)
            if weights is None:
                multiply_rows(Fp, Cp, Dp, kp, np.intp(0), rows, k, (l1, l2), one, zero, hess, stats)
            else:
                for i in range(rows):
                    multiply_rows(Fp, Cp, Dp, kp, i, np.intp(1), k, (l1, l2), one, zero, hess, of_row)
                    add_weighed(of_row, weights[i0 + i], stats)
        if descent is not None:
            conjugate = None if begin is None else begin[4]
            of_rows = None if weights is None else weights[i0 : i0 + rows]
            sweep_rows(Fp, Cp, kp, rows, Gp, k, l1, descent, conjugate, scratch, stats, of_rows)
        if weights is None:
            stats[TOTAL] += copy_rows(Fp, kp, rows, out, i0)
            Up = Fp
        else:
            copy_rows(Fp, kp, rows, out, i0)
            stats[TOTAL] += weigh_rows(Fp, kp, rows, weights, i0, Up)
        if given:
            cross = 0.0
            for i in range(rows):
                c_i, f_i = XtF[i0 + i], Up[i * kp : i * kp + kp]
                for t in range(k):
                    cross += c_i[t] * f_i[t]
            stats[CROSS] += cross
        elif XtF.shape[0]:
            if sparse is not None:
                sparse_add_products(x, i0, rows, Up, kp, k, sums, run)
            elif strip < m:
                for j0 in range(0, m, strip):
                    columns = min(strip, m - j0)
                    load_tile(columns_of(x, j0, columns), None, i0, rows, whole, tile, ld, run)
                    coming = strip_coming(x, i0 if j0 + strip < m else i0 + rows, height, j0 + strip, strip)
                    accumulate_products(tile, ld, columns, Up, kp, rows, c, XtF[j0 : j0 + columns], coming)
            else:
                accumulate_products(tile, at_x, m, Up, kp, rows, c, XtF, coming)
        if FtF.shape[0]:
            if weights is None:
                accumulate_gram(Fp, kp, rows, c, FtF)
            else:
                accumulate_weighed(Fp, Up, kp, rows, c, FtF)
        if begin is not None:
            FtD = begin[3]
            if FtD.shape[0]:
                if weights is None:
                    stats[CROSS] += subtract_from(Fp, Bp, Cp, l1, rows * kp)
                else:
                    for i in range(rows):
                        at = i * kp
                        stats[CROSS] += weights[i0 + i] * subtract_from(Fp[at:], Bp[at:], Cp[at:], l1, kp)
                product(Up, np.intp(1), kp, Bp, kp, c, kp, round_up(k, GRAIN), rows, kp, np.intp(DEPTH))
                add_rows(c, kp, FtD[:k])
                if weights is None:
                    Up = Bp
                else:
                    weigh_rows(Bp, kp, rows, weights, i0, Up)
                product(Bp, np.intp(1), kp, Up, kp, c, kp, round_up(k, GRAIN), rows, kp, np.intp(DEPTH))
                add_rows(c, kp, FtD[k:])
        i0 += rows
    if sparse is not None:  # noqa: SIM102
        if XtF.shape[0]:
            add_rows(sums, kp, XtF)
    if given and FtF.shape[0]:
        for t in range(k):
            for u in range(k):
                stats[SQUARE] += G[t, u] * FtF[t, u]
