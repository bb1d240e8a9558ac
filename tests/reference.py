r"""Naive twins: the mathematics of NMF written as plainly as possible, loops and all.

Written from the formulas, not from anybody's code, for tests to compare with.  Everything is
computed in float64.  X is n×m, W n×k, H k×m; F stands for either factor's rows (W, or Hᵀ).

The objective is D_β(X | WH) + l1_W ΣW + l1_H ΣH + ½ l2_W ‖W‖² + ½ l2_H ‖H‖².
"""

import math

import numpy as np

EPSILON = float(np.finfo(np.float32).eps)  # floor of denominators and of W·H
TINY = float(np.finfo(np.float64).eps)  # below it a factor's entry becomes zero (small β)


def dense(X):
    """X as a float64 ndarray, whatever it was."""
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float64)


def penalties(n, m, alpha_W=0.0, alpha_H="same", l1_ratio=0.0):
    """scikit-learn's scaled penalties: (l1_W, l1_H, l2_W, l2_H)."""
    alpha_H = alpha_W if isinstance(alpha_H, str) else alpha_H
    return (
        m * alpha_W * l1_ratio,
        n * alpha_H * l1_ratio,
        m * alpha_W * (1 - l1_ratio),
        n * alpha_H * (1 - l1_ratio),
    )


def gamma(beta):
    """Exponent that makes the multiplicative update monotone (Févotte & Idier 2011)."""
    if beta < 1:
        return 1 / (2 - beta)
    if beta > 2:
        return 1 / (beta - 1)
    return 1.0


# --- products -----------------------------------------------------------------------------------


def products(X, Ht):
    """C = X·Ht, C[i, t] = Σ_j X[i, j] Ht[j, t]."""
    X, Ht = dense(X), dense(Ht)
    C = np.zeros((X.shape[0], Ht.shape[1]))
    for i in range(X.shape[0]):
        for t in range(Ht.shape[1]):
            C[i, t] = math.fsum(X[i, j] * Ht[j, t] for j in range(X.shape[1]))
    return C


def add_products(X, F, out):
    """out + Xᵀ·F."""
    return dense(out) + products(dense(X).T, F)


def gram(F):
    """Fᵀ·F."""
    return products(dense(F).T, F)


# --- losses -------------------------------------------------------------------------------------


def beta_divergence(X, W, H, beta):
    """D_β(X | WH), summed entry by entry.

    β = 2: ½(x−y)².  β = 1: x log(x/y) − x + y.  β = 0: x/y − log(x/y) − 1.
    Otherwise (x^β + (β−1) y^β − β x y^(β−1)) / (β(β−1)).  For β ≠ 2 entries of X up to EPSILON
    count as zero (their x-terms vanish), and y is at least EPSILON beside an x above it.
    """
    X, WH = dense(X), products(W, dense(H).T.T)
    terms = []
    for x, y in zip(X.ravel(), WH.ravel(), strict=True):
        if beta == 2:
            terms.append(0.5 * (x - y) ** 2)
            continue
        here = x > EPSILON
        safe = max(y, EPSILON)
        if beta == 1:
            terms.append(y - x + (x * math.log(x / safe) if here else 0.0))
        elif beta == 0:
            terms.append((x / safe - math.log(x / safe) if here else 0.0) - 1)
        else:
            term = (beta - 1) * (y**beta if y > 0 or beta > 0 else safe**beta)
            if here:
                term += x**beta - beta * x * safe ** (beta - 1)
            terms.append(term / (beta * (beta - 1)))
    return math.fsum(terms)


def trace_loss(X, W, H):
    """½‖X−WH‖² as ½(‖X‖² − 2⟨XᵀW, Hᵀ⟩ + ⟨WᵀW, HHᵀ⟩)."""
    X, W, Ht = dense(X), dense(W), dense(H).T
    cross = math.fsum((products(X.T, W) * Ht).ravel())
    square = math.fsum((gram(W) * gram(Ht)).ravel())
    return 0.5 * (math.fsum((X * X).ravel()) - 2 * cross + square)


def objective(X, W, H, beta=2, l1_W=0.0, l1_H=0.0, l2_W=0.0, l2_H=0.0):
    """The penalised objective."""
    W, H = dense(W), dense(H)
    return (
        beta_divergence(X, W, H, beta)
        + l1_W * math.fsum(W.ravel())
        + l1_H * math.fsum(H.ravel())
        + 0.5 * l2_W * math.fsum((W * W).ravel())
        + 0.5 * l2_H * math.fsum((H * H).ravel())
    )


