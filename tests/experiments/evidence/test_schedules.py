"""The schedule that a law likes best is trained as a chain of phases."""

import numpy as np
import pytest

from experiments.evidence.schedules import phases
from fitting.schedule_optimum import best_schedule
from fitting.schedules import Schedule
from refused import Refused
from tests.fitting.test_schedule_laws import MPL


def test_the_best_schedule_runs_as_phases():
    schedule = best_schedule("multi_power", MPL, steps=4000, peak=3e-4, end=3e-5, warmup=400)
    chain = phases(schedule, batch_tokens=512)
    assert sum(phase.tokens for phase in chain) == 4000 * 512 and len(chain) < 15
    rates = np.concatenate([phase.rates(0, phase.steps) for phase in chain])
    wanted = schedule.rate(np.arange(4000) + 0.5) / 3e-4
    assert np.max(np.abs(rates - wanted)) < 0.01


def test_a_constant_stretch_is_one_phase_that_branches_can_share():
    schedule = Schedule.read("0:0 100:1e-3 500:1e-3 600:0")
    warmup, stable, decay = phases(schedule, batch_tokens=4)
    assert stable.prefix_closed and stable.rate.start == 1.0
    assert (warmup.steps, stable.steps, decay.steps) == (100, 400, 100)
    with pytest.raises(Refused, match="highest rate"):
        phases(Schedule.read("0:0 9:0"), 4)
