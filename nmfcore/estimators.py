"""scikit-learn's API: NMF, MiniBatchNMF and non_negative_factorization; no maths inside.

Everything a user of ``sklearn.decomposition`` knows is here under the same names, with the same
messages: parameters are checked, X is validated without a copy, a solver of `nmfcore.solvers` is
run by `nmfcore.solve`, and what came of it becomes attributes and warnings.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
import zlib
from abc import ABC
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from numbers import Integral, Real
from os import PathLike
from os.path import realpath
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _clone_parametrized,
    _fit_context,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import assert_all_finite, check_array, check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_params
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted, check_non_negative

from . import _compat, disk, distributed, minibatch, online
from ._nmf import _beta_loss_to_float, _check_init
from .backends import cuda
from .checkpoint import Checkpoint, check_place
from .data import Rows, as_rows
from .device_rows import as_device_rows
from .initialization import initialize
from .objective import Penalties, divergence
from .persistence import replacing
from .solve import Coded, Solution, code, factorize
from .solvers import SOLVERS, ExtrapolatedUpdate
from .warm_start import sample_rows, warm_start

__all__ = ["NMF", "MiniBatchNMF", "non_negative_factorization"]

Array = NDArray[Any]

_SMALL = ("uint8", "int8", "uint16", "int16", "bool", "float16")
_WIDE = ("int32", "uint32", "int64", "uint64")
# Read where they lie; anything else becomes float64, as in scikit-learn.
_READ_AS_THEY_ARE = [np.dtype(name) for name in ("float64", "float32", *_SMALL, *_WIDE)]
_EARLY_TOL = 1e-3  # a user who asks for more than this ...
_EARLY_FALL = 1e-3  # ... is told when the last iteration still brought more than that,
_EXACT = 1e-6  # unless ‖X − WH‖² / ‖X‖² is below this: what is left of a nearly exact fit falls for ever


class _BaseNMF(
    _compat.InverseTransformMixin,
    _compat.CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
    ABC,
):
    """What NMF and MiniBatchNMF share."""

    _parameter_constraints: dict = {
        "n_components": [
            Interval(Integral, 1, None, closed="left"),
            None,
            StrOptions({"auto"}),
            *_compat.HIDDEN_N_COMPONENTS,
        ],
        "init": [StrOptions({"random", "nndsvd", "nndsvda", "nndsvdar", "custom"}), None],
        "beta_loss": [StrOptions({"frobenius", "kullback-leibler", "itakura-saito"}), Real],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "alpha_W": [Interval(Real, 0, None, closed="left")],
        "alpha_H": [Interval(Real, 0, None, closed="left"), StrOptions({"same"})],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "verbose": ["verbose"],
        "device": [str, None],
        "dtype": [
            Options(type, {np.float32, np.float64}),
            Options(np.dtype, {np.dtype(np.float32), np.dtype(np.float64)}),
            StrOptions({"float32", "float64"}),
            None,
        ],
        "n_jobs": [
            Interval(Integral, 1, None, closed="left"),
            Interval(Integral, None, -1, closed="right"),
            None,
        ],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "callback": [callable, None],
    }
    __metadata_request__transform = {"out": UNUSED}  # no metadata of samples
    _reads_disk = True
    memory: Any = None

    n_components: Any
    init: Any
    solver: str
    beta_loss: Any
    tol: float
    max_iter: int
    random_state: Any
    alpha_W: float
    alpha_H: Any
    l1_ratio: float
    verbose: int
    device: str | None
    dtype: Any
    n_jobs: int | None
    max_time: float | None
    callback: Any
    _n_components: Any
    _beta_loss: Any

    # ---- scikit-learn's machinery --------------------------------------------------------------

    def fit(self, X, y=None, **params):
        """Learn W and H from X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type.
        y : Ignored
            Present by convention.
        **params : dict
            ``W`` and ``H``, see `fit_transform`.

        Returns
        -------
        self : object
        """
        self.fit_transform(X, **params)
        return self

    def transform(self, X, *, out=None):
        """Return the codes of X: W ≥ 0 such that X ≈ W · ``components_``.

        Every row is solved for alone until its own rule is met, so it has the same code in any
        company.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type; or a matrix on disk, see `NMF.fit_transform`.
        out : path-like or ndarray of shape (n_samples, n_components), default=None
            Where W is to go if not into memory, see `NMF.fit_transform`.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components), float32 or float64
        """
        if distributed.is_dask(X):
            _not_of_dask(out=out)
            check_is_fitted(self)
            _validated(_stand_in(X), estimator=self, reset=False)
            return distributed.transform(self, X, self._compute_type(X))
        with self._place(X):
            output = _Output(out)
            data, W, _ = self._transform(X, output)
            return output.filled(data.give_back(W))

    def score(self, X, y=None):
        """Return minus the mean divergence of X from what its codes stand for; higher is better.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type.
        y : Ignored
            Present by convention.

        Returns
        -------
        score : float
            −D_β(X | transform(X) · ``components_``) / n_samples.
        """
        with self._place(X):
            data, W, Ht = self._transform(X)
            return -divergence(data, W, Ht, _beta_loss_to_float(self.beta_loss)) / data.shape[0]

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _more_tags(self):  # scikit-learn < 1.6
        return {"requires_positive_X": True, "preserves_dtype": [np.float64, np.float32]}

    # A callback may hold what cannot be copied or pickled (a window, a lock): it is passed on by
    # reference to copies and clones, and stays behind when the estimator is pickled.

    def __copy__(self):
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __deepcopy__(self, memo):
        new = object.__new__(type(self))
        memo[id(self)] = new
        for name, value in self.__dict__.items():
            new.__dict__[name] = value if name == "callback" else copy.deepcopy(value, memo)
        return new

    def __sklearn_clone__(self):
        bare = copy.copy(self)
        bare.callback = None
        return _clone_parametrized(bare).set_params(callback=self.callback)

    def __getstate__(self):
        state = dict(super().__getstate__())
        if state.get("callback") is not None:
            warnings.warn(
                f"The callback of this {type(self).__name__} is not pickled.",
                UserWarning,
                stacklevel=2,
            )
            state["callback"] = None
        if "components_" in state:  # who reads it may have no GPU, and needs none: they go where X is
            state["components_"] = cuda.to_host(state["components_"])
        return state

    # ---- what goes in --------------------------------------------------------------------------

    def _read(self, X: Any, whom: str, **check: Any) -> tuple[Any, Rows]:
        """Validate X and look through it once; `whom` complains of negative values."""
        X = disk.source_of(X)
        if isinstance(X, disk.Source):
            return self._read_stored(X, whom, **check)
        given, kind, number = X, cuda.kind_of(X), self._number(X)
        spread = self._spreads and distributed.is_dask(X)
        if distributed.is_dask(X) and not spread:
            X = distributed.load(X)
        if spread:
            X = _validated_on_cluster(X, **check)
        else:
            X = _validated(X, **check) if kind is None else _validated_on_device(X, **check)
        dtype = self._compute_type(X)
        data: Any
        if spread:
            data = distributed.as_dask_rows(X, dtype, self.n_jobs)
        elif number is None:
            data = as_rows(X, dtype, self.n_jobs)
        else:
            data = as_device_rows(given if kind else X, np.dtype(dtype))
        opening = data.opening()
        if not opening.finite:
            seen = X
            if kind is not None:
                values = X.data if hasattr(X, "tocsr") else X
                seen = np.array([np.nan if bool((values != values).any()) else np.inf])
            elif spread:
                seen = data.not_finite()
            _raise_not_finite(seen, data.dtype, check.get("estimator"))
        if opening.minimum < 0:
            check_non_negative(np.array([[opening.minimum]]), whom)
        return X, data

    def _read_stored(self, X: disk.Source, whom: str, **check: Any) -> tuple[disk.Source, Rows]:
        """Do the same for an X that is not in memory: scikit-learn checks a stand-in that takes none."""
        if not self._reads_disk:
            raise TypeError(
                f"{type(self).__name__} takes X in memory or as a numpy.memmap, not {X.what}: use NMF, or give batches "
                "of rows to partial_fit."
            )
        if self._number(X) is not None and self.device != "auto":
            raise ValueError(
                f"device={self.device!r} takes X in memory or as a numpy.memmap, which is streamed to it, not "
                f"{X.what}: open a .npy file with numpy.load(path, mmap_mode='r'), or leave device out."
            )
        _validated(np.broadcast_to(np.zeros((), X.dtype), X.shape), **check)
        small = X.dtype.itemsize <= 2 or X.dtype == np.float32
        dtype = self.dtype or (np.float32 if small else np.float64)
        data = disk.StoredRows(X, dtype, self.n_jobs, self.memory, whom)
        data.opening()
        return X, data

    _spreads = False  # whether Dask arrays are computed on where they are

    def _compute_type(self, X: Any) -> Any:
        small = X.dtype.itemsize <= 2 or X.dtype == np.float32
        return np.dtype(self.dtype or (np.float32 if small else np.float64))

    def _number(self, X: Any) -> int | None:
        """Return the number of the device to compute on; None is the CPU."""
        number = cuda.resolve(self.device, X)
        if number is not None and self.device == "auto" and sparse.issparse(X):  # the CPU has kernels for every loss
            return number if _beta_loss_to_float(self.beta_loss) in (1, 2) else None
        return number

    def _place(self, X: Any) -> AbstractContextManager[Any]:
        """Return the context to compute in."""
        if distributed.is_dask(X):
            return distributed.session()
        number = self._number(X)
        return nullcontext() if number is None else cuda.context(number)

    def _resolve(self, n_features: int, warn: bool = False) -> tuple[Any, Any]:
        """Return k (or "auto") and β as the parameters have them now."""
        k = _compat.resolve_n_components(self.n_components, warn)
        return (n_features if k is None else k), _beta_loss_to_float(self.beta_loss)

    def _check_zeros(self, data: Rows, beta: float) -> None:
        data.check_loss(beta)
        if beta <= 0 and data.opening().minimum == 0:
            raise ValueError(
                "When beta_loss <= 0 and X contains zeros, the solver may diverge. "
                "Please add small values to X, or use a positive beta_loss."
            )

    def _penalties(self, shape: tuple[float, int]) -> Penalties:
        n, m = shape
        alpha_W = float(self.alpha_W)
        alpha_H = alpha_W if isinstance(self.alpha_H, str) else float(self.alpha_H)
        l1, l2 = float(self.l1_ratio), 1.0 - float(self.l1_ratio)
        return Penalties(m * alpha_W * l1, n * alpha_H * l1, m * alpha_W * l2, n * alpha_H * l2)

    def _solver(self, penalties: Penalties, beta: float, **options: Any) -> Any:
        if self.solver == "mu":
            return SOLVERS["mu"](penalties, beta=float(beta))
        return SOLVERS[self.solver](penalties, **options)

    @property
    def _auto(self) -> bool:
        return self.solver == "hals" and self.init in (None, "auto")

    def _factor(self, F: Any, shape: tuple[Any, Any], name: str) -> tuple[Array, Any]:
        """Check a factor that the user gave → as an array, and its type if it came with one."""
        if cuda.kind_of(F) is not None:  # small, and checked once: on the host
            F = cuda.to_host(F)
        return _check_init(F, shape, f"NMF (input {name})"), getattr(F, "dtype", None)

    def _check_types(self, X: Any, data: Rows, **types: Any) -> None:
        """Ask for factors of X's type; small types of X, and `dtype`, go with either float type."""
        allowed = [data.dtype]
        if self.dtype is not None or X.dtype.itemsize <= 2:
            allowed = [np.dtype(np.float32), np.dtype(np.float64)]
        given = {name: dtype for name, dtype in types.items() if dtype is not None}
        if any(dtype not in allowed for dtype in given.values()):
            got = " and ".join(f"{name}.dtype = {dtype}" for name, dtype in given.items())
            raise TypeError(f"{' and '.join(given)} should have the same dtype as X. Got {got}.")

    def _start(self, X: Any, data: Rows, W: Any, H: Any) -> tuple[Array, Array]:
        """Check or make the factors to begin with → W and Ht in the compute type."""
        n, m = data.shape
        if self.init == "custom":
            return self._custom_start(X, data, W, H)
        if W is not None or H is not None:
            warnings.warn(
                "When init!='custom', provided W or H are ignored. Set  init='custom' to use them as initialization.",
                RuntimeWarning,
                stacklevel=2,
            )
        if self._n_components == "auto":
            self._n_components = m
        k = self._n_components
        if data.opening().total == 0 and (self.init in (None, "random", "auto") or k <= min(n, m)):
            return data.new_rows(k), np.zeros((m, k), data.dtype)
        if self._auto:
            return self._warm_start(data, k)
        return initialize(data, k, self.init, self.random_state)

    def _warm_start(self, data: Rows, k: int) -> tuple[Array, Array]:
        """Return the start of hals' own."""

        def solver_for(rows: int, **options: Any) -> Any:
            return self._solver(self._penalties((rows, data.shape[1])), self._beta_loss, **options)

        return warm_start(data, k, solver_for, self.random_state)

    def _custom_start(self, X: Any, data: Rows, W: Any, H: Any) -> tuple[Array, Array]:
        n, m = data.shape
        if W is None and H is None:
            raise ValueError("init='custom' begins with the W and H of the call: give one or both.")
        type_W = type_H = None
        if H is not None:
            H, type_H = self._factor(H, (self._n_components, m), "H")
            if self._n_components == "auto":
                self._n_components = H.shape[0]
        if W is not None:
            W, type_W = self._factor(W, (n, self._n_components), "W")
            if self._n_components == "auto":
                self._n_components = W.shape[1]
        self._check_types(X, data, H=type_H, W=type_W)
        if W is not None:
            W = np.ascontiguousarray(W, data.dtype)
        if H is not None:
            Ht = np.ascontiguousarray(H.T, data.dtype)
        # The factor that is missing is solved for; rows of W and of Ht are the same problem.
        p, solve = self._penalties(data.shape), partial(code, tol=self.tol, max_iter=self.max_iter)
        if W is None:
            W = solve(data, self._solver(p, self._beta_loss), Ht).W
        elif H is None:
            swapped = Penalties(p.l1_H, p.l1_W, p.l2_H, p.l2_W)
            transposed = data.T
            Ht = solve(transposed, self._solver(swapped, self._beta_loss), W).W
        return W, Ht

    # ---- what comes out ------------------------------------------------------------------------

    def _transform(self, X: Any, output: _Output | None = None) -> tuple[Rows, Array, Array]:
        """Return X as rows, its codes and Ht. Touches no attribute."""
        check_is_fitted(self)
        X, data = self._read(X, self._negative_at_transform, estimator=self, reset=False)
        if output is not None:
            output.check(data, self.components_.shape[0])
        coded, Ht = self._code(data, self.components_)
        return data, coded.W, Ht

    def _times(self, W: Any) -> Any:
        """Return W · components_, where W lives."""
        return cuda.times(W, self.components_)

    def _watch(self, tasks: _compat.FitTasks) -> Any:
        """Return the one function that the loop calls, None if nobody wants to know."""
        function = self.callback
        if function is None and not tasks.active:
            return None

        def attributes(progress: Any) -> dict[str, Any]:
            _, H = progress.factors()
            k = H.shape[0]
            return {"components_": H, "n_components_": k, "n_iter_": progress.iteration}

        def watch(progress: Any) -> bool:
            stop = function is not None and bool(function(progress))
            stop |= tasks.end(partial(attributes, progress))
            if not stop:
                tasks.begin()
            return stop

        tasks.begin()
        return watch

    def _keep(self, result: Any, Ht: Array, n_iter: int, loss: float, kkt: float) -> None:
        """Set the attributes of a fit, and raise what interrupted it."""
        self.n_components_ = Ht.shape[1]
        self.components_ = Ht.T
        self.n_iter_ = n_iter
        self.reconstruction_err_ = np.sqrt(np.float64(2 * max(loss, 0.0)))
        self.converged_ = result.converged
        self.stop_reason_ = result.reason
        self.history_ = result.history
        self.kkt_residual_ = float(kkt)
        if result.interruption is not None:
            raise result.interruption

    def _warn_of_end(self, n_iter: int, reason: str) -> None:
        if n_iter == self.max_iter and self.tol > 0:
            warnings.warn(_maximum_reached(self.max_iter), ConvergenceWarning, stacklevel=3)
        elif reason.startswith("max_time"):
            warnings.warn(
                f"Stopped after {n_iter} iterations because {reason}. Increase max_time to improve convergence.",
                ConvergenceWarning,
                stacklevel=3,
            )


