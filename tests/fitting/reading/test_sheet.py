"""A table as it stands in its file: where rows are, and columns that only count them."""

import numpy as np
import pandas as pd
import pytest

from fitting.reading.sheet import Sheet, without_row_numbers
from refused import Refused


def test_places_are_those_that_a_person_counts():
    sheet = Sheet(pd.DataFrame({"x": range(9)}), np.arange(2, 11))
    assert sheet.place(0) == "row 1 (line 2)"
    assert sheet.places([0, 8]) == "row 1 (line 2), row 9 (line 10)"
    assert sheet.places(range(9)).endswith("row 5 (line 6) and 4 more")
    assert Sheet(sheet.frame).place(3) == "row 4"


@pytest.mark.parametrize("name", ["", "index", "Unnamed: 0", "__index_level_0__"])
@pytest.mark.parametrize("first", [0, 1])
def test_columns_that_count_rows_are_left_out(name, first):
    frame = pd.DataFrame({name: [str(first), str(first + 1)], "x": ["5", "6"]}, dtype=object)
    found = without_row_numbers(Sheet(frame))
    assert list(found.frame) == ["x"] and "left out: column 1" in found.notes[0]


def test_columns_that_say_more_are_kept():
    frame = pd.DataFrame({"index": [3, 1], "x": [5, 6]})
    assert list(without_row_numbers(Sheet(frame)).frame) == ["index", "x"]
    frame = pd.DataFrame({"": ["a", "b"], "x": [5, 6]})
    found = without_row_numbers(Sheet(frame))
    assert list(found.frame) == ["run", "x"] and "read as run" in found.notes[0]


def test_an_empty_column_without_a_name_is_none():
    frame = pd.DataFrame({"x": [5, 6], "": [None, " "]})
    assert list(without_row_numbers(Sheet(frame)).frame) == ["x"]


@pytest.mark.parametrize("names", [["x", ""], ["x", "x "]])
def test_no_name_and_a_name_twice_are_refused(names):
    with pytest.raises(Refused, match="table"):
        without_row_numbers(Sheet(pd.DataFrame([[1, 5], [2, 7]], columns=names)))
