"""Tables: text with one picture per line."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from ._shared import filled, open_binary, square
from .pictures import InputError, Pictures

__all__ = ["read_csv"]

LABEL_COLUMNS = frozenset({"label", "labels", "class", "target"})
_LINES = 2048  # lines of a table parsed at a time
_INTEGERS = re.compile(r"[0-9+\-,;\t ]*")


def read_csv(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Pictures:
    r"""Read a table with one picture per line, or several, as Kaggle publishes MNIST.

    With a header, a column called ``label``, ``labels``, ``class`` or ``target`` is kept apart as
    the labels. Without one, every column is data, except in MNIST's label-first form: whole
    numbers 0 to 255 throughout, and one column more than a square number of at least 64. Columns
    may be separated by commas, semicolons or tabs.

    Several tables are put below one another (``["train.csv", "test.csv"]``). They must have the
    same columns, but for the labels: where some tables have labels and others have none, the rows
    of the others get the label −1, or "" where labels are strings.

    Parameters
    ----------
    path : path-like, or a sequence of them
        The table, packed with gzip or not.

    Returns
    -------
    Pictures
        ``matrix`` holds the smallest integer type that fits, or float64 if any number has a point
        or an exponent; a square number of columns folds to a square picture.

    Raises
    ------
    InputError
        When the table is empty, ragged, or has a cell that is no number; the line is named. When a
        table has other columns than the first, or has −1 or "" for a label itself while another
        has no labels; the table is named.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from nmfcore.images import read_csv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "train.csv"
    ...     _ = file.write_text("label,pixel0,pixel1,pixel2,pixel3\n7,0,1,2,255\n")
    ...     table = read_csv(file)
    >>> table.labels.tolist(), table.matrix.dtype.name, table.shape
    ([7], 'uint8', (2, 2))
    """
    if isinstance(path, str | os.PathLike):
        return _read_csv(Path(path))[0]
    paths = [Path(one) for one in path]
    if not paths:
        raise InputError("no table was given: name at least one file")
    return _below_one_another(paths)


def _read_csv(path: Path) -> tuple[Pictures, list[str] | None]:
    """Return a table and the names of its columns, labels aside; None without a header."""
    try:
        with _open_text(path) as file:
            return _read_table(path, file)
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not a text table in UTF-8: save it again as CSV UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"'{path}' is damaged: {error}") from error


def _below_one_another(paths: Sequence[Path]) -> Pictures:
    tables: list[Pictures] = []
    names: list[str] | None = None
    for path in paths:
        table, columns = _read_csv(path)
        first = tables[0].matrix.shape[1] if tables else table.matrix.shape[1]
        if table.matrix.shape[1] != first:
            raise InputError(
                f"'{path}' has {table.matrix.shape[1]} columns (labels aside), but '{paths[0]}' has {first}: "
                "tables that are read together need the same columns"
            )
        if names and columns and names != columns:
            one, other = next(pair for pair in zip(columns, names, strict=True) if pair[0] != pair[1])
            raise InputError(
                f"'{path}' has a column '{one}' where '{paths[0]}' has '{other}': "
                "tables that are read together need the same columns in the same order"
            )
        names = names or columns
        tables.append(table)
    return Pictures(
        np.concatenate([table.matrix for table in tables]),
        tables[0].shape,
        None,
        _joined_labels(tables),
        " + ".join(map(str, paths)),
    )


def _joined_labels(tables: Sequence[Pictures]) -> np.ndarray | None:
    """Return the labels of all rows, with a mark for those of tables without."""
    given = [table.labels for table in tables if table.labels is not None]
    if not given:
        return None
    numbers = all(labels.dtype.kind == "i" for labels in given)
    unlabelled = -1 if numbers else ""
    joined = []
    for table in tables:
        if table.labels is None:
            joined.append(np.full(len(table.matrix), unlabelled))
            continue
        if len(given) < len(tables) and (table.labels == unlabelled).any():
            raise InputError(
                f"'{table.source}' has the label '{unlabelled}', which would stand for no label, and another table "
                "has no labels: read them one by one, or write other labels"
            )
        joined.append(table.labels if numbers else table.labels.astype(str))
    return np.concatenate(joined)


def _read_table(path: Path, file: TextIO) -> tuple[Pictures, list[str] | None]:
    groups = _lines(file)
    group = next(groups, [])
    if not group:
        raise InputError(f"'{path}' is empty: expected one picture per line")
    delimiter = max(",;\t", key=group[0][1].count)
    first = _cells(group[0][1], delimiter)
    columns = len(first)
    label_column = None
    header: list[str] | None = None
    if not all(map(_is_number, first)):  # a header
        names = [name.lower() for name in first]
        if names[0] == "":
            raise InputError(
                f"the first column of '{path}' has no name, so it looks like a row number: "
                "write the table without it "
                "(in pandas: to_csv(..., index=False))"
            )
        label_column = next((index for index, name in enumerate(names) if name in LABEL_COLUMNS), None)
        header = [name for index, name in enumerate(first) if index != label_column]
        group = group[1:]

    blocks: list[np.ndarray] = []
    labels: list[str] = []
    for lines in itertools.chain([group], groups):
        if not lines:
            continue
        if label_column is not None:
            lines, some = _split_labels(path, lines, label_column, columns, delimiter)
            labels += some
        blocks.append(_numbers(path, lines, columns - (label_column is not None), delimiter))
    if not blocks:
        raise InputError(f"'{path}' holds a header and nothing else: expected one picture per line")
    matrix = np.concatenate(blocks)
    kept: np.ndarray | None = None
    if label_column is not None:
        kept = np.array([int(label) for label in labels]) if all(map(_is_integer, labels)) else np.array(labels)
    elif matrix.dtype == np.uint8 and not square(columns) and columns - 1 >= 64 and square(columns - 1):
        kept, matrix = matrix[:, 0].astype(np.int64), np.ascontiguousarray(matrix[:, 1:])
    return Pictures(filled(matrix, path), square(matrix.shape[1]), None, kept, str(path)), header


def _open_text(path: Path) -> TextIO:
    return io.TextIOWrapper(open_binary(path), encoding="utf-8-sig", newline="")


def _lines(file: TextIO) -> Iterator[list[tuple[int, str]]]:
    """Yield groups of (line number, text), blank lines left out."""
    numbered = ((number, line.strip()) for number, line in enumerate(file, 1))
    filled = (pair for pair in numbered if pair[1])
    while group := list(itertools.islice(filled, _LINES)):
        yield group


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None


def _split_labels(
    path: Path, lines: list[tuple[int, str]], column: int, columns: int, delimiter: str
) -> tuple[list[tuple[int, str]], list[str]]:
    if columns == 1:
        raise InputError(f"'{path}' has a label column and no other: expected numbers beside it")
    rest, labels = [], []
    for number, line in lines:
        if column == 0 and not line.startswith('"'):  # Kaggle's form, and by far the fastest to take apart
            label, _, others = line.partition(delimiter)
        else:
            cells = _cells(line, delimiter)
            if len(cells) != columns:
                raise InputError(_ragged(path, number, columns, len(cells)))
            label = cells.pop(column)
            others = delimiter.join(cells)
        labels.append(label.strip())
        rest.append((number, others))
    return rest, labels


def _ragged(path: Path, number: int, expected: int, got: int) -> str:
    return f"line {number} of '{path}' has {got} columns, expected {expected} as in the first line: repair the line"


def _numbers(path: Path, lines: list[tuple[int, str]], columns: int, delimiter: str) -> np.ndarray:
    """Parse lines to a block of the smallest integer type that holds them, or of float64."""
    texts = [text.replace('"', "") for _, text in lines]
    for dtype in (np.int64, np.float64):
        if dtype is np.int64 and any(not _INTEGERS.fullmatch(text) for text in texts):
            continue
        try:
            block = np.loadtxt(texts, dtype=dtype, delimiter=delimiter, comments=None, ndmin=2)
        except (ValueError, OverflowError):
            continue
        if block.shape == (len(texts), columns):
            return _narrow(block) if dtype is np.int64 else block
    for number, text in zip((number for number, _ in lines), texts, strict=True):
        cells = text.split(delimiter)
        if len(cells) != columns:
            raise InputError(_ragged(path, number, columns, len(cells)))
        for position, cell in enumerate(cells, 1):
            if not _is_number(cell):
                what = "is empty" if not cell.strip() else f"is {cell.strip()!r}"
                raise InputError(
                    f"line {number} of '{path}': number {position} {what}, expected a number: fill in or drop the line"
                )
    raise InputError(f"lines {lines[0][0]} to {lines[-1][0]} of '{path}' cannot be read as numbers")


def _narrow(block: np.ndarray) -> np.ndarray:
    low, high = int(block.min()), int(block.max())
    for dtype in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return block.astype(dtype)
    return block
