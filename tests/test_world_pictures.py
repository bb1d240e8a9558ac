"""Picture files as they are found: metadata, transparency, depth, stacks, folders of classes, odd proportions."""

import io
import logging
import os
import struct
import warnings
import zlib

import numpy as np
import pytest

PIL = pytest.importorskip("PIL", reason="pictures need the extra 'app'")
from PIL import Image  # noqa: E402

from nmfcore.images import InputError, Pictures, cached_images, load_images, picture_row, read_source  # noqa: E402
from nmfcore.images._decoding import Decoding, levels_of  # noqa: E402
from nmfcore.images._metadata import without_metadata  # noqa: E402


def pattern(seed=0, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def with_chunk(png, kind, body, crc=None):
    """Return a PNG file with one chunk more, right behind its header."""
    chunk = struct.pack(">I", len(body)) + kind + body
    chunk += struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    return png[:33] + chunk + png[33:]


def png(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def oriented(value):
    """Return EXIF data whose orientation is `value`, of any type."""
    text = isinstance(value, str)
    entry = struct.pack("<HHI", 0x0112, 2 if text else 3, 2 if text else 1)
    entry += value.encode().ljust(4, b"\0") if text else struct.pack("<HH", value, 0)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)


# --- metadata never loses pixels ------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: with_chunk(data, b"eXIf", b"nothing that EXIF data begin with"),
        lambda data: with_chunk(data, b"tEXt", b"Comment\0x", crc=1),
        lambda data: with_chunk(data, b"iCCP", b"profile\0\0not deflated"),
        lambda data: with_chunk(data, b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (70 << 20))),
        lambda data: with_chunk(data, b"pHYs", b"x"),
        lambda data: with_chunk(data, b"gAMA", b""),
        lambda data: with_chunk(data, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='many'/>"),
        lambda data: with_chunk(data, b"eXIf", oriented(99)[6:]),
    ],
)
def test_what_a_png_holds_beside_its_pixels(tmp_path, spoil):
    (tmp_path / "1.png").write_bytes(png(pattern(1)))
    (tmp_path / "2.png").write_bytes(spoil(png(pattern(2))))
    pictures = load_images(tmp_path)
    np.testing.assert_array_equal(pictures.matrix.reshape(2, 12, 16), [pattern(1), pattern(2)])
    np.testing.assert_array_equal(picture_row((tmp_path / "2.png").read_bytes(), (12, 16)), pattern(2).ravel())


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", oriented("6"), oriented(0)])
def test_what_a_jpeg_says_of_its_orientation(tmp_path, exif):
    (tmp_path / "1.jpg").write_bytes(jpeg(pattern(), exif=exif, dpi=(72, 72)))
    expected = np.asarray(Image.open(io.BytesIO(jpeg(pattern()))))
    np.testing.assert_array_equal(load_images(tmp_path).matrix[0].reshape(12, 16), expected)


def test_an_orientation_that_can_be_read_is_followed(tmp_path):
    for number in range(1, 9):
        (tmp_path / f"{number}.png").write_bytes(png(pattern()))
        with open(tmp_path / f"{number}.png", "wb") as file:
            exif = Image.Exif()
            exif[0x0112] = number
            Image.fromarray(pattern()).save(file, "PNG", exif=exif)
    from PIL import ImageOps

    for number in range(1, 9):
        with Image.open(tmp_path / f"{number}.png") as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        row = picture_row(tmp_path / f"{number}.png", expected.shape)
        np.testing.assert_array_equal(row.reshape(expected.shape), expected)


