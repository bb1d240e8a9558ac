"""Names and labels as text that any console, page or figure can show on one line."""

from __future__ import annotations

import re

__all__ = ["part_name", "printable", "row_name", "share_text"]

FAINT = 1e-3  # a part with a smaller share is said to have less than this
UNSTABLE = 0.8  # a part with a smaller mean cosine to those of other starts is said to be unstable

# Control characters (they move the cursor, set colours and titles of a terminal), line and paragraph separators,
# marks that change the direction of the text after them, and surrogates, which no encoding can write.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text on one line, with what could not be shown written as an escape sequence.

    A file name may hold any byte. Python decodes bytes that are not UTF-8 to lone surrogates, which raise when they
    are printed or sent; these appear as the byte they stand for.

    Parameters
    ----------
    text : str
        For instance the name of a file.

    Returns
    -------
    str

    Examples
    --------
    >>> from nmfcore._text import printable
    >>> print(printable("caf\udce9 \x1b[31m.png"))
    caf\xe9 \x1b[31m.png
    """
    return _UNSAFE.sub(_escape, text)


def row_name(row: int, name: str | None = None, label: object = None) -> str:
    """Return what a row is called: its number, its name, and its label in brackets.

    Names and labels appear as they are, whatever markup they resemble, with `printable` escapes only. It is for those
    who draw the text or put it into a page to say that it is no markup.

    Parameters
    ----------
    row : int
        Its number.
    name : str or None
        Its name, for instance that of its file. None and an empty one are left out. One that begins with the number
        of the row in this form stands alone.
    label : object or None
        Its label; None or an empty one is left out.

    Returns
    -------
    str

    Examples
    --------
    >>> from nmfcore._text import row_name
    >>> row_name(1011, None, 4), row_name(1011, "4802.jpg"), row_name(1011, "4802.jpg", "cat")
    ('row 1011 (4)', 'row 1011, 4802.jpg', 'row 1011, 4802.jpg (cat)')
    """
    number = f"row {row}"
    if name is None or name == "":
        named = number
    else:
        says_it = name.startswith(number) and name[len(number) : len(number) + 2] in ("", ", ", " (")
        named = printable(name) if says_it else f"{number}, {printable(name)}"
    text = "" if label is None else str(label)
    return f"{named} ({printable(text)})" if text else named


def share_text(share: float) -> str:
    """Return the share of a part as text.

    Parameters
    ----------
    share : float
        Of ‖X‖², see `nmfcore.analysis.explained_share`.

    Returns
    -------
    str

    Examples
    --------
    >>> from nmfcore._text import share_text
    >>> share_text(0.1239), share_text(0.0004)
    ('12.4 %', 'below 0.1 %')
    """
    return f"{100 * share:.1f} %" if share >= FAINT else f"below {100 * FAINT:g} %" if share == share else "?"


def part_name(number: int, share: float | None = None) -> str:
    """Return what a part is called: its number, which is that of its row of H, and its share where that is known.

    Parameters
    ----------
    number : int
    share : float or None
        Of ‖X‖², see `nmfcore.analysis.explained_share`.

    Returns
    -------
    str

    Examples
    --------
    >>> from nmfcore._text import part_name
    >>> part_name(3, 0.1239), part_name(15, 0.0)
    ('part 3 (12.4 %)', 'part 15 (below 0.1 %)')
    """
    return f"part {number}" if share is None else f"part {number} ({share_text(share)})"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python decodes file names
        code -= 0xDC00
    if code in (9, 10, 13):
        return {9: r"\t", 10: r"\n", 13: r"\r"}[code]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def masked_text(masked: int, entries: int, shape: tuple[int, ...] | None) -> str:
    """Say how much of pictures is masked.

    Parameters
    ----------
    masked : int
        Masked entries of X.
    entries : int
        All entries of X.
    shape : tuple of (height, width) or (height, width, 3), or None
        The picture that a row of X folds to; of a picture in colour, three entries are a pixel.

    Returns
    -------
    str

    Examples
    --------
    >>> from nmfcore._text import masked_text
    >>> masked_text(3000, 120_000, (20, 20, 3))
    '1,000 of 40,000 pixels (2.5 %)'
    """
    per_pixel = 3 if shape is not None and len(shape) == 3 else 1
    what = "entries" if shape is None else "pixels"
    share = 100 * masked / max(1, entries)
    return f"{masked // per_pixel:,} of {entries // per_pixel:,} {what} ({share:.{0 if share >= 10 else 1}f} %)"
