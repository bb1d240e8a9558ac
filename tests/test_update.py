"""An index that follows its folder: what counts as changed, what codes come out, and what a kill leaves behind."""

import dataclasses
import json
import logging
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="the extra 'app' is not installed")

from nmfcore import images, models  # noqa: E402
from nmfcore._files import FileFault  # noqa: E402
from nmfcore.images import InputError, load_images  # noqa: E402
from nmfcore.models import ModelFileError  # noqa: E402
from nmfcore.search import Changes, SearchEngine, manifest, update  # noqa: E402
from nmfcore.search.folders import append_rows, exchanged, replaced_folder  # noqa: E402

SIZE = (8, 6)


def pixels(number):
    """Return a picture of its own for each number: a mixture of four fixed patterns, and a little noise."""
    rng = np.random.default_rng(number)
    parts = np.random.default_rng(99).random((4, *SIZE)) ** 3
    mixed = np.tensordot(rng.random(4), parts, 1) + 0.02 * rng.random(SIZE)
    return np.uint8(255 * mixed / 4)


def draw(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number)).save(path)


def folder_of(place, count=20, names="{}.png"):
    for number in range(count):
        draw(place / names.format(number), number)
    return place


@pytest.fixture
def settled(monkeypatch):
    """Files that tests write count as old: nobody writes them again within the tick of a clock."""
    monkeypatch.setattr(manifest, "_TICK", -(10**18))


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "pictures")


def fitted(folder, **options):
    return SearchEngine(3, tol=1e-2).fit(folder, progress=False, **options)


@pytest.fixture
def engine(settled, folder):
    return fitted(folder)


def codes(engine):
    return {name: code.tobytes() for name, code in zip(engine.model.names, engine.model.W, strict=True)}


def fresh(engine, path):
    return engine.transform(path)[0].astype(engine.model.W.dtype).tobytes()


def state(engine):
    """Return everything of an engine that must fit together."""
    rows = engine.originals(range(len(engine)))
    return sorted(zip(engine.model.names, map(bytes, engine.model.W), map(bytes, rows), strict=True))


def check_whole(engine, folder):
    """Every picture of the folder is in the engine, with its own pixels, and no other."""
    there = load_images(folder, progress=None, recursive=True, labels=None)
    rows = dict(zip(there.names, there.matrix, strict=True))
    assert sorted(engine.model.names) == sorted(there.names)
    for name, row in zip(engine.model.names, engine.originals(range(len(engine))), strict=True):
        np.testing.assert_array_equal(row, rows[name], err_msg=name)


# --- what has changed -----------------------------------------------------------------------------


def test_each_kind_of_change(engine, folder):
    before = codes(engine)
    draw(folder / "new.png", 100)
    draw(folder / "3.png", 101)
    (folder / "4.png").unlink()
    (folder / "5.png").rename(folder / "moved.png")
    (folder / "bad.png").write_bytes(b"no picture")
    changes = engine.update(progress=None)
    assert (changes.added, changes.changed, changes.removed) == (("new.png",), ("3.png",), ("4.png",))
    assert changes.renamed == (("5.png", "moved.png"),)
    assert changes.broken == {"bad.png": "is not a picture that can be read"} and changes.unchanged == 17
    assert repr(changes).startswith(
        "1 added: new.png\n1 changed: 3.png\n1 removed: 4.png\n1 renamed: 5.png → moved.png\n"
    )
    after = codes(engine)
    for name in ("new.png", "3.png"):
        assert after[name] == fresh(engine, folder / name), name
    assert after["moved.png"] == before["5.png"]
    assert all(after[name] == before[name] for name in set(before) & set(after) - {"3.png"})
    assert engine.model.names[:4] == ("0.png", "1.png", "2.png", "3.png") and engine.model.names[-1] == "new.png"
    (folder / "bad.png").unlink()
    check_whole(engine, folder)


