"""What a factorisation says about its data: errors, shares, classes, and what two samples have in common.

Plain arrays in, plain arrays out: X is n × m (n samples), W n × k (a row is a sample's *code*), H k × m (a row is a
component). Sums are in float64 and a block of rows at a time, so X may be of any type, sparse, or memory-mapped, and
nothing of its size is ever made. Ties go to the lower number throughout.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from .backends.cuda import to_host
from .objective import explained_shares

if TYPE_CHECKING:
    from ._typing import Array, Matrix

__all__ = [
    "Clusters",
    "brightness_shares",
    "class_means",
    "clusters",
    "components_for_share",
    "explained_share",
    "held_by_evidence",
    "map_of_codes",
    "rank",
    "rebuild",
    "reconstruction_errors",
    "shared_parts",
    "top_components",
]


class RowsOfBool(Protocol):
    """A mask of which rows are read a few at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the mask."""

    @property
    def dtype(self) -> np.dtype:
        """Its type, bool."""

    def __getitem__(self, rows: slice, /) -> Array:
        """Return the mask of some rows."""


Masked = ArrayLike | RowsOfBool
Floats = NDArray[np.float64]
Numbers = NDArray[np.intp]
How = Literal["mean", "median", "min", "max"]

_BLOCK = 1 << 21  # float64 numbers of a block: 16 MB, a few milliseconds
_STATISTICS: dict[str, Callable[..., Floats]] = {"mean": np.mean, "median": np.median, "min": np.min, "max": np.max}


def reconstruction_errors(
    X: Matrix, W: ArrayLike, H: ArrayLike, relative: bool = True, *, mask: Masked | None = None
) -> Floats:
    """Measure how far every sample is from its reconstruction.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n, m), any real type
        The samples. Anything that hands out rows as ``X[lo:hi]`` is read a block at a time.
    W : array-like of shape (n, k), any real type
        Their codes.
    H : array-like of shape (k, m), any real type
        The components.
    relative : bool
        Divide ‖x − wH‖ by ‖x‖. The error of a sample that is zero throughout is left as it is.
    mask : array-like of shape (n, m), bool, or None
        True where an entry of X is left out of both norms; it is read a block at a time, as X is, which
        must be dense. None, the default, leaves nothing out.

    Returns
    -------
    ndarray of shape (n,), float64

    Raises
    ------
    ValueError
        When X, W, H and the mask do not fit together, or X is sparse and there is a mask.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.analysis import reconstruction_errors
    >>> X = np.array([[3, 4], [0, 5]], np.uint8)
    >>> reconstruction_errors(X, [[1], [0]], [[3, 0]]).tolist()
    [0.8, 1.0]
    >>> reconstruction_errors(X, [[1], [0]], [[3, 0]], mask=[[False, True], [False, False]]).tolist()
    [0.0, 1.0]
    """
    W, H = _factors(W, H)
    hidden = _mask_of(mask, X)
    Ht = np.ascontiguousarray(H.T)
    HHt = H @ Ht
    errors, norms = np.empty(len(W)), np.empty(len(W))
    for lo, hi, block in _blocks(X, W, H):
        F = W[lo:hi]
        if sparse.issparse(block):
            errors[lo:hi], norms[lo:hi] = _sparse_squares(block, F, Ht, HHt)
        else:
            if hidden is not None:
                block[hidden[lo:hi]] = 0
            norms[lo:hi] = np.einsum("ij,ij->i", block, block)
            block -= F @ H
            if hidden is not None:
                block[hidden[lo:hi]] = 0
            errors[lo:hi] = np.einsum("ij,ij->i", block, block)
    errors = np.sqrt(errors)
    return errors / np.sqrt(np.where(norms > 0, norms, 1.0)) if relative else errors


def rank(errors: ArrayLike, n: int = 10) -> tuple[Numbers, Numbers]:
    """Find the samples that are reconstructed best, and worst.

    Parameters
    ----------
    errors : array-like of shape (n_samples,), any real type
        As `reconstruction_errors` returns them.
    n : int
        How many of each at most.

    Returns
    -------
    best : ndarray of shape (n,), intp
        Row numbers, the smallest error first.
    worst : ndarray of shape (n,), intp
        Row numbers, the largest error first. NaN comes last in both.

    Raises
    ------
    ValueError
        When the errors are not a vector, or n is negative.

    Examples
    --------
    >>> from nmfcore.analysis import rank
    >>> best, worst = rank([0.3, 0.1, 0.3, 0.2], 2)
    >>> best.tolist(), worst.tolist()
    ([1, 3], [0, 2])
    """
    errors = np.asarray(errors, dtype=float)
    if errors.ndim != 1:
        raise ValueError(f"errors must be one number per sample, got shape {errors.shape}")
    _check_count(n)
    return _first(errors, n), _first(-errors, n)


def class_means(W: ArrayLike, labels: ArrayLike) -> tuple[Array, Floats]:
    """Average the codes of every class.

    Parameters
    ----------
    W : array-like of shape (n, k), any real type
        Codes.
    labels : array-like of shape (n,), integers or strings
        The class of every sample. Every value that occurs is a class; to leave samples out, give
        only the rows of the others.

    Returns
    -------
    classes : ndarray of shape (c,)
        The labels that occur, sorted.
    means : ndarray of shape (c, k), float64

    Raises
    ------
    ValueError
        When there is not one label per row of W.

    Examples
    --------
    >>> from nmfcore.analysis import class_means
    >>> classes, means = class_means([[1, 0], [3, 0], [0, 5]], ["cat", "cat", "ant"])
    >>> classes.tolist(), means.tolist()
    (['ant', 'cat'], [[0.0, 5.0], [2.0, 0.0]])
    """
    W = _matrix("W", W)
    classes, numbers = _classes(W, labels)
    # c × n with a one per sample: the sums of all classes in one sparse product, whatever c is
    member = sparse.csr_matrix((np.ones(len(W)), (numbers, np.arange(len(W)))), shape=(len(classes), len(W)))
    return classes, np.asarray(member @ W) / np.bincount(numbers)[:, None]


def top_components(
    W: ArrayLike, labels: ArrayLike, n: int = 5, H: ArrayLike | None = None
) -> tuple[Array, Numbers, Floats]:
    """Find the components that weigh most in every class.

    Parameters
    ----------
    W : array-like of shape (n_samples, k), any real type
        Codes.
    labels : array-like of shape (n_samples,), integers or strings
        The class of every sample.
    n : int
        Components per class at most.
    H : array-like of shape (k, m), any real type, or None
        The components. Given them, a weight is multiplied by the norm of its component, so that
        it does not depend on how W and H share their scale: what is compared is how much of a
        picture a component makes. Without them, weights are the means of W.

    Returns
    -------
    classes : ndarray of shape (c,)
        The labels that occur, sorted.
    components : ndarray of shape (c, n), intp
        Numbers of components, the heaviest first.
    weights : ndarray of shape (c, n), float64
        Their mean weights in the class.

    Raises
    ------
    ValueError
        When W, labels and H do not fit together, or n is negative.

    Examples
    --------
    >>> from nmfcore.analysis import top_components
    >>> classes, components, weights = top_components([[1, 2], [0, 5]], ["a", "b"], 1, H=[[9, 0], [1, 0]])
    >>> components.tolist(), weights.tolist()
    ([[0], [1]], [[9.0], [5.0]])
    """
    _check_count(n)
    classes, means = class_means(W, labels)
    if H is not None:
        means = means * np.linalg.norm(_matching(H, means), axis=1)
    components = np.argsort(-means, axis=1, kind="stable")[:, :n]
    return classes, components, np.take_along_axis(means, components, axis=1)


def components_for_share(weights: ArrayLike, share: float = 0.5) -> Numbers:
    """Count the components that make up a share of every class.

    Parameters
    ----------
    weights : array-like of shape (c, k), any real type
        Weights of all components in every class, the heaviest first, as `top_components` returns them with n = k.
    share : float
        What the weights of these components must add up to, of the sum of all weights of the class.

    Returns
    -------
    ndarray of shape (c,), intp
        At least 1.

    Examples
    --------
    >>> from nmfcore.analysis import components_for_share
    >>> components_for_share([[6, 3, 1], [4, 3, 3]]).tolist()
    [1, 2]
    """
    sums = np.cumsum(np.asarray(weights, dtype=float), axis=1)
    return np.minimum((sums < share * sums[:, -1:]).sum(axis=1) + 1, sums.shape[1])


def explained_share(X: Matrix, W: ArrayLike, H: ArrayLike, *, mask: Masked | None = None) -> Floats:
    """Split the share of ‖X‖² that is explained among the components.

    Component t gets (2⟨X, w_t h_t⟩ − ⟨w_t h_t, WH⟩) / ‖X‖². The shares add up to exactly
    1 − ‖X − WH‖² / ‖X‖², what all of them explain; overlap of two components is divided between
    both. At a stationary point without penalties a share is ⟨w_t h_t, WH⟩ / ‖X‖² and so never
    negative; far from one, a component that does harm has a negative share.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n, m), any real type
        The samples. Anything that hands out rows as ``X[lo:hi]`` is read a block at a time.
    W : array-like of shape (n, k), any real type
        Their codes.
    H : array-like of shape (k, m), any real type
        The components.
    mask : array-like of shape (n, m), bool, or None
        True where an entry of X is left out of all these products; it is read a block at a time, as X
        is, which must be dense. None, the default, leaves nothing out.

    Returns
    -------
    ndarray of shape (k,), float64
        Zeros where X is zero throughout.

    Raises
    ------
    ValueError
        When X, W, H and the mask do not fit together, or X is sparse and there is a mask.

    Examples
    --------
    >>> from nmfcore.analysis import explained_share
    >>> explained_share([[3, 0], [0, 1]], [[3, 0], [0, 1]], [[1, 0], [0, 1]]).tolist()
    [0.9, 0.1]
    """
    W, H = _factors(W, H)
    Ht = np.ascontiguousarray(H.T)
    squares, cross = 0.0, np.zeros(W.shape[1])
    hidden = _mask_of(mask, X)
    if hidden is not None:
        return _observed_share(X, W, H, hidden)
    for lo, hi, block in _blocks(X, W, H):
        stored = block.data if sparse.issparse(block) else block.ravel()
        squares += float(stored @ stored)
        cross += np.einsum("it,it->t", W[lo:hi], block @ Ht)
    return explained_shares(cross, W.T @ W, H @ Ht, squares)


def held_by_evidence(H: ArrayLike, W: ArrayLike, mask: Masked, least: float = 0.1) -> Floats:
    """Set components to 0 where hardly any sample with them was observed, for drawings.

    Entry (t, j) of H is decided by the samples that use component t and are observed in feature j. Where their share
    of Σ_i w_it² is below `least`, the entry may be anything, and often so large that the rest of the component is
    drawn black.

    Parameters
    ----------
    H : array-like of shape (k, m), any real type
        The components.
    W : array-like of shape (n, k), any real type
        The codes of the samples that they were learned from.
    mask : array-like of shape (n, m), bool
        True where an entry was left out; it is read a block at a time.
    least : float, default=0.1
        The share that is enough.

    Returns
    -------
    ndarray of shape (k, m), float64
        H as it is where every share is high enough, or none is.

    Raises
    ------
    ValueError
        When H, W and the mask do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.analysis import held_by_evidence
    >>> mask = np.zeros((20, 3), bool)
    >>> mask[1:, 2] = True  # the last feature is observed in one sample of twenty
    >>> held_by_evidence([[1.0, 2.0, 90.0]], np.ones((20, 1)), mask).tolist()
    [[1.0, 2.0, 0.0]]
    """
    W, H = _factors(W, H)
    rows = _checked_mask(mask, (len(W), H.shape[1]))
    squares = W * W
    height = max(1, (1 << 20) // max(1, H.shape[1]))
    hidden = np.zeros_like(H)
    for lo in range(0, len(W), height):
        hidden += squares[lo : lo + height].T @ np.asarray(rows[lo : lo + height], np.float64)
    total = squares.sum(axis=0)[:, None]
    enough = total - hidden >= least * total
    return np.where(enough | ~enough.any(axis=1, keepdims=True), H, 0.0)


def shared_parts(a: ArrayLike, b: ArrayLike, H: ArrayLike | None = None, n: int | None = 5) -> tuple[Numbers, Floats]:
    """Say which components two samples have in common, and how much of their similarity each makes.

    Parameters
    ----------
    a, b : array-like of shape (k,), any real type
        The codes of the two samples.
    H : array-like of shape (k, m), any real type, or None
        None splits the similarity of the codes, Σ a_t·b_t. Given the components, that of the
        reconstructions is split, ⟨aH, bH⟩ = aᵀ(HHᵀ)b, which does not depend on how W and H share
        their scale: component t gets ½(a_t·(HHᵀb)_t + b_t·(HHᵀa)_t).
    n : int or None
        Components at most; None for all that have a share.

    Returns
    -------
    components : ndarray of shape (≤ n,), intp
        Numbers of components, the largest share first; those without a share are left out.
    shares : ndarray of shape (≤ n,), float64
        Shares of the similarity; those of all components add up to 1. Nothing is returned for
        samples that have nothing in common.

    Raises
    ------
    ValueError
        When the codes and the components do not fit together, or n is negative.

    Examples
    --------
    >>> from nmfcore.analysis import shared_parts
    >>> components, shares = shared_parts([1, 2, 0], [3, 4.5, 7])
    >>> components.tolist(), shares.tolist()
    ([1, 0], [0.75, 0.25])
    """
    a, b = (np.asarray(to_host(code), dtype=float) for code in (a, b))
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"the codes of two samples must be vectors of one length, got {a.shape} and {b.shape}")
    if n is not None:
        _check_count(n)
    if H is None:
        parts = a * b
    else:
        H = _matching(H, a)
        parts = 0.5 * (a * (H @ (b @ H)) + b * (H @ (a @ H)))
    total = parts.sum()
    shares = parts / total if total > 0 else np.zeros(len(parts))
    order = _first(-shares, len(shares))
    order = order[shares[order] > 0][:n]
    return order, shares[order]


def brightness_shares(W: ArrayLike, H: ArrayLike) -> Floats:
    """Say how much of the brightness of every sample's reconstruction each component makes.

    The brightness of a picture is the sum of its pixels. Component t makes w_it·Σ_j h_tj of row i of WH, whatever the
    scale of W and H.

    Parameters
    ----------
    W : array-like of shape (n, k), any real type
        Codes.
    H : array-like of shape (k, m), any real type
        The components.

    Returns
    -------
    ndarray of shape (n, k), float64
        Each row adds up to 1; a row of a sample without any component is zero.

    Raises
    ------
    ValueError
        When W and H do not fit together.

    Examples
    --------
    >>> from nmfcore.analysis import brightness_shares
    >>> brightness_shares([[1, 1], [0, 0]], [[3, 0], [0, 1]]).tolist()
    [[0.75, 0.25], [0.0, 0.0]]
    """
    W, H = _factors(W, H)
    made = W * H.sum(axis=1)
    sums = made.sum(axis=1, keepdims=True)
    return np.asarray(made / np.where(sums > 0, sums, 1.0))


@dataclass(frozen=True, eq=False)
class Clusters:
    """Samples in groups, the largest first.

    Attributes
    ----------
    labels : ndarray of shape (n,), intp
        The cluster of every sample, from 0.
    counts : ndarray of shape (c,), intp
        How many samples each cluster has.
    centres : ndarray of shape (c, k), float64
        The mean of the unit codes of each cluster.
    distances : ndarray of shape (n,), float64
        From the unit code of every sample to the centre of its cluster.

    Examples
    --------
    >>> from nmfcore.analysis import clusters
    >>> groups = clusters([[1, 0], [0, 2], [0, 4], [0.1, 3]], 2)
    >>> groups.labels.tolist(), groups.nearest(0, 2).tolist()
    ([1, 0, 0, 0], [1, 2])
    """

    labels: Numbers
    counts: Numbers
    centres: Floats
    distances: Floats

    def __len__(self) -> int:
        return len(self.counts)

    def __repr__(self) -> str:
        return f"Clusters of {len(self.labels):,} samples: {', '.join(f'{count:,}' for count in self.counts)}"

    def nearest(self, cluster: int, n: int | None = None) -> Numbers:
        """Find the members of a cluster that are nearest to its centre.

        Parameters
        ----------
        cluster : int
            Its number.
        n : int or None
            How many at most; None, the default, for all.

        Returns
        -------
        ndarray of shape (≤ n,), intp
            Row numbers, the nearest first, equally near ones by number.

        Raises
        ------
        IndexError
            When there is no such cluster.
        """
        if not 0 <= cluster < len(self):
            raise IndexError(f"there is no cluster {cluster}: they are numbered 0 to {len(self) - 1}")
        members = np.flatnonzero(self.labels == cluster)
        # Equal codes may differ in the last bits of their distances: what is nearer by less than that is not nearer.
        order = np.argsort(self.distances[members].round(9), kind="stable")
        return members[order][:n]


def clusters(W: ArrayLike, n_clusters: int = 8, *, random_state: int | None = 0) -> Clusters:
    """Group samples whose codes point the same way, by k-means.

    Every code is divided by its norm first, so that samples made of the same components in the same proportions are
    near each other, however bright they are. scikit-learn's ``KMeans`` does the rest, with three starts.

    Parameters
    ----------
    W : array-like of shape (n, k), any real type
        Codes.
    n_clusters : int
        How many groups to make. There are fewer where fewer codes differ.
    random_state : int or None
        Seed of the starts. Defaults to 0; None draws another one in every call.

    Returns
    -------
    Clusters
        Numbered by size, the largest first; of equal ones, that of the lower row first.

    Raises
    ------
    ValueError
        When n_clusters is less than 1 or more than n, or W is no matrix.

    Examples
    --------
    >>> from nmfcore.analysis import clusters
    >>> clusters([[1, 0], [0, 2], [0, 4], [0.1, 3]], 2)
    Clusters of 4 samples: 3, 1
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    codes = _unit(_matrix("W", W))
    if not 1 <= n_clusters <= len(codes):
        raise ValueError(f"n_clusters must be 1 to {len(codes)}, the number of samples, got {n_clusters}")
    # One thread: several add up in an order of their own, and the result would depend on their number.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer codes differ: the others are left out below
        found = KMeans(n_clusters, n_init=3, random_state=random_state).fit_predict(codes)
    _, first, labels, counts = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -counts))
    labels = np.argsort(order)[labels.reshape(-1)]
    counts = counts[order]
    centres = np.stack([codes[labels == each].mean(axis=0) for each in range(len(counts))])
    distances = np.linalg.norm(codes - centres[labels], axis=1)
    return Clusters(labels, counts, centres, distances)


