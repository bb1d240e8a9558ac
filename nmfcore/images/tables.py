"""Tables: text with one picture per line."""

from __future__ import annotations

import dataclasses
import io
import itertools
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from .._files import faults, shortened
from ._shared import filled, open_binary, sentences, square
from .pictures import InputError, Pictures

__all__ = ["read_csv"]

logger = logging.getLogger("nmfcore")

LABEL_COLUMNS = frozenset({"label", "labels", "class", "target"})
_ROW_NAMES = "row names"  # what the column is called that has no name in R's tables
LIST_LABELS = LABEL_COLUMNS | {"emotion"}  # FER-2013
IDENTIFIERS = frozenset(
    {"id", "ids", "idx", "index", "imageid", "image_id", "image id", "rowid", "row_id", "row id", "sample_id", "uuid"}
    | {"file", "filename", "file_name", "file name", "image_name", "name", "path", _ROW_NAMES}
)
# Names of columns that count, identify or date the rows: customer_id, PassengerId, ORDER-ID, timestamp.
_IDENTIFYING = re.compile(r"(?i:.*[_ -](id|ids|uuid|guid)|date|datetime|date_time|timestamp)|.*[a-z]I[dD]")
UNNAMED = re.compile(r"|unnamed: ?0(_level_\d+)?")
SEPARATORS = (",", ";", "\t", "|", None)  # None: blanks
_LINES = 2048  # lines of a table parsed at a time
_CHARACTERS = 1 << 26  # of a line, and of those parsed at a time
_TRIED = 6  # lines that the separator is chosen by
_COUNTED = 10  # rows from which a column that counts them is said
_MANY = 8  # numbers of a first line that may be a header by chance, if they are fewer
_MANGLED = 4  # repeated names from which a header of numbers is taken for pandas'
_QUOTE = re.compile(r'(?:^|[,;\t|])[ \t]*"')  # at the beginning of a cell; others are text, like inches
_WORD = re.compile(r'"([^"]*)"|\S+')  # of a line whose cells are separated by blanks
_INTEGERS = re.compile(r"[0-9+\-,;|\t ]*")
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?")
_LIKE_NUMBERS = re.compile(r"[-+0-9.,eE]*")
_LIST = re.compile(r"[\[({]?\s*[-+0-9.eE]+(?:[\s,;]+[-+0-9.eE]+)+\s*[\])}]?")

Line = tuple[int, str]  # its number in the file, and its text


