"""scikit-learn's API: NMF, MiniBatchNMF and non_negative_factorization; no maths inside.

Everything a user of ``sklearn.decomposition`` knows is here under the same names, with the same
messages: parameters are checked, X is validated without a copy, a solver of `nmfcore.solvers` is
run by `nmfcore.loop.solve`, and what came of it becomes attributes and warnings.
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


# isinstance(model, sklearn.decomposition.NMF) holds for ours, too, once somebody else has imported that class.
_compat.after_import("sklearn.decomposition._nmf", _register)