# --- coordinate descent -------------------------------------------------------------------------


def sweep(F, G, C, l1=0.0, l2=0.0, order=None):
    """One coordinate sweep over the rows of F for ½⟨F G, F⟩ − ⟨F, C⟩ + l1 ΣF + ½ l2 ‖F‖².

    Returns (new rows, violation, Σ G_tt Δ², Σ Δ²).  The violation is Σ|projected gradient|, each
    gradient taken when its coordinate is visited; the penalty l2 belongs to G_tt.  A coordinate
    whose G_tt is zero stays as it is, but counts for the violation.
    """
    F, G, C = dense(F).copy(), dense(G), dense(C)
    n, k = F.shape
    order = range(k) if order is None else order
    violation, newton, step = [], [], []
    for i in range(n):
        for t in order:
            gradient = math.fsum(F[i, s] * G[s, t] for s in range(k))
            gradient += l2 * F[i, t] - C[i, t] + l1
            violation.append(abs(min(0.0, gradient) if F[i, t] == 0 else gradient))
            curvature = G[t, t] + l2
            if curvature == 0:
                continue
            new = max(0.0, F[i, t] - gradient / curvature)
            newton.append(curvature * (new - F[i, t]) ** 2)
            step.append((new - F[i, t]) ** 2)
            F[i, t] = new
    return F, math.fsum(violation), math.fsum(newton), math.fsum(step)


def cd_iteration(X, W, H, penalty=(0, 0, 0, 0), orders=(None, None), update_H=True):
    """W's sweep, then H's.  Returns (W, H, violation, swept kkt)."""
    l1_W, l1_H, l2_W, l2_H = penalty
    X, Ht = dense(X), dense(H).T
    W, violation, newton, _ = sweep(W, gram(Ht), products(X, Ht), l1_W, l2_W, orders[0])
    if update_H:
        Ht, more, also, _ = sweep(Ht, gram(W), products(X.T, W), l1_H, l2_H, orders[1])
        violation, newton = violation + more, newton + also
    return W, Ht.T, violation, math.sqrt(newton / np.sum(X * X))


# --- accelerated HALS ---------------------------------------------------------------------------


def conjugate_steps(f, c, G, steps, square):
    """Conjugate gradients for min ½ fᵀGf − cᵀf on the free entries of one row, preconditioned by the diagonal.

    A step that meets a bound ends there, and the direction is begun anew.
    """
    f = f.copy()
    inverse = np.array([1 / g if g else 0.0 for g in np.diag(G)])
    r = np.where(f > 0, c - G @ f, 0.0)
    p = r * inverse
    rho = first = r @ (r * inverse)
    for _ in range(steps):
        curve = p @ G @ p
        step = rho / curve if curve > 0 else 0.0
        bound = min((-w / q for w, q in zip(f, p, strict=True) if q < 0), default=math.inf)
        whole, length = step < bound, min(step, bound)
        moved = f + length * p
        r = r - length * (G @ p)
        f = np.where(moved > 1e-6 * f, moved, 0.0)
        r = np.where(f > 0, r, 0.0)
        last, rho = rho, r @ (r * inverse)
        if not rho > square * first:
            break
        p = np.where(f > 0, r * inverse + (rho / last if whole else 0.0) * p, 0.0)
    return f


def settle(F, G, C, l1=0.0, l2=0.0, sweeps=1, delta=0.0, conjugate=0):
    """Sweeps over each row alone, until its step is below delta × its first one; see `conjugate_steps`."""
    F, G, C = dense(F).copy(), dense(G) + l2 * np.eye(len(G)), dense(C) - l1
    for f, c in zip(F, C, strict=True):
        for number in range(sweeps):
            old = f.copy()
            for t in range(len(f)):
                if G[t, t] > 0:
                    f[t] = max(0.0, f[t] - (f @ G[t] - c[t]) / G[t, t])
            moved = np.sum((f - old) ** 2)
            if number == 0:
                limit = delta**2 * moved
            if moved <= limit:
                break
            if conjugate and number % 4 == 3 and number < sweeps - 1:
                f[:] = conjugate_steps(f, c, G, conjugate, delta**2)
    return F


def changes(WtD, DtD, G):
    """⟨WᵀD − ½DᵀD, G⟩ and ⟨DᵀD, G⟩."""
    WtD, DtD, G = dense(WtD), dense(DtD), dense(G)
    return math.fsum(((WtD - 0.5 * DtD) * G).ravel()), math.fsum((DtD * G).ravel())