def map_of_codes(
    W: ArrayLike, method: Literal["pca", "tsne"] = "pca", *, random_state: int | None = 0, n_jobs: int | None = None
) -> Floats:
    """Lay samples out in a plane, so that those whose codes point the same way are near each other.

    Every code is divided by its norm first.

    Parameters
    ----------
    W : array-like of shape (n, k), any real type
        Codes.
    method : {"pca", "tsne"}
        "pca", the default: the two directions in which the codes differ most; a second or less. "tsne": t-SNE by
        scikit-learn, which keeps near what is near and shows groups better, and takes minutes for ten thousands of
        samples.
    random_state : int or None
        Seed of t-SNE. Defaults to 0; None draws another one in every call.
    n_jobs : int or None
        Threads of t-SNE. None, the default, for one; −1 for all.

    Returns
    -------
    ndarray of shape (n, 2), float64

    Raises
    ------
    ValueError
        When the method is none of the two, n_jobs is neither −1 nor at least 1, or W is no matrix.

    References
    ----------
    L. van der Maaten, G. Hinton, "Visualizing Data using t-SNE", Journal of Machine Learning Research 9, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.analysis import map_of_codes
    >>> places = map_of_codes([[1, 0], [2, 0], [0, 3]])
    >>> places.shape, bool(np.allclose(places[0], places[1]))
    ((3, 2), True)
    """
    if method not in ("pca", "tsne"):
        raise ValueError(f"method must be 'pca' or 'tsne', got {method!r}")
    if n_jobs is not None and n_jobs != -1 and n_jobs < 1:
        raise ValueError(f"n_jobs must be None, -1 or at least 1, got {n_jobs}")
    codes = _unit(_matrix("W", W))
    n, k = codes.shape
    places = np.zeros((n, 2))
    if np.all(codes == codes[0]):  # neither way knows a direction then
        return places
    directions = min(2, n, k)
    centred = codes - codes.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :directions]  # of k × k numbers, the largest first
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(directions)])  # so that no sign is left to chance
    places[:, :directions] = centred @ axes
    if method == "pca" or n < 4 or not places[:, 0].std() > 0:
        return places
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = places / places[:, 0].std() * 1e-4  # as scikit-learn's init="pca", which wants two columns at least
    near = min(30.0, (n - 1) / 3)
    tsne = TSNE(perplexity=near, init=start.astype(np.float32), random_state=random_state, n_jobs=n_jobs)
    # It would use all threads, whatever n_jobs says; where others work, they wait for each other in every iteration.
    with threadpool_limits(None if n_jobs == -1 else n_jobs or 1):
        return np.asarray(tsne.fit_transform(codes), dtype=np.float64)