def test_pixels_are_never_left_out_with_the_metadata():
    data = png(pattern())
    assert without_metadata(io.BytesIO(data)) is None
    assert without_metadata(io.BytesIO(with_chunk(data, b"tEXt", b"a\0b"))) == data
    with_comment = jpeg(pattern(), comment=b"x", exif=oriented(6))
    plain = without_metadata(io.BytesIO(with_comment))
    assert len(plain) < len(with_comment)
    a, b = (np.asarray(Image.open(io.BytesIO(each))) for each in (with_comment, plain))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("head", "size"), [(b"P4 9 3\n", 6), (b"P5 4 3 255\n", 12), (b"P5 4 3 99\n", 12), (b"P5 4 3 999\n", 24),
                       (b"P6 4 3 255\n", 36), (b"P6 4 3 65535\n", 72)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")  # they hold one grey
def test_several_pictures_in_a_netpbm_file_are_refused(tmp_path, head, size):
    one = head + size * b"@"
    (tmp_path / "1.pgm").write_bytes(one + b"\n")  # a line's end behind the pixels is no picture
    assert load_images(tmp_path).matrix.shape[0] == 1
    (tmp_path / "1.pgm").write_bytes(one + one)
    with pytest.raises(ValueError, match=r"holds several pictures, .*: store each in a file of its own"):
        load_images(tmp_path)


# --- transparency ---------------------------------------------------------------------------------


def icon(number, hidden):
    pixels = np.full((8, 8, 4), hidden, np.uint8)
    pixels[..., 3] = 0
    pixels[number : number + 3, 2:6] = (0, 0, 0, 255)
    return pixels


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("background", "shade"), [("white", 255), ("#808080", 128), ((9, 9, 9), 9)])
def test_transparency_is_laid_on_a_background(tmp_path, mode, background, shade):
    for number in range(4):
        Image.fromarray(icon(number, 40 * number)).save(tmp_path / f"{number}.png")
        Image.fromarray(icon(number, 255)).save(tmp_path / f"{number}.webp", lossless=True, exact=True)
    pictures = load_images(tmp_path, mode=mode, background=background)
    rows = pictures.matrix.reshape(8, *pictures.shape)
    for number in range(4):
        expected = np.full((8, 8), shade)
        expected[number : number + 3, 2:6] = 0
        for row in rows[2 * number : 2 * number + 2]:
            np.testing.assert_array_equal(row if mode == "L" else row[..., 1], expected)
    assert pictures.decoding["background"] == f"#{3 * f'{shade:02x}'}"


def test_half_transparent_pixels_are_mixed(tmp_path):
    pixels = np.zeros((4, 4, 2), np.uint8)
    pixels[..., 1] = 51
    Image.fromarray(pixels, "LA" if PIL.__version__ < "11.3" else None).save(tmp_path / "1.png")
    assert set(load_images(tmp_path).matrix[0]) == {204}


@pytest.mark.parametrize("background", ["no colour", (1, 2), (0, 0, 256), 7, "#12"])
def test_backgrounds_that_are_none(tmp_path, background):
    with pytest.raises(ValueError, match="background must be the name of a colour"):
        load_images(tmp_path, background=background)


# --- more than 8 bits -----------------------------------------------------------------------------


@pytest.mark.parametrize(("highest", "levels"), [(0, 256), (255, 256), (256, 512), (4095, 4096), (65535, 65536)])
def test_levels(highest, levels):
    assert levels_of(highest) == levels


