"""Which k: the number of components whose factors predict entries of X that they were not fitted on.

`splits` cuts rows and columns into folds, `bicross` fits one block and predicts the block beside it, `scattered` leaves
out single entries, `fits` makes the fits of both, `given` cuts what the caller gives into what is fitted, `run` decides
which k is tried next and until when, `selection` holds what was found and the rule that chooses, and `select` calls
them.
"""

from .select import select_rank
from .selection import RankSelection

__all__ = ["RankSelection", "select_rank"]
