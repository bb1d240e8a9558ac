"""Groups of rows from pairs: what hangs together (single linkage), or where each belongs to each (complete linkage)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .._typing import Array

__all__ = ["LINKAGES", "linked"]

LINKAGES = ("single", "complete")


def linked(n: int, first: Array, second: Array, scores: Array, linkage: str = "single") -> list[Array]:
    """Return the groups of at least two rows that pairs make.

    Parameters
    ----------
    n : int
        Number of rows.
    first, second : ndarray of shape (n_pairs,), int64
        Row numbers of the pairs, each pair once.
    scores : ndarray of shape (n_pairs,), float64
        How similar they are.
    linkage : {"single", "complete"}
        "single": rows that a chain of pairs connects. "complete": two groups become one if every row of one is in a
        pair with every row of the other, the most similar groups first; the similarity of two groups is that of their
        least similar rows.

    Returns
    -------
    list of ndarray of int64
        Row numbers in ascending order; the groups in the order of their first rows.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.search.linkage import linked
    >>> first, second, scores = np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([0.9, 0.8, 0.95])
    >>> [group.tolist() for group in linked(5, first, second, scores)]
    [[0, 1, 2, 3]]
    >>> [group.tolist() for group in linked(5, first, second, scores, "complete")]
    [[0, 1], [2, 3]]
    """
    if not len(first):
        return []
    graph = coo_matrix((np.ones(len(first), np.int8), (first, second)), (n, n))
    labels = connected_components(graph, directed=False)[1]
    if linkage == "complete":
        labels = _complete(n, first, second, scores)
    used = np.unique(np.concatenate([first, second]))
    used = used[np.argsort(labels[used], kind="stable")]
    groups = np.split(used, np.flatnonzero(np.diff(labels[used])) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))


def _complete(n: int, first: Array, second: Array, scores: Array) -> Array:
    """Return the group of each row under complete linkage.

    Pairs come in the order of their similarity. Two groups of a and b rows can become one as soon as a·b pairs between
    them have come, and the last of these is their similarity. So this is the order in which complete linkage joins
    groups.
    """
    members: dict[int, list[int]] = {}
    group_of = np.arange(n)
    between: dict[int, dict[int, int]] = {}  # how many pairs have come between two groups
    order = np.lexsort((second, first, -scores))
    for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
        a, b = int(group_of[i]), int(group_of[j])
        here, there = members.setdefault(a, [a]), members.setdefault(b, [b])
        of_a, of_b = between.setdefault(a, {}), between.setdefault(b, {})
        seen = of_a.get(b, 0) + 1
        of_a[b] = of_b[a] = seen
        if seen < len(here) * len(there):
            continue
        if len(of_a) < len(of_b):
            a, b, here, there, of_a, of_b = b, a, there, here, of_b, of_a
        del of_a[b], of_b[a]
        for other, count in of_b.items():  # what has come between others and b has now come between them and both
            of_a[other] = of_a.get(other, 0) + count
            theirs = between[other]
            del theirs[b]
            theirs[a] = of_a[other]
        here += there
        group_of[there] = a
        del members[b], between[b]
    return group_of
