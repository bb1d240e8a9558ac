"""`NMF` under scikit-learn's name, with its parameters, attributes and messages."""

from __future__ import annotations

import time
import warnings
import zlib
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from .. import _compat, distributed, scale
from .._compat import Interval, StrOptions
from ..backends import cuda
from ..loop.checkpoint import Checkpoint, held
from ..loop.session import Limits
from ..loop.solve import Coded, Solution, factorize
from ..objective import beta_of
from ..rows.memory import Rows
from ..solvers import SOLVERS
from ..starts.samples import sample_rows
from ._base import BaseNMF, maximum_reached, nothing
from ._validation import Output, not_of_dask

__all__ = ["NMF"]

Array = NDArray[Any]

_EARLY_TOL = 1e-3  # a user who asks for more than this ...
_EARLY_FALL = 1e-3  # ... is told when the last iteration still brought more than that,
_EXACT = 1e-6  # unless ‖X − WH‖² / ‖X‖² is below this: what is left of a nearly exact fit falls for ever
_NO_MATTER = ("callback", "checkpoint", "checkpoint_every", "max_iter", "max_time", "memory", "n_jobs", "verbose")


class NMF(BaseNMF):
    r"""Non-negative matrix factorisation, X ≈ WH with W, H ≥ 0.

    Minimises over W (n_samples × n_components) and H (n_components × n_features)

    .. math::

        D_\beta(X | WH) + \alpha_W m \big(\rho \|W\|_1 + \tfrac{1 - \rho}{2} \|W\|_F^2\big)
                        + \alpha_H n \big(\rho \|H\|_1 + \tfrac{1 - \rho}{2} \|H\|_F^2\big)

    with :math:`\rho` the `l1_ratio`, n samples, m features, and :math:`D_2 = \frac12\|X - WH\|_F^2`
    the half squared Frobenius norm, :math:`D_1` the generalised Kullback-Leibler and :math:`D_0`
    the Itakura-Saito divergence. A drop-in for ``sklearn.decomposition.NMF``.

    Parameters
    ----------
    n_components : int, "auto" or None, default="auto"
        k. "auto": that of a custom H, else n_features. None: n_features.
    init : {"random", "nndsvd", "nndsvda", "nndsvdar", "custom", "auto"} or None, default=None
        Where to begin. None is "nndsvda" for k ≤ min(n_samples, n_features), else "random"; for
        "hals" it is "auto": fits of row samples drawn from `random_state` where X is tall, NNDSVD
        elsewhere. "custom" takes W and H from the call; if one is missing, it is solved for.
    solver : {"cd", "hals", "mu"}, default="cd"
        Coordinate descent as scikit-learn's, or accelerated and extrapolated (both Frobenius
        only), or multiplicative updates (any loss).
    beta_loss : float or {"frobenius", "kullback-leibler", "itakura-saito"}, default="frobenius"
        β: 2, 1, 0, or any real number. For β ≤ 0 X must have no zeros.
    tol : float, default=1e-4
        "cd" stops when the sum of projected gradients is at most `tol` of the first iteration's;
        "mu" when √(2 D_β) fell by less than `tol` of its first value in 10 iterations (0: never);
        "hals" when the relative error √(2 loss) / ‖X‖ fell by less than `tol`, relatively, in 10
        passes, or when `kkt_residual_` is at most ``tol / 10``, or when steps in the compute type
        lower the loss no more (0: never).
    max_iter : int, default=200
        Most iterations, each one pass over X; those of "auto" over its samples are not counted.
    random_state : int, RandomState or None, default=None
        Draws random starts, the start of the randomised SVD, and the order of `shuffle`.
    alpha_W : float, default=0.0
        Weight of W's penalties, multiplied by n_features.
    alpha_H : float or "same", default="same"
        Weight of H's penalties, multiplied by n_samples.
    l1_ratio : float, default=0.0
        Share of the L1 penalty, 0 to 1; the rest is L2.
    verbose : int, default=0
        Whether to print progress, in scikit-learn's lines.
    shuffle : bool, default=False
        Whether "cd" and "hals" draw the order of components anew for every step of a fit.
    extrapolate : bool, default=False
        Whether "mu" with 1 ≤ β ≤ 2 takes its steps from points ahead of W and H [6]_. The
        loss of 50 plain iterations was reached in 29 to 32, that of 200 in 50 to 104, and it still
        never rises. Keeps W of the iteration before, and for β < 2 the best W, beside the one that changes.
        Not for `transform`.
    device : {None, "cpu", "cuda", "cuda:1", …, "auto"}, default=None
        Where to compute. None follows X: an array of CuPy, torch or any other library on a GPU is
        factorised there, and results are of its kind; host data on the CPU. "cuda" computes host
        data on a GPU, and fails with the reason where none works; "auto" then takes the CPU.
    dtype : {None, numpy.float32, numpy.float64}, default=None
        Compute type. None: float64 for float64 and integers of 32 bits and more, float32 for
        float32, integers of up to 16 bits, bool and float16.
    n_jobs : int or None, default=None
        Threads; −1 for all processors, None for what BLAS, OMP, joblib and the processors allow.
        Results have the same bits for any number.
    max_time : float or None, default=None
        Seconds from the call, after which no further iteration begins; one is made in any case. A start from
        samples of the rows ends at that time, too; another start is made to its end.
    callback : callable or None, default=None
        Called after each iteration with an object that has ``iteration``, ``loss``, ``kkt``,
        ``seconds`` and ``factors()``, which copies W and H; returning True ends the fit.
    memory : int, str or None, default=None
        How much of an X on disk may be in memory at a time, in bytes or as "2GB"; None is "512MB".
        It decides how far a thread reads ahead, never the result. W and H come on top, and sums of
        H's size in float64: two for each thread, and up to seven. Without effect on X in memory and
        on a ``numpy.memmap``, of which the system keeps what it can.
    checkpoint : path-like or None, default=None
        File in which a fit is kept while it runs. A fit that finds one goes on from it, and ends
        with the same bits as if it had never stopped; X and all parameters that matter to them
        must be the same (of a Dask array its row chunks, too), else ValueError. X is known by its
        sums and a digest of all its numbers, of a Dask array by its sums alone. The file is written
        after Ctrl-C, too, and where `max_time` or, with `tol` > 0, `max_iter` ended the fit, which
        goes on from it with more of them; it is removed when a fit has come to another end and its
        results are safe. One fit at a time may use it. That of a Dask array holds W, which comes here
        block by block.
    checkpoint_every : float, default=600
        Seconds from one writing of `checkpoint` to the next.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features), float32 or float64
        H.
    n_components_ : int
        k.
    reconstruction_err_ : float
        √(2 D_β(X | WH)) without penalties, of the W of the fit.
    n_iter_ : int
        Iterations; for "hals" passes over X, those included that were rejected.
    n_features_in_ : int
        Features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if X had names that are all strings.
    converged_ : bool
        Whether the stop rule was met.
    stop_reason_ : str
        Why the fit ended, and which rule it was.
    history_ : dict of str to ndarray of shape (n_iter_,), float64
        "loss" (objective with penalties; for "mu" with β ≠ 2 where its rule looks, NaN between),
        "violation" (sum of projected gradients, NaN for "mu") and "seconds" of each iteration; for
        "hals" of each pass that was accepted.
    kkt_residual_ : float
        Distance from a stationary point: 0 at one.

    See Also
    --------
    MiniBatchNMF : Learns from a batch of samples at a time.

    References
    ----------
    .. [1] A. Cichocki, A.-H. Phan, "Fast local algorithms for large scale nonnegative matrix and
       tensor factorizations", IEICE Trans. Fundamentals E92-A(3), 2009.
    .. [2] C. Févotte, J. Idier, "Algorithms for nonnegative matrix factorization with the
       β-divergence", Neural Computation 23(9), 2011.
    .. [3] N. Gillis, F. Glineur, "Accelerated multiplicative updates and hierarchical ALS
       algorithms for nonnegative matrix factorization", Neural Computation 24(4), 2012.
    .. [4] A. M. S. Ang, N. Gillis, "Accelerating nonnegative matrix factorization algorithms using
       extrapolation", Neural Computation 31(2), 2019.
    .. [5] C. Boutsidis, E. Gallopoulos, "SVD based initialization: A head start for nonnegative
       matrix factorization", Pattern Recognition 41(4), 2008.
    .. [6] L. T. K. Hien, V. Leplat, N. Gillis, "Block majorization minimization with extrapolation
       and application to β-NMF", arXiv 2401.06646, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import NMF
    >>> X = np.random.default_rng(0).random((30, 8))
    >>> model = NMF(3, random_state=0, max_iter=500)
    >>> W = model.fit_transform(X)
    >>> W.shape, model.components_.shape, model.converged_
    ((30, 3), (3, 8), True)
    >>> bool(np.isclose(model.reconstruction_err_, np.linalg.norm(X - W @ model.components_)))
    True
    """

    _parameter_constraints: dict = {
        **BaseNMF._parameter_constraints,
        "init": [StrOptions({"random", "nndsvd", "nndsvda", "nndsvdar", "custom", "auto"}), None],
        "solver": [StrOptions(set(SOLVERS))],
        "shuffle": ["boolean"],
        "extrapolate": ["boolean"],
        "memory": [Interval(Integral, 1, None, closed="left"), str, None],
        "checkpoint": [str, PathLike, None],
        "checkpoint_every": [Interval(Real, 0, None, closed="left")],
    }
    _negative_at_transform = "X in NMF"

    @property
    def _spreads(self) -> bool:  # type: ignore[override]
        return distributed.client_of() is not None

    def __init__(
        self,
        n_components="auto",
        *,
        init=None,
        solver="cd",
        beta_loss="frobenius",
        tol=1e-4,
        max_iter=200,
        random_state=None,
        alpha_W=0.0,
        alpha_H="same",
        l1_ratio=0.0,
        verbose=0,
        shuffle=False,
        extrapolate=False,
        device=None,
        dtype=None,
        n_jobs=None,
        max_time=None,
        callback=None,
        memory=None,
        checkpoint=None,
        checkpoint_every=600,
    ):
        self.n_components = n_components
        self.init = init
        self.solver = solver
        self.beta_loss = beta_loss
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.alpha_W = alpha_W
        self.alpha_H = alpha_H
        self.l1_ratio = l1_ratio
        self.verbose = verbose
        self.shuffle = shuffle
        self.extrapolate = extrapolate
        self.device = device
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.max_time = max_time
        self.callback = callback
        self.memory = memory
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every

    @_compat.fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, W=None, H=None, *, out=None):
        """Learn W and H from X, and return W.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type; dense, or CSR or CSC. Never copied whole. Or a
            matrix on disk, of which a few blocks of rows are in memory at a time: a
            ``numpy.memmap``, the path of a ``.npy`` file, an h5py dataset, a Zarr array, the path
            of either ("file.h5::name"), or a stream of row blocks (`RowBlocks`). It is read once
            for each iteration, once before and once after; the result has the bits of one from
            memory.
        y : Ignored
            Present by convention.
        W : array-like of shape (n_samples, n_components), default=None
            Where to begin, for ``init="custom"``; of X's type. Never written.
        H : array-like of shape (n_components, n_features), default=None
            Where to begin, for ``init="custom"``; of X's type. Never written.
        out : path-like or ndarray of shape (n_samples, n_components), default=None
            Where W is to go if not into memory. A path: a ``.npy`` file, which must not exist yet;
            it is written when the fit ends, and returned memory-mapped; W, and what the solver keeps
            beside it, lie in nameless files in its folder while the fit runs. An array is filled
            and returned; of a ``numpy.memmap`` the folder serves in the same way.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components), float32 or float64

        Raises
        ------
        ValueError
            For parameters, X, W or H that make no sense: wrong shapes, negative or missing values
            (of an X on disk after the first look through it, with the row), or a checkpoint of
            another fit.
        TypeError
            For W or H of another type than X.
        """
        if distributed.is_dask(X):
            not_of_dask(out=out)
        if distributed.is_dask(X) and distributed.client_of() is None:
            return distributed.as_given(self.fit_transform(distributed.load(X), W=W, H=H), X)
        begun = time.perf_counter()
        with self._place(X), held(self.checkpoint):
            output = Output(out)
            X, data = self._read(X, "NMF initialization", estimator=self, reset=True)
            output.check(data, self._resolve(data.shape[1])[0])
            tasks = _compat.FitTasks(self, X, self.max_iter)
            solution, view, checkpoint = self._factorize(X, data, W, H, tasks, begun)
            loss, kkt = solution.divergence, solution.kkt
            self._keep(solution, data.give_back(solution.Ht), solution.n_iter, loss, kkt, view.power)
            W = output.filled(data.give_back(solution.W))
            self._warn(solution, view)  # may raise, and then the checkpoint is all that is left of W
            tasks.close()
            self._over(solution, checkpoint)
            return W

    def _check_solver(self, warn: bool) -> None:
        if self.solver != "mu" and self.beta_loss not in (2, "frobenius"):
            raise ValueError(
                f"Invalid beta_loss parameter: solver {self.solver!r} does not handle beta_loss = {self.beta_loss!r}"
            )
        if self.init == "auto" and self.solver != "hals":
            raise ValueError(
                f"init='auto' is for solver='hals'; solver={self.solver!r} takes None, 'random', 'nndsvd', 'nndsvda', "
                "'nndsvdar' or 'custom'."
            )
        if self.extrapolate and not (self.solver == "mu" and 1 <= beta_of(self.beta_loss) <= 2):
            raise ValueError(
                f"extrapolate=True with solver={self.solver!r} and beta_loss={self.beta_loss!r}: only solver='mu' with "
                "1 <= beta_loss <= 2 extrapolates. Set extrapolate=False, or choose such a solver and loss."
            )
        if warn and self.solver == "mu" and self.init == "nndsvd":
            warnings.warn(
                "The multiplicative update ('mu') solver cannot update zeros present in the "
                "initialization, and so leads to poorer results when used jointly with "
                "init='nndsvd'. You may try init='nndsvda' or init='nndsvdar' instead.",
                UserWarning,
                stacklevel=2,
            )

    def _factorize(
        self, X: Any, data: Rows, W: Any, H: Any, tasks: _compat.FitTasks, begun: float
    ) -> tuple[Solution, Rows, Checkpoint | None]:
        """Return what a fit ends with, X as it was read (the divergence is in its unit), and the checkpoint."""
        self._n_components, self._beta_loss = self._resolve(data.shape[1])
        self._check_solver(warn=True)
        self._check_zeros(data, self._beta_loss)
        checkpoint = self._checkpoint(data, W, H)
        data = self._seen(data, self._beta_loss, W, H)
        kept = None if checkpoint is None else checkpoint.found()
        if kept is None:
            W, Ht = self._start(X, data, W, H, begun)
        else:  # only the loop may hold W, so that its memory is free when the loop drops it
            W, Ht = None, kept.Ht
            self._check_passes(checkpoint)
        del kept
        if data.opening().total == 0:
            return nothing(W, Ht, self.solver), data, checkpoint
        penalties = self._penalties(data.shape, data)
        options: dict[str, Any] = {"extrapolate": self.extrapolate}
        if self.shuffle:
            options["shuffle"] = check_random_state(self.random_state)
        if self._auto and sample_rows(*data.shape, Ht.shape[1]):
            options["trusted"] = True
        solver = self._solver(penalties, self._beta_loss, **options)
        solution = factorize(
            data,
            solver,
            W,
            Ht,
            Limits(self.tol, self.max_iter, self.max_time, begun),
            callback=scale.watched(self._watch(tasks), data.power),
            verbose=self.verbose,
            checkpoint=checkpoint,
            overwrite_W=self.init != "custom",
        )
        W, Ht = (scale.times(F, -data.power) for F in (solution.W, solution.Ht))
        return solution._replace(W=W, Ht=Ht, history=scale.history(solution.history, data.power)), data, checkpoint

    def _check_passes(self, checkpoint: Any) -> None:
        if checkpoint.passes > self.max_iter:
            raise ValueError(
                f"the checkpoint '{checkpoint.path}' is of iteration {checkpoint.passes}, but max_iter = "
                f"{self.max_iter}: give a larger max_iter to go on from it, or another path, or delete it."
            )

    def _over(self, solution: Solution, checkpoint: Checkpoint | None) -> None:
        """Remove the checkpoint, now that the results are safe, unless the fit can go on from it."""
        termination = solution.termination
        unfinished = termination.out_of_time or (termination.out_of_iterations and self.tol > 0)
        if checkpoint is not None and not unfinished:
            checkpoint.remove()

    def _checkpoint(self, data: Rows, W: Any, H: Any) -> Checkpoint | None:
        """Return where the fit is to be kept, with what must be the same for another fit to go on from it."""
        if self.checkpoint is None:
            return None
        no_matter = set(_NO_MATTER)
        if self.init == "custom" and (W is None or H is None):  # the start itself depends on it
            no_matter.remove("max_iter")
        settings = {name: value for name, value in self.get_params(deep=False).items() if name not in no_matter}
        identity = {name: _written(value) for name, value in settings.items()}
        identity["dtype"] = str(data.dtype)  # what None stands for
        identity["device"] = data.backend.__name__.rpartition(".")[-1]
        identity["shape of X"], identity["dtype of X"] = str(data.shape), str(data.X.dtype)
        cluster = getattr(data, "cluster", None)
        identity["blocks of X"] = "of its own" if cluster is None else data.cut  # type: ignore[attr-defined]
        opening = data.opening()
        identity["sums of X"] = f"{opening.minimum!r}, {opening.total!r}, {opening.squares!r}"
        identity["contents of X"] = data.digest()
        if self.init == "custom":
            for name, F in (("W", W), ("H", H)):
                numbers = None if F is None else np.ascontiguousarray(cuda.to_host(F))
                identity[f"the start {name}"] = "None" if numbers is None else f"{zlib.crc32(numbers.tobytes()):08x}"
        mapped = cluster is not None or getattr(data, "folder", None) is not None
        checkpoint = Checkpoint(self.checkpoint, self.checkpoint_every, identity, mapped)
        if cluster is not None:
            cluster.checkpoint = checkpoint
        return checkpoint

    def _warn(self, solution: Solution, data: Rows) -> None:
        if data.opening().total == 0:
            return
        self._warn_if_empty(data, solution.W, solution.Ht)
        # scikit-learn warns even if the rule fired in the very last iteration; hals, which is ours, does not.
        if self.solver != "hals" or not solution.termination.converged:
            self._warn_of_end(solution.n_iter, solution.termination)
        early = self.solver == "cd" and solution.termination.converged and self.tol <= _EARLY_TOL
        matters = 2 * solution.divergence > _EXACT * data.opening().squares
        if early and matters and solution.still_falling > _EARLY_FALL:
            warnings.warn(
                f"Stopped after {solution.n_iter} iterations as tol={self.tol:g} asks for, while "
                f"the loss still fell by {100 * solution.still_falling:.2g} % in the last one: "
                f"the rule compares with the first iteration, which the start made large. Decrease tol, "
                'or use solver="hals", whose rule does not depend on the start.',
                ConvergenceWarning,
                stacklevel=3,
            )

    def _code(self, data: Rows, H: Any, X: Any = None) -> tuple[Coded, Array]:
        """Solve for W with H fixed; given X, H must have its type."""
        k, beta = self._resolve(data.shape[1])
        self._check_solver(warn=X is not None)
        self._check_zeros(data, beta)
        H, dtype = self._factor(H, (k, data.shape[1]), "H")
        if X is not None:
            self._check_types(X, data, H=dtype)
        Ht = np.ascontiguousarray(H.T, data.dtype)
        coded = self._coded(data, Ht, beta, max_iter=self.max_iter)
        if coded.unsettled and self.tol > 0:
            rows = f"({coded.unsettled} of {data.shape[0]} rows reached it.)"
            message = f"{maximum_reached(self.max_iter)} {rows}"
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        return coded, Ht


def _written(value: Any) -> str:
    """Return a parameter as text that tells whether it is the same."""
    if isinstance(value, np.generic):
        value = value.item()
    return f"a {type(value).__name__}" if isinstance(value, np.random.RandomState) else repr(value)
