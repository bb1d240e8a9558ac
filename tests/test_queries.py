"""Questions of several pictures, with weights, filters and pages, against sorting all cosines."""

import io
import itertools
import tracemalloc

import numpy as np
import pytest
import reference as ref
from hypothesis import assume, given
from hypothesis import strategies as st

from nmfcore._text import row_name
from nmfcore.images import InputError
from nmfcore.models import Model
from nmfcore.search import CosineIndex
from nmfcore.search.engine import SearchEngine
from nmfcore.search.names import meant
from nmfcore.search.queries import combined, one_by_one

SPACES = ["codes", "reconstruction", "centred"]


def model_of(W, m=6, **known):
    W = np.asarray(W)
    H = np.random.default_rng(3).random((W.shape[1], m))
    return Model(W=W, components=H, parameters={"n_components": W.shape[1]}, **known)


def points_of(engine, space):
    """The rows in a space, from its definition."""
    W, H = (np.asarray(each, float) for each in (engine.model.W, engine.model.components))
    return {"codes": W, "reconstruction": W @ H, "centred": W - W.mean(axis=0)}[space]


def digits_like(rng, n=300, k=5, dtype="float32", **known):
    W = np.maximum(rng.normal(0.3, 1, (n, k)), 0).astype(dtype)
    return SearchEngine.from_model(model_of(W, **known))


# --- what is found ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@given(st.data())
def test_what_is_found_is_what_sorting_all_of_them_finds(space, data_):
    """Few small whole numbers make many equal scores; filters and pages are those of the sorted list."""
    draw = data_.draw
    n, k = draw(st.integers(1, 25)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    W = rng.integers(0, 3, (n, k)).astype(float)
    marks = rng.integers(0, 3, n)
    engine = SearchEngine.from_model(model_of(W, labels=marks), space=space)
    points = points_of(engine, space)
    rows = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))
    weights = draw(st.lists(st.sampled_from([1, 1, -1, 0.5, -2, 0]), min_size=len(rows), max_size=len(rows)))
    assume(any(weights))
    similar, size = draw(st.booleans()), draw(st.integers(1, n + 2))
    threshold = draw(st.none() | st.sampled_from([-0.7123, 0.0123, 0.5, 0.8511]))
    labels = draw(st.none() | st.sets(st.sampled_from(sorted(set(marks.tolist()))), min_size=1))
    allow = draw(st.none() | st.sets(st.integers(0, n - 1)))
    as_mask = draw(st.booleans())
    given_ = None if allow is None else np.isin(np.arange(n), list(allow)) if as_mask else np.array(sorted(allow), int)
    wish = {
        "similar": similar, "space": space, "weights": weights, "threshold": threshold, "allow": given_,
        "labels": None if labels is None else sorted(labels),
    }  # fmt: skip

    q = ref.combined_query(points[rows], weights)
    length = float(np.sqrt((q**2).sum()))
    if length < 1e-12 and not (len(rows) == 1 and weights[0] > 0):
        with pytest.raises(ValueError, match="is zero and like nothing"):
            engine.search(rows, size, **wish)
        return
    assume(length > 1e-6 or not points[rows[0]].any())
    exact = ref.cosines(q[None], points)[0].astype(float)
    sign = 1 if similar else -1
    may = {
        row
        for row in range(n)
        if row not in rows
        and (allow is None or row in allow)
        and (labels is None or int(marks[row]) in labels)
    }  # fmt: skip

    pages = [engine.search(rows, size, offset=first, **wish) for first in range(0, n + 2, size)]
    whole = engine.search(rows, n, **wish)
    found = np.concatenate([page.indices for page in pages]).tolist()
    assert found == whole.indices.tolist()  # every one once, on whatever page
    assert np.concatenate([page.scores for page in pages]).tolist() == whole.scores.tolist()
    np.testing.assert_allclose(whole.scores, exact[found], atol=1e-9)
    order = sorted(zip((-sign * whole.scores).tolist(), found, strict=True))
    assert [row for _, row in order] == found  # the best first, equal ones by row number
    assert len(set(found)) == len(found) and set(found) <= may
    if threshold is not None:
        assert (sign * whole.scores >= sign * threshold).all()
    limit = -np.inf if threshold is None else sign * threshold
    missing = may - set(found)
    assert all(sign * exact[row] < limit + 1e-9 for row in missing)
    for row, other in itertools.pairwise(found):  # rows that are the same have the same score
        if (W[row] == W[other]).all():
            assert row < other


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("space", SPACES)
def test_one_picture_of_weight_1_has_the_bits_of_a_plain_search(rng, space, dtype):
    engine = digits_like(rng, dtype=dtype)
    place = engine._space(space)
    index = CosineIndex(place.placed(engine.model.W))
    for similar, find in ((True, index.search), (False, index.search_dissimilar)):
        scores, rows = find(index[[7]], 9, exclude=[7])
        for query, weights in ((7, None), ([7], None), (7, 1), ((7,), [1.0]), (7, [2.5]), (np.array([7]), None)):
            found = engine.search(query, 9, similar, space=space, weights=weights)
            assert found.indices.tolist() == rows[0].tolist() and found.scores.tolist() == scores[0].tolist()
            assert found.row == 7
        away = engine.search(7, 9, not similar, space=space, weights=-1)
        assert away.indices.tolist() == rows[0].tolist() and not (away.scores + scores[0]).any()
    x = engine.model.components.sum(axis=0)
    found, again = engine.search(x, 9), engine.search([x], 9)
    assert found.row is None and found.scores.tolist() == again.scores.tolist()


