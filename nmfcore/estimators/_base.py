"""What `NMF` and `MiniBatchNMF` share: opening X, making starts, keeping results."""

from __future__ import annotations

import copy
import inspect
import math
import re
import time
import warnings
from abc import ABC
from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from .. import __version__, _compat, rows, scale
from .._compat import Interval, Options, StrOptions
from .._typing import Array, DType, Factor, MaskLike, Matrix, Seed
from ..backends import cuda
from ..loop.session import Progress, Stopped, complete
from ..loop.solve import Coded, Solution, code
from ..loop.stopping import StopReason, Termination
from ..minibatch import remembered
from ..objective import EPSILON, Penalties, beta_of, divergence, shares_of
from ..rows import Rows
from ..solvers import Fixed, Solver, make_solver, reads_columns
from ..starts.nndsvd import CUT_OFF, initialize
from ..starts.samples import warm_start
from ._arrangement import NORMS, Arrangement, arrangement
from ._missing import masked_start, missing_value, warn_of_unobserved
from ._validation import Checks, Output, check_columns, check_factor, not_of_dask

_EMPTY = 1e-6  # share of ΣX in ΣWH below which nothing is left
# Sizes of a factor's numbers: below, a cut-off at 1e-6 may remove all of an NNDSVD; above, the mean of X drowns them.
_SMALL, _LARGE = 1e-4, 1e3
_RESCALE = 'Divide X by its mean, or use solver="hals", which does not depend on the unit of X.'


