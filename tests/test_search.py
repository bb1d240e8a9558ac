"""The search engine: what it finds against plain cosines, what it keeps, and what it says when asked amiss."""

import copy
import dataclasses
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import nmfcore
from nmfcore.images import InputError, Pictures
from nmfcore.models import ModelFileError, estimator_from
from nmfcore.search import saving
from nmfcore.search.blocks import frobenius_norm, write_rows
from nmfcore.search.engine import Explanation, SearchEngine

Image = pytest.importorskip("PIL.Image", reason="pictures need the extra 'app'")


@pytest.fixture(scope="module")
def engine():
    return SearchEngine(10).fit("digits")


def test_an_engine_that_has_searched_is_pickled_and_copied(engine):
    expected = engine.search(3, n=4)
    for again in (pickle.loads(pickle.dumps(engine)), copy.deepcopy(engine)):
        found = again.search(3, n=4)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.scores, expected.scores)


def cosines(A, b):
    A, b = np.asarray(A, float), np.asarray(b, float)
    return A @ b / (np.linalg.norm(A, axis=1) * np.linalg.norm(b))


def colour_pictures(rng, n=30, shape=(6, 5, 3)):
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8)


# --- searching ------------------------------------------------------------------------------------


@pytest.mark.parametrize("similar", [True, False])
@pytest.mark.parametrize("space", ["codes", "reconstruction", "centred"])
def test_it_finds_what_plain_cosines_find(engine, space, similar):
    engine = SearchEngine.from_model(engine.model, engine.matrix(), space=space)
    W, H = engine.model.W.astype(float), engine.model.components.astype(float)
    rows = {"codes": W, "reconstruction": W @ H, "centred": W - W.mean(axis=0)}[space]
    for query in (0, 17, 1796):
        expected = cosines(rows, rows[query])
        found = engine.search(query, 12, similar, space=space)
        np.testing.assert_allclose(found.scores, expected[found.indices], atol=2e-6)
        assert found.space == space
        others = np.delete(np.sort(expected), -1)  # the last is the query itself
        best = others[::-1][:12] if similar else others[:12]
        np.testing.assert_allclose(found.scores, best, atol=2e-6)
        assert query not in found.indices
        assert found.row == query


def test_dissimilar_pictures_are_found_among_centred_codes(engine):
    queries = range(0, 1797, 18)
    first = {
        space: {int(engine.search(query, 1, similar=False, space=space).indices[0]) for query in queries}
        for space in (None, "codes", "reconstruction")
    }
    # Among codes without negative numbers, few pictures are the least similar to all.
    assert len(first[None]) > 1.3 * max(len(first["codes"]), len(first["reconstruction"]))
    assert engine.search(3, similar=False).space == "centred" and engine.search(3).space == "codes"
    with pytest.raises(ValueError, match="'pixels' is unknown"):
        engine.search(3, space="pixels")


def test_pictures_that_were_added_take_part_in_the_mean():
    X = np.random.default_rng(0).random((40, 12))
    engine = SearchEngine(3, max_iter=500).fit(X[:30])
    engine.search(0, similar=False)  # makes the space before the pictures come
    engine.add(X[30:])
    W = engine.model.W.astype(float)
    found = engine.search(0, 5, similar=False)
    expected = cosines(W - W.mean(axis=0), (W - W.mean(axis=0))[0])
    np.testing.assert_allclose(found.scores, np.sort(np.delete(expected, 0))[:5], atol=2e-6)


def test_a_row_never_finds_itself_but_its_twin(rng):
    X = rng.random((20, 12))
    X[7] = X[3]
    engine = SearchEngine(3, max_iter=50).fit(X)
    found = engine.search(3, 30)
    assert found.indices[0] == 7
    assert found.scores[0] == pytest.approx(1)
    assert sorted(found.indices) == sorted(set(range(20)) - {3})