def step_ahead(Ht, before, weight, beta, sums, earlier, l1=0.0, l2=0.0, sweeps=1, delta=0.0):
    """The step of the small factor for the sums of Z = W + β(W − V), and P = max(0, step + weight·(step − before)).

    sums: XᵀW, WᵀW and [WᵀD; DᵀD] with D = W − V; earlier: XᵀV, VᵀV. Returns the step, P, PᵀP, ⟨XᵀW, P − Ht⟩ and
    ⟨(P + Ht)ᵀ(P − Ht), WᵀW⟩.
    """
    (XtW, WtW, WtD), (XtV, VtV) = map(dense, sums), map(dense, earlier)
    DtD = WtD[len(WtW) :]
    XtZ = (1 + beta) * XtW - beta * XtV
    ZtZ = (1 + beta) * WtW - beta * VtV + beta * (1 + beta) * DtD
    step = settle(Ht, ZtZ, XtZ, l1, l2, sweeps, delta)
    ahead = np.maximum(0, step + weight * (step - dense(before)))
    change = ahead - dense(Ht)
    square = products((ahead + dense(Ht)).T, change) * WtW
    return step, ahead, gram(ahead), math.fsum((XtW * change).ravel()), math.fsum(square.ravel())


def hals(X, W, H, passes, stages, penalty=(0, 0, 0, 0)):
    """Yield (W, H, loss, accepted) of every pass: Ang and Gillis' scheme as it is written, with Z formed.

    Components are rescaled after the first pass and after a rejected one: by the power of two next to
    (‖h‖ / ‖w‖)^½ without penalties, not at all with them (leave one side without for that).
    """
    l1_W, l1_H, l2_W, l2_H = penalty
    X, W, Ht = dense(X), dense(W).copy(), dense(H).T.copy()
    beta, cap, before = 0.5, 1.0, 0.5
    V, Y, hat, last, best, lowest = W, W, Ht, Ht, None, math.inf
    for number in range(passes):
        for_W, for_H = next(efforts for since, *efforts in reversed(stages) if number >= since)
        new = settle(Y, hat.T @ hat, X @ hat, l1_W, l2_W, *for_W)
        loss = objective(X, new, hat.T, 2, *penalty)
        accepted = loss <= lowest + 1e-13 * np.sum(X * X)
        lowest = min(loss, lowest)
        yield (new, hat.T, loss, True) if accepted else (*best[:3], False)
        momentum = accepted and best is not None
        if accepted:
            V, best = W if best else new, (new, hat.T, loss)
            W, begin = new, hat
            if momentum:
                step, beta, cap, before = beta, min(cap, 1.01 * beta), min(1.0, 1.005 * cap), beta
        else:
            beta, cap, begin = beta / 1.5, before, best[1].T
            V, W = best[0], best[0]
        if not momentum:
            step = 0.0
            if not any(penalty):
                d = 2.0 ** np.round(np.log2(np.sqrt(np.sum(begin**2, 0) / np.sum(W**2, 0))) / 2)
                W, begin = W * d, begin / d
            V = W
        Z = W + step * (W - V)
        made = settle(begin, Z.T @ Z, X.T @ Z, l1_H, l2_H, *for_H)
        hat = np.maximum(0, made + beta * (made - last)) if momentum else made
        Y, last = np.maximum(0, Z), made


# --- multiplicative updates ---------------------------------------------------------------------


def mu_terms(X, F, Kt, beta):
    """Numerator and denominator (both n×k) of the update of F in X ≈ F·Ktᵀ; Kt is m×k.

    N = (X ⊙ Y^(β−2)) Kt and D = Y^(β−1) Kt with Y = F Ktᵀ; where a power is negative, Y is at
    least EPSILON.
    """
    X, F, Kt = dense(X), dense(F), dense(Kt)
    n, k = F.shape
    m = Kt.shape[0]
    N, D = np.zeros((n, k)), np.zeros((n, k))
    for i in range(n):
        for j in range(m):
            y = math.fsum(F[i, t] * Kt[j, t] for t in range(k))
            low = max(y, EPSILON)
            ratio = X[i, j] * (low if beta < 2 else y) ** (beta - 2)
            power = (low if beta < 1 else y) ** (beta - 1)
            for t in range(k):
                N[i, t] += ratio * Kt[j, t]
                D[i, t] += power * Kt[j, t]
    return N, D


