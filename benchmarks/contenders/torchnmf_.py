"""torchnmf: multiplicative updates by automatic differentiation, dense or sparse (COO)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.contenders import Contender, Result, Task


class Torchnmf(Contender):
    """``torchnmf.nmf.NMF``, on the CPU; its V ≈ H·Wᵀ, so that our W is its H."""

    name = "torchnmf"
    module = "torchnmf.nmf"
    package = "torchnmf"
    entry = "NMF"
    solvers = ("mu",)

    def skip(self, task: Task) -> str | None:
        if task.init != "custom":
            return "torchnmf draws a start of its own or is given one"
        return super().skip(task)

    def run(self, task: Task, prepared: Any) -> Result:
        import torch
        from torchnmf.nmf import NMF

        torch.set_num_threads(self.threads)
        X = task.problem.X
        dtype = torch.float64 if X.dtype == np.float64 else torch.float32
        if sp.issparse(X):
            coo = X.tocoo()
            places = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
            V = torch.sparse_coo_tensor(
                places, torch.from_numpy(coo.data), coo.shape, dtype=dtype, check_invariants=False
            )
        else:
            V = torch.tensor(X, dtype=dtype)
        # the module is made in float32; the shared start has float32 values, so nothing is lost
        model = NMF(W=torch.tensor(task.H0.T.copy()), H=torch.tensor(task.W0)).to(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls what torch has deprecated
            n_iter = model.fit(V, beta=task.beta, tol=task.tol, max_iter=task.max_iter)
        return Result(model.H.detach().numpy(), model.W.detach().numpy().T, int(n_iter))
