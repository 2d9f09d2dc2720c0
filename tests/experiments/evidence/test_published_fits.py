import pytest

from experiments.bench import fitting as bench_fitting
from experiments.evidence import published_fits


def test_every_published_number_is_met(tmp_path):
    table = published_fits.main([f"--out={tmp_path}", "--draws=20"])
    for suffix in ("csv", "md", "tex", "html"):
        assert (tmp_path / f"published_fits.{suffix}").stat().st_size > 1000
    close = {"chinchilla": 5e-4, "over_training": 1e-5, "downstream": 3e-5, "parscale": 1e-3}
    close |= {"size_no_floor": 1e-4, "data": 0.011}  # Optimizers: speed-ups of rounded losses.
    checked = 0
    for row in table:
        if row["law"] in close and row["published"] != "":
            assert row["ours"] == pytest.approx(row["published"], rel=close[row["law"]]), row
            checked += 1
        assert row["intervals"], row
        assert (row["low"] == "") == row["intervals"].startswith("none")
    assert checked == 57
    pages = [(tmp_path / f"published_fits.{suffix}").read_text() for suffix in ("md", "html")]
    for title in dict.fromkeys(row["table"] for row in table):
        assert all(f"{title[1:]}" in text for text in pages), title
    assert pages[0].count("; interval: none (5 runs, 4 parameters).") == 3
    assert pages[0].count("; interval: none (3 runs, 3 parameters).") == 2
    assert pages[1].count("<table>") == len({row["table"] for row in table})


@pytest.mark.thorough
def test_the_bench_measures_what_it_names():
    measured = bench_fitting.run(draws=50, refits=False)
    assert all(value > 0 for value in measured.values())
    assert "50 bootstrap draws, CPU s" in measured
