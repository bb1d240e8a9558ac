"""Pictures in: everything ``nmfcore fit`` accepts becomes one matrix with a row per picture.

Integers stay integers: pictures are decoded straight into one uint8 matrix, in memory or in a file,
``.npy`` and plain IDX files are memory-mapped. The engine widens them block by block, so nothing
here ever makes a floating-point copy. A colour picture is a row of height·width·3 numbers, as numpy
flattens height × width × 3.
"""

from ..models import estimator_from, model_of
from ._decoding import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from .arrays import read_npy
from .caches import cached_images
from .drawn import drawn_faces
from .folders import load_images
from .idx import read_idx
from .pictures import InputError, Pictures
from .rows import picture_and_mask, picture_row
from .sources import read_source
from .tables import read_csv

__all__ = [
    "InputError",
    "Pictures",
    "cached_images",
    "drawn_faces",
    "estimator_from",
    "load_images",
    "model_of",
    "picture_and_mask",
    "picture_row",
    "read_csv",
    "read_idx",
    "read_npy",
    "read_source",
]