def rebuild(
    W: ArrayLike,
    H: ArrayLike,
    rows: ArrayLike | slice,
    components: ArrayLike | Sequence[int],
    how: How = "mean",
) -> Floats:
    """Build the picture that some components make of a class of samples.

    Every component's weights in these samples are taken together (their mean, say), and the
    components are added with these weights.

    Parameters
    ----------
    W : array-like of shape (n, k), any real type
        Codes.
    H : array-like of shape (k, m), any real type
        The components.
    rows : array-like of int or of n bool, or slice
        The samples, by number or by mask (``labels == 3``).
    components : array-like of int
        Numbers of the components to build from, for instance one row of `top_components`.
    how : {"mean", "median", "min", "max"}
        What is made of a component's weights.

    Returns
    -------
    ndarray of shape (m,), float64

    Raises
    ------
    ValueError
        When W and H do not fit together, no sample is chosen, or `how` is none of the four.
    IndexError
        When a row or a component does not exist.

    Examples
    --------
    >>> from nmfcore.analysis import rebuild
    >>> W, H = [[1, 5], [3, 5], [9, 9]], [[1, 0, 1], [0, 1, 0]]
    >>> rebuild(W, H, [True, True, False], [0]).tolist()
    [2.0, 0.0, 2.0]
    >>> rebuild(W, H, [0, 1], [0, 1], "max").tolist()
    [3.0, 5.0, 3.0]
    """
    if how not in _STATISTICS:
        raise ValueError(f"how must be one of {', '.join(map(repr, _STATISTICS))}, got {how!r}")
    W, H = _factors(W, H)
    chosen = W[rows if isinstance(rows, slice) else np.asarray(rows)]
    if chosen.ndim != 2 or not len(chosen):
        raise ValueError("no sample was chosen: give row numbers, or a mask that is true somewhere")
    components = np.asarray(components, dtype=np.intp).reshape(-1)
    return np.asarray(_STATISTICS[how](chosen[:, components], axis=0) @ H[components])


