"""scikit-learn's NMF, and the shape of any library that keeps its API."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np

from benchmarks.contenders import Contender, Result, Task


class ScikitLearnAPI(Contender):
    """A contender with scikit-learn's ``NMF`` and ``non_negative_factorization`` in `module`."""

    entry = "NMF"
    solvers = ("cd", "mu")

    def skip(self, task: Task) -> str | None:
        if task.solver not in self.solvers:
            return f"{self.name} has no solver {task.solver!r}"
        if task.solver == "cd" and task.beta != 2:
            return "solver 'cd' minimises the Frobenius norm only"
        return None

    def prepare(self, task: Task) -> dict[str, Any]:
        # scikit-learn writes into a custom start, so each run gets its own copy, in the type
        # scikit-learn asks for: that of X if floating, else float64
        X = task.problem.X
        dtype = X.dtype if X.dtype in (np.float32, np.float64) else np.float64
        start = {}
        if task.init == "custom":
            start = {"W": task.W0.astype(dtype), "H": task.H0.astype(dtype)}
        return start

    def run(self, task: Task, prepared: dict[str, Any]) -> Result:
        library = importlib.import_module(self.module)
        X = task.problem.X
        options = {
            "solver": task.solver,
            "beta_loss": task.beta,
            "init": task.init,
            "tol": task.tol,
            "max_iter": task.max_iter,
            "random_state": task.seed,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # max_iter is reached on purpose
            if task.call == "factorise":
                W, H, n_iter = library.non_negative_factorization(X, n_components=task.k, **prepared, **options)
                return Result(W, H, n_iter)
            model = library.NMF(task.k, **options)
            W = model.fit_transform(X, **prepared)
            codes = model.transform(X) if task.call == "fit+transform" else None
            return Result(W, model.components_, model.n_iter_, codes)


class ScikitLearn(ScikitLearnAPI):
    """The reference."""

    name = "scikit-learn"
    module = "sklearn.decomposition"
    package = "scikit-learn"