def test_the_scale_of_parts_changes_codes_but_not_reconstructions(engine, rng):
    scales = 10 ** rng.uniform(-2, 2, 10)
    model = engine.model
    other = dataclasses.replace(model, W=model.W * scales, components=model.components / scales[:, None])
    a, b = (SearchEngine.from_model(one, space="reconstruction").search(5, 20) for one in (model, other))
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
    assert a.indices[:5].tolist() == b.indices[:5].tolist()
    plain = SearchEngine.from_model(other).search(5, 20)
    assert np.abs(plain.scores - engine.search(5, 20).scores).max() > 1e-3


def test_every_way_to_ask_for_one_picture(tmp_path, rng):
    # Smooth pictures: a code of 8 numbers tells them apart.
    grid = np.add.outer(np.arange(12), np.arange(9))
    pixels = np.uint8(127 + 120 * np.sin(grid[None] * rng.uniform(0.1, 1.2, 40)[:, None, None]))
    folder = tmp_path / "in"
    folder.mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number}.png")
    engine = SearchEngine(8).fit(folder)
    assert engine.shape == (12, 9)
    assert engine.model.names[13] == "13.png"
    np.testing.assert_array_equal(engine.originals([13, 2]), pixels[[13, 2]].reshape(2, -1))
    known = [engine.search(query, 5) for query in (13, np.int64(13), "13.png")]
    for found in known:
        assert found.row == 13
        assert found.indices.tolist() == known[0].indices.tolist()
    path = folder / "13.png"
    for query in (path, str(path), io.BytesIO(path.read_bytes()), Image.open(path), pixels[13], pixels[13].ravel()):
        found = engine.search(query, 6)
        assert found.row is None
        assert found.indices[0] == 13
        assert found.scores[0] == pytest.approx(1, abs=1e-4)
        np.testing.assert_array_equal(found.pixels, pixels[13].ravel())
        np.testing.assert_array_equal(found.code, engine.transform(path)[0])


def nowhere(engine):
    return 1797


def before_the_first(engine):
    return -1


def no_name(engine):
    return "7.jp"


def no_file(engine):
    return Path("no/such.png")


def too_short(engine):
    return np.ones(63)


def no_picture(engine):
    return io.BytesIO(b"no picture")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (nowhere, "there is no row 1797: rows are numbered 0 to 1,796"),
        (before_the_first, "there is no row -1"),
        (no_name, "there is no picture '7.jp', neither by name nor as a file"),
        (no_file, "there is no picture 'no/such.png'"),
        (too_short, r"has shape \(63,\)|holds float64"),
        (no_picture, "is not a picture that can be read"),
    ],
)
def test_queries_that_make_no_sense(engine, query, message):
    with pytest.raises(InputError, match=message):
        engine.search(query(engine))


def test_a_name_that_is_nearly_right_gets_a_hint(engine):
    names = tuple(f"cat {row}.jpg" for row in range(len(engine)))
    named = SearchEngine.from_model(dataclasses.replace(engine.model, names=names))
    with pytest.raises(InputError, match=r"do you mean 'cat 1234\.jpg'\?"):
        named.search("cat1234.jpg")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("foo.jpg", None), ("cat 99.jpg", None), ("31.jpg", None), ("cat 7.png", "cat 7.jpg"), ("Cat 7", "cat 7.jpg"),
        ("cat7.jpg", "cat 7.jpg"), ("kat 7.jpg", "cat 7.jpg"), ("005.jpg", "5.jpg"), ("5.jpeg", "5.jpg"),
    ],
)  # fmt: skip
def test_hints_are_names_that_may_have_been_meant(engine, name, hint):
    names = tuple(f"{row}.jpg" if row < 9 else f"cat {row - 9}.jpg" for row in range(30))
    model = dataclasses.replace(engine.model, W=engine.model.W[:30], names=names, labels=None)
    with pytest.raises(InputError) as refused:
        SearchEngine.from_model(model).search(name)
    assert str(refused.value).endswith(f"; do you mean '{hint}'?" if hint else "as a file")


