"""The report on RegMix's table: its numbers, and what it says of the baseline."""

from functools import partial

import pandas as pd
import pytest

from experiments.evidence import published_mixtures
from experiments.evidence.published_mixtures import OUT, every_domain
from fitting.mixtures import cross_validate


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    options = [f"--out={folder}", "--draws=200", "--simulated=4000", "--averaged=5"]
    with pytest.MonkeyPatch.context() as patch:
        two = lambda: every_domain(("pile_cc", "hackernews"))  # thirteen take eight seconds
        patch.setattr(published_mixtures, "every_domain", two)
        patch.setattr(published_mixtures, "cross_validate", partial(cross_validate, folds=2))
        tables = published_mixtures.main(options)
    return tables, folder / "published_mixtures"


@pytest.mark.system
def test_the_report_meets_the_published_numbers(made):
    table = made[0]["ranks"]
    checked = table[table["published"].notna()]
    assert len(checked) == 6
    for row in checked.to_dict("records"):
        assert row["rank correlation x 100"] == pytest.approx(row["published"], abs=1.0)


def test_the_committed_means_over_the_domains_are_those_of_the_published_tables(made):
    # Recomputed from the published tables with scikit-learn's ordinary least squares and LightGBM.
    table = pd.read_csv(OUT / "published_mixtures" / "every_domain.csv").set_index("predictor")
    assert list(table.loc["ridge"]) == pytest.approx([83.1, 83.0, 70.9], abs=2.0)
    assert list(table.loc["lightgbm"]) == pytest.approx([99.0, 98.4, 94.8], abs=0.5)
    two = made[0]["every_domain"].set_index("predictor")
    assert list(two.columns) == list(table.columns) and list(two.index) == list(table.index)
    assert two.loc["lightgbm", "1M"] == pytest.approx(98.8, abs=0.3)


def test_trees_need_more_proxies_than_laws(made):
    table = made[0]["by_count"].set_index("proxies")
    assert table.loc[32, "lightgbm"] == "refused"
    assert table.loc[64, "lightgbm"] < 60 < 85 < table.loc[128, "lightgbm"]
    assert table.loc[512, "lightgbm"] == pytest.approx(96.2, abs=0.2)
    assert (table["log_linear"] > 95).all()


def test_the_report_says_that_the_share_is_not_separable_at_1b_and_shows_everything(made):
    tables, folder = made
    text = (folder / "report.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("- **At 1B"))
    assert line.endswith("]: not resolved.")
    assert "lower than LightGBM" in text.split("- **At 1M")[1].splitlines()[0]
    for name in tables:
        assert (folder / f"{name}.csv").stat().st_size > 100
    assert (folder / "figures" / "ranks.png").stat().st_size > 10_000
    shares = tables["proposals"].set_index("mixture")["largest"]
    assert shares["lightgbm, simulated"].startswith("pile_cc 0.8")
