"""Plots show the right numbers in the right places; how they look, people have checked."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="plots need the extra 'app'")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nmfcore.plots import _shared, components_grid, convergence, reconstructions


def texts(axes):
    return [text.get_text() for text in axes.texts]


def tiles(axes, shape):
    """Cut the drawn canvas into the pictures on it, left to right and top to bottom."""
    canvas = axes.images[0].get_array()
    drawn = ~np.ma.getmaskarray(canvas)
    found = []
    rows = np.flatnonzero(np.diff(drawn.any(axis=1).astype(int), prepend=0, append=0))
    for top, bottom in rows.reshape(-1, 2):
        band = drawn[top:bottom].any(axis=0).astype(int)
        columns = np.flatnonzero(np.diff(band, prepend=0, append=0))
        for left, right in columns.reshape(-1, 2):
            tile = np.asarray(canvas[top:bottom, left:right])
            scale = tile.shape[0] // shape[0]
            assert tile.shape == (shape[0] * scale, shape[1] * scale)
            found.append(tile[::scale, ::scale])
    return np.array(found)


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
    for rows in (slice(0, 3), slice(3, 5)):  # a pair of rows shares one scale
        for values in (originals[rows], reconstructed[rows]):
            expected += list(np.clip(values / originals[rows].max(), 0, 1).reshape(-1, 3, 4))
    np.testing.assert_allclose(drawn, expected)
    error = np.linalg.norm(originals - reconstructed, axis=1) / np.linalg.norm(originals.astype(float), axis=1)
    assert sorted(texts(axes)) == sorted([*names, *(f"{100 * e:.0f} %" for e in error)])
    place = {text.get_text(): text.get_position() for text in axes.texts}
    assert place["0.jpg"][1] < place["3.jpg"][1]
    assert place["0.jpg"][0] == place["3.jpg"][0] < place["1.jpg"][0]


def test_black_pictures():
    axes = reconstructions(np.zeros((2, 12)), np.zeros((2, 12)), (3, 4))
    assert (tiles(axes, (3, 4)) == 0).all()
    assert texts(axes) == ["0 %", "0 %"]


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


def test_convergence_of_a_loss_over_decades_is_logarithmic():
    axes = convergence({"loss": [1000.0, 10.0, 1.0], "seconds": [1, 2, 3]})
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "loss"


def test_convergence_bridges_what_was_not_recorded():
    loss = [np.nan, 4.0, np.nan, 3.0, np.nan]
    axes = convergence({"loss": loss, "seconds": [1, 2, 3, 4, 5]})
    assert axes.lines[0].get_xdata().tolist() == [2, 4]
    assert axes.lines[0].get_ydata().tolist() == [4, 3]


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
        "from nmfcore.plots import components_grid\n"
        "components_grid(np.eye(4), (2, 2))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert list(dict.items(matplotlib.rcParams)) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
