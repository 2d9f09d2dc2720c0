import pytest

from fitting import figures
from fitting.isoflop import isoflop
from fitting.isoflop_report import isoflop_report
from refused import Refused
from tests.fitting.test_isoflop import BUDGETS, sweep


def test_the_report_has_the_exponent_its_interval_and_the_law_beside_it(tmp_path):
    sweep(noise=0.003).frame.to_csv(tmp_path / "runs.csv", index=False)
    text = isoflop_report(tmp_path / "runs.csv", out=tmp_path / "out", draws=50)
    assert "7 budgets in params_total" in text and "90% interval" in text
    assert "bias of this approach for that law" in text
    assert (tmp_path / "out" / "isoflop.png").stat().st_size > 1000
    assert (tmp_path / "out" / "report.md").read_text() == text


def test_rows_may_be_chosen(tmp_path):
    sweep(noise=0.003).frame.to_csv(tmp_path / "runs.csv", index=False)
    where = f"flops_6nd > {BUDGETS[3] / 2}"
    assert "4 budgets" in isoflop_report(tmp_path / "runs.csv", where=where, draws=20)
    with pytest.raises(Refused, match="size and tokens"):
        isoflop_report(tmp_path / "runs.csv", law="data")


def test_the_figure_has_bars_where_there_is_noise_and_the_exponent():
    bars, minima = figures.isoflop_minima(isoflop(sweep(noise=0.004), draws=20)).axes[1].collections
    assert len(bars.get_segments()) == len(minima.get_offsets())
    figure = figures.isoflop_minima(isoflop(sweep(noise=0.0), draws=20))
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sum("C^{0.51" in text for text in told) == 1 and "least loss" in told
