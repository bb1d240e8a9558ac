"""Pictures and tables of every kind become one matrix, or one clear sentence."""

import gzip
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

import nmfcore
from nmfcore import images
from nmfcore.images import InputError, load_images, picture_row, read_csv, read_idx, read_npy, read_source

PIL = pytest.importorskip("PIL", reason="pictures need the extra 'app'")
from PIL import Image  # noqa: E402


def picture(path, height=6, width=8, value=None, mode="L", seed=0, **options):
    if value is None:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(mode)
    else:
        image = Image.new(mode, (width, height), value)
    image.save(path, **options)
    return np.asarray(image.convert("L"))


# --------------------------------------------------------------------------------------------------
# the digits


def test_nothing_is_the_digits(digits):
    pictures = read_source()
    np.testing.assert_array_equal(pictures.matrix, digits)
    assert pictures.matrix.dtype == np.uint8
    assert pictures.shape == (8, 8)
    assert pictures.labels.shape == (1797,)
    assert pictures.source == "digits"


def test_titles():
    matrix = np.zeros((2, 3))
    assert images.Pictures(matrix, names=("a", "b"), labels=np.array([5, 6])).title(1) == "row 1, b (6)"
    assert images.Pictures(matrix, labels=np.array([5, 6])).title(1) == "row 1 (6)"
    assert images.Pictures(matrix).title(1) == "row 1"


# --------------------------------------------------------------------------------------------------
# folders


def test_a_folder_in_natural_order(tmp_path):
    expected = {
        name: picture(tmp_path / name, seed=seed)
        for seed, name in enumerate(["10.png", "2.png", "a1b.PNG", "1.png", "a1.png", "A2.png"])
    }
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    pictures = read_source(tmp_path)
    assert pictures.names == ("1.png", "2.png", "10.png", "a1.png", "a1b.PNG", "A2.png")
    assert pictures.shape == (6, 8)
    assert pictures.matrix.dtype == np.uint8
    for name, row in zip(pictures.names, pictures.matrix, strict=True):
        np.testing.assert_array_equal(row.reshape(6, 8), expected[name])
    assert pictures.labels is None
    assert pictures.skipped == ()