def mu_rows(X, F, Kt, beta, l1=0.0, l2=0.0, zero_below_one=False):
    """F ⊙ (N / (D + l1 + l2 F))^γ; a zero denominator counts as EPSILON.

    `zero_below_one`: for β = 1 a component that is zero in all of Kt has denominator 1, as
    scikit-learn has it for H.
    """
    N, D = mu_terms(X, F, Kt, beta)
    F, Kt = dense(F), dense(Kt)
    new = np.zeros_like(F)
    for i in range(F.shape[0]):
        for t in range(F.shape[1]):
            denominator = D[i, t]
            if beta == 1 and zero_below_one and Kt[:, t].sum() == 0:
                denominator = 1.0
            denominator += l1 + l2 * F[i, t]
            new[i, t] = F[i, t] * (N[i, t] / (denominator or EPSILON)) ** gamma(beta)
    return new


def mu_iteration(X, W, H, beta, penalty=(0, 0, 0, 0), update_H=True):
    """W's update, then H's.  Returns (W, H)."""
    l1_W, l1_H, l2_W, l2_H = penalty
    Ht = dense(H).T
    W = mu_rows(X, W, Ht, beta, l1_W, l2_W)
    if beta < 1:
        W = np.where(W < TINY, 0.0, W)
    if update_H:
        Ht = mu_rows(dense(X).T, Ht, W, beta, l1_H, l2_H, zero_below_one=True)
        if beta <= 1:
            Ht = np.where(Ht < TINY, 0.0, Ht)
    return W, Ht.T


def mu_extrapolated(X, W, H, beta, iterations, penalty=(0, 0, 0, 0)):
    """mu from a point ahead: F + θ max(0, F − F before), θ = (ν − 1)/ν', ν' = ½(1 + √(1 + 4ν²)), ν from 1.

    No entry of that point is below TINY, unless θ = 0.  Without restarts.  Returns (W, H).
    """
    W, H = dense(W), dense(H)
    before, nu = (W, H), 1.0
    for _ in range(iterations):
        after = (1 + math.sqrt(1 + 4 * nu * nu)) / 2
        theta, nu = (nu - 1) / after, after
        ahead = []
        for F, F_before in zip((W, H), before, strict=True):
            ahead.append(np.maximum(F + theta * np.maximum(0, F - F_before), TINY) if theta else F)
        before = (W, H)
        W, H = mu_iteration(X, *ahead, beta, penalty)
    return W, H


# --- coordinate descent for the Kullback-Leibler divergence ----------------------------------------


def _never_rises(slope, step, curvature, l2, tau):
    """Whether −slope·step + step²·(curvature·B(τ) + l2/2) ≤ 0, with B(τ) = (−log(1 − τ) − τ) / τ²."""
    if tau >= 1:
        return False
    bound = (-math.log1p(-tau) - tau) / tau**2 if tau > 1e-4 else 0.5 + tau / 3
    return slope >= step * (curvature * bound + 0.5 * l2)


def kl_step(f, N, H, linear, l2, ratios):
    """The step of one coordinate: the root d of linear + l2·d = N / (1 + d·H/N), made shorter where it may overshoot.

    linear = A + l1 + l2·f; ratios = h_j / s_j over x_j > 0.
    """
    slope = linear - N
    if slope >= 0 and f == 0:
        return 0.0
    if N <= 0 or H <= 0:
        return -f if linear > 0 else 0.0
    b = linear * H / N + l2
    d = -2 * slope / (b + math.sqrt(max(b * b - 4 * l2 * H / N * slope, 0.0)))
    if d >= 0:
        return d
    step, rho = min(-d, f), max(ratios)
    if _never_rises(slope, step, H, l2, step / f) or _never_rises(slope, step, H, l2, step * rho):
        return -step
    newton = slope / (H + l2)
    return -min(newton / (1 + newton * rho), f)


