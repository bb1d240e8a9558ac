"""Plots show the right numbers in the right places; how they look, people have checked."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("matplotlib", reason="plots need the extra 'app'")
import matplotlib.cbook
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from nmfcore import analysis, plots
from nmfcore.plots import (
    _shared,
    best_and_worst,
    components_by_class,
    components_grid,
    convergence,
    error_against_k,
    features_by_class,
    loss_against_k,
    means_by_class,
    neighbours,
    overlay,
    rebuilt_by_class,
    reconstructions,
    sample_features,
    samples_by_class,
    samples_by_cluster,
)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def tiles(axes, shape):
    """Cut the drawn canvas into the pictures on it, left to right and top to bottom."""
    canvas = axes.images[0].get_array()
    if canvas.ndim == 3:  # in colour: red, green, blue, and 255 where there is a picture
        drawn, canvas = canvas[..., 3] > 0, canvas[..., :3] / 255
    else:
        drawn = ~np.ma.getmaskarray(canvas)
    found = []
    rows = np.flatnonzero(np.diff(drawn.any(axis=1).astype(int), prepend=0, append=0))
    for top, bottom in rows.reshape(-1, 2):
        band = drawn[top:bottom].any(axis=0).astype(int)
        columns = np.flatnonzero(np.diff(band, prepend=0, append=0))
        for left, right in columns.reshape(-1, 2):
            tile = np.asarray(canvas[top:bottom, left:right])
            scale = tile.shape[0] // shape[0]
            assert tile.shape == (shape[0] * scale, shape[1] * scale, *shape[2:])
            found.append(tile[::scale, ::scale])
    return np.array(found)


class Drawn:
    """Factors, data and classes to draw."""

    def __init__(self, k, c, shape, n=60):
        rng = np.random.default_rng(k + c)
        self.k, self.shape = k, shape
        m = 12 if shape is None else int(np.prod(shape))
        self.H = rng.random((k, m)) * (rng.random((k, m)) < 0.4)
        self.W = rng.gamma(0.6, 300, (n, k))
        self.X = np.rint(self.W @ self.H * rng.uniform(0.8, 1.2, (n, m)))
        self.labels = np.array(["class " + chr(65 + i) for i in range(c)])[np.arange(n) % c]
        self.names = [f"picture-{i}.jpeg" for i in range(n)]


DRAWS = {
    "components": lambda d, axes=None: components_grid(d.H, d.shape, axes=axes),
    "reconstructions": lambda d, axes=None: reconstructions(d.X[:12], d.W[:12] @ d.H, d.shape, d.names[:12], axes=axes),
    "best and worst": lambda d, axes=None: best_and_worst(d.X, d.W, d.H, d.shape, d.names, axes=axes),
    "neighbours": lambda d, axes=None: neighbours(
        d.X[:9], d.W[:9] @ d.H, d.shape, d.names[:9], np.linspace(1, 0.9, 8), axes=axes
    ),
    "one sample": lambda d, axes=None: sample_features(d.W[0], d.H, d.shape, picture=d.X[0], axes=axes),
    "overlay": lambda d, axes=None: overlay(d.H, d.shape, range(min(d.k, 8)), axes=axes),
    "samples": lambda d, axes=None: samples_by_class(d.X, d.labels, d.shape, axes=axes),
    "clusters": lambda d, axes=None: samples_by_cluster(d.X, d.W, d.labels, d.shape, axes=axes),
    "boxes": lambda d, axes=None: features_by_class(d.W, d.labels, d.H, axes=axes),
    "means": lambda d, axes=None: means_by_class(d.W, d.labels, d.H, axes=axes),
    "of classes": lambda d, axes=None: components_by_class(d.W, d.H, d.labels, d.shape, axes=axes),
    "rebuilt": lambda d, axes=None: rebuilt_by_class(d.W, d.H, d.labels, d.shape, axes=axes),
}


def test_every_plot_is_drawn_here():
    assert len(DRAWS) + len(["convergence", "error_against_k", "loss_against_k", "inpainting"]) == len(plots.__all__)


@pytest.fixture
def parts():
    parts = np.random.default_rng(0).random((7, 12)) + 0.1
    parts[2] = 0
    return parts


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_every_component_is_drawn_on_its_own_scale(parts, k):
    parts = parts[:k] * np.geomspace(1e-6, 1e6, k)[:, None]
    axes = components_grid(parts, (3, 4))
    drawn = tiles(axes, (3, 4))
    assert drawn.shape == (k, 3, 4)
    top = np.quantile(parts, 0.995, axis=1, keepdims=True)
    expected = np.clip(parts / np.where(top > 0, top, 1), 0, 1).reshape(k, 3, 4)
    np.testing.assert_allclose(drawn, expected)
    assert texts(axes) == [str(number) for number in range(k)]
    assert axes.get_title(loc="left") == ("1 component" if k == 1 else f"{k} components")
    assert axes.images[0].get_clim() == (0, 1)
    assert not axes.axison


def test_shares_put_the_largest_parts_first():
    parts = np.eye(12)[:4]
    axes = components_grid(parts, (3, 4), shares=[0.1, 0.6, 0.0004, 0.25])
    assert texts(axes)[:4] == ["1 (60.0 %)", "3 (25.0 %)", "0 (10.0 %)", "2 (below 0.1 %)"]
    np.testing.assert_array_equal(tiles(axes, (3, 4)).reshape(4, 12), parts[[1, 3, 0, 2]])
    named = components_grid(parts, (3, 4), titles=list("abcd"), shares=[0.1, 0.6, 0.0, 0.25])
    assert texts(named)[:4] == ["b", "d", "a", "c"]
    many = components_grid(np.ones((60, 12)), (3, 4), shares=np.full(60, 0.01))
    assert {"59", "(1.0 %)"} <= set(texts(many))  # on two lines
    profiles = components_grid(parts, shares=[0.1, 0.6, 0.0, 0.25])
    assert profiles.get_yticklabels()[0].get_text() == "1 (60.0 %)"
    with pytest.raises(ValueError, match="a share for each of 4 components"):
        components_grid(parts, (3, 4), shares=[1.0])


def test_one_hot_pixel_does_not_hide_a_part():
    part = np.full((1, 1024), 0.5)
    part[0, 7] = 1000
    drawn = tiles(components_grid(part, (32, 32)), (32, 32))
    assert drawn.min() == 1
    lone = np.zeros((1, 1024))
    lone[0, 7] = 3
    drawn = tiles(components_grid(lone, (32, 32)), (32, 32))[0]
    assert drawn.ravel()[7] == 1
    assert drawn.sum() == 1


@pytest.mark.parametrize(("k", "columns"), [(1, 1), (4, 2), (5, 3), (16, 4), (50, 10), (100, 10)])
def test_the_grid_suits_a_page(k, columns):
    assert _shared.suitable_columns(k, (64, 64)) == columns


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (112, 92), (16, 64), (600, 400), (1, 5000)])
def test_figures_keep_to_a_readable_size(k, shape):
    figure = components_grid(np.ones((k, shape[0] * shape[1])), shape).figure
    width, height = figure.get_size_inches()
    assert 3 <= width <= 10
    assert 0.4 <= height <= 16
    canvas = figure.axes[0].images[0].get_array()
    assert canvas.size < 12e6


def test_large_pictures_are_averaged():
    picture = np.zeros((600, 400))
    picture[300:] = 1
    axes = components_grid(picture.reshape(1, -1), (600, 400))
    drawn = tiles(axes, (200, 133))
    assert drawn.shape == (1, 200, 133)
    assert (drawn[0, :100] == 0).all()
    assert (drawn[0, 100:] == 1).all()


def test_titles_and_heading(parts):
    axes = components_grid(parts[:2], (3, 4), titles=["nose", "a very long title indeed, too long"], heading="Cats")
    assert texts(axes)[0] == "nose"
    assert texts(axes)[1].startswith("a very long")
    assert texts(axes)[1].endswith("…")
    assert axes.get_title(loc="left") == "Cats"
    with pytest.raises(ValueError, match="expected 7 titles, one per picture, but got 1"):
        components_grid(parts, (3, 4), titles=["nose"])


@pytest.mark.parametrize("m", [12, 200])
def test_without_a_shape_components_are_profiles(m):
    parts = np.random.default_rng(0).random((3, m))
    axes = components_grid(parts)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2"]
    assert not axes.images
    curves = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == m]
    assert len(curves) == 3
    for curve, part, base in zip(curves, parts, (2, 1, 0), strict=True):
        np.testing.assert_allclose((curve - base) / 0.85, part / part.max())


def test_many_profiles_are_cut_and_said_to_be():
    axes = components_grid(np.ones((100, 50)))
    assert len(axes.get_yticks()) == _shared.PROFILE_ROWS
    assert axes.get_title(loc="left") == "100 components, the first 60"


def test_originals_stand_over_their_reconstructions():
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 200, (5, 12)).astype(np.uint8)
    reconstructed = originals * 0.5 + 10
    names = [f"{n}.jpg" for n in range(5)]
    axes = reconstructions(originals, reconstructed, (3, 4), names, columns=3)
    drawn = tiles(axes, (3, 4))
    expected = []
    for rows in (slice(0, 3), slice(3, 5)):  # the figure has one scale
        for values in (originals[rows], reconstructed[rows]):
            expected += list(np.clip(values / originals.max(), 0, 1).reshape(-1, 3, 4))
    np.testing.assert_allclose(drawn, expected)
    error = np.linalg.norm(originals - reconstructed, axis=1) / np.linalg.norm(originals.astype(float), axis=1)
    rows = ["original", "reconstruction"] * 2
    assert sorted(texts(axes)) == sorted([*names, *(f"{100 * e:.0f} %" for e in error), *rows])
    place = {text.get_text(): text.get_position() for text in axes.texts}
    assert place["0.jpg"][1] < place["3.jpg"][1]
    assert place["0.jpg"][0] == place["3.jpg"][0] < place["1.jpg"][0]


def test_black_pictures():
    axes = reconstructions(np.zeros((2, 12)), np.zeros((2, 12)), (3, 4))
    assert (tiles(axes, (3, 4)) == 0).all()
    assert texts(axes) == ["0 %", "0 %", "original", "reconstruction"]


def test_profiles_of_originals_and_reconstructions():
    originals = np.ones((3, 50))
    axes = reconstructions(originals, originals * 0.75, names=["a", "b", "c"])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["a  25 %", "b  25 %", "c  25 %"]
    curves = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 50]
    for curve, base in zip(curves, (2, 1, 0), strict=True):
        np.testing.assert_allclose(curve, base + 0.85 * 0.75)


def test_convergence_shows_the_relative_error_and_iterations():
    seconds = np.linspace(0.1, 5, 50)
    history = {"loss": 8 * np.exp(-seconds / 5), "seconds": seconds}
    axes = convergence(history, norm=4.0)
    line = axes.lines[0]
    np.testing.assert_array_equal(line.get_xdata(), seconds)
    np.testing.assert_allclose(line.get_ydata(), np.sqrt(2 * history["loss"]) / 4)
    assert axes.get_ylabel() == "relative error"
    assert axes.get_yscale() == "linear"
    assert texts(axes) == [f"{line.get_ydata()[-1]:.4g}"]
    (top,) = (other for other in axes.figure.axes if other is not axes)
    assert top.get_xlim() == axes.get_xlim()
    for tick, label in zip(top.get_xticks(), top.get_xticklabels(), strict=True):
        assert tick == seconds[int(label.get_text()) - 1]
    assert "50" in [label.get_text() for label in top.get_xticklabels()]


def test_convergence_shows_the_iterations_where_what_was_before_took_longest():
    axes = convergence({"loss": [3.0, 2.0, 1.0], "seconds": [6.0, 6.5, 7.0], "accepted": [True, False, True]})
    assert axes.get_xlim() == (0, pytest.approx(1.02))
    assert [line.get_xdata().tolist() for line in axes.lines[:2]] == [[0, 1], [0.5]]
    assert axes.get_xlabel() == "seconds since the first iteration ended, 6 s after the call"
    assert convergence({"loss": [3.0, 2.0, 1.0], "seconds": [3.0, 3.5, 4.0]}).get_xlabel() == "seconds"
    assert convergence({"loss": [1.0], "seconds": [6.0]}).get_xlabel() == "seconds"


def test_convergence_of_a_loss_over_decades_is_logarithmic():
    axes = convergence({"loss": [1000.0, 10.0, 1.0], "seconds": [1, 2, 3]})
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "loss"


def test_convergence_bridges_what_was_not_recorded():
    loss = [np.nan, 4.0, np.nan, 3.0, np.nan]
    axes = convergence({"loss": loss, "seconds": [1, 2, 3, 4, 5]})
    assert axes.lines[0].get_xdata().tolist() == [2, 4]
    assert axes.lines[0].get_ydata().tolist() == [4, 3]


def test_convergence_marks_what_was_rejected():
    seconds = np.arange(1, 8) / 2
    loss = [8.0, 4.0, 5.0, 3.0, np.inf, np.nan, 2.9]
    accepted = np.array([1, 1, 0, 1, 0, 0, 1], bool)
    plain = convergence({"loss": np.array(loss)[accepted], "seconds": seconds[accepted]})
    axes = convergence({"loss": loss, "seconds": seconds, "accepted": accepted})
    assert axes.lines[0].get_xdata().tolist() == seconds[accepted].tolist()
    assert axes.lines[0].get_ydata().tolist() == [8.0, 4.0, 3.0, 2.9]
    assert (axes.get_xlim(), axes.get_ylim()) == (plain.get_xlim(), plain.get_ylim()), "the scale is the curve's"
    crosses = axes.lines[1]
    assert crosses.get_marker() == "x" and crosses.get_xdata().tolist() == [1.5, 2.5, 3.0]
    np.testing.assert_array_equal(crosses.get_ydata(), [5.0, axes.get_ylim()[1], np.nan])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["rejected"]
    assert plain.get_legend() is None
    (top,) = (other for other in axes.figure.axes if other is not axes)
    assert top.get_xticklabels()[0].get_text() == "7", "rejected ones are counted"
    with pytest.raises(ValueError, match="accepted"):
        convergence({"loss": loss, "seconds": seconds, "accepted": accepted[:3]})


@pytest.mark.parametrize("loss", [[], [np.nan, np.nan]])
def test_convergence_without_anything_to_show(loss):
    axes = convergence({"loss": loss, "seconds": np.arange(len(loss))})
    assert texts(axes) == ["no loss was recorded"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: components_grid(np.ones((3, 12)), (5, 5)),
            "25 pixels, but the components have 12",
        ),
        (lambda: components_grid(np.ones(12), (3, 4)), "must be a matrix"),
        (lambda: components_grid(np.ones((0, 12)), (3, 4)), "must be a matrix"),
        (lambda: reconstructions(np.ones((3, 12)), np.ones((2, 12))), "must have the same shape"),
        (lambda: reconstructions(np.ones((3, 12)), np.ones((3, 12)), None, ["a"]), "expected 3"),
        (lambda: convergence({"loss": [1.0]}), "needs 'loss' and 'seconds'"),
        (lambda: convergence({"loss": [1.0], "seconds": [1, 2]}), "as long as each other"),
    ],
)
def test_what_does_not_fit_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


@pytest.mark.parametrize(
    "draw",
    [
        lambda axes: components_grid(np.eye(12), (3, 4), axes=axes),
        lambda axes: components_grid(np.eye(12), axes=axes),
        lambda axes: reconstructions(np.eye(12), np.eye(12), (3, 4), axes=axes),
        lambda axes: convergence({"loss": [2.0, 1.0], "seconds": [1, 2]}, axes=axes),
        lambda axes: error_against_k([1, 2], [0.5, 0.4], axes=axes),
        *(
            lambda axes, draw=draw, shape=shape: draw(Drawn(4, 3, shape), axes)
            for draw in DRAWS.values()
            for shape in ((3, 4), (2, 2, 3), None)
        ),
    ],
)
def test_given_axes_are_used_and_every_plot_can_be_written(draw, tmp_path):
    own = Figure().add_subplot()
    assert draw(own) is own
    axes = draw(None)
    assert isinstance(axes, Axes)
    axes.figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_no_global_state_is_touched():
    code = (
        "import sys, matplotlib, numpy as np\n"
        "before = list(dict.items(matplotlib.rcParams))\n"
        "from nmfcore.plots import *\n"
        "components_grid(np.eye(4), (2, 2))\n"
        "means_by_class(np.eye(4), list('abcd'))\n"
        "sample_features(np.ones(4), np.eye(4), (2, 2))\n"
        "overlay(np.eye(4), (2, 2))\n"
        "features_by_class(np.eye(4), list('aabb'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert list(dict.items(matplotlib.rcParams)) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------------------------------
# notebooks, colour maps, text


@pytest.mark.parametrize("name", DRAWS)
def test_a_notebook_shows_a_plot_that_ends_a_cell(name):
    axes = DRAWS[name](Drawn(4, 3, (3, 4)))
    for shown in (axes, axes.figure):  # IPython calls the method where an object has it
        assert shown._repr_png_().startswith(b"\x89PNG")


def test_axes_of_pyplot_are_left_to_pyplot():
    own = Figure().add_subplot()
    assert not hasattr(components_grid(np.eye(12), (3, 4), axes=own), "_repr_png_")


@pytest.mark.parametrize("draw", [
    lambda d, cmap: components_grid(d.H, d.shape, cmap=cmap),
    lambda d, cmap: reconstructions(d.X[:4], d.W[:4] @ d.H, d.shape, cmap=cmap),
    lambda d, cmap: best_and_worst(d.X, d.W, d.H, d.shape, cmap=cmap),
    lambda d, cmap: neighbours(d.X[:4], d.W[:4] @ d.H, d.shape, cmap=cmap),
    lambda d, cmap: sample_features(d.W[0], d.H, d.shape, picture=d.X[0], cmap=cmap).child_axes[0],
    lambda d, cmap: samples_by_class(d.X, d.labels, d.shape, cmap=cmap),
    lambda d, cmap: samples_by_cluster(d.X, d.W, d.labels, d.shape, cmap=cmap),
    lambda d, cmap: components_by_class(d.W, d.H, d.labels, d.shape, cmap=cmap),
    lambda d, cmap: rebuilt_by_class(d.W, d.H, d.labels, d.shape, cmap=cmap),
    lambda d, cmap: means_by_class(d.W, d.labels, cmap=cmap),
])  # fmt: skip
def test_every_picture_takes_a_colour_map(draw):
    d = Drawn(4, 3, (3, 4))
    assert draw(d, "magma").images[0].get_cmap().name == "magma"
    assert draw(d, None).images[0].get_cmap().name in ("gray", "viridis")
    assert draw(d, matplotlib.colormaps["Blues"]).images[0].get_cmap().name == "Blues"


ODD = ["$_$", r"\frac{1}$x$", "猫の写真", "\udce9.png", "two\nlines", "\x1b[31m", "קטן", "e\u0301", "🐈", "$" * 40]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("shape", [(3, 4), None])
def test_names_of_every_kind_are_drawn(name, shape, tmp_path):
    """Warnings are errors here: that no glyph is missing, and that nothing is taken for mathematics."""
    d = Drawn(4, 10, shape)
    d.names = [f"{ODD[i % 10]}{i}" for i in range(60)]
    d.labels = np.array(ODD)[np.arange(60) % 10]
    axes = DRAWS[name](d)
    axes.set_title(axes.get_title(loc="left"), loc="left", parse_math=False)
    FigureCanvasAgg(axes.figure).draw()
    if name == "reconstructions":
        for kind in ("pdf", "svg"):
            axes.figure.savefig(tmp_path / f"plot.{kind}")


def test_headings_and_legends_of_every_kind_are_drawn(tmp_path):
    for odd in ODD:
        axes = overlay(np.eye(12), (3, 4), titles=[odd] * 12, heading=odd)
        axes.figure.savefig(tmp_path / "plot.png")
    axes = components_grid(np.eye(2, 12), (3, 4), titles=["猫", "$_$"], heading="cost in $ and $")
    assert axes.get_title(loc="left") == "cost in $ and $"
    assert texts(axes)[1] == "$_$"
    assert len(texts(axes)[0]) == 1  # the letter, or a box where no font has it


def test_a_font_that_has_the_letters_is_used(monkeypatch):
    from nmfcore.plots import _text

    serif = font_manager.findfont("DejaVu Serif")
    own = _text._default_letters()
    monkeypatch.setattr(_text, "_letters_of", lambda path: own | {0x732B} if path == serif else own)
    monkeypatch.setattr(_text, "_installed_fallbacks", lambda: (("DejaVu Serif", serif),))
    assert _text.drawable("a猫犬") == "a猫□"
    assert _text.text_style("a猫")["fontfamily"][-1] == "DejaVu Serif"
    assert "fontfamily" not in _text.text_style("aé")


@pytest.mark.parametrize("backend", ["no_such_backend", "module://no.such.backend", "agg", "svg", ""])
def test_any_backend_may_be_named_in_the_environment(backend):
    code = (
        "import os\n"
        "from nmfcore.plots import components_grid, features_by_class, overlay\n"
        "features_by_class([[1, 2], [0, 5]], [0, 1]).figure.canvas\n"
        "overlay([[1, 2], [0, 5]], (1, 2)).figure.savefig(os.devnull, format='png')\n"
        f"assert os.environ['MPLBACKEND'] == {backend!r}\n"
        "import matplotlib\n"
        f"assert {backend!r} not in ('agg', 'svg') or matplotlib.get_backend() == {backend!r}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": backend})


def test_an_overlay_of_many_marks_each_where_it_is_strongest():
    axes = overlay(np.eye(12), (3, 4))
    assert texts(axes) == [str(t) for t in range(12)]
    assert [tuple(map(int, text.get_position())) for text in axes.texts] == [(t % 4, t // 4) for t in range(12)]
    pixels = axes.images[0].get_array().reshape(12, 3)
    assert len(np.unique(pixels.round(3), axis=0)) == 12
    assert not texts(overlay(np.eye(8), (2, 4)))
    assert len(overlay(np.ones((60, 4)), (2, 2)).get_legend().get_texts()) == 60


def test_convergence_counts_the_iterations_it_is_told():
    axes = convergence({"loss": [3.0, 2, 1], "seconds": [1, 2, 3]}, n_iter=5)
    (top,) = (other for other in axes.figure.axes if other is not axes)
    labels = dict(zip([label.get_text() for label in top.get_xticklabels()], top.get_xticks(), strict=True))
    assert labels["5"] == 3
    assert labels["1"] == 1


# --------------------------------------------------------------------------------------------------
# colour


def test_components_in_colour_keep_their_hue():
    parts = np.random.default_rng(0).random((7, 36)) * np.geomspace(1e-3, 1e3, 7)[:, None]
    drawn = tiles(components_grid(parts, (3, 4, 3)), (3, 4, 3))
    top = np.quantile(parts, 0.995, axis=1, keepdims=True)
    np.testing.assert_allclose(drawn, np.clip(parts / top, 0, 1).reshape(7, 3, 4, 3), atol=0.5 / 255)


def test_pairs_in_colour():
    originals = np.random.default_rng(0).integers(0, 256, (3, 36)).astype(np.uint8)
    drawn = tiles(reconstructions(originals, originals * 0.5, (3, 4, 3), columns=2), (3, 4, 3))
    scaled = originals.reshape(-1, 3, 4, 3)
    first, last = scaled[:2] / scaled.max(), scaled[2:] / scaled.max()
    np.testing.assert_allclose(drawn, np.concatenate([first, first / 2, last, last / 2]), atol=0.51 / 255)


def test_large_pictures_in_colour_are_averaged():
    picture = np.zeros((600, 400, 3))
    picture[300:, :, 1] = 1
    drawn = tiles(components_grid(picture.reshape(1, -1), (600, 400, 3)), (200, 133, 3))[0]
    assert (drawn[:100] == 0).all()
    assert (drawn[100:, :, 1] == 1).all()
    assert (drawn[..., [0, 2]] == 0).all()


@pytest.mark.parametrize("shape", [(12,), (3, 4, 1), (2, 2, 4), (1, 3, 4, 1)])
def test_shapes_there_are_not(shape):
    with pytest.raises(ValueError, match=r"shape must be \(height, width\) or \(height, width, 3\)"):
        components_grid(np.ones((2, 12)), shape)


# --------------------------------------------------------------------------------------------------
# the grid


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    colour=st.booleans(),
    rows=st.integers(1, 5),
    columns=st.integers(1, 6),
    inches=st.floats(0.2, 1.8),
    lines=st.integers(0, 2),
    pairs=st.booleans(),
    labels=st.booleans(),
    blocks=st.booleans(),
)
@settings(max_examples=60)
def test_tiles_lie_apart_and_captions_beside_them(shape, colour, rows, columns, inches, lines, pairs, labels, blocks):
    block = 2 if blocks and columns % 2 == 0 else None
    names = ["a label"] * rows if labels else []
    shape = (*shape, 3) if colour else shape
    grid = _shared.Grid(shape, rows, columns, inches, lines=lines, pairs=pairs, labels=names, block=block)
    n = rows * columns
    values = np.random.default_rng(0).random((n, *shape))
    axes = Figure().add_subplot()
    caption = "\n".join(["a"] * lines)
    over = ["" if pairs and number // columns % 2 else caption for number in range(n)]
    below = ["b" if pairs and number // columns % 2 else "" for number in range(n)]
    grid.draw(axes, values, over, below)
    for number in range(len(names)):
        grid.label(axes, number, number)
    np.testing.assert_allclose(tiles(axes, shape), values, atol=0.51 / 255)
    canvas = axes.images[0].get_array()
    drawn = canvas[..., 3] > 0 if colour else ~np.ma.getmaskarray(canvas)
    assert len(axes.texts) == sum(map(bool, over)) * lines + sum(map(bool, below)) + len(names)
    for text in axes.texts:
        x, y = text.get_position()
        assert -0.5 <= x <= drawn.shape[1]
        assert -0.5 <= y <= drawn.shape[0]
        tops, bottoms = np.array(grid.tops), np.array(grid.tops) + grid.shape[0]
        inside = (tops - 0.5 < y) & (y < bottoms - 0.5)
        assert inside.any() == (text.get_text() in names)  # labels stand beside their row, captions between rows
        if text.get_text() in names:
            assert not drawn[:, : round(x)].any()


@pytest.mark.parametrize(("k", "c", "shape"), [(5, 3, (8, 8)), (100, 26, (8, 8)), (100, 26, None)])
@pytest.mark.parametrize("name", DRAWS)
def test_nothing_runs_into_anything_or_over_the_edge(name, k, c, shape, monkeypatch):
    figure = DRAWS[name](Drawn(k, c, shape, n=130)).figure
    assert 3 <= figure.get_figwidth() <= 10
    assert 1.5 <= figure.get_figheight() <= 14.5
    written = []
    draw = Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (written.append(text), draw(text, renderer)))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent()) for text in written if text.get_text().strip()]
    assert len(boxes) > 1
    width, height = canvas.get_width_height()
    edge = [(text, box) for text, box in boxes if min(box.x0, box.y0, width - box.x1, height - box.y1) < -2]
    assert edge == []
    crowded = [
        (one, other)
        for i, (one, a) in enumerate(boxes)
        for other, b in boxes[:i]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 2 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
    ]
    assert crowded == []


# --------------------------------------------------------------------------------------------------
# queries, samples and parts


def test_neighbours_stand_behind_the_query():
    originals = np.random.default_rng(0).integers(1, 200, (4, 12))
    axes = neighbours(originals, originals / 2, (3, 4), ["q", "a", "b", "c"], [0.9876, 0.5, -0.25], columns=4)
    scaled = originals.reshape(-1, 3, 4) / originals.max()  # one scale for all
    np.testing.assert_allclose(tiles(axes, (3, 4)), np.concatenate([scaled, scaled / 2]))
    rows = ["original", "reconstruction"]
    assert texts(axes) == ["q", "query", "a", "0.988", "b", "0.500", "c", "-0.250", *rows]
    place = {text.get_text(): text.get_position() for text in axes.texts}
    assert place["q"][1] == place["a"][1] < place["query"][1] == place["0.988"][1]  # the name over the score
    assert place["a"][0] == place["0.988"][0]
    (frame,) = axes.patches
    assert frame.get_x() < place["q"][0] < frame.get_x() + frame.get_width() < place["a"][0]


def test_neighbours_without_names_scores_or_reconstructions():
    originals = np.ones((12, 12))
    axes = neighbours(originals, shape=(3, 4))
    assert tiles(axes, (3, 4)).shape == (12, 3, 4)
    assert texts(axes) == ["query"]
    assert texts(neighbours(originals, shape=(3, 4), scores=np.ones(11))) == ["query"] + ["1.000"] * 11
    titles = [label.get_text() for label in neighbours(originals[:2], names=["a", "b"], scores=[1]).get_yticklabels()]
    assert titles == ["a  query", "b  1.000"]


def test_best_stand_over_worst(rng):
    W, H = rng.random((9, 2)), rng.random((2, 12))
    X = W @ H * rng.uniform(0.5, 1, (9, 12))
    axes = best_and_worst(X, W, H, (3, 4), n=3)
    order = np.argsort(analysis.reconstruction_errors(X, W, H))
    best, worst = order[:3], order[::-1][:3]
    expected = []
    top = X[[*best, *worst]].max()
    for rows in (best, worst):
        expected += [*(X[rows] / top), *np.clip(W[rows] @ H / top, 0, 1)]
    np.testing.assert_allclose(tiles(axes, (3, 4)), np.reshape(expected, (-1, 3, 4)))
    assert [text for text in texts(axes) if text.startswith("row")] == [f"row {row}" for row in (*best, *worst)]
    sides = ["best: original", "reconstruction", "worst: original", "reconstruction"]
    assert texts(axes)[-4:] == sides
    again = best_and_worst(scipy.sparse.csr_matrix(X), W, H, (3, 4), n=3)
    assert texts(again) == texts(axes)
    names = ["$a$", "[b]", "c", "d", "e", "f", "", "row 7, h", "i"]
    given = best_and_worst(X, W, H, (3, 4), names, labels=list("stuvwxyz!"), n=3, errors=np.arange(9) / 100)
    captions = ["row 0", "$a$ (s)", "row 1", "[b] (t)", "row 2", "c (u)", "0 %", "1.0 %", "2.0 %"]
    captions += ["row 8", "i (!)", "row 7", "h (z)", "row 6 (y)", "8.0 %", "7.0 %", "6.0 %"]
    assert texts(given) == [*captions, *sides]
    with pytest.raises(ValueError, match="expected a label for each of the 9 rows"):
        best_and_worst(X, W, H, (3, 4), labels=[1, 2])


def test_best_and_worst_by_absolute_error(rng):
    W, H = rng.random((9, 2)), rng.random((2, 12))
    X = W @ H * rng.uniform(0.5, 1, (9, 12))
    X[4] = 1e-3  # dark, and so badly reconstructed by its own measure
    W[4] = 1
    relative = best_and_worst(X, W, H, (3, 4), n=1)
    assert "row 4" in texts(relative)
    assert [text for text in texts(relative) if text.endswith(" times")]
    errors = np.linalg.norm(X - W @ H, axis=1)
    axes = best_and_worst(X, W, H, (3, 4), n=2, relative=False)
    order = [*np.argsort(errors)[:2], *np.argsort(-errors)[:2]]
    assert [text for text in texts(axes) if text.startswith("row")] == [f"row {row}" for row in order]
    assert [text for text in texts(axes) if text in [_shared.short(errors[row]) for row in order]]
    assert "absolute" in axes.get_title(loc="left")


def test_one_sample(rng):
    H, code = rng.random((5, 12)), np.array([0.0, 3, 0, 1, 2])
    picture = rng.random(12)
    axes = sample_features(code, H, (3, 4), picture=picture, n=2)
    weights = code * np.linalg.norm(H, axis=1)
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], weights)
    strong = np.argsort(-weights)[:2]
    colours = np.array([bar.get_facecolor() for bar in axes.patches])
    assert {tuple(colours[t]) for t in strong} != {tuple(colours[0])}
    (strip,) = axes.child_axes
    assert texts(strip) == ["sample", "rebuilt", *map(str, strong)]
    pair = np.clip(np.stack([picture, code @ H]) / picture.max(), 0, 1)
    parts = np.clip(H[strong] / np.quantile(H[strong], 0.995, axis=1, keepdims=True), 0, 1)
    np.testing.assert_allclose(tiles(strip, (3, 4)), np.concatenate([pair, parts]).reshape(-1, 3, 4))
    assert not sample_features(code, H).child_axes
    assert not sample_features(np.zeros(5), H, (3, 4)).child_axes


def test_overlay_mixes_colours_by_strength():
    H = np.zeros((3, 12))
    H[0, :4], H[1, 3:6], H[2, 7] = 2, 5, 0.5
    axes = overlay(H, (3, 4), titles=["a", "b", "c"])
    pixels = axes.images[0].get_array().reshape(12, 3)
    first, second, third = (np.array(to_rgb(colour)) for colour in _shared.COLOURS[:3])
    np.testing.assert_allclose(pixels[:3], [first] * 3)
    np.testing.assert_allclose(pixels[3], (first + second) / 2)
    np.testing.assert_allclose(pixels[4:6], [second] * 2)
    np.testing.assert_allclose(pixels[[6, 8, 11]], 1)  # white paper
    np.testing.assert_allclose(pixels[7], third)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]
    patches = [patch.get_facecolor()[:3] for patch in axes.get_legend().get_patches()]
    np.testing.assert_allclose(patches, [first, second, third])
    lines = overlay(H, which=[2, 0])
    assert [text.get_text() for text in lines.get_legend().get_texts()] == ["2", "0"]


def test_colours_survive_colour_blindness():
    """Machado, Oliveira and Fernandes (2009), severity 1.0: no two of the palette come closer than ΔE 10."""
    matrices = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    }
    linear = np.array([to_rgb(colour) for colour in _shared.COLOURS])
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    for matrix in (np.eye(3), *map(np.array, matrices.values())):
        xyz = np.clip(linear @ matrix.T, 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
        distance = np.linalg.norm(lab[:, None] - lab, axis=2) + 1000 * np.eye(len(lab))
        assert distance.min() > 10


# --------------------------------------------------------------------------------------------------
# classes


def test_samples_of_classes_are_spread_over_them():
    X = np.arange(1.0, 21)[:, None] * np.ones(12)
    labels = np.array(["b", "a"])[(np.arange(20) >= 15).astype(int)]
    axes = samples_by_class(X, labels, (3, 4), n=4)
    shown = np.rint(tiles(axes, (3, 4))[:, 0, 0] * 20)
    rows = {"a": [16, 17, 19, 20], "b": [1, 6, 10, 15]}  # numbers of the rows, from 1
    assert shown.tolist() == rows["a"] + rows["b"]
    assert texts(axes) == ["a", "b"]
    few = samples_by_class(scipy.sparse.csr_matrix(X), labels, (3, 4), n=10)
    assert len(tiles(few, (3, 4))) == 5 + 10  # the rest of a short row is left white


def test_boxes_are_quartiles_medians_and_whiskers(rng):
    W, H, labels = rng.gamma(1, 1, (90, 4)), rng.random((4, 6)), np.arange(90) % 3
    axes = features_by_class(W, labels, H)
    F = W * np.linalg.norm(H, axis=1)
    whiskers, boxes, medians = axes.collections
    theirs = [matplotlib.cbook.boxplot_stats(F[labels == one]) for one in range(3)]
    top = max(stats["whishi"] for of_class in theirs for stats in of_class)
    number = 0
    for base, of_class in zip((2, 1, 0), theirs, strict=True):
        for t, stats in enumerate(of_class):
            segment, corners, median = (
                whiskers.get_segments()[number],
                boxes.get_paths()[number].vertices,
                medians.get_segments()[number],
            )
            scale = 0.9 / top
            np.testing.assert_allclose(segment, [[t, base + scale * stats[w]] for w in ("whislo", "whishi")])
            np.testing.assert_allclose(corners[:, 1].min(), base + scale * stats["q1"])
            np.testing.assert_allclose(corners[:, 1].max(), base + scale * stats["q3"])
            np.testing.assert_allclose(median[:, 1], base + scale * stats["med"])
            number += 1
    assert len(whiskers.get_segments()) == number
    # A bare number could be taken for that of a component.
    assert [label.get_text() for label in axes.get_yticklabels()] == ["class 0", "class 1", "class 2"]


def test_means_are_those_of_the_classes(rng):
    W, H, labels = rng.random((30, 4)), rng.random((4, 6)), np.arange(30) % 3
    _, means = analysis.class_means(W, labels)
    np.testing.assert_allclose(means_by_class(W, labels).images[0].get_array(), means)
    axes = means_by_class(W, labels, H)
    np.testing.assert_allclose(axes.images[0].get_array(), means * np.linalg.norm(H, axis=1))
    assert axes.images[0].get_clim()[0] == 0


@pytest.mark.parametrize("c", [1, 3, 10, 26])
def test_components_of_classes_stand_in_their_rows(c):
    d = Drawn(7, c, (3, 4))
    axes = components_by_class(d.W, d.H, d.labels, d.shape, n=3)
    classes, components, weights = analysis.top_components(d.W, d.labels, 3, d.H)
    captions = {text.get_text(): [] for text in axes.texts}
    for text in axes.texts:
        captions[text.get_text()].append(text.get_position())
    for one, of_class, values in zip(classes, components, weights, strict=True):
        ((x, y),) = captions[str(one)]
        right = [f"{t}: {_shared.short(value)}" for t, value in zip(of_class, values, strict=True)]
        beside = sorted(
            (position[0], text)
            for text, positions in captions.items()
            for position in positions
            if ":" in text
            and position[0] > x
            and 0 < y - position[1] < 96
            and not any(x < other[0][0] < position[0] and name in classes for name, other in captions.items())
        )
        assert [text for _, text in beside] == right
    drawn = tiles(axes, d.shape)
    assert len(drawn) == 3 * c
    blocks = len({position[0][0] for text, position in captions.items() if text in classes})
    rows = -(-c // blocks)
    scaled = _shared.on_own_scale(d.H).reshape(-1, 3, 4)
    order = [i for row in range(rows) for i in range(row, c, rows)]  # classes run down the blocks
    np.testing.assert_allclose(drawn, scaled[components[order].ravel()])


def test_classes_rebuilt():
    d = Drawn(7, 3, (3, 4))
    axes = rebuilt_by_class(d.W, d.H, d.labels, d.shape, n=2, how=["mean", "max"])
    classes, components, _ = analysis.top_components(d.W, d.labels, 2, d.H)
    pictures = np.array(
        [
            analysis.rebuild(d.W, d.H, d.labels == one, of_class, how)
            for one, of_class in zip(classes, components, strict=True)
            for how in ("mean", "max")
        ]
    )
    np.testing.assert_allclose(tiles(axes, (3, 4)), _shared.on_own_scale(pictures).reshape(-1, 3, 4))
    assert texts(axes) == ["mean", "max", *classes]
    assert "2 strongest" in axes.get_title(loc="left")
    lines = rebuilt_by_class(d.W, d.H, d.labels)
    assert [text.get_text() for text in lines.get_legend().get_texts()] == ["mean", "median", "min", "max"]


def test_a_class_is_rebuilt_from_what_makes_up_half_of_it():
    # Class a is half of part 0; class b needs two parts; the least weights are zero in a, not in b.
    W = np.array([[6.0, 3, 1], [6, 3, 0], [6, 0, 0.5], [4, 3.9, 3.5], [4, 3.9, 3.5], [4, 3.9, 3.5]])
    W[0, 0] = 0
    labels, H = np.array(list("aaabbb")), np.eye(3, 12)
    axes = rebuilt_by_class(W, H, labels, (3, 4))
    assert texts(axes) == ["mean", "median", "min", "max", "a", "b"]
    drawn = tiles(axes, (3, 4)).reshape(-1, 12)
    assert len(drawn) == 7  # the black one is left out
    assert [(picture > 0).sum() for picture in drawn] == [1] * 3 + [2] * 4
    assert "make up half" in axes.get_title(loc="left")
    W[:, :] *= (np.arange(6) % 3 > 0)[:, None]  # the least are zero everywhere
    assert texts(rebuilt_by_class(W, H, labels, (3, 4))) == ["mean", "median", "max", "a", "b"]
    assert texts(rebuilt_by_class(W, H, labels, (3, 4), how=["min"])) == ["min", "a", "b"]


def test_clusters_show_those_nearest_to_the_centre():
    codes = np.array([0.0, 1, 2, 10, 11, 13, 14])[:, None]
    X = np.arange(1.0, 8)[:, None] * np.ones(12)
    axes = samples_by_cluster(X, codes, [0, 0, 0, 1, 1, 1, 1], (3, 4), n=2)
    assert texts(axes) == ["cluster 0 (3)", "cluster 1 (4)"]
    assert np.rint(tiles(axes, (3, 4))[:, 0, 0] * 6).tolist() == [2, 1, 5, 6]


def test_many_classes_are_cut_and_said_to_be():
    labels = np.arange(200) % 100
    axes = means_by_class(np.ones((200, 3)), labels)
    assert axes.images[0].get_array().shape == (60, 3)
    assert axes.get_title(loc="left").endswith(", the first 60 of 100")
    assert len(texts(samples_by_class(np.ones((200, 4)), labels, (2, 2), n=2))) == 60


# --------------------------------------------------------------------------------------------------
# error against k


def test_error_against_k_is_sorted_and_begins_at_zero():
    axes = error_against_k([30, 10, 20], [0.2, 0.4, 0.3], chosen=20)
    assert axes.lines[0].get_xdata().tolist() == [10, 20, 30]
    assert axes.lines[0].get_ydata().tolist() == [0.4, 0.3, 0.2]
    assert axes.lines[1].get_xdata().tolist() == [20]
    assert axes.lines[1].get_ydata().tolist() == [0.3]
    assert axes.get_ylim()[0] == 0
    assert "k = 20" in texts(axes)


def test_bars_show_how_far_an_error_may_be_off():
    axes = error_against_k([30, 10, 20], [0.2, 0.4, 0.3], spread=[0.01, np.nan, 0.05], label="held out")
    (bars,) = axes.containers
    ends = [segment[:, 1].tolist() for segment in bars.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[0.4, 0.4], [0.25, 0.35], [0.19, 0.21]])
    assert axes.get_ylabel() == "held out"
    with pytest.raises(ValueError, match="one number for each of the 2 errors"):
        error_against_k([1, 2], [0.1, 0.2], spread=[0.1])


def test_loss_against_k_has_both_curves_bars_and_the_chosen_one():
    axes = loss_against_k([30, 10, 20], [0.3, 0.4, 0.2], train=[0.1, 0.3, 0.2], spread=[0.01, 0.02, 0.03], chosen=20)
    left_out, fitted = axes.lines[:2]
    assert left_out.get_xdata().tolist() == fitted.get_xdata().tolist() == [10, 20, 30]
    assert left_out.get_ydata().tolist() == [0.4, 0.2, 0.3]
    assert fitted.get_ydata().tolist() == [0.3, 0.2, 0.1]
    bars = axes.containers[0][2][0].get_segments()
    np.testing.assert_allclose([bar[1, 1] - bar[0, 1] for bar in bars], [0.04, 0.06, 0.02])
    assert "k = 20" in texts(axes)
    assert not loss_against_k([1, 2], [0.4, 0.3], spread=[np.nan, np.nan]).containers


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: loss_against_k([1, 2], [0.1, 0.2], train=[0.1]),
            r"train \(1,\) must be vectors as long as each other",
        ),
        (lambda: loss_against_k([1, 2], [0.1, 0.2], chosen=3), r"chosen = 3 is none of .* \[1, 2\]"),
        (lambda: error_against_k([1, 2], [0.1]), "as long as each other"),
        (lambda: error_against_k([1, 2], [0.1, 0.2], chosen=3), r"chosen = 3 is none of .* \[1, 2\]"),
        (lambda: neighbours(np.ones((3, 12)), np.ones((2, 12))), "must have the same shape"),
        (lambda: neighbours(np.ones((3, 12)), scores=[1.0]), "expected 2 scores"),
        (lambda: neighbours(np.ones((3, 12)), names=["a"]), "expected 3 titles"),
        (lambda: best_and_worst(np.ones((3, 4)), np.ones((3, 1)), np.ones((1, 4)), n=0), "n must be at least 1"),
        (lambda: best_and_worst(np.ones((3, 4)), np.ones((3, 1)), np.ones((1, 4)), errors=[1]), "expected 3 errors"),
        (lambda: best_and_worst(np.ones((3, 4)), np.ones((3, 1)), np.ones((1, 4)), None, ["a"]), "expected 3 titles"),
        (lambda: sample_features([1, 2], np.ones((3, 4))), "expected a code of 3 weights"),
        (lambda: sample_features([1, 2], np.ones((2, 4)), picture=[1]), "must have 4 features"),
        (lambda: overlay(np.ones((61, 4))), r"1 to 60 components, got 61: choose some by which="),
        (lambda: samples_by_cluster(np.ones((3, 4)), np.ones((3, 2)), [1, 2]), "one cluster per row of the codes"),
        (lambda: samples_by_cluster(np.ones((3, 4)), np.ones((3, 2)), [1, 2, 3], n=0), "n must be at least 1"),
        (lambda: overlay(np.ones((9, 4)), which=[]), "got 0"),
        (lambda: samples_by_class(np.ones((3, 4)), [1, 2]), r"one label per row of X \(3\)"),
        (lambda: samples_by_class(np.ones((3, 4)), [1, 2, 3], n=0), "n must be at least 1"),
        (lambda: features_by_class(np.ones((3, 4)), [1, 2]), r"one label per row of W \(3\)"),
        (lambda: means_by_class(np.ones((3, 4)), [1, 2, 3], np.ones((3, 4))), "has 3 components, but W"),
        (lambda: components_by_class(np.ones((3, 2)), np.ones((2, 4)), [1, 2, 3], n=0), "n must be at least 1"),
        (lambda: rebuilt_by_class(np.ones((3, 2)), np.ones((2, 4)), [1, 2, 3], how=[]), "how names no statistic"),
        (lambda: rebuilt_by_class(np.ones((3, 2)), np.ones((2, 4)), [1, 2, 3], how=["mode"]), "how must be one of"),
    ],
)
def test_what_does_not_fit_the_new_plots_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
