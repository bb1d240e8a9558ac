"""The registry of solvers, from which estimators, command line, tests and benchmarks take them.

A solver (`nmfcore.solvers._common.Solver`) is settings and a handful of functions, which `nmfcore.loop.solve` calls:

``start(data, Ht) → small``
    Return the small factor with k-sized state, and set `sums`: the names and shapes of the sums over rows.
``fix(small) → orders``
    Return the instructions of a pass: Ht, its Gram or column sums, k-sized settings.
``visit(backend, block, rows, orders, after, sums)``
    Write the new rows of a block, and add to the sums; nothing else changes. ``gather`` holds the half of it that makes
    sums over the columns of a very sparse X.
``update_columns(small, sums, data) → (report, small)``
    Return a report of the pass, and a new small factor beside the old one. If the pass is not accepted, this is the
    factor that the next pass begins with. The columns that `fixed` names are those of the old factor, bit for bit.

``foresee(small, sums, data)`` queues what follows a pass if it goes as most do, where the backend queues operations;
``settle(small, sums, data, foreseen)`` waits for the numbers that tell, and returns what ``update_columns`` does.
``shapes(small)`` names the sums of the pass that begins with a small factor.

``rows(W)`` names the buffers that travel with W, and ``best(state, small)`` returns a pair that may be better than the
last one. ``memory()`` returns what a checkpoint keeps of the solver itself, and ``restore(memory)`` goes on from it;
the small factor is a dataclass, which is kept field by field.

``code(backend, block, orders, tol, max_iter, by_step, out, stats)`` solves for rows with H fixed, each of them alone.
"""

from typing import TYPE_CHECKING, Any

from ..objective import Penalties
from ._common import Solver
from ._fixed import Fixed
from .accelerated_hals import AcceleratedHALS
from .coordinate_descent import CoordinateDescent
from .kullback_leibler import KullbackLeiblerDescent
from .masked import FilledDescent, MaskedMultiplicative, ObservedDescent, SummedDescent
from .multiplicative import ExtrapolatedUpdate, MultiplicativeUpdate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["EXTRAPOLATED", "MASKED", "OF_LOSS", "SOLVERS", "Fixed", "Solver", "handles", "make_solver", "reads_columns"]

SOLVERS: dict[str, type[Solver]] = {"cd": CoordinateDescent, "hals": AcceleratedHALS, "mu": MultiplicativeUpdate}
# For losses other than β = 2, which all solvers minimise, and "mu", which minimises all.
OF_LOSS: dict[tuple[str, float], type[Solver]] = {("hals", 1.0): KullbackLeiblerDescent}
EXTRAPOLATED: dict[str, type[Solver]] = {"mu": ExtrapolatedUpdate}
# For an X with missing entries, by how they are missing, see `nmfcore.rows.base.Rows.masked`.
MASKED: dict[str, type[Solver]] = {
    "filled": FilledDescent,
    "stored": ObservedDescent,
    "summed": SummedDescent,
}


def handles(name: str, beta: float) -> bool:
    """Return whether a solver of the registry minimises D_β."""
    return beta == 2 or name == "mu" or (name, beta) in OF_LOSS


def reads_columns(name: str, beta: float) -> bool:
    """Return whether a pass of a solver reads X by columns, too."""
    return (name, beta) in OF_LOSS and OF_LOSS[name, beta].by_columns


def make_solver(
    name: str, penalties: Penalties, beta: float = 2.0, *, extrapolate: bool = False, fixed: Fixed | None = None,
    masked: str | None = None,
    **options: object,
) -> Solver:  # fmt: skip
    """Make a solver of the registry.

    Parameters
    ----------
    name : str
        A key of `SOLVERS`.
    penalties : Penalties
        Scaled with the shape of X.
    beta : float
        β of the loss, one that the solver `handles`. Defaults to 2, the squared Frobenius norm.
    extrapolate : bool
        Whether to take the variant that extrapolates, which `EXTRAPOLATED` lists. Defaults to False.
    fixed : Fixed or None
        Which columns of Ht the fit leaves as they are. None is none of them.
    masked : str or None
        How entries of X are missing, see `nmfcore.rows.base.Rows.masked`. Defaults to None, which is an X without
        missing entries.
    **options
        Further settings of the other solvers: `shuffle` of "cd" and "hals", `trusted` and `sample` of "hals".

    Returns
    -------
    solver : Solver
    """
    if masked is not None and name == "mu":
        return MaskedMultiplicative(penalties, float(beta))
    if masked is not None:
        shuffle: Any = options.get("shuffle")
        return MASKED[masked](penalties, shuffle, accelerated=name == "hals")  # type: ignore[call-arg]
    if beta != 2 and name != "mu":
        solver = OF_LOSS[name, float(beta)](penalties, options.get("shuffle"))  # type: ignore[call-arg]
        solver.fixed = fixed
        return solver
    registry: Mapping[str, Callable[..., Solver]] = EXTRAPOLATED if extrapolate else SOLVERS
    solver = registry[name](penalties, beta=float(beta)) if name == "mu" else registry[name](penalties, **options)
    solver.fixed = fixed
    return solver
