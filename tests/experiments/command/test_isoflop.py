"""`espalier isoflop` reads a table and prints its minima."""

from tests.experiments.command.test_main import call
from tests.fitting.test_isoflop import BUDGETS, sweep


def test_minima_of_a_table_are_printed(capsys, tmp_path):
    frame = sweep(noise=0.003).frame.rename(columns={"params_total": "size"})
    frame.to_csv(tmp_path / "runs.csv", index=False)
    given = ("isoflop", f"--table={tmp_path / 'runs.csv'}", "--columns=size=params_total")
    where = f"--where=flops_6nd > {BUDGETS[3] / 2}"
    code, text, _ = call(capsys, *given, "--draws=20", where)
    assert code == 0 and "4 budgets in params_total" in text
    code, _, told = call(capsys, *given, "--where=flops_6nd > 1e30")
    assert code == 2 and "0 rows" in told