# --------------------------------------------------------------------------------------------------
# what they share


def _observed_share(X: Matrix, W: Floats, H: Floats, hidden: RowsOfBool) -> Floats:
    """Return the shares of `explained_share` over what is observed, where ⟨w_t h_t, WH⟩ is no product of small ones."""
    squares, shares = 0.0, np.zeros(W.shape[1])
    for lo, hi, block in _blocks(X, W, H):
        mask = hidden[lo:hi]
        block[mask] = 0
        squares += float(np.einsum("ij,ij->", block, block))
        block *= 2
        block -= W[lo:hi] @ H
        block[mask] = 0
        shares += np.einsum("it,it->t", W[lo:hi], block @ H.T)
    return shares / squares if squares > 0 else np.zeros(len(shares))


def _mask_of(mask: Masked | None, X: Matrix) -> RowsOfBool | None:
    """Return a mask that hands out rows, if it fits X."""
    if mask is None:
        return None
    if sparse.issparse(X):
        raise ValueError("a mask is for a dense X, and this one is sparse: give X.toarray()")
    return _checked_mask(mask, tuple(X.shape) if hasattr(X, "shape") else np.shape(X))


def _checked_mask(mask: Masked, shape: tuple[int, ...]) -> RowsOfBool:
    """Return a mask that hands out rows; raise ValueError if it has another shape, or holds no booleans."""
    hidden: RowsOfBool = mask if hasattr(mask, "dtype") else np.asarray(mask)  # type: ignore[assignment]
    if tuple(hidden.shape) != shape or hidden.dtype != bool:
        raise ValueError(
            f"mask holds {hidden.dtype} of shape {tuple(hidden.shape)}: give booleans of the shape {shape}"
        )
    return hidden


