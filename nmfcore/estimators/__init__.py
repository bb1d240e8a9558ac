"""scikit-learn's API: NMF, MiniBatchNMF and non_negative_factorization; no maths inside.

Everything a user of ``sklearn.decomposition`` knows is here under the same names, with the same
messages: parameters are checked, X is validated without a copy, a solver of `nmfcore.solvers` is
run by `nmfcore.loop.solve`, and what came of it becomes attributes and warnings.
"""

from .functional import non_negative_factorization
from .minibatch_nmf import MiniBatchNMF
from .nmf import NMF

__all__ = ["NMF", "MiniBatchNMF", "non_negative_factorization"]
