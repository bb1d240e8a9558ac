"""Pictures out: what an NMF learned, drawn with matplotlib.

Every function draws into one matplotlib ``Axes`` and returns it: the one given as ``axes``, or
that of a new ``Figure`` (``axes.figure.savefig("x.png")``). Nothing here touches pyplot or any
other global state, so the functions may run in threads, servers and notebooks alike.

Grey stands for intensity and the two accents are the blue and orange of Okabe and Ito's palette,
which people with any kind of colour vision tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["components_grid", "convergence", "reconstructions"]

BLUE, ORANGE, INK, FAINT = "#0072B2", "#D55E00", "#333333", "#999999"
_PROFILE_ROWS = 60  # profiles drawn at most; more would be a grey smear
_TILE_LEAST, _TILE_MOST = 96, 256  # pixels of a picture's longer side as drawn
_STEMS = 40  # features up to which a profile is drawn as stems


def components_grid(
    components: np.ndarray,
    shape: tuple[int, int] | None = None,
    *,
    titles: Sequence[str] | None = None,
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
    shape : tuple of (height, width) or None
        The picture a row folds to.
    titles : sequence of k str or None
        Short title of each component; its number by default.
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
        When the shape does not fit the components, or there are not as many titles as components.
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
    parts = _matrix(components, shape, "components")
    k = len(parts)
    titles = _titles(titles, k, [str(number) for number in range(k)])
    heading = f"{k} component{'s' * (k != 1)}" if heading is None else heading
    if shape is None:
        return _profiles(parts, None, titles, heading, axes)
    top = np.quantile(parts, 0.995, axis=1)
    top = np.where(top > 0, top, parts.max(axis=1))
    tiles = np.clip(parts / np.where(top > 0, top, 1)[:, None], 0, 1).reshape(k, *shape)
    columns = columns or _columns(k, shape)
    rows = math.ceil(k / columns)
    inches = min(1.8, 9 / columns)
    grid = _Grid(shape, rows, columns, inches, caption=inches >= 0.35)
    axes = _axes(axes, grid.figure_size())
    grid.draw(axes, tiles, titles)
    _heading(axes, heading)
    return axes


def reconstructions(
    originals: np.ndarray,
    reconstructed: np.ndarray,
    shape: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
    *,
    heading: str | None = None,
    columns: int = 10,
    axes: Axes | None = None,
) -> Axes:
    """Draw originals over their reconstructions, with the relative error of each below.

    All pictures of a pair of rows share one grey scale, from 0 to the brightest original among
    them, so a reconstruction that is too dark looks too dark. Without a picture shape, each
    original is a grey profile and its reconstruction a blue line over it.

    Parameters
    ----------
    originals : array-like of shape (n, n_features), any real type
        Rows of X.
    reconstructed : array-like of shape (n, n_features), any real type
        The same rows of WH.
    shape : tuple of (height, width) or None
        The picture a row folds to.
    names : sequence of n str or None
        What to write over the originals.
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
    originals = _matrix(originals, shape, "originals")
    reconstructed = _matrix(reconstructed, shape, "reconstructed")
    if originals.shape != reconstructed.shape:
        raise ValueError(
            f"originals {originals.shape} and reconstructed {reconstructed.shape} must have the same shape"
        )
    n = len(originals)
    names = _titles(names, n, [""] * n)
    norms = np.linalg.norm(originals, axis=1)
    errors = np.linalg.norm(originals - reconstructed, axis=1) / np.where(norms > 0, norms, 1)
    notes = [f"{100 * error:.0f} %" for error in errors]
    heading = "Originals over reconstructions, with relative errors" if heading is None else heading
    if shape is None:
        both = [f"{name}  {note}".strip() for name, note in zip(names, notes, strict=True)]
        return _profiles(originals, reconstructed, both, heading, axes)

    columns = max(1, min(columns, n))
    pairs = math.ceil(n / columns)
    tiles = np.full((2 * pairs * columns, originals.shape[1]), np.nan)
    captions, below = [""] * len(tiles), [""] * len(tiles)
    for pair in range(pairs):
        rows = np.arange(pair * columns, min((pair + 1) * columns, n))
        top = originals[rows].max() or 1.0
        first = 2 * pair * columns + rows - rows[0]
        tiles[first] = np.clip(originals[rows] / top, 0, 1)
        tiles[first + columns] = np.clip(reconstructed[rows] / top, 0, 1)
        for row, tile in zip(rows, first, strict=True):
            captions[tile], below[tile + columns] = names[row], notes[row]
    inches = min(1.8, 9 / columns)
    grid = _Grid(shape, 2 * pairs, columns, inches, caption=True, pairs=True)
    axes = _axes(axes, grid.figure_size())
    grid.draw(axes, tiles.reshape(-1, *shape), captions, below)
    _heading(axes, heading)
    return axes