@pytest.mark.parametrize("space", SPACES)
def test_order_and_unit_of_weights_change_no_bit(rng, space):
    engine = digits_like(rng)
    rows, weights = [3, 200, 17, 88], np.array([1, -0.3, 0.7, 2])
    found = engine.search(rows, 50, space=space, weights=weights)
    for order in ([2, 0, 3, 1], [3, 2, 1, 0]):
        again = engine.search([rows[i] for i in order], 50, space=space, weights=weights[order] * 2.0**40)
        assert again.scores.tolist() == found.scores.tolist() and again.indices.tolist() == found.indices.tolist()
    assert found.row is None and found.title == "row 3 − 0.3 × row 200 + 0.7 × row 17 + 2 × row 88"


def test_pictures_and_rows_together(rng):
    engine = digits_like(rng, names=tuple(f"{row}.png" for row in range(300)))
    x = engine.model.components[:2].sum(axis=0)
    code = engine.transform(x[None])[0]
    found = engine.search(["3.png", x, 5], 20, weights=[1, -1, 0.5])
    q = ref.combined_query([engine.model.W[3], code, engine.model.W[5]], [1, -1, 0.5])
    np.testing.assert_allclose(
        found.scores, ref.cosines(q[None], engine.model.W)[0][found.indices].astype(float), atol=1e-7
    )
    assert not {3, 5} & set(found.indices.tolist())
    assert [term.row for term in found.terms] == [3, None, 5]
    assert (
        found.names[0] == f"{found.indices[0]}.png" and found.titles[0] == f"row {found.indices[0]}, {found.names[0]}"
    )
    np.testing.assert_allclose(found.code / np.linalg.norm(found.code), (q / np.sqrt(q @ q)).astype(float), atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_a_query_of_several_is_explained_as_it_was_searched(rng, space):
    engine = digits_like(rng)
    engine = SearchEngine.from_model(engine.model, space=space)
    found = engine.search([3, 17], 5, weights=[1, -0.5])
    for row, score, why in zip(found.indices, found.scores, engine.reasons(found), strict=True):
        assert engine.explain(found, row).score == pytest.approx(score, abs=1e-12) and why.score == score


def test_neither_pages_nor_filters_make_anything_large(rng):
    n = 60_000
    engine = digits_like(rng, n=n, k=3)
    engine._space("codes")
    tracemalloc.start()
    found = engine.search([1, 2, 3], 5, offset=n - 20, labels=None, allow=np.arange(n))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 5 and peak < 400 * n


# --- what is asked ------------------------------------------------------------------------------------------------


def test_which_list_is_several_pictures():
    x = np.ones(4)
    assert one_by_one([1, 2], 4, True) == [1, 2] == one_by_one(np.array([1, 2]), 4, True)
    assert len(one_by_one([1, 2, 3, 4], 4, True)) == 1 == len(one_by_one(np.array([1, 2, 3, 4]), 4, True))
    assert one_by_one([1, 2, 3, 4], 4, True, [1, 1, 1, 1]) == [1, 2, 3, 4]
    assert len(one_by_one([1.0, 2.0], 4, True)) == 1  # no picture, as the engine then says
    assert len(one_by_one([x, x], 4, True)) == 2 == len(one_by_one(["a", 3], 4, True))
    assert len(one_by_one(np.ones((2, 4)), 4, True)) == 1  # a picture
    assert len(one_by_one(np.ones((2, 4)), 4, False)) == 2
    assert len(one_by_one(io.BytesIO(), 4, True)) == 1


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"query": []}, "is an empty list"),
        ({"query": [3, 300]}, "there is no row 300"),
        ({"query": [3, 4], "weights": [1]}, "has 2 pictures and weights has 1: give one for each"),
        ({"query": 3, "weights": [1, 1]}, "has 1 picture and weights has 2"),
        ({"query": [3, 4], "weights": [[1, 1]]}, r"an array of shape \(1, 2\)"),
        ({"query": [3, 4], "weights": [1, np.nan]}, "must be finite"),
        ({"query": [3, 4], "weights": ["a", "b"]}, "are no numbers"),
        ({"query": [3, 4], "weights": [0, 0]}, "all weights are 0"),
        ({"query": [3, 3], "weights": [1, -1]}, "its pictures cancel each other"),
        ({"query": 0, "weights": -1}, "its pictures have no parts"),
        ({"query": [0, 0]}, "its pictures have no parts"),
        ({"query": 3, "offset": -1}, "offset=-1 is not possible"),
        ({"query": 3, "offset": 1.5}, "offset=1.5"),
        ({"query": 3, "n": True}, "n=True"),
        ({"query": 3, "threshold": np.nan}, "is no cosine"),
        ({"query": 3, "allow": [300]}, "allow names row 300"),
        ({"query": 3, "allow": [-1]}, "allow names row -1"),
        ({"query": 3, "allow": [True]}, r"mask of shape \(1,\), and there are 300 rows"),
        ({"query": 3, "allow": [0.5]}, "allow holds float64"),
        ({"query": 3, "labels": 7}, "no picture has the label '7': there are '0', '1', '2'"),
        ({"query": 3, "labels": "01"}, "no picture has the label '01'"),
        ({"query": 3, "labels": [0, "x"]}, "no picture has the label 'x'"),
        ({"query": 3, "labels": 0.5}, "no picture has the label '0.5'"),
    ],
)
def test_wishes_that_make_no_sense(rng, wish, message):
    engine = digits_like(rng, labels=np.arange(300) % 3)
    engine.model.W[0] = 0
    query = wish.pop("query")
    with pytest.raises(ValueError, match=message):
        engine.search(query, **wish)