class BaseNMF(
    _compat.ParametersMixin,
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
        "sort_components": ["boolean"],
        "normalize": [StrOptions(set(NORMS)), None],
        "fixed_components": ["array-like", None],
    }
    # `out` is no metadata of samples, and only `NMF` takes masks.
    __metadata_request__transform = {"out": UNUSED, "mask": UNUSED}
    __metadata_request__score = {"mask": UNUSED}

    # Parameters of a subclass whose __init__ does not have all of ours.
    n_components: int | str | None = "auto"
    init: str | None = None
    solver: str = "cd"
    beta_loss: str | float = "frobenius"
    tol: float = 1e-4
    max_iter: int = 200
    random_state: Seed = None
    alpha_W: float = 0.0
    alpha_H: str | float = "same"
    l1_ratio: float = 0.0
    verbose: int = 0
    device: str | None = None
    dtype: DType = None
    n_jobs: int | None = None
    max_time: float | None = None
    callback: Callable[..., object] | None = None
    sort_components: bool = False
    normalize: str | None = None
    fixed_components: ArrayLike | None = None
    memory: int | str | None = None
    _usual_memory: str | None = None  # what a memory of None means; None is that of `nmfcore.rows.disk.StoredRows`
    _takes_masks = False
    _of_part = False  # whether X is a block of another, see `nmfcore.rows.Checks`
    _n_components: Any
    _beta_loss: Any

    # ---- scikit-learn's machinery --------------------------------------------------------------

    def fit(self, X: Matrix, y: object = None, **params: ArrayLike | None) -> Self:
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
        if params.get("mask") is not None and not self._takes_masks:
            raise ValueError(
                f"{type(self).__name__} takes no mask: fill in what is missing, or use NMF, which takes one."
            )
        if params.get("sample_weight") is not None and not self._takes_masks:
            raise ValueError(f"{type(self).__name__} takes no sample_weight: use NMF, which takes weights.")
        optional = ("mask", "sample_weight")
        self.fit_transform(
            X, **{name: each for name, each in params.items() if name not in optional or each is not None}
        )
        return self

    def transform(
        self, X: Matrix, *, mask: Matrix | None = None, out: PathLike[str] | str | Array | None = None
    ) -> Array:
        """Return the codes of X: W ≥ 0 such that X ≈ W · ``components_``.

        Every row is solved for alone until its own rule is met, so it has the same code in any
        company.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type; or a matrix on disk, see `NMF.fit_transform`.
        mask : array-like, sparse matrix or store of bool, default=None
            True where an entry of X, or (of shape (n_features,)) a column, is left out, see
            `NMF.fit_transform`. Each row is solved for on what is observed of it.
        out : path-like or ndarray of shape (n_samples, n_components), default=None
            Where W is to go if not into memory, see `NMF.fit_transform`.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components), float32 or float64
            Of a Dask array it is a Dask array, which is computed block by block. Each block with rows of which
            nothing is observed warns of its own.
        """
        if rows.is_lazy(X) and (self._takes_masks or mask is None):
            not_of_dask(out=out)
            check_is_fitted(self)
            return self._lazily(X, "transform", self.components_.shape[0], mask)
        output = Output(out)
        with np.errstate(under="ignore"), self._open_fitted(X, mask) as data:
            warn_of_unobserved(data, rows_only=True)
            output.check(data, self.components_.shape[0])
            coded, _ = self._code(data, self.components_)
            return output.filled(data.rows_to_caller(coded.W))

    def score(
        self, X: Matrix, y: object = None, sample_weight: ArrayLike | None = None, *, mask: Matrix | None = None
    ) -> float:  # fmt: skip
        """Return minus the mean divergence of X from what its codes stand for; higher is better.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type.
        y : Ignored
            Present by convention.
        sample_weight : array-like of shape (n_samples,), number or None, default=None
            How much each row counts in the mean. None is all as much.
        mask : array-like, sparse matrix or store of bool, default=None
            True where an entry of X, or a column, is left out, see `transform`.

        Returns
        -------
        score : float
            −D_β(X | transform(X) · ``components_``) / n_samples. Entries that are
            left out are not counted in the divergence; rows are counted, whatever is observed of them. With
            weights, the divergence is weighted as in `NMF`, and divided by the sum of `sample_weight`.
        """
        with np.errstate(under="ignore"), self._open_fitted(X, mask, sample_weight) as data:
            (W, _, _), Ht = self._code(data, self.components_)
            beta = beta_of(self.beta_loss)
            view, power_H = self._seen_by(data, Ht, beta)
            W, Ht = scale.times(W, 2 * view.power - power_H), scale.times(Ht, power_H)
            return scale.times(-divergence(view, W, Ht, beta) / data.counts[0], -scale.of_loss(view.power, beta))

    @property
    def _missing(self) -> float | None:
        """The parameter `missing_values`, None for an estimator that has none."""
        return getattr(self, "missing_values", None)

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self._missing is not None and self._missing != self._missing
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

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
        new = _compat.clone_parametrized(bare)
        new.callback = self.callback
        return new

    def __getstate__(self):
        state = dict(super().__getstate__())
        if state.get("callback") is not None:
            warnings.warn(
                f"The callback of this {type(self).__name__} is not pickled.",
                UserWarning,
                stacklevel=2,
            )
            state["callback"] = None
        if "components_" in state:  # a pickle is read without a GPU, too
            state["components_"] = cuda.to_host(state["components_"])
        if "_memory" in state:
            state["_memory"] = remembered.plain(state["_memory"])
        return {**state, "_nmfcore_version": __version__}

    def __setstate__(self, state):
        state = dict(state)
        written = state.pop("_nmfcore_version", "0")
        if _release(written) > _release(__version__):
            raise ValueError(
                f"this {type(self).__name__} was pickled by nmfcore {written}, and this is nmfcore {__version__}: "
                "upgrade with pip install --upgrade nmfcore"
            )
        if isinstance(state.get("history_"), dict):
            state["history_"] = complete(state["history_"])
        memory = state.get("_memory")
        if isinstance(memory, dict):
            m, k = np.shape(state["components_"])[::-1]
            state["_memory"] = remembered.restored(memory, m, k)
        parameters = inspect.signature(type(self).__init__).parameters.values()
        missing = {each.name: each.default for each in parameters if each.default is not each.empty}
        super().__setstate__({**missing, **state})

    # ---- what goes in --------------------------------------------------------------------------

    def _checks(self, whom: str, reset: bool, named: bool = True) -> Checks:
        """Return what is checked of an X; a NumPy function's estimator is not `named` in errors."""
        columns = reads_columns(self.solver, beta_of(self.beta_loss))  # for which there is no kernel on a GPU
        return Checks(self if named else None, whom, reset, devices=not columns, partial=self._of_part)

    def _open(
        self, X: Matrix, checks: Checks, fitted: bool = False, mask: Matrix | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Rows:  # fmt: skip
        """Return X as blocks of rows, checked; `fitted` is whether the model is, maybe on another machine."""
        return rows.open(
            X,
            checks=checks,
            dtype=self.dtype,
            device=self.device,
            sparse_on_device=beta_of(self.beta_loss) in (1, 2),  # the CPU has kernels for every loss
            n_jobs=self.n_jobs,
            memory=self.memory or self._usual_memory,
            components=self.n_components,
            fitted=fitted,
            digested=checks.reset and getattr(self, "checkpoint", None) is not None,
            mask=mask,
            missing_values=missing_value(self._missing),
            weights=rows.Weights(sample_weight, getattr(self, "feature_weight", None)),
        )

    def _open_fitted(
        self, X: Matrix, mask: Matrix | None = None, sample_weight: ArrayLike | None = None
    ) -> Rows:  # fmt: skip
        """Return X as blocks of rows, for an estimator that is fitted."""
        check_is_fitted(self)
        checks = self._checks(self._negative_at_transform, reset=False)
        return self._open(X, checks, fitted=True, mask=mask, sample_weight=sample_weight)

    def _lazily(self, X: Matrix, method: str, width: int, mask: MaskLike) -> Matrix:
        """Return what a method makes of a Dask array, as a Dask array of `width` columns, computed block by block."""
        self._checks(self._negative_at_transform, reset=False).array(rows.stand_in(X))
        dtype = rows.compute_type(X.dtype, self.dtype)
        return rows.mapped_lazily(X, getattr(self._to_be_sent(), method), width, dtype, mask)

    def _to_be_sent(self) -> Any:
        """Return a copy for the workers of Dask, where `transform` uses one thread unless `n_jobs` is given."""
        light = copy.copy(self)
        light.callback = None
        light._of_part = True
        light.n_jobs = 1 if self.n_jobs is None else self.n_jobs
        light.__dict__.pop("feature_names_in_", None)
        return light

    def _resolve(self, n_features: int) -> tuple[Any, Any]:
        """Return k (or "auto") and β as the parameters have them now."""
        k = self.n_components
        return (n_features if k is None else k), beta_of(self.beta_loss)

    def _check_loss(self, data: Rows, beta: float) -> None:
        data.check_loss(beta)
        if beta <= 0 and data.summary().minimum == 0:
            raise ValueError(
                "When beta_loss <= 0 and X contains zeros, the solver may diverge. "
                "Please add small values to X, or use a positive beta_loss."
            )
        if reads_columns(self.solver, beta) and not hasattr(data.backend, "descend_kl"):
            check_columns(self.solver, self.beta_loss, data.by_rows_only)

    def _check_zeros(self, data: Rows, beta: float) -> None:
        self._check_loss(data, beta)
        opening, what = data.unweighted.summary(), ""
        if beta <= 0 and opening.minimum < EPSILON:
            what = f"values below {EPSILON:.2g} (the smallest is {opening.minimum:.2g})"
        elif self.solver == "mu" and beta < 2 and 0 < opening.total < EPSILON * data.entries:
            what = f"values that are mostly below {EPSILON:.2g}"
        if what:
            warnings.warn(
                f"X holds {what}, which beta_loss={self.beta_loss!r} leaves out of the loss, as scikit-learn does: "
                "neither reconstruction_err_ nor the history counts them. Multiply X by a constant that makes them "
                'larger, or use beta_loss="frobenius".',
                UserWarning,
                stacklevel=4,
            )

    def _seen(self, data: Rows, beta: float, *given: Factor) -> Rows:
        """Return X in the unit in which a fit reads it; `given` are the factors of a custom start."""
        by_columns = reads_columns(self.solver, beta)
        if by_columns:
            check_columns(self.solver, self.beta_loss, data.by_rows_only)
        if beta != 2 and self.solver == "mu":  # the floors of these losses are absolute numbers
            return data
        view = scale.comfortable(data, beta)
        if view.power and self.init == "custom":
            factors = [None if F is None else cuda.to_host(F) for F in given]
            if not all(scale.within_reach(F, view.power, data.dtype) for F in factors):
                view = data
        return view.by_columns() if by_columns else view

    def _seen_by(self, data: Rows, Ht: Array, beta: float) -> tuple[Rows, int]:
        """Return X in the unit that suits it and a given H, and the power of two by which H is multiplied."""
        if beta != 2 and self.solver == "mu":
            return data, 0
        view = scale.comfortable(data, beta)
        if self.solver == "mu" and not scale.within_reach(Ht, view.power, data.dtype):
            return data, 0
        return view, scale.power_of_H(view, Ht, free=self.solver != "mu")

    def _coded(self, data: Rows, Ht: Array, beta: float, tol: float, **limits: Any) -> Coded:
        """Solve for W with H fixed, in the unit that suits X and H."""
        view, power_H = self._seen_by(data, Ht, beta)
        penalties = scale.squeezed(self._penalties(data.given_counts), view.power, power_H, data.dtype, beta)
        coded = code(
            view, self._solver(penalties, beta, masked=data.masked), scale.times(Ht, power_H), tol=tol, **limits
        )
        return coded._replace(W=scale.times(coded.W, power_H - 2 * view.power))

    def _penalties(self, shape: tuple[float, float], view: Rows | None = None) -> Penalties:
        """Return the penalties of that many rows, of X as `view` reads it."""
        n, m = shape
        alpha_W = float(self.alpha_W)
        alpha_H = alpha_W if isinstance(self.alpha_H, str) else float(self.alpha_H)
        l1, l2 = float(self.l1_ratio), 1.0 - float(self.l1_ratio)
        given = Penalties(m * alpha_W * l1, n * alpha_H * l1, m * alpha_W * l2, n * alpha_H * l2)
        if view is None:
            return given
        return scale.squeezed(given, view.power, view.power, view.dtype, beta_of(self.beta_loss))

    def _solver(self, penalties: Penalties, beta: float, **options: Any) -> Solver:
        return make_solver(self.solver, penalties, beta, **options)

    @property
    def _auto(self) -> bool:
        return self.solver == "hals" and self.init in (None, "auto") and beta_of(self.beta_loss) == 2

    def _factor(self, F: Factor, shape: tuple[int | str, int | str], name: str) -> tuple[Array, np.dtype | None]:
        """Return a factor of the caller as a checked array, and its type if it had one."""
        if cuda.kind_of(F) is not None:  # small, and checked once: on the host
            F = cuda.to_host(F)
        return check_factor(F, shape, f"NMF (input {name})"), getattr(F, "dtype", None)

    def _check_types(self, data: Rows, **types: np.dtype | None) -> None:
        """Raise TypeError for a factor in float32 where X is computed on in float64, as scikit-learn does.

        With `dtype`, and where X is computed on in float32, either type of float is cast, as is any byte order.
        """
        given = {name: dtype for name, dtype in types.items() if dtype is not None}
        floats = [np.dtype(np.float32), np.dtype(np.float64)]
        allowed = floats if self.dtype is not None or data.dtype == np.float32 else [data.dtype]
        if any(dtype.newbyteorder("=") not in allowed for dtype in given.values()):
            got = " and ".join(f"{name}.dtype = {dtype}" for name, dtype in given.items())
            casts = " and ".join(f"{name}.astype('{data.dtype}')" for name, each in given.items() if each != data.dtype)
            raise TypeError(
                f"{' and '.join(given)} should have the same dtype as X. Got {got}. X.dtype = {data.given_dtype}: give "
                f"{casts}."
            )

    def _start(self, data: Rows, W: Factor, H: Factor, begun: float | None = None) -> tuple[Array, Array]:
        """Return W and Ht of the start in the compute type, checked if they are given."""
        n, m = data.shape
        if self.init == "custom":
            return self._custom_start(data, W, H)
        if W is not None or H is not None:
            warnings.warn(
                "When init!='custom', provided W or H are ignored. Set  init='custom' to use them as initialization.",
                RuntimeWarning,
                stacklevel=2,
            )
        if self._n_components == "auto":
            self._n_components = m
        k = self._n_components
        if data.summary().total == 0 and (self.init in (None, "random", "auto") or k <= min(n, m)):
            return data.new_rows(k), np.zeros((m, k), data.dtype)
        if self._auto:
            return self._warm_start(data, k, begun)
        unit = scale.unit_of(data) if self.solver == "hals" else 2.0**data.power
        W, Ht = initialize(data, k, self.init, self.random_state, unit)
        if self.solver != "hals" and self.init != "random" and k <= min(n, m):
            self._warn_of_filled(Ht, data, scale.unit_of(data) / unit)
        return W, Ht

    def _warm_start(self, data: Rows, k: int, begun: float | None = None) -> tuple[Array, Array]:
        """Return the start "auto" of "hals"."""
        if data.masked:
            return masked_start(data, k, self.random_state)

        def solver_for(rows: int, **options: Any) -> Any:
            of_rows, of_columns = data.given_counts
            counts = rows * of_rows / data.shape[0] if data.row_weights is not None else rows, of_columns
            return self._solver(self._penalties(counts, data), self._beta_loss, **options)

        return warm_start(data, k, solver_for, self.random_state, max_time=self.max_time, begun=begun)

    def _custom_start(self, data: Rows, W: Factor, H: Factor) -> tuple[Array, Array]:
        n = data.shape[0]
        if W is None and H is None:
            raise ValueError("init='custom' begins with the W and H of the call: give one or both.")
        type_W = type_H = None
        if H is not None:
            H, type_H = self._factor(H, (self._n_components, data.given_shape[1]), "H")
            H = data.picked(H)
            if self._n_components == "auto":
                self._n_components = H.shape[0]
        if W is not None:
            W, type_W = self._factor(W, (n, self._n_components), "W")
            if self._n_components == "auto":
                self._n_components = W.shape[1]
        self._check_types(data, H=type_H, W=type_W)
        if W is not None:
            W = scale.times(np.ascontiguousarray(W, data.dtype), data.power)
        if H is not None:
            Ht = scale.times(np.ascontiguousarray(H.T, data.dtype), data.power)
        # The factor that is missing is solved for; rows of W and of Ht are the same problem.
        p, solve = self._penalties(data.given_counts, data), partial(code, tol=self.tol, max_iter=self.max_iter)
        if W is None:
            W = solve(data, self._solver(p, self._beta_loss, masked=data.masked), Ht).W
        elif H is None:
            swapped = Penalties(p.l1_H, p.l1_W, p.l2_H, p.l2_W)
            transposed = data.T
            Ht = solve(transposed, self._solver(swapped, self._beta_loss, masked=data.masked), W).W
        return W, Ht

    # ---- what comes out ------------------------------------------------------------------------

    def _times(self, W: Matrix) -> Matrix:
        """Return W · components_, where W lives."""
        shape: tuple[int, ...] = getattr(W, "shape", ())
        if len(shape) == 2 and shape[1] != self.components_.shape[0]:
            raise ValueError(
                f"X has {shape[1]} columns, but this {type(self).__name__} has {self.components_.shape[0]} components: "
                "inverse_transform takes codes, as transform returns them."
            )
        return cuda.times(W, self.components_)

    def _watch(self, tasks: _compat.FitTasks) -> Callable[[Progress], bool] | None:
        """Return the function that the loop calls after each iteration, or None."""
        function = self.callback
        if function is None and not tasks.active:
            return None

        def attributes(progress: Progress) -> dict[str, Any]:
            _, H = progress.factors()
            k = H.shape[0]
            return {"components_": H, "n_components_": k, "n_iter_": progress.iteration}

        def watch(progress: Progress) -> bool:
            stop = function is not None and bool(function(progress))
            stop |= tasks.end(partial(attributes, progress))
            if not stop:
                tasks.begin()
            return stop

        tasks.begin()
        return watch

    def _keep(self, result: Any, Ht: Array, n_iter: int, loss: float, kkt: float, power: int) -> None:
        """Set the attributes of a fit, and raise what interrupted it; the loss is that of 4^power·X."""
        self.n_components_ = Ht.shape[1]
        self.components_ = Ht.T
        self.n_iter_ = n_iter
        power_of_error = scale.of_loss(power, self._beta_loss) // 2
        self.reconstruction_err_ = np.float64(scale.times(np.sqrt(np.float64(2 * max(loss, 0.0))), -power_of_error))
        self.converged_ = result.termination.converged
        self.stop_reason_ = result.termination.sentence
        self.history_ = result.history
        self.kkt_residual_ = float(kkt)
        if result.interruption is not None:
            result.interruption.again()

    def _with_fixed(self, Ht: Array, view: Rows, fixed: Fixed | None, H: Factor) -> Array:
        """Return Ht in the unit of X with the fixed rows of the given H, where the fit may have changed their bits.

        In the unit of `view` some numbers of theirs may have been too small; the factors of an X of zeros are zeros.
        """
        if fixed is None or not (view.power or view.summary().total == 0):
            return Ht
        given = np.ascontiguousarray(self._factor(H, Ht.shape[::-1], "H")[0].T, view.dtype)
        return fixed.restored(Ht.copy(), view.backend.asarray(given))

    def _arranged(self, view: Rows, solution: Any, fixed: Fixed | None) -> tuple[Any, Arrangement | None]:
        """Return the results of a fit in the unit of X, with the components in the order and the scale asked for.

        Parameters
        ----------
        view : Rows
            X as the fit read it.
        solution : Solution or Run
            With W and Ht in the unit of `view`. If it was interrupted, an X outside of memory is not read again, and
            the shares are those of a stationary point.
        fixed : Fixed or None
            Components that are left as they are.

        Returns
        -------
        solution : Solution or Run
            Interrupted, and not rearranged, if an exception came before all of it was.
        arrangement : Arrangement or None
            None if nothing was rearranged.
        """
        self.__dict__.pop("scales_", None)
        if self.sort_components or self.normalize is not None:
            try:
                shares, read = None, solution.interruption is None or view.in_memory
                if self.sort_components:
                    shares = shares_of(view, solution.W, solution.Ht, read)
                Ht = scale.times(solution.Ht, -view.power)
                found = arrangement(Ht, shares, self.normalize, fixed)
                W = view.rearranged(solution.W, found.order, scale.times(found.scales, -view.power))
                solution = solution._replace(W=W, Ht=found.of_H(Ht))
            except BaseException as stop:  # the factors are not lost because they could not be rearranged
                if solution.interruption is None:
                    solution = solution._replace(interruption=Stopped(stop))
            else:
                if self.normalize is not None:
                    self.scales_ = found.scales
                return solution, found
        W, Ht = (scale.times(F, -view.power) for F in (solution.W, solution.Ht))
        return solution._replace(W=W, Ht=Ht), None

    def _warn_of_end(self, n_iter: int, termination: Termination) -> None:
        if n_iter == self.max_iter and self.tol > 0:
            warnings.warn(maximum_reached(self.max_iter), ConvergenceWarning, stacklevel=3)
        elif termination.out_of_time:
            warnings.warn(
                f"Stopped after {n_iter} iterations because {termination.sentence}. "
                "Increase max_time to improve convergence.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _warn_of_filled(self, Ht: Array, data: Rows, size: float) -> None:
        """Warn if an NNDSVD is out of proportion to what fills its zeros; `size`: of its numbers, in the unit of X."""
        mean = data.summary().mean * 2.0**-data.power
        rescale = _RESCALE if self._beta_loss == 2 else "Divide X by its mean."
        if size > _LARGE and self.solver == "mu" and self.init in (None, "nndsvda"):  # cd says so at the end
            warnings.warn(
                "The start is out of proportion: init='nndsvda' fills zeros with the mean of X, as scikit-learn does, "
                f"beside numbers near its square root, and X is so large that these do not count. {rescale}",
                UserWarning,
                stacklevel=4,
            )
        elif size < _SMALL and 0 < float(Ht.max()) <= 1.01 * mean:  # "nndsvdar" fills with less
            warnings.warn(
                "Nothing is left of the NNDSVD that the fit was to begin with: the values of X are so small that the "
                f"cut-off at {CUT_OFF:g}, an absolute number of scikit-learn's, made all of W and H zero, and the mean "
                f"of X was filled in. {rescale}",
                UserWarning,
                stacklevel=4,
            )

    def _warn_if_empty(self, view: Rows, W: Array, Ht: Array) -> None:
        """Warn if W and H are zero or not finite; the pair is in the unit of X."""
        if not view.summary().total:
            return
        share, (n, m) = scale.share_left(view, W, Ht), view.counts
        if share > min(_EMPTY, 1e-3 * Ht.shape[1] / max(n, m)):  # k rows of n that are alike have a share of k / n
            return
        penalties = self._penalties((n, m))
        if math.isnan(share):
            what = f"W and H are not finite: what the fit multiplies is too large for {view.dtype}. {_RESCALE}"
        elif any(penalties):
            alpha_H = "the same" if isinstance(self.alpha_H, str) else f"{self.alpha_H:g}"
            what = (
                "Nothing of X is left in W and H: the penalties removed every component. "
                f"alpha_W = {self.alpha_W:g} is multiplied by n_features = {m:g}, and alpha_H ({alpha_H}) by "
                f"n_samples = {n:g}: give smaller ones."
            )
        elif self.solver == "hals":
            what = (
                f"Nothing of X is left in W and H: the values of X are too small for {view.dtype}. Multiply X by a "
                "constant, or leave dtype out."
            )
        elif self._beta_loss == 2:
            what = (
                "Nothing of X is left in W and H: the values of X are so small that the start's cut-off at "
                f"{CUT_OFF:g}, an absolute number of scikit-learn's, removed them. {_RESCALE}"
            )
        else:
            what = (
                "Nothing of X is left in W and H: the values of X are so small that the floor of "
                f"{EPSILON:.2g} under W·H, an absolute number of scikit-learn's, hides them. "
                "Multiply X by a constant that makes its mean about 1."
            )
        warnings.warn(what, ConvergenceWarning, stacklevel=4)


def maximum_reached(max_iter: int) -> str:
    return f"Maximum number of iterations {max_iter} reached. Increase it to improve convergence."


def zero_solution(W: Array, Ht: Array, solver: str, begun: float) -> Solution:
    """Return the factorisation of an X that is all zeros, of a fit that was called at the time `begun`."""
    violation = math.nan if solver == "mu" else 0.0
    return Solution(
        W=np.zeros_like(W),
        Ht=np.zeros_like(Ht),
        n_iter=1,
        termination=StopReason.ZEROS.given(),
        history={
            "loss": np.zeros(1),
            "violation": np.full(1, violation),
            "seconds": np.full(1, time.perf_counter() - begun),
            "accepted": np.ones(1, np.bool_),
        },
        divergence=0.0,
        kkt=0.0,
        interruption=None,
        still_falling=0.0,
    )


def _release(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(int(number) for number in re.findall("[0-9]+", str(version))[:2])
