"""Damaged files of every format are read, or refused in one sentence: truncations, flipped bits, false sizes."""

import gzip
import io
import json
import random
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest

PIL = pytest.importorskip("PIL", reason="pictures need the extra 'app'")
from PIL import Image  # noqa: E402

from nmfcore._files import Archive, FileFault, check_memory, mapped  # noqa: E402
from nmfcore.images import InputError, cached_images, load_images, read_npy, read_source  # noqa: E402
from nmfcore.models import Model, ModelFileError, estimator_from, load, save  # noqa: E402
from nmfcore.rows.disk import source_of  # noqa: E402

X = np.random.default_rng(0).integers(0, 256, (20, 16), dtype=np.uint8)
PIXELS = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def picture(kind, pixels=PIXELS, **options):
    def make(path):
        path.mkdir()
        image = Image.fromarray(pixels)
        image.save(path / f"1.{kind}", **options)
        Image.fromarray(PIXELS).save(path / "2.png")
        return path / f"1.{kind}"

    return make


def stack(kind):
    return picture(kind, save_all=True, append_images=[Image.fromarray(PIXELS[::-1].copy())] * 3)


def plain(write):
    def make(path):
        write(path)
        return path

    return make


def idx(path):
    path.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 20, 4, 4) + X.tobytes())


def packed(write):
    def make(path):
        write(path)
        path.write_bytes(gzip.compress(path.read_bytes()))
        return path

    return make


def table(path):
    rows = [",".join(map(str, [number % 3, *row])) for number, row in enumerate(X)]
    path.write_text("\n".join(["label," + ",".join(f'"p{i}"' for i in range(16)), *rows]) + "\n")


def model(path):
    rng = np.random.default_rng(0)
    save(Model(W=rng.random((20, 2)), components=rng.random((2, 16)), shape=(4, 4), labels=np.arange(20)), path)


def hdf5(path):
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=X, chunks=(5, 16), compression="gzip")
        group = file.create_group("sparse")
        group["data"], group["indices"], group["indptr"] = np.ones(3), np.arange(3), np.array([0, 1, 3])
        group.attrs["shape"] = (2, 4)


def read_stored(path):
    for name in ("X", "sparse"):
        source = source_of(f"{path}::{name}", fold=True)
        source.toarray() if hasattr(source, "toarray") else source[:]


def read_model(path):
    estimator_from(load(path))


def read_mapped(path):
    for A in mapped(path).values():
        A.sum()


FORMATS = {
    "npy": (plain(lambda path: np.save(path, X)), read_source, InputError),
    "npz": (plain(lambda path: np.savez(path, X=X, y=np.arange(20))), read_source, InputError),
    "compressed.npz": (plain(lambda path: np.savez_compressed(path, X=X)), read_source, InputError),
    "mapped.npz": (plain(lambda path: np.savez(path, X=X)), read_mapped, FileFault),
    "disk.npy": (plain(lambda path: np.save(path, X)), lambda path: source_of(path, fold=True)[:], ValueError),
    "idx": (plain(idx), read_source, InputError),
    "idx.gz": (packed(idx), read_source, InputError),
    "csv": (plain(table), read_source, InputError),
    "csv.gz": (packed(table), read_source, InputError),
    "model.npz": (plain(model), read_model, ModelFileError),
    "jpg": (picture("jpg", dpi=(72, 72), comment=b"x"), load_images, InputError),
    "png": (picture("png", dpi=(72, 72)), load_images, InputError),
    "16.png": (picture("png", PIXELS[..., 0].astype(np.uint16) * 17), load_images, InputError),
    "gif": (stack("gif"), load_images, InputError),
    "tif": (stack("tif"), load_images, InputError),
    "webp": (stack("webp"), load_images, InputError),
    "bmp": (picture("bmp"), load_images, InputError),
    "h5": (plain(hdf5), read_stored, (ValueError, OSError)),
}


