"""Exact cosine search: the rows of a database most like, or least like, each of some queries.

cos(q, x) = ⟨q, x⟩ / (‖q‖·‖x‖); a row of zeros is like nothing: its cosine is 0 with every row.

Panels of queries meet strips of the database; of each strip's approximate scores, while they lie in the nearest caches,
only those that might belong to the best k are looked at again, in float64. No queries × database matrix exists, and the
answer, its order included, is that of float64 scores whatever the panels, the threads and the compute type were. The
layout is that of faiss: J. Johnson, M. Douze, H. Jégou, "Billion-scale similarity search with GPUs", IEEE Trans. Big
Data, 2021.
"""

from __future__ import annotations

import functools
import json
import os
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .._files import mapped, replacing
from .._typing import Array, Matrix
from ..backends import cpu, cuda, cuda_ops
from ..rows.device import as_device_rows
from ..rows.memory import MemoryRows, as_rows, without_duplicates
from ..rows.threads import run_all

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["CosineIndex", "IndexFileError", "cosine_topk", "reconstruction_space"]

PANEL = 480  # most queries that meet the database at once: whole register tiles of the product on every processor
PANEL_BYTES = 2 << 20  # most memory of their factor, which the products read again for every strip of the database
STRIP = 32  # rows of the database whose scores lie in the nearest caches at a time
BLOCK = 1 << 24  # scores between two looks for Ctrl-C
FEW = 4  # queries up to which scores come row by row: a panel would be mostly padding
RUNS = 8  # of the database to share out where queries are few
RUN_WORK = 2e6  # flops that make a run of the database a task of its own (some tenths of a millisecond)
SAMPLE = 512  # first rows of a run, whose scores tell what a row must have to be worth a second look
GROUPS = 64  # of them, of which the best scores count
_FORMAT, _VERSION = "nmfcore-cosine-index", 1


def cosine_topk(
    queries: Matrix,
    database: Matrix,
    k: int,
    *,
    largest: bool = True,
    threshold: float | None = None,
    allow: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    n_jobs: int | None = None,
) -> tuple[Array, Array]:
    """Find the k rows of a database with the largest (or smallest) cosine to each query.

    Parameters
    ----------
    queries : array-like, memmap, CSR or CSC matrix, or cupy.ndarray, of shape (q, m), any real type
        What to look for.
    database : array-like, memmap, CSR or CSC matrix, or cupy.ndarray, of shape (n, m), any real type
        Where to look. Dense and sparse, and types, may differ between the two; neither is copied whole.
    k : int
        How many rows to find per query.
    largest : bool
        True finds the most similar rows, False the most dissimilar ones.
    threshold : float or None
        Only rows with a cosine of at least (``largest=False``: at most) this are found.
    allow : array-like of bool of shape (n,), or of int, or None
        The only rows of the database that may be found, by any query: a mask, or row numbers.
    exclude : array-like of int of shape (q,) or (q, e), or None
        Row numbers that a query must not find, itself for instance; −1 stands for none.
    n_jobs : int or None
        Threads, as for `nmfcore.NMF`.

    Returns
    -------
    scores : ndarray of shape (q, k), float64
        Cosines, computed in float64 and clipped to [−1, 1]; the best first, equal ones by row number. A row of zeros
        scores 0. NaN where fewer than k rows were to be found.
    indices : ndarray of shape (q, k), int64
        Row numbers of the database; −1 where there is none. Both are cupy arrays if the database is one.

    Raises
    ------
    ValueError
        If shapes do not fit, k < 1, a row number is out of range, or a number is NaN or infinite.
    TypeError
        If the numbers are not real.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.cosine import cosine_topk
    >>> database = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    >>> scores, indices = cosine_topk([[3.0, 0.0]], database, 2)
    >>> indices.tolist(), scores.round(3).tolist()
    ([[0, 1]], [[1.0, 0.707]])
    >>> cosine_topk(database, database, 1, exclude=np.arange(4))[1].ravel().tolist()
    [1, 0, 1, 0]
    """
    if cuda.kind_of(database) or cuda.kind_of(queries):
        return _on_device(queries, database, k, largest, threshold, allow, exclude)
    found = _Rows(database, n_jobs, "database")
    return _search(_Rows(queries, n_jobs, "queries"), found, k, largest, threshold, allow, exclude)