def _matrix(name: str, values: ArrayLike) -> Floats:
    matrix = np.asarray(to_host(values), dtype=float)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must be a matrix with at least one row and column, got shape {matrix.shape}")
    return matrix


def _unit(codes: Floats) -> Floats:
    """Return codes divided by their norms; zeros stay."""
    norms = np.linalg.norm(codes, axis=1, keepdims=True)
    return np.asarray(codes / np.where(norms > 0, norms, 1.0))


def _factors(W: ArrayLike, H: ArrayLike) -> tuple[Floats, Floats]:
    W = _matrix("W", W)
    return W, _matching(H, W)


def _matching(H: ArrayLike, codes: Floats) -> Floats:
    """Return H if its rows belong to the columns of the codes."""
    H = _matrix("H", H)
    if len(H) != codes.shape[-1]:
        raise ValueError(f"H {H.shape} has {len(H)} components, but the codes {codes.shape} have {codes.shape[-1]}")
    return H


def _classes(W: Floats, labels: ArrayLike) -> tuple[Array, Numbers]:
    labels = np.asarray(labels)
    if labels.shape != W.shape[:1]:
        raise ValueError(f"expected one label per row of W ({len(W)}), got labels of shape {labels.shape}")
    classes, numbers = np.unique(labels, return_inverse=True)
    return classes, numbers.reshape(-1)


