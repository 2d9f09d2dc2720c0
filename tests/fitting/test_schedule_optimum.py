import numpy as np
import pytest

from fitting.schedule_laws import predict_curve
from fitting.schedule_optimum import best_schedule, compared
from refused import Refused
from tests.fitting.test_schedule_laws import MPL, TISSUE, every_step

HOW = {"steps": 4000, "peak": 3e-4, "end": 3e-5, "warmup": 400}


@pytest.mark.parametrize(("law", "truth"), [("multi_power", MPL), ("momentum", TISSUE)])
def test_the_best_schedule_beats_cosine_and_every_decay_of_a_sweep(law, truth):
    table = compared(law, truth, **HOW)
    assert table["schedule"][0] == "best" and len(table) == 35
    assert table["loss"][0] < table["loss"][1] - 1e-5


def test_its_gain_is_not_one_of_coarse_sums():
    schedule = best_schedule("multi_power", MPL, **HOW)
    summed = predict_curve("multi_power", MPL, schedule, [4000.0])
    assert every_step(MPL, schedule, 4000) == pytest.approx(summed[0], abs=1e-4)


def test_it_rises_once_falls_and_keeps_to_its_bounds():
    schedule = best_schedule("multi_power", MPL, **HOW)
    assert schedule.steps[0] == 0 and schedule.steps[-1] == 4000
    assert schedule.rate([0, 200, 400]) == pytest.approx([0, 1.5e-4, 3e-4])
    assert np.all(np.diff(schedule.rates[1:]) <= 1e-15)
    assert schedule.rates[1:].min() >= 3e-5 - 1e-12
    # Each straight piece is a phase: a number of steps, and the rates it starts and ends at.
    assert sum(steps for steps, _, _ in schedule.pieces()) == 4000


@pytest.mark.parametrize("change", [{"end": 0.0}, {"end": 1.0}, {"warmup": 5000}])
def test_rates_and_steps_that_do_not_order_are_refused(change):
    with pytest.raises(Refused):
        best_schedule("multi_power", MPL, **{**HOW, **change})
    with pytest.raises(Refused, match="multi_power"):
        best_schedule("cosine", MPL, **HOW)
