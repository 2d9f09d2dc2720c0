import numpy as np
import pandas as pd
import pytest

from fitting.report import fit_report
from refused import Refused
from tests.fitting.test_groups import two

QUICK = {"audits": 2, "draws": 50}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    file = tmp_path_factory.mktemp("groups") / "runs.csv"
    two().frame.drop(columns=["run", "trunk"]).to_csv(file, index=False)
    return file


def test_a_report_by_groups_has_parameters_evidence_and_speed_up(table, tmp_path):
    options = {"by": "corpus", "share": ["alpha", "beta"], "out": tmp_path, **QUICK}
    text = fit_report("chinchilla", table, flops=[1e21], held_out="above:0.5", **options)
    for word in ("What sharing costs", "| alpha, beta", "speed-up over c4", "allocation of web"):
        assert word in text, word
    assert "- web: " in text and (tmp_path / "report.md").read_text() == text
    assert len(pd.read_csv(tmp_path / "groups.csv", comment="#")) == 8


def test_what_groups_share_needs_groups(table):
    with pytest.raises(Refused, match="share"):
        fit_report("chinchilla", table, share=["E"])
    with pytest.raises(Refused, match="gamma"):
        fit_report("chinchilla", table, by="corpus", share=["gamma"])


def test_the_law_of_groups_is_chosen_by_the_rolling_errors_of_each(table):
    names = "data,chinchilla,chinchilla_no_floor"
    text = fit_report(names, table, by="corpus", share=["alpha", "beta"], point_only=True, audits=0)
    assert text.startswith("# chinchilla by corpus: c4, web")


def test_groups_fitted_as_one_are_told_as_contradicting_rows_with_their_column(table):
    text = fit_report("chinchilla", table, point_only=True, audits=2)
    assert "Rows that contradict each other" in text and "they differ in corpus" in text
    assert "Standard deviation between seeds: none" in text


def test_repeated_seeds_are_no_contradiction(tmp_path):
    rng = np.random.default_rng(1)
    frame = pd.concat([two().frame.iloc[:25].assign(seed=s) for s in range(3)])
    frame["loss"] *= np.exp(0.003 * rng.normal(size=len(frame)))
    frame.drop(columns=["run", "trunk"]).to_csv(tmp_path / "seeds.csv", index=False)
    text = fit_report("chinchilla", tmp_path / "seeds.csv", point_only=True, audits=2)
    assert "contradict" not in text and "(50 degrees of freedom)" in text
