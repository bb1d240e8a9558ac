"""An index of rows with names that come and go, searched by cosines, and its file."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .._files import mapped, replacing
from .._typing import Array, Matrix
from .cosine import searched
from .points import Points, length

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["CosineIndex", "IndexFileError"]

_FORMAT, _VERSION = "nmfcore-cosine-index", 1


class IndexFileError(ValueError):
    """A file that is no cosine index, is damaged, or is newer than this nmfcore.

    Examples
    --------
    >>> from nmfcore.search.index import IndexFileError
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
    >>> from nmfcore.search.index import CosineIndex
    >>> index = CosineIndex(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), names=["a", "b", "c"])
    >>> scores, ids = index.search([[1.0, 0.1]], 2)
    >>> [index.name(i) for i in ids[0]]
    ['a', 'b']
    >>> index.search(index[[0]], 1, exclude=[0])[1].tolist()  # the row most like row 0, itself aside
    [[1]]
    """

    __module__ = "nmfcore"  # the name that is imported

    def __init__(self, codes: Matrix, names: Sequence[str] | None = None, n_jobs: int | None = None):
        self._set(Points(codes, n_jobs, "codes"), np.arange(length(codes)), _names(names, length(codes)))
        self._next = len(self)

    def _set(self, rows: Points, ids: Array, names: tuple[str, ...] | None) -> None:
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
        rows = Points(queries, self._rows.n_jobs, "queries")
        scores, at = searched(rows, self._rows, n, largest, threshold, allow, exclude)
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
        new = Points(codes, self._rows.n_jobs, "codes")
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
        self._set(Points(together, self._rows.n_jobs, "codes"), np.concatenate([self.ids, ids]), names_now)
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
        self._set(Points(self._rows.X[keep], self._rows.n_jobs, "codes"), self.ids[keep], names)

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
        >>> from nmfcore.search.index import CosineIndex
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
        index._set(Points(X, n_jobs, "codes", squares), ids, names)
        index._next = following
        return index


def _names(names: Sequence[str] | None, n: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    if len(names) != n:
        msg = f"expected a name for each of the {n} rows, but got {len(names)}."
        raise ValueError(msg)
    return tuple(str(name) for name in names)
