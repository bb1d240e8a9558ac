"""What differs between scikit-learn 1.6 and 1.9, and every private name of scikit-learn and joblib that is used.

A leaf: it imports scikit-learn and joblib and none of nmfcore.
"""

from __future__ import annotations

import gzip
import importlib.util
import inspect
import sys
import warnings
import weakref
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
import numpy as np
import sklearn
from sklearn.base import _clone_parametrized as clone_parametrized
from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import (
    Interval,
    Options,
    StrOptions,
    validate_parameter_constraints,
    validate_params,
)
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec

    from sklearn.base import BaseEstimator

__all__ = [
    "CallbackSupportMixin",
    "FitTasks",
    "Interval",
    "InverseTransformMixin",
    "Options",
    "ParametersMixin",
    "StrOptions",
    "after_import",
    "assumes_finite",
    "check_parameters",
    "clone_parametrized",
    "digits",
    "fit_context",
    "joblib_workers",
    "validate_params",
]

VERSION = tuple(int(part) for part in sklearn.__version__.split(".")[:2])


class _Parameters(NamedTuple):
    """What the signatures of a class say of its parameters."""

    names: list[str]
    checked: dict[str, object]  # defaults of the class that declares the constraints, which satisfy them


_PARAMETERS: weakref.WeakKeyDictionary[type, _Parameters] = weakref.WeakKeyDictionary()


def _parameters_of(cls: type) -> _Parameters:
    """Return the parameters of a class, looked up once: with those that an ``__init__`` passes on as ``**kwargs``."""
    found = _PARAMETERS.get(cls)
    if found is not None:
        return found
    names: set[str] = set()
    for each in cls.__mro__:
        if "__init__" not in vars(each):
            continue
        given = list(inspect.signature(vars(each)["__init__"]).parameters.values())[1:]  # without self
        names |= {value.name for value in given if value.kind is not value.VAR_KEYWORD}
        if not any(value.kind is value.VAR_KEYWORD for value in given):
            break
    declaring = next(each for each in cls.__mro__ if "_parameter_constraints" in vars(each))
    signature = inspect.signature(declaring.__init__).parameters  # type: ignore[misc]
    checked = {name: value.default for name, value in signature.items()}
    found = _PARAMETERS[cls] = _Parameters(sorted(names), checked)
    return found


class ParametersMixin:
    """Parameters whose names are looked up once for each class, and of which those are checked that were given.

    scikit-learn looks into the signature of ``__init__`` and makes every constraint anew for each fit. That took a
    quarter of the 1.1 ms that a fit of 100 × 50 numbers took beside its iterations. The defaults of a subclass are
    checked like values that were given.
    """

    _parameter_constraints: dict[str, Any]

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return list(_parameters_of(cls).names)

    def _validate_params(self) -> None:
        checked, given = _parameters_of(type(self)).checked, self.get_params(deep=False)  # type: ignore[attr-defined]
        changed = {name: value for name, value in given.items() if value is not checked.get(name, given)}
        validate_parameter_constraints(self._parameter_constraints, changed, caller_name=type(self).__name__)


class _Watch(MetaPathFinder):
    """Finds one module as the finders after it do, and calls a function with it once it has been imported."""

    def __init__(self, name: str, function: Callable[[ModuleType], object]):
        self.name, self.function = name, function

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        loader = None if spec is None else spec.loader
        if loader is not None:
            execute = loader.exec_module

            def then_call(module: ModuleType) -> None:
                execute(module)
                self.function(module)

            loader.exec_module = then_call  # type: ignore[method-assign]
        return spec


def after_import(name: str, function: Callable[[ModuleType], object]) -> None:
    """Call a function with a module: at once if the module has been imported, else when it is imported.

    Parameters
    ----------
    name : str
        Of the module.
    function : callable
    """
    if name in sys.modules:
        function(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Watch(name, function))


def assumes_finite() -> bool:
    """Return whether scikit-learn's configuration says that X holds finite numbers only."""
    return bool(sklearn.get_config()["assume_finite"])


def check_parameters(estimator: BaseEstimator) -> None:
    """Check the parameters of an estimator against its ``_parameter_constraints``, as its `fit` does."""
    estimator._validate_params()


def joblib_workers() -> int | None:
    """Return how many jobs an active ``joblib.parallel_config`` allows, None outside of one and of joblib's workers."""
    config = getattr(getattr(joblib.parallel, "_backend", None), "config", None)
    if not config:
        return None
    backend, jobs = joblib.parallel.get_active_backend()
    return backend.effective_n_jobs(jobs)


