"""What differs between scikit-learn 1.4 and 1.9, and nothing else.

A leaf: it imports scikit-learn and none of nmfcore.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import sklearn
from sklearn.utils import metadata_routing, validation
from sklearn.utils._param_validation import Hidden, StrOptions
from sklearn.utils.validation import check_is_fitted

VERSION = tuple(int(part) for part in sklearn.__version__.split(".")[:2])

# The default of n_components, and what the constraints must let pass beside the public values.
N_COMPONENTS: Any = "auto" if VERSION >= (1, 6) else "warn"
HIDDEN_N_COMPONENTS: list[Any] = [] if VERSION >= (1, 6) else [Hidden(StrOptions({"warn"}))]

# Who complains of negative values of X, for NMF.
NEGATIVE_AT_FIT = "NMF initialization" if VERSION >= (1, 6) else "NMF (input X)"
NEGATIVE_AT_TRANSFORM = "X in NMF" if VERSION >= (1, 6) else "NMF (input X)"

# The keyword of check_array that switches its search for NaN and infinity.
ALL_FINITE = "ensure_all_finite" if VERSION >= (1, 6) else "force_all_finite"


def validate_data(estimator: Any, X: Any, **options: Any) -> Any:
    """Check X for an estimator: its names, its shape, its type; a method until scikit-learn 1.5.

    Parameters
    ----------
    estimator : estimator
        Gets ``n_features_in_`` and ``feature_names_in_``, or is compared with them.
    X : array-like
        What the user gave.
    **options : dict
        Of scikit-learn's ``check_array``, and ``reset``.

    Returns
    -------
    X : ndarray or sparse matrix
    """
    if VERSION >= (1, 6):
        return validation.validate_data(estimator, X, **options)
    return estimator._validate_data(X, **options)


def resolve_n_components(value: Any, warn: bool) -> Any:
    """Return ``n_components`` with the default of scikit-learn < 1.6 replaced by what it means.

    Parameters
    ----------
    value : int, None, "auto" or "warn"
        The parameter.
    warn : bool
        Whether to announce the change of the default, as those versions do in `fit`.

    Returns
    -------
    int, None or "auto"
    """
    if isinstance(value, str) and value == "warn":
        if warn:
            warnings.warn(
                "The default value of `n_components` will change from `None` to `'auto'` in 1.6. "
                "Set the value of `n_components` to `None` explicitly to suppress the warning.",
                FutureWarning,
                stacklevel=2,
            )
        return None
    return value


# ---- inverse_transform: its argument was called W, then Xt, then X --------------------------------

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
    """Of scikit-learn 1.5 and 1.6."""

    # scikit-learn's own class marks Xt as unused here, and its get_metadata_routing() fails for it: these versions
    # route no Xt anyway.

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


class _InverseOfW:
    """Of scikit-learn 1.4."""

    # No request is made of the former name.
    if VERSION < (1, 5):
        __metadata_request__inverse_transform = {"W": metadata_routing.UNUSED}

    def inverse_transform(self, Xt=None, W=None):
        if Xt is None and W is None:
            raise TypeError("Missing required positional argument: Xt")
        if W is not None and Xt is not None:
            raise ValueError("Please provide only `Xt`, and not `W`.")
        if W is not None:
            warnings.warn(
                "Input argument `W` was renamed to `Xt` in v1.3 and will be removed in v1.5.",
                FutureWarning,
                stacklevel=2,
            )
            Xt = W
        check_is_fitted(self)
        return self._times(Xt)  # type: ignore[attr-defined]

    inverse_transform.__doc__ = _DOC.format(
        parameters="Xt : {ndarray, sparse matrix} of shape (n_samples, n_components)\n"
        "            What `transform` returned.\n\n"
        "        W : deprecated\n"
        "            The former name of Xt."
    )


InverseTransformMixin: Any = _InverseOfX if VERSION >= (1, 7) else _InverseOfXt if VERSION >= (1, 5) else _InverseOfW


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
        Whose callbacks are told.
    X : array-like
        What is being fitted.
    most : int
        The largest number of iterations.
    name : str
        What an iteration is called.
    """

    def __init__(self, estimator: Any, X: Any, most: int, name: str = "iteration"):
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

    def end(self, attributes: Callable[[], dict[str, Any]]) -> bool:
        """Announce that the iteration ended; `attributes` makes a fitted estimator of it.

        Returns
        -------
        stop : bool
            Whether a callback wants the fit to end here.
        """
        if not self.active:
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