def read_csv(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Pictures:
    r"""Read a table with one picture per line, or several, as Kaggle publishes MNIST.

    Columns may be separated by commas, semicolons, tabs, vertical bars or blanks, and cells may
    stand in quotes. Where commas do not separate columns they may be decimal commas.

    With a header, a column called ``label``, ``labels``, ``class`` or ``target`` is kept apart as
    the labels, and so is one called ``y`` where none of them is there, nor one called ``x``. A column
    called ``id``, ``sample_id``, ``index``, ``filename``, ``date`` or the like is no data either:
    texts in it become names, numbers are left out, and a warning says so. A first line of the numbers
    0, 1, 2, … is a header that pandas wrote, as is one of 1, 2, 3, … if it is long, and a warning says
    so, too; one whose numbers go up in other equal steps is read as a sample, with a warning. Without a header, every
    column is data, except in MNIST's label-first form: whole numbers 0 to 255 throughout, and one
    column more than a square number of at least 64.

    Where one column holds lists of numbers, as ``pixels`` in FER-2013, each list is a row; the
    labels are kept, and a warning names the columns that are left out.

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
        When the table is empty, ragged, or has a cell that is no number; line and column are named.
        When a table has other columns than the first, or has −1 or "" for a label itself while
        another has no labels; the table is named.

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
        with sentences(path), faults(but=(InputError, UnicodeDecodeError)), _open_text(path) as file:
            return _Table(path, file).read()
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not a text table in UTF-8: save it again as CSV UTF-8") from error


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


class _Form(NamedTuple):
    """How the columns of a table are separated."""

    separator: str | None

    def cells(self, text: str) -> list[str]:
        """Return the cells of a line, without quotes and blanks around them; quotes inside a cell are text."""
        if self.separator is None:
            return [found[1] if found[1] is not None else found[0] for found in _WORD.finditer(text)]
        if '"' not in text:
            return [cell.strip(" \t'") for cell in text.split(self.separator)]
        cells, place = [], 0
        while place >= 0:
            begin = place
            while text[begin : begin + 1] in (" ", "\t") and text[begin] != self.separator:
                begin += 1
            inner = ""
            if text[begin : begin + 1] == '"':
                closed = _closing(text, begin + 1)
                inner = text[begin + 1 : closed - 1 if closed > 0 else None].replace('""', '"')
                place = closed if closed > 0 else len(text)
            end = text.find(self.separator, place)
            rest = text[place:] if end < 0 else text[place:end]
            cells.append(f"{inner}{rest}".strip(" \t'"))
            place = end + len(self.separator) if end >= 0 else -1
        return cells

    def join(self, cells: Sequence[str]) -> str:
        """Return cells as a line, which `cells` takes apart again if none of them holds a separator."""
        return (" " if self.separator is None else self.separator).join(cells)

    def is_number(self, cell: str) -> bool:
        """Whether a cell holds a number."""
        return _is_number(cell) or (self.separator != "," and _COMMA.fullmatch(cell) is not None)


def _form_of(texts: Sequence[str]) -> _Form:
    """Choose the separator that cuts the first lines into equally many columns, of numbers as far as possible."""
    best: tuple[float, int] = (-1.0, 0)
    chosen: str | None = max(",;\t|", key=texts[0].count)
    if not any(separator in texts[0] for separator in ",;\t|") and " " in texts[0]:
        chosen = None
    for order, separator in enumerate(SEPARATORS):
        form = _Form(separator)
        rows = [form.cells(text) for text in texts]
        width = len(rows[0])
        if width < 2 or any(len(row) != width for row in rows):
            continue
        body = rows[1:] or rows
        commas = sum("," in cell for row in rows for cell in row)
        if separator is None and 0 < commas <= len(rows):  # one in a line separates, it is no decimal comma
            continue
        share = sum(form.is_number(cell) for row in body for cell in row) / (width * len(body))
        if (share, -order) > best:
            best, chosen = (share, -order), separator
    return _Form(chosen)


@dataclasses.dataclass
class _Column:
    """A column that is no data."""

    number: int
    cells: list[str] = dataclasses.field(default_factory=list)


class _Table:
    """A table that is being read."""

    def __init__(self, path: Path, file: TextIO):
        self.path = path
        self.groups: Iterator[list[Line]] = _lines(path, file)
        self.end = ""
        self.header: list[str] | None = None
        self.points = self.commas = self.odd_commas = False

    def read(self) -> tuple[Pictures, list[str] | None]:
        """Return the table and the names of its columns, labels aside."""
        group = next(self.groups, [])
        comment = ""
        while group and group[0][1].startswith("#"):  # numpy.savetxt writes its header so
            comment, group = group[0][1].lstrip("# "), group[1:]
        stated = re.fullmatch(r"sep=([,;|]?)", group[0][1]) if group else None  # for Excel; a tab has been cut off
        if stated is not None:
            group = group[1:]
        if not group:
            raise InputError(f"'{self.path}' is empty: expected one picture per line")
        ends = {text[-1] for _, text in group[1:] or group}
        end = ends.pop() if len(ends) == 1 else ""
        top = group[0][1]
        if end and end in ",;|" and (top.endswith(end) or top.count(end) + 1 == group[1][1].count(end)):
            self.end = end
            group = self._without_end(group)
            self.groups = map(self._without_end, self.groups)
        self.form = _form_of([text for _, text in group[:_TRIED] if text.strip()])
        if self.form.separator != "\t":
            group = _without_blank(group)
            self.groups = map(_without_blank, self.groups)
        first = self.form.cells(group[0][1])
        if self._has_row_names(first, group[1:_TRIED]):
            first = [_ROW_NAMES, *first]
        self.columns = len(first)
        second = self.form.cells(group[1][1]) if len(group) > 1 else None
        if comment and len(self.form.cells(comment)) == self.columns:
            self.header = self.form.cells(comment)
        elif self._is_header(group[0][0], first, second):
            self.header, group = first, group[1:]
            if not group and next(self.groups, None) is None:
                raise InputError(f"'{self.path}' holds a header and nothing else: expected one picture per line")
        if group:
            sample = self.form.cells(group[0][1])
            lists = [number for number, cell in enumerate(sample) if _LIST.fullmatch(cell) and " " in cell.strip()]
            lists = lists or [number for number, cell in enumerate(sample) if _is_list(cell)]
            if len(lists) == 1 and len(sample) == self.columns:
                return self._read_lists(group, lists[0])
        return self._read_numbers(group)

    def _without_end(self, group: list[Line]) -> list[Line]:
        """Take off the separator that ends every line, but for the header: there is no column behind it."""
        return [(number, text.removesuffix(self.end)) for number, text in group]

    # --- which columns there are ------------------------------------------------------------------

    def _has_row_names(self, first: list[str], lines: list[Line]) -> bool:
        """Whether lines begin with names or numbers of rows, for which the header has no name, as R writes them."""
        if not lines or any(map(self.form.is_number, first)):
            return False
        rows = [self.form.cells(text) for _, text in lines]
        if any(len(row) != len(first) + 1 for row in rows):
            return False
        names = [row[0] for row in rows]
        counts = ([str(begin + place) for place in range(len(names))] for begin in (0, 1))
        return (len(names) > 2 and names in counts) or not any(map(self.form.is_number, names))

    def _is_header(self, number: int, first: list[str], second: list[str] | None) -> bool:
        numbers = [self.form.is_number(cell) for cell in first]
        if all(numbers):
            return second is not None and self._is_header_of_numbers(first, second)
        names = [cell.lower() for cell in first]
        if UNNAMED.fullmatch(names[0]):
            raise InputError(
                f"the first column of '{self.path}' has no name, so it looks like a row number: write the table "
                "without it (in pandas: to_csv(..., index=False))"
            )
        if all(map(_LIKE_NUMBERS.fullmatch, first)):  # or empty: one that cannot be read is reported as such
            return False
        known = any(name.lower() in LIST_LABELS or _identifies(name) for name in first)
        if second is not None and len(second) == len(first) and any(numbers) and not known:
            counted = [cell for cell, isnumber in zip(first, numbers, strict=True) if isnumber]
            if [self.form.is_number(cell) for cell in second] == numbers and not _counts(counted):
                column = numbers.index(False)
                raise InputError(
                    f"line {number} of '{self._name()}': column {column + 1} is '{shortened(first[column], 30)}', and "
                    "the next line has a text there, too, beside numbers: drop the column, or add a header that calls "
                    "it 'label'"
                )
        return True

    def _is_header_of_numbers(self, first: list[str], second: list[str]) -> bool:
        """Whether a first line of numbers is what pandas writes where columns have no names."""
        begin = 1 if first[0] == "1" else 0
        continues = second == [str(begin + len(first) + place) for place in range(len(first))]
        if not continues and _counts(first) and len(first) > 2:
            warnings.warn(
                f"the first line of '{self.path}' counts the columns ({begin}, {begin + 1}, {begin + 2}, …): it is "
                "taken for a header. If it is a sample, add a header above it",
                UserWarning,
                stacklevel=7,
            )
            return True
        if _is_mangled(first) and all(map(_is_integer, second)):
            warnings.warn(
                f"the first line of '{self.path}' numbers repeated values (0, 0.1, 0.2, …), as pandas does with a "
                "header: it is taken for one. It was a sample if the table was read without header=None; then write "
                "it once more",
                UserWarning,
                stacklevel=7,
            )
            return True
        stands_out = len(first) > 2 and _all_above(first, second)  # years above small numbers
        long = len(first) >= _MANY and not _in_equal_steps(second)
        if (stands_out or long) and _in_equal_steps(first):
            warnings.warn(
                f"the first line of '{self.path}' goes up in equal steps ({shortened(first[0], 20)}, "
                f"{shortened(first[1], 20)}, …), and is read as a sample like the others: if it is a header, name the "
                "columns with letters",
                UserWarning,
                stacklevel=7,
            )
        return False

    def _named(self, names: frozenset[str]) -> list[int]:
        lower = [name.lower() for name in self.header or ()]
        found = [number for number, name in enumerate(lower) if name in names]
        if not found and names >= LABEL_COLUMNS and "y" in lower and "x" not in lower:  # else it is a coordinate
            return [lower.index("y")]
        return found

    def _identifiers(self) -> list[int]:
        return [number for number, name in enumerate(self.header or ()) if _identifies(name)]

    # --- the two kinds of tables ------------------------------------------------------------------

    def _read_numbers(self, group: list[Line]) -> tuple[Pictures, list[str] | None]:
        """Read a table with a number in each cell."""
        labels = self._named(LABEL_COLUMNS)
        apart = [_Column(number) for number in sorted({*labels, *self._identifiers()})]
        if len(apart) == self.columns:
            what = "a label column" if labels else "an identifier"
            raise InputError(f"'{self.path}' has {what} and no other column: expected numbers beside it")
        taken = {column.number for column in apart}
        data = [number for number in range(self.columns) if number not in taken]
        blocks = [
            self._numbers(self._without(lines, apart), data) for lines in itertools.chain([group], self.groups) if lines
        ]
        if not blocks:
            raise InputError(f"'{self.path}' holds a header and nothing else: expected one picture per line")
        matrix = np.concatenate(blocks)
        del blocks
        kept, names = self._apart(apart, labels)
        if kept is None and matrix.dtype == np.uint8 and not square(self.columns) and _is_mnist(self.columns):
            kept, matrix = matrix[:, 0].astype(np.int64), np.ascontiguousarray(matrix[:, 1:])
        self._say_doubts(matrix)
        header = None if self.header is None else [self.header[number] for number in data]
        source = str(self.path)
        return Pictures(filled(matrix, self.path), square(matrix.shape[1]), names, kept, source), header

    def _read_lists(self, group: list[Line], pixels: int) -> tuple[Pictures, list[str] | None]:
        """Read a table in which one column holds a list of numbers."""
        labels = self._named(LIST_LABELS)[:1]
        named = self._identifiers()[:1]
        rest = [number for number in range(self.columns) if number not in {pixels, *labels}]
        apart = [_Column(number) for number in (*labels, *named)]
        blocks, width, form = [], 0, self.form
        for lines in itertools.chain([group], self.groups):
            texts: list[Line] = []
            for number, text in lines:
                cells = form.cells(text)
                if len(cells) != self.columns:
                    raise InputError(self._ragged(number, self.columns, len(cells)))
                for column in apart:
                    column.cells.append(cells[column.number])
                texts.append((number, " ".join(re.split(r"[\s,;]+", cells[pixels].strip("[](){} ")))))
            if texts:
                width = width or len(texts[0][1].split())
                self.form = _Form(None)
                blocks.append(self._numbers(texts, [pixels] * width))
                self.form = form
        kept, names = self._apart([column for column in apart if column.number in labels], labels)
        for column in apart[len(labels) :]:
            if not all(map(_is_number, column.cells)):
                names = tuple(column.cells)
                rest.remove(column.number)
        if rest:
            listed = ", ".join(self._title(number) for number in rest[:4]) + ", …" * (len(rest) > 4)
            warnings.warn(
                f"each row of '{self.path}' is the list of numbers in {self._title(pixels)}; left out: {listed}",
                UserWarning,
                stacklevel=5,
            )
        matrix = np.concatenate(blocks)
        header = None if self.header is None else [self.header[pixels]]
        return Pictures(filled(matrix, self.path), square(matrix.shape[1]), names, kept, str(self.path)), header

    def _apart(self, apart: list[_Column], labels: list[int]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
        """Return the labels and the names; say which other columns are left out."""
        kept: np.ndarray | None = None
        names: tuple[str, ...] | None = None
        left_out = []
        for column in apart:
            if labels and column.number == labels[0]:
                whole = all(map(_is_integer, column.cells))
                kept = np.array([int(cell) for cell in column.cells]) if whole else np.array(column.cells)
            elif column.number not in labels and names is None and not all(map(_is_number, column.cells)):
                names = tuple(column.cells)
            else:
                left_out.append(self._title(column.number))
        if left_out:
            warnings.warn(
                f"left out of '{self.path}', as no data: {', '.join(left_out[:4])}. If it is data, give the column "
                "another name",
                UserWarning,
                stacklevel=6,
            )
        return kept, names

    def _without(self, lines: list[Line], apart: list[_Column]) -> list[Line]:
        """Return lines without some columns, whose cells are kept in `apart`."""
        if not apart:
            return lines
        rest = []
        for number, text in lines:
            if len(apart) == 1 and apart[0].number == 0 and self.form.separator and not text.startswith('"'):
                cell, _, others = text.partition(self.form.separator)  # Kaggle's form, and by far the fastest
                apart[0].cells.append(cell.strip(" \t'"))
            else:
                cells = self.form.cells(text)
                if len(cells) != self.columns:
                    raise InputError(self._ragged(number, self.columns, len(cells)))
                for column in apart:
                    column.cells.append(cells[column.number])
                taken = {column.number for column in apart}
                kept = [cell for place, cell in enumerate(cells) if place not in taken]
                if self.form.separator is not None:
                    for place, cell in enumerate(cells):
                        if place not in taken and self.form.separator in cell:
                            raise InputError(self._no_number(number, [cell], [place], 0))
                others = self.form.join(kept)
            rest.append((number, others))
        return rest

    # --- numbers ----------------------------------------------------------------------------------

    def _numbers(self, lines: list[Line], data: list[int]) -> np.ndarray:
        """Parse lines to a block of the smallest integer type that holds them, or of float64."""
        texts = [self._unquoted(number, text, data) for number, text in lines]
        separator = self.form.separator
        if separator != ",":
            texts = [self._with_points(number, text, data) for (number, _), text in zip(lines, texts, strict=True)]
        for dtype in (np.int64, np.float64):
            if dtype is np.int64 and any(not _INTEGERS.fullmatch(text) for text in texts):
                continue
            try:
                block = np.loadtxt(texts, dtype=dtype, delimiter=separator, comments=None, ndmin=2)
            except (ValueError, OverflowError):
                continue
            if block.shape == (len(texts), len(data)):
                return _narrow(block) if dtype is np.int64 else block
        for (number, _), text in zip(lines, texts, strict=True):
            cells = self.form.cells(text)
            if len(cells) != len(data):
                raise InputError(self._ragged(number, len(data), len(cells)))
            for place, cell in enumerate(cells):
                if not _is_number(cell):
                    column = [self.form.cells(other)[place : place + 1] for other in texts[:_TRIED]]
                    often = sum(not each or not _is_number(each[0]) for each in column) > len(column) / 2
                    raise InputError(self._no_number(number, cells, data, place, often))
        raise InputError(f"lines {lines[0][0]} to {lines[-1][0]} of '{self._name()}' cannot be read as numbers")

    def _unquoted(self, number: int, text: str, data: list[int]) -> str:
        """Return a line without quotes; raise where they hold a separator."""
        if '"' not in text and "'" not in text:
            return text
        cells = self.form.cells(text)
        separator = self.form.separator
        for place, cell in enumerate(cells):
            if (separator or " ") in cell and place < len(data):
                raise InputError(self._no_number(number, cells, data, place))
        return self.form.join(cells)

    def _with_points(self, number: int, text: str, data: list[int]) -> str:
        """Return a line with decimal points for decimal commas."""
        self.points = self.points or "." in text
        if "," not in text:
            return text
        self.commas = True
        for place, cell in enumerate(self.form.cells(text)):
            if "," in cell and place < len(data):
                if not _COMMA.fullmatch(cell) or self.points:
                    raise InputError(self._no_number(number, self.form.cells(text), data, place))
                self.odd_commas = self.odd_commas or re.fullmatch(r"[+-]?[0-9]{1,3},[0-9]{3}", cell) is None
        return text.replace(",", ".")

    def _say_doubts(self, matrix: np.ndarray) -> None:
        """Warn of a column that counts the rows, and of commas that may separate thousands."""
        n, m = matrix.shape
        for column in (0, m - 1) if m > 1 and n >= _COUNTED else ():
            steps = np.arange(n) + matrix[0, column]
            if matrix[0, column] in (0, 1) and np.array_equal(matrix[:, column], steps):
                warnings.warn(
                    f"column {column + 1} of '{self.path}' counts the rows, and is read as data like the others: drop "
                    "it if it is a row number",
                    UserWarning,
                    stacklevel=6,
                )
        if self.commas and not self.odd_commas:
            warnings.warn(
                f"the commas of '{self.path}' are read as decimal commas (1,234 is a little more than 1): write the "
                "numbers without them if they separate thousands",
                UserWarning,
                stacklevel=6,
            )

    # --- sentences --------------------------------------------------------------------------------

    def _name(self) -> str:
        return shortened(self.path, 90)

    def _title(self, column: int) -> str:
        named = self.header is not None and column < len(self.header)
        return f"column {column + 1}" + (f" ('{shortened((self.header or [])[column], 24)}')" if named else "")

    def _ragged(self, number: int, expected: int, got: int) -> str:
        return (
            f"line {number} of '{self._name()}' has {got} columns, expected {expected} as in the first line: repair "
            "the line"
        )

    def _no_number(self, number: int, cells: list[str], data: list[int], place: int, often: bool = False) -> str:
        cell = cells[place]
        what = "is empty" if not cell else f"is '{shortened(cell, 30)}'"
        if not cell:
            advice = "fill in the cell, or drop the line"
        elif "," in cell:
            advice = "write numbers with decimal points, and without commas for thousands"
        elif often:
            advice = "drop the column, or call it 'label' if it says the class"
        else:
            advice = "correct the cell, or drop the line"
        column = data[place] if place < len(data) else place
        position = place + 1 if len(cells) > 1 else column + 1
        where = f" ({self._title(column)})" if self.header is not None or column + 1 != position else ""
        return f"line {number} of '{self._name()}': number {position} {what}, expected a number{where}: {advice}"


def _open_text(path: Path) -> TextIO:
    return io.TextIOWrapper(open_binary(path), encoding="utf-8-sig", newline="")


def _lines(path: Path, file: TextIO) -> Iterator[list[Line]]:
    """Yield groups of lines, blank ones left out; one whose quotes are not closed goes on in the next."""
    group: list[Line] = []
    size = number = 0
    while text := file.readline(_CHARACTERS):
        number += 1
        first = number
        opened = _opened(text)
        while opened >= 0 and len(text) < _CHARACTERS and (more := file.readline(_CHARACTERS)):
            number += 1
            text = f"{text.rstrip()} {more}"
            opened = _opened(text, opened)
            if number - first > _LINES:
                raise InputError(f"line {first} of '{path}' opens a quote that is not closed: repair the line")
        if len(text) >= _CHARACTERS:
            raise InputError(f"line {first} of '{path}' is longer than {_CHARACTERS:,} characters: this is no table")
        if "\0" in text:
            raise InputError(f"'{path}' is not a text table in UTF-8, line {first} holds a NUL: save it as CSV UTF-8")
        text = text.strip() or text.strip(" \r\n")  # tabs alone are a line of empty cells, if tabs separate them
        if text:
            group.append((first, text))
            size += len(text)
        if len(group) == _LINES or size > _CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _without_blank(group: list[Line]) -> list[Line]:
    """Leave out lines of blanks, which are lines of empty cells only where tabs separate cells."""
    return [line for line in group if line[1].strip()]


def _closing(text: str, place: int) -> int:
    """Return where the cell ends whose quote was opened before `place`, behind its last quote; -1: not in this line."""
    while (found := text.find('"', place)) >= 0:
        if text[found + 1 : found + 2] != '"':  # two quotes stand for one
            return found + 1
        place = found + 2
    return -1


def _opened(text: str, place: int = 0) -> int:
    """Return where, from `place` on, a cell begins whose quote is not closed; -1: nowhere."""
    while '"' in text and (found := _QUOTE.search(text, place)):
        place = _closing(text, found.end())
        if place < 0:
            return found.start()
    return -1


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text.strip().isascii()  # Python's numbers may hold "_", and digits of any script


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None


def _is_list(cell: str) -> bool:
    """Whether a cell holds several numbers; decimal commas and those of thousands make no list."""
    if re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", cell):
        return False
    return _LIST.fullmatch(cell) is not None and (cell[0] in "[({" or len(re.split(r"[\s,;]+", cell)) > 2)


def _is_mnist(columns: int) -> bool:
    return columns - 1 >= 64 and square(columns - 1) is not None


def _identifies(name: str) -> bool:
    """Whether a column of this name says which row it is, or when it was made."""
    return name.lower() in IDENTIFIERS or _IDENTIFYING.fullmatch(name) is not None


def _counts(cells: Sequence[str]) -> bool:
    """Whether cells count from 0 on, or from 1 on if they are many."""
    begins = (0, 1) if len(cells) >= _MANY else (0,)
    return any(list(cells) == [str(begin + place) for place in range(len(cells))] for begin in begins)


def _in_equal_steps(cells: Sequence[str]) -> bool:
    """Whether numbers go up in equal steps, as wavelengths and years do."""
    try:
        numbers = np.array([float(cell.replace(",", ".")) for cell in cells])
    except ValueError:
        return False
    steps = np.diff(numbers)
    return bool(steps.min(initial=np.inf) > 0 and np.ptp(steps) <= 1e-6 * np.abs(numbers).max())


def _all_above(cells: Sequence[str], others: Sequence[str]) -> bool:
    """Whether all numbers of one line are larger than all of another."""
    numbers, below = ([float(cell.replace(",", ".")) for cell in line if _is_number(cell)] for line in (cells, others))
    return bool(numbers and below) and min(numbers) > max(below)


def _is_mangled(cells: Sequence[str]) -> bool:
    """Return whether repeated numbers end in .1, .2, …, which pandas appends to names that occur twice."""
    seen: dict[str, int] = {}
    mangled = 0
    for cell in cells:
        base, point, number = cell.partition(".")
        if point and base in seen and number == str(seen[base]):
            mangled += 1
            seen[base] += 1
        elif cell in seen or not _is_integer(cell):
            return False
        else:
            seen[cell] = 1
    return mangled >= _MANGLED


def _narrow(block: np.ndarray) -> np.ndarray:
    low, high = int(block.min()), int(block.max())
    for dtype in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return block.astype(dtype)
    return block
