"""Members of a fleet against the same segments alone, and what a fleet may cost."""

import re
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest

import scaling.train
from data import Mixture
from refused import Refused
from scaling import AdamW, Data, Evaluation, Run, Stopped, Store, Worker, make_mesh, plan, wsd
from scaling.fleet import compiled
from scaling.grouping import planned
from scaling.schedule import in_fleets
from scaling.train import Program
from tests.corpora import STEP, model, recipe, seeds, study_runs
from tests.scaling.test_trainer import process
from tests.scaling.test_zoo import ZOO, stable_rate
from tests.zoo import CONFIGS

EVALUATION = Evaluation(128)
KEEP = ("step", "tokens", "learning_rate", "batch_tokens")


def members(corpus, count: int, steps=(50,), config=None, rate=0.004) -> list[Run]:
    """Returns runs that differ in seed, rate, decay and mixture, and where asked in length."""
    mixtures = [
        Mixture.uniform(corpus.names),
        Mixture.of({"low": 0.7, "high": 0.3}),
        Mixture.of({"middle": 1.0}),
    ]
    return [
        Run(
            model=config or model(),
            data=Data.of(corpus, mixtures[i % 3]),
            optimizer=AdamW(learning_rate=rate * (1 + (i % 5) / 4), weight_decay=0.01 * (i % 2)),
            seed=i,
            phases=wsd(steps[i % len(steps)] * STEP, STEP, 5 * STEP),
        )
        for i in range(count)
    ]


def seeds_of(runs: list[Run], rate: float) -> list[Run]:
    """Returns the runs with one mixture, rate and decay, so that they differ in seed alone."""
    return [
        replace(run, data=runs[0].data, optimizer=AdamW(learning_rate=rate, weight_decay=0.01))
        for run in runs
    ]


def work(corpus, mesh, path, runs, most=None, **settings) -> Worker:
    way = None if most is None else in_fleets(lambda program: most)
    store = Store.at(path)
    worker = Worker(plan(runs), store, corpus, EVALUATION, mesh, way=way, **settings)
    worker.trained = worker.run()
    return worker


def curves(worker: Worker, name: str = "loss") -> np.ndarray:
    """Returns a record of every step of every run, [runs, steps]."""
    read = lambda run: [
        record[name]
        for segment in worker.plan.path(run.identity)
        for record in worker.store.read(segment.id, "metrics")
    ]
    return np.array([read(run) for run in worker.plan.runs])


def held_out(worker: Worker) -> list[dict]:
    return [worker.store.done(run.identity)["loss"] for run in worker.plan.runs]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_member_trains_as_it_would_alone(count, corpus, mesh, tmp_path):
    runs = members(corpus, count)
    alone = work(corpus, mesh, tmp_path / "alone", runs)
    together = work(corpus, mesh, tmp_path / "fleet", runs, most=8)
    assert together.trained == alone.trained
    np.testing.assert_allclose(curves(together), curves(alone), rtol=1e-5)
    for run in runs:
        first, second = (w.store.done(run.identity) for w in (alone, together))
        assert first.keys() == second.keys()
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
        for name in ("metrics", "eval"):
            left, right = (list(w.store.read(run.identity, name)) for w in (alone, together))
            assert [r.keys() for r in left] == [r.keys() for r in right]
            if name == "metrics":
                assert [[r[k] for k in KEEP] for r in left] == [[r[k] for k in KEEP] for r in right]
    assert not (together.store.path / "fleets").exists() or not any(
        (together.store.path / "fleets").iterdir()
    )


def test_fleets_of_one_change_no_bit(corpus, mesh, tmp_path):
    runs = study_runs("wsd", corpus)
    assert held_out(work(corpus, mesh, tmp_path / "a", runs)) == held_out(
        work(corpus, mesh, tmp_path / "b", runs, most=1)
    )


