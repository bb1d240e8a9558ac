"""Pictures: components, originals over reconstructions, a query and its neighbours, one sample's features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .. import analysis
from .._text import row_name, share_text
from ..backends.cuda import to_host
from ._loading import load_matplotlib
from ._shared import (
    BLUE,
    COLOURS,
    INK,
    PAGE,
    Grid,
    Shape,
    add_legend,
    as_matrix,
    as_titles,
    in_lines,
    new_axes,
    number_components,
    on_common_scale,
    on_own_scale,
    palette,
    percent,
    profiles,
    rows_of,
    short,
    suitable_columns,
    write_heading,
)
from ._text import fit, text_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    from .._typing import Matrix

OVERLAID = 60  # components of an overlay at most

__all__ = [
    "best_and_worst",
    "components_grid",
    "inpainting",
    "neighbours",
    "overlay",
    "reconstructions",
    "sample_features",
]


def components_grid(
    components: np.ndarray,
    shape: Shape | None = None,
    *,
    titles: Sequence[str] | None = None,
    shares: ArrayLike | None = None,
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    columns: int | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw every component as a picture, black where it is zero and white where it is strongest.

    Each picture has its own scale, since a component's scale says nothing (W carries it); the
    brightest half percent of its pixels is cut off, so that one hot pixel does not hide the part.
    Without a picture shape the components are drawn as profiles over the features.

    Parameters
    ----------
    components : array-like of shape (k, n_features), any real type
        The parts, one per row.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture a row folds to.
    titles : sequence of k str or None
        Short title of each component; its number by default.
    shares : array-like of shape (k,), any real type, or None
        How much of the samples each component explains (`nmfcore.analysis.explained_share`). Given them, components are
        drawn in the order of their shares, the largest first, and the default titles say the shares.
    cmap : str, matplotlib Colormap or None
        Colours of the pictures, from 0 to the brightest; grey by default. Pictures in colour keep their own.
    heading : str or None
        Title of the whole; states the number of components by default.
    columns : int or None
        Pictures per row; chosen to suit a page by default.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When the shape does not fit the components, or there are not as many titles or shares as components.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import components_grid
    >>> axes = components_grid(np.eye(12), (3, 4))
    >>> axes.get_title(loc="left")
    '12 components'
    """
    parts = as_matrix(components, shape, "components")
    k = len(parts)
    numbers = [str(number) for number in range(k)]
    if shares is not None:
        parts, titles, numbers = _by_share(parts, titles, np.asarray(shares, dtype=float))
    titles = as_titles(titles, k, numbers)
    heading = f"{k} component{'s' * (k != 1)}" if heading is None else heading
    if shape is None:
        return profiles(parts, None, titles, heading, axes)
    columns = columns or suitable_columns(k, shape)
    rows = math.ceil(k / columns)
    inches = min(1.8, PAGE / columns)
    if inches < 1.25:  # a number and its share side by side would be cut off
        titles = [title.replace(" (", "\n(") for title in titles] if titles is numbers else titles
    lines = max(title.count("\n") for title in titles) + 1
    grid = Grid(shape, rows, columns, inches, lines=lines * (inches >= 0.35))
    axes = new_axes(axes, grid.figure_size())
    grid.draw(axes, on_own_scale(parts).reshape(k, *shape), titles if inches >= 0.35 else (), cmap=cmap)
    write_heading(axes, heading)
    return axes


