"""Tables as spreadsheets, pandas, R and Kaggle write them: read rightly, or refused with line and column."""

import gzip
import io
import re

import numpy as np
import pytest

from nmfcore.images import InputError, read_csv, read_source, tables

X = np.random.default_rng(0).integers(0, 256, (12, 9), dtype=np.uint8)


def written(rows, separator=",", header=None):
    lines = [] if header is None else [separator.join(map(str, header))]
    return "\n".join([*lines, *(separator.join(map(str, row)) for row in rows)]) + "\n"


def read(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return read_csv(path)


# --- headers --------------------------------------------------------------------------------------


def test_a_header_of_numbers_is_one(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X)
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.warns(UserWarning, match=r"counts the columns .* taken for a header"):
        np.testing.assert_array_equal(read_csv(tmp_path / "t.csv").matrix, X)
    frame.insert(0, "label", range(5, 17))
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = read_csv(tmp_path / "t.csv")
    np.testing.assert_array_equal(table.matrix, X)
    assert table.labels.tolist() == list(range(5, 17))


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("label", [[], ["label"]])
def test_a_header_that_counts_from_one(tmp_path, separator, label):
    rows = np.column_stack([np.arange(12), X]) if label else X
    text = written(rows, separator, [*label, *range(1, 10)])
    if label:
        table = read(tmp_path, text)
        assert table.labels.tolist() == list(range(12))
    else:
        with pytest.warns(UserWarning, match=r"counts the columns \(1, 2, 3, …\): it is taken for a header"):
            table = read(tmp_path, text)
    np.testing.assert_array_equal(table.matrix, X)


@pytest.mark.parametrize("first", [range(400, 490, 10), [400.5 + place for place in range(9)], range(2000, 2009)])
def test_a_first_line_in_equal_steps_is_a_sample_and_said(tmp_path, first):
    with pytest.warns(UserWarning, match="goes up in equal steps .* and is read as a sample like the others"):
        table = read(tmp_path, written([first, *X / 8]))
    np.testing.assert_allclose(table.matrix, [list(first), *X / 8])


def test_few_years_above_small_numbers_are_said(tmp_path):
    with pytest.warns(UserWarning, match="goes up in equal steps .* and is read as a sample like the others"):
        assert read(tmp_path, "2019,2020,2021\n1,2,3\n4,5,6\n").matrix.tolist()[1:] == [[1, 2, 3], [4, 5, 6]]


def test_rows_in_equal_steps_are_samples(tmp_path):
    rows = np.arange(27).reshape(3, 9) + 1
    np.testing.assert_array_equal(read(tmp_path, written(rows)).matrix, rows)
    np.testing.assert_array_equal(read(tmp_path, written(rows * 10)).matrix, rows * 10)


def test_a_column_called_y_is_the_label_unless_there_is_an_x(tmp_path):
    rows = np.column_stack([np.arange(12)[::-1], X])
    table = read(tmp_path, written(rows, header=["y", *(f"p{i}" for i in range(9))]))
    assert table.labels.tolist() == list(range(12))[::-1]
    np.testing.assert_array_equal(table.matrix, X)
    for others in (["x", *(f"p{i}" for i in range(8))], ["label", *(f"p{i}" for i in range(8))]):
        table = read(tmp_path, written(rows, header=["y", *others]))
        assert table.matrix.shape[1] == 10 - ("label" in others)


@pytest.mark.parametrize("zero", [0xFF10, 0x660, 0x966])
def test_digits_of_other_scripts_are_named(tmp_path, zero):
    text = written(X[1:]) + written(X[:1]).translate({48 + digit: zero + digit for digit in range(10)})
    with pytest.raises(InputError, match=rf"line 12 of .*: number 1 is '{chr(zero)}?.*', expected a number"):
        read(tmp_path, text)


def test_a_sample_that_pandas_took_for_a_header(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = X % 4  # repeated values, which pandas numbers
    again = pandas.read_csv(io.StringIO(written(rows)))
    again.to_csv(tmp_path / "t.csv", index=False)
    with pytest.warns(UserWarning, match="numbers repeated values"):
        table = read_csv(tmp_path / "t.csv")
    assert table.matrix.dtype == np.uint8
    np.testing.assert_array_equal(table.matrix, rows[1:])


def test_samples_that_look_like_headers_stay_samples(tmp_path):
    for first in ([0.0, 0.5, 1.0], [0, 0.1, 0.2], [1, 2, 3], [0, 1]):
        rows = [first, [5, 6.5, 7][: len(first)]]
        np.testing.assert_array_equal(read(tmp_path, written(rows)).matrix, rows)


@pytest.mark.parametrize(
    "name", ["id", "Id", "index", "ImageId", "customer_id", "PassengerId", "order ID", "Date", "timestamp", "x-uuid"]
)
def test_numbers_that_identify_rows_are_no_data(tmp_path, name):
    rows = np.column_stack([np.arange(100, 112), X])
    with pytest.warns(UserWarning, match=rf"as no data: column 1 \('{name}'\)"):
        table = read(tmp_path, written(rows, header=[name, *(f"p{i}" for i in range(9))]))
    np.testing.assert_array_equal(table.matrix, X)
    assert table.shape == (3, 3)


def test_texts_that_identify_rows_are_names(tmp_path):
    rows = [[f"{number}.jpg", number % 3, *row] for number, row in enumerate(X)]
    table = read(tmp_path, written(rows, header=["filename", "label", *range(9)]))
    np.testing.assert_array_equal(table.matrix, X)
    assert table.names[3] == "3.jpg" and table.labels.tolist()[:4] == [0, 1, 2, 0]


@pytest.mark.parametrize("header", [None, ["row", *"abcdefghi"]])
def test_a_column_that_counts_the_rows_is_said(tmp_path, header):
    with pytest.warns(UserWarning, match="column 1 .* counts the rows"):
        read(tmp_path, written(np.column_stack([np.arange(12), X]), header=header))


def test_an_index_of_pandas_is_refused(tmp_path):
    for first in ("", "Unnamed: 0"):
        with pytest.raises(InputError, match="looks like a row number"):
            read(tmp_path, written(np.column_stack([np.arange(12), X]), header=[first, *range(9)]))


@pytest.mark.parametrize(("separator", "quote"), [(" ", '"'), (" ", ""), ("\t", ""), (",", '"')])
def test_row_names_of_r_are_no_data(tmp_path, separator, quote):
    header = [f"{quote}{name}{quote}" for name in "abcdefghi"]
    for names in ([f"gene{row}" for row in range(12)], range(1, 13)):
        rows = [[f"{quote}{name}{quote}", *row] for name, row in zip(names, X, strict=True)]
        if isinstance(names, range):
            with pytest.warns(UserWarning, match=r"left out of .* column 1 \('row names'\)"):
                table = read(tmp_path, written(rows, separator, header))
        else:
            table = read(tmp_path, written(rows, separator, header))
            assert table.names == tuple(names)
        np.testing.assert_array_equal(table.matrix, X)
    with pytest.raises(InputError, match=r"line 2 .* has 10 columns, expected 9"):  # any number may be data
        read(tmp_path, written(np.column_stack([X[:, :1], X]), separator, header))


def test_names_with_blanks_between_blanks(tmp_path):
    table = read(tmp_path, '"my label" "name"\n1 "a b"\n2 "c"\n')
    assert table.names == ("a b", "c") and table.matrix.tolist() == [[1], [2]]


def test_a_second_column_of_labels_is_left_out_and_said(tmp_path):
    rows = np.column_stack([X[:, :2], X])
    with pytest.warns(UserWarning, match=r"left out of .* column 2 \('class'\)"):
        table = read(tmp_path, written(rows, header=["label", "class", *"abcdefghi"]))
    np.testing.assert_array_equal(table.matrix, X)
    np.testing.assert_array_equal(table.labels, X[:, 0])


# --- separators and decimals ----------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", ", ", "   ", " ; "])
@pytest.mark.parametrize("header", [None, list("abcdefghi")])
def test_separators(tmp_path, separator, header):
    np.testing.assert_array_equal(read(tmp_path, written(X, separator, header)).matrix, X)


@pytest.mark.parametrize("separator", [",", ";", "|"])
@pytest.mark.parametrize("header", [None, list("abcdefghi"), [*"abcdefghi", ""]])
def test_a_separator_that_ends_every_line(tmp_path, separator, header, monkeypatch):
    monkeypatch.setattr(tables, "_LINES", 5)
    text = written([[*row, ""] for row in X], separator, header)
    np.testing.assert_array_equal(read(tmp_path, text).matrix, X)
    with pytest.raises(InputError, match=r"line .* has 8 columns, expected 9"):
        read(tmp_path, text + separator.join("12345678") + separator + "\n")


@pytest.mark.parametrize("separator", [",", ";"])
def test_what_excel_is_told_of_the_separator(tmp_path, separator):
    np.testing.assert_array_equal(read(tmp_path, f"sep={separator}\n{written(X, separator, 'abcdefghi')}").matrix, X)


@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_quoted_numbers(tmp_path, quote, separator):
    rows = [[f"{quote}{value}{quote}" for value in row] for row in X]
    table = read(tmp_path, written(rows, separator, [f"{quote}c{i}{quote}" for i in range(9)]))
    np.testing.assert_array_equal(table.matrix, X)
    assert table.matrix.dtype == np.uint8


@pytest.mark.parametrize("separator", [";", "\t", " ", "|"])
def test_decimal_commas(tmp_path, separator):
    rows = [[str(value / 8).replace(".", ",") for value in row] for row in X]
    for header in (None, list("abcdefghi")):
        np.testing.assert_array_equal(read(tmp_path, written(rows, separator, header)).matrix, X / 8)


def test_commas_of_thousands_are_not_taken_for_decimals_in_silence(tmp_path):
    with pytest.warns(UserWarning, match="read as decimal commas"):
        assert read(tmp_path, "1,234;5,678\n2,345;6,789\n").matrix.tolist() == [[1.234, 5.678], [2.345, 6.789]]
    for text in (
        "1.234,5;2\n3;4\n",
        "1,5;2.5\n3,5;4.5\n",
        "1,234,567;2\n3;4\n",
        'a,b\n"1,234",2\n',
        'a,b\n"1,5","2,5"\n',
    ):
        with pytest.raises(InputError, match=r"line \d of .*number \d is .*decimal points"):
            read(tmp_path, text)


@pytest.mark.parametrize("header", ["", "a b c"])
def test_numpys_own_text(tmp_path, header):
    Y = np.random.default_rng(1).random((5, 3))
    np.savetxt(tmp_path / "t.txt", Y, header=header)
    np.testing.assert_array_equal(read_source(tmp_path / "t.txt").matrix, Y)


def test_quotes_hold_separators_lines_and_quotes(tmp_path):
    table = read(tmp_path, 'name,label,a\n"Smith, ""Jo""",cat,1\n"two\nlines",dog,2\n')
    assert table.names == ('Smith, "Jo"', "two lines") and table.matrix.tolist() == [[1], [2]]
    with pytest.raises(InputError, match=r"line 2 .* opens a quote that is not closed"):
        read(tmp_path, 'a,b\n"x,1\n' + "2,3\n" * 5000)


@pytest.mark.parametrize("header", ["name,a,b", 'name,a 5",b'])
def test_quotes_inside_a_cell_are_text(tmp_path, header):
    names = ['pipe 5"' if row in (3, 9) else "x" for row in range(15)]  # two marks of inches, rows apart
    for place in range(3):
        rows = [[7, 200 - row] for row in range(15)]
        for row, name in zip(rows, names, strict=True):
            row.insert(place, name)
        cells = header.split(",")[1:]
        cells.insert(place, "name")
        table = read(tmp_path, written(rows, header=cells))
        assert table.names == tuple(names)
        assert table.matrix.tolist() == [[7, 200 - row] for row in range(15)]


def test_a_line_of_empty_cells_is_not_passed_over(tmp_path):
    for separator in "\t,;|":
        with pytest.raises(InputError, match=r"line 3 .* is empty"):
            read(tmp_path, f"a{separator}b{separator}c\n1{separator}2{separator}3\n{2 * separator}\n")
    assert read(tmp_path, "a,b\n1,2\n\t\n3,4\n").matrix.tolist() == [[1, 2], [3, 4]]


# --- lists in cells -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "between"),
    [("{}", " "), ('"{}"', " "), ('"[{}]"', " "), ('"{}"', ", "), ('"[{}]"', ", "), ('"[{}]"', ",")],
)
def test_a_list_in_each_cell(tmp_path, form, between):
    rows = [[number % 7, form.format(between.join(map(str, row))), "Training"] for number, row in enumerate(X)]
    with pytest.warns(UserWarning, match=r"list of numbers in column 2 \('pixels'\); left out: column 3 \('Usage'\)"):
        table = read(tmp_path, written(rows, header=["emotion", "pixels", "Usage"]))
    np.testing.assert_array_equal(table.matrix, X)
    assert table.matrix.dtype == np.uint8 and table.shape == (3, 3)
    assert table.labels.tolist() == [number % 7 for number in range(12)]


def test_lists_of_other_lengths_are_named(tmp_path):
    text = "emotion,pixels\n1,1 2 3 4\n2,5 6 7\n"
    with pytest.raises(InputError, match=r"line 3 of .* has 3 columns, expected 4"):
        read(tmp_path, text)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a,b,note\n1,2,x\n3,4,y\n",
            r"line 2 .*number 3 is 'x', expected a number \(column 3 \('note'\)\): drop the col",
        ),
        (
            "label,a,b\n1,2,3\n4,5,x\n6,7,8\n9,1,2\n",
            r"line 3 .*number 2 is 'x'.*\(column 3 \('b'\)\): correct the cell",
        ),
        ("a,b\n1,2\n3,\n", r"line 3 .*number 2 is empty.*column 2 \('b'\).*: fill in the cell, or drop the line"),
        ("1,,3\n4,5,6\n", "line 1 .*number 2 is empty"),
        ("cat,1,2\ndog,3,4\n", r"line 1 .*column 1 is 'cat'.*calls it 'label'"),
        ("1,2,cat\n3,4,dog\n", r"line 1 .*column 3 is 'cat'"),
        ("a,b\n1,1_000\n", "number 2 is '1_000'"),
        ("a,b\n1,True\n2,False\n", "number 2 is 'True'"),
        ("1 2 3\n4 5\n", "line 2 .* has 2 columns, expected 3"),
        ("a,b\n1,2\0\n", "holds a NUL"),
        ("id,label\n1,2\n", "no other column"),
    ],
)
def test_line_and_column_are_named(tmp_path, text, said):
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, text)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("cell", ["x" * 100_000, "1 " * 50_000 + "x", "," * 5000, "\x1b]0;title\x07", "猫" * 4000])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_sentence_quotes_a_long_cell(tmp_path, cell, place):
    row = ["1", "2", "3"]
    row[place] = f'"{cell}"'
    folder = tmp_path / ("deep" * 20)
    folder.mkdir()
    for header in ("a,b,c\n1,2,3\n", "1,2,3\n", ""):
        with pytest.raises(InputError) as caught:
            read(folder, header + ",".join(row) + "\n" + ",".join(row) + "\n")
        said = str(caught.value)
        assert len(said) <= 300 and said.isprintable() and re.search(r"line \d", said)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_CHARACTERS", 5000)
    for name in ("t.csv", "t.csv.gz"):
        with pytest.raises(InputError, match=r"line 1 of .* is longer than 5,000 characters"):
            read(tmp_path, "1," * 5000, name)
    lines = written(np.tile(X, (40, 1)))
    np.testing.assert_array_equal(read(tmp_path, lines).matrix, np.tile(X, (40, 1)))
