"""How blocks of rows of X are computed on: one module for each kind of processor.

========================  ==========================================================================================
`operations`              the waist: the operations that every backend has (`Backend`), and what backends share
`cpu`, `kernels`          host memory, with kernels that Numba compiles
`cuda_ops`                arrays on a device, with the kernels of ``cuda_kernels.cu`` and ``cuda_tensor.cu``
`cuda`                    CuPy: which devices there are, and how arrays of other libraries come and go
========================  ==========================================================================================
"""

from . import cuda
from .operations import Backend


def backend_of(F: object) -> Backend:
    """Return the backend that computes where F, an array, lies."""
    if cuda.kind_of(F) is None:
        from . import cpu

        return cpu
    from . import cuda_ops

    return cuda_ops