def convergence(
    history: Mapping[str, Any],
    *,
    norm: float | None = None,
    heading: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the loss over time, with the iterations along the top.

    Parameters
    ----------
    history : mapping with "loss" and "seconds", array-likes of shape (n_recorded,), float64
        ``history_`` of an estimator; seconds count from the start. NaN where the loss was not
        recorded.
    norm : float or None
        ‖X‖_F. Given it, the relative error √(2·loss)/‖X‖ is drawn instead of the loss; right for
        the Frobenius loss without penalties.
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
        When "loss" and "seconds" are missing or differ in length.
    ImportError
        When matplotlib is missing.

    Examples
    --------
    >>> from nmfcore.plots import convergence
    >>> axes = convergence({"loss": [8.0, 2.0, 0.5], "seconds": [0.1, 0.2, 0.3]}, norm=4.0)
    >>> axes.get_ylabel(), axes.lines[0].get_ydata().tolist()
    ('relative error', [1.0, 0.5, 0.25])
    """
    if "loss" not in history or "seconds" not in history:
        raise ValueError(f"history needs 'loss' and 'seconds', got {sorted(history)}")
    loss = np.asarray(history["loss"], dtype=float)
    seconds = np.asarray(history["seconds"], dtype=float)
    if loss.shape != seconds.shape or loss.ndim != 1:
        raise ValueError(f"loss {loss.shape} and seconds {seconds.shape} must be as long as each other")
    axes = _axes(axes, (7.0, 4.2))
    recorded = np.isfinite(loss)
    values = np.sqrt(2 * np.maximum(loss, 0)) / norm if norm else loss
    values, times = values[recorded], seconds[recorded]
    few = len(values) <= 30
    axes.plot(times, values, color=BLUE, linewidth=1.8, marker="o" if few else "", markersize=4)
    if len(values) and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
    axes.set_xlabel("seconds", color=INK)
    axes.set_ylabel("relative error" if norm else "loss", color=INK)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=FAINT)
    if len(values):
        axes.annotate(
            f"{values[-1]:.4g}",
            (times[-1], values[-1]),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
            fontsize=9,
            color=BLUE,
        )
        axes.set_xlim(left=0, right=max(seconds[-1], 1e-9) * 1.02)
        _iterations_on_top(axes, seconds)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no loss was recorded", transform=axes.transAxes, ha="center")
    _heading(axes, "Convergence" if heading is None else heading)
    return axes


# --------------------------------------------------------------------------------------------------
# what they share


class _Grid:
    """Lays tiles out on one image: one imshow draws a hundred pictures as fast as five."""

    def __init__(
        self,
        shape: tuple[int, int],
        rows: int,
        columns: int,
        inches: float,
        caption: bool,
        pairs: bool = False,
    ) -> None:
        # Large pictures shrink, so that a hundred of them fit in memory; small ones grow, so that
        # the gaps between them can be fine.
        step = math.ceil(max(shape) / _TILE_MOST)
        self.steps = min(step, shape[0]), min(step, shape[1])
        small = shape[0] // self.steps[0], shape[1] // self.steps[1]
        self.repeat = math.ceil(_TILE_LEAST / max(small))
        height, width = small[0] * self.repeat, small[1] * self.repeat
        self.shape, self.rows, self.columns = (height, width), rows, columns
        self.per_inch = max(height, width) / inches  # pixels of the canvas to the inch
        self.size = max(5.5, min(9.0, 9 * inches))  # points of the captions
        line = round(self.size / 72 * 1.5 * self.per_inch)
        self.gap = max(1, round(0.06 * self.per_inch))
        self.above = self.gap + (line if caption else 0)
        self.below = line if pairs else 0
        self.caption = caption
        self.tops: list[int] = []
        top = 0
        for row in range(rows):
            reconstruction = pairs and row % 2 == 1
            top += self.gap if reconstruction else self.above
            self.tops.append(top)
            top += height + (self.below if reconstruction else 0)
        self.height = top + self.gap
        self.width = columns * (width + self.gap) - self.gap

    def figure_size(self) -> tuple[float, float]:
        """Return inches across and down, with room for a heading."""
        return max(3.6, self.width / self.per_inch + 0.1), self.height / self.per_inch + 0.4

    def draw(
        self,
        axes: Axes,
        tiles: np.ndarray,
        captions: Sequence[str],
        below: Sequence[str] | None = None,
    ) -> None:
        """Draw tiles, n × height × width between 0 and 1, NaN where there is none."""
        from matplotlib import colormaps

        height, width = self.shape
        canvas = np.full((self.height, self.width), np.nan)
        style: dict[str, Any] = {"ha": "center", "color": INK, "fontsize": self.size}
        for number, tile in enumerate(tiles):
            row, column = divmod(number, self.columns)
            top, left = self.tops[row], column * (width + self.gap)
            canvas[top : top + height, left : left + width] = self._scaled(tile)
            middle = left + (width - 1) / 2
            if self.caption and captions[number]:
                text = _fit(captions[number], self.size, width / self.per_inch)
                axes.text(middle, top - 0.5 - self.gap / 3, text, va="bottom", **style)
            if below is not None and below[number]:
                text = below[number]
                axes.text(middle, top + height - 0.5 + self.gap / 3, text, va="top", **style)
        grey = colormaps["gray"].with_extremes(bad="white")
        image = np.ma.masked_invalid(canvas)
        axes.imshow(image, cmap=grey, vmin=0, vmax=1, interpolation="nearest", aspect="equal")
        axes.set_axis_off()

    def _scaled(self, tile: np.ndarray) -> np.ndarray:
        down, across = self.steps
        if self.steps != (1, 1):
            rows, columns = tile.shape[0] // down, tile.shape[1] // across
            tile = tile[: rows * down, : columns * across]
            tile = tile.reshape(rows, down, columns, across).mean(axis=(1, 3))
        return tile.repeat(self.repeat, axis=0).repeat(self.repeat, axis=1)


def _profiles(
    rows: np.ndarray,
    lines: np.ndarray | None,
    titles: Sequence[str],
    heading: str,
    axes: Axes | None,
) -> Axes:
    """Draw rows as profiles one above the other, `lines` over them; the first is on top."""
    if len(rows) > _PROFILE_ROWS:
        heading = f"{heading}, the first {_PROFILE_ROWS}"
        rows, titles = rows[:_PROFILE_ROWS], titles[:_PROFILE_ROWS]
    n, m = rows.shape
    axes = _axes(axes, (8.0, min(14.0, max(2.4, 0.45 * n + 1.0))))
    features = np.arange(m)
    for number, row in enumerate(rows):
        base = float(n - 1 - number)
        top = row.max() if row.max() > 0 else 1.0
        values = base + 0.85 * row / top
        colour = BLUE if lines is None else FAINT
        axes.axhline(base, color="#E5E5E5", linewidth=0.8, zorder=1)
        if m <= _STEMS:
            axes.vlines(features, base, values, color=colour, linewidth=1.4, zorder=2)
            axes.plot(features, values, ".", color=colour, markersize=4, zorder=3)
        else:
            axes.fill_between(features, base, values, color=colour, alpha=0.25, lw=0, zorder=2)
            if lines is None:
                axes.plot(features, values, color=colour, linewidth=1.0, zorder=3)
        if lines is not None:
            shown = base + 0.85 * np.clip(lines[number] / top, 0, 1.1)
            axes.plot(features, shown, color=BLUE, linewidth=1.2, zorder=3)
    axes.set_ylim(-0.3, n)
    axes.set_xlim(-0.5, m - 0.5)
    axes.set_yticks(np.arange(n)[::-1], [_fit(title, 8, 1.2) for title in titles])
    axes.set_xlabel("feature", color=INK)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _heading(axes, heading)
    return axes


def _iterations_on_top(axes: Axes, seconds: np.ndarray) -> None:
    """Label the top edge with iteration numbers, each where it ended in time."""
    from matplotlib.ticker import MaxNLocator

    n = len(seconds)
    ticks = MaxNLocator(nbins=6, integer=True, min_n_ticks=1).tick_values(1, n)
    wanted = sorted({int(tick) for tick in ticks if 1 <= tick <= n} | {n})
    left, right = axes.get_xlim()
    placed: list[tuple[int, float]] = []
    for number in reversed(wanted):  # the last one always; others where they do not run into it
        place = float(seconds[number - 1])
        if not placed or placed[-1][1] - place > 0.07 * (right - left):
            placed.append((number, place))
    top = axes.twiny()
    top.set_xlim(left, right)
    top.set_xticks([place for _, place in placed], [str(number) for number, _ in placed])
    top.set_xlabel("iterations", color=INK)
    top.tick_params(colors=INK, labelsize=9, length=3, color=FAINT)
    for spine in top.spines.values():
        spine.set_visible(False)


def _axes(axes: Axes | None, inches: tuple[float, float]) -> Axes:
    if axes is not None:
        return axes
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'nmfcore[app]'") from error
    figure = Figure(figsize=inches, dpi=150, layout="constrained", facecolor="white")
    return figure.add_subplot()


def _heading(axes: Axes, heading: str) -> None:
    axes.set_title(heading, loc="left", fontsize=11, color=INK, pad=8)


def _matrix(values: Any, shape: tuple[int, int] | None, what: str) -> np.ndarray:
    matrix = np.asarray(values, dtype=float)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{what} must be a matrix with a picture per row, got shape {matrix.shape}")
    if shape is not None and shape[0] * shape[1] != matrix.shape[1]:
        raise ValueError(
            f"a picture of shape {shape} has {shape[0] * shape[1]} pixels, "
            f"but the {what} have {matrix.shape[1]} features"
        )
    return matrix


def _titles(titles: Sequence[str] | None, n: int, default: list[str]) -> list[str]:
    if titles is None:
        return default
    if len(titles) != n:
        raise ValueError(f"expected {n} titles, one per picture, but got {len(titles)}")
    return [str(title) for title in titles]


def _columns(k: int, shape: tuple[int, int]) -> int:
    """Return the number of columns that makes the whole a little wide, with full rows if it can."""
    height, width = shape

    def misfit(columns: int) -> float:
        rows = math.ceil(k / columns)
        empty = rows * columns - k
        ratio = columns * width / (rows * (height + 0.15 * max(shape)))  # with its caption
        return abs(math.log(ratio / 1.2)) + 0.25 * (empty > 0) + 2 * empty / k

    return min(range(1, k + 1), key=misfit)


def _fit(text: str, points: float, inches: float) -> str:
    """Shorten a caption to about the width there is: a letter is half as wide as it is high."""
    room = max(3, int(inches * 72 / (0.55 * points)))
    return text if len(text) <= room else text[: room - 1] + "…"
