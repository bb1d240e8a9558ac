"""Duplicates: pairs against a plain loop, groups against scipy, files that are moved and come back."""

import dataclasses
import json
import os
import pickle
import shutil
import tracemalloc
import warnings

import numpy as np
import pytest
import reference
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from nmfcore.images import InputError, Pictures
from nmfcore.models import Model
from nmfcore.search import SearchEngine, moving, undo_moves
from nmfcore.search import pairs as room
from nmfcore.search.linkage import linked
from nmfcore.search.moving import Move, move_files
from nmfcore.search.pairs import near_pairs, norms_of

Image = pytest.importorskip("PIL.Image", reason="pictures need the extra 'app'")


def engine_of(X, codes=None, shape=None, names=None, source="", decoding=None):
    """Make an engine with given codes; by default a row's code is its pixels."""
    W = np.asarray(X if codes is None else codes, np.float64)
    model = Model(W, np.ones((W.shape[1], X.shape[1])), {}, shape=shape, names=names, source=source, decoding=decoding)
    return SearchEngine.from_model(model, X)


def with_copies(rng, n=36, m=12, dtype=np.uint8):
    """Return pictures of which some are slightly changed copies of others, and codes that are close to them."""
    X = rng.integers(0, 200, (n, m))
    for i in range(0, n // 2, 3):
        X[n - 1 - i] = X[i] + rng.integers(0, 9, m)
        X[n - 2 - i] = X[i] + rng.integers(0, 25, m)
    X[5] = X[11] = 0
    codes = X @ rng.random((m, 4))
    return X.astype(dtype), codes


@pytest.fixture
def narrow(monkeypatch):
    """Let small data go through every cut that large data does."""
    for name, value in (("PANEL", 13), ("FIRST", 1), ("MORE", 4), ("_AT_ONCE", 600)):
        monkeypatch.setattr(room, name, value)


def found_by(codes, X, near, distance, most=10**6, flipped=None):
    norms, unit = norms_of(X.__getitem__, len(X))
    return near_pairs(codes, X.__getitem__, norms, near, distance, most, flipped=flipped, unit=unit)


# --- pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_pairs_are_those_of_a_plain_loop(narrow, rng, dtype, mirrored):
    X, codes = with_copies(rng, dtype=dtype)
    turned, other = X[:, ::-1], (X[:, ::-1] @ rng.random((12, 4)) if mirrored else None)
    if mirrored:  # as a transform would give them: nearly those of the picture that it mirrors
        X[30], other[7] = X[7, ::-1], codes[7]
        turned, codes[30] = X[:, ::-1], codes[7] * 1.5
    for near, distance in ((0.0, 2.0), (0.99, 0.2)):
        found = found_by(codes, X, near, distance, flipped=(other, turned.__getitem__) if mirrored else None)
        expected = reference.near_pairs(codes, X, near, distance, other, turned)
        got = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
        assert got == sorted(expected)
        assert len(expected) > 8
        np.testing.assert_allclose(found.scores, [expected[pair][0] for pair in got], atol=1e-12)
        np.testing.assert_allclose(found.distances, [expected[pair][1] for pair in got], atol=1e-6)
        assert found.crowded == found.dropped == 0
        if mirrored:
            assert (7, 30) in got


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_unit_of_the_pixels_does_not_matter(rng, unit):
    X, codes = with_copies(rng, dtype=np.float64)
    a, b = found_by(codes, X, 0.99, 0.2), found_by(codes, X * unit, 0.99, 0.2)
    assert len(a.first) and (a.first.tolist(), a.second.tolist()) == (b.first.tolist(), b.second.tolist())


def test_too_many_pairs_leave_the_most_similar(rng):
    X, codes = with_copies(rng)
    everything = found_by(codes, X, 0.5, 1.0)
    some = found_by(codes, X, 0.5, 1.0, most=20)
    assert len(some.first) == 20 and some.dropped == len(everything.first) - 20
    np.testing.assert_array_equal(np.sort(some.scores), np.sort(everything.scores)[-20:])


def test_a_crowd_of_equal_codes_is_cut_and_counted(monkeypatch, rng):
    monkeypatch.setattr(room, "CANDIDATES", 16)
    X = rng.integers(1, 200, (40, 6)).astype(np.uint8)
    found = found_by(np.ones((40, 2)), X, 0.99, 2.0)
    assert found.crowded == 40
    with pytest.warns(UserWarning, match="pictures have more than .* others with a cosine of at least 0.99"):
        engine_of(X, np.ones((40, 2))).duplicates(distance=2.0)


def test_pairs_need_no_matrix_of_all_with_all(rng):
    codes = rng.random((20_000, 4)).astype(np.float32)
    codes[7] = codes[19_000]
    found_by(codes[:1000], codes[:1000], 0.99, 0.1)  # compiles all kernels, which is slow while memory is traced
    tracemalloc.start()
    found = found_by(codes, codes, 0.9999999, 1e-9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.first.tolist(), found.second.tolist()) == ([7], [19_000])
    assert peak < 60e6  # all with all would be 1,600 MB in float32


# --- groups ---------------------------------------------------------------------------------------


def test_groups_are_those_of_scipy(rng):
    for n in (2, 9, 40):
        scores = rng.random((n, n))
        scores = np.maximum(scores, scores.T)
        first, second = np.nonzero(np.triu(scores > 0.6, 1))
        for method in ("single", "complete"):
            distances = squareform(1 - scores, checks=False)
            labels = fcluster(linkage(distances, method), 0.4, "distance")
            expected = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
            found = linked(n, first, second, scores[first, second], method)
            assert [group.tolist() for group in found] == sorted(group for group in expected if len(group) > 1)


def test_every_two_of_a_complete_group_are_a_pair_and_the_score_is_the_least_inside(rng):
    # Points on an arc: each is close to the next ones, the first and the last are far apart.
    for n in (8, 80):
        angles = np.linspace(0, 1.2, n)
        X = np.column_stack([np.cos(angles), np.sin(angles)])
        (chain,) = engine_of(X).duplicates(near=0.98, distance=0.3)
        assert len(chain) == n and chain.score == pytest.approx(np.cos(1.2))
        for group in engine_of(X).duplicates(near=0.98, distance=0.3, linkage="complete"):
            assert group.score >= 0.98
            inside = X[group.rows] @ X[group.rows].T
            assert group.score == pytest.approx(inside.min())
            np.testing.assert_allclose(group.scores, inside[0])


def test_kinds_are_kept_apart_and_a_row_is_surplus_once(rng):
    X = rng.integers(0, 250, (30, 12)).astype(np.uint8)
    X[[4, 9]] = X[2]
    X[20] = X[2] + 1
    X[[6, 7]] = 0
    X[25] = X[2] * 0 + 1  # nearly black is not black
    found = engine_of(X).duplicates()
    kinds = [(group.kind, group.rows.tolist(), group.score) for group in found]
    assert kinds[:2] == [("pixels", [2, 4, 9], 1.0), ("pixels", [6, 7], 1.0)]
    assert [(kind, rows) for kind, rows, _ in kinds[2:]] == [("near", [2, 20])]
    assert found.surplus.tolist() == [4, 7, 9, 20]
    assert [group.kind for group in engine_of(X).duplicates(kinds=["near"], near=1 - 1e-9, distance=0)] == ["near"]
    assert not len(engine_of(X[10:15]).duplicates())


def test_equal_codes_are_not_equal_pictures(rng):
    X = rng.integers(0, 250, (10, 12)).astype(np.uint8)
    assert not len(engine_of(X, np.ones((10, 3))).duplicates(distance=0.05))
    X[3] = X[8] + 1
    assert [group.rows.tolist() for group in engine_of(X, np.ones((10, 3))).duplicates(distance=0.05)] == [[3, 8]]


@pytest.mark.parametrize("shape", [(6, 8), (4, 4, 3)])
def test_mirror_images_are_found_when_asked_for(rng, shape):
    X = rng.integers(0, 250, (40, *shape)).astype(np.uint8)
    X[30] = X[3, :, ::-1]
    X[31] = X[3]
    engine = SearchEngine(4, max_iter=300).fit(X, progress=False)
    assert [group.rows.tolist() for group in engine.duplicates()] == [[3, 31]]
    pixels, near = engine.duplicates(mirrored=True, near=0.9)
    assert pixels.rows.tolist() == [3, 31] and near.rows.tolist() == [3, 30]
    assert near.mirrored.tolist() == [False, True] and near.distances.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"near": 1.5}, ValueError, r"near=1.5 is out of range: give a number from 0 to 1"),
        ({"near": float("nan")}, ValueError, "near=nan is out of range"),
        ({"distance": -1}, ValueError, "distance=-1 is out of range"),
        ({"linkage": "ward"}, ValueError, "linkage='ward' is unknown"),
        ({"kinds": "near"}, ValueError, "must name at least one of"),
        ({"kinds": ["near", "far"]}, ValueError, "must name at least one of"),
        ({"max_pairs": 0}, ValueError, "max_pairs=0 must be a whole number"),
        ({"mirrored": True}, InputError, "mirrored=True needs pictures"),
        ({"folder": "no/such"}, InputError, "there is no folder 'no/such'"),
        ({"folder": "."}, InputError, "have no names to be found"),
    ],
)
def test_what_is_asked_amiss_is_refused(rng, asked, error, message):
    with pytest.raises(error, match=message):
        engine_of(rng.random((5, 3))).duplicates(**asked)


