"""What a request asks, read from its address: rows, uploads, labels, numbers. Whatever makes no sense is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FEW", "MOST", "TERMS", "Question", "Refusal", "label_in", "number_in", "one_of", "question", "rows_in"]

FEW, MOST = 12, 240  # pictures in an answer, where the request does not say, and at most
TERMS = 16  # pictures in a query
_ROW = re.compile(r"[0-9]{1,12}")
_TOKEN = re.compile(r"u[0-9a-f]{32}")


class Refusal(Exception):
    """A request that cannot be answered.

    Parameters
    ----------
    status : int
        A status code of HTTP.
    sentence : str
        One sentence that says why, and what to do.
    """

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Question:
    """Pictures to search by, and what of the answer is wanted.

    Attributes
    ----------
    terms : tuple of (int or str, float)
        Row numbers, and marks of uploads; with the weight of each, 1 or −1.
    similar : bool
        Whether the most similar are wanted; else the most dissimilar.
    label : str or None
        Only pictures with this label; None for all.
    n, offset : int
        How many, and how many before them are skipped.
    """

    terms: tuple[tuple[int | str, float], ...]
    similar: bool
    label: str | None
    n: int
    offset: int


def question(given: Mapping[str, str], rows: int, labels: Mapping[str, object]) -> Question:
    """Read a search.

    Parameters
    ----------
    given : mapping of str to str
        The parameters of the address: ``plus`` and ``minus`` with numbers and marks between commas, ``kind``,
        ``label``, ``n`` and ``offset``.
    rows : int
        How many rows there are.
    labels : mapping
        The labels that there are.

    Returns
    -------
    Question

    Raises
    ------
    Refusal
        When something is missing or makes no sense.
    """
    terms = [(term, 1.0) for term in _terms(given, "plus", rows)] + [
        (term, -1.0) for term in _terms(given, "minus", rows)
    ]
    if not terms:
        raise Refusal(400, "there is nothing to search by: give plus=ROW,ROW")
    if len(terms) > TERMS:
        raise Refusal(400, f"{len(terms)} pictures are too many to search by at once: give at most {TERMS}")
    kind = one_of(given, "kind", ("similar", "dissimilar"))
    return Question(
        tuple(terms),
        kind == "similar",
        label_in(given, labels),
        number_in(given, "n", 1, MOST, FEW),
        number_in(given, "offset", 0, max(rows, 1), 0),
    )


def label_in(given: Mapping[str, str], labels: Mapping[str, object]) -> str | None:
    """Return the label that an address asks for.

    Parameters
    ----------
    given : mapping of str to str
        The parameters of the address.
    labels : mapping
        The labels that there are.

    Returns
    -------
    str or None
        None where no label is asked for.

    Raises
    ------
    Refusal
        When no picture has it.
    """
    label = given.get("label")
    if label is not None and label not in labels:
        raise Refusal(404, f"no picture has the label '{label[:40]}'")
    return label


def rows_in(text: str, rows: int) -> list[int]:
    """Read row numbers between commas.

    Parameters
    ----------
    text : str
    rows : int
        How many rows there are.

    Returns
    -------
    list of int

    Raises
    ------
    Refusal
        When one is no row, or there are too many.
    """
    parts = text.split(",") if text else []
    if len(parts) > MOST:
        raise Refusal(400, f"{len(parts)} rows are too many at once: ask for at most {MOST}")
    return [_row(part, rows) for part in parts]


def number_in(given: Mapping[str, str], name: str, least: int, most: int, otherwise: int) -> int:
    """Read a whole number.

    Parameters
    ----------
    given : mapping of str to str
        The parameters of the address.
    name : str
        The parameter.
    least, most : int
        Its bounds.
    otherwise : int
        What a missing parameter means.

    Returns
    -------
    int

    Raises
    ------
    Refusal
        When it is none, or out of bounds.
    """
    text = given.get(name, str(otherwise))
    if not _ROW.fullmatch(text) or not least <= int(text) <= most:
        raise Refusal(400, f"{name}={text[:20]!r} is not possible: give a whole number from {least} to {most}")
    return int(text)


def one_of(given: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """Read a word out of several.

    Parameters
    ----------
    given : mapping of str to str
        The parameters of the address.
    name : str
        The parameter.
    allowed : tuple of str
        The words; a missing parameter means the first.

    Returns
    -------
    str

    Raises
    ------
    Refusal
        When it is another one.
    """
    word = given.get(name, allowed[0])
    if word not in allowed:
        raise Refusal(400, f"{name}={word[:20]!r} is unknown: give {' or '.join(allowed)}")
    return word


def _terms(given: Mapping[str, str], name: str, rows: int) -> list[int | str]:
    parts = given.get(name, "").split(",")[: TERMS + 1]
    return [part if _TOKEN.fullmatch(part) else _row(part, rows) for part in parts if part]


def _row(text: str, rows: int) -> int:
    if not _ROW.fullmatch(text) or int(text) >= rows:
        raise Refusal(404, f"there is no row {text[:20]!r}: they are numbered 0 to {rows - 1}")
    return int(text)
