"""Types that many files name."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array: TypeAlias = NDArray[Any]

# A type of numbers, as numpy takes it; None where the type of X decides.
DType: TypeAlias = DTypeLike | None
# An X as a caller gives it: array, sparse matrix, data frame, path, store, Dask array or array on a device.
Matrix: TypeAlias = Any
# A W or H as a caller gives it: any array, or None.
Factor: TypeAlias = Any
# A mask as a caller gives it: whatever an X may be, of booleans; a Mask of `nmfcore.rows.masks`; or None.
MaskLike: TypeAlias = Any
# Rows of X as the `cut` of a backend returns them. Each backend has a class of its own, which only that backend reads.
Block: TypeAlias = Any
# Options by their names, each with a value of its own type: keyword arguments that are handed on.
Settings: TypeAlias = dict[str, Any]
# Numbers that a backend has read: of a 0-d array a number, of any other a list, for each array.
Numbers: TypeAlias = list[Any]
# What `random_state` may be.
Seed: TypeAlias = int | np.random.RandomState | None

__all__ = ["Array", "Block", "DType", "Factor", "MaskLike", "Matrix", "Numbers", "Seed", "Settings"]