def kl_sweeps(X, F, Ht, l1=0.0, l2=0.0, sweeps=1, order=None):
    """Sweeps over the coordinates of each row of F for D_1(X | F·Htᵀ) + l1 ΣF + ½ l2 ‖F‖².

    Numbers of X up to EPSILON count as zero, and s is at least EPSILON under x. Returns (new rows, violation of the
    first sweep, [Σ|f·∇| + Σ over f = 0 of (mean of f's column)·max(0, −∇), Σ f·N] as the first sweep met them).
    """
    X, F, Ht = dense(X), dense(F).copy(), dense(Ht)
    X = np.where(X > EPSILON, X, 0)
    (n, k), totals = F.shape, Ht.sum(axis=0)
    order = range(k) if order is None else order
    violation, products_, bottom, pulls, met = [], [], [], np.zeros(k), np.zeros(k)
    for i in range(n):
        s = np.array([math.fsum(F[i] * h) for h in Ht])
        for sweep_ in range(sweeps):
            for t in order:
                f, ratios = F[i, t], Ht[:, t] / np.maximum(s, EPSILON)
                N, H = math.fsum(X[i] * ratios), math.fsum(X[i] * ratios**2)
                linear = totals[t] + l1 + l2 * f
                if sweep_ == 0:
                    pull = max(0.0, N - linear) if f == 0 else abs(linear - N)
                    violation.append(pull)
                    products_.append(f * pull)
                    bottom.append(f * N)
                    met[t] += f
                    pulls[t] += pull if f == 0 else 0
                here = ratios[X[i] > 0] if (X[i] > 0).any() else [0.0]
                F[i, t] = max(0.0, f + kl_step(f, N, H, linear, l2, here))
                s = s + (F[i, t] - f) * Ht[:, t]
    return F, math.fsum(violation), (math.fsum(products_) + (met * pulls).sum() / max(n, 1), math.fsum(bottom))


def kl_descent(X, W, H, passes, penalty=(0, 0, 0, 0)):
    """Alternating sweeps over W and over Hᵀ, without extrapolation. Returns (W, H, objectives)."""
    l1_W, l1_H, l2_W, l2_H = penalty
    losses = []
    for _ in range(passes):
        W = kl_sweeps(X, W, dense(H).T, l1_W, l2_W)[0]
        H = kl_sweeps(dense(X).T, dense(H).T, W, l1_H, l2_H)[0].T
        losses.append(objective(X, W, H, 1, l1_W, l1_H, l2_W, l2_H))
    return W, H, losses


# --- stationarity -------------------------------------------------------------------------------


def kkt_parts(X, F, Kt, beta=2, l1=0.0, l2=0.0, zero_below_one=False):
    """One factor's share of the KKT residual, of F in X ≈ F·Ktᵀ: (top, bottom).

    β = 2: top = Σ G_tt s², s = F − max(0, F − ∇/G_tt), penalties in ∇ and G_tt; no bottom.
    Otherwise, with ∇ = D − N of the update: top = Σ|F ⊙ ∇| + Σ over F = 0 of (mean of that
    column)·max(0, −∇), bottom = Σ F ⊙ N.
    """
    F, Kt = dense(F), dense(Kt)
    top, bottom = [], []
    if beta == 2:
        G, C = gram(Kt), products(X, Kt)
    else:
        N, D = mu_terms(X, F, Kt, beta)
    for i in range(F.shape[0]):
        for t in range(F.shape[1]):
            f = F[i, t]
            if beta == 2:
                curvature = G[t, t] + l2
                if curvature == 0:
                    continue
                gradient = math.fsum(F[i, s] * G[s, t] for s in range(F.shape[1]))
                gradient += l2 * f - C[i, t] + l1
                top.append(curvature * (f - max(0.0, f - gradient / curvature)) ** 2)
                continue
            denominator = D[i, t]
            if beta == 1 and zero_below_one and Kt[:, t].sum() == 0:
                denominator = 1.0
            gradient = denominator + l1 + l2 * f - N[i, t]
            bottom.append(f * N[i, t])
            top.append(abs(f * gradient) if f else F[:, t].mean() * max(0.0, -gradient))
    return math.fsum(top), math.fsum(bottom)


def _kkt(X, parts, beta):
    top, bottom = (math.fsum(column) for column in zip(*parts, strict=True))
    if beta == 2:
        return math.sqrt(top / math.fsum((dense(X) ** 2).ravel()))
    return top / bottom


def kkt_residual(X, W, H, beta=2, penalty=(0, 0, 0, 0)):
    """The KKT residual of CONTRACT.md at the point (W, H), W and Hᵀ in quadrature (β = 2)."""
    l1_W, l1_H, l2_W, l2_H = penalty
    Ht = dense(H).T
    of_W = kkt_parts(X, W, Ht, beta, l1_W, l2_W)
    of_H = kkt_parts(dense(X).T, Ht, W, beta, l1_H, l2_H, zero_below_one=True)
    return _kkt(X, (of_W, of_H), beta)


def mu_iteration_kkt(X, W, H, beta, penalty=(0, 0, 0, 0)):
    """The residual as one mu pass from (W, H) sees it: W's share at (W, H), H's at (new W, H)."""
    l1_W, l1_H, l2_W, l2_H = penalty
    new, _ = mu_iteration(X, W, H, beta, penalty)
    Ht = dense(H).T
    of_W = kkt_parts(X, W, Ht, beta, l1_W, l2_W)
    of_H = kkt_parts(dense(X).T, Ht, new, beta, l1_H, l2_H, zero_below_one=True)
    return _kkt(X, (of_W, of_H), beta)


