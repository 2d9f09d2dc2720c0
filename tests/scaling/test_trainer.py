"""Exactness of sharing, of being killed, and what the trainer does with what is there."""

import json
import logging
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import scaling.train
from models import skeleton
from refused import Refused
from scaling import (
    AdamW,
    Evaluation,
    Freeze,
    Phase,
    Stopped,
    Store,
    Worker,
    background,
    plan,
    tables,
    trainer,
    wsd,
)
from scaling import checkpoint as checkpoints
from scaling.downstream import Item, Task
from scaling.progress import Silent
from tests.corpora import KINDS, STEP, recipe, study_runs
from tests.tiers import mostly

EVALUATION = Evaluation(128)


def work(corpus, mesh, path, runs, **settings) -> Worker:
    worker = Worker(plan(runs), Store.at(path), corpus, EVALUATION, mesh, **settings)
    worker.trained = worker.run()
    return worker


def end_state(worker: Worker, run):
    """Returns the parameters and moments kept at a run's end."""
    folder = worker.store.folder(run.identity)
    state, _ = checkpoints.restore(folder, run.recipe_at(-1), worker.mesh)
    return checkpoints.to_tree(state)


def curve(worker: Worker, run) -> list[tuple]:
    """Returns step, loss and gradient norm along a run."""
    return [
        (r["step"], r["loss"], r["grad_norm"])
        for segment in worker.plan.path(run.identity)
        for r in worker.store.metrics(segment.id)
    ]


def losses(worker: Worker) -> dict:
    """Returns the held-out losses of every run."""
    return {run.identity: worker.store.done(run.identity)["loss"] for run in worker.plan.runs}


def assert_equal_bits(left, right) -> None:
    import jax

    paths = jax.tree_util.tree_leaves_with_path(left)
    others = jax.tree.leaves(right)
    assert len(paths) == len(others)
    for (path, a), b in zip(paths, others, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b)), path


class Interrupt(Silent):
    """Ends the worker once so many steps have been seen."""

    def __init__(self, at: int):
        self.steps, self.at = 0, at

    def update(self, segment, step, loss, speed):
        self.steps += scaling.train.DISPATCH_STEPS
        if self.steps >= self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", mostly(KINDS, ("wsd",)))
def test_a_run_through_the_tree_equals_the_run_alone_and_one_interrupted(
    kind, corpus, mesh, tmp_path, monkeypatch
):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)
    runs = study_runs(kind, corpus)
    shared = work(corpus, mesh, tmp_path / "shared", runs, keep_params=True)
    assert len(losses(shared)) == len(runs)
    trained = sum(shared.store.done(id)["tokens"] for id in shared.plan.segments)
    assert trained == shared.plan.tokens < sum(run.tokens for run in runs)
    for index, run in enumerate(runs):
        alone = work(corpus, mesh, tmp_path / f"alone{index}", [run], keep_params=True)
        assert curve(alone, run) == curve(shared, run)
        assert [step for step, *_ in curve(alone, run)] == list(range(1, run.steps + 1))
        assert losses(alone)[run.identity] == losses(shared)[run.identity]
        assert_equal_bits(end_state(alone, run), end_state(shared, run))
    ends = [json.dumps(losses(shared)[run.identity]) for run in runs]
    assert len(set(ends)) == len(runs)
    steps = sum(segment.steps for segment in shared.plan.segments.values())
    stop = Interrupt(random.Random(kind).randrange(8, steps))
    with pytest.raises(KeyboardInterrupt):
        work(corpus, mesh, tmp_path / "cut", runs, checkpoint_seconds=0.0, progress=stop)
    assert_equal_records(work(corpus, mesh, tmp_path / "cut", runs), shared)


