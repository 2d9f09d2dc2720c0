"""Several workers on one store: the same table as one worker's, and nothing left behind."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scaling.train
from scaling import AdamW, Evaluation, Stopped, Store, Worker, plan, tables
from scaling.leases import Leases
from scaling.progress import Silent
from scaling.sharing import Sharing
from tests.corpora import seeds, study_runs
from tests.scaling.processes import SEEDS

EVALUATION = Evaluation(128)
TIMES = ["seconds", "tokens_per_second"]


@pytest.fixture(autouse=True)
def short_dispatches(monkeypatch):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)


def work(corpus, mesh, path, runs, shared=True, **settings) -> Worker:
    """Trains runs into a store, as one of several workers or as the only one."""
    worker = Worker(plan(runs), Store.at(path), corpus, EVALUATION, mesh, **settings)
    if not shared:
        worker.run()
        return worker
    with Leases(worker.store) as leases:
        worker.way = Sharing(leases)
        worker.run()
    return worker


def table(worker: Worker) -> pd.DataFrame:
    """Returns the run table without its times."""
    runs, _ = tables(worker.plan, worker.store, worker.corpus, worker.evaluation)
    return runs.drop(columns=TIMES)


def steps(worker: Worker) -> dict[str, list]:
    """Returns the training losses of every segment by step."""
    return {
        id: [(r["step"], r["loss"], r["grad_norm"]) for r in worker.store.metrics(id)]
        for id in worker.plan.segments
    }


def assert_nothing_is_left(path: Path) -> None:
    assert list((path / "leases").iterdir()) == []
    assert [file.name for file in (path / "workers").iterdir()] in ([], [".lock"])
    assert list(path.rglob("checkpoint")) == []


@pytest.fixture(scope="module")
def alone(corpus, mesh, tmp_path_factory):
    """The study that the tests share, trained by a single worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling.train, "DISPATCH_STEPS", 4)
        runs = seeds(study_runs("wsd", corpus), SEEDS)
        return work(corpus, mesh, tmp_path_factory.mktemp("alone"), runs, shared=False)