def test_what_is_printed_is_short(engine):
    shown = [engine, engine.model, engine.search(0, 1000), engine.explain(0, 1, 10), nmfcore.images.read_source()]
    lengths = [len(repr(one)) for one in shown]
    assert max(lengths) < 800
    assert "and 980 more" in repr(shown[2])
    assert repr(shown[4]).startswith("Pictures of '") and "1,797 rows × 64 features (8×8)" in repr(shown[4])
    named = dataclasses.replace(engine.model, names=("x" * 9999 + "\x1b",) * len(engine))
    assert len(repr(SearchEngine.from_model(named).search(0, 5))) < 800


def test_a_fit_shows_a_bar_where_someone_sees_it(digits, monkeypatch):
    from nmfcore.estimators import progress_bar

    seen = []

    class Bar:
        def __init__(self, console, max_iter, transient):
            seen.append(("max_iter", max_iter))

        def __enter__(self):
            return lambda report, norm: seen.append((report.iteration, norm))

        def __exit__(self, *rest):
            seen.append("gone")

    rich = pytest.importorskip("rich.console")
    monkeypatch.setattr(progress_bar, "fitting_bar", Bar)
    own = []
    SearchEngine(2, max_iter=4, tol=0, callback=own.append).fit(digits[:50])
    assert seen == []  # no terminal here
    monkeypatch.setattr(rich.Console, "is_terminal", True)
    engine = SearchEngine(2, max_iter=4, tol=0, callback=own.append).fit(digits[:50])
    assert seen[0] == ("max_iter", 4) and seen[-1] == "gone"
    assert seen[1:-1] == [(number, frobenius_norm(digits[:50])) for number in range(1, len(seen) - 1)]
    assert len(own) == 8
    seen.clear()
    SearchEngine(2, max_iter=4, tol=0).fit(digits[:50], progress=None)
    assert seen == []
    assert "callback" not in engine.model.parameters


def test_nothing_is_found_without_having_learned():
    engine = SearchEngine(3)
    assert len(engine) == 0
    assert "not fitted" in repr(engine)
    with pytest.raises(AttributeError, match="has learned nothing yet: call fit"):
        engine.search(0)


def test_a_space_there_is_not(engine, tmp_path):
    with pytest.raises(ValueError, match="'pixels' is unknown: expected 'codes', 'reconstruction' or 'centred'"):
        SearchEngine(3, space="pixels")
    engine.save(tmp_path / "m")
    with pytest.raises(ValueError, match="'pixels' is unknown"):
        SearchEngine.load(tmp_path / "m", space="pixels")


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_how_many_must_be_a_number(engine, n):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        engine.search(0, n)


# --- why ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["codes", "reconstruction"])
def test_shares_split_the_score(engine, space):
    engine = SearchEngine.from_model(engine.model, space=space)
    found = engine.search(40, 5)
    reasons = engine.reasons(found, 10)
    for index, score, reason in zip(found.indices, found.scores, reasons, strict=True):
        why = engine.explain(40, index, 10)
        assert isinstance(why, Explanation)
        assert why.score == score == reason.score
        assert why.components.tolist() == reason.components.tolist()
        assert why.shares.tolist() == reason.shares.tolist()
        assert why.shares.sum() == pytest.approx(1)
        assert (np.diff(why.shares) <= 0).all()
        assert engine.explain(found, index, 10).shares.tolist() == why.shares.tolist()
        assert engine.explain(40, index, 2).components.tolist() == why.components[:2].tolist()


def test_shares_are_those_of_the_products(engine):
    W, H = engine.model.W.astype(float), engine.model.components.astype(float)
    why = engine.explain(3, 9, 10)
    parts = W[3] * W[9]
    np.testing.assert_allclose(why.shares, (parts / parts.sum())[why.components])
    # Of reconstructions: half of what a takes from b's whole, half of what b takes from a's.
    G = H @ H.T
    parts = 0.5 * (W[3] * (G @ W[9]) + W[9] * (G @ W[3]))
    why = SearchEngine.from_model(engine.model, space="reconstruction").explain(3, 9, 10)
    np.testing.assert_allclose(why.shares, (parts / parts.sum())[why.components], rtol=1e-4)
    a, b = W[3] @ H, W[9] @ H
    assert why.score == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)