def reconstruction_space(W: ArrayLike, H: ArrayLike) -> Array:
    """Codes whose cosines are those of the reconstructed rows.

    F = W·R with R·Rᵀ = H·Hᵀ, so ⟨F_i, F_j⟩ = ⟨(WH)_i, (WH)_j⟩: indifferent to the scale and the order of components,
    which plain codes are not.

    Parameters
    ----------
    W : array-like of shape (n, k), float32 or float64
        Codes.
    H : array-like of shape (k, m)
        Components.

    Returns
    -------
    F : ndarray of shape (n, k), of W's type

    Raises
    ------
    ValueError
        If W and H do not multiply.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.cosine import reconstruction_space
    >>> W, H = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    >>> F = reconstruction_space(W, H)
    >>> bool(np.allclose(F @ F.T, (W @ H) @ (W @ H).T))
    True
    """
    W, H = np.asarray(W), np.asarray(H)
    if W.ndim != 2 or H.ndim != 2 or W.shape[1] != H.shape[0]:
        msg = f"W {W.shape} and H {H.shape} do not multiply: expected n×k and k×m."
        raise ValueError(msg)
    H = H.astype(np.float64)
    values, vectors = np.linalg.eigh(H @ H.T)  # a Cholesky factor asks for independent components; this does not
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    kind = W.dtype if W.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    return np.asarray(W @ root.astype(kind), kind)


class IndexFileError(ValueError):
    """A file that is no cosine index, is damaged, or is newer than this nmfcore.

    Examples
    --------
    >>> from nmfcore.search.cosine import IndexFileError
    >>> issubclass(IndexFileError, ValueError)
    True
    """


