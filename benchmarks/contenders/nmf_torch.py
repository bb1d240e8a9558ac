"""nmf-torch (module ``nmf``): HALS with several inner sweeps, dense."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from benchmarks.contenders import Contender, Result, Task


class NmfTorch(Contender):
    """Its default, ``algo="halsvar"``, on the CPU; its X ≈ H·W, so that our W is its H."""

    name = "nmf-torch"
    module = "nmf.nmf_models"
    package = "nmf-torch"
    entry = "NMFBatchHALS"
    solvers = ("hals",)

    def skip(self, task: Task) -> str | None:
        if task.problem.sparse:
            return "nmf-torch needs dense X"
        if task.beta != 2:
            return "nmf-torch's HALS minimises the Frobenius norm only"
        if task.init != "custom":
            return "only asked for the shared start"
        return super().skip(task)

    def run(self, task: Task, prepared: Any) -> Result:
        import torch
        from nmf.nmf_models import NMFBatchHALS

        class FromStart(NMFBatchHALS):
            """The library has no way to give it a start; this replaces its drawing of one."""

            def _initialize_H_W(self) -> None:
                self.H = torch.tensor(task.W0, dtype=self._tensor_dtype)
                self.W = torch.tensor(task.H0, dtype=self._tensor_dtype)

        model = FromStart(
            n_components=task.k,
            init=None,
            beta_loss=2.0,
            tol=task.tol,
            n_jobs=self.threads,
            random_state=task.seed,
            alpha_W=0.0,
            l1_ratio_W=0.0,
            alpha_H=0.0,
            l1_ratio_H=0.0,
            fp_precision="double" if task.problem.X.dtype == np.float64 else "float",
            device_type="cpu",
            max_iter=task.max_iter,
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints every 10 iterations
            W = model.fit_transform(task.problem.X)
        return Result(W.numpy(), model.W.numpy(), int(model.num_iters))