def _check_count(n: int) -> None:
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")


def _first(values: Floats, n: int) -> Numbers:
    """Return where the n smallest are; a stable sort keeps ties in order."""
    return np.argsort(values, kind="stable")[:n]


def _blocks(X: Matrix, W: Floats, H: Floats) -> Iterator[tuple[int, int, Matrix]]:
    """Yield (first row, last row, rows): a float64 copy of dense rows, or CSR rows in float64."""
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    elif sparse.issparse(X):
        X = X.tocsr()
    (n, k), m = W.shape, H.shape[1]
    if tuple(X.shape) != (n, m):
        raise ValueError(f"X {tuple(X.shape)} is not of the shape of WH ({n}, {m})")
    width = m if not sparse.issparse(X) else X.nnz // n * k
    rows = max(1, _BLOCK // max(width, k, 1))
    by_position = X.iloc if hasattr(X, "iloc") else X  # a pandas frame slices rows by position there
    for lo in range(0, n, rows):
        hi = min(lo + rows, n)
        block = by_position[lo:hi]
        if sparse.issparse(block):
            block = block.astype(float)
            block.sum_duplicates()
        else:
            block = np.array(to_host(block), dtype=float)
        yield lo, hi, block


def _sparse_squares(block: sparse.csr_matrix, F: Floats, Ht: Floats, HHt: Floats) -> tuple[Floats, Floats]:
    """Return ‖x − fH‖² and ‖x‖² of CSR rows: what is stored term by term, the zeros by what is left of ‖fH‖²."""
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    made = np.einsum("et,et->e", F[rows], Ht[block.indices])
    count = block.shape[0]
    residual, stored, norms = (
        np.bincount(rows, terms, count).astype(float) for terms in ((block.data - made) ** 2, made**2, block.data**2)
    )
    zeros = np.einsum("it,it->i", F @ HHt, F) - stored
    return residual + np.maximum(zeros, 0), norms
