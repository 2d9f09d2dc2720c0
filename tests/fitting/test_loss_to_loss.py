import numpy as np
import pandas as pd
import pytest

from fitting import Observations, fit
from fitting.loss_to_loss import LOSS_TO_LOSS, loss_to_loss
from tests.fitting.planted import PUBLIC, recovered

GADRE = PUBLIC / "gadre_overtraining" / "runs.csv"
TRUTH = {"E_b": 0.6, "K": 0.52, "E_a": 1.6, "kappa": 1.29}


def test_planted_values_are_recovered():
    found = recovered(LOSS_TO_LOSS, {"loss": np.linspace(2.2, 4.5, 20)}, TRUTH)
    assert found == pytest.approx(TRUTH, rel=0.01)


def test_known_floors_may_be_held():
    floors = {"E_a": 1.6, "E_b": 0.6}
    found = recovered(LOSS_TO_LOSS, {"loss": np.linspace(2.2, 4.5, 6)}, TRUTH, **floors)
    assert found == pytest.approx(TRUTH, rel=1e-4)


def test_a_loss_at_or_below_the_floor_predicts_the_targets_floor():
    assert LOSS_TO_LOSS.predict({"loss": [1.5, 1.6]}, TRUTH) == pytest.approx([0.6, 0.6], abs=1e-6)


@pytest.mark.skipif(not GADRE.exists(), reason="the public table is not here")
def test_the_largest_models_of_a_public_table_are_predicted_within_one_percent():
    table = pd.read_csv(GADRE)
    table = table[table["dataset_name"] == "c4_original"]
    names = {"loss_c4_val": "loss.c4", "loss_paloma_falcon-refinedweb": "loss.target"}
    table = table.rename(columns=names)[[*names.values(), "flops"]].dropna()
    runs = Observations(table.reset_index(drop=True))
    law = loss_to_loss("loss.c4")
    how = {"target": "loss.target", "held_out": "above:0.1", "point_only": True}
    # The floor on the source is that of the over-training law's fit to the same models.
    result = fit(law, runs, fixed={"E_a": 1.508261}, **how)
    assert len(result.held_out) >= 2
    assert np.max(np.abs(result.held_out["relative_error"])) < 0.01
