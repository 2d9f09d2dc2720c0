"""Figures of the bench of prediction beyond the data, by hand."""

import numpy as np
import pandas as pd
import pytest

from experiments.bench.extrapolation_report import TITLES, summary, throughout


@pytest.fixture
def rows():
    base = {"family": "params and tokens", "held_out": 8, "warnings": "", "inside_90%": 1.0}
    base |= {"interval_score": 0.02, "chinchilla_interval_score": 0.04, "chosen_law_error": 0.02}
    first = {"table": "a", "half": "rule", "error": 0.01, "chinchilla_error": 0.02}
    first |= {"best_law_error": 0.02, "baseline_error": 0.05}
    second = {"table": "b", "half": "apart", "error": 0.05, "chinchilla_error": 0.04}
    second |= {"best_law_error": 0.025, "baseline_error": 0.01, "inside_90%": 0.5}
    return pd.DataFrame([base | first, base | second])


def test_the_summary_is_by_half_and_together(rows):
    found = pd.DataFrame(summary(rows), columns=TITLES)
    both = found[(found["tables"] == "all") & (found["half"] == "both")].iloc[0]
    assert both["number"] == "2" and both["error / Chinchilla's"] == "1.000"
    assert both["regret"] == "1.000"  # Half as far off as the best law, and twice.
    assert both["at most 1.1 x baseline"] == both["or warned"] == "50%"
    assert both["inside 90 %"] == "75%" and both["below 70 %"] == "50%"
    assert both["interval score ratio"] == "0.500"
    told = pd.DataFrame(summary(rows.assign(warnings="it fails")), columns=TITLES)
    assert (told["or warned"] == "100%").all()


def test_laws_used_throughout_are_ranked_by_their_regret(rows):
    laws = {"table": ["a", "b", "a"], "law": ["skaling", "skaling", "kaplan"]}
    laws = pd.DataFrame(laws | {"error": [0.02, 0.025, 0.08]})
    found = throughout(rows, laws)
    assert [cells[0] for cells in found] == ["skaling", "the weighted mean", "kaplan"]
    assert found[0][1:] == ["2", "0.750", "1.000"] and found[2][1:] == ["1", "4.000", "4.000"]
    assert np.isfinite([float(cells[3]) for cells in found]).all()
