"""The larger and the smaller of two numbers, as two instructions.

Numba makes a function of its own of `max` and of `min` for each pair of types, and compiles it: a tenth of the time in
which it compiles the pass of a fit. Chapters import these in their place.
"""

import operator

from numba.core import types
from numba.core.typing import signature
from numba.extending import intrinsic

__all__ = ["max", "min"]


def _pick(typingctx, a, b, beyond):
    kind = typingctx.unify_types(a, b)

    def codegen(context, builder, sig, args):
        first, second = (context.cast(builder, value, given, kind) for value, given in zip(args, sig.args, strict=True))
        compared = context.get_function(beyond, signature(types.boolean, kind, kind))
        return builder.select(compared(builder, (second, first)), second, first)

    return kind(a, b), codegen


@intrinsic
def max(typingctx, a, b):
    """Return b if b > a, else a, as Python does."""
    return _pick(typingctx, a, b, operator.gt)


@intrinsic
def min(typingctx, a, b):
    """Return b if b < a, else a, as Python does."""
    return _pick(typingctx, a, b, operator.lt)
