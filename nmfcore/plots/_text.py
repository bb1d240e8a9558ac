"""Names and labels in figures: drawn as they are, in fonts that have their letters."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .._text import printable
from ._loading import load_matplotlib

if TYPE_CHECKING:
    from typing import TypedDict

    class TextStyle(TypedDict, total=False):
        """Properties of a text of matplotlib."""

        parse_math: bool
        fontfamily: list[str]


__all__ = ["drawable", "fit", "text_style"]

# Fonts with the letters that matplotlib's own font lacks, as systems install them.
_FALLBACKS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "Source Han Sans"),
    *("Hiragino Sans", "PingFang SC", "Heiti SC", "Apple SD Gothic Neo", "Yu Gothic", "Meiryo", "Microsoft YaHei"),
    *("SimHei", "Malgun Gothic", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAGothic"),
    *("NanumGothic", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Armenian", "Noto Sans Georgian", "Noto Sans Symbols"),
    *("Noto Sans Symbols 2", "Noto Emoji", "Symbola", "Segoe UI Symbol", "Arial Unicode MS", "Unifont"),
)
_BOX, _WITHOUT_FONT = "□", "?"


def drawable(text: object) -> str:
    """Return a text on one line, in which a box stands for every letter that no installed font has.

    A heading or a caption may have several lines; each is a text of its own.
    """
    lines = [printable(line) for line in str(text).split("\n")]
    return "\n".join(line if line.isascii() else "".join(map(_letter, line)) for line in lines)


def _letter(letter: str) -> str:
    letters = ord(letter)
    own = _default_letters()
    if letters in own or any(letters in _letters_of(path) for _, path in _installed_fallbacks()):
        return letter
    if unicodedata.category(letter) in ("Cf", "Mn", "Me"):  # it changes how its neighbours look
        return ""
    return _BOX if ord(_BOX) in own else _WITHOUT_FONT


def text_style(*texts: str) -> TextStyle:
    """Return the properties that a `drawable` text is drawn with: no mathematics between dollars, and its fonts."""
    style: TextStyle = {"parse_math": False}
    missing = {ord(letter) for text in texts if not text.isascii() for letter in text} - _ascii_and_default(texts)
    if missing:
        from matplotlib import rcParams

        families = [name for name, path in _installed_fallbacks() if missing & _letters_of(path)]
        style["fontfamily"] = [*rcParams["font.family"], *families]
    return style


def _ascii_and_default(texts: Iterable[str]) -> frozenset[int]:
    return frozenset() if all(text.isascii() for text in texts) else _default_letters()


def _default_letters() -> frozenset[int]:
    load_matplotlib()
    from matplotlib import font_manager

    return _letters_of(font_manager.findfont(font_manager.FontProperties()))


@functools.cache
def _letters_of(path: str) -> frozenset[int]:
    from matplotlib import font_manager

    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a font that cannot be read
        return frozenset()


@functools.cache
def _installed_fallbacks() -> tuple[tuple[str, str], ...]:
    from matplotlib import font_manager

    files = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    return tuple((name, files[name]) for name in _FALLBACKS if name in files)


def fit(text: str, points: float, inches: float) -> str:
    """Shorten a text to about the width there is: a letter is half as wide as it is high, an ideograph as wide."""
    text = drawable(text)
    room = max(3.0, inches * 72 / (0.55 * points))
    if sum(map(_width, text)) <= room:
        return text
    kept, width = 0, 1.0  # of the ellipsis
    for letter in text:
        width += _width(letter)
        if width > room:
            break
        kept += 1
    return text[: max(1, kept)] + "…"


def _width(letter: str) -> float:
    return 1.0 if letter.isascii() else 1.9 if unicodedata.east_asian_width(letter) in "WF" else 1.1
