"""nmfcore: scikit-learn's API and more solvers (the underscore avoids shadowing nmfcore)."""

from __future__ import annotations

from benchmarks.contenders import Task
from benchmarks.contenders.scikit_learn import ScikitLearnAPI


class Nmfcore(ScikitLearnAPI):
    """The engine this suite measures."""

    name = "nmfcore"
    module = "nmfcore"
    package = "nmfcore"
    solvers = ("cd", "hals", "mu", "minibatch")

    def skip(self, task: Task) -> str | None:
        import nmfcore
        from nmfcore.solvers import SOLVERS

        if task.solver not in (*SOLVERS, "minibatch"):
            return f"nmfcore {nmfcore.__version__} has no solver {task.solver!r}"
        return super().skip(task)
