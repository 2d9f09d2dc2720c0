"""Speed: measured once per device, and predictions made from it."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from data import Mixture
from models import count
from refused import Refused
from scaling import AdamW, Data, Run, plan, speed, wsd
from scaling.speed import (
    calibration,
    fleet_sizes,
    largest,
    measure,
    peak_flops,
    predicted_bytes,
    predicted_seconds,
    timed,
    training_bytes,
)
from scaling.state import initial
from scaling.train import WINDOW_TYPE, Program, compiled, let_go, on_mesh, place_windows
from tests.corpora import STEP, model, recipe, study_runs
from tests.scaling.test_golden import BATCH as GOLDEN
from tests.tiers import mostly
from tests.zoo import CONFIGS


def test_a_calibration_is_measured_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(speed, "measure", lambda recipe, batch: calls.append(recipe) or 1e5)
    first = calibration(tmp_path)
    assert calibration(tmp_path) == first
    assert len(calls) == len(speed.CALIBRATION_WIDTHS) == len(first)
    assert first[64] == 1e5 * count(calls[1].model).flops_train


def test_predictions_follow_flops_and_measured_rates(corpus):
    segments = list(plan(study_runs("wsd", corpus)).walk())
    flops = sum(s.flops for s in segments)
    assert predicted_seconds(segments, {16: 1e9, 64: 4e9}) == pytest.approx(flops / 1e9)
    assert predicted_seconds(segments, {4: 1e9, 64: 4e9}) == pytest.approx(flops / 2e9)


def test_a_real_measurement_is_a_speed():
    assert measure(recipe(model()), 256, steps=2) > 0
    peak, source = peak_flops()
    assert peak > 1e8 and "measured" in source


def test_the_largest_segment_is_the_widest_on_the_largest_batch(corpus):
    runs = study_runs("wsd", corpus)[:1] + study_runs("ramp", corpus)[:1]
    wide = [replace(run, model=model(width=64)) for run in runs]
    found = largest(plan(runs + wide).segments.values())
    assert (found.config.width, found.phase.batch_tokens) == (64, 4 * STEP)
    assert predicted_bytes(found) > 16 * count(found.config).params_total


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Fleets of a device on which 2 members are slower than 1, and 16 and 32 the fastest."""
    asked = []
    speeds = {1: 100.0, 2: 90.0, 4: 150.0, 8: 149.0, 16: 180.0, 32: 181.0, 64: 10.0}

    def timed(config, batch, size):
        asked.append(size)
        return lambda: speeds[size]

    monkeypatch.setattr(speed, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(speed, "timed", timed)
    return asked


def test_the_fleet_size_is_measured_once_and_kept(measured, mesh):
    tiny = Program(recipe=recipe(model()), batch_tokens=64, mesh=mesh)
    assert speed.most(tiny, measuring=False) == 0 and measured == []
    assert speed.most(tiny) == 16 and measured == [1, 2, 4, 8, 16, 32, 64]
    assert speed.most(tiny) == 16 and speed.most(tiny, measuring=False) == 16
    wide = Program(recipe=recipe(model(width=128)), batch_tokens=1024, mesh=mesh)
    assert speed.most(wide) == 1 and measured[7:] == [1, 2]


def test_memory_is_traced_once_for_a_recipe_a_batch_and_the_code(corpus, tmp_path, monkeypatch):
    segment = next(plan(study_runs("wsd", corpus)).walk())
    *_, other = plan(study_runs("ramp", corpus)).walk()  # Of a larger batch.
    traced = []
    monkeypatch.setattr(speed, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(speed, "training_bytes", lambda *given: traced.append(given) or len(traced))
    assert [predicted_bytes(some) for some in (segment, other) * 2] == [1, 2, 1, 2]
    monkeypatch.setattr(speed, "code", lambda: "of another commit")
    assert predicted_bytes(segment) == 3
    for file in tmp_path.glob("memory/*"):
        file.write_text(file.read_text().replace('"bytes": 3', '"bytes": 7'))
    assert predicted_bytes(segment) == 4 == predicted_bytes(segment)
    monkeypatch.setattr(speed, "cache_folder", lambda: next(tmp_path.glob("memory/*")))  # A file.
    assert [predicted_bytes(segment) for _ in range(2)] == [5, 6]


def test_sizes_are_compared_within_a_turn(monkeypatch):
    slowed = iter(np.repeat([1.0, 0.1, 0.5] * 9, 2))  # What else the device does, turn by turn.
    own = {1: 100.0, 4: 125.0}
    timed = lambda config, batch, size: lambda: own[size] * next(slowed)
    monkeypatch.setattr(speed, "timed", timed)
    found = speed.typical(speed.fleet_speeds(recipe(model()), 64, (1, 4)))
    assert found == pytest.approx({1: 50.0, 4: 62.5})


def test_sizes_that_memory_does_not_hold_are_left_out(monkeypatch):
    def full(config, batch, size):
        if size > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return lambda: 100.0 * size

    monkeypatch.setattr(speed, "timed", full)
    found = speed.typical(speed.fleet_speeds(recipe(model()), 64, (1, 2, 4, 8)))
    assert found == pytest.approx({1: 100.0, 2: 200.0})


def test_fleets_are_measured_where_training_takes_long_enough(measured, corpus, mesh, monkeypatch):
    segments = list(plan(study_runs("wsd", corpus)).walk())
    programs = {
        Program(recipe=s.recipe, batch_tokens=s.phase.batch_tokens, mesh=mesh) for s in segments
    }
    (program,) = programs
    assert fleet_sizes("auto", segments, mesh)(program) == 1 and measured == []
    monkeypatch.setattr(speed, "CPU_FLEET_FLOPS", sum(s.flops for s in segments))
    assert fleet_sizes("auto", segments, mesh)(program) == 16 and measured


def test_a_fleet_size_may_be_forced_and_nothing_else(mesh):
    tiny = Program(recipe=recipe(model()), batch_tokens=256, mesh=mesh)
    assert fleet_sizes("loop", (), mesh)(tiny) == 1 and fleet_sizes("12", (), mesh)(tiny) == 12
    with pytest.raises(Refused, match="fleet: got many; accepted: auto, loop or the largest"):
        fleet_sizes("many", (), mesh)


def test_a_fleet_is_measured_whole():
    assert timed(recipe(model()), 64, 2)() > 0


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": "x"}', '{"a": 0}'])
def test_a_damaged_file_of_fleet_sizes_is_named_and_counts_as_nothing(text, tmp_path, caplog):
    file = tmp_path / "sizes.json"
    assert speed.measured(file) == {}
    file.write_text('{"a": 4}')
    assert speed.measured(file) == {"a": 4}
    file.write_text(text)
    assert speed.measured(file) == {} and f"{file} is damaged" in caplog.text


@pytest.mark.parametrize("name", mostly(CONFIGS, ("default",)))
def test_predicted_memory_is_near_what_xla_plans(name, corpus, mesh):
    # The programs of the golden table, which are then compiled once for both.
    run = Run(
        model=CONFIGS[name],
        data=Data.of(corpus, Mixture.uniform(corpus.names)),
        optimizer=AdamW(learning_rate=0.01),
        seed=1,
        phases=wsd(2560, GOLDEN, 256),
    )
    segment = next(plan([run]).walk())
    program = Program(recipe=run.recipe, batch_tokens=GOLDEN, mesh=mesh)
    steps = program.dispatch_steps
    windows = np.zeros((steps, program.sequences, segment.config.context + 1), WINDOW_TYPE)
    with jax.set_mesh(mesh):
        lowered = compiled(program).lower(
            on_mesh(program, initial(run.recipe, 0)),
            place_windows(mesh, windows),
            np.zeros(steps, np.float32),
            np.float32(0),
            np.int32(steps),
        )
    planned = lowered.compile().memory_analysis()
    used = planned.temp_size_in_bytes + planned.argument_size_in_bytes
    assert 2 / 3 < training_bytes(segment.recipe, GOLDEN) / used < 3 / 2
    let_go(program)
