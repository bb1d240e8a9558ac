"""Pictures between masked bars, and with transparent pixels masked: from files to caches, searches and pages."""

import dataclasses
import io
import json
import logging
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

PIL = pytest.importorskip("PIL", reason="pictures need the extra 'app'")
from PIL import Image, ImageOps  # noqa: E402

from nmfcore import NMF, MiniBatchNMF, load  # noqa: E402
from nmfcore.analysis import explained_share, held_by_evidence, reconstruction_errors  # noqa: E402
from nmfcore.images import (  # noqa: E402
    InputError,
    Pictures,
    cached_images,
    load_images,
    model_of,
    picture_and_mask,
    picture_row,
    read_source,
)
from nmfcore.images._decoding import Decoding  # noqa: E402
from nmfcore.models import ModelFileError  # noqa: E402
from nmfcore.search.blocks import frobenius_norm  # noqa: E402
from nmfcore.search.engine import SearchEngine  # noqa: E402
from nmfcore.search.masks import PictureMasks, write_mask  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def pattern(seed, height, width, colours=()):
    return np.random.default_rng(seed).integers(1, 256, (height, width, *colours), dtype=np.uint8)


def png(pixels, mode=None, **options):
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, "PNG", **options)
    return file.getvalue()


def mixed(folder, sizes=((9, 9), (9, 18), (18, 9), (9, 9), (9, 12), (12, 9), (9, 9), (9, 10)), colours=()):
    """Write pictures of these heights and widths; smooth ones, so that few parts explain them."""
    folder.mkdir(exist_ok=True)
    for number, (height, width) in enumerate(sizes):
        rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        shade = 40 + 200 * np.abs(np.sin(3 * rows + number)) * np.abs(np.cos(2 * columns * (1 + number % 3)))
        pixels = np.stack([shade * share for share in (1, 0.7, 0.4)], axis=2) if colours else shade
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


# --- bars -----------------------------------------------------------------------------------------


def bars(height, width, size):
    """Return the mask of a picture between bars, by its definition."""
    scale = min(size[0] / height, size[1] / width)
    high, wide = (max(1, int(np.floor(side * scale + 0.5))) for side in (height, width))
    mask = np.ones(size, bool)
    top, left = (size[0] - high) // 2, (size[1] - wide) // 2
    mask[top : top + high, left : left + wide] = False
    return mask, (high, wide)


SIZES = [
    (10, 10), (9, 10), (10, 9), (20, 10), (10, 20), (1, 300), (300, 1), (1, 1), (2000, 3), (3, 2000), (7, 13), (99, 75),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(10, 10), (12, 7), (1, 5)])
def test_bars_are_what_proportions_leave(tmp_path, mode, size):
    colours = (3,) if mode == "RGB" else ()
    originals = [pattern(number, *each, colours) for number, each in enumerate(SIZES)]
    for number, pixels in enumerate(originals):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    pictures = load_images(tmp_path, size, mode, fit="letterbox")
    assert pictures.shape == (*size, *colours) and pictures.decoding["proportions"] == "letterboxed"
    assert pictures.mask.shape == pictures.matrix.shape and pictures.mask.dtype == bool
    for pixels, row, hidden in zip(originals, pictures.matrix, pictures.mask, strict=True):
        mask, inside = bars(*pixels.shape[:2], size)
        every = mask if mode == "L" else np.repeat(mask[..., None], 3, axis=2)
        np.testing.assert_array_equal(hidden.reshape(pictures.shape), every)
        row = row.reshape(pictures.shape)
        assert not row[mask].any()
        shown = row[~mask].reshape(*inside, *colours)
        if pixels.shape[:2] == inside:
            np.testing.assert_array_equal(shown, pixels)
        else:  # it is the whole picture, made smaller or larger
            whole = Image.fromarray(pixels).resize(inside[::-1], Image.Resampling.LANCZOS, reducing_gap=3.0)
            np.testing.assert_array_equal(shown, np.asarray(whole))


def test_bars_of_one_pixel_on_one_side(tmp_path):
    Image.fromarray(pattern(0, 10, 10)).save(tmp_path / "0.png")
    Image.fromarray(pattern(1, 10, 9)).save(tmp_path / "1.png")
    pictures = load_images(tmp_path, fit="letterbox")
    assert pictures.shape == (10, 10) and not pictures.mask[0].any()
    hidden = pictures.mask[1].reshape(10, 10)
    assert hidden[:, 9].all() and hidden.sum() == 10
    np.testing.assert_array_equal(pictures.matrix[1].reshape(10, 10)[:, :9], pattern(1, 10, 9))


def test_no_bars_no_mask_and_the_same_bits(tmp_path):
    for number, each in enumerate([(12, 16), (24, 32), (9, 12)]):
        Image.fromarray(pattern(number, *each)).save(tmp_path / f"{number}.png")
    Image.fromarray(pattern(9, 12, 16, (4,)) | np.uint8([0, 0, 0, 255])).save(tmp_path / "opaque.png")
    plain = load_images(tmp_path)
    for options in ({"fit": "letterbox"}, {"mask_transparent": True}, {"fit": "letterbox", "mask_transparent": True}):
        pictures = load_images(tmp_path, **options)
        assert pictures.mask is None
        np.testing.assert_array_equal(pictures.matrix, plain.matrix)
    assert load_images(tmp_path).decoding.keys() == {"proportions", "background", "levels"}


def test_orientation_comes_before_proportions(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = pattern(3, 6, 12, (4,))
    pixels[..., 3] = 255
    pixels[:3, :4, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "1.png", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "1.png")))
    assert upright.shape == (12, 6, 4)
    pictures = load_images(tmp_path, (12, 12), "RGB", fit="letterbox", mask_transparent=True)
    row, hidden = pictures.matrix[0].reshape(12, 12, 3), pictures.mask[0].reshape(12, 12, 3)
    assert hidden[:, :3].all() and hidden[:, 9:].all()
    clear = upright[..., 3] == 0
    np.testing.assert_array_equal(hidden[:, 3:9, 0], clear)
    np.testing.assert_array_equal(row[:, 3:9], np.where(clear[..., None], 0, upright[..., :3]))


# --- transparency ---------------------------------------------------------------------------------


