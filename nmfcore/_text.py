"""Names and labels as text that any console, page or figure can show on one line."""

from __future__ import annotations

import re

__all__ = ["printable"]

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


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python decodes file names
        code -= 0xDC00
    if code in (9, 10, 13):
        return {9: r"\t", 10: r"\n", 13: r"\r"}[code]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