def reconstructions(
    originals: np.ndarray,
    reconstructed: np.ndarray,
    shape: Shape | None = None,
    names: Sequence[str] | None = None,
    *,
    mask: np.ndarray | None = None,
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    columns: int = 10,
    axes: Axes | None = None,
) -> Axes:
    """Draw originals over their reconstructions, with the relative error of each below.

    All pictures share one scale, from 0 to the brightest original, so a reconstruction that is too
    dark looks too dark. Without a picture shape, each
    original is a grey profile and its reconstruction a blue line over it.

    Parameters
    ----------
    originals : array-like of shape (n, n_features), any real type
        Rows of X.
    reconstructed : array-like of shape (n, n_features), any real type
        The same rows of WH.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture a row folds to.
    names : sequence of n str or None
        What to write over the originals.
    mask : array-like of shape (n, n_features), bool, or None
        True where an entry was left out of the fit: it is white in pictures, 0 in profiles, and does not count in the
        errors. None, the default, leaves out nothing.
    cmap : str, matplotlib Colormap or None
        Colours of the pictures, from 0 to the brightest; grey by default. Pictures in colour keep their own.
    heading : str or None
        Title of the whole.
    columns : int
        Pairs side by side.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When the two arrays, the shape and the names do not fit each other.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import reconstructions
    >>> rows = np.arange(24.0).reshape(2, 12)
    >>> axes = reconstructions(rows, rows * 0.9, (3, 4), names=["a", "b"])
    >>> [text.get_text() for text in axes.texts if "%" in text.get_text()]
    ['10 %', '10 %']
    """
    originals = as_matrix(originals, shape, "originals")
    reconstructed = _like(reconstructed, originals, shape)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != originals.shape:
            raise ValueError(
                f"mask holds {mask.dtype} of shape {mask.shape}: give booleans of the shape of originals, "
                f"{originals.shape}."
            )
        originals, reconstructed = np.where(mask, 0, originals), np.where(mask, 0, reconstructed)
    n = len(originals)
    names = as_titles(names, n, [""] * n)
    norms = np.linalg.norm(originals, axis=1)
    errors = np.linalg.norm(originals - reconstructed, axis=1) / np.where(norms > 0, norms, 1)
    notes = [percent(error) for error in errors]
    heading = "Originals over reconstructions, with relative errors" if heading is None else heading
    if shape is None:
        both = [f"{name}  {note}".strip() for name, note in zip(names, notes, strict=True)]
        return profiles(originals, reconstructed, both, heading, axes)
    if mask is not None:
        originals, reconstructed = np.where(mask, np.nan, originals), np.where(mask, np.nan, reconstructed)
    axes = _pairs(originals, reconstructed, shape, names, notes, columns, axes, cmap=cmap)
    write_heading(axes, heading)
    return axes