# --- initialisation -----------------------------------------------------------------------------


def nndsvd(U, S, V, eps=1e-6, fill=None):
    """Boutsidis & Gallopoulos (2008) from a given truncated SVD, X ≈ U diag(S) V.

    Component 0 is √s|u|, √s|v|.  Of every other pair the positive or the negative parts are
    kept, whichever's product of norms is larger, scaled to √(s·‖u±‖‖v±‖) each.  Entries below
    `eps` become zero, and zeros become `fill` if it is given ("nndsvda": the mean of X).
    """
    U, S, V = dense(U), np.asarray(S, dtype=np.float64), dense(V)
    W, H = np.zeros_like(U), np.zeros_like(V)
    for t in range(len(S)):
        if t == 0:
            W[:, 0], H[0] = math.sqrt(S[0]) * np.abs(U[:, 0]), math.sqrt(S[0]) * np.abs(V[0])
            continue
        best = -1.0
        for sign in (-1, 1):  # the positive parts win only if strictly larger
            u = np.array([max(0.0, sign * x) for x in U[:, t]])
            v = np.array([max(0.0, sign * x) for x in V[t]])
            nu, nv = math.sqrt(math.fsum(u * u)), math.sqrt(math.fsum(v * v))
            if nu * nv > best:
                best = nu * nv
                scale = math.sqrt(S[t] * best)
                W[:, t], H[t] = (scale * u / nu, scale * v / nv) if best else (u, v)
    for factor in (W, H):
        factor[factor < eps] = 0.0
        if fill is not None:
            factor[factor == 0] = fill
    return W, H


# --- a row alone --------------------------------------------------------------------------------


def cd_transform_row(x, H, tol, max_iter, l1_W=0.0, l2_W=0.0):
    """One row's code: sweeps from zero until its violation is ≤ tol × its first."""
    w = np.zeros((1, dense(H).shape[0]))
    first = None
    n_iter = 0
    while n_iter < max_iter:
        n_iter += 1
        w, _, violation, _ = cd_iteration(dense(x).reshape(1, -1), w, H, (l1_W, 0, l2_W, 0), update_H=False)
        first = violation if first is None else first
        if first == 0 or violation / first <= tol:
            break
    return w[0], n_iter


# --- planted answers ----------------------------------------------------------------------------


def matched(found, planted):
    """Smallest cosine between a planted row and the found row matched with it (one to one)."""
    from scipy.optimize import linear_sum_assignment

    found, planted = dense(found), dense(planted)
    norms = np.linalg.norm(found, axis=1)
    found = found / np.where(norms == 0, 1, norms)[:, None]
    planted = planted / np.linalg.norm(planted, axis=1)[:, None]
    cosine = planted @ found.T
    rows, columns = linear_sum_assignment(-cosine)
    return float(cosine[rows, columns].min())


# ---- cosine search ---------------------------------------------------------------------------------------------------


def cosines(queries, database):
    """All cosines, q × n, in long double where there is one; rows of zeros are like nothing."""
    Q, X = (dense(A).astype(np.longdouble) for A in (queries, database))
    squares = np.sqrt((Q * Q).sum(1))[:, None] * np.sqrt((X * X).sum(1))[None, :]
    products = Q @ X.T
    return np.clip(np.divide(products, squares, out=np.zeros_like(products), where=squares > 0), -1, 1)


def cosine_topk(queries, database, k, largest=True, threshold=None, allowed=None, excluded=None):
    """The best k rows of the database for each query, by sorting all of them: scores and row numbers."""
    scores = cosines(queries, database)
    q, _n = scores.shape
    found, rows = np.full((q, k), np.nan), np.full((q, k), -1)
    for j in range(q):
        candidates = [
            (-s if largest else s, i)
            for i, s in enumerate(scores[j])
            if (allowed is None or i in allowed)
            and (excluded is None or i not in excluded[j])
            and (threshold is None or (s >= threshold if largest else s <= threshold))
        ]
        for place, (s, i) in enumerate(sorted(candidates)[:k]):
            found[j, place], rows[j, place] = -s if largest else s, i
    return found, rows


def combined_query(points, weights):
    """Σ α·p/‖p‖ over the points of a query; a point of zeros adds nothing."""
    total = np.zeros(len(points[0]), np.longdouble)
    for point, weight in zip(points, weights, strict=True):
        exact = np.asarray(point, np.longdouble)
        length = np.sqrt((exact**2).sum())
        if length > 0:
            total += weight * exact / length
    return total


