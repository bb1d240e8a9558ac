"""X that is not in memory: files, HDF5 and Zarr arrays, streams of row blocks; and row-aligned buffers kept in files.

A `Source` puts rows into a buffer. `StoredRows` cuts it into the lanes and blocks that `rows.memory.Rows` cuts X
in memory into, at the same row numbers, so the factors have the bits of a fit from memory. A thread reads ahead while
others compute; a budget of memory limits how many blocks are held at a time, and never changes how X is cut.
"""

from .buffers import Folder
from .files import NpyFile
from .paths import source_of
from .sources import Read, ReadError, RowBlocks, Source
from .stored import MEMORY, StoredRows, parse_bytes
from .stores import Stored

__all__ = [
    "MEMORY",
    "Folder",
    "NpyFile",
    "Read",
    "ReadError",
    "RowBlocks",
    "Source",
    "Stored",
    "StoredRows",
    "parse_bytes",
    "source_of",
]
