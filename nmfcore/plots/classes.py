"""Classes: their samples, their features, and the components they are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .. import analysis
from .._text import printable
from ..backends.cuda import to_host
from ._loading import load_matplotlib
from ._shared import (
    BLUE,
    CLASSES,
    COLOURS,
    HEIGHT,
    INK,
    ORANGE,
    PAGE,
    Grid,
    Shape,
    add_legend,
    as_matrix,
    bands,
    bare,
    check_shape,
    class_names,
    label_rows,
    new_axes,
    number_components,
    on_common_scale,
    on_own_scale,
    rows_of,
    short,
    write_heading,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap

    from .._typing import Matrix

__all__ = [
    "components_by_class",
    "features_by_class",
    "means_by_class",
    "rebuilt_by_class",
    "samples_by_class",
    "samples_by_cluster",
]


def samples_by_class(
    X: Matrix,
    labels: ArrayLike,
    shape: Shape | None = None,
    *,
    n: int = 10,
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw some samples of every class, a row to the class, on one grey scale.

    They are spread evenly over the class, the first and the last among them.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_samples, n_features), any real type
        The samples; only those shown are copied.
    labels : array-like of shape (n_samples,), integers or strings
        The class of every sample.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture a row folds to.
    n : int
        Samples of a class at most.
    cmap : str, matplotlib Colormap or None
        Colours of the pictures, from 0 to the brightest; grey by default. Pictures in colour keep their own.
    heading : str or None
        Title of the whole.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When X, the labels and the shape do not fit each other, or n is less than 1.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import samples_by_class
    >>> axes = samples_by_class(np.eye(12), ["cat", "dog"] * 6, (3, 4), n=3)
    >>> [text.get_text() for text in axes.texts]
    ['cat', 'dog']
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    labels = np.asarray(labels)
    count = X.shape[0] if hasattr(X, "shape") else len(X)
    if labels.shape != (count,):
        raise ValueError(f"expected one label per row of X ({count}), got labels of shape {labels.shape}")
    heading = "Samples of every class" if heading is None else heading
    classes, heading = _shown(np.unique(labels), heading)
    chosen = []
    for one in classes:
        rows = np.flatnonzero(labels == one)
        chosen.append(rows[np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int))])
    return _rows_of_samples(X, chosen, class_names(classes), shape, n, heading, axes, cmap)


def samples_by_cluster(
    X: Matrix,
    codes: ArrayLike,
    clusters: ArrayLike,
    shape: Shape | None = None,
    *,
    n: int = 10,
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the members of every cluster that are nearest to its centre, the nearest first, with its size.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_samples, n_features), any real type
        The samples; only those shown are copied.
    codes : array-like of shape (n_samples, k), any real type
        What was clustered. The centre of a cluster is the mean of its codes.
    clusters : array-like of shape (n_samples,), integers or strings
        The cluster of every sample.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture a row folds to.
    n : int
        Members of a cluster at most.
    cmap : str, matplotlib Colormap or None
        Colours of the pictures, from 0 to the brightest; grey by default. Pictures in colour keep their own.
    heading : str or None
        Title of the whole.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When X, the codes, the clusters and the shape do not fit each other, or n is less than 1.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import samples_by_cluster
    >>> axes = samples_by_cluster(np.eye(12), np.arange(12)[:, None], [0, 1, 1] * 4, (3, 4), n=3)
    >>> [text.get_text() for text in axes.texts]
    ['cluster 0 (4)', 'cluster 1 (8)']
    """
    codes, clusters = as_matrix(codes, None, "codes"), np.asarray(clusters)
    if clusters.shape != codes.shape[:1]:
        raise ValueError(f"expected one cluster per row of the codes ({len(codes)}), got shape {clusters.shape}")
    chosen, names = [], []
    for one in np.unique(clusters)[:CLASSES]:
        rows = np.flatnonzero(clusters == one)
        distances = np.linalg.norm(codes[rows] - codes[rows].mean(axis=0), axis=1)
        chosen.append(rows[np.argsort(distances, kind="stable")[:n]])
        names.append(f"cluster {printable(str(one))} ({len(rows):,})")
    heading = "Clusters: the members nearest to the centre, and the size" if heading is None else heading
    _, heading = _shown(np.unique(clusters), heading)
    return _rows_of_samples(X, chosen, names, shape, n, heading, axes, cmap)