class CosineIndex:
    """Rows to search by cosine, again and again; their norms are computed once.

    Every row has an identity: its number when it was added. Identities outlive the removal of other rows, and a search
    gives and takes them, so "not the query itself" is a matter of identity, never of position.

    Parameters
    ----------
    codes : array-like, memmap or CSR matrix of shape (n, m), any real type
        The rows; kept as they are, not copied.
    names : sequence of n str or None
        A name for each row.
    n_jobs : int or None
        Threads, as for `nmfcore.NMF`.

    Attributes
    ----------
    codes : ndarray or CSR matrix of shape (n, m)
        The rows now in the index.
    ids : ndarray of shape (n,), int64
        Their identities, ascending.
    names : tuple of str or None
        Their names.

    Raises
    ------
    ValueError
        If there are not as many names as rows, or a number is NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.cosine import CosineIndex
    >>> index = CosineIndex(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), names=["a", "b", "c"])
    >>> scores, ids = index.search([[1.0, 0.1]], 2)
    >>> [index.name(i) for i in ids[0]]
    ['a', 'b']
    >>> index.search(index[[0]], 1, exclude=[0])[1].tolist()  # the row most like row 0, itself aside
    [[1]]
    """

    __module__ = "nmfcore"  # the name that is imported

    def __init__(self, codes: Matrix, names: Sequence[str] | None = None, n_jobs: int | None = None):
        self._set(_Rows(codes, n_jobs, "codes"), np.arange(_length(codes)), _names(names, _length(codes)))
        self._next = len(self)

    def _set(self, rows: _Rows, ids: Array, names: tuple[str, ...] | None) -> None:
        self._rows, self.ids, self.names = rows, ids, names

    @property
    def codes(self) -> Array | sparse.csr_matrix:
        """The rows now in the index."""
        return self._rows.X

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"CosineIndex of {len(self):,} rows × {self._rows.shape[1]} ({self._rows.X.dtype})"

    def __getitem__(self, ids: ArrayLike) -> Array | sparse.csr_matrix:
        """Return the rows with these identities."""
        return self._rows.X[self._positions(ids)]

    def name(self, id: int) -> str:
        """Return the name of the row with this identity; its number where there are no names.

        Parameters
        ----------
        id : int
            Identity.

        Returns
        -------
        str
        """
        return str(id) if self.names is None else self.names[int(self._positions([id])[0])]

    def _positions(self, ids: ArrayLike) -> Array:
        """Return where rows lie, −1 for −1."""
        ids = np.asarray(ids, dtype=np.int64)
        at = np.searchsorted(self.ids, ids)
        known = (at < len(self.ids)) & (self.ids[np.minimum(at, len(self.ids) - 1)] == ids) if len(self) else ids < -1
        if not (known | (ids == -1)).all():
            unknown = ids[~(known | (ids == -1))].ravel()[0]
            last = self._next - 1
            msg = f"no row of the index has the number {unknown}: there are {len(self):,}, numbered up to {last}."
            raise ValueError(msg)
        return np.where(ids == -1, -1, at)

    def search(
        self,
        queries: Matrix,
        n: int = 10,
        *,
        exclude: ArrayLike | None = None,
        threshold: float | None = None,
        allow: ArrayLike | None = None,
    ) -> tuple[Array, Array]:
        """Find the rows most similar to each query.

        Parameters
        ----------
        queries : array-like or CSR matrix of shape (q, m)
            Codes to search by.
        n : int
            How many rows to find per query.
        exclude : array-like of int of shape (q,) or (q, e), or None
            Identities that a query must not find, such as its own; −1 stands for none.
        threshold : float or None
            Only rows with a cosine of at least this are found.
        allow : array-like of int, or of bool of shape (n,), or None
            The only rows that may be found: identities, or a mask over those now in the index.

        Returns
        -------
        scores : ndarray of shape (q, n), float64
            As `cosine_topk` gives them.
        ids : ndarray of shape (q, n), int64
            Identities, −1 where fewer than n rows were to be found.
        """
        return self._find(queries, n, True, exclude, threshold, allow)

    def search_dissimilar(
        self,
        queries: Matrix,
        n: int = 10,
        *,
        exclude: ArrayLike | None = None,
        threshold: float | None = None,
        allow: ArrayLike | None = None,
    ) -> tuple[Array, Array]:
        """Find the rows least similar to each query: `search` from the other end.

        Parameters
        ----------
        queries : array-like or CSR matrix of shape (q, m)
            Codes to search by.
        n : int
            How many rows to find per query.
        exclude : array-like of int of shape (q,) or (q, e), or None
            Identities that a query must not find; −1 stands for none.
        threshold : float or None
            Only rows with a cosine of at most this are found.
        allow : array-like of int, or of bool of shape (n,), or None
            The only rows that may be found: identities, or a mask over those now in the index.

        Returns
        -------
        scores : ndarray of shape (q, n), float64
            The least first.
        ids : ndarray of shape (q, n), int64
        """
        return self._find(queries, n, False, exclude, threshold, allow)

    def _find(
        self,
        queries: Matrix,
        n: int,
        largest: bool,
        exclude: ArrayLike | None,
        threshold: float | None,
        allow: ArrayLike | None,
    ) -> tuple[Array, Array]:
        exclude = None if exclude is None else self._positions(exclude)
        if allow is not None and np.asarray(allow).dtype != np.bool_:
            allow = self._positions(allow)
        rows = _Rows(queries, self._rows.n_jobs, "queries")
        scores, at = _search(rows, self._rows, n, largest, threshold, allow, exclude)
        return scores, np.where(at < 0, -1, self.ids[at]) if len(self) else at

    def add(self, codes: Matrix, names: Sequence[str] | None = None) -> Array:
        """Add rows.

        Parameters
        ----------
        codes : array-like or CSR matrix of shape (a, m)
            New rows, converted to the type of those there are.
        names : sequence of a str or None
            Their names; needed if and only if the index has names.

        Returns
        -------
        ids : ndarray of shape (a,), int64
            The identities they were given.

        Raises
        ------
        ValueError
            If the number of columns, or of names, does not fit. The index is then as it was.
        """
        new = _Rows(codes, self._rows.n_jobs, "codes")
        given = _names(names, new.shape[0])
        if new.shape[1] != self._rows.shape[1]:
            msg = f"the new rows have {new.shape[1]} columns, those of the index {self._rows.shape[1]}."
            raise ValueError(msg)
        if (given is None) != (self.names is None):
            there, are = ("has", "needed") if given is None else ("has no", "not allowed")
            msg = f"the index {there} names: names are {are} for new rows."
            raise ValueError(msg)
        old = self._rows.X
        if sparse.issparse(old):
            together = sparse.vstack([old, new.X], format="csr", dtype=old.dtype)
        else:
            extra = new.X.toarray() if sparse.issparse(new.X) else new.X
            together = np.concatenate([old, extra.astype(old.dtype, copy=False)])
        ids = np.arange(self._next, self._next + new.shape[0])
        names_now = None if given is None else (self.names or ()) + given
        self._set(_Rows(together, self._rows.n_jobs, "codes"), np.concatenate([self.ids, ids]), names_now)
        self._next += new.shape[0]
        return ids

    def remove(self, ids: ArrayLike) -> None:
        """Remove rows; the others keep their identities.

        Parameters
        ----------
        ids : array-like of int
            Identities of the rows to remove.

        Raises
        ------
        ValueError
            If there is no such row. The index is then as it was.
        """
        at = self._positions(np.atleast_1d(ids))
        if (at < 0).any():
            msg = "-1 is no row of the index: give the numbers of rows to remove."
            raise ValueError(msg)
        keep = np.ones(len(self), bool)
        keep[at] = False
        names = None if self.names is None else tuple(name for name, kept in zip(self.names, keep, strict=True) if kept)
        self._set(_Rows(self._rows.X[keep], self._rows.n_jobs, "codes"), self.ids[keep], names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, whole or not at all; no pickle.

        Parameters
        ----------
        path : path-like
            The file, an uncompressed ``.npz`` archive under any name; an older one is replaced.

        Raises
        ------
        OSError
            If it cannot be written; an older one is then as it was.
        """
        X = self._rows.X
        meta = {
            "format": _FORMAT, "version": _VERSION, "next": int(self._next), "shape": list(X.shape),
            "names": None if self.names is None else list(self.names), "sparse": bool(sparse.issparse(X)),
        }  # fmt: skip
        arrays = {"meta": np.array(json.dumps(meta)), "ids": self.ids, "squares": self._rows.squares}
        if sparse.issparse(X):
            arrays |= {"data": X.data, "indices": X.indices, "indptr": X.indptr}
        else:
            arrays["codes"] = np.ascontiguousarray(X)
        with replacing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str], n_jobs: int | None = None) -> CosineIndex:
        """Open an index that `save` wrote; the rows stay in the file, memory-mapped.

        Parameters
        ----------
        path : path-like
            The file.
        n_jobs : int or None
            Threads.

        Returns
        -------
        CosineIndex

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        IndexFileError
            If it is no index, is damaged, or was written by a newer format.

        Examples
        --------
        >>> import numpy as np, pathlib, tempfile
        >>> from nmfcore.search.cosine import CosineIndex
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name) / "cats.index"
        >>> CosineIndex(np.eye(3)).save(path)
        >>> CosineIndex.load(path).search([[0.0, 1.0, 0.0]], 1)[1].tolist()
        [[1]]
        >>> folder.cleanup()
        """
        if not os.path.exists(path):
            msg = f"there is no index file '{path}'"
            raise FileNotFoundError(msg)
        if not zipfile.is_zipfile(path):
            msg = f"'{path}' is not a cosine index, or it is damaged"
            raise IndexFileError(msg)
        try:
            arrays = mapped(path)
            meta = json.loads(str(arrays["meta"][()])) if "meta" in arrays else {}
            if meta.get("format") != _FORMAT:
                msg = f"'{path}' is not a cosine index: it is a numpy archive of something else"
                raise IndexFileError(msg)
            if meta["version"] > _VERSION:
                msg = f"'{path}' was written by a newer nmfcore: upgrade with pip install --upgrade nmfcore"
                raise IndexFileError(msg)
            if meta["sparse"]:
                X = sparse.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), meta["shape"], copy=False)
                X.check_format(full_check=True)  # the kernels trust the columns that it names
            else:
                X = arrays["codes"]
            squares, ids, shape = np.array(arrays["squares"]), np.array(arrays["ids"]), tuple(meta["shape"])
            names = _names(meta["names"], len(ids))
            following = int(meta["next"])
            fits = X.shape == shape and squares.shape == shape[:1] == ids.shape and squares.dtype == np.float64
            if not fits or (np.diff(ids, prepend=-1, append=following) <= 0).any():
                msg = "its arrays do not fit each other"
                raise ValueError(msg)
        except IndexFileError:
            raise
        except (zipfile.BadZipFile, EOFError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            msg = f"'{path}' is damaged and cannot be read as a cosine index ({error})"
            raise IndexFileError(msg) from error
        index = cls.__new__(cls)
        index._set(_Rows(X, n_jobs, "codes", squares), ids, names)
        index._next = following
        return index


# ---- rows to be compared ---------------------------------------------------------------------------------------------


class _Rows:
    """Rows as they lie, the square of each one's norm, and the compute type that their products are safe in."""

    def __init__(self, X: Matrix, n_jobs: int | None, what: str, squares: Array | None = None):
        self.n_jobs, self.what = n_jobs, what
        self.X = _checked(X, what)
        self.shape: tuple[int, int] = self.X.shape
        self.data: MemoryRows = as_rows(self.X, np.float64, n_jobs)
        self.X = self.data.X
        if squares is None:
            squares = self._squares()
            if not np.isfinite(squares).all() or _extreme(squares, 1e-250, 1e250) or self._vanished(squares):
                self.X = _tamed(self.X, what)
                self.data = as_rows(self.X, np.float64, n_jobs)
                squares = self._squares()
        self.squares = squares
        # Products of numbers like these neither overflow nor vanish in float32.
        self.dtype = np.dtype(np.float64 if _extreme(squares, 1e-30, 1e30) else np.float32)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "data"}  # it holds a module

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ |= state
        self.data = as_rows(self.X, np.float64, self.n_jobs)

    def _squares(self) -> Array:
        out = np.empty(self.shape[0])
        self.data.visit_all(lambda lane, lo, hi, block: self.data.backend.squares(block, out[lo:hi]), 8)
        return out

    def _vanished(self, squares: Array) -> bool:
        """Whether the square of a row is 0 but the row is not: only numbers below 1e-154 do that."""
        if self.X.dtype != np.float64 or squares.all():
            return False
        zero = self.X[np.flatnonzero(squares == 0)]
        return bool(zero.count_nonzero() if sparse.issparse(zero) else zero.any())

    @functools.cached_property
    def nonnegative(self) -> bool:
        """Whether no number is below zero."""
        numbers = self.X.data if sparse.issparse(self.X) else self.X
        return numbers.dtype.kind in "bu" or bool(numbers.min(initial=0) >= 0)

    def dense(self, lo: int, hi: int) -> Array:
        """Rows lo … hi in float64."""
        part = self.X[lo:hi]
        return np.ascontiguousarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float64)