def test_pictures_with_nothing_in_common():
    model = nmfcore.models.Model(W=np.eye(3), components=np.eye(3, 6), parameters={"n_components": 3})
    why = SearchEngine.from_model(model).explain(0, 1)
    assert (why.score, len(why.components)) == (0, 0)


# --- adding ---------------------------------------------------------------------------------------


def test_added_pictures_are_found_and_the_others_keep_their_numbers(digits):
    engine = SearchEngine(10).fit(digits[:1000])
    before = engine.search(5, 900)
    W = engine.model.W.copy()
    rows = engine.add(digits[1000:1500])
    assert rows.tolist() == list(range(1000, 1500))
    assert len(engine) == 1500
    np.testing.assert_array_equal(engine.model.W[:1000], W)
    expected = estimator_from(engine.model).transform(digits[1000:1500])
    np.testing.assert_array_equal(engine.model.W[1000:], expected)
    after = engine.search(5, 1400)
    old = after.indices < 1000
    np.testing.assert_array_equal(after.indices[old][:900], before.indices[: old.sum()])
    assert (~old).any()
    np.testing.assert_array_equal(engine.originals([1499, 3, 1000]), digits[[1499, 3, 1000]])
    np.testing.assert_array_equal(engine.matrix(), digits[:1500])


def test_the_order_of_adding_does_not_matter(digits):
    together, apart = (SearchEngine(6, max_iter=30, tol=0).fit(digits[:300]) for _ in range(2))
    together.add(digits[300:340])
    for row in range(300, 340):
        apart.add(digits[row : row + 1])
    np.testing.assert_array_equal(together.model.W, apart.model.W)


def test_names_and_labels_of_added_pictures(rng):
    X = rng.random((12, 6))
    named = Pictures(X[:5], None, tuple("abcde"), np.arange(5), "somewhere")
    engine = SearchEngine(2).fit(named)
    engine.add(X[5:8])
    assert engine.model.names == (*"abcde", "row 5", "row 6", "row 7")
    assert engine.model.labels.tolist() == ["0", "1", "2", "3", "4", "", "", ""]
    engine = SearchEngine(2).fit(X[:5])
    assert engine.title(4) == "row 4"
    engine.add(Pictures(X[5:7], None, ("f", "g"), np.array([7, 8])))
    assert engine.model.names[3:] == ("row 3", "row 4", "f", "g")
    assert engine.model.labels.tolist() == [""] * 5 + ["7", "8"]
    engine = SearchEngine(2).fit(named)
    engine.add(Pictures(X[5:7], None, ("f", "g"), np.array([7, 8])))
    assert engine.model.labels.tolist() == [0, 1, 2, 3, 4, 7, 8]
    assert engine.search("g", 1).row == 6


def test_pictures_of_another_size_are_not_added(engine):
    with pytest.raises(InputError, match="have 63 features, those of the model 64: give pictures of the same size"):
        engine.add(np.ones((2, 63)))
    assert len(engine) == 1797


def test_a_single_file_is_added_in_the_size_of_the_others(tmp_path, rng):
    engine = SearchEngine(3).fit(colour_pictures(rng))
    Image.new("L", (50, 60), 99).save(tmp_path / "x.png")
    (row,) = engine.add(tmp_path / "x.png")
    assert set(engine.originals([row])[0]) == {99}
    assert engine.model.names[row] == "x.png" and engine.title(row) == "row 30, x.png"


