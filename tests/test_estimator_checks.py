"""scikit-learn's estimator checks, with the parameters it uses for its own NMF, none excused."""

import inspect
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import estimator_checks
from sklearn.utils._param_validation import InvalidParameterError, validate_parameter_constraints
from sklearn.utils._test_common import instance_generator
from sklearn.utils.estimator_checks import parametrize_with_checks

from nmfcore import NMF, MiniBatchNMF

CLASSES = (NMF, MiniBatchNMF)


def _table(name):
    """scikit-learn's own entries of one of its tables, by class name."""
    table = getattr(instance_generator, name)
    return {cls.__name__: entry for cls, entry in table.items() if isinstance(cls, type)}


def _constructed():
    """One instance per class and parameter set, set up as scikit-learn does for its own."""
    for cls in CLASSES:
        parameters = _table("INIT_PARAMS")[cls.__name__]
        for one in parameters if isinstance(parameters, list) else [parameters]:
            yield cls(**one)


INSTANCES = list(_constructed())
INSTANCES += [clone(each).set_params(solver="hals") for each in INSTANCES if isinstance(each, MiniBatchNMF)]
INSTANCES += [
    clone(each).set_params(sort_components=True, normalize=norm)
    for each in INSTANCES
    for norm in ("l1", "l2", "max")
    if isinstance(each, NMF)
]


def _name(check):
    return getattr(check, "__name__", None) or check.func.__name__


def _instances_for_check(check, estimator):
    """scikit-learn's per-check parameters, which it looks up by its own classes."""
    tables = getattr(instance_generator, "PER_ESTIMATOR_CHECK_PARAMS", None)
    if tables is None:
        return [estimator]
    entry = _table("PER_ESTIMATOR_CHECK_PARAMS")[type(estimator).__name__].get(_name(check))
    if entry is None:
        return [estimator]
    entries = entry if isinstance(entry, list) else [entry]
    return [clone(estimator).set_params(**parameters) for parameters in entries]


def _ignore_expected():
    """The categories scikit-learn's own common tests ignore; the rest stay errors."""
    for category in (FutureWarning, ConvergenceWarning, UserWarning):
        warnings.simplefilter("ignore", category)


@parametrize_with_checks(INSTANCES)
def test_estimator(estimator, check):
    if _name(check).startswith("check_sample_weight_equivalence"):
        pytest.skip("a start has a row for each row of X: tests/test_weights.py makes this check from a fixed one")
    with warnings.catch_warnings():
        _ignore_expected()
        for instance in _instances_for_check(check, estimator):
            check(instance)


# What scikit-learn's tests/test_common.py runs besides.
MORE = [
    "check_param_validation",
    "check_n_features_in_after_fitting",
    "check_dataframe_column_names_consistency",
    "check_get_feature_names_out_error",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_pandas",
    "check_inplace_ensure_writeable",
    "check_readonly_memmap_input",
    "check_f_contiguous_array_estimator",
]


@pytest.mark.parametrize("name", [n for n in MORE if hasattr(estimator_checks, n)])
@pytest.mark.parametrize("estimator", INSTANCES, ids=lambda e: type(e).__name__)
def test_common(estimator, name):
    check = getattr(estimator_checks, name)
    if name == "check_inplace_ensure_writeable" and hasattr(estimator, "missing_values"):
        # The check puts a NaN into X, and not every parameter goes with missing values.
        without = {"n_init": 1, "sort_components": False, "extrapolate": False, "fixed_components": None}
        estimator = clone(estimator).set_params(missing_values=float("nan"), **without)
    with warnings.catch_warnings():
        _ignore_expected()
        check(type(estimator).__name__, clone(estimator))


def test_parameters_are_those_of_scikit_learn():
    """Each instance differs from its defaults, so a changed table cannot empty this file."""
    assert {type(estimator) for estimator in INSTANCES} == set(CLASSES)
    for estimator in INSTANCES:
        signature = inspect.signature(type(estimator))
        defaults = {name: p.default for name, p in signature.parameters.items()}
        changed = {k: v for k, v in estimator.get_params().items() if v != defaults[k]}
        assert "max_iter" in changed


@pytest.mark.parametrize("cls", [NMF, MiniBatchNMF])
def test_defaults_need_no_check_at_each_fit(cls):
    """Parameters that have their defaults are not validated; all others are, whenever they were set."""
    validate_parameter_constraints(cls._parameter_constraints, cls().get_params(deep=False), cls.__name__)
    for wrong in (cls(tol=-1.0), cls().set_params(tol=-1.0)):
        with pytest.raises(InvalidParameterError, match="'tol' parameter"):
            wrong.fit(np.ones((3, 2)))


def test_a_default_of_a_subclass_is_checked():
    class Sub(NMF):
        def __init__(self, n_components=-3):
            super().__init__(n_components)

    with pytest.raises(InvalidParameterError, match="'n_components' parameter"):
        Sub().fit(np.ones((3, 2)))
