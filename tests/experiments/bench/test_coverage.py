"""A small part of the coverage study, held to what chance allows."""

from dataclasses import replace

import pandas as pd
import pytest
from scipy.stats import binom

from experiments.bench import coverage
from experiments.bench.plans import PLANS


@pytest.mark.thorough
def test_intervals_hold_new_runs_and_parameters_within_the_binomial_bound():
    table = pd.DataFrame(coverage.run(["over_training"], sets=10, draws=60))
    assert list(table["asked"]) == ["parameters", "new run, 10 times"] * 2
    # Of 20 sets at 90 %, with 60 draws each, fewer than this are inside once in 1,000 times.
    least = binom.ppf(0.001, 20, 0.9)
    assert (table.groupby("asked")["coverage"].mean() * 20 >= least).all()
    assert (table["identified"] >= 0.8).all() and (table["refused"] == 0).all()
    assert table["least_parameter"].iloc[0] in ("E", "a", "b", "eta")


def test_misfit_widens_the_intervals_of_a_wrong_law_until_they_hold():
    table = pd.DataFrame(coverage.run(["chinchilla_without_its_floor"], sets=3, draws=40))
    assert list(table["asked"]) == [f"new run, {times} times" for times in (4, 16, 64)]
    # By noise alone this law misses nearly always beyond its data.
    assert (table["noise_alone"] <= 0.5).all() and (table["coverage"] >= 0.5).all()


def test_a_set_that_no_law_can_be_fitted_to_holds_nothing():
    plan = PLANS["best_batch"]()
    rows = coverage.judge(replace(plan, frame=plan.frame.head(3)), 0.0, 0, draws=20)
    assert [row["name"] for row in rows] == ["c", "b"]
    assert all(row["refused"] and not row["covered"] for row in rows)


def test_rows_replace_their_own_only_and_the_table_is_whole(tmp_path):
    def rows(*cells):
        table = pd.DataFrame(cells, columns=["plan", "asked", "coverage"])
        return table.assign(sets=25)

    file = tmp_path / "coverage.csv"
    first = ("qat", "parameters", 0.2), ("qat", "new run, 10 times", 0.3), ("gone", "x", 0.4)
    coverage.write(file, rows(*first, ("chinchilla", "parameters", 0.1)))
    coverage.write(file, rows(("qat", "parameters", 0.9), ("parscale", "parameters", 0.8)))
    table = pd.read_csv(file, comment="#")
    assert list(table["plan"]) == ["chinchilla", "parscale", "qat"]
    assert list(table["coverage"]) == [0.1, 0.8, 0.9]
    assert table["standard_error"].to_numpy() == pytest.approx([0.06, 0.08, 0.06])
    assert list(table["band"]) == ["below", "within an error below", "inside"]
    assert [found.name for found in tmp_path.iterdir()] == ["coverage.csv"]


def test_a_coverage_within_a_standard_error_of_the_band_is_told_from_one_beyond(tmp_path):
    file = tmp_path / "coverage.csv"
    rows = pd.DataFrame({"plan": "qat", "asked": list("abc"), "coverage": [0.96, 0.99, 0.84]})
    coverage.write(file, rows.assign(sets=200))
    told = list(pd.read_csv(file, comment="#")["band"])
    assert told == ["within an error above", "above", "within an error below"]


def test_an_unknown_plan_is_refused_with_the_list(capsys, tmp_path):
    with pytest.raises(SystemExit):
        coverage.main(["--only=newton", f"--out={tmp_path / 'out.csv'}"])
    assert "skaling_as_chinchilla" in capsys.readouterr().err and not list(tmp_path.iterdir())
