"""Archives and stores as others write them: names, groups, sparse matrices, frames, and what cannot be read."""

import os

import numpy as np
import pytest
import scipy.sparse as sp

from nmfcore import NMF
from nmfcore.images import InputError, read_npy, read_source
from nmfcore.rows.disk import ReadError, source_of

X = np.random.default_rng(0).integers(0, 9, (30, 16)).astype(np.uint8)
A = sp.random(40, 12, density=0.3, format="csr", random_state=0)


# --- archives of numpy ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrix", "labels", "others"),
    [
        ("x_train", "y_train", ["x_test", "y_test"]),
        ("train_images", "train_labels", ["test_images", "val_labels"]),
        ("images", "labels", []),
        ("data", "target", ["feature_names"]),
        ("X", "y", ["Z"]),
        ("pixels", "labels", ["weights"]),
    ],
)
def test_usual_names_are_found(tmp_path, matrix, labels, others):
    arrays = {matrix: X.reshape(30, 4, 4), labels: np.arange(30), "note": np.array("text")}
    arrays |= {name: np.zeros(5) if "labels" in name or name in ("weights", "y_test") else X[:7] for name in others}
    np.savez(tmp_path / "a.npz", **arrays)
    pictures = read_source(tmp_path / "a.npz")
    np.testing.assert_array_equal(pictures.matrix, X)
    assert pictures.labels.tolist() == list(range(30)) and pictures.shape == (4, 4)


def test_an_array_is_named_behind_the_file(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x_train=X, y_train=np.ones(30), x_test=X[:4], y_test=np.arange(4))
        pictures = read_source(f"{tmp_path}/a.npz::x_test")
        np.testing.assert_array_equal(pictures.matrix, X[:4])
        assert pictures.labels.tolist() == [0, 1, 2, 3] and pictures.source.endswith("a.npz::x_test")
        np.testing.assert_array_equal(source_of(f"{tmp_path}/a.npz::x_test"), X[:4])
    with pytest.raises(InputError, match=r"holds nothing named 'z': it holds 'x_train', 'y_train'"):
        read_source(f"{tmp_path}/a.npz::z")
    np.savez(tmp_path / "b.npz", a=X, b=X)
    with pytest.raises(InputError, match=r"or name one, as in '.*b\.npz::a'"):
        read_source(tmp_path / "b.npz")
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InputError, match="holds one array, which has no name"):
        read_npy(f"{tmp_path}/x.npy::x")
    with pytest.raises(InputError, match="is read as a whole"):
        read_source(f"{tmp_path}/x.npy::x")


def test_a_sparse_archive_of_scipy(tmp_path):
    for form in ("csr", "csc", "coo", "bsr", "dia"):
        sp.save_npz(tmp_path / "a.npz", A.asformat(form))
        np.testing.assert_array_equal(read_source(tmp_path / "a.npz").matrix, A.toarray())
        assert source_of(tmp_path / "a.npz").format == (form if form == "csc" else "csr")
    twice = sp.coo_matrix((np.ones(3), ([0, 0, 1], [2, 2, 0])), shape=(3, 4))
    sp.save_npz(tmp_path / "a.npz", twice)
    np.testing.assert_array_equal(source_of(tmp_path / "a.npz").toarray(), twice.toarray())
    np.savez(tmp_path / "a.npz", format="bsr", shape=(4, 4), data=np.ones((1, 2, 2)), indices=[7], indptr=[0, 1, 1])
    with pytest.raises(InputError, match="holds a sparse matrix that is damaged"):
        read_source(tmp_path / "a.npz")


def test_labels_of_an_archive_are_kept_or_said(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=X, train_labels=np.arange(30)[:, None])  # as MedMNIST has them
    assert read_source(tmp_path / "a.npz").labels.tolist() == list(range(30))
    for labels in (np.arange(29), np.eye(30)[:, :3], np.array([object()] * 30)):
        np.savez(tmp_path / "a.npz", X=X, y=labels)
        with pytest.warns(UserWarning, match=r"no labels are read from .* of the 30 rows, and 'y' h"):
            assert read_source(tmp_path / "a.npz").labels is None


def test_a_fit_finds_the_array_that_the_command_line_finds(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, y_train=np.ones(30), x_test=X[:4], y_test=np.arange(4))
    np.testing.assert_array_equal(source_of(tmp_path / "a.npz"), X)
    for form in ("csr", "csc"):
        sp.save_npz(tmp_path / "a.npz", A.asformat(form))
        found = source_of(tmp_path / "a.npz")
        assert found.format == form
        np.testing.assert_array_equal(found.toarray(), A.toarray())
    for refused, said in (
        ({"x_train": X.reshape(30, 4, 4), "y": np.ones(30)}, "with 2 dimensions, which none of them has"),
        ({"a": X, "b": X}, r"or name one, as in '.*a\.npz::a'"),
        ({}, "holds nothing: expected a single array"),
    ):
        np.savez(tmp_path / "a.npz", **refused)
        with pytest.raises(ValueError, match=said):
            NMF(2).fit(tmp_path / "a.npz")
    for form in ("coo", "bsr", "dia"):
        sp.save_npz(tmp_path / "a.npz", A.asformat(form))
        np.testing.assert_array_equal(source_of(tmp_path / "a.npz").toarray(), A.toarray())
        np.testing.assert_array_equal(read_source(tmp_path / "a.npz").matrix, A.toarray())