def clear_files(folder):
    """Write a picture that is transparent on the left in every way that files know; return it, its mask, the files."""
    grey = np.full((6, 8), 200, np.uint8)
    grey[2:4, 5:7] = 90
    clear = np.zeros((6, 8), bool)
    clear[:, :3] = True
    opacity = np.where(clear, 0, 255).astype(np.uint8)
    keyed = np.where(clear, 7, grey)
    Image.fromarray(np.dstack([grey, grey, grey, opacity])).save(folder / "rgba.png")
    Image.fromarray(np.dstack([grey, grey, grey, opacity])).save(folder / "rgba.webp", lossless=True)
    image = Image.fromarray(grey)
    image.putalpha(Image.fromarray(opacity))
    image.save(folder / "la.png")
    image.save(folder / "la.tif")
    Image.fromarray(keyed).save(folder / "grey-key.png", transparency=7)
    Image.fromarray(np.dstack([keyed] * 3)).save(folder / "colour-key.png", transparency=(7, 7, 7))
    Image.fromarray(keyed.astype(np.uint16)).save(folder / "deep-key.png", transparency=7)
    indices = np.where(clear, 2, np.where(grey == 90, 1, 0)).astype(np.uint8)
    palette = Image.fromarray(indices)
    palette = palette.convert("P") if palette.mode != "P" else palette
    palette.putpalette([200] * 3 + [90] * 3 + [1, 2, 3])
    palette.save(folder / "palette-index.png", transparency=2)
    palette.save(folder / "palette-bytes.png", transparency=bytes([255, 255, 0]))
    palette.save(folder / "palette.gif", transparency=2)
    return grey, clear, sorted(folder.iterdir())


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_kind_of_transparency_is_masked(tmp_path, mode):
    grey, clear, files = clear_files(tmp_path)
    pictures = load_images(tmp_path, mode=mode, mask_transparent=True)
    assert len(pictures.matrix) == len(files) == 10 and pictures.decoding["mask_transparent"] is True
    for name, row, hidden in zip(pictures.names, pictures.matrix, pictures.mask, strict=True):
        row, hidden = (each.reshape(6, 8, -1) for each in (row, hidden))
        np.testing.assert_array_equal(hidden, np.repeat(clear[..., None], hidden.shape[2], axis=2), name)
        np.testing.assert_array_equal(row, np.where(clear, 0, grey)[..., None] + np.zeros_like(row), name)
    laid = load_images(tmp_path, mode=mode)  # as before: on a background, and without a mask
    assert laid.mask is None and "mask_transparent" not in laid.decoding
    assert (laid.matrix.reshape(10, 6, 8, -1)[:, clear] == 255).all()


