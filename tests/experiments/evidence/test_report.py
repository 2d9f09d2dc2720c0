"""Writing reports."""

import pandas as pd

from experiments.evidence.report import Table, cell, latex, pipes


def test_cells_are_short_and_say_what_is_absent():
    assert [cell(x) for x in (1.23456, float("nan"), None, pd.NA, 1234567.0, 12, "a")] == [
        "1.2346",
        "–",
        "–",
        "–",
        "1.235e+06",
        "12",
        "a",
    ]


def test_tables_become_markdown_and_latex():
    table = Table("t", pd.DataFrame({"a_b": ["x%"], "n": [0.5]}), "caption")
    assert pipes(table.frame) == "| a_b | n |\n| --- | ---: |\n| x% | 0.5 |"
    assert r"a\_b & n \\" in latex(table) and r"x\% & 0.5 \\" in latex(table)