def near_pairs(codes, pixels, near, distance, flipped_codes=None, flipped_pixels=None):
    """{(i, j): (cosine, relative distance)}, i < j, of pairs with close codes and pixels; of two, the more similar."""
    pairs = {}
    for other_codes, other_pixels in ((codes, pixels), (flipped_codes, flipped_pixels)):
        if other_codes is None:
            continue
        scores = cosines(other_codes, codes)
        for i in range(len(codes)):
            for j in range(len(codes)):
                a, b = other_pixels[i].astype(float), pixels[j].astype(float)
                norm = max(np.linalg.norm(a), np.linalg.norm(b))
                if i == j or norm == 0 or not codes[i].any() or not codes[j].any():
                    continue
                found = float(scores[i, j]), float(np.linalg.norm(a - b) / norm)
                key = min(i, j), max(i, j)
                before = pairs.get(key, (-2.0, 0.0))
                if found[0] >= near and found[1] <= distance and (found[0], -found[1]) > (before[0], -before[1]):
                    pairs[key] = found
    return pairs


def accepted_losses(model):
    """Return the losses of the accepted iterations of a fitted NMF."""
    assert {len(values) for values in model.history_.values()} == {model.n_iter_}
    return model.history_["loss"][model.history_["accepted"]]


# --- missing entries ----------------------------------------------------------------------------


def observed_loss(X, W, H, hidden, beta=2):
    """D_β(X | WH) over the entries that `hidden` does not hide."""
    return math.fsum(
        beta_divergence([[dense(X)[i, j]]], dense(W)[i : i + 1], dense(H)[:, j : j + 1], beta)
        for i, j in zip(*np.nonzero(~np.asarray(hidden)), strict=True)
    )


def splitmix64(seed, count):
    """The first outputs of SplitMix64 with a seed, as integers."""
    out, state = [], seed
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        out.append(z ^ (z >> 31))
    return out


def filled(X, W, H, hidden):
    """X where it is observed, and WH elsewhere."""
    return np.where(hidden, products(W, dense(H).T.T), np.where(hidden, 0, dense(X)))


def filled_iteration(X, W, H, hidden, penalty=(0, 0, 0, 0)):
    """One pass of the filled descent without momentum: W's sweep on X filled with WH, then H's on X filled anew.

    Returns (new W, new H).  A row of which nothing is observed is zero.
    """
    l1_W, l1_H, l2_W, l2_H = penalty
    W = dense(W).copy()
    W[np.asarray(hidden).all(axis=1)] = 0
    Ht = dense(H).T
    W = sweep(W, gram(Ht), products(filled(X, W, H, hidden), Ht), l1_W, l2_W)[0]
    Ht = sweep(Ht, gram(W), products(filled(X, W, H, hidden).T, W), l1_H, l2_H)[0]
    return W, Ht.T


def observed_rows(X, F, Ht, hidden, l1=0.0, l2=0.0, sweeps=1):
    """Sweeps over each row of F on its own observed entries, ½ Σ_observed (x − f·h)²."""
    F = dense(F).copy()
    for i in range(len(F)):
        seen = ~np.asarray(hidden)[i]
        if not seen.any():
            F[i] = 0
        for _ in range(sweeps if seen.any() else 0):
            x, h = dense(X)[i : i + 1, seen], dense(Ht)[seen]
            F[i : i + 1] = sweep(F[i : i + 1], gram(h), products(x, h), l1, l2)[0]
    return F


