"""One picture file decoded with Pillow: its pages, upright, in 8 bits, of one size, and which pixels are masked.

A pixel is masked where it lies on the bars beside a picture whose proportions are kept, and, if that is asked for,
where the picture is transparent. Masked pixels are 0.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, TypeVar

import numpy as np

from .._files import FileFault, check_regular, reason, shortened
from ..models.model import PROPORTIONS
from ._metadata import without_metadata
from ._shared import size_text

if TYPE_CHECKING:
    from types import ModuleType, TracebackType
    from typing import TypeAlias

    from PIL.Image import Image as Picture

    File: TypeAlias = Path | BinaryIO | Picture  # a picture file, by its path or opened, or a picture of Pillow's

PICTURE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jpe", ".jfif", ".mpo", ".pbm", ".pgm", ".png", ".apng", ".pnm", ".ppm", ".tga"}
    | {".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx", ".tif", ".tiff", ".webp"}
)
# Pillow may open no other format, whatever a file is called: some of its decoders start programs (EPS).
PICTURE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
HEIF_SUFFIXES = frozenset({".avif", ".heic", ".heif", ".hif"})  # read where pillow-heif is installed
HEIF_FORMATS = ("HEIF", "AVIF")
# A JPEG may hold more pictures, too (MPO); those are previews of the first one, so it counts as one picture.
STACKS = frozenset({"AVIF", "GIF", "HEIF", "PNG", "TIFF", "WEBP"})
# Files of these kinds often hold several pages, or more than 8 bits: they are looked through before they are decoded.
LOOKED_THROUGH = frozenset({".apng", ".avif", ".gif", ".jp2", ".pgm", ".pnm", ".tif", ".tiff", ".webp"})

# Widths and heights are whole pixels, so two scans of one format differ by rounding: a 133×100
# picture next to a 64×48 one is the same shape. Beyond 2 % a resize would visibly distort.
ASPECT_TOLERANCE = 0.02
ORIENTATION = 0x0112  # EXIF tag
BITS = 258  # TIFF tag
PHOTOMETRIC = 262  # TIFF tag; 0: white is zero, which Pillow minds with 8 bits only
SAMPLES = 339  # TIFF tag; 1 or absent: without a sign, 2: with one, which Pillow minds in 16 bits only
SUBFILE = 254  # TIFF tag; bit 0: the page is a smaller copy of another one
LEAST_LEVELS, MOST_BITS = 256, 32
OPAQUE = 128  # of 255: pixels that are less opaque than half count as transparent
SMALL_SHARE = 0.999  # of the pixels that may be dark beside a few bright ones before it is said

Mode = Literal["L", "RGB"]
Fit = Literal["stretch", "letterbox"]
Pixels = tuple[np.ndarray, np.ndarray | None]  # of a picture, and True where they are masked; None where none are
T = TypeVar("T")


class Broken(Exception):
    """Why one picture cannot be used."""


class Damaged(Broken):
    """Pillow could not decode a picture; what is wrong may be beside the pixels."""


class OddShape(Broken):
    """A picture would be distorted."""


class LookFirst(Exception):
    """A file holds several pages or more than 8 bits although its suffix does not suggest it."""


@dataclass(frozen=True)
class Decoding:
    """How pictures become rows.

    Attributes
    ----------
    mode : {"L", "RGB"}
        Grey, or red, green and blue.
    proportions : {"kept", "stretched", "cropped", "letterboxed"}
        What is done with a picture of other proportions than the rows have: it is refused, distorted, its edges are
        cut off, or it lies in the middle between masked bars.
    background : tuple of (int, int, int)
        The colour that shows through transparent pixels.
    levels : int or None
        How many grey levels of pictures with more than 8 bits become 256. None: not known yet; `decode_picture` then
        takes the picture's own, and `fill_rows` raises `LookFirst`.
    whose : str
        What gives the size that others are compared with, for messages.
    mask_transparent : bool
        Whether transparent pixels are masked, instead of showing the background.
    """

    mode: Mode = "L"
    proportions: str = "kept"
    background: tuple[int, int, int] = (255, 255, 255)
    levels: int | None = None
    whose: str = "the first picture"
    mask_transparent: bool = False

    @property
    def masks(self) -> bool:
        """Whether pixels of a picture may be masked."""
        return self.mask_transparent or self.proportions == "letterboxed"

    def plain(self) -> dict[str, object]:
        """Return what a model keeps, so that other pictures can be decoded alike."""
        red, green, blue = self.background
        plain: dict[str, object] = {
            "proportions": self.proportions,
            "background": f"#{red:02x}{green:02x}{blue:02x}",
            "levels": LEAST_LEVELS if self.levels is None else self.levels,
        }
        return plain | {"mask_transparent": True} if self.mask_transparent else plain

    @classmethod
    def of(cls, plain: Mapping[str, object] | None, mode: Mode) -> Decoding:
        """Return the decoding that `plain` described; ValueError for a description that makes no sense."""
        plain = {} if plain is None else dict(plain)
        proportions, levels = plain.get("proportions", "kept"), plain.get("levels")
        if proportions not in PROPORTIONS:
            given = shortened(proportions)
            raise ValueError(f"proportions must be {', '.join(PROPORTIONS[:-1])} or {PROPORTIONS[-1]}, got {given!r}")
        mask_transparent = plain.get("mask_transparent", False)
        if not isinstance(mask_transparent, bool):
            raise ValueError(f"mask_transparent must be True or False, got {shortened(mask_transparent)!r}")
        if levels is not None and (
            not isinstance(levels, int) or isinstance(levels, bool) or not LEAST_LEVELS <= levels <= 1 << MOST_BITS
        ):
            raise ValueError(f"levels must be a whole number from 256 on, got {shortened(levels)!r}")
        background = colour(plain.get("background", "white"))
        return cls(mode, str(proportions), background, levels, "the pictures of the model", mask_transparent)


class Look(NamedTuple):
    """What is known of a file before it is decoded."""

    pages: tuple[int, ...]  # those to be read
    copies: int  # pages of a TIFF file that are smaller copies of others
    highest: int | None  # value of a pixel; None where all pages have 8 bits
    lowest: int
    below: tuple[int, ...]  # pixels below 2^8, 2^9, …, 2^32
    deep_colour: bool  # whether there are more than 8 bits a colour, of which Pillow keeps the upper 8


def pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'nmfcore[app]'") from error
    return Image


def check_mode(mode: str) -> None:
    if mode not in ("L", "RGB"):
        raise ValueError(f'mode must be "L" (grey) or "RGB", got {mode!r}')


def colour(background: object) -> tuple[int, int, int]:
    """Return red, green and blue of a colour that is named, written as "#rrggbb", or given as three numbers."""
    if isinstance(background, str):
        if background == "white":  # without Pillow, which tables do not need
            return (255, 255, 255)
        pillow()
        from PIL import ImageColor

        try:
            red, green, blue = ImageColor.getrgb(background)[:3]
        except ValueError:
            pass
        else:
            return red, green, blue
    elif (
        isinstance(background, Sequence)
        and len(background) == 3
        and all(isinstance(part, int | np.integer) and 0 <= part <= 255 for part in background)
    ):
        red, green, blue = map(int, background)
        return red, green, blue
    raise ValueError(
        f"background must be the name of a colour, like 'white', '#rrggbb', or three numbers from 0 to 255, "
        f"got {shortened(background)!r}"
    )


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of the formats that this Pillow was built with."""
    Image = pillow()
    Image.init()
    _register_heif()
    return tuple(name for name in (*PICTURE_FORMATS, *HEIF_FORMATS) if name in Image.OPEN)