# --- HDF5 and Zarr --------------------------------------------------------------------------------


def anndata(group, matrix, earlier=False):
    for name in ("data", "indices", "indptr"):
        put(group, name, getattr(matrix, name))
    if earlier:
        group.attrs["h5sparse_shape"], group.attrs["h5sparse_format"] = matrix.shape, matrix.format
    else:
        group.attrs["shape"] = [int(side) for side in matrix.shape]
        group.attrs["encoding-type"] = f"{matrix.format}_matrix"


def put(group, name, array):
    if hasattr(group, "create_array"):  # zarr 3
        group.create_array(name, shape=array.shape, dtype=array.dtype)[:] = array
    elif type(group).__module__.startswith("zarr"):
        group.create_dataset(name, shape=array.shape, dtype=array.dtype)[:] = array
    else:
        group[name] = array


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py", reason="the extra 'disk' is not installed")


@pytest.fixture
def zarr():
    return pytest.importorskip("zarr", reason="the extra 'disk' is not installed")


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("earlier", [False, True])
def test_anndata_in_hdf5(tmp_path, h5py, form, earlier):
    path = tmp_path / "cells.h5ad"
    with h5py.File(path, "w") as file:
        anndata(file.create_group("X"), A.asformat(form), earlier)
        anndata(file.create_group("layers/raw"), A.asformat(form))
        file["obsm/pca"] = np.ones((40, 3))
    for given in (path, f"{path}::X", f"{path}::layers/raw"):
        found = source_of(given)
        assert sp.issparse(found)
        np.testing.assert_array_equal(found.toarray(), A.toarray())


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_anndata_in_zarr(tmp_path, zarr, form):
    root = zarr.open_group(str(tmp_path / "cells.zarr"), mode="w")
    anndata(root.create_group("X"), A.asformat(form))
    for given in (f"{tmp_path}/cells.zarr", f"{tmp_path}/cells.zarr::X", f"{tmp_path}/cells.zarr/X"):
        np.testing.assert_array_equal(source_of(given).toarray(), A.toarray())


