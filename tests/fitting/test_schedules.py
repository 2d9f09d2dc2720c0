import numpy as np
import pandas as pd
import pytest

from fitting.schedules import Schedule, cosine, curves, warmup_stable_decay
from refused import Refused

JUMP = "0:0 2160:3e-4 8000:3e-4 8000:9e-5 14144:9e-5"


def test_a_schedule_reads_and_writes_itself():
    schedule = Schedule.read(JUMP)
    again = Schedule.read(schedule.text())
    assert np.array_equal(again.steps, schedule.steps)
    assert np.array_equal(again.rates, schedule.rates)
    assert schedule.rate([1080, 5000, 9000, 1e6]) == pytest.approx([1.5e-4, 3e-4, 9e-5, 9e-5])


def test_the_area_is_the_sum_of_the_rates():
    schedule = cosine(2000, 3e-4, 3e-5, warmup=200)
    every = schedule.rate(np.arange(0, 2000) + 0.5)
    assert schedule.area([2000, 1000]) == pytest.approx([every.sum(), every[:1000].sum()], rel=1e-5)


def test_changes_add_up_to_the_whole_fall():
    for schedule in (Schedule.read(JUMP), cosine(2000, 3e-4, 3e-5, warmup=200)):
        changes = schedule.changes()
        assert changes.drop.sum() == pytest.approx(schedule.rates[0] - schedule.rates[-1])
        assert np.all(np.diff(changes.step) >= 0)
    jump = Schedule.read(JUMP).changes()
    assert jump.step[-1] == 8000
    assert (jump.to[-1], jump.drop[-1]) == pytest.approx((9e-5, 2.1e-4))


def test_a_trace_of_metrics_is_the_schedule():
    whole = Schedule.read(JUMP)
    steps = np.concatenate([np.arange(2176, 7937, 128), np.arange(8000, 14145, 128)])
    rates = np.where(steps < 8000, 3e-4, 9e-5)
    trace = Schedule.trace(steps, rates, warmup=2160)
    assert trace.area([14144]) == pytest.approx(whole.area([14144]), rel=1e-12)
    assert 8000 in trace.changes().step


def test_curves_come_from_a_schedule_column_or_from_each_rows_rate():
    steps = np.array([2176.0, 5000.0, 8000.0, 9000.0])
    frame = pd.DataFrame({"trunk": "a", "step": steps, "loss": [4.0, 3.6, 3.5, 3.4]})
    (one,) = curves(frame.assign(schedule=JUMP))
    assert one.schedule.rate([9000]) == pytest.approx([9e-5]) and one.name == "a"
    (two,) = curves(frame.assign(learning_rate=[3e-4, 3e-4, 9e-5, 9e-5]), warmup=2160)
    assert two.schedule.rate([1080]) == pytest.approx([1.5e-4])
    with pytest.raises(Refused, match="schedule"):
        curves(frame)
    with pytest.raises(Refused, match="one for each run"):
        curves(frame.assign(schedule=["0:1 9:1", "0:1 9:2", "0:1 9:1", "0:1 9:1"]))


@pytest.mark.parametrize("shape", ["linear", "sqrt", "exponential"])
def test_decays_start_at_the_peak_and_end_at_the_end(shape):
    how = {"steps": 1000, "peak": 1e-3, "end": 1e-4, "share": 0.25, "warmup": 100}
    schedule = warmup_stable_decay(shape=shape, **how)
    places = [0, 100, 775, 1000]
    assert schedule.rate(places) == pytest.approx([0, 1e-3, 1e-3, 1e-4], rel=1e-9)
    assert np.all(np.diff(schedule.rates[1:]) <= 1e-18)
    assert sum(steps for steps, _, _ in schedule.pieces()) == 1000


def test_a_simpler_schedule_has_few_knots_and_the_same_rates():
    schedule = cosine(5000, 3e-4, 3e-5, warmup=500)
    few = schedule.simpler(0.005)
    every = np.arange(5001)
    assert len(few.steps) < 15 < len(schedule.steps)
    assert np.max(np.abs(few.rate(every) - schedule.rate(every))) <= 0.005 * 3e-4 * 1.001
    jump = Schedule.read(JUMP)
    assert np.array_equal(jump.simpler().steps, jump.steps)


@pytest.mark.parametrize("text", ["", "0:1", "5:1 9:1", "0:1 9:-1", "0:1 9:1 8:1", "a:b c:d"])
def test_schedules_that_do_not_read_are_refused(text):
    with pytest.raises(Refused, match="schedule"):
        Schedule.read(text)