@pytest.mark.parametrize(
    "labels", [np.arange(300) % 3, np.array(["0", "1", ""])[np.arange(300) % 3], np.arange(300) % 3.0]
)
def test_labels_of_every_kind(rng, labels):
    engine = digits_like(rng, labels=labels)
    for wanted in (labels[1], str(labels[1]), [labels[1]], {labels[1]}):
        assert set(engine.search(3, 300, labels=wanted).indices) == set(np.flatnonzero(labels == labels[1]))
    both = engine.search(3, 300, labels=[labels[1], labels[2]], allow=np.arange(10))
    assert set(both.indices) == {1, 2, 4, 5, 7, 8}
    with pytest.raises(ValueError, match="have no labels to choose by"):
        digits_like(rng).search(3, labels="0")


def test_a_picture_without_parts_adds_nothing_and_alone_is_like_nothing(rng):
    engine = digits_like(rng)
    engine.model.W[0] = 0
    alone, beside = engine.search(3, 9, allow=np.arange(1, 300)), engine.search([3, 0], 9)
    np.testing.assert_allclose(alone.scores, beside.scores, atol=1e-14)
    assert not engine.search(0, 9).scores.any()


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_points_of_any_length(scale):
    total, factors = combined([scale * np.array([3.0, 4]), np.array([0.0, 2])], [1e200, -5e199])
    np.testing.assert_allclose(total, [0.6, 0.3])
    np.testing.assert_allclose(factors * [scale, 1], [0.2, -0.25])


# --- what is meant, and what it is called -------------------------------------------------------------------------

FILES = ["9.jpg", "cats/2.png", "dogs/2.png", "4", "7.tif#3", "row 5", "b.jpg", "1.jpg"]


@pytest.mark.parametrize(
    ("text", "query", "said"),
    [
        ("9", 0, None),  # there is no row 9
        ("1", 7, "'1' is taken for '1.jpg' (row 7); row 1 is another picture: 'row 1' means that one"),
        ("4", 3, "'4' is taken for '4' (row 3); row 4 is another picture: 'row 4' means that one"),
        ("7", 4, "'7' is taken for '7.tif#3' (row 4); row 7 is another picture: 'row 7' means that one"),
        ("3", 3, None), ("0", 0, None), ("12", 12, None), ("row 1", 1, None), ("Row  1", 1, None), ("row 5", 5, None),
        ("b.jpg", 6, None), ("b", "b", None), ("x/9.jpg", "x/9.jpg", None), ("-1", "-1", None), ("1.5", "1.5", None),
    ],
)  # fmt: skip
def test_what_a_text_means(text, query, said):
    assert meant(text, {name: row for row, name in enumerate(FILES)}, len(FILES)) == (query, said)


def test_a_number_that_several_pictures_have():
    with pytest.raises(
        InputError, match=r"'2' could be any of 'cats/2.png', 'dogs/2.png': give the whole name, or 'row 2' "
    ):
        meant("2", {name: row for row, name in enumerate(FILES)}, len(FILES))


@pytest.mark.parametrize(
    ("row", "name", "label", "called"),
    [
        (1011, None, 4, "row 1011 (4)"), (1011, "4802.jpg", None, "row 1011, 4802.jpg"), (0, None, None, "row 0"),
        (0, "", "", "row 0"), (2, "a.png", "cat", "row 2, a.png (cat)"), (3, "row 3", None, "row 3"),
        (3, "row 3 (4)", None, "row 3 (4)"), (3, "row 31", None, "row 3, row 31"), (0, None, 0, "row 0 (0)"),
        (1, "[red]<b>$x$", "{{ y }}", "row 1, [red]<b>$x$ ({{ y }})"), (1, "a\nb", "\x1b", r"row 1, a\nb (\x1b)"),
    ],
)  # fmt: skip
def test_what_a_row_is_called(row, name, label, called):
    assert row_name(row, name, label) == called
