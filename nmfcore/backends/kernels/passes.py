"""The kernels that Python calls, but for those of the search (`topk`)."""

from ._simd import VECTOR_BYTES
from .beta import beta_pass, sparse_residual_pass
from .coding import code_pass
from .descent import frobenius_pass
from .multiplicative import multiply_pass
from .newton import newton_pass
from .product import product_pass

__all__ = [
    "VECTOR_BYTES",
    "beta_pass",
    "code_pass",
    "frobenius_pass",
    "multiply_pass",
    "newton_pass",
    "product_pass",
    "sparse_residual_pass",
]