def inpainting(
    originals: np.ndarray,
    mask: np.ndarray,
    filled: np.ndarray,
    shape: Shape,
    names: Sequence[str] | None = None,
    *,
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    columns: int = 10,
    axes: Axes | None = None,
) -> Axes:
    """Draw pictures, what of them was observed, and how the rest was filled in, one under the other.

    All pictures share one scale, from 0 to the brightest number that is observed. Masked pixels are blue in the
    middle row. Below each picture stands the relative error over its masked pixels, where the
    originals are known there.

    Parameters
    ----------
    originals : array-like of shape (n, n_features), any real type
        Rows of X; NaN where nothing is known.
    mask : array-like of shape (n, n_features) or (n_features,), bool
        True where an entry was left out.
    filled : array-like of shape (n, n_features), any real type
        The same rows as `NMF.impute` returns them.
    shape : tuple of (height, width) or (height, width, 3)
        The picture a row folds to.
    names : sequence of n str or None
        What to write over the originals.
    cmap : str, matplotlib Colormap or None
        Colours of the pictures, from 0 to the brightest; grey by default. Pictures in colour keep their own.
    heading : str or None
        Title of the whole.
    columns : int
        Pictures side by side.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When the arrays, the shape and the names do not fit each other.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import inpainting
    >>> rows = np.arange(1.0, 25).reshape(2, 12)
    >>> mask = rows % 5 == 0
    >>> axes = inpainting(rows, mask, np.where(mask, 0.9 * rows, rows), (3, 4))
    >>> [text.get_text() for text in axes.texts if "%" in text.get_text()]
    ['10 %', '10 %']
    """
    originals = np.asarray(originals, np.float64)
    known = ~np.isnan(originals)
    originals = as_matrix(np.where(known, originals, 0), shape, "originals")
    filled = _like(filled, originals, shape)
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape not in (originals.shape, originals.shape[1:]):
        raise ValueError(
            f"mask holds {mask.dtype} of shape {mask.shape}: give booleans of the shape of originals, "
            f"{originals.shape}, or one for each feature."
        )
    mask = np.broadcast_to(mask, originals.shape) | ~known
    n = len(originals)
    names = as_titles(names, n, [""] * n)
    apart = np.where(mask & known, originals - filled, 0)
    norms = np.linalg.norm(np.where(mask & known, originals, 0), axis=1)
    notes = [percent(np.linalg.norm(a) / norm) if norm > 0 else "" for a, norm in zip(apart, norms, strict=True)]
    top = float(np.max(originals, where=known & ~mask, initial=0)) or float(originals.max())
    load_matplotlib()
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    colours = colormaps.get_cmap("gray" if cmap is None else cmap)

    def painted(rows: np.ndarray) -> np.ndarray:
        rows = on_common_scale(rows, top).reshape(n, *shape)
        return rows if len(shape) == 3 else colours(rows)[..., :3]

    shown = mask.reshape(n, *shape) if len(shape) == 2 else mask.reshape(n, *shape).any(axis=3)
    observed = painted(originals)
    observed = np.where(shown[..., None], np.array(to_rgb(BLUE)), observed)
    names, needed = in_lines(names)
    columns = max(1, min(columns, n))
    bands = math.ceil(n / columns)
    tiles = np.full((3 * bands * columns, *shape[:2], 3), np.nan)
    over, below = [""] * len(tiles), [""] * len(tiles)
    for band in range(bands):
        rows = np.arange(band * columns, min((band + 1) * columns, n))
        first = 3 * band * columns + rows - rows[0]
        unknown = ~known.reshape(n, *shape) if len(shape) == 2 else ~known.reshape(n, *shape).all(axis=3)
        tiles[first] = np.where(unknown[rows][..., None], 1.0, painted(originals)[rows])
        tiles[first + columns], tiles[first + 2 * columns] = observed[rows], painted(filled)[rows]
        for row, tile in zip(rows.tolist(), first.tolist(), strict=True):
            over[tile], below[tile + 2 * columns] = names[row], notes[row]
    lines = [needed * any(names) if row % 3 == 0 else 0 for row in range(3 * bands)]
    inches = min(1.8, (PAGE - 1.2) / columns)
    grid = Grid(
        (*shape[:2], 3), 3 * bands, columns, inches, lines=lines, last=3 if any(notes) else 0,
        labels=["original", "observed", "filled in"] * bands,
    )  # fmt: skip
    axes = new_axes(axes, grid.figure_size())
    grid.draw(axes, tiles, over, below)
    for row in range(3 * bands):
        grid.label(axes, row, row)
    heading = "Original, observed and filled in, with errors over what was masked" if heading is None else heading
    write_heading(axes, heading)
    return axes


