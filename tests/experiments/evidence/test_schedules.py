"""The schedule that a law likes best is trained as a chain of phases."""

import numpy as np
import pytest

from data import Mixture
from experiments.evidence.schedules import phases
from fitting.schedule_optimum import best_schedule
from fitting.schedules import Schedule
from refused import Refused
from scaling import AdamW, Data, Evaluation, Run, Store, Worker, plan
from tests.corpora import STEP, model
from tests.fitting.test_schedule_laws import MPL


def test_the_best_schedule_runs_as_phases():
    schedule = best_schedule("multi_power", MPL, steps=4000, peak=3e-4, end=3e-5, warmup=400)
    chain = phases(schedule, batch_tokens=512)
    assert sum(phase.tokens for phase in chain) == 4000 * 512 and len(chain) < 15
    rates = np.concatenate([phase.rates(0, phase.steps) for phase in chain])
    wanted = schedule.rate(np.arange(4000) + 0.5) / 3e-4
    assert np.max(np.abs(rates - wanted)) < 0.01


def test_a_run_trains_under_the_best_schedule(corpus, mesh, tmp_path):
    best = best_schedule("multi_power", MPL, steps=4000, peak=3e-4, end=3e-5, warmup=400)
    schedule = Schedule(best.steps / 50, 10 * best.rates)  # The same shape, in 80 steps.
    data = Data.of(corpus, Mixture.uniform(corpus.names))
    config = model(depth=1)
    how = {"data": data, "optimizer": AdamW(learning_rate=3e-3), "seed": 0}
    run = Run(model=config, phases=phases(schedule, STEP, 0.05), **how)
    worker = Worker(plan([run]), Store.at(tmp_path), corpus, Evaluation(128), mesh)
    worker.run()
    path = worker.plan.path(run.identity)
    rows = [row for segment in path for row in worker.store.metrics(segment.id)]
    assert len(path) == len(run.phases) > 2 and [row["step"] for row in rows][-1] == 80
    steps = np.array([row["step"] for row in rows]) - 0.5
    rates = np.array([row["learning_rate"] for row in rows])
    # Within the tolerance of the knots and one step of the warm-up.
    assert np.max(np.abs(rates - schedule.rate(steps))) < 3e-3 * (0.05 + 1 / 8)
    assert rates.max() > 2.5e-3 and rates[-1] < 6e-4


def test_a_constant_stretch_is_one_phase_that_branches_can_share():
    schedule = Schedule.read("0:0 100:1e-3 500:1e-3 600:0")
    warmup, stable, decay = phases(schedule, batch_tokens=4)
    assert stable.prefix_closed and stable.rate.start == 1.0
    assert (warmup.steps, stable.steps, decay.steps) == (100, 400, 100)
    with pytest.raises(Refused, match="highest rate"):
        phases(Schedule.read("0:0 9:0"), 4)