def _register_heif() -> None:
    """Let Pillow open HEIC, and AVIF where it does not by itself, if pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()
    if "AVIF" not in pillow().OPEN and hasattr(pillow_heif, "register_avif_opener"):  # versions before 1.0
        pillow_heif.register_avif_opener()


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes of picture files that can be read here: `PICTURE_SUFFIXES`, and those of HEIC and AVIF."""
    try:
        formats = _formats()
    except ImportError:  # without Pillow none is read, which is said where one is opened
        return PICTURE_SUFFIXES
    heif = HEIF_SUFFIXES - {".avif"} if "HEIF" in formats else frozenset()
    return PICTURE_SUFFIXES | heif | ({".avif"} if "AVIF" in formats else frozenset())


# --- what a file holds ----------------------------------------------------------------------------


def look(file: Path) -> Look:
    """Return the pages of a file, and the range of its values where they have more than 8 bits."""
    return _with_picture(file, _looked)


def _looked(picture: Picture) -> Look:
    pages, copies = _pages(picture)
    highest, lowest, below = None, 0, np.zeros(MOST_BITS - 7, np.int64)
    for page in pages:
        _seek(picture, page)
        if not picture.mode.startswith("I"):
            continue
        pixels = _integers(picture)
        top, bottom = int(pixels.max()), int(pixels.min())
        lowest = bottom if highest is None else min(lowest, bottom)
        highest = max(top, highest or 0)
        for place, bits in enumerate(range(8, MOST_BITS + 1)):
            below[place] += pixels.size if top < 1 << bits else np.count_nonzero(pixels < 1 << bits)
    return Look(pages, copies, highest, lowest, tuple(below.tolist()), _has_deep_colour(picture))


