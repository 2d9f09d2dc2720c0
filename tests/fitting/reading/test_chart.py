"""A tracker's chart, one column a run."""

import pytest

from fitting.reading.chart import without_chart
from fitting.reading.formats import sheet_of
from fitting.reading.table import read_table
from refused import Refused

METRICS = [f"{run} - eval/loss{end}" for run in ("a", "b - x") for end in ("", "__MIN", "__MAX")]
CHART = f"Step,{','.join(METRICS)}\n"
CHART += """"100","6.5","6.5","6.5","5.5","5.5","5.5"
"200","5.25","5.25","5.25","","",""
"300","","","","4.5","4.5","4.5"
"""


@pytest.fixture
def chart(tmp_path):
    def write(text=CHART):
        (tmp_path / "chart.csv").write_text(text)
        return tmp_path / "chart.csv"

    return write


def test_the_last_value_of_every_run_is_read_with_its_step_and_line(chart):
    sheet = without_chart(sheet_of(chart()), False)
    assert sheet.frame.to_numpy().tolist() == [["a", "200", "5.25"], ["b - x", "300", "4.5"]]
    assert sheet.place(0) == "row 1 (line 3)" and "2 runs, a column each" in sheet.notes[-1]
    columns = {"Step": "tokens[1e6]"}
    frame, notes = read_table(chart(), columns, needs=("tokens", "loss"))
    assert frame["loss"].tolist() == [5.25, 4.5] and frame["tokens"].tolist() == [2e8, 3e8]
    assert frame["run"].tolist() == ["a", "b - x"]
    assert any("the last value of eval/loss" in note for note in notes)


def test_curves_take_every_value(chart):
    frame, _ = read_table(chart(), needs=("step", "loss"), curves="run")
    assert frame["loss"].tolist() == [6.5, 5.25, 5.5, 4.5]
    assert frame["step"].tolist() == [100, 200, 100, 300]


def test_a_chart_of_two_metrics_and_a_cell_that_is_no_number_are_refused(chart):
    two = CHART.replace("b - x - eval/loss", "b - x - acc")
    with pytest.raises(Refused, match="a chart of eval/loss, acc; accepted: a chart of one"):
        without_chart(sheet_of(chart(two)), False)
    bad = chart(CHART.replace('"4.5"', '"oom"', 1))
    with pytest.raises(Refused, match=r"loss: got 'oom' in row 2 \(line 4\)"):
        read_table(bad, {"Step": "tokens[1e6]", "eval/loss": "loss"}, needs=("tokens", "loss"))


def test_another_table_stays_as_it_is(chart):
    for text in ("run,loss\na,3\n", CHART.replace("__MIN", "__LEAST"), "Step\n1\n"):
        sheet = sheet_of(chart(text))
        assert without_chart(sheet, False) is sheet
