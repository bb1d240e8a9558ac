"""What all plots share: colours, a grid of pictures, bands of profiles, and checks of what was given."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._text import printable
from ..backends.cuda import to_host
from ._loading import load_matplotlib
from ._text import drawable, fit, text_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from numpy.typing import ArrayLike

    from .._typing import Matrix

Shape = tuple[int, ...]  # (height, width), or (height, width, 3) in colour

BLUE, ORANGE, INK, FAINT, RULE = "#0072B2", "#D55E00", "#333333", "#999999", "#E5E5E5"
# Okabe and Ito's palette; neighbours in it differ most in lightness, so that they survive a grey printer.
COLOURS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", ORANGE, "#F0E442", "#000000")

PROFILE_ROWS = 60  # profiles drawn at most; more would be a grey smear
CLASSES = 60  # classes drawn at most
TILE_LEAST, TILE_MOST = 96, 256  # pixels of a picture's longer side as drawn
STEMS = 40  # features up to which a profile is drawn as stems
PAGE = 9.0  # inches across of a full plot
HEIGHT = 13.0  # inches down that a plot of many rows is made to keep to


class Grid:
    """Lays tiles out on one image: one imshow draws a hundred pictures as fast as five.

    Parameters
    ----------
    shape : tuple
        Of a picture.
    rows, columns : int
        Of the grid.
    inches : float
        Longer side of a picture on paper.
    lines : int, or a sequence of `rows` int
        Lines of caption over the pictures of a row.
    pairs : bool
        Rows belong together by two: the second has its captions below.
    last : int
        Rows belong together by so many: the last of them has its captions below. 0 stands for none.
    labels : sequence of str
        What is to be written left of rows; room is made for the longest.
    block : int or None
        Columns that have one label; all of them by default.
    """

    def __init__(
        self,
        shape: Shape,
        rows: int,
        columns: int,
        inches: float,
        *,
        lines: int | Sequence[int] = 0,
        pairs: bool = False,
        last: int = 0,
        labels: Sequence[str] = (),
        block: int | None = None,
    ) -> None:
        # Large pictures shrink, so that a hundred of them fit in memory; small ones grow, so that
        # the gaps between them can be fine.
        step = math.ceil(max(shape[:2]) / TILE_MOST)
        self.steps = min(step, shape[0]), min(step, shape[1])
        small = shape[0] // self.steps[0], shape[1] // self.steps[1]
        self.repeat = math.ceil(TILE_LEAST / max(small))
        height, width = small[0] * self.repeat, small[1] * self.repeat
        self.shape, self.rows, self.columns = (height, width), rows, columns
        self.colour = len(shape) == 3
        self.per_inch = max(height, width) / inches  # pixels of the canvas to the inch
        self.size = max(5.5, min(9.0, 9 * inches))  # points of the captions
        self.label_size = max(7.0, min(10.0, 11 * inches))
        self.line = line = round(self.size / 72 * 1.35 * self.per_inch)
        self.gap = max(1, round(0.06 * self.per_inch))
        counts = [lines] * rows if isinstance(lines, int) else list(lines)
        self.tops: list[int] = []
        top = 0
        for row in range(rows):
            together = 2 if pairs else last
            ends = together > 0 and row % together == together - 1
            top += self.gap if ends else self.gap + line * counts[row]
            self.tops.append(top)
            top += height + (line if ends else 0)
        self.height = top + self.gap
        self.block = block or columns
        self.labels = [fit(label, self.label_size, 1.6) for label in labels]
        letters = max(map(len, self.labels), default=0)
        self.margin = round((0.58 * letters * self.label_size / 72 + 0.1) * self.per_inch) if letters else 0
        self.lefts: list[int] = []
        left = 0
        for column in range(columns):
            if column % self.block == 0:
                # Blocks stand apart even where they have no labels to part them.
                left += self.margin + (2 * self.gap if column else 0)
            self.lefts.append(left)
            left += width + self.gap
        self.width = left - self.gap

    def figure_size(self) -> tuple[float, float]:
        """Return inches across and down, with room for a heading."""
        return max(3.6, self.width / self.per_inch + 0.1), self.height / self.per_inch + 0.4

    def draw(
        self,
        axes: Axes,
        tiles: np.ndarray,
        captions: Sequence[str] = (),
        below: Sequence[str] = (),
        marked: Sequence[int] = (),
        cmap: str | Colormap | None = None,
    ) -> None:
        """Draw tiles, n × shape between 0 and 1, white where they are NaN; a frame around those marked.

        The colour map is of matplotlib; grey by default, and without effect on pictures in colour.
        """
        from matplotlib import colormaps
        from matplotlib.patches import Rectangle

        height, width = self.shape
        canvas = (
            np.zeros((self.height, self.width, 4), np.uint8)
            if self.colour
            else np.full((self.height, self.width), np.nan)
        )
        style: dict[str, Any] = {"ha": "center", "color": INK, "fontsize": self.size}
        for number, tile in enumerate(tiles):
            row, column = divmod(number, self.columns)
            top, left = self.tops[row], self.lefts[column]
            place = canvas[top : top + height, left : left + width]
            if not self.colour:
                place[:] = self._scaled(tile)
            else:
                scaled = self._scaled(tile)
                there = ~np.isnan(scaled).any(axis=2, keepdims=True)
                place[..., :3] = np.rint(255 * np.where(there, scaled, 0))
                place[..., 3:] = 255 * there
            middle = left + (width - 1) / 2
            if number < len(captions) and captions[number]:
                lines = captions[number].split("\n")
                for line, text in enumerate(lines, 1 - len(lines)):
                    text = fit(text, self.size, (width + self.gap) / self.per_inch)
                    # On the baseline, so that captions side by side are level whatever their letters.
                    y = top - 0.5 - self.gap / 3 + (line - 0.2) * self.line
                    axes.text(middle, y, text, va="baseline", **style, **text_style(text))
            if number < len(below) and below[number]:
                text = drawable(below[number])
                axes.text(middle, top + height - 0.5 + self.gap / 3, text, va="top", **style, **text_style(text))
            if number in marked:
                corner = left - 0.5, top - 0.5
                axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=ORANGE, linewidth=1.8))
        scale = colormaps.get_cmap("gray" if cmap is None else cmap).with_extremes(bad="white")
        image = canvas if self.colour else np.ma.masked_invalid(canvas)
        axes.imshow(image, cmap=scale, vmin=0, vmax=1, interpolation="nearest", aspect="equal")
        axes.set_axis_off()

    def label(self, axes: Axes, number: int, row: int, column: int = 0, rows: int = 1) -> None:
        """Write label `number` left of a row, or of several from that one on."""
        bottom = self.tops[row + rows - 1] + self.shape[0]
        x, y = self.lefts[column] - 1.2 * self.gap, (self.tops[row] + bottom - 1) / 2
        text = self.labels[number]
        axes.text(x, y, text, ha="right", va="center", color=INK, fontsize=self.label_size, **text_style(text))

    def _scaled(self, tile: np.ndarray) -> np.ndarray:
        down, across = self.steps
        if self.steps != (1, 1):
            rows, columns = tile.shape[0] // down, tile.shape[1] // across
            tile = tile[: rows * down, : columns * across]
            tile = tile.reshape(rows, down, columns, across, *tile.shape[2:]).mean(axis=(1, 3))
        return tile.repeat(self.repeat, axis=0).repeat(self.repeat, axis=1)


def profiles(
    rows: np.ndarray,
    lines: np.ndarray | None,
    titles: Sequence[str],
    heading: str,
    axes: Axes | None,
) -> Axes:
    """Draw rows as profiles one above the other, `lines` over them; the first is on top."""
    if len(rows) > PROFILE_ROWS:
        heading = f"{heading}, the first {PROFILE_ROWS}"
        rows, titles = rows[:PROFILE_ROWS], titles[:PROFILE_ROWS]
    n, m = rows.shape
    axes = bands(axes, titles, m, heading)
    features = np.arange(m)
    for number, row in enumerate(rows):
        base = float(n - 1 - number)
        top = row.max() if row.max() > 0 else 1.0
        values = base + 0.85 * row / top
        colour = BLUE if lines is None else FAINT
        if m <= STEMS:
            axes.vlines(features, base, values, color=colour, linewidth=1.4, zorder=2)
            axes.plot(features, values, ".", color=colour, markersize=4, zorder=3)
        else:
            axes.fill_between(features, base, values, color=colour, alpha=0.25, lw=0, zorder=2)
            if lines is None:
                axes.plot(features, values, color=colour, linewidth=1.0, zorder=3)
        if lines is not None:
            shown = base + 0.85 * np.clip(lines[number] / top, 0, 1.1)
            axes.plot(features, shown, color=BLUE, linewidth=1.2, zorder=3)
    return axes


def bands(axes: Axes | None, titles: Sequence[str], across: int, heading: str, what: str = "feature") -> Axes:
    """Prepare bands of height 1, the first on top, over `across` positions from 0 on."""
    n = len(titles)
    axes = new_axes(axes, (8.0, min(14.0, max(2.4, 0.45 * n + 1.0))))
    for base in range(n):
        axes.axhline(base, color=RULE, linewidth=0.8, zorder=1)
    axes.set_ylim(-0.3, n)
    axes.set_xlim(-0.5, across - 0.5)
    label_rows(axes, np.arange(n)[::-1], titles, 2.0)
    axes.set_xlabel(what, color=INK)
    bare(axes)
    write_heading(axes, heading)
    return axes


def bare(axes: Axes) -> None:
    """Leave numbers and names along the edges, and nothing else."""
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def number_components(axes: Axes, k: int) -> None:
    """Write component numbers along the bottom, all of them if there is room."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.6, k - 0.4)
    if k <= 30:
        axes.set_xticks(range(k))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(20, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("component", color=INK)


def new_axes(axes: Axes | None, inches: tuple[float, float]) -> Axes:
    """Return the axes given, or those of a new figure."""
    if axes is not None:
        return axes
    load_matplotlib()
    from ._figures import ShownAxes, ShownFigure

    figure = ShownFigure(figsize=inches, dpi=150, layout="constrained", facecolor="white")
    return figure.add_subplot(axes_class=ShownAxes)


def write_heading(axes: Axes, heading: str) -> None:
    """Write the title of the whole, at the left."""
    heading = drawable(heading)
    axes.set_title(heading, loc="left", fontsize=11, color=INK, pad=8, **text_style(heading))


def class_names(classes: Iterable[object]) -> list[str]:
    """Return what classes are called in a figure; a number alone could be taken for that of a component."""
    names = [printable(str(one)) for one in classes]
    return [f"class {name}" if re.fullmatch(r"-?\d+(\.\d+)?", name) else name or "no label" for name in names]


def palette(n: int) -> np.ndarray:
    """Return n colours, n × 3: those of the palette, then hues between them, in turn light and dark."""
    from matplotlib.colors import hsv_to_rgb, to_rgb

    named = [to_rgb(colour) for colour in COLOURS[:n]]
    more = [hsv_to_rgb(((0.08 + 0.618034 * i) % 1, 0.9, 0.6 + 0.35 * (i % 2))) for i in range(n - len(named))]
    return np.array([*named, *more])


def label_rows(axes: Axes, places: ArrayLike, labels: Iterable[object], inches: float) -> None:
    """Write labels along the left edge, shortened to the room there is."""
    texts = [fit(str(label), 8, inches) for label in labels]
    axes.set_yticks(places, texts, **text_style(*texts))


def add_legend(axes: Axes, **settings: Any) -> None:
    """Add a legend at the right, outside of the axes."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    legend = axes.legend(**(place | {"frameon": False, "labelcolor": INK, "fontsize": 9} | settings))
    for text in legend.get_texts():
        text.set(**text_style(text.get_text()))


def as_matrix(values: ArrayLike, shape: Shape | None, what: str) -> np.ndarray:
    """Return values as a matrix of float64 whose rows fold to the shape."""
    matrix = np.asarray(to_host(values), dtype=float)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{what} must be a matrix with a picture per row, got shape {matrix.shape}")
    check_shape(shape, matrix.shape[1], what)
    return matrix


def check_shape(shape: Shape | None, features: int, what: str) -> None:
    """Raise unless a row folds to the shape."""
    if shape is None:
        return
    if len(shape) not in (2, 3) or tuple(shape[2:]) not in ((), (3,)):
        raise ValueError(f"shape must be (height, width) or (height, width, 3), got {tuple(shape)}")
    if math.prod(shape) != features:
        raise ValueError(
            f"a picture of shape {tuple(shape)} has {math.prod(shape)} pixels, but the {what} have {features} features"
        )


def rows_of(X: Matrix, rows: np.ndarray) -> np.ndarray:
    """Return some rows of whatever X is stored as, dense and in float64."""
    wanted, where = np.unique(rows, return_inverse=True)  # files want increasing numbers
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    taken = X.iloc[wanted] if hasattr(X, "iloc") else X[wanted]
    if hasattr(taken, "toarray"):
        taken = taken.toarray()
    return np.asarray(to_host(taken), dtype=float)[where.reshape(-1)]


def on_common_scale(pictures: np.ndarray, top: float) -> np.ndarray:
    """Return pictures between 0 and 1, from 0 to `top`."""
    return np.clip(pictures / (top if top > 0 else 1.0), 0, 1)


def on_own_scale(pictures: np.ndarray) -> np.ndarray:
    """Return pictures between 0 and 1, each from 0 to its brightest pixel but for half a percent of them."""
    top = np.quantile(pictures, 0.995, axis=1)
    top = np.where(top > 0, top, pictures.max(axis=1))
    return np.clip(pictures / np.where(top > 0, top, 1)[:, None], 0, 1)


def in_lines(captions: Sequence[str]) -> tuple[list[str], int]:
    """Return captions of pictures with the number of a row on a line of its own, above its name, and how many lines.

    `nmfcore._text.row_name` writes both side by side, which is wider than most pictures.
    """
    broken = [re.sub(r"^(row \d+), ", r"\1\n", caption) for caption in captions]
    return broken, max((caption.count("\n") + 1 for caption in broken), default=1)


def as_titles(titles: Sequence[str] | None, n: int, default: list[str]) -> list[str]:
    """Return n titles as text."""
    if titles is None:
        return default
    if len(titles) != n:
        raise ValueError(f"expected {n} titles, one per picture, but got {len(titles)}")
    return [printable(str(title)) for title in titles]


def suitable_columns(k: int, shape: Shape) -> int:
    """Return the number of columns that makes the whole a little wide, with full rows if it can."""
    height, width = shape[:2]

    def misfit(columns: int) -> float:
        rows = math.ceil(k / columns)
        empty = rows * columns - k
        ratio = columns * width / (rows * (height + 0.15 * max(height, width)))  # with its caption
        return abs(math.log(ratio / 1.2)) + 0.25 * (empty > 0) + 2 * empty / k

    return min(range(1, k + 1), key=misfit)


def short(number: float) -> str:
    """Write a number with three digits, and without an exponent where people do."""
    return f"{number:,.0f}" if 100 <= abs(number) < 1e7 else f"{number:.3g}"


def percent(share: float) -> str:
    """Write a share in percent, with two digits; from 1,000 % on as a multiple."""
    if share >= 9.995:
        return f"{share:,.0f} times"
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.0995 else f"{100 * share:.1f} %"