@pytest.mark.system
def test_three_workers_two_of_them_killed_give_the_table_of_one(alone, corpus, mesh, tmp_path):
    gate = tmp_path / "gate"
    gate.mkdir()
    where = next(iter(corpus.domains.values())).folder
    common = ["--corpus", where, "--stores", tmp_path, "--kinds", "wsd", "--gate", gate]
    command = [sys.executable, "-m", "tests.scaling.processes", *common, "--together", "3"]
    started = [
        subprocess.Popen(
            [*map(str, command), *extra],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for extra in (["--kill-at", "8"], ["--terminate-at", "4"], [])
    ]
    said = [process.communicate(timeout=300) for process in started]
    codes = [process.returncode for process in started]
    assert codes == [-signal.SIGKILL, 0, 0], said
    _, (stopped, *_), (healthy, messages) = said
    told = [json.loads(line) for line in stopped.splitlines()]
    assert "stopped at step 8 of 12" in told[0]["stopped"]
    assert "taken over" in messages  # From the killed worker, in the middle of a segment.
    finished = [*told[1]["finished"], *json.loads(healthy)["finished"]]
    assert len(finished) == len(set(finished))
    shared = Worker(alone.plan, Store.at(tmp_path / "wsd"), corpus, EVALUATION, mesh)
    assert set(finished) == set(shared.plan.segments)
    pd.testing.assert_frame_equal(table(shared), table(alone), check_exact=True)
    assert steps(shared) == steps(alone)
    assert_nothing_is_left(tmp_path / "wsd")


def test_a_single_sharing_worker_gives_the_table_of_one_that_does_not(
    alone, corpus, mesh, tmp_path
):
    shared = work(corpus, mesh, tmp_path, alone.plan.runs)
    pd.testing.assert_frame_equal(table(shared), table(alone), check_exact=True)
    assert sorted(shared.way.trained) == sorted(shared.plan.segments)
    assert_nothing_is_left(tmp_path)
    again = work(corpus, mesh, tmp_path, alone.plan.runs)
    assert again.way.trained == []


def test_a_trunk_is_trained_again_only_where_a_branch_needs_its_end(alone, corpus, mesh, tmp_path):
    first = work(corpus, mesh, tmp_path, alone.plan.runs[:2])
    more = work(corpus, mesh, tmp_path, alone.plan.runs[:3])
    new = set(more.plan.segments) - set(first.plan.segments)
    assert set(more.way.trained) == new and len(new) == 2
    expected = table(alone)[: len(more.plan.runs)]
    pd.testing.assert_frame_equal(table(more), expected, check_exact=True)
    assert_nothing_is_left(tmp_path)


def test_an_end_state_that_cannot_be_read_is_made_again(alone, corpus, mesh, tmp_path, caplog):
    class Damage(Silent):
        """Damages every checkpoint and ends, once the first trunk segment is finished."""

        def finish(self, segment, losses):
            for file in tmp_path.rglob("checkpoint/*/state/**/*"):
                if file.is_file():
                    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            raise KeyboardInterrupt

    runs = alone.plan.runs[:3]
    with pytest.raises(KeyboardInterrupt):
        work(corpus, mesh, tmp_path, runs, progress=Damage())
    assert list(tmp_path.rglob("checkpoint/*/state")) != []
    assert list((tmp_path / "leases").iterdir()) == []
    first = next(plan(runs).walk()).id
    assert Store.at(tmp_path).done(first) is not None
    worker = work(corpus, mesh, tmp_path, runs)
    assert f"{first}/checkpoint/12 is damaged" in caplog.text
    assert sorted(worker.way.trained) == sorted(set(worker.plan.segments) - {first})
    pd.testing.assert_frame_equal(table(worker), table(alone)[:3], check_exact=True)
    assert_nothing_is_left(tmp_path)


def test_a_worker_told_to_stop_leaves_a_checkpoint_that_gives_the_same_record(
    alone, corpus, mesh, tmp_path
):
    runs, told = alone.plan.runs[:1], []

    class Tell(Silent):
        """Stops the worker at the last dispatch of every segment."""

        def update(self, segment, step, loss, speed):
            if step == segment.run.steps - 4:
                worker.way.stop()

    for _ in range(3):
        store = Store.at(tmp_path)
        worker = Worker(plan(runs), store, corpus, EVALUATION, mesh, progress=Tell())
        with Leases(store) as leases:
            worker.way = Sharing(leases)
            try:
                worker.run()
            except Stopped as stopped:
                told.append(str(stopped))
        assert list((tmp_path / "leases").iterdir()) == []
    assert told and "stopped at step 12 of 12" in told[0]
    pd.testing.assert_frame_equal(table(worker), table(alone)[:1], check_exact=True)


def test_an_error_of_a_worker_that_has_its_lease_is_told(alone, corpus, mesh, tmp_path):
    class Full(Silent):
        def update(self, segment, step, loss, speed):
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        work(corpus, mesh, tmp_path, alone.plan.runs, progress=Full())
    assert_nothing_is_left(tmp_path)


def test_what_follows_a_diverged_segment_is_recorded_once(corpus, mesh, tmp_path):
    from dataclasses import replace

    bad = [replace(run, optimizer=AdamW(learning_rate=1e4)) for run in study_runs("wsd", corpus)]
    worker = work(corpus, mesh, tmp_path, bad)
    assert sorted(worker.way.trained) == sorted(worker.plan.segments)
    assert all(worker.store.done(id)["diverged_step"] is not None for id in worker.plan.segments)
    assert np.isnan(table(worker)["loss"]).all()
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("shown_by", ["check", "error"])
def test_a_worker_that_lost_its_lease_leaves_the_segment_to_the_other(
    shown_by, alone, corpus, mesh, tmp_path, monkeypatch, caplog
):
    runs = alone.plan.runs[:1]
    thief = Leases(Store.at(tmp_path))

    class Steal(Silent):
        """Takes the lease away at the first dispatch read, and gives it back when asked again."""

        stolen = None

        def update(self, segment, step, loss, speed):
            if self.stolen is None:
                self.stolen = segment.id
                thief.remove(segment.id, leases.owner)
                assert thief.claim(segment.id)
                leases.checked = -np.inf
                if shown_by == "error":
                    raise OSError("Directory not empty")

    store = Store.at(tmp_path)
    worker = Worker(plan(runs), store, corpus, EVALUATION, mesh, progress=Steal())
    with Leases(store) as leases:
        worker.way = Sharing(leases)
        naps = []

        def nap(seconds):
            naps.append(store.done(worker.progress.stolen))
            thief.release()

        monkeypatch.setattr("scaling.sharing.time.sleep", nap)
        worker.run()
    assert "is left to another worker: " in caplog.text
    assert naps == [None]  # It waited once, without having finished what was another's.
    pd.testing.assert_frame_equal(table(worker), table(alone)[:1], check_exact=True)
    assert_nothing_is_left(tmp_path)
