"""Cells as numbers: what is read, by which rule, and what is not."""

import numpy as np
import pandas as pd
import pytest

from fitting.reading.cells import as_numbers, decimal_marks


def read(*cells, count=True, marks=()):
    found = as_numbers(pd.Series(cells, dtype=object), count, frozenset(marks))
    return list(found.values), found.bad


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("19.2M", 19.2e6),
        ("1.5B", 1.5e9),
        ("1,5B", 1.5e9),
        ("20BT", 2e10),
        ("20 B tokens", 2e10),
        ("512k", 512e3),
        ("7b", 7e9),
        ("1.1T", 1.1e12),
        ("3e3M", 3e9),
        ("160M params", 160e6),
        ("2000000 tokens", 2e6),
        ("19,200,000", 19_200_000),
        ("19 200 000", 19_200_000),
        ("19_200_000", 19_200_000),
        ("19'200'000", 19_200_000),
        ("19\u202f200\u202f000", 19_200_000),
        ("19.200.000", 19_200_000),
        ("19,200", 19_200),
        ("1,234,567.0", 1_234_567),
        ("1.234.567,0", 1_234_567),
        ("2^20", 2**20),
        ("10**9", 1e9),
        ("1.2x10^9", 1.2e9),
        ("3 × 10^8", 3e8),
        ("\u22125", -5),
        ("1e9", 1e9),
        (" 12 ", 12),
    ],
)
def test_a_count_is_read_however_it_is_written(cell, value):
    values, bad = read(cell)
    assert values == [value] and not bad


@pytest.mark.parametrize(
    "cell",
    [
        "many",
        "1.2.3",
        "12,34,567",
        "1,2345,678",
        "1 23",
        "0x10",
        "1e",
        "1,500M",
        "--5",
        "5%",
        "1/2",
    ],
)
def test_what_is_no_number_is_left_with_its_row(cell):
    values, bad = read("7", cell)
    assert values[0] == 7 and np.isnan(values[1]) and bad == {1: cell}


@pytest.mark.parametrize("cell", ["3.2M", "1 000", "12,429,000", "8k"])
def test_suffixes_and_thousands_are_of_counts_only(cell):
    assert read(cell, count=False)[1] == {0: cell}


def test_a_comma_is_a_decimal_mark_where_counts_are_not_meant():
    assert read("3,218", "12,4", count=False)[0] == [3.218, 12.4]
    assert read("3,218", count=False)[0] == [3.218]


def test_two_decimal_marks_are_one_too_many():
    assert read("3,218", "3.2", count=False)[1] == {0: "3,218"}
    assert read("12,4291", "12.4", count=False)[1] == {0: "12,4291"}
    assert read("3,218", count=False, marks=".")[1] == {0: "3,218"}
    assert read("1.5", "1.234.567")[1] == {1: "1.234.567"}


def test_groups_of_three_follow_the_file_where_they_could_be_either():
    assert read("20.000", "20000000", marks=",")[0] == [20_000, 20_000_000]
    assert read("20.000", "20000000")[0] == [20, 20_000_000]
    assert read("20.000", "1.000.000")[0] == [20_000, 1_000_000]
    assert read("19,200", marks=",")[1] == {0: "19,200"}


def test_marks_are_those_that_leave_no_doubt():
    assert decimal_marks(["12,4291", "1"]) == {","}
    assert decimal_marks(["0.5", "1,234.5"]) == {"."}
    assert decimal_marks(["0,123", "12.43"]) == {",", "."}
    assert decimal_marks(["1.234", "1,234", "7", "x"]) == frozenset()


def test_missing_words_are_no_numbers_and_no_faults():
    values, bad = read("", "nan", "N/A", "null", "None", "-", "inf", "2")
    assert np.isnan(values[:6]).all() and values[6:] == [np.inf, 2] and not bad


def test_a_rule_is_said_once_with_its_first_cell_and_count():
    cells = pd.Series(["1M", "2M", "3,000,000", "4"], dtype=object)
    first, second = as_numbers(cells, True).notes("tokens")
    assert first.startswith("tokens: '1M' read as 1000000 (") and "2 cells" in first
    assert second.startswith("tokens: '3,000,000' read as 3000000 (") and "1 cells" in second


def test_numbers_are_those_of_python_to_the_last_digit():
    rng = np.random.default_rng(0)
    texts = [
        repr(float(value)) for value in rng.uniform(0, 10, 2000) * 10.0 ** rng.integers(-9, 9, 2000)
    ]
    assert read(*texts, count=False)[0] == [float(text) for text in texts]
    assert read(*(f"{text}M" for text in ("19.3", "0.07")))[0] == [19_300_000, 70_000]