def alone_sums(X, F, hidden):
    """Σ_i x_ij f_i, and the lower triangle of Σ_i f_i f_iᵀ row by row, over the observed rows of each column j."""
    X, F, observed = dense(X), dense(F), ~np.asarray(hidden)
    k = F.shape[1]
    products, triangles = np.zeros((X.shape[1], k)), np.zeros((X.shape[1], k * (k + 1) // 2))
    for i, j in zip(*np.nonzero(observed), strict=True):
        products[j] += X[i, j] * F[i]
        triangles[j] += [F[i, t] * F[i, u] for t in range(k) for u in range(t + 1)]
    return products, triangles


def masked_terms(X, F, Ht, hidden, beta):
    """Numerators and denominators of the multiplicative update of F over observed entries."""
    X, F, Ht, WH = dense(X), dense(F), dense(Ht), products(F, dense(Ht).T)
    N, D = np.zeros(F.shape), np.zeros(F.shape)
    for i, j in zip(*np.nonzero(~np.asarray(hidden)), strict=True):
        s = WH[i, j]
        above = max(s, EPSILON) if beta < 2 else s
        below = max(s, EPSILON) if beta < 1 else s
        N[i] += X[i, j] * above ** (beta - 2) * Ht[j]
        D[i] += below ** (beta - 1) * Ht[j] if beta != 1 else Ht[j]
    return N, D


def masked_multiplication(X, W, H, hidden, beta):
    """One multiplicative update of W, then of H, over observed entries, without penalties."""
    W, Ht = dense(W), dense(H).T
    N, D = masked_terms(X, W, Ht, hidden, beta)
    W = W * (N / np.where(D == 0, EPSILON, D)) ** gamma(beta)
    N, D = masked_terms(dense(X).T, Ht, W, np.asarray(hidden).T, beta)
    return W, (Ht * (N / np.where(D == 0, EPSILON, D)) ** gamma(beta)).T


# --- weights of rows (u) and of columns (v) -----------------------------------------------------


def weighted_opening(X, u, v):
    """[Σ u_i v_j x_ij, Σ u_i v_j x_ij²]."""
    X = dense(X)
    entries = [(u[i] * v[j], X[i, j]) for i in range(X.shape[0]) for j in range(X.shape[1])]
    return [math.fsum(c * x for c, x in entries), math.fsum(c * x * x for c, x in entries)]


def weighted_gram(F, u):
    """Fᵀ·diag(u)·F."""
    F = dense(F)
    return products(F.T, np.asarray(u)[:, None] * F)


def weighted_sweep(F, G, C, u, l1=0.0, l2=0.0):
    """A coordinate sweep, whose rows count u_i times in the violation and in Σ G_tt Δ²: (rows, violation, Σ)."""
    rows, violations, newtons = zip(
        *(sweep(dense(F)[i : i + 1], G, dense(C)[i : i + 1], l1, l2)[:3] for i in range(len(F))), strict=True
    )
    violation, newton = (math.fsum(c * x for c, x in zip(u, xs, strict=True)) for xs in (violations, newtons))
    return np.vstack(rows), violation, newton


def weighted_divergence(X, W, H, beta, u, v):
    """Σ u_i v_j d_β(x_ij | (WH)_ij), entry by entry."""
    X, W, H = dense(X), dense(W), dense(H)
    return math.fsum(
        u[i] * v[j] * beta_divergence(X[i : i + 1, j : j + 1], W[i : i + 1], H[:, j : j + 1], beta)
        for i in range(X.shape[0])
        for j in range(X.shape[1])
        if u[i] and v[j]
    )


def weighted_objective(X, W, H, beta, u, v, alpha_W=0.0, alpha_H=0.0, l1_ratio=0.0):
    """Σ u_i v_j (d_β + α_W p(w_i) + α_H p(h_j)), p(f) = ρ‖f‖₁ + ½(1 − ρ)‖f‖²."""
    W, H = dense(W), dense(H)

    def p(f):
        return l1_ratio * math.fsum(f) + 0.5 * (1 - l1_ratio) * math.fsum(f * f)

    of_rows, of_columns = [p(w) for w in W], [p(h) for h in H.T]
    total = math.fsum(
        u[i] * v[j] * (alpha_W * of_rows[i] + alpha_H * of_columns[j]) for i in range(len(W)) for j in range(len(v))
    )
    return weighted_divergence(X, W, H, beta, u, v) + total


def weighted_multiply(X, F, Ht, beta, u, v, l1=0.0, l2=0.0):
    """The multiplicative update of F for columns that count v_j times, then N and D of Ht for rows that count u_i."""
    X, F, Ht = dense(X), dense(F), dense(Ht)
    n, m, k = X.shape[0], X.shape[1], F.shape[1]

    def ratios(A):
        WH = products(A, Ht.T)
        safe = np.maximum(WH, EPSILON)
        return X * (safe if beta < 2 else WH) ** (beta - 2), (safe if beta < 1 else WH) ** (beta - 1)

    S, Q = ratios(F)
    new = np.zeros_like(F)
    for i in range(n):
        for t in range(k):
            top = math.fsum(v[j] * S[i, j] * Ht[j, t] for j in range(m))
            below = math.fsum(v[j] * Q[i, j] * Ht[j, t] for j in range(m)) + l1 + l2 * F[i, t]
            new[i, t] = F[i, t] * (top / (below or EPSILON)) ** gamma(beta)
    S, Q = ratios(new)
    counted = np.asarray(u)[:, None] * new
    return new, products(S.T, counted), products(Q.T, counted)
