"""scikit-learn's NMF and MiniBatchNMF, and the shape of any library that keeps their API."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np

from benchmarks.contenders import Contender, Result, Task


class ScikitLearnAPI(Contender):
    """A contender with scikit-learn's estimators and ``non_negative_factorization`` in `module`."""

    entry = "NMF"
    solvers = ("cd", "mu", "minibatch")
    other_losses: frozenset[tuple[str, float]] = frozenset()  # beside the Frobenius norm, of solvers other than "mu"
    drop_in = True

    def skip(self, task: Task) -> str | None:
        if task.solver in ("cd", "hals") and task.beta != 2 and (task.solver, task.beta) not in self.other_losses:
            return f"solver {task.solver!r} does not minimise the loss of beta = {task.beta:g}"
        if task.init == "auto" and task.solver != "hals":
            return 'init="auto" is of solver "hals"'
        return super().skip(task)

    def prepare(self, task: Task) -> dict[str, Any]:
        # scikit-learn writes into a custom start, so each run gets its own copy, in the type
        # scikit-learn asks for: that of X if floating, else float64
        X = task.problem.X
        dtype = X.dtype if X.dtype in (np.float32, np.float64) else np.float64
        start = {}
        if task.init == "custom":
            start = {"W": task.W0.astype(dtype), "H": task.H0.astype(dtype)}
        return start

    def estimator(self, task: Task, **more: Any) -> Any:
        """Return the estimator the task asks for, not fitted."""
        library = importlib.import_module(self.module)
        options = {
            "beta_loss": task.beta,
            "init": task.init,
            "tol": task.tol,
            "max_iter": task.max_iter,
            "random_state": task.seed,
            **more,
        }
        if task.solver == "minibatch":
            if not task.tol:  # as with the other solvers, 0 means all of max_iter
                options["max_no_improvement"] = None
            return library.MiniBatchNMF(task.k, **options)
        return library.NMF(task.k, solver=task.solver, **options)

    def run(self, task: Task, prepared: dict[str, Any]) -> Result:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # max_iter is reached on purpose
            if task.call == "factorise" and task.solver != "minibatch":
                return self._factorise(task, prepared)
            model = self.estimator(task)
            W = model.fit_transform(task.problem.X, **prepared)
            codes = model.transform(task.problem.X) if task.call == "fit+transform" else None
            return Result(W, model.components_, model.n_iter_, codes)

    def _factorise(self, task: Task, prepared: dict[str, Any]) -> Result:
        W, H, n_iter = importlib.import_module(self.module).non_negative_factorization(
            task.problem.X,
            n_components=task.k,
            solver=task.solver,
            beta_loss=task.beta,
            init=task.init,
            tol=task.tol,
            max_iter=task.max_iter,
            random_state=task.seed,
            **prepared,
        )
        return Result(W, H, n_iter)


class ScikitLearn(ScikitLearnAPI):
    """The reference."""

    name = "scikit-learn"
    module = "sklearn.decomposition"
    package = "scikit-learn"
