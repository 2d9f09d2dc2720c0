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
from scaling import (
    AdamW,
    Data,
    Evaluation,
    Phase,
    Run,
    Stopped,
    Store,
    Worker,
    checkpoint,
    constant,
    make_mesh,
    plan,
    trainer,
    wsd,
)
from scaling.fleet import compiled, resumed
from scaling.grouping import planned
from scaling.schedule import in_fleets
from scaling.train import Program
from tests.corpora import STEP, model, recipe, seeds, study_runs
from tests.rounding import NUDGES, assert_same_step, assert_same_trajectory, starts_nudged
from tests.scaling.test_trainer import process
from tests.scaling.test_zoo import stable_rate
from tests.zoo import CONFIGS, KINDS

EVALUATION = Evaluation(128)
KEEP = ("step", "tokens", "learning_rate", "batch_tokens")


@pytest.fixture(autouse=True, scope="module")
def short_dispatches(programs):
    """One program with other tests of the same shapes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling.train, "DISPATCH_STEPS", 4)
        yield


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


def work(corpus, mesh, path, runs, most=None, **settings) -> Worker:
    way = None if most is None else in_fleets(lambda program: most)
    store = Store.at(path)
    worker = Worker(plan(runs), store, corpus, EVALUATION, mesh, way=way, **settings)
    worker.trained = worker.run()
    return worker


def curves(worker: Worker, runs) -> np.ndarray:
    """Returns the loss of every step of runs of one length, [runs, steps]."""
    read = lambda run: [
        record["loss"]
        for segment in worker.plan.path(run.identity)
        for record in worker.store.metrics(segment.id)
    ]
    return np.array([read(run) for run in runs])


def held_out(worker: Worker) -> list[dict]:
    return [worker.store.done(run.identity)["loss"] for run in worker.plan.runs]


def ends(worker: Worker) -> np.ndarray:
    """Returns the held-out losses of every run, [runs, domains]."""
    return np.array([list(losses.values()) for losses in held_out(worker)])


def everything(worker: Worker, runs=None) -> np.ndarray:
    """Returns every loss of every step of runs of one length, then the held-out ones."""
    runs = runs or worker.plan.runs
    ends = [list(worker.store.done(run.identity)["loss"].values()) for run in runs]
    return np.concatenate([curves(worker, runs), ends], axis=1)


def with_nudged(corpus, mesh, path, runs, **settings) -> list[Worker]:
    """Trains runs alone, then again from starts moved by one unit in the last place."""
    workers = [work(corpus, mesh, path / "alone", runs, **settings)]
    for seed in NUDGES:
        with starts_nudged(seed):
            workers.append(work(corpus, mesh, path / f"nudged{seed}", runs, **settings))
    return workers


@pytest.fixture(scope="module")
def alone(corpus, mesh, tmp_path_factory):
    """The members of the tests below, each alone."""
    return with_nudged(corpus, mesh, tmp_path_factory.mktemp("alone"), members(corpus, 4))


def assert_as_alone(together: Worker, alone: list[Worker], runs) -> None:
    """Fails where losses differ from those of the runs alone by more than rounding."""
    reference, *moved = (everything(worker, runs) for worker in alone)
    assert_same_trajectory(everything(together, runs), reference, moved)


@pytest.mark.equality
def test_a_member_trains_as_it_would_alone(alone, corpus, mesh, tmp_path):
    runs = members(corpus, 4)
    together = work(corpus, mesh, tmp_path, runs, most=4)
    assert together.trained == len(together.plan.segments)
    assert_as_alone(together, alone, runs)
    for run in runs:
        first, second = (w.store.done(run.identity) for w in (alone[0], together))
        assert first.keys() == second.keys()
        for name in ("metrics", "evals"):
            left, right = (getattr(w.store, name)(run.identity) for w in (alone[0], together))
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


@pytest.fixture(scope="module")
def name(request, programs):
    """One architecture after the other, each with its programs."""
    yield request.param
    programs()


@pytest.mark.equality
@pytest.mark.thorough
@pytest.mark.parametrize("name", KINDS[1:], indirect=True)  # The first: above.
def test_every_kind_of_part_trains_in_a_fleet_over_two_devices(
    name, corpus, mesh, tmp_path, monkeypatch
):
    saved = {}  # States after one step, by store and segment.
    keep = lambda folder, _, state, *more: saved.update({folder: jax.tree.map(np.array, state)})
    monkeypatch.setattr(checkpoint, "save", keep)
    long = members(corpus, 4, config=CONFIGS[name], rate=stable_rate(CONFIGS[name]))
    short = [replace(run, phases=(Phase(STEP, STEP, constant()),)) for run in long]
    alone = with_nudged(corpus, mesh, tmp_path, long + short, keep_params=True)
    together = work(
        corpus, make_mesh("run:2"), tmp_path / "fleet", long + short, most=4, keep_params=True
    )
    state = lambda worker, run: saved[worker.store.folder(run.identity)]
    for run in short:
        reference, *moved = (state(worker, run) for worker in alone)
        assert_same_step(state(together, run), reference, moved)
    assert_as_alone(together, alone, long)


@pytest.mark.thorough
@pytest.mark.equality
def test_members_over_eight_devices_agree_and_nothing_passes_between_them(corpus, mesh, tmp_path):
    runs = members(corpus, 11)
    devices = make_mesh("run:8")
    alone = with_nudged(corpus, mesh, tmp_path, runs)
    assert_as_alone(work(corpus, devices, tmp_path / "fleet", runs, most=16), alone, runs)
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


def test_a_stopped_fleet_goes_on_to_the_same_bits(corpus, mesh, tmp_path):
    runs = members(corpus, 3, steps=(12, 20, 22))
    runs += [replace(runs[0], phases=wsd(8 * STEP, STEP, 5 * STEP))]
    whole = work(corpus, mesh, tmp_path / "whole", runs, most=4)
    stops = 0
    while stops < 100:
        try:
            cut = work(corpus, mesh, tmp_path / "cut", runs, most=4, stop_after=0.0)
            break
        except Stopped:
            stops += 1
    assert 3 < stops < 100
    assert held_out(cut) == held_out(whole)
    for left, right in zip(curves_by_run(cut), curves_by_run(whole), strict=True):
        assert left == right


def test_a_plan_counts_what_a_stopped_fleet_has_trained(corpus, mesh, tmp_path):
    runs = members(corpus, 3, steps=(12, 20))
    with pytest.raises(Stopped):
        work(corpus, mesh, tmp_path, runs, most=4, stop_after=0.0)
    again = Worker(plan(runs), Store.at(tmp_path), corpus, EVALUATION, mesh)
    begins = again.begins(again.missing())
    segments = again.plan.segments
    assert begins == {id: segments[id].first_step for id in begins}  # None has its own checkpoint.
    found = resumed(again, planned(again.plan, mesh, lambda program: 4), begins)
    trunks = [id for id in begins if segments[id].first_step == 0]
    lines = {id: len(again.store.metrics(id)) for id in trunks}
    assert {id: found[id] for id in trunks} == lines and min(lines.values()) > 0
    assert resumed(again, planned(again.plan, mesh, lambda program: 2), begins) == begins


@pytest.mark.system
def test_a_killed_fleet_goes_on_to_the_same_bits_in_a_fresh_process(corpus, mesh, tmp_path):
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
            [(r["step"], r["loss"], r["grad_norm"]) for r in worker.store.metrics(s.id)]
            for s in worker.plan.path(run.identity)
        ]
        for run in worker.plan.runs
    ]


def test_a_member_that_diverges_is_recorded_and_harms_no_other(alone, corpus, mesh, tmp_path):
    good = members(corpus, 3)
    bad = replace(good[1], optimizer=AdamW(learning_rate=1e4), seed=9)
    mixed = work(corpus, mesh, tmp_path, [good[0], bad, *good[1:]], most=4)
    assert_as_alone(mixed, alone, good)
    record = mixed.store.done(bad.identity)
    assert record["diverged_step"] is not None and record["loss"] == {}
    assert not mixed.missing()
    records = mixed.store.metrics(mixed.plan.path(bad.identity)[0].id)
    assert len(records) == record["diverged_step"] < 40


def test_a_program_is_compiled_once_whatever_its_members(corpus, mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "IDLE", {})  # Idle programs of other tests would end this one.
    monkeypatch.setattr(trainer, "USED", set())
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
