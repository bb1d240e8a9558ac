"""A pytest plugin that makes scikit-learn's own NMF tests exercise nmfcore.

Loaded with ``-p sklearn_patch`` by ``test_sklearn_own.py``.  It

1. gives ``sklearn.decomposition`` nmfcore's classes, function and ``_nmf`` module;
2. replaces everything scikit-learn's own module computes with by functions that raise, so that
   nothing can be delegated back to it;
3. writes what was collected and what came of it to ``$SKLEARN_PATCH_REPORT`` as JSON.
"""

import importlib
import inspect
import json
import os

import sklearn.decomposition

import nmfcore
import nmfcore._nmf

ORIGINAL = importlib.import_module("sklearn.decomposition._nmf")
KERNELS = importlib.import_module("sklearn.decomposition._cdnmf_fast")
PUBLIC = ("NMF", "MiniBatchNMF", "non_negative_factorization")
# Helpers scikit-learn imports from elsewhere are left alone, but not its compiled sweep.
COMPILED = "_update_cdnmf_fast"

sabotaged = []
outcomes = {}
collected = []
deselected = []


class Delegated(AssertionError):
    """Something reached scikit-learn's own implementation."""


def _raiser(name):
    def raise_delegated(*args, **kwargs):
        raise Delegated(f"nmfcore delegated to scikit-learn's own {name}")

    return raise_delegated


def _sabotage():
    """Make every function and method of scikit-learn's NMF module raise."""
    for name, value in list(vars(ORIGINAL).items()):
        if getattr(value, "__module__", None) != ORIGINAL.__name__:
            continue
        if inspect.isclass(value):
            for method in list(vars(value)):
                if inspect.isfunction(vars(value)[method]):
                    setattr(value, method, _raiser(f"{name}.{method}"))
                    sabotaged.append(f"{name}.{method}")
        elif callable(value):
            setattr(ORIGINAL, name, _raiser(name))
            sabotaged.append(name)
    for module in (ORIGINAL, KERNELS):
        setattr(module, COMPILED, _raiser(COMPILED))
    sabotaged.append(COMPILED)


def _substitute():
    """Put nmfcore's names where the test module looks for scikit-learn's."""
    if nmfcore._nmf is ORIGINAL:
        raise AssertionError("nmfcore._nmf is scikit-learn's own module")
    for name in PUBLIC:
        ours, theirs = getattr(nmfcore, name), getattr(ORIGINAL, name)
        if ours is theirs:
            raise AssertionError(f"nmfcore.{name} is scikit-learn's own")
        if inspect.isclass(ours) and ORIGINAL._BaseNMF in ours.__mro__:
            raise AssertionError(f"nmfcore.{name} inherits from scikit-learn's own")
        setattr(sklearn.decomposition, name, ours)
    sklearn.decomposition._nmf = nmfcore._nmf


_substitute()
_sabotage()


def pytest_collection_modifyitems(items):
    """Check that the test module really got nmfcore's names."""
    for item in items:
        module = item.module
        for name in PUBLIC:
            if getattr(module, name) is not getattr(nmfcore, name):
                raise AssertionError(f"{module.__name__}.{name} is not nmfcore's")
        if module.nmf is not nmfcore._nmf:
            raise AssertionError(f"{module.__name__}.nmf is not nmfcore._nmf")


def pytest_deselected(items):
    """Remember what was left out."""
    deselected.extend(item.nodeid for item in items)


def pytest_collection_finish(session):
    """Remember what is about to run."""
    collected.extend(item.nodeid for item in session.items)


def pytest_runtest_logreport(report):
    """Keep the worst outcome of the three phases of a test."""
    if report.when == "call" or report.outcome != "passed":
        outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        if outcomes.get(report.nodeid) != "failed":
            outcomes[report.nodeid] = outcome


def pytest_sessionfinish(session, exitstatus):
    """Write the report."""
    path = os.environ.get("SKLEARN_PATCH_REPORT")
    if path:
        with open(path, "w") as file:
            json.dump(
                {
                    "collected": collected,
                    "deselected": deselected,
                    "outcomes": outcomes,
                    "sabotaged": sabotaged,
                    "exitstatus": int(exitstatus),
                },
                file,
            )
