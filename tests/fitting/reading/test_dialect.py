"""Text tables: encodings, delimiters, comments and rows of equal length."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from fitting.reading import dialect
from fitting.reading.dialect import parsed
from refused import Refused

WANTED = [["a", "x"], ["1", "2"]]


def cells(data, **how):
    sheet = parsed(data if isinstance(data, bytes) else data.encode(), "it", **how)
    return [list(sheet.frame.columns), *sheet.frame.astype(str).to_numpy().tolist()]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_are_found(encoding, end):
    assert cells(f"a\tx{end}1\t2{end}".encode(encoding)) == WANTED


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", " ", "  "])
def test_delimiters_are_found(delimiter):
    assert cells(f"a{delimiter}x\n1{delimiter}2\n") == WANTED


def test_a_delimiter_inside_names_or_cells_is_not_the_table_s():
    assert cells('a;"loss, nats"\n1;"2, 3"\n') == [["a", "loss, nats"], ["1", "2, 3"]]
    assert cells("a, b;c\n1,5;2,5\n3,5;4,5\n")[:2] == [["a, b", "c"], ["1,5", "2,5"]]
    assert cells("final loss,a\n1,2\n") == [["final loss", "a"], ["1", "2"]]
    assert cells("a;b\n1,5;2,5\n") == [["a", "b"], ["1,5", "2,5"]]


def test_windows_1252_is_said():
    sheet = parsed("café,x\n1,2\n".encode("cp1252"), "it")
    assert list(sheet.frame.columns) == ["café", "x"] and "Windows-1252" in sheet.notes[0]


def test_lines_are_counted_as_an_editor_counts_them():
    sheet = parsed(b'# one\na,x\n\n1,"two\nlines"\n# two\n3,4\n', "it")
    assert list(sheet.lines) == [4, 7] and sheet.place(1) == "row 2 (line 7)"


def test_a_number_sign_inside_a_quoted_cell_begins_no_comment():
    assert cells('a,x\n1,"two\n# lines"\n')[1] == ["1", "two\n# lines"]
    assert cells("a,lr #peak\n1,#2\n") == [["a", "lr #peak"], ["1", "#2"]]


def test_the_header_may_be_the_comment_above():
    assert cells("# a x\n1 2\n3 4\n") == [["a", "x"], ["1", "2"], ["3", "4"]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,x\n1,2\n3\n", "row 2 (line 3) with 1 cells"),
        ("a,x\n1,2,3\n3,4\n", "row 1 (line 2) with 3 cells"),
        ("a,x\n1,2,\n3,4\n", "row 1 (line 2) with 3 cells"),
        ("a,x\n1,2,3\n3,4,5\n", "row 1 (line 2) with 3 cells"),
        ("1,2\n3,4\n", "numbers on line 1"),
        ("r0;2000;12,5\nr1;3000;11,5\n", "numbers on line 1"),
        ("a,a\n1,2\n", "a twice"),
        ('a,x\n1,"2\n', "line 2"),
        ("", "it has no rows"),
        ("a,\x07\n1,2\n", "a text file"),
    ],
)
def test_other_texts_are_refused_with_their_line(text, told):
    with pytest.raises(Refused) as refused:
        cells(text)
    assert told in str(refused.value) and refused.value.field == "table"


def test_rows_numbered_without_a_name_are_fitted():
    assert cells("x,y\n0,1,2\n1,3,4\n") == [["", "x", "y"], ["0", "1", "2"], ["1", "3", "4"]]
    assert cells("x,y,\n1,2\n3,4\n") == [["x", "y"], ["1", "2"], ["3", "4"]]


def test_a_file_that_needs_no_care_is_read_the_same_by_pandas(monkeypatch):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "run": [f"00{n}" for n in range(50)],
            "params_total": rng.integers(10**6, 10**9, 50),
            "loss": rng.uniform(2, 5, 50),
            "note": rng.choice(["ok", "NA", "", "None", " padded "], 50),
        }
    )
    text = frame.to_csv(index=False, quoting=csv.QUOTE_NONE)
    fast = parsed(text.encode(), "it")
    assert pd.api.types.is_numeric_dtype(fast.frame["loss"])
    monkeypatch.setattr(dialect, "_plain", lambda *_: None)
    careful = parsed(text.encode(), "it")
    assert careful.frame["loss"].dtype == object
    assert list(fast.lines) == list(careful.lines)
    for name in frame:
        theirs = careful.frame[name]
        if pd.api.types.is_numeric_dtype(frame[name]):
            theirs = pd.to_numeric(theirs)
        assert list(fast.frame[name]) == list(theirs)
    assert list(fast.frame["note"]) == list(frame["note"].str.strip())
    assert pd.read_csv(io.StringIO(text))["loss"].tolist() == fast.frame["loss"].tolist()
