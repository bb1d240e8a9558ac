"""nmfcore: scikit-learn's API and more solvers (the underscore avoids shadowing nmfcore)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.contenders import Task
from benchmarks.contenders.scikit_learn import ScikitLearnAPI


class Nmfcore(ScikitLearnAPI):
    """The engine this suite measures."""

    name = "nmfcore"
    module = "nmfcore"
    package = "nmfcore"
    solvers = ("cd", "hals", "mu", "mu+", "minibatch")  # mu+: with extrapolate=True

    other_losses = frozenset({("hals", 1.0)})

    def skip(self, task: Task) -> str | None:
        import nmfcore
        from nmfcore.solvers import SOLVERS

        if task.solver == "mu+":
            if "extrapolate" not in nmfcore.NMF().get_params():
                return f"nmfcore {nmfcore.__version__} has no extrapolated mu"
        elif task.solver not in (*SOLVERS, "minibatch"):
            return f"nmfcore {nmfcore.__version__} has no solver {task.solver!r}"
        return super().skip(task)

    def estimator(self, task: Task, **more: Any) -> Any:
        if task.solver == "mu+":
            return super().estimator(replace(task, solver="mu"), extrapolate=True, **more)
        return super().estimator(task, **more)
