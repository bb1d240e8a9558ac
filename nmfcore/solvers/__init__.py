"""The registry of solvers: the estimators, the command line, tests and benchmarks are all driven by it.

A solver is settings and a handful of functions, called by the one loop in `nmfcore.loop.solve`:

``start(data, Ht) → small``
    The small factor with k-sized state; from then on `sums` names the sums over rows and their shapes.
``fix(small) → orders``
    What a visit needs to know: Ht, its Gram or column sums, k-sized instructions.
``visit(backend, block, rows, orders, after, sums)``
    Pure: new rows, and their sums. ``gather`` is its other half for sums over columns of a very sparse X;
    ``gathered`` names the sums that it makes.
``update_columns(small, sums, data) → (report, small)``
    A new small factor beside the old one, and what the loop wants to know about the pass. Of a pass that was not
    accepted: what the next one begins with.

``rows(W)`` names the buffers that travel with W, ``best(state, small)`` a pair to prefer to the last one at the end.
``memory()`` is what a checkpoint keeps of the solver itself (the small factor, a dataclass, is kept field by field),
and ``restore(memory)`` takes it up again.

``code(backend, block, orders, tol, max_iter, by_step, out, stats)`` solves for rows alone, each to its own end.
"""

from .accelerated_hals import AcceleratedHALS
from .coordinate_descent import CoordinateDescent
from .multiplicative import ExtrapolatedUpdate, MultiplicativeUpdate

__all__ = ["SOLVERS", "CoordinateDescent", "ExtrapolatedUpdate", "MultiplicativeUpdate"]

SOLVERS: dict[str, type] = {"cd": CoordinateDescent, "hals": AcceleratedHALS, "mu": MultiplicativeUpdate}
