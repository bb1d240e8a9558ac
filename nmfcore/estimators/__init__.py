"""scikit-learn's API: NMF, MiniBatchNMF and non_negative_factorization; no maths inside.

The names, parameters and messages are those of ``sklearn.decomposition``. An estimator checks its parameters, opens X
(`nmfcore.rows.open`), has the loop (`nmfcore.loop`) run a solver, and turns the solution into attributes and warnings.
"""

from typing import Any

from .. import _compat
from .functional import non_negative_factorization
from .minibatch_nmf import MiniBatchNMF
from .nmf import NMF

__all__ = ["NMF", "MiniBatchNMF", "non_negative_factorization"]


def _register(module: Any) -> None:
    module.NMF.register(NMF)
    module.MiniBatchNMF.register(MiniBatchNMF)


# isinstance(model, sklearn.decomposition.NMF) holds for our classes, too, once that class has been imported.
_compat.after_import("sklearn.decomposition._nmf", _register)