@pytest.mark.parametrize("highest", [255, 1000, 4095, 40000, 65535])
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_one_scale_for_a_folder_keeps_contrast(tmp_path, highest, suffix):
    ramp = np.linspace(0, highest, 256).round().astype(np.uint16).reshape(16, 16)
    for name, pixels in (("1", ramp), ("2", ramp // 2)):
        if suffix == "pgm":  # older Pillow reads 16 bits of it, and does not write them
            (tmp_path / f"{name}.pgm").write_bytes(b"P5 16 16 65535\n" + pixels.astype(">u2").tobytes())
        else:
            Image.fromarray(pixels).save(tmp_path / f"{name}.{suffix}")
    pictures = load_images(tmp_path)
    levels = levels_of(highest)
    np.testing.assert_array_equal(pictures.matrix, np.reshape([ramp, ramp // 2], (2, 256)) // (levels // 256))
    assert len(np.unique(pictures.matrix[0])) >= 120 and pictures.decoding["levels"] == levels
    # One picture alone is decoded as the folder was.
    row = picture_row(tmp_path / f"2.{suffix}", (16, 16), decoding=pictures.decoding)
    np.testing.assert_array_equal(row, pictures.matrix[1])


def test_pictures_of_8_and_of_16_bits_go_together(tmp_path):
    Image.fromarray(pattern()).save(tmp_path / "1.png")
    Image.fromarray(16 * pattern().astype(np.uint16)).save(tmp_path / "2.png")
    pictures = load_images(tmp_path)
    np.testing.assert_array_equal(*pictures.matrix)


@pytest.mark.parametrize("values", [(30000, 30255), (0, 200, 65535)])
def test_contrast_that_is_lost_is_said(tmp_path, values):
    pixels = np.resize(np.arange(values[0], values[1], dtype=np.uint16), (64, 64))
    pixels[0, 0] = values[-1]
    Image.fromarray(pixels).save(tmp_path / "1.png")
    with pytest.warns(UserWarning, match=r"of 256 grey levels are left"):
        load_images(tmp_path)


def test_an_offset_that_leaves_few_levels_is_said(tmp_path):
    Image.fromarray(np.resize(np.arange(2000, 3500, dtype=np.uint16), (64, 64))).save(tmp_path / "1.png")
    with pytest.warns(UserWarning, match=r"lie from 2,000 to 3,499.*: 94 of 256 grey levels are left"):
        load_images(tmp_path)


def raw_png(kind, depth, rows, key=None):
    """Return a PNG file whose samples have any number of bits; `key` is the colour that is transparent."""
    height, width = rows.shape[:2]
    body = b"".join(b"\0" + row.tobytes() for row in (rows.astype(">u2") if depth == 16 else np.packbits(rows, axis=1)))
    width = width // depth if depth < 8 else width
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, part in ((b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(body)), (b"IEND", b"")):
        if part is not None:
            data += struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
    return data


@pytest.mark.parametrize(("kind", "samples"), [(2, 3), (6, 4), (4, 2)])
def test_16_bits_a_colour_are_said_whatever_the_suffix(tmp_path, kind, samples):
    ramp = np.repeat(np.linspace(0, 4095, 256).reshape(16, 16)[..., None], samples, axis=2)
    if samples % 2 == 0:
        ramp[..., -1] = 65535
    for name in ("1.png", "2.jpg"):
        (tmp_path / name).write_bytes(raw_png(kind, 16, ramp))
    with pytest.warns(UserWarning, match="2 files of .* hold 16 bits for each colour, of which the upper 8 are read"):
        load_images(tmp_path)


def test_16_bits_a_colour_of_a_ppm_are_said(tmp_path):
    (tmp_path / "1.ppm").write_bytes(b"P6\n4 2\n65535\n" + (2000 * np.arange(24)).astype(">u2").tobytes())
    with pytest.warns(UserWarning, match="1 file of .* hold 16 bits for each colour"):
        load_images(tmp_path)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_grey_of_few_bits(tmp_path, depth, mode):
    drawn = np.tile([0, 1, 1, 0], (4, 2))  # zeros are black, ones are transparent, and a third grey is kept
    bits = np.zeros((4, 8, depth), np.uint8)
    bits[..., -1] = drawn
    (tmp_path / "1.png").write_bytes(raw_png(0, depth, bits.reshape(4, -1), struct.pack(">H", 1)))
    rows = load_images(tmp_path, mode=mode).matrix.reshape(4, 8, -1)[..., 0]
    np.testing.assert_array_equal(rows, 255 * drawn)


def test_a_tiff_of_16_bits_whose_white_is_zero(tmp_path):
    levels = np.linspace(0, 65535, 192).astype(np.uint16).reshape(12, 16)
    Image.fromarray(levels).save(tmp_path / "1.tif")
    Image.fromarray(levels).save(tmp_path / "2.tif")
    data = (tmp_path / "2.tif").read_bytes()
    entry = struct.pack("<HHIH", 262, 3, 1, 1)
    assert data.count(entry) == 1
    (tmp_path / "2.tif").write_bytes(data.replace(entry, struct.pack("<HHIH", 262, 3, 1, 0)))
    black, white = load_images(tmp_path).matrix
    np.testing.assert_array_equal(black, 255 - white)


def test_colours_that_cannot_be_converted_are_named(tmp_path):
    Image.new("LAB", (4, 4)).save(tmp_path / "1.tif")
    with pytest.raises(InputError, match=r"1\.tif' holds colours of the LAB space; save it in RGB"):
        load_images(tmp_path)


def test_negative_pixels_are_refused(tmp_path):
    Image.fromarray(np.array([[-1000, 3000]], np.int32)).save(tmp_path / "1.tif")
    with pytest.raises(InputError, match=r"1\.tif' holds negative pixels \(down to -1,000\)"):
        load_images(tmp_path)


def tiff_of_ints(pixels, bits, form):
    """Return a TIFF file whose samples are `form`: 1 without a sign, 2 with one."""
    height, width = pixels.shape
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 12 * 10 + 4), (277, 1)]
    entries += [(278, height), (279, pixels.nbytes), (339, form)]
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(4) + pixels.tobytes()


def test_the_sign_of_a_tiff_is_minded(tmp_path):
    low = np.arange(-60, 132, dtype=np.int16).reshape(12, 16)
    for pixels, bits in ((low.astype("i1"), 8), (low.astype("<i2"), 16), (low.astype("<i4"), 32)):
        (tmp_path / "1.tif").write_bytes(tiff_of_ints(pixels, bits, 2))
        with pytest.raises(InputError, match=r"1\.tif' holds negative pixels \(down to -"):
            load_images(tmp_path)
    levels = np.linspace(0, 2**32 - 1, 192).astype("<u4").reshape(12, 16)
    for pixels, bits in ((levels, 32), ((levels >> 16).astype("<u2"), 16), ((levels >> 24).astype("u1"), 8)):
        (tmp_path / "1.tif").write_bytes(tiff_of_ints(pixels, bits, 1))
        np.testing.assert_array_equal(load_images(tmp_path).matrix[0], (levels >> 24).ravel())


# --- stacks ---------------------------------------------------------------------------------------


def stack(path, count=5, **options):
    frames = [Image.fromarray(pattern(seed)) for seed in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return [np.asarray(frame) for frame in frames]


@pytest.mark.parametrize(("suffix", "options"), [("tif", {}), ("gif", {}), ("webp", {"lossless": True}), ("png", {})])
def test_every_page_is_a_row(tmp_path, suffix, options):
    (tmp_path / "in").mkdir()
    Image.fromarray(pattern(9)).save(tmp_path / "in" / "1.png")
    pages = stack(tmp_path / "in" / f"2.{suffix}", **options)
    seen = []
    pictures = load_images(tmp_path / "in", progress=lambda *done: seen.append(done))
    np.testing.assert_allclose(pictures.matrix[1:].reshape(-1, 12, 16).astype(int), pages, atol=1)
    assert pictures.names == ("1.png", *(f"2.{suffix}#{page}" for page in range(1, 6)))
    assert seen[-1] == (6, 6)
    alone = read_source(tmp_path / "in" / f"2.{suffix}")
    np.testing.assert_array_equal(alone.matrix, pictures.matrix[1:])
    cached = cached_images(tmp_path / "in")
    np.testing.assert_array_equal(cached.matrix, pictures.matrix)
    assert cached.names == pictures.names


@pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="this Pillow has no AVIF")
def test_pages_of_avif_are_rows(tmp_path):
    stack(tmp_path / "1.avif", count=3)
    assert load_images(tmp_path).names == ("1.avif#1", "1.avif#2", "1.avif#3")


def test_a_stack_under_the_suffix_of_a_single_picture(tmp_path):
    pages = stack(tmp_path / "2.tif")
    (tmp_path / "2.tif").rename(tmp_path / "2.jpg")
    np.testing.assert_array_equal(load_images(tmp_path).matrix.reshape(5, 12, 16), pages)


def test_pages_of_other_shapes_are_refused_like_files(tmp_path):
    frames = [Image.fromarray(pattern(0)), Image.fromarray(pattern(1, 16, 12)), Image.fromarray(pattern(2))]
    frames[0].save(tmp_path / "1.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"other proportions \(16x12\).*as 1 of 3 pictures have.*--crop"):
        load_images(tmp_path)
    kept = load_images(tmp_path, skip_broken=True)
    assert kept.names == ("1.tif#1", "1.tif#3") and len(kept.skipped) == 1


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 11, reason="this Pillow writes no tags of later pages")
@pytest.mark.skipif(PIL.__version__ in ("11.0.0", "11.1.0"), reason="this Pillow writes no tags of appended pages")
def test_smaller_copies_of_a_page_are_no_rows(tmp_path, caplog):
    pages = [Image.fromarray(pattern(seed)).resize((8, 6) if seed == 1 else (16, 12)) for seed in range(3)]
    for page, copy in zip(pages, (0, 1, 0), strict=True):
        page.encoderinfo = {"tiffinfo": {254: copy}}
    pages[0].save(tmp_path / "1.tif", save_all=True, append_images=pages[1:])
    caplog.set_level(logging.INFO, "nmfcore")
    assert load_images(tmp_path).names == ("1.tif#1", "1.tif#3")
    assert "1 smaller copies of pages" in caplog.text


# --- folders --------------------------------------------------------------------------------------


@pytest.fixture
def animals(tmp_path):
    for folder, count in (("cats", 3), ("dogs", 2)):
        (tmp_path / "animals" / folder).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(pattern(number)).save(tmp_path / "animals" / folder / f"{number}.png")
    return tmp_path / "animals"


def test_a_folder_per_class(animals):
    with pytest.raises(InputError, match=r"2 subfolders of it do \('cats', 'dogs'\): give --recursive"):
        load_images(animals)
    pictures = load_images(animals, recursive=True)
    assert pictures.names == ("cats/0.png", "cats/1.png", "cats/2.png", "dogs/0.png", "dogs/1.png")
    assert pictures.labels.tolist() == ["cats"] * 3 + ["dogs"] * 2
    assert load_images(animals, recursive=True, labels=None).labels is None
    cached = [cached_images(animals, recursive=True) for _ in range(2)]
    for each in (*cached, read_source(animals, recursive=True)):
        np.testing.assert_array_equal(each.matrix, pictures.matrix)
        np.testing.assert_array_equal(each.labels, pictures.labels)
    with pytest.raises(ValueError, match="labels must be"):
        load_images(animals, labels="file")


def test_a_stray_picture_is_named(animals):
    Image.fromarray(pattern(7)).save(animals / "preview.png")
    with pytest.warns(UserWarning, match=r"5 pictures in 2 subfolders .* are passed over, and 1 picture .* is read"):
        assert len(load_images(animals).matrix) == 1
    with pytest.warns(UserWarning, match=r"1 picture .*'preview\.png'.* lies beside the folders"):
        pictures = load_images(animals, recursive=True)
    assert pictures.labels.tolist() == ["cats"] * 3 + ["dogs"] * 2 + [""]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_links_that_go_in_circles(animals):
    (animals / "cats" / "all").symlink_to(animals)
    assert len(load_images(animals, recursive=True).matrix) == 5


def test_what_is_passed_over_is_counted(tmp_path, caplog):
    Image.fromarray(pattern()).save(tmp_path / "1.png")
    for name in ("a.txt", "b.txt", "c.json", "README", ".hidden"):
        (tmp_path / name).write_text("x")
    caplog.set_level(logging.INFO, "nmfcore")
    load_images(tmp_path)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.endswith("as no pictures: 2 .txt, 1 .json, 1 no suffix")
    (tmp_path / "photo.CR2").write_text("x")
    with pytest.warns(UserWarning, match=r"1 picture .* in formats that are not read is passed over \(1 \.cr2\)"):
        load_images(tmp_path)


@pytest.mark.parametrize("count", [1, 4])
def test_black_pictures_are_said(tmp_path, caplog, count):
    for number in range(4):
        Image.new("L", (6, 4), 0 if number < count else 9).save(tmp_path / f"{number}.png")
    caplog.set_level(logging.INFO, "nmfcore")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load_images(tmp_path)
    if count == 4:
        assert "all 4 pictures" in str(said[0].message)
    else:
        assert not said and "1 of 4 pictures" in caplog.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_and_devices_are_refused(tmp_path):
    Image.fromarray(pattern()).save(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")
    with pytest.raises(InputError, match=r"2\.png' is a pipe"):
        load_images(tmp_path)
    assert load_images(tmp_path, skip_broken=True).names == ("1.png",)
    for name in ("x.csv", "x.npy", "x.npz", "x.bin", "x.csv.gz"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="is a pipe: write what it gives to a file"):
            read_source(tmp_path / name)
    with pytest.raises(InputError, match="is a device"):
        read_source("/dev/zero")


# --- proportions ----------------------------------------------------------------------------------


def test_crop_keeps_the_middle(tmp_path):
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = pattern(1, 20, 20)
    Image.fromarray(wide).save(tmp_path / "1.png")
    Image.fromarray(wide.T.copy()).save(tmp_path / "2.png")
    pictures = load_images(tmp_path, size=(20, 20), crop=True)
    np.testing.assert_array_equal(pictures.matrix[0].reshape(20, 20), wide[:, 20:40])
    np.testing.assert_array_equal(pictures.matrix[1].reshape(20, 20), wide[:, 20:40].T)
    assert load_images(tmp_path, crop=True).shape == (20, 60)
    assert pictures.decoding["proportions"] == "cropped"


def test_one_odd_picture_is_treated_alike_everywhere(tmp_path):
    """What a fit refuses, distorts or crops is refused, distorted or cropped in a search, too."""
    from nmfcore.search.engine import SearchEngine

    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(8):
        Image.fromarray(pattern(number, 20, 20)).save(folder / f"{number}.png")
    odd = tmp_path / "odd"
    odd.mkdir()
    Image.fromarray(pattern(99, 40, 100)).save(odd / "x.png")
    data = (odd / "x.png").read_bytes()
    engine = SearchEngine(2).fit(folder)
    for use in (engine.search, engine.transform):
        for given in [odd / "x.png", *([data] if use == engine.search else [odd])]:
            with pytest.raises(InputError, match=r"other proportions \(40x100\) than the pictures of the model"):
                use(io.BytesIO(given) if isinstance(given, bytes) else given)
    for crop in (False, True):
        read = load_images(folder, size=(20, 20), crop=crop)
        engine = SearchEngine(2).fit(read)
        expected = load_images(odd, size=(20, 20), crop=crop).matrix
        np.testing.assert_array_equal(engine.read(odd / "x.png").matrix, expected)
        np.testing.assert_array_equal(engine.read(odd).matrix, expected)


def test_decodings_that_make_no_sense():
    for plain in ({"proportions": "golden"}, {"levels": 0}, {"levels": "many"}, {"levels": True}, {"background": 3}):
        with pytest.raises(ValueError, match="must be"):
            Decoding.of(plain, "L")
    how = Decoding("RGB", "cropped", (1, 2, 3), 4096)
    assert Decoding.of(how.plain(), "RGB").plain() == how.plain()


def test_a_folder_that_begins_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("~draft")
    Image.fromarray(pattern()).save("~draft/1.png")
    for read in (load_images, read_source, cached_images):
        assert len(read("~draft").matrix) == 1
    assert len(picture_row("~draft/1.png", (4, 4))) == 16


def test_pictures_are_shown_in_one_line():
    shown = repr(Pictures(np.zeros((50000, 784), np.uint8), (28, 28), source="train", labels=np.zeros(50000, int)))
    assert shown == "Pictures of 'train': 50,000 rows × 784 features (28×28), uint8, with labels"
