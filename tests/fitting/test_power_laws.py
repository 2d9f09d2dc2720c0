import numpy as np
import pandas as pd
import pytest

from fitting import Observations, fit
from fitting.power_laws import COMPUTE_FLOOR, DATA, DATA_NO_FLOOR, SIZE, SIZE_NO_FLOOR
from tests.fitting.planted import recovered


@pytest.mark.parametrize("law", [COMPUTE_FLOOR, DATA, DATA_NO_FLOOR, SIZE, SIZE_NO_FLOOR])
def test_planted_values_are_recovered(law):
    truth = dict(zip(law.names[::-1], [0.2, 60.0, 1.7], strict=False))
    found = recovered(law, {law.predictors[0]: np.geomspace(1e7, 1e10, 8)}, truth)
    assert found == pytest.approx(truth, rel=1e-4)


def test_the_papers_losses_without_a_floor():
    # Kaplan et al. 2020 figure 1: 1e9 parameters and 1e9 tokens.
    size = SIZE_NO_FLOOR.predict({"params": 1e9}, SIZE_NO_FLOOR.published["kaplan"])
    data = DATA_NO_FLOOR.predict({"tokens": 1e9}, DATA_NO_FLOOR.published["kaplan"])
    assert size == pytest.approx((8.8e13 / 1e9) ** 0.076)
    assert data == pytest.approx((5.4e13 / 1e9) ** 0.095)


def test_a_pinned_floor_is_kept_and_the_rest_follows_it():
    params = np.geomspace(1e7, 1e10, 8)
    frame = pd.DataFrame({"params_total": params, "loss": 1.7 + 60 * params**-0.2})
    result = fit("size", Observations(frame), point_only=True, fixed={"E": 1.7})
    assert result.parameters == pytest.approx({"E": 1.7, "A": 60.0, "alpha": 0.2}, rel=1e-5)