def mutations(data, number, flips):
    """Yield truncations at every twentieth, and copies with one flipped bit, mostly near the beginning or the end."""
    rng = random.Random(number)
    yield b""
    for part in range(1, 20):
        yield data[: len(data) * part // 20]
    for flip in range(flips):
        place = rng.randrange(len(data))
        if flip % 3 == 0:
            place = rng.randrange(min(len(data), 200))
        elif flip % 3 == 1:
            place = len(data) - 1 - rng.randrange(min(len(data), 200))
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(8)
        yield bytes(changed)


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_read_or_refused_in_one_sentence(name, tmp_path):
    make, read, error = FORMATS[name]
    if name == "h5":
        pytest.importorskip("h5py", reason="the extra 'disk' is not installed")
    path = tmp_path / f"x.{name}"
    file = make(path)
    read(path)
    whole, refused = file.read_bytes(), 0
    for data in mutations(whole, len(name), 25 if file != path else 60):
        file.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except error as fault:
            refused += 1
            said = str(fault)
            assert len(said) < 500 and said.isprintable(), said
            assert str(tmp_path) in said or error is FileFault or "the model" in said, said
    assert refused >= 5


# --- what is declared and not there ---------------------------------------------------------------


def header(text):
    body = text.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


@pytest.mark.parametrize(
    "text",
    [
        "{'shape': (3,    ",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775808, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-3, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (True, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 2)}",
        "{'descr': '<f99', 'fortran_order': False, 'shape': (2, 2)}",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2, 2)}",
        "__import__('os').abort()",
        "{" * 100,
    ],
)
def test_headers_that_lie(tmp_path, text):
    data = header(text) + bytes(32)
    (tmp_path / "x.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("X.npy", data)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(InputError, match=r"x\.np[yz]' (is|holds) "):
            read_npy(tmp_path / name)
    with pytest.raises(ValueError, match=r"'.*x\.npy' |holds|this"):
        source_of(tmp_path / "x.npy")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_that_numpy_does_not_write(tmp_path, method):
    array = io.BytesIO()
    np.save(array, X)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        archive.writestr("X.npy", array.getvalue())
    with pytest.raises(InputError, match="packed in a way that numpy does not write"):
        read_npy(tmp_path / "x.npz")


def test_archives_that_promise_more_than_they_hold(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", X=X)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<I", 1 << 31)  # the size of the array in the directory
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(InputError, match="declares more bytes than can be packed"):
        read_npy(tmp_path / "x.npz")


def test_memory_is_asked_for_before_it_is_taken(tmp_path, monkeypatch):
    from nmfcore import _files

    monkeypatch.setattr(_files, "machine_memory", lambda: 1000)
    with pytest.raises(FileFault, match=r"needs 0\.0 GB of memory, and this machine has 0\.0 GB"):
        check_memory(1001)
    np.savez(tmp_path / "x.npz", X=np.ones((20, 20)))
    with Archive(tmp_path / "x.npz") as archive, pytest.raises(FileFault, match="of memory"):
        archive.array("X")
    idx(tmp_path / "x")
    (tmp_path / "x.gz").write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 20, 40, 40) + bytes(32000)))
    with pytest.raises(InputError, match=r"x\.gz' needs .* of memory"):
        read_source(tmp_path / "x.gz")
    save(Model(W=np.ones((300, 2)), components=np.ones((2, 4))), tmp_path / "m.npz")
    with pytest.raises(ModelFileError, match=r"m\.npz' needs .* of memory"):
        load(tmp_path / "m.npz")


def test_packed_text_without_lines_takes_little_memory(tmp_path):
    import tracemalloc

    from nmfcore.images import tables

    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"1" * (8 * tables._CHARACTERS // 16), 1))
    (tmp_path / "y.csv.gz").write_bytes(gzip.compress(b"1" * 4_000_000, 1))
    before, tables._CHARACTERS = tables._CHARACTERS, 1_000_000
    try:
        tracemalloc.start()
        for name in ("x.csv.gz", "y.csv.gz"):
            with pytest.raises(InputError, match=r"line 1 of .* is longer than"):
                read_source(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
        tables._CHARACTERS = before


def test_a_picture_that_unfolds_to_too_many_pixels(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 50000, 50000, 16, 0, 0, 0, 0))
    (tmp_path / "1.png").write_bytes(data + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))
    with pytest.raises(InputError, match="too many"):
        load_images(tmp_path)


# --- the cache of a folder ------------------------------------------------------------------------


@pytest.fixture
def cats(tmp_path):
    (tmp_path / "cats").mkdir()
    for number in range(3):
        Image.fromarray(PIXELS + number).save(tmp_path / "cats" / f"{number}.png")
    return tmp_path / "cats"