def _has_deep_colour(picture: Picture) -> bool:
    """Whether a picture that has not been loaded has more than 8 bits a colour, of which Pillow keeps 8."""
    if picture.mode not in ("RGB", "RGBA", "LA"):
        return False
    for tile in getattr(picture, "tile", ()):
        how = getattr(tile, "args", "")
        highest = how[-1] if picture.format == "PPM" and isinstance(how, tuple) else 0
        if ";16" in str(how) or (isinstance(highest, int) and highest > 255):
            return True
    return False


def _pages(picture: Picture) -> tuple[tuple[int, ...], int]:
    """Return the numbers of the pages to read, and how many others are smaller copies of them."""
    count = getattr(picture, "n_frames", 1) if picture.format in STACKS else 1
    if picture.format != "TIFF" or count == 1:
        return tuple(range(count)), 0
    pages = []
    for page in range(count):
        picture.seek(page)
        if not int(picture.tag_v2.get(SUBFILE, 0)) & 1:  # type: ignore[attr-defined]
            pages.append(page)
    return tuple(pages) or (0,), count - max(1, len(pages))


def levels_of(highest: int) -> int:
    """Return the grey levels that become 256: the least power of two that holds all values."""
    return max(LEAST_LEVELS, 1 << highest.bit_length())


# --- decoding -------------------------------------------------------------------------------------


def decode_picture(picture: File, size: tuple[int, int] | None, how: Decoding) -> Pixels:
    """Decode the first page of a file, or a picture of Pillow's, to 8 bits of `size`; None: of its own size."""
    ours = not isinstance(picture, pillow().Image)

    def decoded(picture: Picture) -> Pixels:
        return _decoded(picture, size, how, ours)

    return _with_picture(picture, decoded)


