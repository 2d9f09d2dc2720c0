"""The law example: parameters that were planted are found again."""

import numpy as np
import pandas as pd
import pytest
from example import EXAMPLE

from fitting import Observations, fit

PLANTED = {"E": 1.5, "B": 8.0, "beta": 1.2}


def test_planted_parameters_are_found():
    columns = pd.DataFrame({"tokens": np.geomspace(1e8, 1e12, 12)})
    floor, power = EXAMPLE.terms(columns, PLANTED["beta"])
    table = columns.assign(loss=PLANTED["E"] * floor + PLANTED["B"] * power)
    found = fit("example", Observations(table), point_only=True)
    assert found.parameters == pytest.approx(PLANTED, rel=1e-3)