def best_and_worst(
    X: Matrix,
    W: ArrayLike,
    H: ArrayLike,
    shape: Shape | None = None,
    names: Sequence[str] | None = None,
    *,
    labels: ArrayLike | None = None,
    n: int = 10,
    errors: ArrayLike | None = None,
    relative: bool = True,
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the samples that are reconstructed best, and below them the worst, originals over reconstructions.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_samples, n_features), any real type
        The samples; only those shown are copied.
    W : array-like of shape (n_samples, k), any real type
        Their codes.
    H : array-like of shape (k, n_features), any real type
        The components.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture a row folds to.
    names : sequence of n_samples str or None
        Names to write over the originals, after the number of the row.
    labels : array-like of shape (n_samples,), integers or strings, or None
        Labels to write after the names, in brackets.
    n : int
        How many of each, at most.
    errors : array-like of shape (n_samples,), any real type, or None
        The errors, if they are known: `nmfcore.analysis.reconstruction_errors` reads all of X.
    relative : bool
        Whether the errors are ‖x − wh‖ / ‖x‖, by which a dark picture is soon among the worst, or ‖x − wh‖, by which
        a bright one is.
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
        When X, W, H, the shape, the names, the labels and the errors do not fit each other.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import best_and_worst
    >>> X = np.eye(4)
    >>> axes = best_and_worst(X, [[1], [0.5], [0], [0]], [[1, 0, 0, 0]], (2, 2), n=1)
    >>> [text.get_text() for text in axes.texts]
    ['row 0', '0 %', 'row 1', '112 %', 'best: original', 'reconstruction', 'worst: original', 'reconstruction']
    """
    W = np.asarray(to_host(W), dtype=float)
    if errors is None:
        errors = analysis.reconstruction_errors(X, W, H, relative)
    errors = np.asarray(errors, dtype=float)
    if len(errors) != len(W):
        raise ValueError(f"expected {len(W)} errors, one per row of W, but got {len(errors)}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rows = np.concatenate(analysis.rank(errors, n))
    H = as_matrix(H, shape, "components")
    originals, reconstructed = rows_of(X, rows), W[rows] @ H
    titles, classes = as_titles(names, len(W), []), None if labels is None else np.asarray(labels)
    if classes is not None and classes.shape != (len(W),):
        raise ValueError(f"expected a label for each of the {len(W)} rows of W, but got shape {classes.shape}")
    captions = [
        row_name(row, titles[row] if titles else None, None if classes is None else classes[row])
        for row in rows.tolist()
    ]
    notes = [percent(errors[row]) if relative else short(errors[row]) for row in rows]
    if heading is None:
        heading = f"Reconstructed best and worst, with {'relative' if relative else 'absolute'} errors"
    n = len(rows) // 2
    if shape is None:
        sides = ["best"] * n + ["worst"] * n
        titles = ["  ".join(words) for words in zip(sides, captions, notes, strict=True)]
        return profiles(originals, reconstructed, titles, heading, axes)
    axes = _pairs(originals, reconstructed, shape, captions, notes, n, axes, kinds=("best: ", "worst: "), cmap=cmap)
    write_heading(axes, heading)
    return axes


def neighbours(
    originals: ArrayLike,
    reconstructed: ArrayLike | None = None,
    shape: Shape | None = None,
    names: Sequence[str] | None = None,
    scores: ArrayLike | None = None,
    *,
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    columns: int = 10,
    axes: Axes | None = None,
) -> Axes:
    """Draw a query, framed, and what a search found for it: originals over their reconstructions.

    All pictures share one grey scale.

    Parameters
    ----------
    originals : array-like of shape (1 + n, n_features), any real type
        The query, and the pictures found, in order.
    reconstructed : array-like of shape (1 + n, n_features), any real type, or None
        The same rows of WH.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture a row folds to.
    names : sequence of 1 + n str or None
        What to write over the pictures.
    scores : array-like of shape (n,), any real type, or None
        The similarity of every picture found, written below its name.
    cmap : str, matplotlib Colormap or None
        Colours of the pictures, from 0 to the brightest; grey by default. Pictures in colour keep their own.
    heading : str or None
        Title of the whole.
    columns : int
        Pictures side by side.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        When the arrays, the shape, the names and the scores do not fit each other.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import neighbours
    >>> rows = np.arange(24.0).reshape(2, 12)
    >>> axes = neighbours(rows, rows * 0.9, (3, 4), ["a", "b"], [0.98])
    >>> [text.get_text() for text in axes.texts]
    ['a', 'query', 'b', '0.980', 'original', 'reconstruction']
    """
    originals = as_matrix(originals, shape, "originals")
    n = len(originals)
    if reconstructed is not None:
        reconstructed = _like(reconstructed, originals, shape)
    captions = ["query"] + [""] * (n - 1)
    if scores is not None:
        scores = np.asarray(scores, dtype=float)
        if scores.shape != (n - 1,):
            raise ValueError(f"expected {n - 1} scores, one per picture found, but got shape {scores.shape}")
        captions[1:] = [f"{score:.3f}" for score in scores]
    both = [f"{name}\n{under}".strip() for name, under in zip(as_titles(names, n, [""] * n), captions, strict=True)]
    heading = "A query and what was found" if heading is None else heading
    if shape is None:
        return profiles(originals, reconstructed, [text.replace("\n", "  ") for text in both], heading, axes)
    lines = 1 if names is None else 2
    axes = _pairs(originals, reconstructed, shape, both, (), columns, axes, lines=lines, marked=(0,), cmap=cmap)
    write_heading(axes, heading)
    return axes


def sample_features(
    code: ArrayLike,
    components: ArrayLike,
    shape: Shape | None = None,
    *,
    picture: ArrayLike | None = None,
    n: int = 6,
    cmap: str | Colormap | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw one sample's features as bars, and above them the pictures of its strongest parts.

    A bar is the weight of a component in the sample times the norm of the component: how much of
    the picture it makes, however W and H share their scale.

    Parameters
    ----------
    code : array-like of shape (k,), any real type
        The sample's row of W.
    components : array-like of shape (k, n_features), any real type
        The components.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture a row folds to. Without one there are bars only.
    picture : array-like of shape (n_features,), any real type, or None
        The sample itself, to be drawn before its parts, beside its reconstruction.
    n : int
        Parts to draw at most, and bars to be coloured.
    cmap : str, matplotlib Colormap or None
        Colours of the pictures, from 0 to the brightest; grey by default. Pictures in colour keep their own.
    heading : str or None
        Title of the whole.
    axes : matplotlib Axes or None
        Where to draw; a new figure by default. The pictures are drawn into an inset above it.

    Returns
    -------
    matplotlib Axes
        That of the bars; the pictures are in its one child axes.

    Raises
    ------
    ValueError
        When the code, the components, the picture and the shape do not fit each other.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import sample_features
    >>> axes = sample_features([0.5, 0, 2], 3 * np.eye(3, 4), (2, 2))
    >>> [float(bar.get_height()) for bar in axes.patches]
    [1.5, 0.0, 6.0]
    >>> [text.get_text() for text in axes.child_axes[0].texts]
    ['2', '0']
    """
    parts = as_matrix(components, shape, "components")
    code = np.asarray(to_host(code), dtype=float)
    if code.shape != parts.shape[:1]:
        raise ValueError(f"expected a code of {len(parts)} weights, one per component, but got shape {code.shape}")
    if picture is not None:
        picture = np.asarray(to_host(picture), dtype=float)
        if picture.shape != parts.shape[1:]:
            raise ValueError(f"the picture must have {parts.shape[1]} features, but has shape {picture.shape}")
    k = len(code)
    weights = code * np.linalg.norm(parts, axis=1)
    strongest = np.argsort(-weights, kind="stable")[:n]
    strongest = strongest[weights[strongest] > 0]
    heading = "Features of one sample" if heading is None else heading
    axes = new_axes(axes, (8.0, 2.8 if shape is None else 4.4))
    colours = [BLUE if t in strongest else "#BFC8CE" for t in range(k)]
    axes.bar(range(k), weights, color=colours, width=min(0.8, 0.1 * k + 0.05))
    number_components(axes, k)
    axes.set_ylabel("weight × norm of the component", color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.axhline(0, color=INK, linewidth=0.8)
    if k > 30:  # the ticks number a few of them only
        for t in strongest:
            axes.annotate(
                str(t), (t, weights[t]), (0, 2), textcoords="offset points", ha="center", fontsize=8, color=BLUE
            )
    if shape is None:
        write_heading(axes, heading)
        return axes

    tiles, captions = on_own_scale(parts[strongest]), [str(t) for t in strongest]
    if picture is not None:
        pair = on_common_scale(np.stack([picture, code @ parts]), picture.max())
        tiles, captions = np.concatenate([pair, tiles]), ["sample", "rebuilt", *captions]
    if len(tiles):
        grid = Grid(shape, 1, len(tiles), min(1.15, 7.2 / len(tiles)), lines=1)
        strip = axes.inset_axes((0.0, 1.06, 1.0, 0.62))
        strip.set_anchor("SW")
        grid.draw(strip, tiles.reshape(-1, *shape), captions, cmap=cmap)
        write_heading(strip, heading)
    else:
        write_heading(axes, heading)
    return axes


def overlay(
    components: ArrayLike,
    shape: Shape | None = None,
    which: Sequence[int] | None = None,
    *,
    titles: Sequence[str] | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw several components over one another, each in a colour of its own, with a legend.

    Where a component is strong its colour is full, where all are zero the paper stays white, and
    where several meet their colours mix by strength.

    Parameters
    ----------
    components : array-like of shape (k, n_features), any real type
        The components.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture a row folds to. Of parts in colour, the brightness is drawn.
    which : sequence of int or None
        Numbers of the components to draw, 60 at most; all of them by default. There are no more than 8 colours that
        everyone can tell apart: of more components, each is marked by its title where it is strongest, too.
    titles : sequence of str or None
        Names in the legend, as many as `which`; the numbers by default.
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
        When the shape does not fit the components, there are not as many titles as components, or
        none or more than 60 are chosen.
    IndexError
        When a component does not exist.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.plots import overlay
    >>> axes = overlay(np.eye(12), (3, 4), [5, 7])
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['5', '7']
    """
    parts = as_matrix(components, shape, "components")
    chosen = list(range(len(parts))) if which is None else [int(t) for t in which]
    if not 0 < len(chosen) <= OVERLAID:
        raise ValueError(f"an overlay shows 1 to {OVERLAID} components, got {len(chosen)}: choose some by which=")
    parts = on_own_scale(parts[chosen])
    titles = as_titles(titles, len(chosen), [str(t) for t in chosen])
    heading = f"{len(chosen)} components, one over the other" if heading is None else heading
    load_matplotlib()
    colours = palette(len(parts))
    columns = math.ceil(len(parts) / 16)  # of the legend
    if shape is None:
        axes = new_axes(axes, (8.0, 3.0))
        for part, colour, title in zip(parts, colours, titles, strict=True):
            axes.fill_between(np.arange(len(part)), part, color=colour, alpha=0.35, lw=0, label=fit(title, 9, 2))
            axes.plot(part, color=colour, linewidth=1.0)
        axes.set_xlim(0, parts.shape[1] - 1)
        axes.set_ylim(0, 1.05)
        axes.set_yticks([])
        axes.set_xlabel("feature", color=INK)
        axes.tick_params(colors=INK, labelsize=8, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        add_legend(axes, handlelength=1.0, handleheight=1.0, ncols=columns)
    else:
        from matplotlib.patches import Patch

        height, width = shape[:2]
        scale = 4.2 / max(height, width)
        axes = new_axes(axes, (max(2.0, width * scale) + 0.5 + 0.7 * columns, max(1.2, height * scale) + 0.4))
        strength = parts.reshape(len(parts), height, width, -1).mean(axis=3)
        total = strength.sum(axis=0)
        hue = np.einsum("thw,tc->hwc", strength, colours) / np.where(total > 0, total, 1)[..., None]
        cover = strength.max(axis=0)[..., None]
        axes.imshow(1 - cover * (1 - hue), interpolation="nearest", aspect="equal")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color("#CCCCCC")
        if len(parts) > len(COLOURS):
            for part, title in zip(strength, titles, strict=True):
                y, x = np.unravel_index(part.argmax(), part.shape)
                text = fit(title, 8, 0.6)
                box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
                axes.text(x, y, text, ha="center", va="center", fontsize=8, color=INK, bbox=box, **text_style(text))
        handles = [Patch(color=colour, label=fit(title, 9, 2)) for colour, title in zip(colours, titles, strict=True)]
        add_legend(axes, handles=handles, handlelength=1.0, handleheight=1.0, ncols=columns)
    write_heading(axes, heading)
    return axes


# --------------------------------------------------------------------------------------------------
# what they share


def _by_share(
    parts: np.ndarray, titles: Sequence[str] | None, shares: np.ndarray
) -> tuple[np.ndarray, Sequence[str] | None, list[str]]:
    """Return components and titles in the order of their shares, and titles that say the shares."""
    if shares.shape != parts.shape[:1]:
        raise ValueError(f"expected a share for each of {len(parts)} components, but got shape {shares.shape}")
    order = np.argsort(-shares, kind="stable")
    titles = titles if titles is None or len(titles) != len(parts) else [titles[t] for t in order]
    return parts[order], titles, [f"{t} ({share_text(shares[t])})" for t in order]


def _like(reconstructed: ArrayLike, originals: np.ndarray, shape: Shape | None) -> np.ndarray:
    reconstructed = as_matrix(reconstructed, shape, "reconstructed")
    if originals.shape != reconstructed.shape:
        raise ValueError(
            f"originals {originals.shape} and reconstructed {reconstructed.shape} must have the same shape"
        )
    return reconstructed


def _pairs(
    originals: np.ndarray,
    reconstructed: np.ndarray | None,
    shape: Shape,
    captions: Sequence[str],
    notes: Sequence[str],
    columns: int,
    axes: Axes | None,
    *,
    lines: int = 1,
    marked: Sequence[int] = (),
    kinds: Sequence[str] = (),
    cmap: str | Colormap | None = None,
) -> Axes:
    """Draw rows of originals over their reconstructions on one scale, notes below the latter.

    The rows are labelled by what they hold; `kinds` says what else the originals of each pair of rows are.
    """
    n, high = len(originals), 1 if reconstructed is None else 2
    columns = max(1, min(columns, n))
    captions, needed = in_lines(captions)
    lines = max(lines, needed)
    pairs = math.ceil(n / columns)
    tiles = np.full((high * pairs * columns, originals.shape[1]), np.nan)
    over, below = [""] * len(tiles), [""] * len(tiles)
    frames = []
    top = originals.max(where=~np.isnan(originals), initial=0)
    for pair in range(pairs):
        rows = np.arange(pair * columns, min((pair + 1) * columns, n))
        first = high * pair * columns + rows - rows[0]
        tiles[first] = on_common_scale(originals[rows], top)
        if reconstructed is not None:
            tiles[first + columns] = on_common_scale(reconstructed[rows], top)
        for row, tile in zip(rows.tolist(), first.tolist(), strict=True):
            over[tile] = captions[row]
            if notes:
                below[tile + columns] = notes[row]
            if row in marked:
                frames.append(tile)
    labels: list[str] = []
    if reconstructed is not None:
        for pair in range(pairs):
            labels += [f"{kinds[pair]}original" if kinds else "original", "reconstruction"]
    inches = min(1.8, (PAGE - (1.2 if labels else 0.0)) / columns)
    grid = Grid(
        shape,
        high * pairs,
        columns,
        inches,
        lines=[lines if row % high == 0 else 0 for row in range(high * pairs)],
        pairs=reconstructed is not None and bool(notes),
        labels=labels,
    )
    axes = new_axes(axes, grid.figure_size())
    grid.draw(axes, tiles.reshape(-1, *shape), over, below, frames, cmap)
    for row in range(len(labels)):
        grid.label(axes, row, row)
    return axes