def row_of(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a picture, or the mask of one, as a row of shape (n_features,); a mask holds for all colours."""
    if values.ndim < len(shape):
        values = np.broadcast_to(values[..., None], shape)
    return values.reshape(-1)


def fill_rows(
    file: Path,
    pages: Sequence[int],
    rows: np.ndarray,
    size: tuple[int, int],
    how: Decoding,
    masks: np.ndarray | None = None,
) -> list[str | OddShape | None]:
    """Decode pages of a file to rows of a matrix; return for each why it cannot be used, or None.

    `masks` are rows of False, which become True where pixels are masked.
    """

    def fill(picture: Picture) -> list[str | OddShape | None]:
        many = picture.mode.startswith("I") or _has_deep_colour(picture)
        if how.levels is None and (many or len(_pages(picture)[0]) > 1):
            raise LookFirst
        reasons: list[str | OddShape | None] = []
        for number, page in enumerate(pages):
            try:
                with _sentences():
                    _seek(picture, page)
                    pixels, mask = _decoded(picture, size, how)
                rows[number] = pixels.reshape(-1)
                if masks is not None and mask is not None:
                    masks[number] = row_of(mask, pixels.shape)
                reasons.append(None)
            except OddShape as error:
                reasons.append(error)
            except Broken as error:
                if len(pages) == 1:
                    raise
                reasons.append(str(error))
        return reasons

    try:
        return _with_picture(file, fill)
    except OddShape as error:
        return [error] * len(pages)
    except Broken as error:
        return [str(error)] * len(pages)


def has_odd_shape(file: Path, pages: Sequence[int], size: tuple[int, int]) -> int:
    """Return how many pages of a file have other proportions than `size`; those that cannot be read do not count."""

    def count(picture: Picture) -> int:
        odd = 0
        for page in pages:
            picture.seek(page)
            odd += _is_odd(_upright_size(picture.size, _orientation(picture)), size)
        return odd

    try:
        return _with_picture(file, count)
    except Broken:
        return 0


class _sentences:
    """Turns what Pillow raises into `Broken`."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Broken | LookFirst | MemoryError) or not isinstance(error, Exception):
            return
        Image = pillow()
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            raise Broken("has too many pixels to be decoded safely") from error
        if isinstance(error, FileNotFoundError):
            raise Broken("does not exist: check the path") from error
        if isinstance(error, FileFault):
            raise Broken(str(error)) from error
        if isinstance(error, Image.UnidentifiedImageError):
            raise Damaged("is not a picture that can be read") from error
        raise Damaged(f"is broken ({reason(error)})") from error


def _with_picture(file: File, use: Callable[[Picture], T]) -> T:
    """Open a file and call use(picture); where that fails, once more without what the file holds beside the pixels."""
    try:
        return _attempt(file, use)
    except Damaged:
        plain = without_metadata(file)
        if plain is None:
            raise
        try:
            return _attempt(io.BytesIO(plain), use)
        except Broken:
            pass
        raise


def _attempt(file: File, use: Callable[[Picture], T]) -> T:
    Image = pillow()
    with _sentences(), ExitStack() as opened:
        if not isinstance(file, Image.Image):
            file = opened.enter_context(_open_picture(file))  # type: ignore[arg-type]
        return use(file)


def _open_picture(file: Path | BinaryIO) -> Picture:
    Image = pillow()
    if isinstance(file, str | os.PathLike):
        check_regular(file)
    picture = Image.open(file, formats=_formats())
    try:
        _check_pixels(picture)
        _check_single(picture)
        _widen_key(picture)
    except BaseException:
        picture.close()
        raise
    return picture


def _check_single(picture: Picture) -> None:
    """Refuse a binary PBM, PGM or PPM file with further pictures behind the first, which Pillow passes over."""
    file: BinaryIO | None = getattr(picture, "fp", None)
    tiles = getattr(picture, "tile", ())
    if picture.format != "PPM" or file is None or not tiles:
        return
    codec, _, offset, how = tiles[0]
    if codec == "ppm_plain" or picture.mode == "F":
        return
    width, height = picture.size
    if picture.mode == "1":
        size = (width + 7) // 8 * height
    else:
        highest = how[-1] if isinstance(how, tuple) else 65535 if picture.mode.startswith("I") else 255
        size = width * height * len(picture.getbands()) * (1 if highest <= 255 else 2)
    file.seek(offset + size)
    behind = file.read(64).lstrip()
    if len(behind) >= 2 and behind[:1] == b"P" and behind[1:2] in b"1234567":
        raise Broken("holds several pictures, of which only the first could be read: store each in a file of its own")


def _widen_key(picture: Picture) -> None:
    """Bring the transparent grey of a PNG file of 2 or 4 bits to 8 bits, as Pillow brings the pixels."""
    key = picture.info.get("transparency")
    if picture.format != "PNG" or picture.mode != "L" or not isinstance(key, int):
        return
    depth = {"L;2": 2, "L;4": 4}.get(str(getattr((getattr(picture, "tile", None) or [None])[0], "args", "")))
    if depth:
        picture.info["transparency"] = key * 255 // ((1 << depth) - 1)


def _check_pixels(picture: Picture) -> None:
    limit = pillow().MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        raise Broken(f"has more than {limit:,} pixels, too many to be decoded safely")


def _seek(picture: Picture, page: int) -> None:
    if page or getattr(picture, "tell", int)():
        picture.seek(page)
        _check_pixels(picture)


def _decoded(picture: Picture, size: tuple[int, int] | None, how: Decoding, ours: bool = True) -> Pixels:
    whole = picture.size
    if size is not None and ours:
        picture.draft(None, (2 * max(size),) * 2)  # a far too large JPEG is decoded at a fraction
    drafted = picture.size != whole
    picture.load()
    turned = _orientation(picture)
    shown = _turned(_in_8_bits(picture, how), turned)
    if size is not None:
        given = _upright_size(whole, turned) if drafted else shown.size
        if how.proportions == "kept" and _is_odd(given, size):
            raise OddShape(
                f"has other proportions ({given[1]}x{given[0]}) than {how.whose} ({size_text((size[0], size[1]))})"
            )
        if how.proportions == "letterboxed":
            return _letterboxed(shown, given, size)
        shown = _resized(shown, size, how.proportions == "cropped")
    return _pixels_of(shown)


def _letterboxed(picture: Picture, given: tuple[int, int], size: tuple[int, int]) -> Pixels:
    """Return a picture as large as fits into `size`, in the middle, between bars that are masked.

    `given` is (width, height) of the picture, whatever it was decoded at.
    """
    scale = min(size[1] / given[0], size[0] / given[1])
    width, height = (min(most, max(1, round(side * scale))) for side, most in zip(given, size[::-1], strict=True))
    pixels, hidden = _pixels_of(_resized(picture, (height, width), crop=False))
    if (height, width) == size:
        return pixels, hidden
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    inside = slice(top, top + height), slice(left, left + width)
    framed, mask = np.zeros((*size, *pixels.shape[2:]), np.uint8), np.ones(size, bool)
    framed[inside] = pixels
    mask[inside] = False if hidden is None else hidden
    return framed, mask


def _pixels_of(picture: Picture) -> Pixels:
    """Return the pixels, and which of them are masked, of a picture that has been brought to its size."""
    pixels = np.asarray(picture)
    if picture.mode not in ("LA", "RGBA"):
        return pixels, None
    mask = pixels[..., -1] < OPAQUE
    pixels = pixels[..., 0] if picture.mode == "LA" else pixels[..., :3]
    pixels = np.where(mask if pixels.ndim == 2 else mask[..., None], np.uint8(0), pixels)
    return pixels, mask if mask.any() else None


def _orientation(picture: Picture) -> int:
    """Return how a picture lies, as EXIF numbers it: 1 is upright, and so is one whose EXIF data cannot be read."""
    try:
        if picture.format == "JPEG" and "exif" not in picture.info and "xmp" not in picture.info:
            return 1
        turned = picture.getexif().get(ORIENTATION, 1)
        return int(turned) if isinstance(turned, int) and 1 <= turned <= 8 else 1
    except MemoryError:
        raise
    except Exception:  # almost anything: the data may be anything
        return 1


def _upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation >= 5 else size


def _turned(picture: Picture, orientation: int) -> Picture:
    if orientation == 1:
        return picture
    from PIL.Image import Transpose

    return picture.transpose(
        {
            2: Transpose.FLIP_LEFT_RIGHT,
            3: Transpose.ROTATE_180,
            4: Transpose.FLIP_TOP_BOTTOM,
            5: Transpose.TRANSPOSE,
            6: Transpose.ROTATE_270,
            7: Transpose.TRANSVERSE,
            8: Transpose.ROTATE_90,
        }[orientation]
    )


def _is_odd(given: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether (width, height) has other proportions than `size`, which is (height, width)."""
    ratio = (given[0] * size[0]) / (given[1] * size[1])
    return not 1 / (1 + ASPECT_TOLERANCE) <= ratio <= 1 + ASPECT_TOLERANCE


def _in_8_bits(picture: Picture, how: Decoding) -> Picture:
    """Return a picture in the mode that is asked for: with its transparency where that is masked, else without."""
    Image = pillow()
    if picture.mode == "F":
        raise Broken("holds floating-point pixels; save it with 8 or 16 bits")
    if picture.mode == "LAB":
        raise Broken("holds colours of the LAB space; save it in RGB")
    if picture.mode == "L" and _tag(picture, SAMPLES) == 2:
        _check_sign(np.asarray(picture).view(np.int8))
    if picture.mode.startswith("I"):  # Pillow's own conversion clips at 255
        clear = picture.info.get("transparency")
        pixels = _integers(picture)
        _check_sign(pixels)
        levels = levels_of(int(pixels.max(initial=0))) if how.levels is None else how.levels
        shift = levels.bit_length() - 9  # of levels 2^8 · 2^shift
        narrow = np.minimum(pixels >> shift if shift else pixels, 255).astype(np.uint8)
        if _tag(picture, PHOTOMETRIC) == 0:
            narrow = 255 - narrow
        picture = Image.fromarray(narrow)
        if isinstance(clear, int) and how.mask_transparent:
            picture.putalpha(Image.fromarray((pixels != clear).astype(np.uint8) * 255))
            return _with_transparency(picture, how.mode)
        if isinstance(clear, int):
            red, green, blue = how.background
            picture = picture.convert("RGB")
            picture.paste((red, green, blue), mask=Image.fromarray((pixels == clear).astype(np.uint8) * 255))
    elif picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        if how.mask_transparent:
            return _with_transparency(clear, how.mode)
        shown = Image.new("RGBA", clear.size, (*how.background, 255))
        shown.alpha_composite(clear)
        picture = shown.convert("RGB")
    return picture.convert(how.mode)


def _tag(picture: Picture, number: int) -> object:
    """Return a tag of a TIFF file, of several values the first; None where there is none, and for other files."""
    value = picture.tag_v2.get(number) if picture.format == "TIFF" else None  # type: ignore[attr-defined]
    return value[0] if isinstance(value, tuple) and value else value


def _integers(picture: Picture) -> np.ndarray:
    """Return pixels of more than 8 bits; those of 32 bits have a sign only if the file says so."""
    pixels = np.asarray(picture)
    unsigned = pixels.dtype == np.int32 and _tag(picture, SAMPLES) in (None, 1) and _tag(picture, BITS) == 32
    return pixels.view(np.uint32) if unsigned and picture.format == "TIFF" else pixels


def _check_sign(pixels: np.ndarray) -> None:
    if pixels.size and int(pixels.min()) < 0:
        raise Broken(f"holds negative pixels (down to {int(pixels.min()):,}); add an offset and save it again")


def _with_transparency(picture: Picture, mode: Mode) -> Picture:
    """Return a picture that has an alpha channel with it, or without it where all pixels are opaque."""
    if picture.getchannel("A").getextrema() == (255, 255):
        return picture.convert(mode)
    return picture.convert("LA" if mode == "L" else "RGBA")


def _resized(picture: Picture, size: tuple[int, int], crop: bool) -> Picture:
    (height, width), box = size, None
    if picture.size == (width, height):
        return picture
    if crop:
        across, down = picture.size
        if across * height > down * width:  # too wide
            kept = down * width / height
            box = ((across - kept) / 2, 0.0, (across + kept) / 2, float(down))
        else:
            kept = across * height / width
            box = (0.0, (down - kept) / 2, float(across), (down + kept) / 2)
    Resampling = pillow().Resampling
    # Lanczos overshoots where an object ends, as opacity cannot exceed 1: edges were 13 % too bright. Hamming does not.
    way = Resampling.HAMMING if picture.mode in ("LA", "RGBA") else Resampling.LANCZOS
    return picture.resize((width, height), way, box=box, reducing_gap=3.0)


def with_levels(how: Decoding, levels: int) -> Decoding:
    """Return a decoding whose grey levels are known."""
    return replace(how, levels=levels)