# ---- inverse_transform: its argument was called Xt, then X ---------------------------------------

_DOC = """Return W · ``components_``, the samples that the codes stand for.

        Parameters
        ----------
        {parameters}

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)
        """


class _InverseOfX:
    def inverse_transform(self, X):
        check_is_fitted(self)
        return self._times(X)  # type: ignore[attr-defined]

    inverse_transform.__doc__ = _DOC.format(
        parameters="X : {ndarray, sparse matrix} of shape (n_samples, n_components)\n"
        "            What `transform` returned."
    )


class _InverseOfXt:
    """Of scikit-learn 1.6."""

    # scikit-learn's own class marks Xt as unused here, and its get_metadata_routing() fails for it: that version
    # routes no Xt anyway.

    def inverse_transform(self, X=None, *, Xt=None):
        if X is None and Xt is None:
            raise TypeError("Missing required positional argument: X.")
        if X is not None and Xt is not None:
            raise TypeError("Cannot use both X and Xt. Use X only.")
        if Xt is not None:
            warnings.warn(
                "Xt was renamed X in version 1.5 and will be removed in 1.7.",
                FutureWarning,
                stacklevel=2,
            )
            X = Xt
        check_is_fitted(self)
        return self._times(X)  # type: ignore[attr-defined]

    inverse_transform.__doc__ = _DOC.format(
        parameters="X : {ndarray, sparse matrix} of shape (n_samples, n_components)\n"
        "            What `transform` returned.\n\n"
        "        Xt : deprecated\n"
        "            The former name of X."
    )


InverseTransformMixin: Any = _InverseOfX if VERSION >= (1, 7) else _InverseOfXt


# ---- scikit-learn ≥ 1.9's callbacks ------------------------------------------------------------

if VERSION >= (1, 9):
    from sklearn.callback import CallbackSupportMixin as _Callbacks
else:

    class _Callbacks:  # type: ignore[no-redef]
        """Nothing: this scikit-learn has no callbacks of its own."""


CallbackSupportMixin: Any = _Callbacks


class FitTasks:
    """The task "fit" of scikit-learn's callback protocol, and its subtasks, one per iteration.

    Does nothing where the estimator has no such callbacks.

    Parameters
    ----------
    estimator : estimator
        Estimator whose callbacks are called.
    X : array-like
        What is being fitted.
    most : int
        The largest number of iterations.
    name : str
        What an iteration is called.
    """

    def __init__(self, estimator: BaseEstimator, X: object, most: int, name: str = "iteration"):
        self.estimator, self.X, self.most, self.name = estimator, X, most, name
        self.active = bool(getattr(estimator, "_skl_callbacks", None))
        self._begun: Any = None
        self._done = 0
        if self.active:
            self._fit = estimator._init_callback_context(max_subtasks=most)
            self._fit.call_on_fit_task_begin(estimator=estimator, X=X)

    def begin(self) -> None:
        """Announce that an iteration begins."""
        if self.active and self._begun is None and self._done < self.most:
            self._begun = self._fit.subcontext(task_name=self.name)
            self._begun.call_on_fit_task_begin(estimator=self.estimator, X=self.X)

    def end(self, attributes: Callable[[], Mapping[str, object]]) -> bool:
        """Announce that the iteration ended; `attributes` makes a fitted estimator of it.

        Returns
        -------
        stop : bool
            Whether a callback ends the fit.
        """
        self.begin()  # if none has been, as after a run of several that a callback has ended
        if self._begun is None:
            return False
        begun, self._begun, self._done = self._begun, None, self._done + 1
        return bool(
            begun.call_on_fit_task_end(estimator=self.estimator, X=self.X, reconstruction_attributes=attributes)
        )

    def close(self) -> None:
        """Announce that the fit ended. An iteration begun, but not needed, ends empty."""
        if not self.active:
            return
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun.call_on_fit_task_end(estimator=self.estimator)
        self._fit.call_on_fit_task_end(estimator=self.estimator, X=self.X, reconstruction_attributes={})


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's bundled digits, 1797 × 64 in float64, and their labels, as ``load_digits`` does.

    They are read where its package keeps them: importing ``sklearn.datasets`` takes longer than a fit of them.
    """
    try:
        with gzip.open(Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz") as file:
            table = np.loadtxt(file, delimiter=",")
    except OSError:
        from sklearn.datasets import load_digits

        return load_digits(return_X_y=True)
    return table[:, :-1], table[:, -1].astype(int)
