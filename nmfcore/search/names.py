"""Which picture a text means, and which name may have been meant by one that is nearly right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from .._text import printable
from ..images import InputError

__all__ = ["hint", "meant"]

_MANY = 100_000  # names among which none is looked for that is nearly right
_SHOWN = 3  # names that a message lists


def meant(text: str, numbers: Mapping[str, int], n: int) -> tuple[int | str, str | None]:
    """Return the row that a text means, or the text where it can only be a file.

    Parameters
    ----------
    text : str
        What was typed.
    numbers : mapping of str to int
        Names of pictures, and their rows.
    n : int
        How many rows there are.

    Returns
    -------
    query : int or str
        A row number, or the text.
    note : str or None
        A sentence, where a row of that number could have been meant as well.

    Raises
    ------
    InputError
        When several pictures have that number for a name.

    Examples
    --------
    >>> from nmfcore.search.names import meant
    >>> row, note = meant("2", {"1.jpg": 0, "2.jpg": 1, "3.jpg": 2}, 3)
    >>> row, note
    (1, "'2' is taken for '2.jpg' (row 1); row 2 is another picture: 'row 2' means that one")
    >>> meant("row 2", {"1.jpg": 0, "2.jpg": 1, "3.jpg": 2}, 3)
    (2, None)
    """
    if text in numbers:
        return numbers[text], _other_row(text, text, numbers[text], n) if text.isdecimal() else None
    numbered = re.fullmatch(r"row\s+(\d+)", text.strip(), re.IGNORECASE)
    if numbered:
        return int(numbered[1]), None
    if not text.isdecimal():
        return text, None
    names = _of_stem(text, numbers)
    if not names:
        return int(text), None
    if len(names) > 1:
        listed = ", ".join(f"'{printable(name)}'" for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        row = f", or 'row {int(text)}' for the row of that number" if int(text) < n else ""
        raise InputError(f"'{text}' could be any of {listed}{more}: give the whole name{row}")
    return numbers[names[0]], _other_row(text, names[0], numbers[names[0]], n)


def _of_stem(text: str, names: Iterable[str]) -> list[str]:
    """Return the names that are the text but for folders and a suffix."""
    return [name for name in names if text in name and PurePosixPath(name.rsplit("#", 1)[0]).stem == text]


def _other_row(text: str, name: str, row: int, n: int) -> str | None:
    number = int(text)
    if number >= n or number == row:
        return None
    return (
        f"'{text}' is taken for '{printable(name)}' (row {row}); row {number} is another picture: "
        f"'row {number}' means that one"
    )


def hint(text: str, names: Mapping[str, int]) -> str:
    """Suggest a name that differs in little, whatever the suffixes; numbers do not resemble each other.

    Parameters
    ----------
    text : str
        A name that is not there.
    names : mapping of str to int
        Those that are.

    Returns
    -------
    str
        The end of a sentence; empty where no name is near.

    Examples
    --------
    >>> from nmfcore.search.names import hint
    >>> hint("cat7.png", {"cat 7.jpg": 0, "cat 8.jpg": 1})
    "; do you mean 'cat 7.jpg'?"
    """
    if len(names) > _MANY:
        return ""
    stems = {Path(known).stem.casefold(): known for known in names}
    stem = Path(text).stem.casefold()
    number = re.sub(r"\D", "", stem).lstrip("0")
    alike = [known for known in stems if re.sub(r"\D", "", known).lstrip("0") == number]
    close = difflib.get_close_matches(stem, alike, 1, 0.75)
    if not close and stem.isdecimal():  # 007 for 7
        close = [known for known in alike if known.isdecimal()][:1]
    return f"; do you mean '{printable(stems[close[0]])}'?" if close else ""