def change_somehow(folder, rng, number):
    """Do one thing that people and programs do to a folder of pictures."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    a, b = rng.choice(names, 2, replace=False)
    one, other = folder / a, folder / b
    new = folder / rng.choice(["", "sub/", "sub/deep/"]) / f"n{number}.png"
    new.parent.mkdir(parents=True, exist_ok=True)
    match rng.integers(9):
        case 0 | 1:
            draw(new, 1000 + number)
        case 2:
            draw(one, 1000 + number)
        case 3:
            one.unlink()
        case 4:
            one.rename(new)
        case 5:  # onto another one
            one.replace(other)
        case 6:  # two change places
            one.rename(folder / "between")
            other.rename(one)
            (folder / "between").rename(other)
        case 7:  # the name is taken over by a new picture
            one.rename(new)
            draw(one, 1000 + number)
        case 8:
            shutil.copyfile(one, new)
            os.utime(other, ns=(7, 7 + number))


@pytest.mark.parametrize("seed", range(12))
def test_any_changes_leave_a_whole_index(seed, settled, folder, tmp_path):
    rng = np.random.default_rng(seed)
    draw(folder / "sub" / "0.png", 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pictures beside subfolders
        engine = SearchEngine(3, tol=1e-2).fit(load_images(folder, recursive=True, progress=None))
        home = tmp_path / "model"
        engine.save(home)
        engine = SearchEngine.load(home)
        assert not engine.update(folder, progress=None).lines()
        number = 0
        for _ in range(3):
            held = {}  # codes of each content; a copy may have another one than what it was copied from
            for row, code in zip(engine.originals(range(len(engine))), map(bytes, engine.model.W), strict=True):
                held.setdefault(bytes(row), set()).add(code)
            for _ in range(rng.integers(1, 6)):
                number += 1
                change_somehow(folder, rng, number)
            changes = engine.update(progress=None)
            check_whole(engine, folder)
            came = {*changes.added, *changes.changed}
            for name, row, code in zip(
                engine.model.names, engine.originals(range(len(engine))), map(bytes, engine.model.W), strict=True
            ):
                assert code in ({fresh(engine, folder / name)} if name in came else held[bytes(row)]), name
            if rng.integers(2):  # sometimes several updates are written at once
                engine.save(home, overwrite=True)
                again = SearchEngine.load(home)
                assert state(again) == state(engine) and again.model.names == engine.model.names
                engine = again
            assert not engine.update(progress=None).lines()


def test_equal_size_and_date_is_left_alone(engine, folder, monkeypatch):
    engine.update(progress=None)
    model = engine.model
    monkeypatch.setattr(manifest, "digest_of", lambda path: pytest.fail(f"{path} was read"))
    assert engine.update(progress=None).unchanged == 20
    assert engine.model is model  # nothing to write, either


def test_a_new_date_alone_changes_nothing(engine, folder, monkeypatch):
    before = codes(engine)
    os.utime(folder / "3.png", ns=(10**18, 10**18))
    changes = engine.update(progress=None)
    assert not changes.lines() and codes(engine) == before
    monkeypatch.setattr(manifest, "digest_of", lambda path: pytest.fail(f"{path} was read again"))
    engine.update(progress=None)


@pytest.mark.parametrize("updated", [False, True], ids=["since the fit", "since an update"])
def test_a_change_within_the_tick_of_a_clock_is_noticed(folder, updated):
    engine = fitted(folder)
    if updated:
        draw(folder / "new.png", 77)
        engine.update(progress=None)
    seen = os.stat(folder / "3.png")
    draw(folder / "3.png", 1003)
    with open(folder / "3.png", "ab") as file:  # bytes after the end of a PNG file do not matter
        file.write(b"x" * max(0, seen.st_size - os.stat(folder / "3.png").st_size))
    assert os.stat(folder / "3.png").st_size >= seen.st_size
    if os.stat(folder / "3.png").st_size == seen.st_size:
        os.utime(folder / "3.png", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert engine.update(progress=None).changed == ("3.png",)
    assert codes(engine)["3.png"] == fresh(engine, folder / "3.png")


def test_broken_files_are_told_each_time_and_not_decoded_again(engine, folder, monkeypatch):
    (folder / "bad.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((8, 30), np.uint8)).save(folder / "wide.png")
    first = engine.update(progress=None)
    assert set(first.broken) == {"bad.png", "wide.png"} and "other proportions" in first.broken["wide.png"]
    monkeypatch.setattr(update, "decode_files", lambda *a: pytest.fail("decoded again"))
    assert engine.update(progress=None).broken == first.broken
    monkeypatch.undo()
    draw(folder / "bad.png", 60)
    draw(folder / "3.png", 61)
    (folder / "3.png").write_bytes(b"half a picture")
    changes = engine.update(progress=None)
    assert changes.added == ("bad.png",) and changes.removed == ("3.png",) and "3.png" in changes.broken
    assert "3.png" not in engine.model.names and len(engine) == 20


def test_pages_of_a_file_belong_together(settled, folder):
    def stack(numbers):
        first, *rest = (Image.fromarray(pixels(number)) for number in numbers)
        first.save(folder / "stack.tif", save_all=True, append_images=rest)

    stack([30, 31, 32])
    engine = fitted(folder)
    before = codes(engine)
    (folder / "stack.tif").rename(folder / "other.tif")
    assert engine.update(progress=None).renamed == (("stack.tif", "other.tif"),)
    assert [codes(engine)[f"other.tif#{page}"] for page in (1, 2, 3)] == [
        before[f"stack.tif#{page}"] for page in (1, 2, 3)
    ]
    (folder / "other.tif").unlink()
    stack([30, 31])
    changes = engine.update(progress=None)
    assert changes.added == ("stack.tif",) and changes.removed == ("other.tif",)
    stack([33, 34, 35, 36])
    assert engine.update(progress=None).changed == ("stack.tif",)
    check_whole(engine, folder)


def test_labels_follow_the_first_folder(settled, tmp_path):
    folder = tmp_path / "animals"
    for number in range(12):
        draw(folder / ("cats" if number % 2 else "dogs/small") / f"{number}.png", number)
    engine = SearchEngine(3, tol=1e-2).fit(load_images(folder, recursive=True, progress=None))
    (folder / "cats" / "1.png").rename(folder / "dogs" / "1.png")
    draw(folder / "birds" / "x.png", 70)
    draw(folder / "cats" / "3.png", 71)
    engine.update(progress=None)
    assert dict(zip(engine.model.names, engine.model.labels.tolist(), strict=True)) == {
        name: name.partition("/")[0] for name in engine.model.names
    }
    check_whole(engine, folder)


def test_pictures_of_a_folder_that_cannot_be_read_stay(engine, folder, monkeypatch):
    draw(folder / "sub" / "a.png", 40)
    with pytest.warns(UserWarning, match="beside the folders"):
        pictures = load_images(folder, recursive=True, progress=None)
    engine = SearchEngine(3, tol=1e-2).fit(pictures)
    scan = os.scandir

    def refusing(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "no", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.warns(UserWarning, match=r"1 folder below .*'sub/'.* cannot be read"):
        assert not engine.update(progress=None).lines()
    assert "sub/a.png" in engine.model.names


def test_a_moved_folder_and_added_pictures(engine, folder, tmp_path):
    engine.add(np.stack([pixels(80).ravel()] * 2))
    moved = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="there is no folder"):
        engine.update(progress=None)
    assert not engine.update(moved, progress=None).lines()
    assert len(engine) == 22 and not engine.update(progress=None).lines()  # where it was found last


def test_new_pictures_unlike_the_others_are_said(settled, tmp_path):
    folder = folder_of(tmp_path / "pictures", 90)
    engine = SearchEngine(4, tol=1e-4).fit(folder, progress=False)
    for number in range(100, 110):
        draw(folder / f"{number}.png", number)
    assert not engine.update(progress=None).drifted
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, SIZE, np.uint8)).save(folder / "noise.png")
    changes = engine.update(progress=None)
    assert changes.drifted and changes.error > 1.2 * changes.former_error
    assert not Changes().drifted  # nothing is new


# --- what is refused ------------------------------------------------------------------------------


def test_no_folder_is_taken_for_an_empty_one(engine, folder, tmp_path):
    before, model = state(engine), engine.model
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden").mkdir()
    draw(tmp_path / "hidden" / ".1.png", 0)
    for name, said in (
        ("none", "no folder"),
        ("empty", "no pictures"),
        ("hidden", "no pictures"),
        ("pictures/1.png", "no folder"),
    ):
        with pytest.raises(InputError, match=said):
            engine.update(tmp_path / name, yes=True, progress=None)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "1.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"none of the 1 pictures in .* can be read"):
        engine.update(broken, yes=True, progress=None)
    assert engine.model is model and state(engine) == before


@pytest.mark.parametrize("gone, refused", [(10, False), (11, True)])
def test_more_than_half_gone_asks(engine, folder, gone, refused):
    for number in range(gone):
        (folder / f"{number}.png").unlink()
    draw(folder / "new.png", 100)  # what comes does not make up for what goes
    if refused:
        with pytest.raises(InputError, match=r"11 of 20 pictures .* give --yes \(yes=True\)"):
            engine.update(progress=None)
        assert len(engine) == 20
    changes = engine.update(yes=refused, progress=None)
    assert len(changes.removed) == gone and len(engine) == 21 - gone
    check_whole(engine, folder)


def test_half_overwritten_by_what_cannot_be_read_asks(engine, folder):
    for number in range(11):
        (folder / f"{number}.png").write_bytes(b"a copy that has failed")
    with pytest.raises(InputError, match="11 of 20 pictures"):
        engine.update(progress=None)
    assert len(engine) == 20


def test_models_of_other_data_follow_no_folder(folder):
    with pytest.raises(InputError, match="made of a matrix or a file"):
        SearchEngine(3, tol=1e-2).fit("digits", progress=False).update(folder)
    given = SearchEngine(3, tol=1e-2).fit(load_images(folder, progress=None))
    given._model = dataclasses.replace(given.model, source="", files=None)
    with pytest.raises(InputError, match="give the folder"):
        given.update()
    assert not given.update(folder, progress=None).lines()


def test_a_damaged_list_of_files_is_said(engine):
    for name, spoilt in (("rows", np.arange(99)), ("sizes", np.zeros(3)), ("names", [1]), ("digests", None)):
        engine._model = dataclasses.replace(engine.model, files=engine.model.files | {name: spoilt})
        with pytest.raises(ModelFileError, match="list of files in the model is damaged"):
            engine.update(progress=None)


# --- models of earlier versions -------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False], ids=["with originals", "without"])
def test_a_model_without_a_list_of_files(engine, folder, tmp_path, kept):
    engine._model = dataclasses.replace(engine.model, files=None)
    engine.save(tmp_path / "m", pictures=kept)
    old = SearchEngine.load(tmp_path / "m")
    before = codes(old)
    draw(folder / "3.png", 300)
    draw(folder / "new.png", 301)
    (folder / "4.png").unlink()
    changes = old.update(progress=None)
    assert (changes.added, changes.removed) == (("new.png",), ("4.png",))
    # Without the originals nobody can say which files are what they were: all are coded anew.
    assert changes.changed == (("3.png",) if kept else tuple(f"{number}.png" for number in range(20) if number != 4))
    if kept:
        assert all(codes(old)[name] == before[name] for name in before if name not in ("3.png", "4.png"))
    assert not old.update(progress=None).lines()
    check_whole(old, folder)


# --- the command line ------------------------------------------------------------------------------


def run(capsys, *arguments):
    from nmfcore.cli import main

    code = main([*map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, " ".join(told.err.split())


def test_the_command_follows_a_folder(settled, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "fit", folder, "-k", 4, "--exclude", "x*", "--exclude", "y*", "--max-time", 5)[0] == 0
    monkeypatch.chdir(folder)  # the model knows where its folder is
    home = tmp_path / "nmfcore-pictures"
    before = codes(SearchEngine.load(home))
    code, out, said = run(capsys, "update", home)
    assert code == 0 and "none" in out and "20 rows, 20 files as they were" in out
    draw(folder / "x.png", 90)
    (folder / "3.png").rename(folder / "[red]three.png")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, SIZE, np.uint8)).save(folder / "noise.png")
    code, out, said = run(capsys, "update", home)
    assert (
        code == 0 and "1 added" in out and "noise.png" in out and "3.png → [red]three.png" in out and "x.png" not in out
    )
    assert "21 rows, 19 files as they were" in out and f"written to   {home}" in out
    assert f"these parts suit them less, and nmfcore fit --from {home} --out NEW learns others" in said
    after = SearchEngine.load(home)
    assert codes(after)["[red]three.png"] == before["3.png"]
    assert codes(after)["noise.png"] == fresh(after, folder / "noise.png")
    assert run(capsys, "search", home, "noise.png", "-n", 2)[0] == 0
    for number in range(4, 18):
        (folder / f"{number}.png").unlink()
    code, out, said = run(capsys, "update", home, folder)
    assert code == 2 and "14 of 21 pictures" in said and "--yes" in said and len(SearchEngine.load(home)) == 21
    code, out, said = run(capsys, "update", home, folder, "--yes")
    assert code == 0 and "14 removed" in out and len(SearchEngine.load(home)) == 7
    code, _, said = run(capsys, "update", home, tmp_path / "none")
    assert code == 2 and "there is no folder" in said


def test_a_fit_begins_with_the_parts_of_a_model(settled, folder, tmp_path, monkeypatch, capsys):
    from nmfcore.cli.again import beginning

    monkeypatch.chdir(tmp_path)
    assert run(capsys, "fit", folder, "-k", 3, "--exclude", "1?.png")[0] == 0
    draw(folder / "new.png", 100)
    before = models.load("nmfcore-pictures")
    assert run(capsys, "fit", "--from", "nmfcore-pictures", "--out", "again", "--max-iter", 1)[0] == 0
    after = models.load("again")
    assert after.names == (*before.names, "new.png")  # the same folder, and the same patterns
    assert after.files["exclude"] == ["1?.png"] and after.parameters["init"] == "custom"
    cosine = (before.components * after.components).sum(1) / np.sqrt(
        (before.components**2).sum(1) * (after.components**2).sum(1)
    )
    assert cosine.min() > 0.98
    settings = {"init": None, "beta_loss": "frobenius", "extrapolate": False, "memory": None, "solver": "mu"}
    reading = {"crop": False, "background": "white", "recursive": False, "exclude": []}
    reading |= {"fit": "stretch", "mask_transparent": False}
    start = beginning("nmfcore-pictures", None, None, settings, None, None, reading)
    assert (start.k, start.size, start.rgb, settings["init"]) == (3, SIZE, False, "custom")
    H = start.parts(load_images(folder, progress=None))  # mu keeps zeros, so there are none
    assert H.min() > 0 and np.abs(H - before.components).max() < 1e-3 * before.components.max()
    np.save("digits.npy", np.random.default_rng(0).random((30, 64)))
    for arguments, wrong in (
        (("--init", "random"), "--init and --from both say how to begin"),
        (("-k", 4), "has 3 parts, so -k 4 cannot begin with them"),
        (("--size", 4), "have 8x6 pixels, and --size says otherwise"),
        (("--crop",), "leave out --crop"),
        (("--letterbox",), "leave out --crop, --background, --letterbox and --mask-transparent"),
        (("--mask-transparent",), "leave out --crop"),
        (("--memory", "1GB"), "leave out --memory"),
        (("digits.npy",), "has 64 features to the row and the model of --from 48"),
    ):
        code, _, said = run(capsys, "fit", *arguments, "--from", "nmfcore-pictures", "--out", "wrong")
        assert code == 2 and wrong in said, said
    folder.rename(tmp_path / "gone")
    assert "are not there: give SOURCE" in run(capsys, "fit", "--from", "nmfcore-pictures", "--out", "wrong")[2]


# --- on the disk ----------------------------------------------------------------------------------


def test_saving_what_is_new_appends(engine, folder, tmp_path):
    home = tmp_path / "model"
    engine.save(home)
    former = (home / "pictures.npy").read_bytes()
    other = SearchEngine.load(home)
    loaded = SearchEngine.load(home)
    draw(folder / "new.png", 100)
    (folder / "0.png").unlink()
    loaded.update(progress=None)
    loaded.save(home, overwrite=True)
    grown = (home / "pictures.npy").read_bytes()
    assert len(grown) == len(former) + 48 and grown[128:].startswith(former[128:])
    assert state(SearchEngine.load(home)) == state(loaded)
    assert [row.tolist() for row in other.originals([0, 19])] == [
        pixels(0).ravel().tolist(),
        pixels(19).ravel().tolist(),
    ]
    draw(folder / "newer.png", 101)
    loaded.update(progress=None)
    loaded.save(home, overwrite=True)  # it goes on from what it has written
    assert state(SearchEngine.load(home)) == state(loaded)
    with pytest.raises(ModelFileError, match="changed by another process"):
        other.save(home, overwrite=True)
    loaded.save(tmp_path / "copy")  # without gaps, in the order of the rows
    np.testing.assert_array_equal(np.load(tmp_path / "copy" / "pictures.npy"), loaded.matrix())
    assert models.load(tmp_path / "copy").places is None


def test_earlier_readers_refuse_what_they_would_mistake(engine, folder, tmp_path):
    home = tmp_path / "model"

    def version():
        with np.load(home / "model.npz") as archive:
            return json.loads(str(archive["meta"]))["version"]

    engine.save(home)
    loaded = SearchEngine.load(home)
    draw(folder / "new.png", 100)
    loaded.update(progress=None)
    loaded.save(home, overwrite=True)
    assert version() == 1  # rows and originals have the same numbers
    loaded.remove("3.png")
    loaded.save(home, overwrite=True)
    assert version() == 2 and state(SearchEngine.load(home)) == state(loaded)


def test_originals_that_are_not_kept_are_found_by_name(engine, folder, tmp_path):
    engine.save(tmp_path / "m", pictures=False)
    bare = SearchEngine.load(tmp_path / "m")
    draw(folder / "00.png", 100)  # before the others in the folder, after them in the model
    (folder / "3.png").unlink()
    bare.update(progress=None)
    bare.save(tmp_path / "m", pictures=False, overwrite=True)
    assert sorted(os.listdir(tmp_path / "m")) == ["model.npz", "search.json"]
    draw(folder / "later.png", 101)  # which the model does not know yet
    again = SearchEngine.load(tmp_path / "m")
    assert again.model.names[-1] == "00.png"
    for name, row in zip(again.model.names, again.originals(range(len(again))), strict=True):
        np.testing.assert_array_equal(
            row, load_images(folder, progress=None).matrix[load_images(folder, progress=None).names.index(name)]
        )
    (folder / "5.png").unlink()
    with pytest.raises(InputError, match="no longer holds"):
        SearchEngine.load(tmp_path / "m").originals([0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_leaves_the_old_or_the_new_state(engine, folder, tmp_path, monkeypatch):
    """Kill a process before each of many lines that it runs while it writes, and look at what is left."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # what is written outlives a process without it
    start = tmp_path / "start"
    engine.save(start)
    draw(folder / "new.png", 100)
    draw(folder / "3.png", 101)
    (folder / "4.png").unlink()
    old = state(SearchEngine.load(start))
    new = None
    watched = ("models.py", "_files.py", "folders.py", "saving.py", "manifest.py", "_npyio_impl.py", "zipfile")
    home, found = tmp_path / "home", set()

    def saved(lines):
        """Save in a process that is killed before it has run so many lines; return how many it ran, and its end."""
        nonlocal new
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(start, home)
        loaded = SearchEngine.load(home)
        loaded.update(progress=None)
        new = new or state(loaded)
        receiver, sender = os.pipe()
        process = os.fork()
        if not process:
            run = 0

            def count(frame, event, argument):
                nonlocal run
                if not any(name in frame.f_code.co_filename for name in watched):
                    return None
                run += event == "line"
                if run > lines:
                    os.kill(os.getpid(), signal.SIGKILL)
                return count

            sys.settrace(count)
            try:
                loaded.save(home, overwrite=True)
            finally:
                sys.settrace(None)
                os.write(sender, str(run).encode())
                os._exit(0)
        _, status = os.waitpid(process, 0)
        os.close(sender)
        with open(receiver) as told:
            return int(told.read() or 0), status

    total, status = saved(10**9)
    assert status == 0 and state(SearchEngine.load(home)) == new
    for lines in np.unique(np.linspace(0, total - 1, 60).astype(int)).tolist():
        assert saved(lines)[1] == signal.SIGKILL
        there = SearchEngine.load(home)
        assert state(there) in (old, new), f"killed after {lines} of {total} lines"
        found.add(state(there) == new)
        if lines % 5 == 0:  # what is left goes on from there
            there.update(progress=None)
            there.save(home, overwrite=True)
            assert state(SearchEngine.load(home)) == new, f"killed after {lines} of {total} lines"
    assert found == {False, True}