def test_transparency_of_one_bit_and_of_sixteen(tmp_path):
    dots = pattern(1, 6, 8) > 128
    Image.fromarray(dots).save(tmp_path / "1-bit.png", transparency=0)
    import struct
    import zlib

    deep = np.random.default_rng(2).integers(0, 1 << 16, (6, 8, 4)).astype(">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in deep)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">2I5B", 8, 6, 16, 6, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    (tmp_path / "16-bit.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    with pytest.warns(UserWarning, match="16 bits for each colour"):
        pictures = load_images(tmp_path, mode="RGB", mask_transparent=True)
    np.testing.assert_array_equal(pictures.mask[0].reshape(6, 8, 3)[..., 0], ~dots)
    clear = deep[..., 3] >> 8 < 128
    np.testing.assert_array_equal(pictures.mask[1].reshape(6, 8, 3)[..., 2], clear)
    np.testing.assert_array_equal(pictures.matrix[1].reshape(6, 8, 3)[~clear], (deep[..., :3] >> 8)[~clear])


def test_a_pixel_that_stays_has_its_own_colour(tmp_path):
    """Neither the background nor what lies beneath transparent pixels mixes with the edge of an object."""
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[..., :3] = (255, 0, 255)  # beneath
    pixels[9:30, 7:28] = (0, 200, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    pictures = load_images(tmp_path, (10, 10), "RGB", mask_transparent=True, background="red")
    row, hidden = pictures.matrix[0].reshape(10, 10, 3), pictures.mask[0].reshape(10, 10, 3)[..., 0]
    share = (pixels[..., 3] / 255).reshape(10, 4, 10, 4).mean(axis=(1, 3))
    assert (hidden[share < 0.3]).all() and not hidden[share > 0.7].any()
    assert np.abs(row[~hidden].astype(int) - (0, 200, 0)).max() <= 2


def test_pictures_that_are_masked_as_a_whole(tmp_path, caplog):
    mixed(tmp_path / "in")
    Image.new("RGBA", (9, 9), (9, 9, 9, 0)).save(tmp_path / "in" / "8.png")
    with caplog.at_level(logging.INFO, "nmfcore"):
        pictures = load_images(tmp_path / "in", fit="letterbox", mask_transparent=True)
    assert "8.png' is transparent everywhere" in caplog.text and "black" not in caplog.text
    assert pictures.mask[8].all() and not pictures.matrix[8].any()
    model = NMF(2, solver="hals", random_state=0)
    with pytest.warns(UserWarning, match="1 of 9 rows, whose codes are zero"):
        W = model.fit_transform(pictures.matrix, mask=pictures.mask)
    assert not W[8].any() and W[:8].any(axis=1).all()
    for given in (tmp_path / "in" / "8.png", (tmp_path / "in" / "8.png").read_bytes()):
        with pytest.raises(InputError, match="is transparent everywhere"):
            picture_and_mask(given, pictures.shape, decoding=pictures.decoding)
    for number in range(8):
        (tmp_path / "in" / f"{number}.png").unlink()
    for out in (None, tmp_path / "out.npy"):
        with pytest.raises(InputError, match=r"every pixel of all 1 pictures .* is transparent"):
            load_images(tmp_path / "in", mask_transparent=True, out=out)
    assert not list(tmp_path.glob("*.npy"))


# --- what is refused ------------------------------------------------------------------------------


def test_what_does_not_go_together_is_refused_at_once(tmp_path):
    for read in (load_images, cached_images, read_source):
        with pytest.raises(ValueError, match=r"crop cuts off the edges that letterbox .* give one"):
            read(tmp_path / "nowhere", (4, 4), crop=True, fit="letterbox")
        with pytest.raises(ValueError, match='fit must be "stretch" or "letterbox", got'):
            read(tmp_path / "nowhere", fit="contain")
    np.save(tmp_path / "x.npy", np.ones((4, 4)))
    for source in (None, tmp_path / "x.npy"):
        for options in ({"fit": "letterbox"}, {"mask_transparent": True}):
            with pytest.raises(InputError, match=r"is for pictures of a folder, and .* is a matrix"):
                read_source(source, **options)


def test_descriptions_of_decodings(tmp_path):
    how = Decoding("RGB", "letterboxed", (1, 2, 3), 4096, mask_transparent=True)
    assert Decoding.of(how.plain(), "RGB").plain() == how.plain() and Decoding.of(how.plain(), "RGB").masks
    assert not Decoding.of({"proportions": "cropped"}, "L").masks
    with pytest.raises(ValueError, match="mask_transparent must be True or False"):
        Decoding.of({"mask_transparent": 1}, "L")
    pictures = load_images(mixed(tmp_path / "in"), fit="letterbox")
    estimator = NMF(2, solver="hals", random_state=0, max_iter=5, tol=0)
    model = model_of(estimator, estimator.fit_transform(pictures.matrix, mask=pictures.mask), pictures)
    assert model.masked == pictures.mask.sum() > 0
    from nmfcore.models import save

    save(model, tmp_path / "model.npz")
    assert load(tmp_path / "model.npz").masked == model.masked
    for change in ({"masked": 1 + pictures.mask.size}, {"decoding": how.plain() | {"mask_transparent": "yes"}}):
        save(dataclasses.replace(model, **change), tmp_path / "bad.npz")
        with pytest.raises(ModelFileError, match="damaged"):
            load(tmp_path / "bad.npz")


# --- files and caches -----------------------------------------------------------------------------


def test_a_mask_lies_beside_a_matrix_in_a_file(tmp_path):
    mixed(tmp_path / "in")
    (tmp_path / "in" / "3.png").write_bytes(b"broken")
    expected = load_images(tmp_path / "in", fit="letterbox", skip_broken=True)
    pictures = load_images(tmp_path / "in", fit="letterbox", skip_broken=True, out=tmp_path / "out.npy")
    assert isinstance(pictures.mask, np.memmap) and not pictures.mask.flags.writeable and len(expected.mask) == 7
    for name in ("matrix", "mask"):
        np.testing.assert_array_equal(getattr(pictures, name), getattr(expected, name))
    np.testing.assert_array_equal(np.load(tmp_path / "out.mask.npy"), expected.mask)
    with pytest.raises(InputError, match=r"out\.npy' exists"):
        load_images(tmp_path / "in", fit="letterbox", out=tmp_path / "out.npy")
    (tmp_path / "out.npy").unlink()
    with pytest.raises(InputError, match=r"out\.mask\.npy' exists"):
        load_images(tmp_path / "in", fit="letterbox", skip_broken=True, out=tmp_path / "out.npy")
    with pytest.raises(InputError, match=r"3\.png' is not a picture"):
        load_images(tmp_path / "in", fit="letterbox", out=tmp_path / "new.npy")
    (tmp_path / "even").mkdir()
    Image.fromarray(pattern(0, 4, 4)).save(tmp_path / "even" / "1.png")
    assert load_images(tmp_path / "even", fit="letterbox", out=tmp_path / "even.npy").mask is None
    assert {file.name for file in tmp_path.glob("*.npy")} == {"out.mask.npy", "even.npy"}


def test_a_fit_from_files_has_the_bits_of_one_from_memory(tmp_path):
    pictures = load_images(mixed(tmp_path / "in"), fit="letterbox", out=tmp_path / "out.npy")
    for X, mask in ((pictures.matrix, pictures.mask), (tmp_path / "out.npy", tmp_path / "out.mask.npy")):
        model = NMF(2, solver="hals", random_state=0, max_iter=5, tol=0).fit(X, mask=mask)
        again = NMF(2, solver="hals", random_state=0, max_iter=5, tol=0)
        again.fit(np.array(pictures.matrix), mask=np.array(pictures.mask))
        np.testing.assert_array_equal(model.components_, again.components_)


def test_a_cache_keeps_the_mask(tmp_path):
    cats = mixed(tmp_path / "cats")
    files = [tmp_path / f"cats.nmfcore{suffix}" for suffix in (".npy", ".mask.npy", ".json")]
    expected, stretched = load_images(cats, fit="letterbox"), load_images(cats, (9, 9))

    def same(pictures):
        np.testing.assert_array_equal(pictures.matrix, expected.matrix)
        np.testing.assert_array_equal(pictures.mask, expected.mask)
        assert pictures.decoding == expected.decoding and isinstance(pictures.mask, np.memmap)

    same(cached_images(cats, fit="letterbox"))
    stamps = [file.stat().st_mtime_ns for file in files]
    same(cached_images(cats, fit="letterbox"))
    assert [file.stat().st_mtime_ns for file in files] == stamps  # mapped, not made
    other = cached_images(cats, (9, 9))
    np.testing.assert_array_equal(other.matrix, stretched.matrix)
    assert other.mask is None and not files[1].exists()
    same(cached_images(cats, fit="letterbox"))
    kept = json.loads(files[2].read_bytes())
    mask = files[1].read_bytes()
    spoilt = (
        lambda kept: files[1].unlink(),
        lambda kept: files[1].write_bytes(mask),  # of another time
        lambda kept: files[2].write_text(json.dumps({key: value for key, value in kept.items() if key != "mask"})),
        lambda kept: files[2].write_text(json.dumps(kept | {"mask": [1, 2]})),
        lambda kept: files[2].write_text(json.dumps(kept | {"mask": None})),
        lambda kept: files[2].write_text(json.dumps(kept | {"format": "nmfcore-pictures-2"})),  # of an earlier version
    )
    for spoil in spoilt:
        spoil(kept)
        same(cached_images(cats, fit="letterbox"))
        kept = json.loads(files[2].read_bytes())
    files[1].write_bytes(b"somebody's")
    with pytest.raises(InputError, match=r"mask\.npy' is in the way"):
        cached_images(cats, fit="letterbox")
    assert files[1].read_bytes() == b"somebody's"


def test_a_cache_of_an_earlier_version_is_made_anew(tmp_path):
    """It says nothing of letterboxes, and its pictures were stretched."""
    cats = mixed(tmp_path / "cats")
    cached_images(cats, (9, 9))
    about = tmp_path / "cats.nmfcore.json"
    kept = json.loads(about.read_bytes())
    earlier = {key: value for key, value in kept.items() if key not in ("fit", "mask_transparent", "mask")}
    about.write_text(json.dumps(earlier | {"format": "nmfcore-pictures-2"}))
    pictures = cached_images(cats, (9, 9), fit="letterbox")
    np.testing.assert_array_equal(pictures.mask, load_images(cats, (9, 9), fit="letterbox").mask)
    assert json.loads(about.read_bytes())["format"] not in ("nmfcore-pictures-1", "nmfcore-pictures-2")


# --- analysis and masks in bits -------------------------------------------------------------------


def test_numbers_of_analysis_over_what_is_observed(rng):
    X, W, H = rng.random((30, 17)), rng.random((30, 4)), rng.random((4, 17))
    mask = rng.random(X.shape) < 0.3
    mask[3] = True
    R, Z = np.where(mask, 0, X - W @ H), np.where(mask, 0, X)
    X[mask] = np.nan  # what lies beneath has no influence
    norms = np.linalg.norm(Z, axis=1)
    expected = np.linalg.norm(R, axis=1)
    np.testing.assert_allclose(reconstruction_errors(X, W, H, False, mask=mask), expected)
    np.testing.assert_allclose(
        reconstruction_errors(X, W, H, mask=PictureMasks.of(mask)), expected / np.where(norms > 0, norms, 1)
    )
    shares = explained_share(X, W, H, mask=mask)
    np.testing.assert_allclose(shares.sum(), 1 - (R**2).sum() / (Z**2).sum())
    one = np.where(mask, 0, np.outer(W[:, 1], H[1]))
    np.testing.assert_allclose(shares[1], (2 * (Z * one).sum() - (one * (W @ H)).sum()) / (Z**2).sum())
    np.testing.assert_allclose(frobenius_norm(X, mask), np.linalg.norm(Z))
    with pytest.raises(ValueError, match="mask holds float64 of shape"):
        reconstruction_errors(Z, W, H, mask=mask * 1.0)
    with pytest.raises(ValueError, match="mask holds bool of shape"):
        explained_share(Z, W, H, mask=mask[:3])


def test_drawn_parts_are_held_by_what_was_observed(rng):
    W, H = rng.random((60, 4)), rng.random((4, 17))
    mask = rng.random((60, 17)) < 0.3
    mask[2:, 5] = mask[1:, 9] = mask[:, 11] = True
    H[:, [5, 9, 11]] *= 1e6
    some = np.delete(np.arange(17), [5, 9, 11])
    for hidden in (mask, PictureMasks.of(mask)):
        held = held_by_evidence(H, W, hidden)
        np.testing.assert_array_equal(held[:, some], H[:, some])
        assert not held[:, [5, 9, 11]].any()
    np.testing.assert_array_equal(held_by_evidence(H, W, np.zeros_like(mask)), H)
    np.testing.assert_array_equal(held_by_evidence(H, 0 * W, mask), H)  # parts that no picture uses
    with pytest.raises(ValueError, match="mask holds bool of shape"):
        held_by_evidence(H, W, mask[1:])


def test_reconstructions_are_drawn_where_there_is_a_picture(rng):
    pytest.importorskip("matplotlib", reason="plots need the extra 'app'")
    from nmfcore.plots import reconstructions

    for shape in ((6, 5), (6, 5, 3)):
        X, mask = rng.random((3, int(np.prod(shape)))) + 0.5, np.zeros((3, 6, 5), bool)
        mask[:, :2] = True
        hidden = np.repeat(mask.reshape(3, -1), X.shape[1] // 30, axis=1)
        axes = reconstructions(X, np.where(hidden, 1e6, 0.9 * X), shape, mask=hidden)
        assert [text.get_text() for text in axes.texts if "%" in text.get_text()] == ["10 %"] * 3
        image = axes.images[0].get_array()
        shown = np.asarray(image)[..., 3] > 0 if len(shape) == 3 else ~np.ma.getmaskarray(image)
        assert shown.sum() == 2 * 3 * (4 * 5) * tile_repeat(shape) ** 2
        with pytest.raises(ValueError, match="mask holds bool of shape"):
            reconstructions(X, X, shape, mask=hidden[:2])


def test_masked_pixels_of_thumbnails_are_transparent(rng):
    from nmfcore.images.thumbnails import picture_png

    for shape in ((6, 5), (6, 5, 3)):
        pixels = rng.integers(0, 256, int(np.prod(shape))).astype(np.uint8)
        mask = rng.random((6, 5)) < 0.5
        hidden = np.repeat(mask.ravel(), len(pixels) // 30)
        drawn = np.asarray(Image.open(io.BytesIO(picture_png(pixels, shape, 255, 128, mask=hidden))))
        np.testing.assert_array_equal(drawn[..., -1], np.where(mask, 0, 255))
        np.testing.assert_array_equal(drawn[..., :-1], pixels.reshape(6, 5, -1))
        assert picture_png(pixels, shape, 255, mask=0 * hidden > 0) == picture_png(pixels, shape, 255)


def test_nothing_masked_is_nothing_changed(rng):
    X, W, H = rng.random((30, 17)), rng.random((30, 4)), rng.random((4, 17))
    none = np.zeros(X.shape, bool)
    np.testing.assert_allclose(explained_share(X, W, H, mask=none), explained_share(X, W, H))
    np.testing.assert_allclose(reconstruction_errors(X, W, H, mask=none), reconstruction_errors(X, W, H))


@pytest.mark.parametrize("m", [1, 7, 8, 9, 64])
def test_masks_in_bits(tmp_path, rng, m, monkeypatch):
    monkeypatch.setattr("nmfcore.search.masks._AT_ONCE", 20)  # parts of few rows
    mask = rng.random((13, m)) < 0.4
    packed = PictureMasks.of(mask)
    write_mask(mask, tmp_path / "a.npy")
    write_mask(packed, tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    for masks in (packed, PictureMasks.read(tmp_path / "a.npy", 13, m)):
        assert masks.shape == mask.shape and len(masks) == 13
        np.testing.assert_array_equal(masks[:], mask)
        np.testing.assert_array_equal(masks[np.array([5, 2, 2])], mask[[5, 2, 2]])
        np.testing.assert_array_equal(masks.counts(), mask.sum(axis=1))
        np.testing.assert_array_equal(masks.below(PictureMasks.of_none(2, m))[12:], [mask[12], *np.zeros((2, m), bool)])
    np.testing.assert_array_equal(PictureMasks.read(tmp_path / "a.npy", 12, m)[:], mask[:12])
    with pytest.raises(ModelFileError, match="does not belong to the model"):
        PictureMasks.read(tmp_path / "a.npy", 14, m)
    (tmp_path / "a.npy").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="is damaged"):
        PictureMasks.read(tmp_path / "a.npy", 13, m)


# --- searching ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    """An engine of pictures of mixed proportions, and their folder."""
    folder = mixed(tmp_path_factory.mktemp("wall") / "in")
    pictures = load_images(folder, fit="letterbox", mask_transparent=True)
    return SearchEngine(3, max_iter=50).fit(pictures), folder


def codes_of(engine, folder, names):
    """Code pictures by the model's parts, each with its own mask, without the engine."""
    pictures = load_images(folder, engine.shape[:2], fit="letterbox", mask_transparent=True)
    at = [pictures.names.index(name) for name in names]
    rows = ((pictures.matrix[row : row + 1], pictures.mask[row : row + 1]) for row in at)
    return np.vstack([NMF.transform(engine._estimator, row, mask=mask) for row, mask in rows])


def test_queries_are_prepared_and_coded_as_pictures_were(wall):
    engine, folder = wall
    assert engine.masks.counts().sum() == engine.model.masked > 0
    for name in ("1.png", "2.png", "7.png"):
        expected = codes_of(engine, folder, [name])
        file = folder / name
        with Image.open(file) as image:
            given = [file, io.BytesIO(file.read_bytes()), image.copy(), np.asarray(image)]
        row, mask = picture_and_mask(file, engine.shape, decoding=engine.model.decoding)
        np.testing.assert_array_equal(row, picture_row(file, engine.shape, decoding=engine.model.decoding))
        given += [np.ma.MaskedArray(row, mask), np.ma.MaskedArray(row, mask).reshape(engine.shape)]
        for query in given:
            found = engine.search(query, 3)
            np.testing.assert_array_equal(found.code, expected[0])
            np.testing.assert_array_equal(found.mask, mask)
            assert found.mask.any() and not found.pixels[found.mask].any()
        np.testing.assert_array_equal(engine.transform(file), expected)
        assert engine.explain(file, file).score == pytest.approx(1)
        bars = engine.search(row, 3).code  # without its mask the bars are black pixels
        assert np.abs(bars - expected[0]).max() > 1e-3 * expected.max()
    assert engine.search(0).mask is None
    np.testing.assert_array_equal(engine.transform(folder), codes_of(engine, folder, engine.model.names))
    with pytest.raises(InputError, match="a masked array must have the form"):
        engine.search(np.ma.MaskedArray(np.ones(5)))


def test_bars_do_not_matter_to_a_search(tmp_path):
    """The same picture is found whether its bars are at the sides, on top, or nowhere: codes see what is observed."""
    rng = np.random.default_rng(0)
    parts = rng.random((3, 12, 12))
    folder, halves = tmp_path / "in", tmp_path / "half"
    folder.mkdir(), halves.mkdir()
    for number in range(30):
        shade = np.tensordot(rng.random(3) ** 2, parts, 1)
        pixels = (shade * 80).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        alpha = np.full((12, 12), 255, np.uint8)
        alpha[:, :6] = 0
        Image.fromarray(np.dstack([pixels, pixels, pixels, alpha])).save(halves / f"{number}.png")
    engine = SearchEngine(3).fit(load_images(folder, fit="letterbox", mask_transparent=True))
    found = [engine.search(halves / f"{number}.png", 1).indices[0] for number in range(30)]
    assert found == list(range(30))


def test_an_engine_remembers_its_masks(wall, tmp_path, monkeypatch):
    engine, folder = wall
    engine.save(tmp_path / "model")
    assert (tmp_path / "model" / "mask.npy").is_file()
    back = SearchEngine.load(tmp_path / "model")
    np.testing.assert_array_equal(back.masks[:], engine.masks[:])
    np.testing.assert_array_equal(back.search(folder / "1.png").code, engine.search(folder / "1.png").code)
    (tmp_path / "model" / "mask.npy").unlink()
    again = SearchEngine.load(tmp_path / "model")  # as of a fit that was interrupted while it wrote
    np.testing.assert_array_equal(again.masks[:], engine.masks[:])
    shutil.move(folder, tmp_path / "gone")
    try:
        lost = SearchEngine.load(tmp_path / "model")
        assert lost.search(0).row == 0
        with pytest.raises(InputError, match=r"the masks are needed, and .* has no mask\.npy"):
            lost.masks  # noqa: B018
    finally:
        shutil.move(tmp_path / "gone", folder)
    plain = SearchEngine(2, max_iter=5).fit(np.ones((4, 6)))
    assert plain.masks is None
    plain.save(tmp_path / "model", overwrite=True)
    assert not (tmp_path / "model" / "mask.npy").exists()
    made = SearchEngine.from_model(engine.model, engine.matrix(), mask=engine.masks[:])
    np.testing.assert_array_equal(made.masks[:], engine.masks[:])
    with pytest.raises(ValueError, match="the mask holds bool of shape"):
        SearchEngine.from_model(engine.model, engine.matrix(), mask=engine.masks[:3])


def test_pictures_are_added_with_their_masks(wall, tmp_path):
    engine, folder = wall
    engine.save(tmp_path / "model")
    grown = SearchEngine.load(tmp_path / "model")
    grown.add(folder / "1.png")
    grown.add(folder / "0.png")
    np.testing.assert_array_equal(grown.masks[:], np.vstack([engine.masks[:], engine.masks[:][[1, 0]]]))
    np.testing.assert_array_equal(grown.model.W[8:], codes_of(engine, folder, ["1.png", "0.png"]))
    assert grown.model.masked == grown.masks.counts().sum()
    grown.save(tmp_path / "grown")
    np.testing.assert_array_equal(SearchEngine.load(tmp_path / "grown").masks[:], grown.masks[:])
    X = np.random.default_rng(0).random((10, 6))
    plain = SearchEngine(2, max_iter=20).fit(X)
    plain.add(np.ma.MaskedArray(X[:2], [[True] + [False] * 5, [False] * 6]))
    assert plain.masks.counts().tolist() == [0] * 10 + [1, 0] and plain.model.masked == 1


def half_transparent(path, number, height=9, width=9, half=True):
    """Draw a picture of which the left half is transparent, or none of it."""
    grey = pattern(number, height, width)
    alpha = np.full_like(grey, 255)
    alpha[:, : width // 2] = 0 if half else 255
    Image.fromarray(np.dstack([grey, grey, grey, alpha])).save(path)


def check_followed(engine, folder, names, first):
    """The engine holds these pictures with their masks; codes that are not of the fit are those of a transform."""
    fresh = load_images(folder, engine.shape[:2], fit="letterbox", mask_transparent=True, progress=None)
    assert set(engine.model.names) == set(names) == set(fresh.names)
    at = [fresh.names.index(name) for name in engine.model.names]
    hidden = np.zeros(fresh.matrix.shape, bool) if fresh.mask is None else fresh.mask
    np.testing.assert_array_equal(engine.matrix(), fresh.matrix[at])
    masks = np.zeros(hidden.shape, bool) if engine.masks is None else engine.masks[:]
    np.testing.assert_array_equal(masks, hidden[at])
    assert engine.model.masked == hidden.sum()
    codes = engine.transform(folder)
    for name, code in zip(engine.model.names, engine.model.W, strict=True):
        np.testing.assert_array_equal(code, first.get(name, codes[fresh.names.index(name)]), err_msg=name)


@pytest.fixture
def settled(monkeypatch):
    """Files that tests write count as old."""
    monkeypatch.setattr("nmfcore.search.manifest._TICK", -(10**18))


def test_an_update_keeps_masks(settled, wall, tmp_path):
    """New, changed, removed and renamed pictures, several updates, each saved where the engine lives or elsewhere."""
    folder = shutil.copytree(wall[1], tmp_path / "in")
    pictures = load_images(folder, fit="letterbox", mask_transparent=True)
    engine = SearchEngine(3, max_iter=50).fit(pictures)
    assert not engine.update(progress=None).lines()  # now it knows what the files are
    engine.save(tmp_path / "model")
    engine = SearchEngine.load(tmp_path / "model")
    codes = dict(zip(engine.model.names, engine.model.W.copy(), strict=True))
    half_transparent(folder / "new.png", 30)
    Image.fromarray(pattern(31, 18, 6)).save(folder / "1.png")  # it was wide
    (folder / "2.png").unlink()
    (folder / "3.png").rename(folder / "moved.png")
    Image.new("RGBA", (9, 9)).save(folder / "nothing.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a code that is zero
        changes = engine.update(folder, progress=None)
        assert (changes.added, changes.changed, changes.removed) == (("new.png", "nothing.png"), ("1.png",), ("2.png",))
        codes = {name: code for name, code in codes.items() if name not in ("1.png", "2.png")}
        codes["moved.png"] = codes.pop("3.png")
        names = [*codes, "1.png", "new.png", "nothing.png"]
        check_followed(engine, folder, names, codes)
        assert not engine.model.W[engine.model.names.index("nothing.png")].any()
        engine.save(tmp_path / "model", overwrite=True)
        engine.save(tmp_path / "elsewhere")
        for home in ("model", "elsewhere"):
            check_followed(SearchEngine.load(tmp_path / home), folder, names, codes)
        for name in ("nothing.png", "new.png"):
            (folder / name).unlink()
        half_transparent(folder / "newer.png", 32)
        half_transparent(folder / "newest.png", 33, half=False)
        again = SearchEngine.load(tmp_path / "model")
        again.remove("0.png")
        del codes["0.png"]  # an update brings it back
        again.update(progress=None)
        names = [*codes, "0.png", "1.png", "newer.png", "newest.png"]
        again.save(tmp_path / "model", overwrite=True)
        for each in (again, SearchEngine.load(tmp_path / "model")):
            check_followed(each, folder, names, codes)
            assert not each.update(progress=None).lines()
        with pytest.raises(ModelFileError, match="changed by another process"):
            engine.save(tmp_path / "model", overwrite=True)


def test_an_update_brings_the_first_masks_and_takes_out_the_last(settled, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(8):
        Image.fromarray(pattern(number, 9, 9)).save(folder / f"{number}.png")
    engine = SearchEngine(3, max_iter=50).fit(load_images(folder, fit="letterbox", mask_transparent=True))
    engine.save(tmp_path / "model")
    codes, names = dict(zip(engine.model.names, engine.model.W.copy(), strict=True)), [*engine.model.names]
    assert engine.masks is None
    for there in (True, False, True):
        (half_transparent if there else Path.unlink)(folder / "a.png", *([40] if there else []))
        engine = SearchEngine.load(tmp_path / "model")
        engine.update(progress=None)
        engine.save(tmp_path / "model", overwrite=True)
        for each in (engine, SearchEngine.load(tmp_path / "model")):
            check_followed(each, folder, names + ["a.png"] * there, codes)


def test_an_update_of_pictures_that_are_not_kept(settled, wall, tmp_path):
    """New ones are coded and counted; that an old one is gone is refused, as nobody knows what of it was masked."""
    folder = shutil.copytree(wall[1], tmp_path / "in")
    engine = SearchEngine(3, max_iter=50).fit(load_images(folder, fit="letterbox", mask_transparent=True))
    engine.update(progress=None)  # now it knows what the files are
    engine.save(tmp_path / "model", pictures=False)
    half_transparent(folder / "new.png", 30)
    bare = SearchEngine.load(tmp_path / "model")
    assert bare.update(progress=None).added == ("new.png",)
    bare.save(tmp_path / "model", pictures=False, overwrite=True)
    codes = dict(zip(engine.model.names, engine.model.W, strict=True))
    check_followed(SearchEngine.load(tmp_path / "model"), folder, [*codes, "new.png"], codes)
    (folder / "2.png").unlink()
    bare = SearchEngine.load(tmp_path / "model")
    with pytest.raises(InputError, match=r"keeps neither the pictures nor their masks: fit the folder anew"):
        bare.update(progress=None)


def test_pictures_are_removed_with_their_masks(wall, tmp_path):
    engine, folder = wall
    engine.save(tmp_path / "model")
    fewer = SearchEngine.load(tmp_path / "model")
    fewer.remove(["1.png", 3])
    kept = [0, 2, 4, 5, 6, 7]
    hidden = engine.masks[:][kept]
    fewer.save(tmp_path / "model", overwrite=True)  # where it lives
    fewer.save(tmp_path / "elsewhere")
    for each in (fewer, SearchEngine.load(tmp_path / "model"), SearchEngine.load(tmp_path / "elsewhere")):
        np.testing.assert_array_equal(each.masks[:], hidden)
        assert each.model.masked == hidden.sum() == each.masks.counts().sum()
        np.testing.assert_array_equal(each.matrix(), engine.matrix()[kept])
        np.testing.assert_array_equal(each.search(folder / "2.png").code, engine.search(folder / "2.png").code)
    fewer.remove([row for row, some in enumerate(hidden.any(axis=1)) if some])
    assert fewer.model.masked == 0 and not fewer.masks[:].any()
    fewer.save(tmp_path / "plain")
    assert SearchEngine.load(tmp_path / "plain").model.masked == 0


def test_duplicates_of_masked_pictures_are_found(tmp_path):
    folder = mixed(tmp_path / "in")
    shutil.copy(folder / "1.png", folder / "1-copy.png")
    with Image.open(folder / "2.png") as image:
        image.resize((27, 54)).save(folder / "2-large.png")  # the same proportions, and the same bars
    engine = SearchEngine(3, max_iter=50).fit(load_images(folder, (9, 9), fit="letterbox"))
    assert engine.model.masked
    found = {(each.kind, *sorted(engine.model.names[row] for row in each.rows)) for each in engine.duplicates()}
    assert ("file", "1-copy.png", "1.png") in found and ("near", "2-large.png", "2.png") in found


def test_masked_arrays_are_fitted_by_what_they_leave(rng):
    X = rng.random((20, 6, 5)) + 1
    mask = rng.random(X.shape) < 0.2
    engine = SearchEngine(2, max_iter=20).fit(np.ma.MaskedArray(np.where(mask, 1e6, X), mask))
    expected = NMF(2, solver="hals", random_state=0, max_iter=20)
    W = expected.fit_transform(X.reshape(20, 30), mask=mask.reshape(20, 30))
    np.testing.assert_array_equal(engine.model.W, W)
    np.testing.assert_array_equal(engine.masks[:], mask.reshape(20, 30))
    assert engine.model.relative_error < 1


def test_estimators_that_take_no_masks_refuse_before_pictures_are_read(tmp_path, monkeypatch):
    folder = mixed(tmp_path / "in")
    pictures = load_images(folder, fit="letterbox")
    estimator = MiniBatchNMF(2, random_state=0, max_iter=2, batch_size=4)
    with pytest.raises(ValueError, match="MiniBatchNMF takes no mask"):
        estimator.fit(pictures.matrix, mask=pictures.mask)
    engine = SearchEngine.from_model(model_of(estimator, estimator.fit_transform(pictures.matrix), pictures))
    monkeypatch.setattr("nmfcore.search.given.read_source", lambda *_, **__: pytest.fail("read"))
    for use in (engine.transform, engine.add):
        for source in (folder, folder / "1.png"):
            with pytest.raises(InputError, match="made by MiniBatchNMF, which takes no masks"):
                use(source)
    with pytest.raises(InputError, match="takes no masks"):
        engine.search(folder / "1.png")
    assert engine.search(1).row == 1


# --- pictures of it -------------------------------------------------------------------------------


def tile_repeat(shape):
    """Return how many times as large figures draw the pixels of a small picture."""
    from nmfcore.plots._shared import Grid

    return Grid(shape, 1, 1, 1.0).repeat


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_inpainting_of_pictures(tmp_path, mode):
    pytest.importorskip("matplotlib", reason="plots need the extra 'app'")
    from nmfcore.plots import inpainting

    pictures = load_images(mixed(tmp_path / "in", colours=(3,)), mode=mode, fit="letterbox")
    model = NMF(2, solver="hals", random_state=0, max_iter=20).fit(pictures.matrix, mask=pictures.mask)
    filled = model.impute(pictures.matrix, pictures.mask)
    np.testing.assert_array_equal(filled[~pictures.mask], pictures.matrix[~pictures.mask])
    assert filled[pictures.mask].all()
    axes = inpainting(pictures.matrix, pictures.mask, filled, pictures.shape, pictures.names, columns=8)
    tiles = np.asarray(axes.images[0].get_array())
    blue = np.abs(tiles[..., :3] - np.array([0, 114, 178]) / (255 if np.nanmax(tiles) <= 1 else 1)).max(axis=2) < 0.01
    per_pixel = pictures.mask.reshape(8, 9, 9, -1).any(axis=3).sum()
    assert blue.sum() == per_pixel * tile_repeat(pictures.shape) ** 2
    assert not [text.get_text() for text in axes.texts if "%" in text.get_text()]  # nothing is known beneath the bars


def section_of(page, heading):
    start = page.index(f'<h2 id="{heading}">')
    return page[start : page.index("</section>", start)]


def test_a_report_says_what_was_masked(wall, tmp_path):
    pytest.importorskip("jinja2", reason="reports need the extra 'app'")
    from nmfcore.pages.report import report

    engine, folder = wall
    page = report(engine)
    masked, pixels = engine.masks.counts().sum(), 8 * 81
    said = f"{masked:,} of {pixels:,} pixels ({100 * masked / pixels:.0f} %)"
    assert f"<dt>masked</dt><dd>{said}</dd>" in page and "--letterbox --mask-transparent" in page
    section = section_of(page, "masked-and-filled-in")
    some = engine.masks.counts()[engine.masks.counts() > 0]
    assert said in section and f"of {len(some)} pictures" in section and section.count("<li>") == len(some)
    assert "masked as a whole" not in section
    plain = report(SearchEngine(2, max_iter=5).fit(load_images(folder, (9, 9))))
    assert "masked" not in plain


def test_a_report_fills_in_only_what_some_picture_decides(wall):
    pytest.importorskip("jinja2", reason="reports need the extra 'app'")
    import base64

    from nmfcore.pages.report import _Drawing

    engine, _ = wall
    drawing, mask = _Drawing(engine, None), engine.masks[:]
    drawing.drawn = drawing.components.copy()
    column = int(mask.any(axis=0).argmax())
    drawing.drawn[:, column] = 0  # as if hardly any picture had been observed there
    rows = np.flatnonzero(mask.any(axis=1))
    blue = np.array([0, 114, 178])
    for row, tile in zip(rows, drawing.filled()["tiles"], strict=True):
        kinds = {}
        for kind in ("observed", "filled"):
            file = io.BytesIO(base64.b64decode(tile[kind].partition(",")[2]))
            kinds[kind] = (np.asarray(Image.open(file).convert("RGB")) == blue).all(axis=2).ravel()
        np.testing.assert_array_equal(kinds["observed"], mask[row])
        np.testing.assert_array_equal(np.flatnonzero(kinds["filled"]), [column] * int(mask[row, column]))


def test_a_report_counts_pixels_of_pictures_in_colour(tmp_path):
    pytest.importorskip("jinja2", reason="reports need the extra 'app'")
    from nmfcore.pages.report import report

    mixed(tmp_path / "in", colours=(3,))
    Image.new("RGBA", (9, 9)).save(tmp_path / "in" / "9.png")
    pictures = load_images(tmp_path / "in", mode="RGB", fit="letterbox", mask_transparent=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = SearchEngine(2, max_iter=20).fit(pictures)
    section = section_of(report(engine), "masked-and-filled-in")
    assert f"{pictures.mask.sum() // 3:,} of {9 * 81:,} pixels" in section
    assert "1 picture is masked as a whole, and its code is zero" in section


def test_an_upload_is_coded_with_its_mask(wall):
    pytest.importorskip("starlette", reason="the search page needs the extra 'serve'")
    from nmfcore.pages.serve.app import _Page

    engine, folder = wall
    answer = _Page(engine).answer_to_bytes((folder / "1.png").read_bytes())
    similar = engine.search(folder / "1.png", 12)
    dissimilar = engine.search(folder / "1.png", 12, similar=False)
    assert [each["row"] for each in answer["similar"]] == similar.indices.tolist()
    assert [each["row"] for each in answer["dissimilar"]] == dissimilar.indices.tolist()
    scores = [each["score"] for each in answer["dissimilar"]]
    np.testing.assert_allclose(scores, dissimilar.scores)
    from starlette.exceptions import HTTPException

    with pytest.raises(HTTPException, match=r"422.*transparent everywhere"):
        _Page(engine).answer_to_bytes(png(np.zeros((4, 4, 4), np.uint8)))


# --- the command line -----------------------------------------------------------------------------


def run(capsys, *arguments):
    from nmfcore import cli

    code = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    pytest.importorskip("typer", reason="the command line needs the extra 'app'")
    monkeypatch.chdir(tmp_path)
    return mixed(tmp_path / "in")


def test_the_command_line_from_fit_to_report(here, capsys):
    assert "--letterbox" in run(capsys, "fit", here)[2]  # mixed proportions: what to do
    code, out, err = run(capsys, "fit", "in", "-k", "2", "--letterbox", "--max-iter", "20", "--out", "m")
    assert code == 0, err
    expected = load_images(here, fit="letterbox")
    masked = f"{expected.mask.sum():,} of {expected.mask.size:,} pixels"
    assert "masked" in out and masked in out
    model = load("m")
    assert model.decoding["proportions"] == "letterboxed" and model.masked == expected.mask.sum()
    estimator = NMF(2, solver="hals", random_state=0, max_iter=20)
    estimator.fit(expected.matrix, mask=expected.mask)
    norm = np.linalg.norm(expected.matrix.astype(float)[~expected.mask])
    assert model.relative_error == pytest.approx(estimator.reconstruction_err_ / norm)
    np.testing.assert_array_equal(np.load("m/pictures.npy"), expected.matrix)
    engine = SearchEngine.load("m")
    np.testing.assert_array_equal(engine.masks[:], expected.mask)
    assert run(capsys, "report", "m")[0] == 0
    assert masked in Path("m/report.html").read_text(encoding="utf-8")
    assert run(capsys, "transform", "m", "in")[0] == 0
    np.testing.assert_array_equal(np.load("codes.npy"), engine.transform(here))
    code, out, err = run(capsys, "search", "m", "in/1.png", "--json")
    assert code == 0 and json.loads(out)["found"][0]["row"] == engine.search(here / "1.png").indices[0]
    assert run(capsys, "fit", "in", "-k", "2", "--size", "9x9", "--max-iter", "5", "--out", "m", "--force")[0] == 0
    assert not os.path.exists("m/mask.npy") and SearchEngine.load("m").masks is None


def test_a_fit_with_a_budget_of_memory_has_the_same_bits(here, capsys):
    for number, more in enumerate(([], ["--memory", "1GB"], ["--memory", "1GB"])):
        settings = ("-k", 2, "--letterbox", "--max-iter", 10, "--rgb", "--out", f"m{number}")
        code, _, err = run(capsys, "fit", "in", *settings, *more)
        assert code == 0, err
    first, *others = (load(f"m{number}") for number in range(3))
    for other in others:
        np.testing.assert_array_equal(other.components, first.components)
        assert other.masked == first.masked > 0


def test_how_many_parts_by_what_is_observed(here, capsys):
    """The losses are those of select_rank for the pixels with their mask."""
    from nmfcore import select_rank

    pictures = load_images(here, fit="letterbox")
    settings = ("--letterbox", "--max-iter", 20, "--repeats", 2)
    code, _, err = run(capsys, "rank", "in", "-k", "1,2,3", *settings, "--holdout", "0.1", "--out", "r.csv")
    assert code == 0, err
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = select_rank(
            np.ma.MaskedArray(pictures.matrix, pictures.mask), [1, 2, 3], method="holdout", holdout=0.1, repeats=2,
            tiles=pictures.shape, random_state=0, estimator=NMF(solver="hals", max_iter=20, tol=3e-4),
        )  # fmt: skip
    table = np.genfromtxt("r.csv", delimiter=",", names=True)
    for k, test in zip(expected.k, expected.test, strict=True):
        assert table["test"][table["k"] == k].mean() == pytest.approx(test, rel=1e-3)
    code, _, err = run(capsys, "fit", "in", "-k", "auto", "--letterbox", "--max-iter", "20", "--out", "m")
    assert code == 0 and "k = " in err and "tried" in err, err
    model = load("m")
    assert model.masked == pictures.mask.sum() and model.rank_selection["best"] == len(model.components)
    code, out, err = run(capsys, "rank", "in", "-k", "1,2", "--letterbox", "--method", "bicross")
    assert code == 2 and "--method bicross does not go with" in err and not out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--letterbox", "--crop"), "give one of them"),
        (("--letterbox", "--crop", "--size", "9x9"), "give one of them"),
        (("--letterbox", "--extrapolate"), "--extrapolate does not go with --letterbox"),
        (("--mask-transparent", "--extrapolate"), "--extrapolate does not go with --mask-transparent"),
        (("--letterbox", "--device", "cuda"), "cuda"),
    ],
)
def test_what_masks_do_not_go_with_is_refused_before_pictures_are_read(here, capsys, monkeypatch, options, said):
    monkeypatch.setattr("nmfcore.cli.fit.read_pictures", lambda *_, **__: pytest.fail("read"))
    code, out, err = run(capsys, "fit", "in", *options)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1 and not out


def test_a_matrix_has_no_proportions(here, capsys):
    np.save("x.npy", np.ones((8, 9)))
    for source in ("x.npy", None):
        for option in ("--letterbox", "--mask-transparent"):
            for more in ([], ["--memory", "1GB"]):
                code, _, err = run(capsys, "fit", *([] if source is None else [source]), option, *more)
                assert code == 2 and f"{option} is for pictures of a folder" in err


def test_pictures_say_that_they_have_a_mask():
    X = np.zeros((4, 9), np.uint8)
    assert repr(Pictures(X, (3, 3), mask=X > 0)).endswith("uint8, with mask")
    assert repr(Pictures(X, (3, 3), tuple("abcd"), X[:, 0], mask=X > 0)).endswith("with names, labels and mask")
