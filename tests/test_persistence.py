"""Models survive the disk whole, without pickle, or not at all."""

import errno
import json
import math
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from nmfcore._files import replacing
from nmfcore.models import Model, ModelFileError, load, save
from nmfcore.models import file as persistence


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    return Model(
        W=rng.random((5, 2), dtype=np.float32),
        components=np.asfortranarray(rng.random((2, 12))),
        parameters={
            "n_components": 2,
            "solver": "cd",
            "tol": np.float64(1e-4),
            "beta_loss": 2.0,
            "random_state": np.int64(7),
            "callback": print,
            "dtype": np.float64,
            "shuffle": False,
            "init": None,
        },
        estimator="NMF",
        history={
            "loss": np.array([3.0, math.nan, 1.0]),
            "seconds": np.array([0.1, 0.2, 0.3]),
            "accepted": np.array([True, False, True]),
        },
        shape=(3, 4),
        names=("a.jpg", "é.jpg", "x\udcff.jpg", "", "猫.png"),
        labels=np.array([1, 0, 1, 2, 2]),
        source="pictures",
        n_iter=3,
        reconstruction_err=1.25,
        relative_error=0.5,
        kkt_residual=1e-5,
        converged=True,
        stop_reason="converged",
    )


def test_everything_comes_back(model, tmp_path):
    save(model, tmp_path / "m.npz")
    back = load(tmp_path / "m.npz")
    for name in ("W", "components", "labels"):
        before, after = getattr(model, name), getattr(back, name)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert back.history.keys() == model.history.keys()
    for name in model.history:
        np.testing.assert_array_equal(back.history[name], model.history[name])
        assert back.history[name].dtype == model.history[name].dtype
    for name in ("estimator", "shape", "names", "source", "n_iter", "stop_reason"):
        assert getattr(back, name) == getattr(model, name)
    assert (back.reconstruction_err, back.relative_error, back.kkt_residual) == (1.25, 0.5, 1e-5)
    assert back.converged is True
    assert back.parameters == {
        "n_components": 2,
        "solver": "cd",
        "tol": 1e-4,
        "beta_loss": 2.0,
        "random_state": 7,
        "callback": None,
        "dtype": "float64",
        "shuffle": False,
        "init": None,
    }
    assert back.versions["numpy"] == np.__version__
    assert set(back.versions) == {"nmfcore", "numpy", "python"}