# --- keeping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["codes", "reconstruction"])
def test_what_is_saved_answers_as_before(tmp_path, digits, space):
    engine = SearchEngine(10, space=space).fit(digits[:800])
    engine.add(digits[800:900].astype(np.float32))
    engine.save(tmp_path / "m")
    assert sorted(os.listdir(tmp_path / "m")) == ["model.npz", "pictures.npy", "search.json"]
    back = SearchEngine.load(tmp_path / "m")
    assert back.space == space
    assert isinstance(back.matrix(), np.memmap)
    for similar in (True, False):
        a, b = engine.search(11, 30, similar), back.search(11, 30, similar)
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.scores, b.scores)
        assert repr(a) == repr(b)
    np.testing.assert_array_equal(back.matrix(), digits[:900])
    np.testing.assert_array_equal(nmfcore.load(tmp_path / "m").W, engine.model.W)
    other = "codes" if space == "reconstruction" else "reconstruction"
    assert SearchEngine.load(tmp_path / "m", space=other).space == other


def test_an_engine_is_saved_over_its_own_memory_map(tmp_path, digits):
    SearchEngine(4).fit(digits[:100]).save(tmp_path / "m")
    engine = SearchEngine.load(tmp_path / "m")
    engine.add(digits[100:120])
    with pytest.raises(FileExistsError, match="holds a model: choose another folder, or overwrite=True"):
        engine.save(tmp_path / "m")
    engine.save(tmp_path / "m", overwrite=True)
    np.testing.assert_array_equal(SearchEngine.load(tmp_path / "m").matrix(), digits[:120])


def test_a_crash_while_saving_leaves_an_engine_that_opens(tmp_path, digits, monkeypatch):
    SearchEngine(4).fit(digits[:100]).save(tmp_path / "m")
    engine = SearchEngine.load(tmp_path / "m")
    before = engine.search(0)
    engine.add(digits[100:120])

    def crash(*args):
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save", crash)
        with pytest.raises(OSError, match="the power went"):
            engine.save(tmp_path / "m", overwrite=True)
    back = SearchEngine.load(tmp_path / "m")
    assert len(back) == 100
    np.testing.assert_array_equal(back.matrix(), digits[:100])
    np.testing.assert_array_equal(back.search(0).indices, before.indices)


def test_without_pictures_they_come_from_the_source(tmp_path, rng):
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = colour_pictures(rng)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    SearchEngine(3).fit(folder, rgb=True, skip_broken=True).save(tmp_path / "m", pictures=False)
    assert sorted(os.listdir(tmp_path / "m")) == ["model.npz", "search.json"]
    back = SearchEngine.load(tmp_path / "m")
    assert back.shape == (6, 5, 3)
    np.testing.assert_array_equal(back.originals([7])[0], pixels[7].ravel())

    (folder / "3.png").unlink()
    changed = SearchEngine.load(tmp_path / "m")
    assert len(changed.search(0)) == 8  # codes need no originals
    for wish in (changed.matrix, lambda: changed.add(pixels[:1]), lambda: changed.save(tmp_path / "n")):
        with pytest.raises(
            InputError, match=r"has no pictures\.npy, and '.*in' no longer holds what the model was made"
        ):
            wish()
    assert not (tmp_path / "n").exists()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with pytest.raises(InputError, match=r"nor can they be read from .* any more: fit once more, with --pictures"):
        SearchEngine.load(tmp_path / "m").originals([0])


def test_digits_are_always_there(tmp_path, engine):
    engine.save(tmp_path / "m", pictures=False)
    np.testing.assert_array_equal(SearchEngine.load(tmp_path / "m").matrix(), engine.matrix())


def test_a_matrix_without_a_source_is_asked_for(tmp_path, rng):
    SearchEngine(2).fit(rng.random((9, 4))).save(tmp_path / "m", pictures=False)
    with pytest.raises(InputError, match=r"has no pictures\.npy: fit once more"):
        SearchEngine.load(tmp_path / "m").matrix()


def damaged(folder):
    (folder / "pictures.npy").write_bytes(b"no array")
    return r"pictures\.npy' is damaged and cannot be read"


