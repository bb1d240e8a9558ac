"""`MiniBatchNMF` under scikit-learn's name, with its parameters, attributes and messages."""

from __future__ import annotations

import math
import time
from contextlib import closing
from numbers import Integral, Real
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from .. import _compat, scale
from .._compat import Interval, StrOptions
from .._typing import Array, Factor, Matrix
from ..loop.session import Limits, Stopped
from ..loop.solve import Coded, factorize
from ..minibatch import batches as cutting
from ..minibatch import descent as online
from ..minibatch.loop import Learner, run
from ..minibatch.multiplicative import Memory, MultiplicativeLearner
from ..objective import beta_of, divergence
from ..rows import Rows, is_lazy, loaded
from ..rows.memory import as_rows
from ..solvers import Fixed
from . import _arrangement
from ._base import BaseNMF, zero_solution
from ._validation import Checks, Output, not_of_dask
from .progress_bar import shown

__all__ = ["MiniBatchNMF"]


class _HostChecks(Checks):
    """The checks of an estimator that computes on the CPU."""

    masks = False

    def place(self, device: bool) -> None:
        """Raise for an X on a device."""
        if device:
            raise NotImplementedError(
                "MiniBatchNMF computes on the CPU: give it host data and device=None, or use NMF, which reads X larger "
                "than the card in blocks."
            )


