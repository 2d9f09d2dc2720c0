"""Speed: measured once per device, and predictions made from it."""

from dataclasses import replace

import pytest

from data import Refused
from models import count
from scaling import Optimizer, plan, speed
from scaling.speed import (
    calibration,
    fleet_sizes,
    largest,
    measure,
    measure_fleet,
    peak_flops,
    predicted_bytes,
    predicted_seconds,
)
from scaling.train import Program
from tests.corpora import STEP, model, study_runs


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


def test_the_largest_segment_is_the_widest_on_the_largest_batch(corpus):
    runs = study_runs("wsd", corpus)[:1] + study_runs("ramp", corpus)[:1]
    wide = [replace(run, model=model(width=64)) for run in runs]
    found = largest(plan(runs + wide).segments.values())
    assert (found.config.width, found.phase.batch_tokens) == (64, 4 * STEP)
    assert predicted_bytes(found) > 16 * count(found.config).params_total


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