def _length(X: Matrix) -> int:
    return X.shape[0] if hasattr(X, "shape") else len(X)


def _checked(X: Matrix, what: str) -> Matrix:
    """X as rows of real numbers: an ndarray, or CSR without duplicate entries."""
    if sparse.issparse(X):
        X = without_duplicates(X.tocsr(), np.float64)
    else:
        X = np.asarray(X)
        if X.dtype == object:
            X = X.astype(np.float64)
    if X.ndim != 2:
        msg = f"{what} must have two dimensions, a row each, but has shape {X.shape}: reshape(1, -1) makes one row."
        raise ValueError(msg)
    if not X.shape[1]:
        msg = f"{what} has no columns (shape {X.shape}): rows of at least one number can be compared."
        raise ValueError(msg)
    if X.dtype.kind not in "biuf":
        msg = f"{what} must hold real numbers, but its type is {X.dtype}."
        raise TypeError(msg)
    return X


def _extreme(squares: Array, least: float, most: float) -> bool:
    return bool(((squares > 0) & ((squares < least) | (squares > most))).any())


def _tamed(X: Matrix, what: str) -> Matrix:
    """X with each row divided by a power of two, so that no square overflows; raises if X is not finite.

    A copy, made only for rows whose squares leave float64's range.
    """
    numbers = X.data if sparse.issparse(X) else X
    if not np.isfinite(numbers).all():
        rows = np.flatnonzero(~np.isfinite(np.asarray(abs(X).sum(axis=1), dtype=np.float64)).ravel())
        msg = f"{what} must be finite, but row {rows[0] if len(rows) else '?'} holds NaN or infinity."
        raise ValueError(msg)
    largest = abs(X).max(axis=1)
    largest = np.asarray(largest.todense() if sparse.issparse(largest) else largest, dtype=np.float64).ravel()
    exponents = np.frexp(largest)[1]
    if sparse.issparse(X):
        X = X.astype(np.float64)
        X.data = np.ldexp(X.data, -np.repeat(exponents, np.diff(X.indptr)))
        return X
    return np.ldexp(X.astype(np.float64), -exponents[:, None])


