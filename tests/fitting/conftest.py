import numpy as np
import pytest

from fitting import Observations, fit
from fitting.held_out import split


@pytest.fixture(scope="session")
def fitted():
    runs = Observations.read("published:over_training:c4")
    mask = split(runs, "above:0.25")
    return runs.only(mask), fit("over_training", runs, held_out=mask, draws=100)


@pytest.fixture(scope="session")
def bare():
    runs = Observations.read("published:over_training:c4")
    return fit("over_training", runs.only(np.arange(len(runs)) % 7 == 0), point_only=True)