def killed(arguments, place, moment):
    """Run a command in a process that is killed before its n-th step that touches files; return how it ended.

    A step opens a file below `place` to write it, renames, removes or makes one, syncs it to the disk, or opens the
    picture new.png.
    """
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]
    steps = 0

    def step():
        nonlocal steps
        if steps == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1

    def watch(event, given):
        changing = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
        if changing or event == "open":
            path = os.path.abspath(os.fsdecode(given[0])) if isinstance(given[0], str | bytes | os.PathLike) else ""
            writes = changing or (isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR))
            if path.startswith(str(place)) and (writes or path.endswith("new.png")):
                step()

    code = 99
    try:
        from nmfcore.cli import main

        os.fsync = lambda handle: step()  # what is written outlives a process without it
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        sys.addaudithook(watch)
        code = main([*map(str, arguments)])
    finally:
        os._exit(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kept", ["originals", "codes", "masks"])
def test_a_kill_of_an_update_leaves_the_old_or_the_new_index(settled, tmp_path, capsys, kept):
    folder, pictures, masks = folder_of(tmp_path / "pictures", 8), kept != "codes", kept == "masks"
    if masks:
        Image.fromarray(pixels(50)[:4]).save(folder / "7.png")  # between bars
    engine = SearchEngine(3, tol=1e-2).fit(load_images(folder, fit="letterbox" if masks else "stretch", progress=None))
    engine.update(progress=None)
    engine.save(tmp_path / "start", pictures=pictures)
    Image.fromarray(pixels(100)[: 4 if masks else 8]).save(folder / "new.png")
    draw(folder / "3.png", 101)
    (folder / "4.png").unlink()
    (folder / "5.png").rename(folder / "moved.png")
    home = tmp_path / "home"

    def begun():
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(tmp_path / "start", home)

    def index():
        engine = SearchEngine.load(home)
        rows = engine.originals(range(len(engine))) if pictures else [()] * len(engine)
        hidden = [()] * len(engine) if engine.masks is None else engine.masks[:]
        assert not masks or engine.model.masked == hidden.sum() > 0
        files = {name: record.digest for name, record in manifest.Manifest.of(engine.model).records.items()}
        about = (engine.model.names, *(map(bytes, each) for each in (engine.model.W, rows, hidden)))
        return sorted(zip(*about, strict=True)), files

    begun()
    old = index()
    assert run(capsys, "update", home)[0] == 0
    new, found, moment = index(), [], 0
    assert new != old
    while True:
        begun()
        status = killed(["update", home], tmp_path, moment)
        if not status:
            break
        assert status == signal.SIGKILL
        assert index() in (old, new), f"killed before step {moment}"
        found.append(index() == new)
        assert run(capsys, "update", home)[0] == 0 and index() == new, f"killed before step {moment}"
        moment += 1
    assert (
        index() == new
        and found == sorted(found)
        and {*found} == {False, True}
        and len(found) > 5 + 3 * pictures + 2 * masks
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_of_a_fit_leaves_a_whole_model_or_none(settled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nmfcore.cli.fit._draw", lambda path, *_: path.write_text("a drawing"))
    folder = folder_of(tmp_path / "pictures", 6)
    home, arguments = tmp_path / "home", ("-k", 2, "--max-iter", 3, "--pictures")
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for former in (False, True):
        if former:
            if not exchanged(tmp_path / "a", tmp_path / "b"):
                pytest.skip("this system cannot exchange two folders in one step")
            assert run(capsys, "fit", folder, "--out", tmp_path / "start", *arguments)[0] == 0
            (tmp_path / "start" / "report.html").write_text("of the former model")
            draw(folder / "new.png", 100)
        found, moment = [], 0
        while True:
            shutil.rmtree(home, ignore_errors=True)
            if former:
                shutil.copytree(tmp_path / "start", home)
            status = killed(["fit", folder, "--out", home, "--force", *arguments], tmp_path, moment)
            if not status:
                break
            assert status == signal.SIGKILL
            rows = len(SearchEngine.load(home)) if (home / "model.npz").exists() else 0
            if rows == 6 + former and (home / "pictures.npy").exists():
                np.testing.assert_array_equal(np.load(home / "pictures.npy"), load_images(folder, progress=None).matrix)
            assert rows in ((6, 7) if former else (0, 6)), f"killed before step {moment}"
            assert former == (rows == 6) or not (home / "report.html").exists()
            found.append(rows)
            moment += 1
        assert found == sorted(found) and len({*found}) == 2 and len(SearchEngine.load(home)) == 6 + former
        assert len(SearchEngine.load(home).originals([0])) == 1


@pytest.mark.parametrize("able", [True, False])
def test_other_files_of_a_replaced_folder_stay(tmp_path, monkeypatch, able):
    if not able:
        monkeypatch.setattr("nmfcore.search.folders.exchanged", lambda a, b: False)
    home = tmp_path / "home"
    (home / "mine").mkdir(parents=True)
    for name in ("model.npz", "mask.npy", "notes.txt", "mine/1.txt"):
        (home / name).write_text(f"former {name}")

    def everything():
        return {path.relative_to(home).as_posix(): path.read_text() for path in home.rglob("*.*")}

    before = everything()
    with pytest.raises(KeyboardInterrupt), replaced_folder(home) as new:
        (new / "model.npz").write_text("half")
        raise KeyboardInterrupt
    assert everything() == before
    with replaced_folder(home) as new:
        (new / "model.npz").write_text("new")
        (home / "late.txt").write_text("came meanwhile")
    del before["mask.npy"]
    assert everything() == before | {"model.npz": "new", "late.txt": "came meanwhile"}
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_bytes_after_the_end_are_written_over(tmp_path):
    X = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.save(tmp_path / "x.npy", X)
    with open(tmp_path / "x.npy", "ab") as file:
        file.write(b"half a row of an update that was killed")
    assert append_rows(tmp_path / "x.npy", [X[:1], X[1:]]) == 3
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", mmap_mode="r"), np.concatenate([X, X]))
    assert append_rows(tmp_path / "x.npy", []) == 6
    for spoilt in (b"no array", b"\x93NUMPY\x01\x00\x02\x00{}"):
        (tmp_path / "y.npy").write_bytes(spoilt)
        with pytest.raises(FileFault):
            append_rows(tmp_path / "y.npy", [X])
    np.save(tmp_path / "y.npy", np.asfortranarray(X))
    with pytest.raises(ValueError, match="no rows can be added"):
        append_rows(tmp_path / "y.npy", [X])


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    X = np.zeros((3, 4), np.uint8)
    np.save(tmp_path / "x.npy", X)
    before = (tmp_path / "x.npy").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nmfcore.search.folders.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_rows(tmp_path / "x.npy", [X])
    assert (tmp_path / "x.npy").read_bytes() == before


# --- taking pictures out --------------------------------------------------------------------------


def test_pictures_are_taken_out(engine, folder):
    before = codes(engine)
    engine.remove([0, "5.png", 19])
    engine.remove("7.png")
    gone = {"0.png", "5.png", "19.png", "7.png"}
    assert codes(engine) == {name: code for name, code in before.items() if name not in gone}
    for name, row in zip(engine.model.names, engine.originals(range(len(engine))), strict=True):
        np.testing.assert_array_equal(row, pixels(int(name[:-4])).ravel())
    assert engine.search("6.png", 3).row == 4
    for wrong in (16, -1, "0.png", [1, "none"], 2.7, True, None):
        with pytest.raises(InputError, match="there is no picture"):
            engine.remove(wrong)
    with pytest.raises(InputError, match="no picture would be left"):
        engine.remove(range(len(engine)))
    assert set(engine.update(progress=None).added) == gone  # their files are there


# --- which files a folder holds -------------------------------------------------------------------


@pytest.mark.parametrize(
    "exclude, left",
    [
        ("*.gif", {"a.png", "cats/b.png", "cats/old/c.png", "cats/older/d.png"}),
        ("cats", {"a.png", "e.gif"}),
        ("cats/", {"a.png", "e.gif"}),
        ("cats/old", {"a.png", "cats/b.png", "cats/older/d.png", "e.gif"}),
        ("cats/old*", {"a.png", "cats/b.png", "e.gif"}),
        ("old*", {"a.png", "cats/b.png", "e.gif"}),
        (["[ab].*", "older"], {"cats/old/c.png", "e.gif"}),
        ((), {"a.png", "cats/b.png", "cats/old/c.png", "cats/older/d.png", "e.gif"}),
    ],
)
def test_patterns_leave_out_files_and_folders(tmp_path, exclude, left):
    for name in ("a.png", "cats/b.png", "cats/old/c.png", "cats/older/d.png", "e.gif"):
        draw(tmp_path / name, 1)
    for read in (load_images, images.read_source):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # pictures beside subfolders
            pictures = read(tmp_path, recursive=True, exclude=exclude, progress=None)
        assert set(pictures.names) == left
    assert pictures.selection == {
        "recursive": True,
        "exclude": [exclude] if isinstance(exclude, str) else list(exclude),
    }


def test_patterns_are_kept_for_updates(settled, folder):
    engine = SearchEngine(3, tol=1e-2).fit(load_images(folder, exclude=["x*", "1?.png"], progress=None))
    draw(folder / "x.png", 90)
    draw(folder / "y.png", 91)
    assert engine.update(progress=None).added == ("y.png",)
    assert len(engine) == 11


@pytest.mark.parametrize("wrong", ["", [""], [3]])
def test_patterns_that_are_none(folder, wrong):
    with pytest.raises(ValueError, match="exclude must be a pattern"):
        load_images(folder, exclude=wrong)
    with pytest.raises(InputError, match=r"but for what exclude leaves out \(20\)"):
        load_images(folder, exclude="*")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_what_is_no_part_of_a_folder(tmp_path, caplog):
    folder = folder_of(tmp_path / "pictures", 4, "cats/{}.png")
    elsewhere = folder_of(tmp_path / "elsewhere", 3)
    (folder / "cats" / "linked").symlink_to(elsewhere)
    (folder / "cats" / "one.png").symlink_to(elsewhere / "2.png")  # a link to a file is a file
    draw(folder / "cats" / "@eaDir" / "0.png" / "SYNOPHOTO_THUMB_M.png", 9)
    draw(folder / ".thumbnails" / "0.png", 9)
    fitted(folder / "cats").save(folder / "model")
    for name in ("components.png", "reconstructions.png", "mine.png"):
        draw(folder / "model" / name, 9)
    draw(folder / "cats" / "components.png", 9)  # no model is beside it
    caplog.set_level(logging.INFO, "nmfcore")
    names = load_images(folder, recursive=True, progress=None).names
    assert names == (
        *(f"cats/{number}.png" for number in range(4)),
        "cats/components.png",
        "cats/one.png",
        "model/mine.png",
    )
    assert "1 link to folders in" in caplog.text and "2 drawings of nmfcore fit" in caplog.text


# --- HEIC and AVIF --------------------------------------------------------------------------------


def test_heic_and_avif_name_the_extra_where_they_cannot_be_read(folder, monkeypatch):
    from nmfcore.images import _decoding, _listing

    monkeypatch.setattr(_listing, "picture_suffixes", lambda: _decoding.PICTURE_SUFFIXES)
    for name in ("a.HEIC", "b.heif", "c.avif"):
        (folder / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"^3 pictures of .*1 \.heif.*\): pip install 'nmfcore\[heic\]' reads them$"):
        assert len(load_images(folder, progress=None).names) == 20
    (folder / "d.psd").write_bytes(b"x")
    with pytest.warns(
        UserWarning, match=r"^4 pictures .*nmfcore\[heic\]' reads HEIC and AVIF, and the others can be saved as"
    ):
        load_images(folder, progress=None)


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_heic_and_avif_are_read(tmp_path, suffix):
    if suffix == ".heic":
        pytest.importorskip("pillow_heif", reason="the extra 'heic' is not installed")
    from nmfcore.images._decoding import picture_suffixes

    if suffix not in picture_suffixes():
        pytest.skip("neither Pillow nor pillow-heif reads AVIF here")
    level = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)
    Image.fromarray(np.stack([level] * 3, axis=2)).save(tmp_path / f"a{suffix}", quality=95)
    pictures = load_images(tmp_path, progress=None)
    assert pictures.shape == (48, 64)
    assert np.abs(pictures.matrix.reshape(48, 64) - level.astype(float)).mean() < 3
    assert images.picture_row(tmp_path / f"a{suffix}", (48, 64)).shape == (48 * 64,)