def test_the_shape_may_be_of_a_picture_in_colour(model, tmp_path):
    save(replace(model, shape=(2, 2, 3)), tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").shape == (2, 2, 3)
    for shape in ((3, 2, 2), (12,), (1, 3, 4, 1)):
        with pytest.raises(ValueError, match=r"\(height, width\) or \(height, width, 3\)"):
            save(replace(model, shape=shape), tmp_path / "n.npz")


def test_little_is_required(tmp_path):
    save(Model(W=np.ones((3, 1)), components=np.ones((1, 4))), tmp_path / "m.npz")
    back = load(tmp_path / "m.npz")
    assert back.shape is None
    assert back.names is None
    assert back.labels is None
    assert back.history == {}
    assert math.isnan(back.relative_error)
    assert not back.converged


def test_labels_of_objects_become_text(tmp_path):
    labels = np.array(["cat", "tiger"], dtype=object)
    save(Model(W=np.ones((2, 1)), components=np.ones((1, 4)), labels=labels), tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").labels.tolist() == ["cat", "tiger"]


def test_a_folder_stands_for_the_model_in_it(model, tmp_path):
    save(model, tmp_path / "model.npz")
    assert load(tmp_path).n_iter == 3


def test_plain_numpy_reads_it_without_pickle(model, tmp_path):
    save(model, tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)
        assert json.loads(str(archive["meta"]))["version"] == 1  # what every version reads
    save(replace(model, places=np.arange(5)[::-1]), tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert json.loads(str(archive["meta"]))["version"] == persistence.VERSION
    assert load(tmp_path / "m.npz").places.tolist() == [4, 3, 2, 1, 0]


def test_reconstruct(model):
    np.testing.assert_array_equal(model.reconstruct([1, 3]), model.W[[1, 3]] @ model.components)
    assert model.reconstruct().shape == (5, 12)


# --------------------------------------------------------------------------------------------------
# what is refused


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no model file '.*nope\.npz'"):
        load(tmp_path / "nope.npz")
    with pytest.raises(FileNotFoundError, match=r"there is no model file '.*model\.npz'"):
        load(tmp_path)


def other_text(path):
    path.write_text("hello")


def other_npz(path):
    with open(path, "wb") as file:
        np.savez(file, X=np.ones(3))


def other_npy(path):
    with open(path, "wb") as file:
        np.save(file, np.ones(3))


def other_json(path):
    with open(path, "wb") as file:
        np.savez(file, meta=np.array("[1]"))


def other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.txt", "x")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("make", [other_text, other_npz, other_npy, other_json, other_zip, empty])
def test_a_file_of_something_else(make, tmp_path):
    make(tmp_path / "m.npz")
    with pytest.raises(ModelFileError, match=r"m\.npz' is not an nmfcore model"):
        load(tmp_path / "m.npz")


def test_pickled_objects_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    with open(tmp_path / "m.npz", "wb") as file:
        np.savez(file, meta=np.array([Bomb()], dtype=object))
    with pytest.raises(ModelFileError):
        load(tmp_path / "m.npz")
    assert not (tmp_path / "exploded").exists()


def rewritten(model, path, **changes):
    save(model, path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(str(arrays["meta"])) | changes
    arrays["meta"] = np.array(json.dumps(meta))
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def test_a_newer_format(model, tmp_path):
    rewritten(model, tmp_path / "m.npz", version=persistence.VERSION + 1)
    with pytest.raises(ModelFileError, match=r"format 3, this nmfcore reads up to 2: upgrade"):
        load(tmp_path / "m.npz")


def test_a_damaged_model(model, tmp_path):
    path = tmp_path / "m.npz"
    rewritten(model, path, names=["one"])
    with pytest.raises(ModelFileError, match=r"is damaged.*names"):
        load(path)
    save(model, path)
    data = bytearray(path.read_bytes())
    place = data.index(model.W.tobytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="is damaged"):
        load(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelFileError, match="damaged"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": np.ones((3, 12))}, "do not multiply"),
        ({"shape": (5, 5)}, "picture shape"),
        ({"names": ("a",)}, "names"),
        ({"labels": np.ones(2)}, "labels"),
    ],
)
def test_what_does_not_fit_is_not_written(model, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        save(replace(model, **changes), tmp_path / "m.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_parameter_that_is_no_plain_value(model, tmp_path):
    with pytest.raises(TypeError, match="'weights' cannot be stored"):
        save(replace(model, parameters={"weights": np.ones(3)}), tmp_path / "m.npz")


# --------------------------------------------------------------------------------------------------
# whole or not at all


def full_disk(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(model, tmp_path, monkeypatch, function):
    path = tmp_path / "m.npz"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, function, full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(model, path)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["m.npz"]
    assert path.read_bytes() == b"old"


def test_interrupted_writing_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), rename(a, b)))
    with replacing(tmp_path / "x") as file:
        file.write(b"whole")
    assert calls[:2] == ["sync", "rename"]


def test_a_link_is_followed(model, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link.npz").symlink_to(tmp_path / "far" / "m.npz")
    save(model, tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    assert load(tmp_path / "far" / "m.npz").n_iter == 3


def test_a_missing_folder_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*nowhere'; create it first"):
        save(model, tmp_path / "nowhere" / "m.npz")


def test_importing_it_needs_no_extra():
    code = (
        "import sys, nmfcore.models\n"
        "heavy = {'typer', 'rich', 'matplotlib', 'PIL', 'numba', 'sklearn', 'nmfcore.estimators'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
