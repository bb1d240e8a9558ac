"""PNG and JPEG files without what they hold beside the pixels: a fault in it must not lose the picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._decoding import File

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
_JPEG_LEFT_OUT = {
    *range(0xE1, 0xEE),
    0xEF,
    0xFE,
}  # but for APP0 and APP14, which say how colours are kept
_LARGEST = 1 << 28  # bytes of a file that is read whole


def without_metadata(file: File) -> bytes | None:
    """Return the bytes of a PNG or JPEG file without its metadata; None for other files, and where there is none."""
    data = _bytes(file)
    if data is None:
        return None
    plain = None
    if data.startswith(PNG):
        plain = _png(data)
    elif data.startswith(JPEG):
        plain = _jpeg(data)
    return None if plain == data else plain


def _bytes(file: File) -> bytes | None:
    try:
        if isinstance(file, str | os.PathLike):
            if os.path.getsize(file) > _LARGEST:
                return None
            with open(file, "rb") as opened:
                return opened.read()
        if not hasattr(file, "read"):  # a picture of Pillow's
            return None
        file.seek(0)
        data = file.read(_LARGEST + 1)  # type: ignore[union-attr]
    except (OSError, ValueError, AttributeError):
        return None
    return data if isinstance(data, bytes) and len(data) <= _LARGEST else None


def _png(data: bytes) -> bytes:
    """Keep the chunks that pixels depend on."""
    kept, place = [PNG], len(PNG)
    while place + 12 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind in _PNG_KEPT:
            kept.append(data[place : place + 12 + length])
        place += 12 + length
        if kind == b"IEND":
            break
    return b"".join(kept)


def _jpeg(data: bytes) -> bytes | None:
    """Keep the segments that pixels depend on, and all from the first scan on."""
    kept, place = [JPEG], len(JPEG)
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xDA:  # the scan
            kept.append(data[place:])
            return b"".join(kept)
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker not in _JPEG_LEFT_OUT:
            kept.append(data[place:end])
        place = end
    return None