def test_trunks_branch_in_fleets_also_where_a_change_is_made(corpus, mesh, tmp_path):
    trunk, change = study_runs("wsd", corpus)[:2], study_runs("frozen", corpus)[:1]
    runs = [
        replace(run, seed=seed, optimizer=AdamW(learning_rate=0.005, weight_decay=0.01))
        for run in (*trunk, *change)
        for seed in range(3)
    ]
    alone = work(corpus, mesh, tmp_path / "alone", runs)
    together = work(corpus, mesh, tmp_path / "fleet", runs, most=8)
    for left, right in zip(held_out(alone), held_out(together), strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    assert max(f.size for f in planned(together.plan, mesh, lambda program: 8)) >= 3


def assert_ends_agree(alone: Worker, together: Worker) -> None:
    """Later differences grow chaotically: the end is judged by the spread of seeds."""
    ends = [[np.mean(list(losses.values())) for losses in held_out(w)] for w in (alone, together)]
    assert np.abs(np.subtract(*ends)).max() < np.std(ends[0], ddof=1) / 3


@pytest.mark.parametrize("count", [3, 8])
def test_the_end_agrees_within_a_third_of_the_seeds_spread(count, corpus, mesh, tmp_path):
    runs = seeds_of(members(corpus, count, steps=(120,)), 0.01)
    alone = work(corpus, mesh, tmp_path / "alone", runs)
    assert_ends_agree(alone, work(corpus, mesh, tmp_path / "fleet", runs, most=count))


@pytest.mark.parametrize("name", ZOO)
def test_every_architecture_trains_in_a_fleet_of_three(name, corpus, mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)  # The program of test_zoo's runs.
    config, rate = CONFIGS[name], stable_rate(CONFIGS[name])
    various = members(corpus, 3, (50,), config, rate)
    alike = seeds_of(members(corpus, 3, (120,), config), rate)
    alone = [work(corpus, mesh, tmp_path / "alone", runs) for runs in (various, alike)]
    for spec in ("run:1", "run:3"):
        devices, path = make_mesh(spec), tmp_path / spec
        together = [work(corpus, devices, path, runs, most=3) for runs in (various, alike)]
        for left, right in zip(together, alone, strict=True):
            np.testing.assert_allclose(curves(left)[:, :50], curves(right)[:, :50], rtol=1e-5)
        assert_ends_agree(alone[1], together[1])


def test_members_over_eight_devices_agree_and_nothing_passes_between_them(corpus, mesh, tmp_path):
    runs = members(corpus, 11)
    devices = make_mesh("run:8")
    alone = work(corpus, mesh, tmp_path / "alone", runs)
    spread = work(corpus, devices, tmp_path / "run", runs, most=16)
    np.testing.assert_allclose(curves(spread), curves(alone), rtol=1e-5)
    program = Program(recipe=runs[0].recipe, batch_tokens=STEP, mesh=devices)
    text = lowered(program, corpus, 16).compile().as_text()
    collectives = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    assert not re.search(collectives, text)


def lowered(program: Program, corpus, size: int):
    """Lowers a fleet's program for arrays of a size."""
    from data.order import Tables
    from scaling.fleet import Source, by_run, on_device
    from scaling.plan import order
    from scaling.state import initial

    run = members(corpus, 1)[0]
    tables = order(corpus, run).tables(0)
    stack = lambda x: jax.device_put(np.stack([np.asarray(x)] * size), by_run(program.mesh))
    state = jax.tree.map(stack, initial(program.recipe, 0))
    first = stack(np.uint32(0))
    source = Source(Tables(*map(stack, tables)), first, *on_device(corpus, program.mesh))
    rates = stack(np.zeros(program.dispatch_steps, np.float32))
    with jax.set_mesh(program.mesh):
        return compiled(program).lower(state, source, rates, stack(np.float32(0)), np.int32(1))


def test_a_stopped_fleet_goes_on_to_the_same_bits(corpus, mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)
    runs = members(corpus, 3, steps=(12, 20, 22)) + [
        replace(run, phases=wsd(8 * STEP, STEP, 5 * STEP)) for run in members(corpus, 2)
    ]
    whole = work(corpus, mesh, tmp_path / "whole", runs, most=8)
    stops = 0
    while stops < 100:
        try:
            cut = work(corpus, mesh, tmp_path / "cut", runs, most=8, stop_after=0.0)
            break
        except Stopped:
            stops += 1
    assert 3 < stops < 100
    assert held_out(cut) == held_out(whole)
    for left, right in zip(curves_by_run(cut), curves_by_run(whole), strict=True):
        assert left == right


def test_a_killed_fleet_goes_on_to_the_same_bits_in_a_fresh_process(
    corpus, mesh, tmp_path, monkeypatch
):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)
    where = next(iter(corpus.domains.values())).folder
    common = ("--corpus", where, "--kinds", "wsd", "--members", 3, "--stores", tmp_path)
    died = process(*common, "--kill-at", 100)
    assert died.returncode == -signal.SIGKILL, died.stderr
    ended = process(*common)
    assert ended.returncode == 0, ended.stderr
    runs = seeds(study_runs("wsd", corpus), 3)
    cut, whole = Store.at(tmp_path / "wsd"), work(corpus, mesh, tmp_path / "whole", runs, most=3)
    for run in runs:
        assert cut.done(run.identity)["loss"] == whole.store.done(run.identity)["loss"]
    assert not any((cut.path / "fleets").iterdir())


