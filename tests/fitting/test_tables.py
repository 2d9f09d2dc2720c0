import csv
import io

import pandas as pd

from fitting import latex, tables


def test_tables_carry_intervals_and_how_they_were_made(fitted, bare):
    _, result = fitted
    for render in (tables.as_csv, tables.as_markdown, latex.as_latex):
        text = render(result)
        assert "trunk bootstrap" in text and "90" in text
        assert "none (5 runs, 4 parameters)" in render(bare)


def test_csv_keeps_full_precision(fitted):
    _, result = fitted
    lines = tables.as_csv(result).splitlines()
    assert lines[0].startswith("# ")
    rows = list(csv.DictReader(io.StringIO("\n".join(lines[1:]))))
    assert {row["parameter"]: float(row["value"]) for row in rows} == result.parameters


def test_comparison_tables_escape():
    table = [{"a_b": 1.5, "c": "x & <y>"}]
    assert r"a\_b" in tables.comparison(["a_b", "c"], table, "latex")
    assert tables.comparison(["a_b", "c"], table, "csv").splitlines()[1] == "1.5,x & <y>"


def test_words_that_begin_like_a_formula_are_text_in_a_csv():
    frame = pd.DataFrame({"run": ["=1+1", "-a", "plain", None], "loss": [-1.0, 2.0, 3.0, 4.0]})
    lines = tables.commented(frame.rename(columns={"loss": "=loss"}), "said").splitlines()
    assert lines == ["# said", "run,'=loss", "'=1+1,-1.0", "'-a,2.0", "plain,3.0", ",4.0"]
