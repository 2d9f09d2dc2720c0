"""A small part of the recovery study, held to what chance allows."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from experiments.bench import recovery
from fitting import LAWS


@pytest.mark.parametrize("name", recovery.PLANS)
def test_plans_plant_what_their_law_predicts(name):
    obs, plan, law = recovery.plant(name, 0), recovery.PLANS[name], LAWS[name]
    assert set(plan.parameters) == set(law.names) and set(plan.fixed) <= set(law.names)
    columns = {
        key: obs.column("params_total" if key == "params" else key) for key in law.predictors
    }
    miss = np.log(obs.column(law.target) / law.predict(columns, plan.parameters))
    assert np.std(miss) == pytest.approx(plan.noise, rel=0.6)


def test_intervals_hold_planted_parameters_within_the_binomial_bound():
    row = recovery.recover("rate_batch_response", 20, draws=60)
    # Six parameters of 20 sets at 90 %, taken as one share: the worst of them in 1 of 1,000.
    assert row["least"] * 20 >= binom.ppf(0.0002, 20, 0.9) and row["refused"] == 0


def test_rows_replace_their_own(tmp_path):
    file = tmp_path / "recovery.csv"
    for law, held in (("size", 0.9), ("skaling", 0.8), ("size", 0.7)):
        recovery.write(file, {"law": law, "held": held})
    table = pd.read_csv(file, comment="#")
    assert list(table["law"]) == ["skaling", "size"] and list(table["held"]) == [0.8, 0.7]


def test_an_unknown_law_is_refused_with_the_list(capsys, tmp_path):
    with pytest.raises(SystemExit):
        recovery.main(["--only=newton", f"--out={tmp_path / 'out.csv'}"])
    assert "skaling" in capsys.readouterr().err