# --- files ----------------------------------------------------------------------------------------


def smooth(rng, side=24):
    """Return a picture that is little changed when it is made smaller or larger."""
    few = Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8))
    return np.asarray(few.resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path, rng):
    """Give a folder of pictures in which 0.png and 1.png are there several times, in several ways."""
    home = tmp_path / "pictures"
    (home / "sub").mkdir(parents=True)
    for number in range(12):
        Image.fromarray(smooth(rng)).save(home / f"{number}.png")
    shutil.copy(home / "0.png", home / "sub" / "0.png")
    Image.open(home / "0.png").save(home / "0.bmp")
    Image.open(home / "1.png").convert("L").resize((12, 12)).save(home / "1-small.png")
    Image.open(home / "1.png").resize((48, 48)).save(home / "1-large.png")
    return home


def read(home, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nmfcore.images import load_images

        pictures = load_images(home, (24, 24), recursive=True, progress=False)
        return SearchEngine(3, max_iter=60, **settings).fit(pictures, progress=False)


def contents(home):
    return {p.relative_to(home).as_posix(): p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file()}


def named(found, engine):
    names = engine.model.names
    return {(group.kind, names[group.keep]): sorted(names[row] for row in group.surplus) for group in found}


def test_files_pixels_and_near_pictures_of_a_folder(folder):
    engine = read(folder)
    found = engine.duplicates(distance=0.3)
    assert named(found, engine) == {
        ("file", "0.png"): ["sub/0.png"],
        ("pixels", "0.bmp"): ["0.png"],  # the larger file of as many pixels
        ("near", "1-large.png"): ["1-small.png", "1.png"],
    }
    assert found.path(found.groups[0].keep) == folder / "0.png"
    assert found.notes == ()


def test_pictures_that_are_equal_only_when_they_are_small_are_no_equal_pixels(folder, rng):
    """A difference that the size of the model does not show."""
    a = np.full((96, 96), 128, np.uint8)
    b = a.copy()
    b[40, 40] += 1
    for name, picture in (("a.png", a), ("b.png", b)):
        Image.fromarray(picture).save(folder / name)
    engine = read(folder)
    names = engine.model.names
    i, j = names.index("a.png"), names.index("b.png")
    assert (engine.originals([i]) == engine.originals([j])).all()
    kinds = {group.kind for group in engine.duplicates() if i in group.rows}
    assert kinds == {"near"}


@pytest.mark.parametrize("what", ["pixels", "size", "age", "name"])
def test_which_one_to_keep(tmp_path, rng, what):
    picture = Image.fromarray(smooth(rng))
    best, other = ("b", "a") if what != "name" else ("a2", "a10")
    for name in (best, other):
        picture.save(tmp_path / f"{name}.png")
        os.utime(tmp_path / f"{name}.png", (1e9, 1e9))
    if what == "pixels":  # with fewer bytes, and younger
        picture.resize((48, 48)).save(tmp_path / "b.jpg", quality=90)
        (tmp_path / "b.png").unlink()
        best = "b.jpg"
    elif what == "size":  # of a younger file
        (tmp_path / "b.png").unlink()
        picture.save(tmp_path / "b.bmp")
        best = "b.bmp"
    elif what == "age":
        os.utime(tmp_path / "b.png", (1e8, 1e8))
    engine = read(tmp_path)
    (group,) = engine.duplicates(near=0.5, distance=0.5)
    assert engine.model.names[group.keep].startswith(best)


def test_without_the_files_pixels_decide_and_a_warning_says_so(folder):
    engine = read(folder)
    moved = folder.with_name("elsewhere")
    folder.rename(moved)
    with pytest.warns(UserWarning, match="16 of 16 pictures have no file"):
        found = engine.duplicates(distance=0.3)
    assert {group.kind for group in found} == {"pixels", "near"}
    with pytest.raises(InputError, match="there are no files to move"):
        found.move_to(folder.with_name("out"))
    again = engine.duplicates(distance=0.3, folder=moved)
    assert again.groups[0].kind == "file" and not again.notes


def test_names_of_a_model_lead_to_no_file_outside_of_its_folder(tmp_path, rng):
    home = tmp_path / "home"
    home.mkdir()
    picture = smooth(rng)
    for path in (tmp_path / "secret.png", home / "a.png"):
        Image.fromarray(picture).save(path)
    names = ("../secret.png", str(tmp_path / "secret.png"), "a.png")
    engine = engine_of(np.stack([picture.ravel()] * 3), shape=(24, 24), names=names, source=str(home))
    with pytest.warns(UserWarning, match="2 of 3 pictures have no file"):
        found = engine.duplicates()
    assert [found.path(row) for row in range(3)] == [None, None, home / "a.png"]


def test_pages_of_a_file_are_compared_and_never_moved(tmp_path, rng):
    pages = [Image.fromarray(smooth(rng)) for _ in range(3)]
    home = tmp_path / "home"
    home.mkdir()
    pages[0].save(home / "stack.tif", save_all=True, append_images=[pages[1], pages[0], pages[2]])
    pages[1].save(home / "z.png")
    engine = read(home)
    found = engine.duplicates(kinds=["file", "pixels"])
    names = engine.model.names
    groups = [sorted(names[row] for row in group.rows) for group in found]
    assert sorted(groups) == [["stack.tif#1", "stack.tif#3"], ["stack.tif#2", "z.png"]]
    before = contents(home)
    undo, left = found.move_to(tmp_path / "out")
    assert any("holds other pages" in text for text in left)
    assert undo is None or set(before) - set(contents(home)) == {"z.png"}


# --- moving ---------------------------------------------------------------------------------------


def test_what_was_moved_comes_back(folder, tmp_path):
    engine = read(folder)
    before, out = contents(folder), tmp_path / "out"
    found = engine.duplicates(distance=0.3)
    out.mkdir()
    (out / "1.png").write_bytes(b"mine")
    moves, left = found.moves(out)
    assert contents(folder) == before and left == []  # only said
    undo, left = found.move_to(out)
    assert left == [] and len(moves) == len(found.surplus) == 4
    assert set(before) - set(contents(folder)) == {engine.model.names[row] for row in found.surplus}
    assert (out / "1.png").read_bytes() == b"mine" and (out / "1-2.png").read_bytes() == before["1.png"]
    assert (out / "sub" / "0.png").read_bytes() == before["sub/0.png"]
    after = {**contents(folder), **contents(out)}
    assert sorted(before.values()) == sorted(v for k, v in after.items() if k != undo.name and v != b"mine")
    assert undo_moves(undo) == (4, [])
    assert contents(folder) == before
    assert undo_moves(undo) == (0, [])
    again, _ = found.move_to(out)
    assert again != undo and undo.exists()


@pytest.mark.parametrize("disk", ["same", "another", "without links"])
@pytest.mark.parametrize("broken", ["link", "unlink", "mkdir", "copy2"])
def test_an_interruption_at_any_moment_loses_nothing(tmp_path, monkeypatch, disk, broken):
    home = tmp_path / "home"
    home.mkdir()
    before = {}
    for number in range(3):
        (home / f"{number}.png").write_bytes(b"%d" % number)
    before = contents(home)
    moves = [Move(home / f"{n}.png", tmp_path / "out" / str(n) / "x.png", None) for n in range(3)]
    link = os.link

    def refused(source, target, **options):
        if disk != "same" and (disk == "without links" or os.path.dirname(source) == str(home)):
            raise OSError(18, "another disk")
        link(source, target, **options)

    monkeypatch.setattr(moving.os, "link", refused)
    happened = False
    for moment in range(1, 9):
        place = {"mkdir": moving.Path, "copy2": moving.shutil}.get(broken, moving.os)
        original, calls = getattr(place, broken), []

        def interrupt(*given, original=original, calls=calls, moment=moment, **options):
            calls.append(given)
            if len(calls) == moment:
                raise KeyboardInterrupt
            return original(*given, **options)

        with monkeypatch.context() as patched:
            patched.setattr(place, broken, interrupt)
            try:
                undo = move_files(moves, tmp_path / "out")
            except KeyboardInterrupt as error:
                happened = True
                undo = next(iter((tmp_path / "out").glob("*.json")), None) if (tmp_path / "out").exists() else None
                assert undo is None or "moves them back" in "".join(getattr(error, "__notes__", []))
        held = {**contents(home), **(contents(tmp_path / "out") if (tmp_path / "out").exists() else {})}
        assert set(before.values()) <= set(held.values())
        if undo is not None:
            _, left = undo_moves(undo)
            both = [text for text in left if "there is a file" in text]  # a copy whose original had not gone yet
            assert left == both and (not both or disk != "same")
        assert contents(home) == before
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert happened or (broken == "copy2" and disk == "same")


def test_no_file_is_replaced(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    with pytest.raises(FileExistsError):
        move_files([Move(tmp_path / "a", tmp_path / "b", None)], tmp_path / "out")
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"a", b"b"]
    undo = move_files([Move(tmp_path / "a", tmp_path / "out" / "a", None)], tmp_path / "out")
    (tmp_path / "a").write_bytes(b"new")
    back, (text,) = undo_moves(undo)
    assert back == 0 and "stays, as there is a file" in text
    assert (tmp_path / "a").read_bytes() == b"new"
    (tmp_path / "a").unlink()
    (tmp_path / "out" / "a").unlink()
    assert "is not there any more" in undo_moves(undo)[1][0]


@pytest.mark.parametrize("how", ["changed", "kept changed", "gone", "link", "led to"])
def test_what_is_not_what_it_was_stays(folder, tmp_path, rng, how):
    engine = read(folder)
    if how == "led to":
        (folder / "a-link.png").symlink_to(folder / "1.png")
        engine = read(folder)
    found = engine.duplicates(distance=0.3)
    if how == "changed":
        Image.fromarray(smooth(rng)).save(folder / "1.png")
    elif how == "kept changed":
        Image.fromarray(smooth(rng)).save(folder / "1-large.png")
    elif how == "gone":
        (folder / "1.png").unlink()
    elif how == "link":
        (folder / "1.png").rename(tmp_path / "1.png")
        (folder / "1.png").symlink_to(tmp_path / "1.png")
    before = contents(folder)
    _, left = found.move_to(tmp_path / "out")
    assert any("'1.png'" in text for text in left), left
    assert ("1.png" in contents(folder)) == ("1.png" in before)


@pytest.mark.parametrize("target", ["pictures", "pictures/surplus", "link/surplus"])
def test_surplus_pictures_do_not_go_where_they_would_be_found_again(folder, tmp_path, target):
    (tmp_path / "link").symlink_to(folder)
    found = read(folder).duplicates()
    with pytest.raises(InputError, match="choose a folder outside of it"):
        found.move_to(tmp_path / target)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"format": "x"}', b'{"format": "nmfcore-moves", "version": 1, "moves": [{}]}',
                b'{"format": "nmfcore-moves", "version": 1, "moves": [{"from": "a", "to": "b"}]}', b"\xff",
                b'{"format": "nmfcore-moves", "version": 2}'],
)  # fmt: skip
def test_only_a_list_of_moves_is_undone(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"is no list of moved files|by a newer nmfcore"):
        undo_moves(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        undo_moves(tmp_path / "y.json")


# --- what is shown --------------------------------------------------------------------------------


def test_text_table_and_thumbnails(rng, tmp_path):
    X = rng.integers(0, 250, (30, 6, 6)).astype(np.uint8).reshape(30, -1)
    X[9], X[20] = X[2], X[3] + 1
    names = tuple("<b>&.png" if row == 2 else f"{row}.png" for row in range(30))
    engine = SearchEngine(2).fit(Pictures(X, (6, 6), names), progress=False)
    with pytest.warns(UserWarning, match="30 of 30 pictures have no file that is known"):
        found = engine.duplicates()
    assert repr(found).splitlines() == [
        "2 groups of duplicates (1 equal pixels, 1 near), 2 surplus:",
        "  equal pixels, score 1.000: 9.png, <b>&.png",
        "  near, score 1.000: 3.png, 20.png",
    ]
    page = found._repr_html_()
    assert page.count("<img") == 4 and "&lt;b&gt;&amp;.png" in page and "<b>&.png" not in page
    assert pickle.loads(pickle.dumps(found)).surplus.tolist() == found.surplus.tolist() == [2, 20]
    lines = found.to_csv().splitlines()
    assert lines[0] == "group,kind,row,name,keep,score,distance,mirrored" and len(lines) == 5
    found.to_csv(tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().splitlines() == lines
    pandas = pytest.importorskip("pandas")
    frame = found.to_pandas()
    assert list(frame.columns) == lines[0].split(",") and frame["keep"].tolist() == [True, False] * 2
    assert isinstance(frame, pandas.DataFrame)
    nothing = dataclasses.replace(found, groups=())
    assert repr(nothing) == "no duplicates" and nothing._repr_html_() is None and not len(nothing.surplus)


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    for module in ("typer", "rich", "matplotlib"):
        pytest.importorskip(module, reason="the command line needs the extra 'app'")
    from nmfcore import cli

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        code = cli.main(["duplicates", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_command_on_a_folder(run, folder, tmp_path):
    before = contents(folder)
    code, out, err = run("pictures", "--recursive", "--distance", 0.3)
    assert code == 0 and [line for line in err.splitlines() if "lie beside the folders" not in line] == []
    assert out.startswith("3 groups of duplicates (1 equal files, 1 equal pixels, 1 near), 4 surplus")
    code, out, _ = run("pictures", "--recursive", "--exact", "--json")
    kinds = [group["kind"] for group in json.loads(out)["groups"]]
    assert (code, kinds) == (0, ["file", "pixels"])
    code, out, err = run("pictures", "--recursive", "--exact", "--move-to", "out")
    assert code == 0 and "2 files would be moved to 'out'; nothing was moved: --yes moves them" in err
    assert contents(folder) == before and not (tmp_path / "out").exists()
    code, out, err = run("pictures", "--recursive", "--exact", "--move-to", "out", "--yes", "--json")
    said = json.loads(out)
    assert code == 0 and said["moved"] == 2 and len(contents(folder)) == len(before) - 2
    code, out, _ = run("--undo", said["undo"])
    assert code == 0 and "2 files" in out and contents(folder) == before


def test_the_command_on_a_model(run, folder):
    read(folder).save("model")
    engine = SearchEngine.load("model")
    code, out, _ = run("model", "--csv", "--near", 0.98)
    assert code == 0 and out == engine.duplicates(0.98).to_csv()
    Image.open(folder / "2.png").rotate(90).save(folder / "1.png")
    code, _, err = run("model", "--move-to", "out", "--yes", "--distance", 0.3)
    assert code == 1 and "'1.png' stays, as it or the picture to keep has changed" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a folder of pictures, the folder that nmfcore fit wrote, or --undo FILE"),
        (("nowhere",), "there is neither a folder nor a model 'nowhere'"),
        (("pictures", "--yes"), "--yes confirms --move-to DIR"),
        (("pictures", "--json", "--csv"), "--json and --csv exclude each other"),
        (("pictures", "--undo", "x"), "--undo takes the file that --move-to wrote, and nothing else"),
        (("--undo", "x"), "there is no file 'x': give the one that --move-to wrote"),
        (("pictures", "--exact", "--move-to", "pictures/out", "--yes"), "choose a folder outside of it"),
        (("pictures", "--exact", "--linkage", "ward"), "linkage='ward' is unknown"),
        (("pictures/0.png",), "is no model: give the folder that nmfcore fit wrote"),
    ],
)
def test_the_command_refuses_in_one_sentence(run, folder, arguments, message):
    before = contents(folder)
    code, _, err = run(*arguments)
    assert code == 2 and message in err and err.rstrip().splitlines()[-1].startswith("nmfcore: ")
    assert contents(folder) == before