def of_objects(folder):
    np.save(folder / "pictures.npy", np.array([{}], dtype=object), allow_pickle=True)
    return r"pictures\.npy' is damaged"


def of_another(folder):
    np.save(folder / "pictures.npy", np.zeros((99, 64)))
    return r"pictures\.npy' \(99, 64\) does not belong to the model beside it"


def no_space(folder):
    (folder / "search.json").write_text("[]")
    return r"search\.json' is damaged"


def other_space(folder):
    (folder / "search.json").write_text(json.dumps({"space": "dreams"}))
    return r"search\.json' names the space 'dreams'"


@pytest.mark.parametrize("spoil", [damaged, of_objects, of_another, no_space, other_space])
def test_folders_that_are_refused(tmp_path, engine, spoil):
    engine.save(tmp_path / "m")
    message = spoil(tmp_path / "m")
    with pytest.raises(ModelFileError, match=message):
        SearchEngine.load(tmp_path / "m")


def test_pictures_that_are_not_the_models(engine):
    with pytest.raises(ValueError, match=r"the pictures \(5, 64\) are not those of the model"):
        SearchEngine.from_model(engine.model, np.zeros((5, 64)))


# --- learning -------------------------------------------------------------------------------------


def test_fit_takes_what_nmf_takes_and_says_how_well_it_went(digits):
    seen = []
    engine = SearchEngine(5, solver="mu", beta_loss=1, max_iter=7, tol=0, callback=seen.append).fit(digits)
    assert len(seen) == 7
    assert engine.model.parameters["beta_loss"] == 1
    assert np.isnan(engine.model.relative_error)
    engine = SearchEngine(5).fit(digits)
    error = np.linalg.norm(digits - engine.model.reconstruct()) / np.linalg.norm(digits)
    assert engine.model.relative_error == pytest.approx(error, rel=1e-4)


def test_colours_and_shapes_of_arrays(rng):
    pixels = colour_pictures(rng)
    engine = SearchEngine(3).fit(pixels)
    assert engine.shape == (6, 5, 3)
    assert SearchEngine(3).fit(pixels.reshape(30, -1)).shape is None
    assert SearchEngine(3).fit(pixels[..., 0].reshape(30, -1), size=(6, 5)).shape == (6, 5)
    with pytest.raises(InputError, match="makes 20 pixels"):
        SearchEngine(3).fit(pixels[..., 0].reshape(30, -1), size=(4, 5))
    with pytest.raises(InputError, match=r"of shape \(5,\)"):
        SearchEngine(3).fit(np.ones(5))
    with pytest.raises(InputError, match="rows of this model are no pictures"):
        SearchEngine(3).fit(pixels.reshape(30, -1)).search(pixels[0])


def test_progress_is_told_while_reading(tmp_path, rng):
    for number, picture in enumerate(colour_pictures(rng)):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    told = []
    SearchEngine(2).fit(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (30, 30)


def test_it_draws_what_it_found(engine):
    pytest.importorskip("matplotlib", reason="plots need the extra 'app'")
    found = engine.search(5, 4)
    figure = engine.draw(found)
    words = " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    assert "Most similar to row 5 (5)" in words
    assert f"{found.scores[0]:.2f}" in words


# --- rows on the disk -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_written_block_by_block(tmp_path, rng, order, monkeypatch):
    monkeypatch.setattr("nmfcore.search.blocks.AT_ONCE", 8 * 7 * 3)  # three rows at a time
    blocks = [
        np.asarray(rng.integers(0, 9, (10, 7)), np.uint8, order=order),
        np.asarray(rng.random((4, 7)), np.float32, order=order),
    ]
    write_rows(blocks, tmp_path / "x.npy")
    back = np.load(tmp_path / "x.npy")
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, np.concatenate(blocks))
    write_rows(blocks[:1], tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").dtype == np.uint8
    assert frobenius_norm(blocks[1]) == pytest.approx(np.linalg.norm(blocks[1].astype(float)))