def features_by_class(
    W: ArrayLike,
    labels: ArrayLike,
    H: ArrayLike | None = None,
    *,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw a box plot of every feature in every class, a band to the class.

    Boxes are the middle half of the class, a line is its median, whiskers reach to the last sample
    within 1.5 times the box; samples beyond are left out. All bands have one scale.

    Parameters
    ----------
    W : array-like of shape (n_samples, k), any real type
        Codes.
    labels : array-like of shape (n_samples,), integers or strings
        The class of every sample.
    H : array-like of shape (k, n_features), any real type, or None
        The components. Given them, features are multiplied by the norms of their components, so
        that they can be compared with each other however W and H share their scale.
    heading : str or None
        Title of the whole.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When W, the labels and H do not fit each other.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import features_by_class
    >>> axes = features_by_class(np.arange(12).reshape(6, 2), ["cat", "dog"] * 3)
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['cat', 'dog']
    """
    load_matplotlib()
    from matplotlib.collections import LineCollection, PolyCollection

    F, labels = _features(W, labels, H)
    heading = "Features by class: quartiles and medians" if heading is None else heading
    classes, heading = _shown(np.unique(labels), heading)
    boxes = np.array([_box(F[labels == one]) for one in classes])  # c × 5 × k
    top = boxes.max() or 1.0
    low, q1, median, q3, high = np.moveaxis(0.9 * boxes / top, 1, 0) + _bases(classes)[:, None]
    k = F.shape[1]
    if axes is None:
        band = max(0.6, min(1.1, 5 / len(classes)))
        axes = new_axes(None, (max(6.0, min(PAGE, 0.32 * k + 1.2)), min(14.0, band * len(classes) + 1.0)))
    axes = bands(axes, class_names(classes), k, heading, "component")
    x = np.broadcast_to(np.arange(k), q1.shape)
    half = min(0.34, 0.035 * k + 0.02)  # of a few, wide boxes would hide how high they are
    corners = [np.stack([x + side, y], -1) for side, y in ((-half, q1), (half, q1), (half, q3), (-half, q3))]
    whiskers = np.stack([np.stack([x, low], -1), np.stack([x, high], -1)], 2)
    medians = np.stack([np.stack([x - half, median], -1), np.stack([x + half, median], -1)], 2)
    thin = 0.8 if k <= 40 else 0.5
    axes.add_collection(LineCollection(list(whiskers.reshape(-1, 2, 2)), colors=INK, linewidths=thin, zorder=2))
    axes.add_collection(
        PolyCollection(
            list(np.stack(corners, 2).reshape(-1, 4, 2)),
            facecolors="#A9CCE3",
            edgecolors=BLUE,
            linewidths=thin,
            zorder=3,
        )
    )
    axes.add_collection(LineCollection(list(medians.reshape(-1, 2, 2)), colors=ORANGE, linewidths=2 * thin, zorder=4))
    number_components(axes, k)
    axes.set_xlabel(f"component\n(every band: {_what(H)}, from 0 to {short(top)})", color=INK, fontsize=9)
    return axes


def means_by_class(
    W: ArrayLike,
    labels: ArrayLike,
    H: ArrayLike | None = None,
    *,
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the mean of every feature in every class as a heat map.

    Parameters
    ----------
    W : array-like of shape (n_samples, k), any real type
        Codes.
    labels : array-like of shape (n_samples,), integers or strings
        The class of every sample.
    H : array-like of shape (k, n_features), any real type, or None
        The components, to multiply features by the norms of; as in `features_by_class`.
    cmap : str, matplotlib Colormap or None
        Colours of the heat map; matplotlib's "viridis" by default.
    heading : str or None
        Title of the whole.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default. The colour scale takes some room from it.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When W, the labels and H do not fit each other.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import means_by_class
    >>> axes = means_by_class([[1, 0], [3, 0], [0, 5]], ["cat", "cat", "dog"])
    >>> axes.images[0].get_array().tolist()
    [[2.0, 0.0], [0.0, 5.0]]
    """
    F, labels = _features(W, labels, H)
    classes, means = analysis.class_means(F, labels)
    heading = "Mean features of every class" if heading is None else heading
    classes, heading = _shown(classes, heading)
    c, k = len(classes), F.shape[1]
    axes = new_axes(axes, (max(5.0, min(PAGE, 0.34 * k + 1.8)), max(2.9, min(HEIGHT, 0.3 * c + 1.2))))
    image = axes.imshow(
        means[:c], cmap=cmap or "viridis", vmin=min(0.0, means.min()), aspect="auto", interpolation="nearest"
    )
    label_rows(axes, range(c), class_names(classes), 1.2)
    number_components(axes, k)
    axes.set_xlim(-0.5, k - 0.5)
    bare(axes)
    bar: Colorbar = axes.figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05, aspect=35)  # type: ignore[union-attr]
    bar.set_label(_what(H), color=INK, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=8, length=0)
    write_heading(axes, heading)
    return axes