def process(*args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tests.scaling.processes", *map(str, args)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def assert_equal_records(cut: Worker, whole: Worker) -> None:
    """Compares all that two stores have of every segment of a plan, but for the times."""
    keep = ("step", "loss", "grad_norm", "learning_rate", "tokens")
    for id in whole.plan.segments:
        first, second = (worker.store.done(id) for worker in (cut, whole))
        assert first["loss"] == second["loss"]
        assert first["train_loss"] == second["train_loss"]
        left, right = (
            [[r[k] for k in keep] for r in worker.store.metrics(id)] for worker in (cut, whole)
        )
        assert left == right


@pytest.mark.system
def test_a_killed_run_resumed_in_a_fresh_process_equals_the_uninterrupted_one(
    corpus, mesh, tmp_path, monkeypatch
):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)
    where, kind = next(iter(corpus.domains.values())).folder, "grown"
    common = ("--corpus", where, "--stores", tmp_path / "cut", "--kinds", kind)
    whole = work(corpus, mesh, tmp_path / "whole", study_runs(kind, corpus))
    steps = sum(segment.steps for segment in whole.plan.segments.values())
    died = process(*common, "--kill-at", random.Random(0).randrange(steps * 2 // 3, steps))
    assert died.returncode == -signal.SIGKILL, died.stderr
    resumed = process(*common)
    assert resumed.returncode == 0, resumed.stderr
    # What was there when the process died is not trained again.
    assert json.loads(resumed.stdout)[kind] < len(whole.plan.segments)
    store = Store.at(tmp_path / "cut" / kind)
    assert_equal_records(Worker(whole.plan, store, corpus, EVALUATION, mesh), whole)
    assert not any((store.folder(id) / "checkpoint").exists() for id in whole.plan.segments)


def test_a_second_run_trains_nothing_and_compiles_nothing(corpus, mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "IDLE", {})  # Idle programs of other tests would end this one.
    monkeypatch.setattr(trainer, "USED", set())
    runs = study_runs("wsd", corpus)
    first = work(corpus, mesh, tmp_path, runs)
    assert first.trained == len(first.plan.segments)
    compiled = scaling.train.compiled.cache_info().misses
    program = scaling.train.Program(recipe=runs[0].recipe, batch_tokens=STEP, mesh=mesh)
    launches = scaling.train.compiled(program)._cache_size()
    again = work(corpus, mesh, tmp_path, runs)
    assert again.trained == 0
    swept = [
        replace(run, seed=8, optimizer=AdamW(learning_rate=0.02, weight_decay=0.05)) for run in runs
    ]
    other = work(corpus, mesh, tmp_path, swept)
    assert other.trained == len(first.plan.segments)
    assert scaling.train.compiled.cache_info().misses == compiled
    assert scaling.train.compiled(program)._cache_size() == launches


def test_stopping_in_time_is_clean_and_goes_on(corpus, mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)
    runs = study_runs("wsd", corpus)
    with pytest.raises(Stopped, match="stopped at step"):
        work(corpus, mesh, tmp_path / "cut", runs, stop_after=0.0)
    stopped = Worker(plan(runs), Store.at(tmp_path / "cut"), corpus, EVALUATION, mesh)
    assert len(stopped.missing()) == len(stopped.plan.segments)
    goes_on = work(corpus, mesh, tmp_path / "cut", runs)
    whole = work(corpus, mesh, tmp_path / "whole", runs)
    assert losses(goes_on) == losses(whole)


def test_a_diverging_run_is_recorded_and_stops_only_itself(corpus, mesh, tmp_path):
    good = study_runs("wsd", corpus)
    bad = [replace(run, optimizer=AdamW(learning_rate=1e4)) for run in good]
    worker = work(corpus, mesh, tmp_path, bad + good)
    for run in bad:
        record = worker.store.done(run.identity)
        assert record["diverged_step"] is not None
        assert record["loss"] == {}
    for run in good:
        assert worker.store.done(run.identity)["diverged_step"] is None
    assert work(corpus, mesh, tmp_path, bad + good).trained == 0
    runs, _ = tables(worker.plan, worker.store, corpus, EVALUATION)
    assert runs["diverged_step"].notna().sum() == len(bad)
    assert runs["loss"].notna().sum() == len(good)


def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    corpus, mesh, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)
    monkeypatch.setattr(background, "busy", lambda: False)  # So that none is left out.
    runs = study_runs("wsd", corpus)[:1]

    with pytest.raises(KeyboardInterrupt):
        work(corpus, mesh, tmp_path / "cut", runs, checkpoint_seconds=0.0, progress=Interrupt(12))
    first = next(iter(plan(runs).segments))
    saved = sorted((tmp_path / "cut" / "segments" / first / "checkpoint").iterdir())
    steps = sorted(int(folder.name) for folder in saved if folder.name.isdecimal())
    assert len(steps) == 2
    newest = tmp_path / "cut" / "segments" / first / "checkpoint" / str(steps[-1])
    for file in newest.rglob("*"):
        if file.is_file() and file.stat().st_size > 1:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        resumed = work(corpus, mesh, tmp_path / "cut", runs)
    assert f"{first}/checkpoint/{steps[-1]} is damaged" in caplog.text
    whole = work(corpus, mesh, tmp_path / "whole", runs)
    assert losses(resumed) == losses(whole)
    assert curve(resumed, runs[0]) == curve(whole, runs[0])


def test_a_resume_under_another_environment_warns(corpus, mesh, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)
    runs = study_runs("wsd", corpus)[:1]
    with pytest.raises(Stopped):
        work(corpus, mesh, tmp_path, runs, stop_after=0.0)
    from scaling import environment

    other = environment.environment() | {"cpus": 999}
    monkeypatch.setattr(environment, "environment", lambda: other)
    with caplog.at_level(logging.WARNING):
        work(corpus, mesh, tmp_path, runs)
    assert "resumes under another environment (cpus" in caplog.text


def test_an_evaluation_can_be_added_to_what_is_trained(corpus, mesh, tmp_path):
    runs = study_runs("wsd", corpus)[:1]
    first = work(corpus, mesh, tmp_path, runs, keep_params=True)
    task = Task("which", (Item("<=>", ("?@A", "xyz"), 0),))
    more = Evaluation(256, everywhere=True, tasks=(task,))
    worker = Worker(plan(runs), Store.at(tmp_path), corpus, more, mesh, keep_params=True)
    assert worker.missing() == set(worker.plan.segments)
    before = (tmp_path / "segments" / runs[0].identity / "metrics.jsonl").read_text()
    worker.run()
    assert worker.missing() == set()
    ends, inside = tables(worker.plan, worker.store, corpus, more)
    assert len(ends) == 1 and len(inside) == 1
    assert inside["loss"].item() > ends["loss"].item()
    assert ends["items.which"].item() == 1 and ends["answer_nats.which"].item() > 0
    assert "items.which" not in inside or inside["items.which"].isna().all()
    # The first evaluation is still there, and the curve was not written twice.
    assert first.missing() == set()
    assert (tmp_path / "segments" / runs[0].identity / "metrics.jsonl").read_text() == before


def test_tasks_in_several_processes_are_refused_before_training(
    corpus, mesh, tmp_path, monkeypatch
):
    task = Task("which", (Item("<=>", ("?@A", "xyz"), 0),))
    runs, asked = study_runs("wsd", corpus)[:1], Evaluation(256, tasks=(task,))
    worker = Worker(plan(runs), Store.at(tmp_path), corpus, asked, mesh)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(Refused, match="tasks: got 2 processes; accepted: one process"):
        worker.run()
    assert not any(tmp_path.glob("segments/*"))


def test_a_phase_of_no_tokens_shows_the_state_right_after_its_change(corpus, mesh, tmp_path):
    base = study_runs("wsd", corpus)[0]
    trunk = replace(base, phases=base.phases[:1])
    probe = replace(trunk, phases=(*trunk.phases, Phase(0, STEP, change=Freeze("embedding.*"))))
    worker = work(corpus, mesh, tmp_path, [trunk, probe])
    records = [worker.store.done(run.identity) for run in (trunk, probe)]
    assert records[0]["loss"] == records[1]["loss"] != {}
    assert records[1]["tokens"] == 0 and records[1]["parent"] == trunk.identity
    assert work(corpus, mesh, tmp_path, [trunk, probe]).trained == 0


def test_a_phase_may_start_with_fresh_optimizer_state(corpus, mesh, tmp_path):
    base = study_runs("wsd", corpus)[0]
    stable, cooled = base.phases
    kept = replace(base, phases=(stable, cooled))
    reset = replace(base, phases=(stable, replace(cooled, keep_optimizer=False)))
    worker = work(corpus, mesh, tmp_path, [kept, reset], keep_params=True)
    counts = [
        {int(moments["count"]) for moments in end_state(worker, run)["moments"].values()}
        for run in (kept, reset)
    ]
    assert counts == [{base.steps}, {cooled.steps}]
    assert len(set(map(str, losses(worker).values()))) == 2


def test_a_short_leaf_leaves_four_files(corpus, mesh, tmp_path):
    worker = work(corpus, mesh, tmp_path, study_runs("wsd", corpus))
    for run in worker.plan.runs:
        names = sorted(f.name for f in worker.store.folder(run.identity).iterdir())
        assert names == ["done.json", "eval.jsonl", "metrics.jsonl", "spec.json"]


def test_a_dispatch_of_no_steps_changes_no_bit(corpus, mesh):
    run = study_runs("wsd", corpus)[0]
    program = scaling.train.Program(
        recipe=recipe(replace(run.model, depth=1)), batch_tokens=STEP, mesh=mesh
    )
    from scaling.state import initial

    state = scaling.train.on_mesh(program, initial(program.recipe, 0))
    before = {path: np.asarray(x) for path, x in state.params.items()}
    after = scaling.train.warm(program, state)
    for path in skeleton(program.config).params:
        np.testing.assert_array_equal(before[path], after.params[path])


def test_the_wsd_combinator_gives_what_the_tests_train():
    stable, cooled = wsd(60 * STEP, STEP, 5 * STEP)
    assert (stable.steps, cooled.steps) == (48, 12)


@pytest.mark.thorough
def test_a_program_is_let_go_when_no_segment_waits_for_it_and_not_before(
    corpus, mesh, tmp_path, monkeypatch
):

    monkeypatch.setattr(trainer, "IDLE", {})
    monkeypatch.setattr(trainer, "USED", set())
    monkeypatch.setattr(trainer, "MOST_IDLE", 0)
    gone = []
    let_go = trainer.let_go
    monkeypatch.setattr(trainer, "let_go", lambda program: (gone.append(program), let_go(program)))
    base = study_runs("wsd", corpus)[0]
    other = replace(base, model=replace(base.model, depth=2))
    runs = [base, other, replace(base, seed=8)]
    programs = [
        scaling.train.Program(recipe=run.recipe, batch_tokens=STEP, mesh=mesh) for run in runs[:2]
    ]
    work(corpus, mesh, tmp_path / "a", runs)
    assert gone == programs[1:]  # The first is needed again after the second; then all goes.
    assert [scaling.train.compiled(p)._cache_size() for p in programs] == [0, 0]
    monkeypatch.setattr(trainer, "MOST_IDLE", 2)
    work(corpus, mesh, tmp_path / "b", [replace(run, seed=run.seed + 50) for run in runs])
    assert [scaling.train.compiled(p)._cache_size() for p in programs] == [1, 1]