class NMF(_BaseNMF):
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
        k. "auto": that of a custom H, else n_features. None: n_features. (scikit-learn < 1.6
        announces the default and takes None.)
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
        passes, or when `kkt_residual_` is at most ``tol / 10`` (0: never).
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
        Whether "mu" with 1 ≤ β ≤ 2 takes its steps from points ahead of W and H [6]_: about
        half the iterations or fewer to the same loss, which still never rises. Keeps W of the iteration
        before, and for β < 2 the best W, beside the one that changes. Not for `transform`.
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
        Seconds after which no further iteration begins.
    callback : callable or None, default=None
        Called after each iteration with an object that has ``iteration``, ``loss``, ``kkt``,
        ``seconds`` and ``factors()``, which copies W and H; returning True ends the fit.
    memory : int, str or None, default=None
        How much of an X on disk may be in memory at a time, in bytes or as "2GB"; None is "512MB".
        It decides how far a thread reads ahead, never the result. W and H come on top.
    checkpoint : path-like or None, default=None
        File in which a fit is kept while it runs. A fit that finds one goes on from it, and ends
        with the same bits as if it had never stopped; X and all parameters that matter to them
        must be the same (of a Dask array its row chunks, too), else it complains. It is written
        after Ctrl-C and at the end of `max_time`, too, and removed when the fit has come to its
        end. That of a Dask array holds W, which comes here block by block.
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
        **_BaseNMF._parameter_constraints,
        "init": [StrOptions({"random", "nndsvd", "nndsvda", "nndsvdar", "custom", "auto"}), None],
        "solver": [StrOptions(set(SOLVERS))],
        "shuffle": ["boolean"],
        "extrapolate": ["boolean"],
        "memory": [Interval(Integral, 1, None, closed="left"), str, None],
        "checkpoint": [str, PathLike, None],
        "checkpoint_every": [Interval(Real, 0, None, closed="left")],
    }
    _negative_at_transform = _compat.NEGATIVE_AT_TRANSFORM

    @property
    def _spreads(self) -> bool:  # type: ignore[override]
        return distributed.client_of() is not None

    def __init__(
        self,
        n_components=_compat.N_COMPONENTS,
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

    @_fit_context(prefer_skip_nested_validation=True)
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
            _not_of_dask(out=out)
        if distributed.is_dask(X) and distributed.client_of() is None:
            return distributed.as_given(self.fit_transform(distributed.load(X), W=W, H=H), X)
        with self._place(X):
            output = _Output(out)
            if self.checkpoint is not None:
                check_place(self.checkpoint)
            X, data = self._read(X, _compat.NEGATIVE_AT_FIT, estimator=self, reset=True)
            output.check(data, self._resolve(data.shape[1])[0])
            tasks = _compat.FitTasks(self, X, self.max_iter)
            solution = self._factorize(X, data, W, H, tasks)
            loss, kkt = solution.divergence, solution.kkt
            self._keep(solution, data.give_back(solution.Ht), solution.n_iter, loss, kkt)
            self._warn(solution, data)
            tasks.close()
            return output.filled(data.give_back(solution.W))

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
        if self.extrapolate and not (self.solver == "mu" and 1 <= _beta_loss_to_float(self.beta_loss) <= 2):
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

    def _factorize(self, X: Any, data: Rows, W: Any, H: Any, tasks: _compat.FitTasks) -> Solution:
        self._n_components, self._beta_loss = self._resolve(data.shape[1], warn=True)
        self._check_solver(warn=True)
        self._check_zeros(data, self._beta_loss)
        clock, max_time = time.perf_counter(), self.max_time
        checkpoint = self._checkpoint(data, W, H)
        kept = None if checkpoint is None else checkpoint.found()
        if kept is None:
            W, Ht = self._start(X, data, W, H)
        else:
            W, Ht = kept.rows["W"], kept.Ht
        if data.opening().total == 0:
            return _nothing(W, Ht, self.solver)
        if max_time is not None:
            max_time -= time.perf_counter() - clock
        penalties = self._penalties(data.shape)
        if self.extrapolate:
            solver: Any = ExtrapolatedUpdate(penalties, float(self._beta_loss))
        else:
            options: dict[str, Any] = {}
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
            tol=self.tol,
            max_iter=self.max_iter,
            max_time=max_time,
            callback=self._watch(tasks),
            verbose=self.verbose,
            checkpoint=checkpoint,
            ours=self.init != "custom",
        )
        if checkpoint is not None and not solution.interrupted and not solution.reason.startswith("max_time"):
            checkpoint.remove()
        return solution

    def _checkpoint(self, data: Rows, W: Any, H: Any) -> Checkpoint | None:
        """Return where the fit is to be kept, with what must be the same for another fit to go on from it."""
        if self.checkpoint is None:
            return None
        settings = {name: value for name, value in self.get_params(deep=False).items() if name not in _NO_MATTER}
        identity = {name: _written(value) for name, value in settings.items()}
        identity["dtype"] = str(data.dtype)  # what None stands for
        identity["device"] = data.backend.__name__.rpartition(".")[-1]
        identity["shape of X"], identity["dtype of X"] = str(data.shape), str(data.X.dtype)
        cluster = getattr(data, "cluster", None)
        identity["blocks of X"] = "of its own" if cluster is None else data.cut  # type: ignore[attr-defined]
        opening = data.opening()
        identity["sums of X"] = f"{opening.minimum!r}, {opening.total!r}, {opening.squares!r}"
        if self.init == "custom":
            for name, F in (("W", W), ("H", H)):
                numbers = None if F is None else np.ascontiguousarray(cuda.to_host(F))
                identity[f"the start {name}"] = "None" if numbers is None else f"{zlib.crc32(numbers.tobytes()):08x}"
        checkpoint = Checkpoint(self.checkpoint, self.checkpoint_every, identity, sent_on=cluster is not None)
        if cluster is not None:
            cluster.checkpoint = checkpoint
        return checkpoint

    def _warn(self, solution: Solution, data: Rows) -> None:
        if data.opening().total == 0:
            return
        # scikit-learn warns even if the rule fired in the very last iteration; hals, which is ours, does not.
        if self.solver != "hals" or not solution.converged:
            self._warn_of_end(solution.n_iter, solution.reason)
        early = self.solver == "cd" and solution.converged and self.tol <= _EARLY_TOL
        matters = 2 * solution.divergence > _EXACT * data.opening().squares
        if early and matters and solution.still_falling > _EARLY_FALL:
            # Advice that cannot be followed is none: the solver is named once it is there.
            other = ', or use solver="hals", whose rule does not depend on the start' if "hals" in SOLVERS else ""
            warnings.warn(
                f"Stopped after {solution.n_iter} iterations as tol={self.tol:g} asks for, while "
                f"the loss still fell by {100 * solution.still_falling:.2g} % in the last one: "
                f"the rule compares with the first iteration, which the start made large. Decrease tol{other}.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _code(self, data: Rows, H: Any, X: Any = None) -> tuple[Coded, Array]:
        """Solve for W with H fixed; given X, H must have its type."""
        k, beta = self._resolve(data.shape[1], warn=X is not None)
        self._check_solver(warn=X is not None)
        self._check_zeros(data, beta)
        H, dtype = self._factor(H, (k, data.shape[1]), "H")
        if X is not None:
            self._check_types(X, data, H=dtype)
        Ht = np.ascontiguousarray(H.T, data.dtype)
        solver = self._solver(self._penalties(data.shape), beta)
        coded = code(data, solver, Ht, tol=self.tol, max_iter=self.max_iter)
        if coded.unsettled and self.tol > 0:
            rows = f"({coded.unsettled} of {data.shape[0]} rows reached it.)"
            message = f"{_maximum_reached(self.max_iter)} {rows}"
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        return coded, Ht


class MiniBatchNMF(_BaseNMF):
    r"""Non-negative matrix factorisation from a batch of samples at a time.

    The objective is that of `NMF`. Batches are contiguous rows of X, visited in turn; H comes from
    sums over batches in which the past fades, k (n_features + k) numbers however many rows went by.
    A drop-in for ``sklearn.decomposition.MiniBatchNMF``; with ``solver="hals"`` one pass is about as
    good as a fit of all rows, and `partial_fit` learns from a stream.

    Parameters
    ----------
    n_components : int, "auto" or None, default="auto"
        k. "auto": that of a custom H, else n_features. None: n_features. (scikit-learn < 1.6
        announces the default and takes None.)
    init : {"random", "nndsvd", "nndsvda", "nndsvdar", "custom"} or None, default=None
        Where to begin, as for `NMF`; for "hals" None is a fit of the first batch in `partial_fit`, of a
        sample of the rows in `fit`, and rows of W always begin from nothing.
    batch_size : int, default=1024
        Samples per batch.
    beta_loss : float or {"frobenius", "kullback-leibler", "itakura-saito"}, default="frobenius"
        β: 2, 1, 0, or any real number. For β ≤ 0 X must have no zeros.
    tol : float, default=1e-4
        "mu" stops when H changed by at most `tol` of its norm in a step, "hals" when the error √(2 loss)
        over a pass fell by less than `tol` of itself since the pass before; 0 switches the rule off.
    max_no_improvement : int or None, default=10
        Stop when the smoothed cost of batches (for "hals": the mean over a pass) did not fall for so
        many steps.
    max_iter : int, default=200
        Most passes over X.
    alpha_W : float, default=0.0
        Weight of W's penalties, multiplied by n_features.
    alpha_H : float or "same", default="same"
        Weight of H's penalties, multiplied by the number of samples in the batch.
    l1_ratio : float, default=0.0
        Share of the L1 penalty, 0 to 1; the rest is L2.
    forget_factor : float, default=0.7
        What remains of the past after one pass over X; in `partial_fit` after one call, for "hals" after
        `batch_size` rows. "hals" also lets rows count less that were seen before H was known.
    fresh_restarts : bool, default=False
        Whether to solve for each batch's rows of W afresh in every step.
    fresh_restarts_max_iter : int, default=30
        Most updates of solving afresh, for "mu".
    transform_max_iter : int or None, default=None
        Most updates of a row in `transform`; None is `max_iter`, for "hals" at least 200.
    random_state : int, RandomState or None, default=None
        Draws random starts and the start of the randomised SVD.
    verbose : int, default=0
        Whether to print progress, in scikit-learn's lines.
    solver : {"mu", "hals"}, default="mu"
        Multiplicative updates as scikit-learn's, for any loss, or online coordinate descent [2]_, for
        the Frobenius norm only. Their memories differ: to change it after `partial_fit` begins anew,
        from the components as they are.
    device : {None, "auto", "cpu"}, default=None
        Where to compute: on the CPU, the GPU has no mini-batches.
    dtype : {None, numpy.float32, numpy.float64}, default=None
        Compute type, as for `NMF`.
    n_jobs : int or None, default=None
        Threads, as for `NMF`.
    max_time : float or None, default=None
        Seconds after which no further step begins.
    callback : callable or None, default=None
        Called after each step, as for `NMF`; ``iteration`` counts steps, ``loss`` is the cost per
        sample of the batch, and ``kkt`` is NaN.

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
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if X had names that are all strings.
    converged_ : bool
        Whether a stop rule was met.
    stop_reason_ : str
        Why the fit ended.
    history_ : dict of str to ndarray of shape (n_steps_,), float64
        "loss" (cost per sample of the step's batch), "violation" (NaN) and "seconds".
    kkt_residual_ : float
        Distance from a stationary point: 0 at one.

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
        **_BaseNMF._parameter_constraints,
        "max_no_improvement": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "forget_factor": [Interval(Real, 0, 1, closed="both")],
        "fresh_restarts": ["boolean"],
        "fresh_restarts_max_iter": [Interval(Integral, 1, None, closed="left")],
        "transform_max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "solver": [StrOptions({"mu", "hals"})],
    }
    _negative_at_transform = "MiniBatchNMF (input X)"
    _reads_disk = False

    def __init__(
        self,
        n_components=_compat.N_COMPONENTS,
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

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, W=None, H=None):
        """Learn W and H from X, and return W.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type; dense, or CSR or CSC. Never copied whole.
        y : Ignored
            Present by convention.
        W : array-like of shape (n_samples, n_components), default=None
            Where to begin, for ``init="custom"``; of X's type. Never written.
        H : array-like of shape (n_components, n_features), default=None
            Where to begin, for ``init="custom"``; of X's type. Never written.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components), float32 or float64

        Raises
        ------
        ValueError
            For parameters, X, W or H that make no sense: wrong shapes, negative or missing values.
        TypeError
            For W or H of another type than X.
        """
        self._check_solver()
        X, data = self._read(X, self._negative_at_transform, estimator=self, reset=True)
        self._prepare(data, data.shape[0])
        self._check_zeros(data, self._beta_loss)
        W, Ht = self._start(X, data, W, H)
        learner = self._learner(data.shape[1])
        if data.opening().total == 0:
            self._remember(learner.begin(Ht), 1)
            self._keep(_nothing(W, Ht, "mu"), Ht, 1, 0.0, 0.0)
            return W
        slices, batches = minibatch.cut(X, self._batch_size, data.dtype, self.n_jobs)
        n_steps = self.max_iter * len(batches)
        tasks = _compat.FitTasks(self, X, n_steps, "step")
        limits = (self.tol, self.max_no_improvement, n_steps, self.verbose)
        patience: Any = minibatch.Patience(data.shape[0], *limits)
        if self.solver == "hals":
            patience = online.Patience(data.shape[0], len(batches), *limits)
        result = minibatch.run(
            slices,
            batches,
            learner,
            patience,
            W,
            Ht,
            max_iter=self.max_iter,
            restarts=self.fresh_restarts,
            max_time=self.max_time,
            callback=self._watch(tasks),
        )
        W, Ht = result.W, result.Ht
        if (self.fresh_restarts or self.solver == "hals") and result.interruption is None:
            W = self._code(data, Ht.T)[0].W
        solver, kkt = self._solver(self._penalties(data.shape), self._beta_loss), math.nan
        if result.interruption is None:  # measured by one pass more
            kkt = factorize(data, solver, W, Ht, tol=0, max_iter=1, measure=False).kkt
        n_iter = -(-result.n_steps // len(batches))
        self._remember(result.memory, result.n_steps)
        loss = divergence(data, W, Ht, solver.beta)
        self._keep(result, Ht, n_iter, loss, kkt)
        if self.solver == "mu" or not result.converged:
            self._warn_of_end(n_iter, result.reason)
        tasks.close()
        return W

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, W=None, H=None):
        """Learn from X as one batch, going on from the batches before.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type; dense, or CSR or CSC.
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
        begun = hasattr(self, "components_")
        X, data = self._read(X, self._negative_at_transform, estimator=self, reset=not begun)
        if not begun:
            self._prepare(data, None)
            _, Ht = self._start(X, data, W, H)
        else:  # goes on in the type it began with
            if data.dtype != self.components_.dtype:
                data = as_rows(X, self.components_.dtype, self.n_jobs, minibatch.LANE_WORK)
            Ht = np.ascontiguousarray(self.components_.T)
            if self.solver == "hals" and data.opening().total and not Ht.any():  # there were only zeros
                _, Ht = self._warm_start(data, Ht.shape[1])
        known = hasattr(self, "_memory")
        if begun and not known:  # components_ were assigned
            self._prepare(data, None)
        learner = self._learner(data.shape[1])
        memory = self._memory if known else learner.begin(Ht)
        if isinstance(memory, online.Sums) != (self.solver == "hals"):  # of the other solver
            memory = learner.begin(Ht)
        if self.solver == "hals":  # cut as `fit` cuts it
            data = as_rows(X, data.dtype, self.n_jobs, minibatch.LANE_WORK)
        made = learner.step(data, None, Ht, memory)
        self.n_components_ = Ht.shape[1]
        self.components_ = made.Ht.T
        self._remember(made.memory, (self.n_steps_ if known else 0) + 1)
        return self

    def _number(self, X: Any) -> None:
        if cuda.kind_of(X) is None and self.device in (None, "auto", "cpu"):
            return
        super()._number(X)  # complains of what makes no sense at all
        raise NotImplementedError(
            "MiniBatchNMF computes on the CPU: give it host data and device=None, or use NMF, which reads X larger "
            "than the card in blocks."
        )

    def _check_solver(self) -> None:
        if self.solver == "hals" and _beta_loss_to_float(self.beta_loss) != 2:
            raise ValueError(
                f"Invalid beta_loss parameter: solver 'hals' does not handle beta_loss = {self.beta_loss!r}. Give "
                "beta_loss='frobenius' (or 2), or solver='mu', which takes every loss."
            )

    def _prepare(self, data: Rows, whole: int | None) -> None:
        """Resolve what depends on X; `whole`: its rows, None in a stream."""
        n, m = data.shape
        self._n_components, self._beta_loss = self._resolve(m, warn=True)
        self._batch_size = min(self.batch_size, n)
        self._rho = self.forget_factor ** (self._batch_size / n)
        self._period = self.batch_size if whole is None else whole

    def _learner(self, m: int) -> Any:
        """Return what learns from a batch."""
        if self.solver == "hals":
            return online.Learner(lambda rows: self._penalties((rows, m)), self.forget_factor, self._period)
        return minibatch.Learner(
            lambda rows: self._solver(self._penalties((rows, m)), self._beta_loss),
            self._rho,
            tol=self.tol,
            restart_iter=self.fresh_restarts_max_iter,
        )

    def _start(self, X: Any, data: Rows, W: Any, H: Any) -> tuple[Array, Array]:
        W, Ht = super()._start(X, data, W, H)
        return (np.zeros_like(W) if self.solver == "hals" else W), Ht  # its rows begin from nothing

    def _warm_start(self, data: Rows, k: int) -> tuple[Array, Array]:
        """Return no W, and Ht of a fit of so many rows as a batch has, or more where there are many components."""
        (n, m), rng = data.shape, check_random_state(self.random_state)
        W, rows = np.zeros((n, k), data.dtype), max(self.batch_size, 50 * k)
        if rows < n:
            sample = data.take(np.sort(rng.choice(n, rows, replace=False)), self.n_jobs)
            data = sample if sample.opening().total else data
        return W, online.first_start(data, k, self._penalties((data.shape[0], m)), rng)

    def _remember(self, memory: minibatch.Memory, n_steps: int) -> None:
        self._memory = memory
        self.n_steps_ = n_steps

    def _code(self, data: Rows, H: Any) -> tuple[Coded, Array]:
        """Solve for W with H fixed, until each row hardly moves."""
        Ht = np.ascontiguousarray(np.asarray(H).T, data.dtype)
        self._check_solver()
        solver = self._solver(self._penalties(data.shape), _beta_loss_to_float(self.beta_loss))
        limit = self.max_iter if self.transform_max_iter is None else self.transform_max_iter
        if self.solver == "hals" and self.transform_max_iter is None:
            limit = max(limit, 200)
        return code(data, solver, Ht, tol=self.tol, max_iter=limit, by_step=True), Ht


@validate_params(
    {
        "X": ["array-like", "sparse matrix", str, PathLike],
        "W": ["array-like", None],
        "H": ["array-like", None],
        "update_H": ["boolean"],
    },
    prefer_skip_nested_validation=False,
)
def non_negative_factorization(
    X,
    W=None,
    H=None,
    n_components=_compat.N_COMPONENTS,
    *,
    init=None,
    update_H=True,
    solver="cd",
    beta_loss="frobenius",
    tol=1e-4,
    max_iter=200,
    alpha_W=0.0,
    alpha_H="same",
    l1_ratio=0.0,
    random_state=None,
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
    r"""Factorise X ≈ WH with W, H ≥ 0, or solve for W alone; the function behind `NMF`.

    Minimises

    .. math::

        D_\beta(X | WH) + \alpha_W m \big(\rho \|W\|_1 + \tfrac{1 - \rho}{2} \|W\|_F^2\big)
                        + \alpha_H n \big(\rho \|H\|_1 + \tfrac{1 - \rho}{2} \|H\|_F^2\big).

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Non-negative numbers of any real type; or a matrix on disk, see `NMF.fit_transform`.
    W : array-like of shape (n_samples, n_components), default=None
        Where to begin, for ``init="custom"``. Never written.
    H : array-like of shape (n_components, n_features), default=None
        Where to begin, for ``init="custom"``; the fixed H for ``update_H=False``. Never written.
    n_components : int, "auto" or None, default="auto"
        k, see `NMF`.
    init : {"random", "nndsvd", "nndsvda", "nndsvdar", "custom", "auto"} or None, default=None
        Where to begin, see `NMF`.
    update_H : bool, default=True
        False solves for W with H fixed, every row alone, as `NMF.transform`.
    solver : {"cd", "hals", "mu"}, default="cd"
        See `NMF`.
    beta_loss : float or {"frobenius", "kullback-leibler", "itakura-saito"}, default="frobenius"
        β, see `NMF`.
    tol : float, default=1e-4
        Of the stop rule, see `NMF`.
    max_iter : int, default=200
        Most iterations.
    alpha_W : float, default=0.0
        Weight of W's penalties, multiplied by n_features.
    alpha_H : float or "same", default="same"
        Weight of H's penalties, multiplied by n_samples.
    l1_ratio : float, default=0.0
        Share of the L1 penalty, 0 to 1; the rest is L2.
    random_state : int, RandomState or None, default=None
        See `NMF`.
    verbose : int, default=0
        Whether to print progress, in scikit-learn's lines.
    shuffle : bool, default=False
        See `NMF`.
    extrapolate : bool, default=False
        See `NMF`.
    device : {None, "auto", "cpu"}, default=None
        See `NMF`.
    dtype : {None, numpy.float32, numpy.float64}, default=None
        Compute type, see `NMF`.
    n_jobs : int or None, default=None
        Threads, see `NMF`.
    max_time : float or None, default=None
        Seconds after which no further iteration begins.
    callback : callable or None, default=None
        See `NMF`.
    memory : int, str or None, default=None
        See `NMF`.
    checkpoint : path-like or None, default=None
        See `NMF`; not for ``update_H=False``.
    checkpoint_every : float, default=600
        See `NMF`.

    Returns
    -------
    W : ndarray of shape (n_samples, n_components), float32 or float64
    H : ndarray of shape (n_components, n_features), float32 or float64
    n_iter : int
        Iterations; for ``update_H=False`` those of the row that took most.

    Raises
    ------
    ValueError
        For parameters, X, W or H that make no sense: wrong shapes, negative or missing values.
    TypeError
        For W or H of another type than X.

    References
    ----------
    .. [1] C. Févotte, J. Idier, "Algorithms for nonnegative matrix factorization with the
       β-divergence", Neural Computation 23(9), 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import non_negative_factorization
    >>> X = np.outer([1, 2, 3, 4], [1, 0, 2])
    >>> W, H, n_iter = non_negative_factorization(X, n_components=1)
    >>> bool(np.allclose(W @ H, X))
    True
    """
    estimator = NMF(
        n_components=n_components,
        init=init,
        solver=solver,
        beta_loss=beta_loss,
        tol=tol,
        max_iter=max_iter,
        random_state=random_state,
        alpha_W=alpha_W,
        alpha_H=alpha_H,
        l1_ratio=l1_ratio,
        verbose=verbose,
        shuffle=shuffle,
        extrapolate=extrapolate,
        device=device,
        dtype=dtype,
        n_jobs=n_jobs,
        max_time=max_time,
        callback=callback,
        memory=memory,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )
    estimator._validate_params()
    with estimator._place(X):
        X, data = estimator._read(X, _compat.NEGATIVE_AT_FIT)
        if not update_H:
            if W is not None:
                warnings.warn(
                    "When update_H=False, the provided initial W is not used.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            coded, Ht = estimator._code(data, H, X)
            return data.give_back(coded.W), data.give_back(Ht).T, coded.n_iter
        tasks = _compat.FitTasks(estimator, X, max_iter)
        solution = estimator._factorize(X, data, W, H, tasks)
        if solution.interruption is not None:
            raise solution.interruption
        estimator._warn(solution, data)
        return data.give_back(solution.W), data.give_back(solution.Ht).T, solution.n_iter


# ---- helpers ---------------------------------------------------------------------------------------

_NO_MATTER = ("callback", "checkpoint", "checkpoint_every", "max_time", "memory", "n_jobs", "verbose")


def _written(value: Any) -> str:
    """Return a parameter as text that tells whether it is the same."""
    if isinstance(value, np.generic):
        value = value.item()
    return f"a {type(value).__name__}" if isinstance(value, np.random.RandomState) else repr(value)


class _Output:
    """Where W is to go: into memory (None), a ``.npy`` file, or an array of the caller's."""

    def __init__(self, out: Any):
        self.out, self.path, self.folder = out, None, None
        if isinstance(out, str | PathLike):
            self.path = Path(out).expanduser()
            if self.path.suffix != ".npy":
                raise ValueError(f"out = '{self.path}' must be the path of a .npy file, or an array to fill.")
            self.folder = Path(realpath(self.path)).parent
            if self.path.exists():
                raise FileExistsError(f"out = '{self.path}' exists: give another path, or an array to fill.")
            if not self.folder.is_dir():
                raise FileNotFoundError(f"out = '{self.path}' cannot be written: there is no folder '{self.folder}'.")
        elif isinstance(out, np.memmap) and out.filename is not None:
            self.folder = Path(out.filename).parent
        elif out is not None and not (isinstance(out, np.ndarray) and out.flags.writeable):
            raise ValueError(f"out must be a path or an array that can be written, not {type(out).__name__}.")

    def check(self, data: Rows, k: Any) -> None:
        """Refuse an array of another shape before anything is computed; say where buffers are to lie."""
        n = data.shape[0]
        if self.out is not None and data.backend.xp is not np:
            raise ValueError("out is for X on the CPU: leave it out, W is on the device.")
        if isinstance(self.out, np.ndarray) and self.out.shape != (n, self.out.shape[-1] if k == "auto" else k):
            raise ValueError(f"out has shape {self.out.shape}, but W has {n} rows and {k} columns.")
        if self.folder is not None:
            data.folder = disk.Folder(self.folder)

    def filled(self, W: Any) -> Any:
        """Return W where it is to be."""
        if self.path is not None:
            with replacing(self.path) as file:
                np.lib.format.write_array(file, W, allow_pickle=False)
            return np.load(self.path, mmap_mode="r+")
        if self.out is not None:
            self.out[:] = W
            return self.out
        return W


def _not_of_dask(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} is for X in memory or on disk, but X is a Dask array: leave it out. Its rows of W stay on the "
                "workers, which keep copies of them."
            )


def _stand_in(X: Any) -> Any:
    """Return an array of the shape and type of X that takes no memory, for scikit-learn to check."""
    return np.broadcast_to(np.zeros((), X.dtype), X.shape)


def _validated_on_cluster(X: Any, estimator: Any = None, reset: bool = True) -> Any:
    """Return a Dask array in a type that the workers read."""
    distributed.check(X)
    _validated(_stand_in(X), estimator, reset)
    return X if X.dtype in _READ_AS_THEY_ARE else X.astype(np.float64)


def _validated_on_device(X: Any, estimator: Any = None, reset: bool = True) -> Any:
    """Return an X on a device as CuPy's; scikit-learn checks a stand-in of its shape and type that takes no memory."""
    X = cuda.adopt(X)
    if X.dtype.kind == "c":
        raise ValueError(f"Complex data not supported\n{X.dtype}\n")
    if X.dtype not in _READ_AS_THEY_ARE:
        raise ValueError(f"X on a device has dtype {X.dtype}: give bool, integers, or floats of 16, 32 or 64 bits.")
    _validated(_stand_in(X) if len(X.shape) == 2 else cuda.to_host(X), estimator, reset)  # else it will be quoted
    return X


def _validated(X: Any, estimator: Any = None, reset: bool = True) -> Any:
    """Return X as scikit-learn checks it, in its own type; finiteness is left to the opening."""
    if estimator is None:
        check = partial(check_array, X)
    else:
        check = partial(_compat.validate_data, estimator, X, reset=reset)
    check = partial(check, accept_sparse=("csr", "csc"), dtype=_READ_AS_THEY_ARE)
    try:
        X = check(**{_compat.ALL_FINITE: False})
    except ValueError:
        check()  # with finiteness in its place: scikit-learn's first complaint is ours
        raise
    # Mixed frames may come out as objects.
    return X if X.dtype in _READ_AS_THEY_ARE else X.astype(np.float64)


def _raise_not_finite(X: Any, dtype: np.dtype, estimator: Any) -> NoReturn:
    """Raise scikit-learn's error for an X with NaN or infinity in it."""
    values = X.data if sparse.issparse(X) else X
    if values.dtype == np.float16:  # scikit-learn would have widened it
        values = values[~np.isfinite(values)].astype(np.float64)
    name = None if estimator is None else type(estimator).__name__
    assert_all_finite(values, estimator_name=name, input_name="X" if name else "")
    raise ValueError(f"Input X contains infinity or a value too large for {dtype!r}.")


def _maximum_reached(max_iter: int) -> str:
    return f"Maximum number of iterations {max_iter} reached. Increase it to improve convergence."


def _nothing(W: Array, Ht: Array, solver: str) -> Solution:
    """Return the factorisation of an X that is all zeros."""
    violation = math.nan if solver == "mu" else 0.0
    return Solution(
        W=np.zeros_like(W),
        Ht=np.zeros_like(Ht),
        n_iter=1,
        converged=True,
        reason="X is all zeros, and so are W and H",
        history={
            "loss": np.zeros(1),
            "violation": np.full(1, violation),
            "seconds": np.zeros(1),
        },
        divergence=0.0,
        kkt=0.0,
        interruption=None,
        still_falling=0.0,
    )
