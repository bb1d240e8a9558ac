"""nimfa: multiplicative updates (its ``Nmf``), dense and sparse."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contenders import Contender, Result, Task


class Nimfa(Contender):
    """``nimfa.Nmf`` with Euclidean updates; it has float64 matrices only."""

    name = "nimfa"
    module = "nimfa"
    package = "nimfa"
    entry = "Nmf"
    solvers = ("mu",)

    def unavailable(self) -> str | None:
        reason = super().unavailable()
        if reason:
            return reason
        # nimfa 1.4.0 imports under NumPy 2 and fails at the first factorisation (np.mat)
        try:
            self._factorise(np.ones((3, 2)), np.ones((3, 1)), np.ones((1, 2)), 1)
        except Exception as error:
            return f"nimfa does not run beside numpy {np.__version__}: {type(error).__name__}: {error}"
        return None

    def skip(self, task: Task) -> str | None:
        if task.beta != 2:
            return "only asked for the Frobenius norm"
        if task.init != "custom":
            return "only asked for the shared start"
        return super().skip(task)

    def run(self, task: Task, prepared: Any) -> Result:
        X = task.problem.X
        return self._factorise(X.astype(np.float64, copy=False), task.W0, task.H0, task.max_iter)

    def _factorise(self, X: Any, W0: np.ndarray, H0: np.ndarray, max_iter: int) -> Result:
        import nimfa

        # its own objective, a dense residual, is looked at once in test_conv iterations
        rules = {"max_iter": max_iter, "min_residuals": 0, "test_conv": max_iter + 1}
        start = {"W": np.asmatrix(W0.copy()), "H": np.asmatrix(H0.copy())}
        fit = nimfa.Nmf(X, seed=None, rank=W0.shape[1], **start, **rules)()
        return Result(_array(fit.basis()), _array(fit.coef()), int(fit.n_iter))


def _array(factor: Any) -> np.ndarray:
    return np.asarray(factor.todense() if hasattr(factor, "todense") else factor)
