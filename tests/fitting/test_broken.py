import numpy as np
import pytest

from fitting.broken import BROKEN_COMPUTE, BROKEN_DATA, BROKEN_SIZE
from tests.fitting.planted import recovered

TRUTH = {"E": 1.5, "b": 30.0, "c0": 0.1, "c1": 0.25, "d": 1e9, "f": 0.3}


@pytest.mark.parametrize("law", [BROKEN_COMPUTE, BROKEN_DATA, BROKEN_SIZE])
def test_the_slope_turns_from_c0_to_c0_plus_c1_at_the_break(law):
    x = np.array([1e2, 1e3, 1e15, 1e16])
    above = np.log10(law.predict({law.predictors[0]: x}, TRUTH | {"E": 0.0}))
    assert above[1] - above[0] == pytest.approx(-0.1, abs=1e-6)
    assert above[3] - above[2] == pytest.approx(-0.35, abs=1e-6)
    here = law.predict({law.predictors[0]: 1e9}, TRUTH)
    assert here == pytest.approx(1.5 + 30 * 1e9**-0.1 * 2 ** (-0.25 * 0.3))


def test_planted_values_are_recovered():
    found = recovered(BROKEN_DATA, {"tokens": np.geomspace(1e6, 1e12, 40)}, TRUTH)
    assert found == pytest.approx(TRUTH, rel=0.01)


def test_a_sharp_break_does_not_overflow():
    sharp = TRUTH | {"f": 0.01}
    assert np.all(np.isfinite(BROKEN_SIZE.predict({"params": [1.0, 1e30]}, sharp)))