def test_more_pictures_than_one_task_holds(tmp_path):
    n = 2 * images.folders._PER_TASK + 5
    for number in range(n):
        picture(tmp_path / f"{number}.png", value=number)
    seen = []
    pictures = load_images(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert pictures.matrix[:, 0].tolist() == list(range(n))
    assert seen == [(32, n), (64, n), (n, n)]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1", "LA", "CMYK"])
def test_colours_become_grey(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    expected = picture(tmp_path / f"1.{suffix}", mode=mode)
    np.testing.assert_array_equal(load_images(tmp_path).matrix[0].reshape(6, 8), expected)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    wide = np.array([[0, 255, 256], [300, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / "1.png")
    assert load_images(tmp_path).matrix[0].tolist() == [0, 0, 1, 1, 128, 255]


def test_pictures_are_turned_upright(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif = Image.Exif()
    exif[images._decoding.ORIENTATION] = 6  # turn right by 90 degrees to view
    Image.fromarray(pixels).save(tmp_path / "1.png", exif=exif)
    pictures = load_images(tmp_path)
    assert pictures.shape == (4, 3)
    np.testing.assert_array_equal(pictures.matrix[0].reshape(4, 3), np.rot90(pixels, -1))


def test_other_sizes_are_resized_to_the_first(tmp_path):
    picture(tmp_path / "1.png", 48, 64, value=10)
    picture(tmp_path / "2.png", 96, 128, value=20)
    picture(tmp_path / "3.jpg", 1000, 1333, value=30, quality=100)
    picture(tmp_path / "4.png", 24, 32, value=40)
    pictures = read_source(tmp_path)
    assert pictures.shape == (48, 64)
    np.testing.assert_array_equal(pictures.matrix, np.repeat([[10], [20], [30], [40]], 3072, 1))


def test_size_resizes_all(tmp_path):
    smooth = np.add.outer(np.arange(80), np.arange(40)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "1.png")
    Image.fromarray(smooth.T).save(tmp_path / "2.png")
    pictures = read_source(tmp_path, size=(20, 10))
    assert pictures.shape == (20, 10)
    small = smooth.reshape(20, 4, 10, 4).mean(axis=(1, 3))
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(pictures.matrix[0].reshape(20, 10)[inner], small[inner], atol=1)
    assert pictures.matrix[1].any()


def test_other_proportions_are_refused_or_skipped(tmp_path):
    picture(tmp_path / "1.png", 6, 8)
    picture(tmp_path / "2.png", 8, 6)
    picture(tmp_path / "3.png", 12, 16)
    with pytest.raises(InputError, match=r"2\.png' has other proportions \(8x6\).*\(6x8\).*--size"):
        load_images(tmp_path)
    pictures = load_images(tmp_path, skip_broken=True)
    assert pictures.names == ("1.png", "3.png")
    assert len(pictures.skipped) == 1
    assert "2.png" in pictures.skipped[0]
    assert load_images(tmp_path, size=(4, 4)).matrix.shape == (3, 16)


def garbage(path):
    path.write_bytes(b"this is no picture")


def truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:1500])


def empty(path):
    path.write_bytes(b"")


def huge(path):
    """Claim 60,000 × 60,000 pixels in a file of a few hundred bytes."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">2I5B", 60000, 60000, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def quite_large(path):
    Image.new("1", (10000, 10000)).save(path)  # Pillow itself would only warn


def floats(path):
    Image.fromarray(np.ones((6, 8), np.float32)).save(path, format="TIFF")


@pytest.mark.parametrize("spoil", [garbage, truncated, empty, huge, quite_large, floats])
@pytest.mark.parametrize("name", ["1.png", "2.png", "3.png"])
def test_a_broken_picture_is_named_or_skipped(tmp_path, spoil, name):
    others = sorted({"1.png", "2.png", "3.png"} - {name})
    rows = [picture(tmp_path / other, 60, 80, seed=seed) for seed, other in enumerate(others)]
    spoil(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}' (is|has|holds) .*--skip-broken") as caught:
        read_source(tmp_path)
    assert "\n" not in str(caught.value)
    pictures = read_source(tmp_path, skip_broken=True)
    assert list(pictures.names) == others
    np.testing.assert_array_equal(pictures.matrix, np.reshape(rows, (2, 4800)))
    assert len(pictures.skipped) == 1
    assert name in pictures.skipped[0]


def test_the_first_broken_picture_is_the_one_named(tmp_path):
    for number in range(100):
        (garbage if number in (40, 90) else picture)(tmp_path / f"{number}.png")
    with pytest.raises(InputError, match=r"40\.png"):
        load_images(tmp_path)


def test_nothing_but_broken_pictures(tmp_path):
    garbage(tmp_path / "1.png")
    garbage(tmp_path / "2.png")
    with pytest.raises(InputError, match=r"none of the 2 pictures in .* can be read"):
        load_images(tmp_path, skip_broken=True)
    with pytest.raises(InputError, match=r"none of the 2 pictures in .* can be read"):
        load_images(tmp_path, size=(2, 2), skip_broken=True)


def test_folders_without_pictures(tmp_path):
    with pytest.raises(InputError, match=r"holds no pictures.*give a folder that does"):
        read_source(tmp_path)
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"give the file itself, like '.*x\.csv'"):
        read_source(tmp_path)
    (tmp_path / "sub").mkdir()
    picture(tmp_path / "sub" / "1.png")
    with pytest.raises(InputError, match=r"its subfolder does: give '.*sub'"):
        read_source(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        load_images(tmp_path / "nope")


def test_more_pixels_than_memory(tmp_path):
    picture(tmp_path / "1.png")
    with pytest.raises(InputError, match=r"need .* GB, this machine has .*--size"):
        load_images(tmp_path, size=(10**8, 10**8))
    with pytest.raises(InputError, match="at least 1x1"):
        load_images(tmp_path, size=(0, 5))


def test_pillows_warning_filter_is_put_back(tmp_path):
    import warnings

    picture(tmp_path / "1.png")
    before = list(warnings.filters)
    load_images(tmp_path)
    assert warnings.filters == before


# --------------------------------------------------------------------------------------------------
# colour


def colours(path, height=6, width=8, seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def test_rgb_rows_fold_to_height_width_and_colour(tmp_path):
    expected = [colours(tmp_path / f"{number}.png", seed=number) for number in range(40)]
    pictures = load_images(tmp_path, mode="RGB")
    assert pictures.shape == (6, 8, 3)
    assert pictures.matrix.dtype == np.uint8
    np.testing.assert_array_equal(pictures.matrix.reshape(-1, 6, 8, 3), expected)
    np.testing.assert_array_equal(read_source(tmp_path, mode="RGB").matrix, pictures.matrix)
    grey = load_images(tmp_path)
    assert grey.shape == (6, 8)
    weights = np.array(expected) @ [0.299, 0.587, 0.114]  # ITU-R 601, as Pillow documents "L"
    np.testing.assert_allclose(grey.matrix.reshape(-1, 6, 8), weights, atol=1)


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "LA", "P", "RGBA", "CMYK"])
def test_every_kind_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(colours(tmp_path / "x.bmp"))
    (tmp_path / "x.bmp").unlink()
    if mode == "I;16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8).save(tmp_path / "1.png")
        expected = image.convert("L").convert("RGB")
    else:
        converted = image.convert(mode)
        converted.save(tmp_path / ("1.tif" if mode == "CMYK" else "1.png"))
        expected = converted.convert("RGB")
    row = load_images(tmp_path, mode="RGB").matrix[0]
    np.testing.assert_array_equal(row.reshape(6, 8, 3), np.asarray(expected))


def test_colour_is_resized_like_grey(tmp_path):
    Image.new("RGB", (80, 60), (200, 100, 50)).save(tmp_path / "1.png")
    pictures = load_images(tmp_path, size=(3, 5), mode="RGB")
    assert pictures.shape == (3, 5, 3)
    assert pictures.matrix.reshape(-1, 3).tolist() == [[200, 100, 50]] * 15


def test_a_mode_there_is_not(tmp_path):
    picture(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"mode must be .* got 'HSV'"):
        load_images(tmp_path, mode="HSV")


# --------------------------------------------------------------------------------------------------
# into a file


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("broken", [[], [0], [3, 40, 41], [69]])
def test_a_matrix_in_a_file_is_the_one_in_memory(tmp_path, mode, broken):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(70):
        colours(folder / f"{number}.png", seed=number)
    for number in broken:
        garbage(folder / f"{number}.png")
    out = tmp_path / "x.npy"
    expected = load_images(folder, mode=mode, skip_broken=True)
    pictures = load_images(folder, mode=mode, skip_broken=True, out=out)
    assert isinstance(pictures.matrix, np.memmap)
    assert not pictures.matrix.flags.writeable
    np.testing.assert_array_equal(pictures.matrix, expected.matrix)
    np.testing.assert_array_equal(np.load(out), expected.matrix)
    assert (pictures.shape, pictures.names, pictures.skipped) == (expected.shape, expected.names, expected.skipped)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "x.npy"]
    again = read_source(out, size=(6, 8))
    assert again.shape == pictures.shape
    assert again.matrix.shape == pictures.matrix.shape


def test_nothing_is_overwritten_and_nothing_half_written_is_left(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(70):
        picture(folder / f"{number}.png", seed=number)
    out = tmp_path / "x.npy"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"x\.npy' exists"):
        load_images(folder, out=out)
    with pytest.raises(InputError, match=r"must name a \.npy file"):
        load_images(folder, out=tmp_path / "x.dat")
    with pytest.raises(InputError, match="there is no folder"):
        load_images(folder, out=tmp_path / "no" / "x.npy")
    assert out.read_bytes() == b"mine"

    other = tmp_path / "y.npy"

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_images(folder, out=other, progress=interrupt)
    with pytest.raises(InputError, match=r"y\.npy' exists"):
        load_images(folder, out=other, progress=lambda done, total: other.write_bytes(b"also mine"))
    assert other.read_bytes() == b"also mine"
    garbage(folder / "50.png")
    with pytest.raises(InputError, match=r"50\.png"):
        load_images(folder, out=tmp_path / "z.npy")
    monkeypatch.setattr(images._to_file.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match=r"its disk has 0\.0 GB free"):
        load_images(folder, out=tmp_path / "z.npy", skip_broken=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "x.npy", "y.npy"]


# --------------------------------------------------------------------------------------------------
# progress


def test_a_bar_is_shown_on_a_terminal_only(tmp_path, monkeypatch, capsys):
    rich = pytest.importorskip("rich.console", reason="the bar needs rich")
    picture(tmp_path / "1.png")
    load_images(tmp_path, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(rich.Console, "is_terminal", True)
    load_images(tmp_path, progress=False)
    assert capsys.readouterr().err == ""
    load_images(tmp_path, progress=True)
    assert "reading pictures" in capsys.readouterr().err
    from rich.live import Live

    with Live(console=rich.Console(stderr=True)):  # the caller's own
        assert load_images(tmp_path, progress=True).matrix.shape == (1, 48)


def test_without_rich_there_is_no_bar(tmp_path, monkeypatch):
    picture(tmp_path / "1.png")
    monkeypatch.setitem(sys.modules, "rich", None)
    assert load_images(tmp_path, progress=True).matrix.shape == (1, 48)


# --------------------------------------------------------------------------------------------------
# one picture to search by


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [None, (3, 5)])
def test_a_query_is_decoded_as_the_folder_was(tmp_path, mode, size):
    pixels = colours(tmp_path / "1.jpg", 60, 80, quality=95)
    pictures = load_images(tmp_path, size=size, mode=mode)
    path = tmp_path / "1.jpg"
    with open(path, "rb") as file, Image.open(path) as image:
        for given in (path, str(path), path.read_bytes(), file, image):
            row = picture_row(given, pictures.shape)
            assert row.dtype == np.uint8
            np.testing.assert_allclose(row.astype(int), pictures.matrix[0], atol=0 if given is not image else 4)
    folded = pictures.matrix[0].reshape(pictures.shape)
    for given in (folded, folded.astype(np.int64), pictures.matrix[0], np.asfortranarray(folded)):
        np.testing.assert_array_equal(picture_row(given, pictures.shape), pictures.matrix[0])
    other = picture_row(pixels, (60, 80) if mode == "L" else (60, 80, 3))
    assert other.shape == ((4800,) if mode == "L" else (14400,))


def test_queries_are_converted(tmp_path):
    assert picture_row(np.eye(4, dtype=bool), (4, 4)).tolist() == (255 * np.eye(4)).ravel().tolist()
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    np.testing.assert_array_equal(picture_row(grey, (6, 8, 3)).reshape(6, 8, 3), np.dstack([grey] * 3))
    picture(tmp_path / "1.png", exif=None)
    exif = Image.Exif()
    exif[images._decoding.ORIENTATION] = 6
    Image.fromarray(grey).save(tmp_path / "2.png", exif=exif)
    np.testing.assert_array_equal(picture_row(tmp_path / "2.png", (8, 6)).reshape(8, 6), np.rot90(grey, -1))


@pytest.mark.parametrize("spoil", [garbage, truncated, empty, huge, quite_large, floats])
@pytest.mark.parametrize("form", ["path", "bytes"])
def test_queries_that_are_refused(tmp_path, spoil, form):
    spoil(tmp_path / "1.png")
    name = r"1\.png'" if form == "path" else "what was given"
    given = tmp_path / "1.png" if form == "path" else (tmp_path / "1.png").read_bytes()
    with pytest.raises(InputError, match=f"{name} (is|has|holds) ") as caught:
        picture_row(given, (6, 8))
    assert "\n" not in str(caught.value)


def test_formats_whose_decoders_start_programs_are_not_opened(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, format="EPS")
    assert buffer.getvalue().startswith(b"%!PS")
    with pytest.raises(InputError, match="is not a picture that can be read"):
        picture_row(buffer.getvalue(), (6, 8))
    (tmp_path / "1.png").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="is not a picture that can be read"):
        load_images(tmp_path)


@pytest.mark.parametrize("suffix", sorted(images.PICTURE_SUFFIXES - {".jp2", ".pbm", ".pnm", ".ppm"}))
def test_the_formats_of_folders_are_opened(suffix):
    buffer = io.BytesIO()
    Image.init()
    Image.new("L", (8, 6), 77).save(buffer, format=Image.EXTENSION[suffix])
    np.testing.assert_allclose(picture_row(buffer.getvalue(), (6, 8)).astype(int), 77, atol=2)


@pytest.mark.parametrize(
    ("given", "shape", "message"),
    [
        (np.ones((4, 4)), (4, 4), "holds float64 values: expected whole numbers"),
        (np.full((4, 4), 256), (4, 4), "holds int64 values"),
        (np.full((4, 4), -1), (4, 4), "holds int64 values"),
        (np.ones((4, 4, 4), np.uint8), (4, 4), r"has shape \(4, 4, 4\)"),
        (np.ones(15, np.uint8), (4, 4), r"has shape \(15,\)"),
        (np.ones((0, 4), np.uint8), (4, 4), r"has shape \(0, 4\)"),
        ("no/such.png", (4, 4), r"'no/such\.png' does not exist"),
        (np.ones((4, 4), np.uint8), (4, 4, 4), r"shape must be .* got \(4, 4, 4\)"),
        (np.ones((4, 4), np.uint8), (16,), r"shape must be .* got \(16,\)"),
    ],
)
def test_queries_that_make_no_sense(given, shape, message):
    with pytest.raises(InputError, match=message):
        picture_row(given, shape)


# --------------------------------------------------------------------------------------------------
# IDX


def idx(path, array, code=None):
    codes = {"u1": 8, "i1": 9, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    kind = array.dtype.str[1:]
    header = bytes([0, 0, code or codes[kind], array.ndim])
    data = header + struct.pack(f">{array.ndim}I", *array.shape)
    data += array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
def test_idx(tmp_path, suffix, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    idx(tmp_path / f"x-images-idx3-ubyte{suffix}", array)
    idx(tmp_path / f"x-labels-idx1-ubyte{suffix}", np.array([7, 3], np.uint8))
    pictures = read_source(tmp_path / f"x-images-idx3-ubyte{suffix}")
    np.testing.assert_array_equal(pictures.matrix, array.reshape(2, 12))
    assert pictures.matrix.dtype == np.dtype(dtype)
    assert pictures.matrix.dtype.isnative
    assert pictures.shape == (3, 4)
    assert pictures.labels.tolist() == [7, 3]
    assert isinstance(pictures.matrix.base, np.memmap) == (suffix == "" and dtype == "u1")


def test_idx_in_colour(tmp_path):
    array = np.arange(72, dtype=np.uint8).reshape(2, 3, 4, 3)
    idx(tmp_path / "x-images", array)
    assert read_idx(tmp_path / "x-images").shape == (3, 4, 3)
    np.testing.assert_array_equal(read_idx(tmp_path / "x-images").matrix, array.reshape(2, 36))
    idx(tmp_path / "y-images", array[..., :1])
    assert read_idx(tmp_path / "y-images").shape == (3, 4)
    idx(tmp_path / "z-images", array[..., :2])
    with pytest.raises(InputError, match=r"shape \(2, 3, 4, 2\)"):
        read_idx(tmp_path / "z-images")


def test_idx_labels_packed_otherwise_and_absent(tmp_path):
    idx(tmp_path / "a-images.idx3-ubyte", np.zeros((2, 3, 4), np.uint8))
    assert read_idx(tmp_path / "a-images.idx3-ubyte").labels is None
    idx(tmp_path / "a-labels.idx1-ubyte.gz", np.array([1, 2], np.uint8))
    assert read_idx(tmp_path / "a-images.idx3-ubyte").labels.tolist() == [1, 2]


def test_idx_labels_of_other_pictures(tmp_path):
    idx(tmp_path / "a-images-idx3-ubyte", np.zeros((2, 3, 4), np.uint8))
    idx(tmp_path / "a-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(InputError, match="3 labels but 'a-images-idx3-ubyte' 2 pictures"):
        read_source(tmp_path / "a-images-idx3-ubyte")
    with pytest.raises(InputError, match="give the file with the images"):
        read_source(tmp_path / "a-labels-idx1-ubyte")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_damaged(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    whole = struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + bytes(24)

    def write(data):
        path.write_bytes(gzip.compress(data) if suffix else data)

    write(whole)
    assert read_source(path).matrix.shape == (2, 12)
    for data in (whole[:-1], whole + b"x", struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 9)):
        write(data)
        with pytest.raises(InputError, match="is damaged: its header promises"):
            read_source(path)
    write(struct.pack(">4B3I", 0, 0, 8, 3, 0, 3, 4))
    with pytest.raises(InputError, match="is empty"):
        read_source(path)
    if suffix:
        path.write_bytes(gzip.compress(whole)[:-9])
        with pytest.raises(InputError, match="is damaged"):
            read_source(path)


def test_mnist(data_folder):
    pictures = read_source(data_folder / "mnist" / "t10k-images-idx3-ubyte.gz")
    assert pictures.matrix.shape == (10000, 784)
    assert pictures.matrix.dtype == np.uint8
    assert pictures.shape == (28, 28)
    assert np.bincount(pictures.labels).tolist()[:3] == [980, 1135, 1032]


# --------------------------------------------------------------------------------------------------
# tables


def table(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return read_source(path)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.CSV"])
def test_kaggle_form(tmp_path, name):
    pictures = table(tmp_path, "label,pixel0,pixel1,pixel2,pixel3\n3,0,1,2,255\n7,5,6,7,8\n", name)
    assert pictures.matrix.tolist() == [[0, 1, 2, 255], [5, 6, 7, 8]]
    assert pictures.matrix.dtype == np.uint8
    assert pictures.labels.tolist() == [3, 7]
    assert pictures.shape == (2, 2)


@pytest.mark.parametrize(
    ("text", "matrix", "labels"),
    [
        ("a,Label,b\n1,cat,2\n3,dog,4\n", [[1, 2], [3, 4]], ["cat", "dog"]),
        ("a,b,class\n1,2,-1\n", [[1, 2]], [-1]),
        ('"a","b"\n"1","2"\n', [[1, 2]], None),
        ('"label","b"\n"x,y","2"\n', [[2]], ["x,y"]),
        ("a;b\n1;2\n", [[1, 2]], None),
        ("1\t2\n3\t4\n", [[1, 2], [3, 4]], None),
        ("\ufeffa,b\r\n1,2\r\n\r\n3,4", [[1, 2], [3, 4]], None),
        ("1,2,3\n", [[1, 2, 3]], None),
        ("7\n8\n", [[7], [8]], None),
        (" 1 , 2 \n 3 , 4 \n", [[1, 2], [3, 4]], None),
    ],
)
def test_forms_of_tables(tmp_path, text, matrix, labels):
    pictures = table(tmp_path, text)
    assert pictures.matrix.tolist() == matrix
    assert pictures.matrix.dtype == np.uint8
    assert (None if pictures.labels is None else pictures.labels.tolist()) == labels


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ("0,255", "uint8"),
        ("0,256", "int16"),
        ("-1,255", "int16"),
        ("0,40000", "uint16"),
        ("0,70000", "int32"),
        ("0,5000000000", "int64"),
        ("0,1.5", "float64"),
        ("0,1e3", "float64"),
        ("0,99999999999999999999", "float64"),
        ("0,nan", "float64"),
    ],
)
def test_the_smallest_type_that_fits(tmp_path, values, dtype):
    pictures = table(tmp_path, values + "\n")
    assert pictures.matrix.dtype == dtype
    np.testing.assert_array_equal(pictures.matrix, [[float(v) for v in values.split(",")]])


def test_types_of_blocks_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(images.tables, "_LINES", 2)
    pictures = table(tmp_path, "label,a,b\n" + "".join(f"{i},{i},{i * 100}\n" for i in range(7)))
    assert pictures.matrix.tolist() == [[i, i * 100] for i in range(7)]
    assert pictures.matrix.dtype == np.int16
    assert pictures.labels.tolist() == list(range(7))


def test_mnists_form_without_a_header(tmp_path):
    rows = np.arange(2 * 65).reshape(2, 65)
    lines = "".join(",".join(map(str, row)) + "\n" for row in rows)
    pictures = table(tmp_path, lines)
    assert pictures.labels.tolist() == [0, 65]
    np.testing.assert_array_equal(pictures.matrix, rows[:, 1:])
    assert pictures.shape == (8, 8)
    assert table(tmp_path, lines.replace("64", "64.5", 1)).labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("label,a,b\n", "a header and nothing else"),
        ("label\n1\n", "a label column and no other"),
        ("a,b\n1,2\n3\n", r"line 3 of '.*' has 1 columns, expected 2"),
        ("label,a,b\n1,2,3\n3,4\n", r"line 3 of '.*' has 1 columns, expected 2"),
        ("a,label,b\n1,2,3\n3,4\n", r"line 3 of '.*' has 2 columns, expected 3"),
        ("1,2\n\n3,x\n", r"line 3 of '.*': number 2 is 'x', expected a number"),
        ("1,2\n3,\n", r"line 2 of '.*': number 2 is empty"),
        (",a,b\n0,1,2\n", "looks like a row number.*index=False"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        table(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_tables_that_are_no_text(tmp_path):
    (tmp_path / "t.csv").write_text("1,2\n", encoding="utf-16")
    with pytest.raises(InputError, match="UTF-8"):
        read_csv(tmp_path / "t.csv")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"1,2\n" * 1000)[:-9])
    with pytest.raises(InputError, match="is damaged"):
        read_csv(tmp_path / "t.csv.gz")


def tables(tmp_path, *texts):
    paths = [tmp_path / f"{number}.csv" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return read_csv(paths)


def test_several_tables_are_put_below_one_another(tmp_path):
    pictures = tables(tmp_path, "label,p0,p1\n3,1,2\n4,5,6\n", "p0,label,p1\n7,9,300\n", "8;9\n")
    assert pictures.matrix.tolist() == [[1, 2], [5, 6], [7, 300], [8, 9]]
    assert pictures.matrix.dtype == np.int16
    assert pictures.labels.tolist() == [3, 4, 9, -1]
    assert pictures.source == " + ".join(str(tmp_path / f"{number}.csv") for number in range(3))
    assert tables(tmp_path, "1,2\n", "3,4\n").labels is None
    assert tables(tmp_path, "1,2,3,4\n").shape == (2, 2)
    assert tables(tmp_path, "label,a\n1,2\n", "label,a\n-1,2\n").labels.tolist() == [1, -1]


def test_labels_of_several_tables_that_are_words(tmp_path):
    assert tables(tmp_path, "class,p\ncat,1\n", "p\n2\n").labels.tolist() == ["cat", ""]
    assert tables(tmp_path, "class,p\ncat,1\n", "class,p\n7,2\n").labels.tolist() == ["cat", "7"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["1,2\n", "1,2\n", "1,2,3\n"], r"2\.csv' has 3 columns \(labels aside\), but '.*0\.csv' has 2"),
        (["label,a,b\n1,2,3\n", "a,c\n2,3\n"], r"1\.csv' has a column 'c' where '.*0\.csv' has 'b'"),
        (["1,2\n", "a,b\n1,2\n", "b,a\n1,2\n"], r"2\.csv' has a column 'b' where"),
        (["1,2\n", "1,x\n2,3\n4,y\n"], r"line 3 of '.*1\.csv'"),
        (["label,a\n-1,2\n", "a\n2\n"], r"0\.csv' has the label '-1', which would stand for no label"),
        ([], "no table was given"),
    ],
)
def test_tables_that_do_not_go_together(tmp_path, texts, message):
    with pytest.raises(InputError, match=message):
        tables(tmp_path, *texts)


def test_a_table_as_pandas_reads_it(tmp_path, rng):
    pandas = pytest.importorskip("pandas")
    X = rng.integers(0, 256, (50, 12))
    frame = pandas.DataFrame(X, columns=[f"pixel{i}" for i in range(12)])
    frame.insert(0, "label", rng.integers(0, 10, 50))
    frame.to_csv(tmp_path / "t.csv", index=False)
    pictures = read_csv(tmp_path / "t.csv")
    np.testing.assert_array_equal(pictures.matrix, X)
    np.testing.assert_array_equal(pictures.labels, frame["label"])


# --------------------------------------------------------------------------------------------------
# numpy files


def test_npy_is_mapped_not_read(tmp_path):
    X = np.arange(24, dtype=np.uint16).reshape(2, 12)
    np.save(tmp_path / "x.npy", X)
    pictures = read_source(tmp_path / "x.npy")
    assert isinstance(pictures.matrix, np.memmap)
    assert not pictures.matrix.flags.writeable
    np.testing.assert_array_equal(pictures.matrix, X)
    assert pictures.shape is None
    np.save(tmp_path / "y.npy", X.reshape(2, 3, 4))
    pictures = read_source(tmp_path / "y.npy")
    assert isinstance(pictures.matrix, np.memmap)
    np.testing.assert_array_equal(pictures.matrix, X)
    assert pictures.shape == (3, 4)


def test_npy_in_colour(tmp_path):
    X = np.arange(72, dtype=np.uint8).reshape(2, 3, 4, 3)
    np.save(tmp_path / "x.npy", X)
    pictures = read_source(tmp_path / "x.npy")
    assert pictures.shape == (3, 4, 3)
    np.testing.assert_array_equal(pictures.matrix, X.reshape(2, 36))
    np.save(tmp_path / "y.npy", X[..., :1])
    assert read_source(tmp_path / "y.npy").shape == (3, 4)
    np.save(tmp_path / "z.npy", X.reshape(2, 36))
    assert read_source(tmp_path / "z.npy", size=(3, 4)).shape == (3, 4, 3)


def test_size_states_the_shape_of_a_matrix(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 12)))
    assert read_source(tmp_path / "x.npy", size=(2, 6)).shape == (2, 6)
    with pytest.raises(InputError, match=r"--size 5x5 makes 25 pixels but a row of .* has 12"):
        read_source(tmp_path / "x.npy", size=(5, 5))
    assert read_source(size=(4, 16)).shape == (4, 16)


@pytest.mark.parametrize("names", [["X", "other"], ["arr_0", "b"], ["pixels"]])
def test_npz(tmp_path, names):
    arrays = {name: np.full((3, 4), number) for number, name in enumerate(names)}
    np.savez(tmp_path / "x.npz", **arrays)
    pictures = read_source(tmp_path / "x.npz")
    assert pictures.matrix.tolist() == [[0] * 4] * 3
    assert pictures.shape == (2, 2)
    assert pictures.labels is None


def test_npz_labels(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.ones((3, 4)), y=np.array([5, 6, 7]))
    assert read_npy(tmp_path / "x.npz").labels.tolist() == [5, 6, 7]
    np.savez(tmp_path / "x.npz", X=np.ones((3, 4)), y=np.ones((2, 2)))
    with pytest.warns(UserWarning, match=r"no labels are read .* shape \(2, 2\)"):
        assert read_npy(tmp_path / "x.npz").labels is None


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3), r"shape \(3,\)"),
        (np.ones((2, 3, 4, 2)), r"shape \(2, 3, 4, 2\)"),
        (np.ones((2, 3, 4, 3, 1)), r"shape \(2, 3, 4, 3, 1\)"),
        (np.ones((2, 3), complex), "complex128"),
        (np.array([["a"]]), "<U1"),
        (np.ones((0, 3)), "is empty"),
        (np.array([[None]]), "holds Python objects"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_bad_numpy_files(tmp_path, array, message, suffix):
    (np.save if suffix == "npy" else np.savez)(tmp_path / f"x.{suffix}", array)
    with pytest.raises(InputError, match=message):
        read_source(tmp_path / f"x.{suffix}")


def test_numpy_files_of_something_else(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(3), b=np.ones(3))
    with pytest.raises(InputError, match="holds 'a', 'b': expected a single array, or one named X"):
        read_source(tmp_path / "x.npz")
    for name in ("x.npy", "x.npz"):
        for content in (b"", b"no numpy file"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(InputError, match="is damaged"):
                read_source(tmp_path / name)


# --------------------------------------------------------------------------------------------------
# anything else


def test_other_files(tmp_path):
    with pytest.raises(InputError, match=r"there is no file or folder '.*nope': check the path"):
        read_source(tmp_path / "nope")
    picture(tmp_path / "1.png")
    with pytest.raises(InputError, match="is a single picture: give the folder"):
        read_source(tmp_path / "1.png")
    (tmp_path / "x.mat").write_bytes(b"anything")
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"anything"))
    (tmp_path / "empty").write_bytes(b"")
    for name in ("x.mat", "x.gz", "empty"):
        with pytest.raises(InputError, match=f"{name}' is of no known kind: expected a folder"):
            read_source(tmp_path / name)


def test_without_pillow_tables_are_read_and_pictures_say_what_to_install(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "t.csv").write_text("1,2\n")
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from nmfcore.images import read_source\n"
        f"assert read_source({str(tmp_path / 't.csv')!r}).matrix.tolist() == [[1, 2]]\n"
        "try:\n"
        f"    read_source({str(tmp_path)!r})\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "reading pictures needs Pillow: pip install 'nmfcore[app]'"


# --------------------------------------------------------------------------------------------------
# models


@pytest.mark.parametrize("parameters", [{}, {"dtype": np.float64}, {"solver": "mu"}])
def test_an_estimator_comes_back_from_its_model(tmp_path, parameters):
    digits = read_source()
    fitted = nmfcore.NMF(5, init="nndsvda", max_iter=30, tol=0, random_state=0, **parameters)
    W = fitted.fit_transform(digits.matrix)
    nmfcore.save(images.model_of(fitted, W, digits), tmp_path / "m.npz")
    model = nmfcore.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(model.W, W)
    assert model.shape == (8, 8)
    assert model.labels.tolist() == digits.labels.tolist()
    again = images.estimator_from(model)
    assert type(again) is nmfcore.NMF
    assert again.get_params() == fitted.get_params()
    np.testing.assert_array_equal(again.transform(digits.matrix), fitted.transform(digits.matrix))
    np.testing.assert_array_equal(again.inverse_transform(W), fitted.inverse_transform(W))
    for name in ("n_components_", "n_features_in_", "n_iter_", "converged_", "stop_reason_"):
        assert getattr(again, name) == getattr(fitted, name)
    assert again.reconstruction_err_ == fitted.reconstruction_err_
    for name, values in fitted.history_.items():
        np.testing.assert_array_equal(again.history_[name], values)


def test_a_model_this_version_does_not_know():
    from nmfcore.models import Model, ModelFileError

    parts = {"W": np.ones((2, 1)), "components": np.ones((1, 3))}
    with pytest.raises(ModelFileError, match="made by 'KernelNMF'"):
        images.estimator_from(Model(**parts, estimator="KernelNMF"))
    with pytest.raises(ModelFileError, match=r"written by nmfcore 9\.0 .*colour"):
        images.estimator_from(Model(**parts, parameters={"colour": "red"}, versions={"nmfcore": "9.0"}))