def test_cell_ranger_has_cells_in_columns(tmp_path, h5py):
    genes = A.T.tocsc()  # genes × cells
    with h5py.File(tmp_path / "filtered.h5", "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(genes, name)
        group["shape"], group["barcodes"] = genes.shape, np.arange(40)
    np.testing.assert_array_equal(source_of(tmp_path / "filtered.h5").toarray(), A.toarray())


def test_a_fit_of_a_sparse_group_is_that_of_the_matrix(tmp_path, h5py):
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        anndata(file.create_group("X"), A)
    model = NMF(2, solver="hals", random_state=0, max_iter=300)
    np.testing.assert_array_equal(model.fit_transform(str(tmp_path / "cells.h5")), model.fit_transform(A))


def test_a_group_that_is_given_is_read_as_a_path_to_it(tmp_path, h5py):
    zarr = pytest.importorskip("zarr", reason="the extra 'disk' is not installed")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for root in (file, zarr.open_group(str(tmp_path / "a.zarr"), mode="w")):
            for form in ("csr", "csc"):
                group = root.create_group(form)
                anndata(group, A.asformat(form))
                np.testing.assert_array_equal(source_of(group).toarray(), A.toarray())
            put(root.create_group("one"), "matrix", X)
            np.testing.assert_array_equal(source_of(root["one"])[:], X)
            put(root.create_group("none"), "vector", X[0])
            with pytest.raises(ValueError, match=r"this Group of .* must hold one matrix.*It holds: none"):
                NMF(2).fit(root["none"])
            with pytest.raises(ValueError, match=r"this (Group|File) of .* must hold one matrix.*'csc', 'csr', 'one"):
                NMF(2).fit(root)


def test_a_frame_of_pandas(tmp_path, h5py):
    with h5py.File(tmp_path / "frame.h5", "w") as file:
        group = file.create_group("df")
        group["axis0"], group["axis1"], group["block0_items"] = np.arange(16), np.arange(30), np.arange(16)
        group["block0_values"] = X
        other = file.create_group("mixed")
        other["axis0"], other["block0_values"], other["block1_values"] = np.arange(3), X[:, :2], X[:, :1]
        file.create_group("table")["table"] = np.zeros(3, [("index", "i8"), ("values", "f8")])
    np.testing.assert_array_equal(source_of(f"{tmp_path}/frame.h5::df")[:], X)
    with pytest.raises(ValueError, match="a frame with columns of several types"):
        source_of(f"{tmp_path}/frame.h5::mixed")
    with pytest.raises(ValueError, match="format='fixed'"):
        source_of(f"{tmp_path}/frame.h5::table")


def test_a_frame_alone_says_why_it_is_none(tmp_path, h5py):
    with h5py.File(tmp_path / "frame.h5", "w") as file:
        file.create_group("df")["table"] = np.zeros(3, [("index", "i8"), ("values", "f8")])
    with pytest.raises(ValueError, match="format='fixed'"):
        source_of(tmp_path / "frame.h5")


def test_a_square_sparse_group_that_may_be_transposed_is_said(tmp_path, h5py):
    square = sp.random(12, 12, density=0.3, format="csr", random_state=0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        anndata(file.create_group("X"), square)
        assert source_of(file).format == "csr"
        del file["X"].attrs["encoding-type"]
        with pytest.warns(UserWarning, match="does not say which of them it stores: its rows are taken"):
            np.testing.assert_array_equal(source_of(file).toarray(), square.toarray())


def test_what_is_no_matrix_gets_a_sentence(tmp_path, h5py):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["a/b/c"], file["words"], file["one"] = X, np.array([b"x", b"y"]), np.arange(3)
        file["gone"] = h5py.SoftLink("/nowhere")
        file["far"] = h5py.ExternalLink("other.h5", "/x")
        file["kind"] = np.dtype("f8")
        file["none"], file["records"] = h5py.Empty("f8"), np.zeros((3, 2), [(f"field {n}", "f4") for n in range(90)])
        file["obs/words"] = np.array([b"x", b"y"])
        bad = file.create_group("bad")
        anndata(bad, A)
        bad["indptr"][5] = 10**6
        lying = file.create_group("lying")
        anndata(lying, A)
        lying.attrs["shape"] = [40, 3]
        huge = file.create_group("huge")
        huge.create_dataset("data", (1 << 50,), "f8", chunks=(1 << 16,))
        huge["indices"], huge["indptr"] = np.zeros(1), np.zeros(41)
        huge.attrs["shape"] = [40, 3]
    for name, said in (
        ("a", r"holds a group named 'a', and no matrix: it holds 'b'; name one of them, as in '::a/b/c'"),
        ("one", "'.*x.h5::one' has shape .*: expected two dimensions"),
        ("none", "x.h5::none' is empty, it holds no numbers"),
        ("records", "x.h5::records' holds records of 90 fields: expected real numbers"),
        ("obs", "holds a group named 'obs', and no matrix: it holds 'words'; name another"),
        ("words", "expected"),
        ("gone", "a link that leads nowhere"),
        ("far", "a link that leads nowhere"),
        ("kind", "is a type and no matrix"),
        ("bad", "holds a sparse matrix that is damaged"),
        ("lying", "holds a sparse matrix that is damaged"),
        ("huge", r"needs .* GB of memory"),
        ("x\x1b]0;title", "holds nothing named"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            source_of(f"{path}::{name}")
        assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    (tmp_path / "no.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"'.*no\.h5' cannot be read as HDF5"):
        source_of(tmp_path / "no.h5")


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_damaged_chunks_are_reading_errors(tmp_path, kind):
    pytest.importorskip({"h5": "h5py", "zarr": "zarr"}[kind], reason="the extra 'disk' is not installed")
    Y = np.random.default_rng(0).random((400, 50))
    path = tmp_path / f"x.{kind}"
    if kind == "h5":
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("X", data=Y, chunks=(50, 50), compression="gzip")
            place = file["X"].id.get_chunk_info(3).byte_offset
        data = bytearray(path.read_bytes())
        data[place : place + 200] = bytes(200)
        path.write_bytes(data)
    else:
        import zarr

        array = zarr.open(str(path), mode="w", shape=Y.shape, dtype=Y.dtype, chunks=(50, 50))
        array[:] = Y
        for file in path.rglob("*"):  # zarr 3 keeps chunks in c/, zarr 2 beside .zarray
            if file.is_file() and not file.name.startswith(".") and file.name != "zarr.json":
                file.write_bytes(b"noise")
    with pytest.raises(ReadError, match=r"rows .* of '.*' cannot be read"):
        NMF(2, init="random", max_iter=3).fit(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_folder_that_is_called_zarr(tmp_path):
    pytest.importorskip("zarr", reason="the extra 'disk' is not installed")
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(ValueError, match=r"x\.zarr' (holds no Zarr array|cannot be read as Zarr)"):
        NMF(2).fit(tmp_path / "x.zarr")


def test_pipes_are_refused(tmp_path):
    for name in ("x.npy", "x.npz", "x.h5"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match="is a pipe: write what it gives to a file"):
            source_of(tmp_path / name)