def test_a_damaged_cache_is_made_anew(cats):
    expected = load_images(cats)
    cached_images(cats)
    matrix, about = (cats.with_name(f"cats.nmfcore{suffix}") for suffix in (".npy", ".json"))
    pixels, kept = matrix.read_bytes(), json.loads(about.read_bytes())
    changes = [
        *({name: value} for name in ("shape", "names", "labels", "skipped", "decoding") for value in (7, [1])),
        *({"shape": shape} for shape in ([9, 7, 1], [-9, -7], [9, 8], [7.0, 9.0], ["9", "7"])),
        *({"names": names} for names in (["a"], [1, 2, 3], [None] * 3)),
        {"labels": ["a"]}, {"decoding": {"levels": 1}},
    ]  # fmt: skip
    for change in changes:
        about.write_text(json.dumps(kept | change))
        again = cached_images(cats)
        np.testing.assert_array_equal(again.matrix, expected.matrix)
        assert (again.names, again.shape, again.labels) == (expected.names, expected.shape, None)
        kept = json.loads(about.read_bytes())
    for name in ("shape", "names", "labels", "skipped", "decoding", "matrix", "size", "files"):
        about.write_text(json.dumps({key: value for key, value in kept.items() if key != name}))
        np.testing.assert_array_equal(cached_images(cats).matrix, expected.matrix)
        kept = json.loads(about.read_bytes())
    for data in (b"", pixels[:50], pixels[:-1], pixels + b"x", b"x" * len(pixels)):
        matrix.write_bytes(data)
        np.testing.assert_array_equal(cached_images(cats).matrix, expected.matrix)
    for data in (b'{"format": "nmfcore-pictures-2", "na', json.dumps(kept).encode()[:-9]):
        about.write_bytes(data)
        np.testing.assert_array_equal(cached_images(cats).matrix, expected.matrix)
    about.write_text(json.dumps(kept | {"format": "nmfcore-pictures-1"}))  # of an earlier version
    np.testing.assert_array_equal(cached_images(cats).matrix, expected.matrix)


def test_links_that_lead_nowhere_are_skipped_with_a_cache_as_without(cats):
    (cats / "5.png").symlink_to("nowhere.png")
    (cats / "6.png").symlink_to("6.png")
    with pytest.raises(InputError, match=r"5\.png' does not exist"):
        cached_images(cats)
    for read in (load_images, cached_images):
        assert read(cats, skip_broken=True).names == ("0.png", "1.png", "2.png")


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", "~no-such-user/x"), "there is no file or folder '~no-such-user/x'"),
        (("fit", "bad.csv"), "line 2 of 'bad.csv': number 3 is 'xxx"),
        (("fit", "bad.h5"), "'bad.h5' cannot be read as HDF5"),
        (("fit", "folder"), "give --recursive"),
        (("fit", "odd"), "as 1 of 3 pictures have: give --size HEIGHTxWIDTH to resize all to one size, --crop"),
        (("fit", "odd", "--background", "blueish"), "background must be the name of a colour"),
        (("fit", "few", "-k", "40"), "-k can be at most 12"),
    ],
)
def test_the_command_line_says_it_in_one_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    pytest.importorskip("typer", reason="the command line needs the extra 'app'")
    monkeypatch.chdir(tmp_path)
    world(tmp_path)
    from nmfcore import cli

    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert said in shown[-1] and len(shown) == 1, shown


def world(folder):
    (folder / "bad.csv").write_text("a,b,c\n1,2," + "x" * 5000 + "\n")
    (folder / "bad.h5").write_bytes(b"no HDF5")
    for name, shapes in (("folder/a", [0]), ("folder/b", [0]), ("odd", [0, 0, 1]), ("few", range(12))):
        (folder / name).mkdir(parents=True)
        for number, seed in enumerate(shapes):
            pixels = np.random.default_rng(seed).integers(0, 256, (6, 12 if name == "odd" and seed else 6), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_the_command_line_reads_what_the_library_reads(tmp_path, monkeypatch, capsys):
    pytest.importorskip("typer", reason="the command line needs the extra 'app'")
    monkeypatch.chdir(tmp_path)
    world(tmp_path)
    from nmfcore import cli

    Image.fromarray(np.zeros((6, 6), np.uint8)).save("folder/preview.png")
    np.savez("m.npz", x_train=X, y_train=np.arange(20) % 2, x_test=X[:4])
    for arguments, out, check in (
        (("fit", "folder", "--recursive", "-k", "1"), "folder", lambda model: model.labels.tolist() == ["a", "b", ""]),
        (("fit", "odd", "--crop"), "odd", lambda model: model.decoding["proportions"] == "cropped"),
        (("fit", "few", "--max-iter", "5"), "few", lambda model: len(model.components) == 6),
        (("fit", "m.npz::x_test", "-k", "2"), "m", lambda model: len(model.W) == 4),
    ):
        assert cli.main(arguments) == 0, capsys.readouterr().err
        assert check(load(f"nmfcore-{out}"))
    assert "lies beside the folders of the classes" in capsys.readouterr().err