class MiniBatchNMF(BaseNMF):
    r"""Non-negative matrix factorisation from a batch of samples at a time.

    The objective is that of `NMF`. Batches of rows are visited in turn, and H is computed from sums over
    the batches so far, in which earlier batches count less and less; these take k (n_features + k) numbers,
    however many rows have been seen. A drop-in for ``sklearn.decomposition.MiniBatchNMF``, whose batches
    are contiguous rows of X.

    With ``solver="hals"`` the batches of `fit` have rows from all over X (contiguous ones for
    ``init="custom"``), so that their order hardly matters. One pass was mostly within 1 %, and within 2 %
    (medians of three seeds), of the error of `NMF` on MNIST, digits, faces, BBC news and patches of a
    photograph; on planted spectra, where fits differ by local minima, within 1 to 15 %. `partial_fit`
    takes rows as they come and begins with a fit of the first batch. After one pass of shuffled rows its
    error was higher by 0 to 4 % with 15 rows and more per component in the first batch, by 0 to 10 % with
    fewer; by up to 22 % in the order of the files, 32 % sorted by class, and 41 % on the spectra. So
    shuffle a stream where that is possible, and make the first batch a large one.

    Parameters
    ----------
    n_components : int, "auto" or None, default="auto"
        Number of components, k. With "auto" it is that of a given W or H, and otherwise the number of
        features. None means the number of features.
    init : {"random", "nndsvd", "nndsvda", "nndsvdar", "custom"} or None, default=None
        Start of the fit, see `NMF`. None means, for "mu", "nndsvda" where k ≤ min(n_samples, n_features)
        and else "random"; for "hals" a fit of the first batch in `partial_fit`, and of a sample of the
        rows in `fit`. With "hals" rows of W begin at zero in any case.
    batch_size : int, default=1024
        Largest number of samples in a batch.
    beta_loss : float or {"frobenius", "kullback-leibler", "itakura-saito"}, default="frobenius"
        The loss: its name, or β, which is 2, 1 and 0 for the three names. For β ≤ 0 X must not contain
        zeros.
    tol : float, default=1e-4
        Tolerance of the stop rule. "mu" stops when H has changed by at most `tol` times its norm in a
        step, "hals" when the error √(2 loss) over a pass has fallen by less than `tol` times itself since
        the pass before. 0 switches the rule off.
    max_no_improvement : int or None, default=10
        The fit stops when the smoothed cost of batches (for "hals" the mean over a pass) has not fallen
        for this many steps. None switches the rule off.
    max_iter : int, default=200
        Largest number of passes over X.
    alpha_W : float, default=0.0
        Weight of the penalties on W. It is multiplied by the number of features.
    alpha_H : float or "same", default="same"
        Weight of the penalties on H. It is multiplied by the number of samples in the batch. "same" means
        `alpha_W`.
    l1_ratio : float, default=0.0
        Share of the L1 norm in the penalties, between 0 and 1. The rest is the squared L2 norm.
    forget_factor : float, default=0.7
        Weight of earlier batches after one pass over X; in `partial_fit` after one call, for "hals" after
        `batch_size` rows. "hals" also gives less weight to the rows that were seen while H was hardly
        known, except in a `fit` that begins with a fit of a sample.
    fresh_restarts : bool, default=False
        Whether the rows of W of a batch are solved for anew in every step.
    fresh_restarts_max_iter : int, default=30
        Largest number of updates of rows that are solved for anew, for "mu".
    transform_max_iter : int or None, default=None
        Largest number of updates of a row in `transform`. None means `max_iter`, for "hals" at least 200.
    random_state : int, RandomState or None, default=None
        Seed, or generator, of random starts, of the randomised SVD and, for "hals", of the batches of
        `fit`. None uses numpy's global generator.
    verbose : int, default=0
        Whether to print the progress of the fit, in the format of scikit-learn.
    solver : {"mu", "hals"}, default="mu"
        Algorithm. "mu" makes the multiplicative updates of scikit-learn, for any loss. "hals" is online
        coordinate descent [2]_, for the Frobenius norm only. If it is changed after `partial_fit`, the
        next call begins with the components as they are, and without the sums over earlier batches.
    device : {None, "auto", "cpu"}, default=None
        Where to compute. All three mean the CPU.
    dtype : {None, numpy.float32, numpy.float64}, default=None
        Type of the computations and of the factors. None means float32 for X of type float32, float16,
        bool and integers of up to 16 bits, and float64 for all other types.
    n_jobs : int or None, default=None
        Number of threads. −1 means all processors, None as many as the limits of BLAS, OpenMP, joblib and
        the processors allow. Results have the same bits for any number.
    max_time : float or None, default=None
        Seconds from the call after which no further step begins. None means no limit.
    callback : callable or None, default=None
        Called after each step as that of `NMF` after each iteration. Its ``iteration`` counts steps,
        ``loss`` is the cost per sample of the batch, and ``kkt`` is NaN.
    sort_components : bool, default=False
        Whether `fit` sorts the components after it, those first that explain most of X, see `NMF`. It
        is refused in `partial_fit`, which has no end.
    normalize : {"l1", "l2", "max"} or None, default=None
        Which norm of each row of H is 1 after `fit`, see `NMF`. It is refused in `partial_fit` and with
        penalties. The sums that a later `partial_fit` begins with are brought into the same scale.
    fixed_components : array-like of bool of shape (n_components,) or of int, default=None
        Which rows of the H of the call are kept, bit for bit, see `NMF`. In later calls of
        `partial_fit` they are the rows of ``components_``.
    memory : int, str or None, default=None
        How much of an X on disk may be in memory at a time, in bytes or as text such as "2GB"; one batch
        always may. None means "128MB". It does not change the result. The shuffled batches of "hals" take
        rows from all over X, and where single rows are dear (chunks of HDF5 and Zarr, a stream) as many
        batches as have room are gathered in one pass over the chunks that hold their rows: an epoch reads
        X about as many times as X is larger than `memory`, and once in all if it is not. Rows of a
        ``.npy`` file are read alone. It has no effect on an X in memory.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features), float32 or float64
        H.
    n_components_ : int
        k.
    reconstruction_err_ : float
        √(2 D_β(X | WH)) without penalties; set by `fit`, not by `partial_fit`.
    n_iter_ : int
        Passes over X begun; set by `fit`, not by `partial_fit`.
    n_steps_ : int
        Batches learned from.
    n_features_in_ : int
        Features seen in `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are all strings.
    converged_ : bool
        Whether a stop rule was met.
    stop_reason_ : str
        Why the fit ended.
    history_ : dict of str to ndarray of shape (`n_steps_`,)
        "loss" (cost per sample of the step's batch), "violation" (NaN) and "seconds" since the call of
        `fit`, in which the start is included, all three float64; "accepted", bool, True for every step.
    kkt_residual_ : float
        Distance from a stationary point: 0 at one.
    scales_ : ndarray of shape (n_components,), float64
        With `normalize`, what the columns of W were multiplied by and the rows of H divided by; set by
        `fit`.

    See Also
    --------
    NMF : Uses all samples in every iteration.

    References
    ----------
    .. [1] A. Lefèvre, F. Bach, C. Févotte, "Online algorithms for nonnegative matrix factorization
       with the Itakura-Saito divergence", WASPAA 2011.
    .. [2] J. Mairal, F. Bach, J. Ponce, G. Sapiro, "Online learning for matrix factorization and
       sparse coding", JMLR 11, 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import MiniBatchNMF
    >>> X = np.random.default_rng(0).random((100, 3)) @ np.random.default_rng(1).random((3, 8))
    >>> model = MiniBatchNMF(3, batch_size=20, random_state=0, max_iter=500)
    >>> W = model.fit_transform(X)
    >>> bool(np.linalg.norm(X - W @ model.components_) < 0.2 * np.linalg.norm(X))
    True

    A stream, of which nothing is kept but sums:

    >>> model = MiniBatchNMF(3, solver="hals", random_state=0)
    >>> for batch in np.array_split(X, 5):
    ...     model = model.partial_fit(batch)
    >>> W = model.transform(X)
    >>> bool(np.linalg.norm(X - W @ model.components_) < 0.02 * np.linalg.norm(X))
    True
    """

    _parameter_constraints: dict = {
        **BaseNMF._parameter_constraints,
        "max_no_improvement": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "forget_factor": [Interval(Real, 0, 1, closed="both")],
        "fresh_restarts": ["boolean"],
        "fresh_restarts_max_iter": [Interval(Integral, 1, None, closed="left")],
        "transform_max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "solver": [StrOptions({"mu", "hals"})],
        "memory": [Interval(Integral, 1, None, closed="left"), str, None],
    }
    __module__ = "nmfcore"  # the name that is imported, so that pickles hold no inner path
    _negative_at_transform = "MiniBatchNMF (input X)"

    # Parameters of a subclass whose __init__ does not have all of ours.
    solver = "mu"
    batch_size: int = 1024
    max_no_improvement: int | None = 10
    forget_factor: float = 0.7
    fresh_restarts: bool = False
    fresh_restarts_max_iter: int = 30
    transform_max_iter: int | None = None
    _usual_memory = "128MB"

    def __init__(
        self,
        n_components="auto",
        *,
        init=None,
        batch_size=1024,
        beta_loss="frobenius",
        tol=1e-4,
        max_no_improvement=10,
        max_iter=200,
        alpha_W=0.0,
        alpha_H="same",
        l1_ratio=0.0,
        forget_factor=0.7,
        fresh_restarts=False,
        fresh_restarts_max_iter=30,
        transform_max_iter=None,
        random_state=None,
        verbose=0,
        solver="mu",
        device=None,
        dtype=None,
        n_jobs=None,
        max_time=None,
        callback=None,
        sort_components=False,
        normalize=None,
        fixed_components=None,
        memory=None,
    ):
        self.n_components = n_components
        self.init = init
        self.batch_size = batch_size
        self.beta_loss = beta_loss
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.max_iter = max_iter
        self.alpha_W = alpha_W
        self.alpha_H = alpha_H
        self.l1_ratio = l1_ratio
        self.forget_factor = forget_factor
        self.fresh_restarts = fresh_restarts
        self.fresh_restarts_max_iter = fresh_restarts_max_iter
        self.transform_max_iter = transform_max_iter
        self.random_state = random_state
        self.verbose = verbose
        self.solver = solver
        self.device = device
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.max_time = max_time
        self.callback = callback
        self.sort_components = sort_components
        self.normalize = normalize
        self.fixed_components = fixed_components
        self.memory = memory

    @_compat.fit_context(prefer_skip_nested_validation=True)
    def fit_transform(
        self,
        X: Matrix,
        y: object = None,
        W: ArrayLike | None = None,
        H: ArrayLike | None = None,
        *,
        out: PathLike[str] | str | Array | None = None,
    ) -> Array:
        """Learn W and H from X, and return W.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type; dense, or CSR or CSC. Never copied whole. Or a matrix on
            disk, of which a few blocks of rows, or batches, are in memory at a time: a ``numpy.memmap``, the
            path of a ``.npy`` file, an h5py dataset, a Zarr array, the path of either ("file.h5::name"), or
            a stream of row blocks (`RowBlocks`). It is read once before the fit, as often as the start needs,
            once in every pass over the batches (the shuffled batches of "hals" may need more, see `memory`),
            and two to three times after the fit. The result has the bits of a fit from memory.
        y : Ignored
            Present by convention.
        W : array-like of shape (n_samples, n_components), default=None
            Where to begin, for ``init="custom"``; of X's type. Never written. For "hals" only in place of H.
        H : array-like of shape (n_components, n_features), default=None
            Where to begin, for ``init="custom"``; of X's type. Never written.
        out : path-like or ndarray of shape (n_samples, n_components), default=None
            Where W is written instead of into memory, see `NMF.fit_transform`.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components), float32 or float64

        Raises
        ------
        ValueError
            For parameters, X, W or H that make no sense: wrong shapes, negative or missing values.
        TypeError
            For W or H of another type than X.
        ReadError
            If an X on disk cannot be read any more; `components_` are those of the last step then.
        RuntimeError
            If the contents of an X on disk have changed during the fit.
        """
        if is_lazy(X):
            not_of_dask(out=out)
        begun, output = time.perf_counter(), Output(out)
        self._check_solver()
        _arrangement.check(self)
        fixed = self._fixed(self.init, H)
        if self.solver == "hals" and self.init == "custom" and W is not None and H is not None:
            raise ValueError(
                "W has no meaning beside H with solver='hals', whose rows begin from nothing: leave W out."
            )
        data = self._open(X, self._checks(self._negative_at_transform, reset=True))
        output.check(data, self._resolve(data.shape[1])[0])
        self._prepare(data, data.shape[0])
        self._check_zeros(data, self._beta_loss)
        H_given = H
        given, data = data, self._seen(data, self._beta_loss, W, H) if self.solver == "hals" else data
        W, Ht = self._start(data, W, H, begun)
        learner = self._learner(data, online.KNOWN if self._auto else None, fixed)
        if data.summary().total == 0:
            zeros, _ = self._arranged(data, zero_solution(W, Ht, "mu", begun)._replace(W=W, Ht=Ht), fixed)
            self._remember(learner.begin(zeros.Ht), 1)
            self._keep(zeros, zeros.Ht, 1, 0.0, 0.0, 0)
            return output.filled(given.rows_to_caller(zeros.W))
        slices, batches = self._cut(data)
        n_steps = self.max_iter * len(batches)
        tasks = _compat.FitTasks(self, X, n_steps, "step")
        for each in (given, data):
            each.free_buffers()
        with shown(self.callback, n_steps), np.errstate(under="ignore"), closing(batches):
            result = run(
                slices,
                batches,
                learner,
                W,
                Ht,
                Limits(self.tol, self.max_iter, self.max_time, begun),
                restarts=self.fresh_restarts,
                overwrite_W=self.init != "custom",
                max_no_improvement=self.max_no_improvement,
                verbose=self.verbose,
                callback=scale.watched(self._watch(tasks), data.power),
            )
        W, Ht = result.W, result.Ht
        H = scale.times(Ht, -data.power).T
        solver, kkt, loss = (
            self._solver(self._penalties(data.shape, data), self._beta_loss, fixed=fixed),
            math.nan,
            math.nan,
        )
        try:
            if (self.fresh_restarts or self.solver == "hals") and result.interruption is None:
                W = scale.times(self._code(given, H)[0].W, data.power)
            if result.interruption is None:  # measured by one pass more
                last = factorize(data, solver, W, Ht, Limits(0, 1), measure=False)
                if last.interruption is not None:
                    last.interruption.again()
                kkt = last.kkt
            loss = divergence(data, W, Ht, solver.beta)
        except BaseException as stop:  # H is there: an interruption of what only codes and measures keeps it
            if result.interruption is None:
                result = result._replace(interruption=Stopped(stop))
        n_iter = -(-result.n_steps // len(batches))
        result = result._replace(W=W, Ht=Ht, history=scale.history(result.history, data.power))
        result, arrangement = self._arranged(data, result, fixed)
        result = result._replace(Ht=self._with_fixed(result.Ht, data, fixed, H_given))
        if arrangement is not None:
            result = result._replace(memory=learner.rearranged(result.memory, arrangement.order, arrangement.scales))
        self._remember(result.memory, result.n_steps)
        with output.held_by(lambda: given.rows_to_caller(result.W)):
            self._keep(result, result.Ht, n_iter, loss, kkt, data.power)
        codes = output.filled(given.rows_to_caller(result.W))
        self._warn_if_empty(data, result.W, result.Ht)
        if self.solver == "mu" or not result.termination.converged:
            self._warn_of_end(n_iter, result.termination)
        tasks.close()
        return codes

    @_compat.fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Matrix, y: object = None, W: ArrayLike | None = None, H: ArrayLike | None = None) -> Self:
        """Learn from X as one batch, going on from the batches before.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type; dense, or CSR or CSC. A matrix on disk is one batch, too,
            and is read into memory as a whole.
        y : Ignored
            Present by convention.
        W : array-like of shape (n_samples, n_components), default=None
            Checked in the first call if ``init="custom"``; stands for a missing H.
        H : array-like of shape (n_components, n_features), default=None
            Where to begin in the first call, for ``init="custom"``.

        Returns
        -------
        self : object
        """
        self._check_solver()
        for name, off in (("sort_components", False), ("normalize", None)):
            if getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is for what fit ends with, and a stream of batches has no end: "
                    f"set {name}={off} for partial_fit."
                )
        begun = hasattr(self, "components_")
        fixed = self._fixed("custom", self.components_) if begun else self._fixed(self.init, H)
        given = data = self._open(loaded(X), self._checks(self._negative_at_transform, reset=not begun))
        if not begun:
            self._prepare(data, None)
            if self.solver == "hals":
                data = self._seen(data, self._beta_loss, W, H)
            _, Ht = self._start(data, W, H)
            Ht = scale.times(Ht, -data.power)
        else:  # goes on in the type it began with
            if data.dtype != self.components_.dtype:
                data = as_rows(given.X, self.components_.dtype, self.n_jobs, cutting.LANE_WORK)
            Ht = np.ascontiguousarray(self.components_.T)
            if self.solver == "hals" and data.summary().total and not Ht.any():  # there were only zeros
                data = scale.comfortable(data)
                _, Ht = self._warm_start(data, Ht.shape[1])
                Ht = scale.times(Ht, -data.power)
        known = hasattr(self, "_memory")
        if begun and not known:  # components_ were assigned
            self._prepare(data, None)
        memory: Any = self._memory if known else None
        if isinstance(memory, online.Sums) != (self.solver == "hals"):  # of the other solver
            memory = None
        if self.solver == "hals":  # cut as `fit` cuts it
            data = as_rows(given.X, data.dtype, self.n_jobs, cutting.LANE_WORK)
            if memory is None or not memory.seen_in(data):
                data = scale.comfortable(data)
            else:
                data = data.scaled(memory.power)
            memory = None if memory is None else memory.in_unit(data.power)
        learner = self._learner(data, fixed=fixed)
        memory = learner.begin(Ht) if memory is None else memory
        with np.errstate(under="ignore"):
            made = learner.step(data, None, scale.times(Ht, data.power), memory)
        self.n_components_ = Ht.shape[1]
        self.components_ = self._with_fixed(scale.times(made.Ht, -data.power), data, fixed, Ht.T).T
        self._remember(made.memory, (self.n_steps_ if known else 0) + 1)
        if not made.Ht.any():
            self._warn_if_empty(data, made.W[:0], made.Ht)
        return self

    def _checks(self, whom: str, reset: bool, named: bool = True) -> Checks:
        return _HostChecks(self if named else None, whom, reset, spreads=False, devices=False)

    def _fixed(self, init: str | None, H: Factor) -> Fixed | None:
        fixed = _arrangement.fixed_rows(self.fixed_components, init, H)
        if fixed is not None and not fixed.width:
            raise ValueError(
                "fixed_components names all rows of H, of which nothing is left to learn: set components_ to H and "
                "call transform, or use NMF."
            )
        return fixed

    def _check_solver(self) -> None:
        if self.solver == "hals" and beta_of(self.beta_loss) != 2:
            raise ValueError(
                f"Invalid beta_loss parameter: solver 'hals' does not handle beta_loss = {self.beta_loss!r}. Give "
                "beta_loss='frobenius' (or 2), or solver='mu', which takes every loss."
            )

    def _prepare(self, data: Rows, whole: int | None) -> None:
        """Resolve what depends on X; `whole`: its rows, None in a stream."""
        n, m = data.shape
        self._n_components, self._beta_loss = self._resolve(m)
        self._batch_size = min(self.batch_size, n)
        self._rho = self.forget_factor ** (self._batch_size / n)
        self._period = self.batch_size if whole is None else whole

    def _cut(self, data: Rows) -> tuple[Any, cutting.Batches]:
        """Return which rows each batch of a fit has, and the batches."""
        cut = data.X, self._batch_size, data.dtype, self.n_jobs
        if self.solver == "mu" or self.init == "custom" or self._batch_size >= data.shape[0]:  # nothing is drawn
            return cutting.cut(*cut, data.power)
        return cutting.cut_shuffled(*cut, self.random_state, data.power, self.memory or self._usual_memory)

    def _learner(self, data: Rows, early: float | None = None, fixed: Fixed | None = None) -> Learner[Any]:
        """Return what learns from a batch that is read as `data` is; `early` is for "hals"."""
        m = data.shape[1]
        if self.solver == "hals":
            penalties, period = lambda rows: self._penalties((rows, m), data), self._period
            return online.DescentLearner(penalties, self.forget_factor, period, early, data.power, fixed)
        return MultiplicativeLearner(
            lambda rows: self._solver(self._penalties((rows, m)), self._beta_loss),
            self._rho,
            tol=self.tol,
            restart_iter=self.fresh_restarts_max_iter,
            fixed=fixed,
        )

    def _start(self, data: Rows, W: Factor, H: Factor, begun: float | None = None) -> tuple[Array, Array]:
        with np.errstate(under="ignore"):
            W, Ht = super()._start(data, W, H, begun)
        return (data.new_rows(W.shape[1]) if self.solver == "hals" else W), Ht  # its rows begin from nothing

    def _warm_start(self, data: Rows, k: int, begun: float | None = None) -> tuple[Array, Array]:
        """Return no W, and Ht of a fit of so many rows as a batch has, or more where there are many components."""
        (n, m), rng = data.shape, check_random_state(self.random_state)
        W, rows = np.zeros((n, k), data.dtype), max(self.batch_size, 50 * k)
        if rows < n:
            sample = data.take(np.sort(rng.choice(n, rows, replace=False)), self.n_jobs)
            data = sample if sample.summary().total else data
        return W, online.first_start(data, k, self._penalties((data.shape[0], m), data), rng)

    def _remember(self, memory: Memory | online.Sums, n_steps: int) -> None:
        self._memory = memory
        self.n_steps_ = n_steps

    def _code(self, data: Rows, H: Factor) -> tuple[Coded, Array]:
        """Solve for W with H fixed, until each row hardly moves."""
        Ht = np.ascontiguousarray(np.asarray(H).T, data.dtype)
        self._check_solver()
        limit = self.max_iter if self.transform_max_iter is None else self.transform_max_iter
        if self.solver == "hals" and self.transform_max_iter is None:
            limit = max(limit, 200)
        # The rule of scikit-learn is over a batch, in which the slowest rows decide; a row alone needs half of tol. Of
        # its test_mbnmf_inverse_transform, A − inverse_transform(transform(A)) is 0.0112 with tol, 0.0100 with tol / 2.
        return self._coded(data, Ht, beta_of(self.beta_loss), self.tol / 2, max_iter=limit, by_step=True), Ht
