"""A small part of the coverage study, held to what chance allows."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from experiments.bench import coverage
from fitting.qat import QAT, optimal_fraction, tokens_per_byte
from fitting.qat_use import at_best_fraction


@pytest.mark.parametrize("law", ["over_training", "parscale"])
def test_intervals_cover_within_the_binomial_bound(law):
    table = coverage.run([law], sets=20, echo=lambda row: None)
    covered = int(round((table["coverage"] * table["sets"]).sum()))
    # 40 sets at 90 %: fewer than this happens by chance once in 100 times.
    assert covered >= binom.ppf(0.01, 40, 0.9)
    assert (table["identified"] >= 0.8).all()


@pytest.mark.parametrize("name", coverage.PLANS)
def test_plans_are_complete(name):
    plan = coverage.PLANS[name]()
    assert plan.frame["trunk"].nunique() >= 8 and 0 < plan.noise < 0.2
    assert set(coverage.LAWS[plan.law].names) <= set(plan.parameters)


@pytest.mark.parametrize(
    "name", ["chinchilla", "over_training", "repetition", "qat", "qat_fraction"]
)
def test_targets_are_at_ten_times_the_compute(name):
    plan = coverage.PLANS[name]()

    def compute(table):
        split = "tokens" not in table
        tokens = (
            sum(np.asarray(table[n], float) for n in ("tokens_qat", "tokens_fp")) if split else 0
        )
        tokens = tokens if split else np.asarray(table["tokens"], float)
        return np.asarray(table["params_total"], float) * tokens

    assert compute(plan.target)[0] / compute(plan.frame).max() == pytest.approx(10, rel=0.05)


def test_the_planted_qat_law_follows_the_published_best_share():
    frame = coverage.qat().frame
    qat = frame[frame["tokens_qat"] > 0]
    budgets = np.unique((qat["tokens_qat"] + qat["tokens_fp"]).round(-3))
    grid = np.array(list(itertools.product(qat["params_total"].unique(), budgets, (1, 2, 4, 6))))
    grid = grid[tokens_per_byte(*grid.T) > 3]
    found = [at_best_fraction(QAT, coverage.QAT, *row)[0][0] for row in grid]
    # 0.091 is the mean absolute error the paper reports for the formula on its own runs.
    assert np.mean(np.abs(found - optimal_fraction(*grid.T))) < 0.05


def test_rows_replace_their_own_only_and_the_table_is_whole(tmp_path):
    def rows(**plans):
        cells = [
            (plan, shared, value) for plan, by in plans.items() for shared, value in by.items()
        ]
        return pd.DataFrame(cells, columns=["plan", "shared_variance", "coverage"])

    file = tmp_path / "coverage.csv"
    coverage.write(file, rows(qat={0.0: 0.2, 0.7: 0.3}, chinchilla={0.0: 0.1}, gone={0.0: 0.4}))
    coverage.write(file, rows(qat={0.7: 0.9}, parscale={0.0: 0.8}))
    table = pd.read_csv(file, comment="#")
    assert list(table["plan"]) == ["chinchilla", "parscale", "qat", "qat"]
    assert list(table["coverage"]) == [0.1, 0.8, 0.2, 0.9]
    assert [found.name for found in tmp_path.iterdir()] == ["coverage.csv"]


def test_an_unknown_plan_is_refused_with_the_list(capsys, tmp_path):
    with pytest.raises(SystemExit):
        coverage.main(["--only=kaplan", f"--out={tmp_path / 'out.csv'}"])
    assert "qat_small" in capsys.readouterr().err and not list(tmp_path.iterdir())
