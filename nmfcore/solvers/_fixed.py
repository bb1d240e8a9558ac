"""Components whose rows of H a fit keeps: the step of the small factor over the others.

With Ht = [A B], B fixed, the Frobenius loss is a function of A alone that has the same form as that of all of Ht:

    ½⟨WᵀW, HHᵀ⟩ − ⟨XᵀW, Ht⟩ = ½⟨G_AA, AᵀA⟩ − ⟨C_A − B·G_BA, A⟩ + constant,    G = WᵀW, C = XᵀW

So kernels know nothing of fixed components: they get the narrower problem (A, C_A − B·G_BA, G_AA), and violation and
KKT residual of a step are those of the free components.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._typing import Array

if TYPE_CHECKING:
    from ..backends.operations import Backend
    from ._common import Solver


class Fixed:
    """Which columns of Ht are kept.

    Parameters
    ----------
    mask : ndarray of bool of shape (k,)
        True where a column is kept.

    Attributes
    ----------
    mask : ndarray of bool of shape (k,)
    free, kept : ndarray of int
        The numbers of the columns that are solved for, and of those that are not.
    """

    def __init__(self, mask: Array):
        self.mask = np.asarray(mask, bool)
        self.free, self.kept = np.flatnonzero(~self.mask), np.flatnonzero(self.mask)

    @property
    def width(self) -> int:
        """Number of free components."""
        return len(self.free)

    def problem(self, Ht: Array, XtW: Array, WtW: Array) -> tuple[Array, Array, Array]:
        """Return A, C_A − B·G_BA and G_AA."""
        C, A = self.columns(XtW, Ht)
        C -= self._times(Ht[:, self.kept], WtW[self.kept][:, self.free])
        return A, C, self.columns(WtW[self.free])[0]

    def denominators(self, Ht: Array, WtW: Array) -> Array:
        """Return the free columns of Ht·WᵀW, in float64."""
        return self._times(Ht, WtW[:, self.free])

    @staticmethod
    def _times(F: Array, G: Array) -> Array:
        # The sum of a problem and of the parts that it was made of must agree to more digits than the compute type has,
        # and the bits must not depend on the threads of BLAS.
        return np.einsum("jb,ba->ja", F.astype(np.float64), G)

    def columns(self, *factors: Array) -> list[Array]:
        """Return copies of the free columns of arrays, C-contiguous."""
        return [F[:, self.free].copy() for F in factors]

    def filled(self, Ht: Array, A: Array) -> Array:
        """Return a copy of Ht with new free columns."""
        new = Ht.copy()
        if self.width:
            new[:, self.free] = A
        return new

    def complete(
        self, new: Array, XtW: Array, WtW: Array, stats: Array, solver: Solver, backend: Backend
    ) -> Array:  # fmt: skip
        """Add to the numbers of a step what the fixed columns contribute to the loss, and return the Gram of all."""
        HHt, kept = solver.gram(backend, new), self.kept
        B = solver.weighted(new[:, kept].copy())
        stats[backend.TOTAL] += B.sum(dtype=np.float64)
        stats[backend.CROSS] += backend.inner(XtW[:, kept].copy(), B)
        stats[backend.SQUARE] += backend.inner(WtW[kept][:, kept].copy(), HHt[kept][:, kept].copy())
        return HHt

    def restored(self, F: Array, Ht: Array) -> Array:
        """Return F with the fixed columns of Ht; F itself is written."""
        F[:, self.kept] = Ht[:, self.kept]
        return F
