"""Speed: measured once per device, and predictions made from it."""

import pytest

from data import Refused
from models import count
from scaling import Optimizer, plan, speed
from scaling.speed import (
    calibration,
    fleet_sizes,
    measure,
    measure_fleet,
    peak_flops,
    predicted_bytes,
    predicted_seconds,
)
from scaling.train import Program, compiled
from tests.corpora import model, study_runs


def test_a_calibration_is_measured_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(speed, "measure", lambda config, batch: calls.append(config) or 1e5)
    first = calibration(tmp_path)
    assert calibration(tmp_path) == first
    assert len(calls) == len(speed.CALIBRATION_WIDTHS) == len(first)
    assert first[64] == 1e5 * count(calls[1]).flops_train


def test_predictions_follow_flops_and_measured_rates(corpus):
    segments = list(plan(study_runs("wsd", corpus)).walk())
    flops = sum(s.flops for s in segments)
    assert predicted_seconds(segments, {16: 1e9, 64: 4e9}) == pytest.approx(flops / 1e9)
    assert predicted_seconds(segments, {4: 1e9, 64: 4e9}) == pytest.approx(flops / 2e9)


def test_a_real_measurement_is_a_speed():
    assert measure(model(), 256, steps=2) > 0
    peak, source = peak_flops()
    assert peak > 1e8 and "measured" in source


def test_predicted_memory_is_near_what_xla_plans(corpus, mesh):
    run = study_runs("wsd", corpus)[-1]
    from dataclasses import replace

    wide = replace(run, model=model(width=128, heads=4, depth=4))
    segment = next(plan([wide]).walk())
    program = Program.of(segment.config, wide.optimizer, segment.phase.batch_tokens, mesh)
    import jax
    import numpy as np

    from scaling.optimizer import abstract

    shape = lambda *s, dtype=np.int32: jax.ShapeDtypeStruct(s, dtype)
    steps = program.dispatch_steps
    lowered = compiled(program).lower(
        abstract(segment.config),
        shape(steps, program.sequences, segment.config.context + 1),
        shape(steps, dtype=np.float32),
        shape(dtype=np.float32),
        shape(),
    )
    planned = lowered.compile().memory_analysis()
    used = planned.temp_size_in_bytes + planned.argument_size_in_bytes
    assert 0.5 < predicted_bytes(segment) / used < 2


def test_the_fleet_size_is_measured_once_and_kept(tmp_path, monkeypatch, mesh):
    asked = []

    def measured(config, batch, size):
        asked.append(size)
        return {1: 100.0, 2: 150.0, 4: 180.0, 8: 175.0}[size]

    monkeypatch.setattr(speed, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(speed, "measure_fleet", measured)
    tiny = Program.of(model(), Optimizer(1.0), 256, mesh)
    assert fleet_sizes("auto", measuring=False)(tiny) == 0 and asked == []
    assert speed.most(tiny) == 4 and set(asked) == {1, 2, 4, 8}
    count = len(asked)
    assert speed.most(tiny) == 4 and fleet_sizes("auto", measuring=False)(tiny) == 4
    wide = Program.of(model(width=64), Optimizer(1.0), 1024, mesh)
    assert speed.most(wide) == 1 and len(asked) == count


def test_a_fleet_size_may_be_forced_and_nothing_else(mesh):
    tiny = Program.of(model(), Optimizer(1.0), 256, mesh)
    assert fleet_sizes("loop")(tiny) == 1 and fleet_sizes("12")(tiny) == 12
    with pytest.raises(Refused, match="fleet: got many; accepted: auto, loop or the largest"):
        fleet_sizes("many")


def test_a_fleet_is_measured_whole():
    assert measure_fleet(model(), 64, 2) > 0