def components_by_class(
    W: ArrayLike,
    H: ArrayLike,
    labels: ArrayLike,
    shape: Shape | None = None,
    *,
    n: int = 5,
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the components that weigh most in every class, with their mean weights.

    A weight is the mean of a feature in the class times the norm of its component
    (`nmfcore.analysis.top_components`). Every component has its own grey scale.

    Parameters
    ----------
    W : array-like of shape (n_samples, k), any real type
        Codes.
    H : array-like of shape (k, n_features), any real type
        The components.
    labels : array-like of shape (n_samples,), integers or strings
        The class of every sample.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture a row folds to. Without one, the weights are drawn as bars.
    n : int
        Components of a class, at most.
    cmap : str, matplotlib Colormap or None
        Colours of the pictures, from 0 to the brightest; grey by default. Pictures in colour keep their own.
    heading : str or None
        Title of the whole.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When W, H, the labels and the shape do not fit each other, or n is less than 1.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> from nmfcore.plots import components_by_class
    >>> axes = components_by_class([[1, 2], [0, 5]], [[9, 0], [1, 0]], ["a", "b"], (1, 2), n=1)
    >>> [text.get_text() for text in axes.texts]
    ['0: 9', '1: 5', 'a', 'b']
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    H = as_matrix(H, shape, "components")
    classes, components, weights = analysis.top_components(W, labels, n, H)
    heading = "Strongest components of every class: number and mean weight" if heading is None else heading
    classes, heading = _shown(classes, heading)
    components, weights = components[: len(classes)], weights[: len(classes)]
    numbers = [f"{t}: {short(weight)}" for t, weight in zip(components.ravel(), weights.ravel(), strict=True)]
    if shape is not None:
        tiles = on_own_scale(H)[components]
        return _class_grid(tiles, class_names(classes), shape, heading, axes, numbers, cmap=cmap)
    c, n = components.shape
    down = min(14.0, max(2.4, 0.16 * n * c + 0.22 * c + 1.0))
    axes = new_axes(axes, (8.0, down))
    thick = 0.86 / n
    places = (np.arange(c)[:, None] + thick * (np.arange(n) + 0.5)).ravel()
    axes.barh(places, weights.ravel(), height=0.86 * thick, color=BLUE)
    size = max(4.5, min(8.0, 72 * thick * (down - 1) / c))
    for place, weight, t in zip(places, weights.ravel(), components.ravel(), strict=True):
        axes.annotate(
            str(t), (weight, place), (3, 0), textcoords="offset points", va="center", fontsize=size, color=INK
        )
    axes.set_ylim(c, -0.1)
    label_rows(axes, np.arange(c) + 0.43, class_names(classes), 1.2)
    axes.set_xlabel("mean weight × norm of the component", color=INK)
    bare(axes)
    write_heading(axes, heading)
    return axes


def rebuilt_by_class(
    W: ArrayLike,
    H: ArrayLike,
    labels: ArrayLike,
    shape: Shape | None = None,
    *,
    n: int | None = None,
    how: Sequence[analysis.How] = ("mean", "median", "min", "max"),
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw every class as its strongest components make it: with mean, median, least and largest weights.

    Every picture has its own scale. The least weights are often all zero: such a picture is left out.

    Parameters
    ----------
    W : array-like of shape (n_samples, k), any real type
        Codes.
    H : array-like of shape (k, n_features), any real type
        The components.
    labels : array-like of shape (n_samples,), integers or strings
        The class of every sample.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture a row folds to.
    n : int or None
        How many components to build a class from, at most; `nmfcore.analysis.top_components` chooses them. By
        default as many as make up half of the class: see `nmfcore.analysis.components_for_share`.
    how : sequence of {"mean", "median", "min", "max"}
        What to make of the weights in a class, a picture each.
    cmap : str, matplotlib Colormap or None
        Colours of the pictures, from 0 to the brightest; grey by default. Pictures in colour keep their own.
    heading : str or None
        Title of the whole.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When W, H, the labels and the shape do not fit each other, n is less than 1, or `how` names
        none of the four.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> from nmfcore.plots import rebuilt_by_class
    >>> axes = rebuilt_by_class([[1, 2], [0, 5]], [[9, 0], [1, 0]], ["a", "b"], (1, 2), how=["mean"])
    >>> [text.get_text() for text in axes.texts]
    ['mean', 'a', 'b']
    """
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not len(how):
        raise ValueError("how names no statistic: give some of 'mean', 'median', 'min', 'max'")
    H, W, labels = as_matrix(H, shape, "components"), np.asarray(to_host(W), dtype=float), np.asarray(labels)
    classes, components, weights = analysis.top_components(W, labels, len(H) if n is None else n, H)
    if n is None:
        few = "the components that make up half of each"
        counts = analysis.components_for_share(weights)
    else:
        few = f"their {components.shape[1]} strongest components" if n > 1 else "their strongest component"
        counts = np.full(len(classes), components.shape[1])
    heading = f"Classes rebuilt from {few}" if heading is None else heading
    classes, heading = _shown(classes, heading)
    pictures = np.array(
        [
            [analysis.rebuild(W, H, labels == one, top[:count], each) for each in how]
            for one, top, count in zip(classes, components, counts, strict=False)
        ]
    )
    black = (np.array(how) == "min") & ~pictures.any(axis=2)
    shown = ~black.all(axis=0) if len(how) > 1 else np.ones(1, bool)
    how, pictures, black = (
        [one for one, kept in zip(how, shown, strict=True) if kept],
        pictures[:, shown],
        black[:, shown],
    )
    if shape is not None:
        tiles = on_own_scale(pictures.reshape(-1, H.shape[1])).reshape(pictures.shape)
        if len(how) > 1:
            tiles[black] = np.nan
        return _class_grid(tiles, class_names(classes), shape, heading, axes, head=how, cmap=cmap)
    axes = bands(axes, class_names(classes), H.shape[1], heading)
    for base, lines in zip(_bases(classes), pictures, strict=True):
        for line, each, colour in zip(on_common_scale(lines, lines.max()), how, COLOURS, strict=False):
            axes.plot(base + 0.9 * line, color=colour, linewidth=1.1, label=each if base == 0 else None)
    add_legend(axes)
    return axes


# --------------------------------------------------------------------------------------------------
# what they share


def _rows_of_samples(
    X: Matrix,
    chosen: Sequence[np.ndarray],
    names: Sequence[str],
    shape: Shape | None,
    n: int,
    heading: str,
    axes: Axes | None,
    cmap: str | Colormap | None,
) -> Axes:
    """Draw the chosen samples of every class, a row to the class, on one scale."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    samples = rows_of(X, np.concatenate(chosen))
    check_shape(shape, samples.shape[1], "samples")
    n = max(map(len, chosen))
    tiles = np.full((len(chosen), n, samples.shape[1]), np.nan)
    start = 0
    for tile, rows in zip(tiles, chosen, strict=True):
        tile[: len(rows)] = samples[start : start + len(rows)]
        start += len(rows)
    tiles = on_common_scale(tiles, samples.max())
    if shape is not None:
        return _class_grid(tiles, names, shape, heading, axes, cmap=cmap)
    axes = bands(axes, names, samples.shape[1], heading)
    for base, lines in zip(_bases(names), tiles, strict=True):
        for line in lines:
            axes.plot(base + 0.9 * line, color=BLUE, alpha=0.45, linewidth=0.9)
    return axes


def _shown(classes: np.ndarray, heading: str) -> tuple[np.ndarray, str]:
    if len(classes) <= CLASSES:
        return classes, heading
    return classes[:CLASSES], f"{heading}, the first {CLASSES} of {len(classes)}"


def _bases(classes: Sequence[object] | np.ndarray) -> np.ndarray:
    """Where the bands of classes begin, the first on top."""
    return np.arange(len(classes), dtype=float)[::-1]


def _features(W: ArrayLike, labels: ArrayLike, H: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Return features, comparable if there is an H, and labels that fit them."""
    F, labels = as_matrix(W, None, "codes"), np.asarray(labels)
    if labels.shape != F.shape[:1]:
        raise ValueError(f"expected one label per row of W ({len(F)}), got labels of shape {labels.shape}")
    if H is None:
        return F, labels
    H = as_matrix(H, None, "components")
    if len(H) != F.shape[1]:
        raise ValueError(f"H {H.shape} has {len(H)} components, but W {F.shape} has {F.shape[1]}")
    return F * np.linalg.norm(H, axis=1), labels


def _what(H: ArrayLike | None) -> str:
    return "weight" if H is None else "weight × norm of the component"


def _box(F: np.ndarray) -> np.ndarray:
    """Return lower whisker, quartiles and upper whisker of every column, 5 × k, as Tukey draws them."""
    q1, median, q3 = np.percentile(F, [25, 50, 75], axis=0)
    reach = 1.5 * (q3 - q1)
    low = np.where(q1 - reach <= F, F, np.inf).min(axis=0)
    high = np.where(q3 + reach >= F, F, -np.inf).max(axis=0)
    return np.stack([np.minimum(low, q1), q1, median, q3, np.maximum(high, q3)])


def _class_grid(
    tiles: np.ndarray,
    names: Sequence[str],
    shape: Shape,
    heading: str,
    axes: Axes | None,
    captions: Sequence[str] = (),
    head: Sequence[str] = (),
    cmap: str | Colormap | None = None,
) -> Axes:
    """Draw tiles, c × n × m, a row to the class, in as many blocks side by side as suit a page.

    Captions are over every tile; a head is over the first row.
    """
    c, n = tiles.shape[:2]
    letters = min(16, max(map(len, names)))
    # Of a tile whose longer side is 1, with its gap and its caption:
    height, width = (side / max(shape[:2]) + 0.06 for side in shape[:2])
    height += 0.2 * bool(captions)

    def inches_of(blocks: int) -> float:
        across = (PAGE - blocks * (0.08 * letters + 0.2)) / (blocks * n * width)
        return max(0.2, min(1.1, across, HEIGHT / (math.ceil(c / blocks) * height)))

    def misfit(blocks: int) -> float:
        """Neither a narrow column nor tiny pictures."""
        inches = inches_of(blocks)
        ratio = blocks * (0.08 * letters + 0.2 + n * width * inches) / (math.ceil(c / blocks) * height * inches + 0.4)
        return abs(math.log(ratio / 1.1)) + 1.5 * max(0.0, math.log(0.75 / inches))

    blocks = min(range(1, min(c, 6) + 1), key=misfit)
    inches, rows = inches_of(blocks), math.ceil(c / blocks)
    lines = [1] * rows if captions else [int(row == 0 and bool(head)) for row in range(rows)]
    grid = Grid(shape, rows, blocks * n, inches, lines=lines, labels=names, block=n)
    placed = np.full((rows * blocks * n, tiles.shape[2]), np.nan)
    over = [""] * len(placed)
    for number in range(c):
        block, row = divmod(number, rows)
        first = row * blocks * n + block * n
        placed[first : first + n] = tiles[number]
        if captions:
            over[first : first + n] = captions[number * n : (number + 1) * n]
        elif head and row == 0:
            over[first : first + n] = head
    axes = new_axes(axes, grid.figure_size())
    grid.draw(axes, placed.reshape(-1, *shape), over, cmap=cmap)
    for number in range(c):
        block, row = divmod(number, rows)
        grid.label(axes, number, row, block * n)
    write_heading(axes, heading)
    return axes