def _names(names: Sequence[str] | None, n: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    if len(names) != n:
        msg = f"expected a name for each of the {n} rows, but got {len(names)}."
        raise ValueError(msg)
    return tuple(str(name) for name in names)


# ---- the search ------------------------------------------------------------------------------------------------------


def _search(
    queries: _Rows,
    database: _Rows,
    k: int,
    largest: bool,
    threshold: float | None,
    allow: ArrayLike | None,
    exclude: ArrayLike | None,
) -> tuple[Array, Array]:
    q, n = queries.shape[0], database.shape[0]
    _check_request(queries.shape, database.shape, k, threshold)
    allowed, excluded = _allowed(allow, n), _excluded(exclude, q, n)
    sign = 1.0 if largest else -1.0
    floor = -np.inf if threshold is None else sign * float(threshold)
    scores, indices = np.full((q, k), np.nan), np.full((q, k), -1, np.int64)
    if not q or not n:
        return scores, indices
    best, found = (_few if q <= FEW else _panels)(queries, database, k, sign, floor, allowed, excluded)
    merged, rows = best.transpose(1, 0, 2).reshape(q, -1), found.transpose(1, 0, 2).reshape(q, -1)
    order = np.lexsort((np.where(rows < 0, n, rows), -merged), axis=1)[:, :k]
    merged, rows = np.take_along_axis(merged, order, 1), np.take_along_axis(rows, order, 1)
    indices[:] = rows
    scores[:] = np.where(rows < 0, np.nan, sign * merged + 0.0)
    return scores, indices


def _few(
    queries: _Rows, database: _Rows, k: int, sign: float, floor: float, allowed: Array, excluded: Array
) -> tuple[Array, Array]:
    """Heaps of sign·cosine and row numbers, runs × q × k, of runs of the database."""
    (q, m), n, data = queries.shape, database.shape[0], database.data
    most = _most(queries, database, sign)
    runs = max(1, min(RUNS, int(8.0 * n * m * q / RUN_WORK)))
    bounds = [n * i // runs for i in range(runs + 1)]
    best, found = np.full((runs, q, k), -np.inf), np.full((runs, q, k), -1, np.int64)
    exact = queries.dense(0, q)

    def task(run: int) -> None:
        block = cpu.cut(data.X, (bounds[run], bounds[run + 1]), 64)
        cpu.scan(
            block, bounds[run], database.squares[bounds[run] : bounds[run + 1]], exact, queries.squares, sign, most,
            floor, allowed, excluded, np.zeros(q, np.int64), best[run], found[run],
        )  # fmt: skip

    run_all(task, runs, min(data.threads, runs))
    return best, found


def _most(queries: _Rows, database: _Rows, sign: float) -> float:
    """Return what no sign·cosine exceeds: nothing is less similar than orthogonal where all numbers are nonnegative."""
    return 0.0 if sign < 0 and queries.nonnegative and database.nonnegative else 1.0


def _panels(
    queries: _Rows, database: _Rows, k: int, sign: float, floor: float, allowed: Array, excluded: Array
) -> tuple[Array, Array]:
    """Do the same for many queries: panels of them meet the database, strip by strip."""
    (q, m), n, threads = queries.shape, database.shape[0], database.data.threads
    most = _most(queries, database, sign)
    dtype = max(queries.dtype, database.dtype)
    widest = max(16, min(PANEL, PANEL_BYTES // (dtype.itemsize * max(m, 1)) // 48 * 48))
    panels = -(-q // widest)
    if panels > 1:  # as many for every thread: what is found does not depend on the cut
        panels = -(-panels // threads) * threads
    panel = -(-q // panels // 16) * 16
    panels = -(-q // panel)
    # a run of the database begins without limits, so its rows cost more: only as many as keep every thread busy
    runs = max(1, min(-(-threads // panels), int(2.0 * n * m * panel / RUN_WORK)))
    bounds = [n * i // runs for i in range(runs + 1)]
    step = max(STRIP, BLOCK // panel // STRIP * STRIP)
    best, found = np.full((runs, q, k), -np.inf), np.full((runs, q, k), -1, np.int64)
    data = MemoryRows(database.X, dtype)
    longest = int(np.diff(database.X.indptr).max()) if sparse.issparse(database.X) else 0
    margin = _margin(m, dtype, longest)
    needed = k + excluded.shape[1]  # so many groups' best rows hold k that a query may find

    def task(number: int) -> None:
        run, lo = number // panels, number % panels * panel
        hi = min(lo + panel, q)
        exact, squares = queries.dense(lo, hi), queries.squares[lo:hi]
        norms = np.sqrt(squares)
        Qt = np.zeros((m, panel), dtype)
        np.divide(sign * exact.T, norms, out=Qt[:, : hi - lo], where=norms > 0, casting="unsafe")
        limits = np.full(panel, np.inf, dtype)
        limits[: hi - lo] = floor - margin
        begin, end = bounds[run : run + 2]
        sample = slice(begin, min(begin + SAMPLE, end))
        if not allowed.size and needed <= GROUPS // 2 and sample.stop - begin >= 4 * GROUPS:
            scores = np.empty((sample.stop - begin, panel), dtype)
            cpu.products(cpu.cut(data.X, (begin, sample.stop), STRIP), Qt, scores)
            _raise_limits(limits[: hi - lo], scores, database.squares[sample], needed, margin)
        contest = (exact, squares, sign, most, floor, margin, allowed, excluded[lo:hi],
                   limits, np.zeros(hi - lo, np.int64), best[run, lo:hi], found[run, lo:hi])  # fmt: skip
        for first in range(begin, end, step):
            last = min(first + step, end)
            block = cpu.cut(data.X, (first, last), STRIP)
            cpu.nearest(block, first, Qt, database.squares[first:last], *contest)

    run_all(task, runs * panels, min(threads, runs * panels))
    return best, found


def _raise_limits(limits: Array, scores: Array, squares: Array, needed: int, margin: float) -> None:
    """Begin with what `needed` rows of a sample have at least, not with nothing: most rows need no second look."""
    rows = len(scores) // GROUPS * GROUPS
    norms = np.sqrt(squares[:rows, None]).astype(scores.dtype)
    cosines = np.divide(scores[:rows], norms, out=np.zeros_like(scores[:rows]), where=norms > 0)
    best = cosines.reshape(GROUPS, -1, scores.shape[1]).max(axis=1)
    least = np.partition(best, GROUPS - needed, axis=0)[GROUPS - needed, : len(limits)]
    np.maximum(limits, least - np.asarray(2 * margin, scores.dtype), out=limits)


def _on_device(
    queries: Matrix,
    database: Matrix,
    k: int,
    largest: bool,
    threshold: float | None,
    allow: ArrayLike | None,
    exclude: ArrayLike | None,
) -> tuple[Array, Array]:
    """Do the same where the database lives; queries are taken there."""
    kind = cuda.kind_of(database)
    if kind is None:  # the database is the larger part: what is small travels
        return cosine_topk(cuda.to_host(queries), database, k, largest=largest, threshold=threshold,
                           allow=cuda.to_host(allow), exclude=cuda.to_host(exclude))  # fmt: skip
    cuda.resolve(None, database)
    with cuda.context(cuda.device_of(database)):
        xp, found = cuda.cupy(), as_device_rows(database, np.float64)
        backend = cuda_ops
        (q, m), n = queries.shape if hasattr(queries, "shape") else np.shape(queries), found.shape[0]
        _check_request((q, m), found.shape, k, threshold)
        host_allow, host_exclude = _allowed(cuda.to_host(allow), n), _excluded(cuda.to_host(exclude), q, n)
        sign = 1.0 if largest else -1.0
        floor = -np.inf if threshold is None else sign * float(threshold)
        scores, rows = xp.full((q, k), np.nan), xp.full((q, k), -1, np.int64)
        if q and n:
            block = backend.cut(found.X, (0, n))
            of_rows = xp.empty(n)
            backend.squares(block, of_rows)
            looked_for = cuda.on_current_device(cuda.adopt(queries))
            if hasattr(looked_for, "toarray"):
                looked_for = looked_for.toarray()
            looked_for = backend.asarray(looked_for).astype(np.float64)
            of_queries = xp.empty(q)
            backend.squares(backend.cut(looked_for, (0, q)), of_queries)
            dtype = (
                np.float64 if any(_extreme(cuda.to_host(s), 1e-30, 1e30) for s in (of_rows, of_queries)) else np.float32
            )
            for squares, what in ((of_rows, "database"), (of_queries, "queries")):
                if not bool(xp.isfinite(squares).all()):
                    msg = f"{what} must be finite, but a row holds NaN, infinity, or numbers whose squares overflow."
                    raise ValueError(msg)
            scores, rows = backend.nearest(
                block, of_rows, looked_for, of_queries, k, sign, floor, _margin(m, np.dtype(dtype)),
                backend.asarray(host_allow) if host_allow.size else None, backend.asarray(host_exclude), dtype,
            )  # fmt: skip
        return cuda.give_back(scores, kind), cuda.give_back(rows, kind)


def _margin(m: int, dtype: np.dtype, longest: int = 0) -> float:
    """Bound on the error of a score in the compute type.

    Roundings of both numbers, of both norms and of the products, in chains of at most 128 terms (1,024 in float64)
    that are added up one after another, or of the longest row of CSR; Σ|q_j|·|x_j| ≤ 1 for rows of norm 1.
    """
    chain = max(longest, min(m, 1024 if dtype == np.float64 else 128))
    return (chain + -(-m // max(chain, 1)) + 10) * float(np.finfo(dtype).eps)


def _check_request(queries: tuple[int, int], database: tuple[int, int], k: int, threshold: float | None) -> None:
    if queries[1] != database[1]:
        msg = f"queries have {queries[1]} columns, the database {database[1]}: both must be codes of the same model."
        raise ValueError(msg)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        msg = f"k = {k!r} rows cannot be found: give a whole number of at least 1."
        raise ValueError(msg)
    if threshold is not None and not -np.inf < threshold < np.inf:
        msg = f"threshold = {threshold!r} is no cosine: give a number, -1 to 1, or None."
        raise ValueError(msg)


def _allowed(allow: ArrayLike | None, n: int) -> Array:
    """Return a byte per row of the database; of no length: all rows."""
    if allow is None:
        return np.zeros(0, np.uint8)
    allow = np.asarray(allow)
    if allow.dtype == np.bool_:
        if allow.shape != (n,):
            msg = f"allow is a mask of shape {allow.shape}, the database has {n} rows: give a bool for each."
            raise ValueError(msg)
        return allow.astype(np.uint8)
    allow = _numbers(allow, n, "allow")
    mask = np.zeros(n, np.uint8)
    mask[allow[allow >= 0]] = 1
    return mask


def _excluded(exclude: ArrayLike | None, q: int, n: int) -> Array:
    if exclude is None:
        return np.zeros((q, 0), np.int64)
    exclude = _numbers(np.asarray(exclude), n, "exclude")
    if exclude.ndim not in (1, 2) or len(exclude) != q:
        msg = f"exclude has shape {exclude.shape}: give a row number, or a row of them, for each of the {q} queries."
        raise ValueError(msg)
    return np.ascontiguousarray(exclude.reshape(q, -1))


def _numbers(given: Array, n: int, what: str) -> Array:
    if given.size and given.dtype.kind not in "iu":
        msg = f"{what} must hold row numbers, but its type is {given.dtype}."
        raise ValueError(msg)
    given = given.astype(np.int64)
    if given.size and (given.min() < -1 or given.max() >= n):
        wrong = given[(given < -1) | (given >= n)].ravel()[0]
        msg = f"{what} names row {wrong}, the database has rows 0 to {n - 1}."
        raise ValueError(msg)
    return given
