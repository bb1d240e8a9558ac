"""X with missing entries on a cluster: the mask of a block lies beside it on its worker."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from ..._typing import Array, DType
from ...backends import masked as backend
from ..base import Rows
from ..masked import LISTED, MaskedRows, Observed
from ..masks import Given
from ..memory import as_rows
from . import tasks
from .spread import Backend, DaskRows, Spread, step


class MaskedDaskRows(Observed, DaskRows):
    """X with missing entries on the workers of a cluster, as blocks of rows.

    A pass is that of `DaskRows`: on the workers, the rows of a block are `nmfcore.rows.masked.MaskedRows`, which hand
    its mask to the function of the pass.

    Parameters
    ----------
    X : Spread
        X itself, whose blocks carry their masks.
    dtype : numpy.float32 or numpy.float64
        Compute type.
    n_jobs : int or None
        Threads of what is computed here.
    sparse : bool
        Whether blocks are CSR matrices.
    stored : bool
        Whether their stored numbers are observed, and no others.
    """

    def __init__(self, X: Spread, dtype: DType, n_jobs: int | None, sparse: bool, stored: bool):
        super().__init__(X, dtype, n_jobs, sparse)
        self.masked = "summed" if stored else "filled"
        self.backend: Any = Backend(backend)

    def _knows(self, means: Array, missing: int) -> None:
        n, m = self.shape
        told = step(self.cluster, tasks.informed, (means, missing <= LISTED * n * m), (self.X,))
        self.X = told.named(None, m, self.X.dtype)

    def shown(self) -> DaskRows:
        """Return the same X without a mask, which hides nothing of it."""
        told = step(self.cluster, tasks.shown, (), (self.X,))
        return DaskRows(told.named(None, self.shape[1], self.X.dtype), self.dtype, self.n_jobs, self.sparse)

    def scaled(self, power: int, dtype: DType = None) -> MaskedDaskRows:
        """Return the same X read as 4^power·X, see `Rows.scaled`."""
        view = super().scaled(power, dtype)
        view.summary()  # the means are in the unit of the view
        return view  # type: ignore[return-value]  # a copy of these rows

    def take(self, rows: Array, n_jobs: int | None) -> Rows:
        """Return a copy of some rows (increasing numbers), here, with their masks."""
        pairs = self._taken(tasks.taken_with_mask, rows)
        parts, masks = zip(*(pair for pair in pairs if pair[0].shape[0]), strict=True)
        whole = sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)
        inner = as_rows(whole, self.dtype, n_jobs).scaled(self.power)
        if masks[0] is None:
            return MaskedRows(inner, None)

        def numbers(part: Any) -> Callable[[], Any]:
            return lambda: part

        hidden = [mask.hidden(0, part.shape[0], numbers(part)) for part, mask in zip(parts, masks, strict=True)]
        return MaskedRows(inner, Given(np.concatenate(hidden)))

    def digest(self) -> str:
        """Return a digest of the mask and of the observed numbers at their places, made on the workers."""
        firsts = iter(self.firsts())
        extras: list[list[int]] = [list(itertools.islice(firsts, len(heights))) for heights in self.cluster.heights]
        return f"{int(self._step(tasks.digest_of, extras=extras).sums()['digest'][0]):x}"
