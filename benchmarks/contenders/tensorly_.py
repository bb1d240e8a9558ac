"""tensorly: a matrix is a tensor of two modes, its HALS for the non-negative CP decomposition."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contenders import Contender, Result, Task


class Tensorly(Contender):
    """``tensorly.decomposition.non_negative_parafac_hals`` on its NumPy backend."""

    name = "tensorly"
    module = "tensorly.decomposition"
    package = "tensorly"
    entry = "non_negative_parafac_hals"
    solvers = ("hals",)

    def skip(self, task: Task) -> str | None:
        if task.problem.sparse:
            return "tensorly's HALS needs dense X"
        if task.beta != 2:
            return "tensorly's HALS minimises the Frobenius norm only"
        if task.init != "custom":
            return "only asked for the shared start"
        return super().skip(task)

    def run(self, task: Task, prepared: Any) -> Result:
        from tensorly.decomposition import non_negative_parafac_hals

        X = task.problem.X
        dtype = X.dtype if X.dtype in (np.float32, np.float64) else np.float32
        start = [task.W0.astype(dtype), task.H0.T.astype(dtype)]
        weights, (W, Ht) = non_negative_parafac_hals(
            X.astype(dtype, copy=False),
            task.k,
            init=(None, start),
            n_iter_max=task.max_iter,
            tol=task.tol,
        )
        return Result(W if weights is None else W * weights, Ht.T, task.max_iter)