def curves_by_run(worker: Worker) -> list:
    return [
        [
            [(r["step"], r["loss"], r["grad_norm"]) for r in worker.store.read(s.id, "metrics")]
            for s in worker.plan.path(run.identity)
        ]
        for run in worker.plan.runs
    ]


def test_a_member_that_diverges_is_recorded_and_harms_no_other(corpus, mesh, tmp_path):
    good = members(corpus, 3)
    bad = replace(good[1], optimizer=AdamW(learning_rate=1e4), seed=9)
    alone = work(corpus, mesh, tmp_path / "alone", good)
    mixed = work(corpus, mesh, tmp_path / "fleet", [good[0], bad, *good[1:]], most=4)
    np.testing.assert_allclose(curves_of(mixed, good), curves(alone), rtol=1e-5)
    record = mixed.store.done(bad.identity)
    assert record["diverged_step"] is not None and record["loss"] == {}
    assert not mixed.missing()
    records = list(mixed.store.read(mixed.plan.path(bad.identity)[0].id, "metrics"))
    assert len(records) == record["diverged_step"] < 40


def curves_of(worker: Worker, runs) -> np.ndarray:
    return np.array(
        [
            [
                r["loss"]
                for s in worker.plan.path(run.identity)
                for r in worker.store.read(s.id, "metrics")
            ]
            for run in runs
        ]
    )


def test_a_program_is_compiled_once_whatever_its_members(corpus, mesh, tmp_path):
    config = model(width=24)
    compiled.cache_clear()  # Other tests may have trained this shape in fleets of another size.
    work(corpus, mesh, tmp_path / "a", members(corpus, 2, (8,), config), most=2)
    program = Program(recipe=recipe(config, AdamW(learning_rate=1.0)), batch_tokens=STEP, mesh=mesh)
    assert compiled(program)._cache_size() == 1
    others = [replace(run, seed=50 + run.seed) for run in members(corpus, 2, (10,), config)]
    work(corpus, mesh, tmp_path / "b", others, most=2)
    assert compiled(program)._cache_size() == 1


def test_a_fleet_needs_a_mesh_of_runs(corpus, tmp_path):
    with pytest.raises(Refused, match="fleet: got a mesh with data or fsdp"):
        work(corpus, make_mesh("data:2"), tmp_path, members(corpus, 2), most=2)
