"""Several processes train one run: stopped, killed, lost, and gone on with elsewhere."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scaling import Store, Worker, make_mesh, plan
from scaling.processes import LOST
from tests.experiments.command import one_run
from tests.rounding import NUDGES, assert_same_trajectory, starts_nudged

ROOT = Path(__file__).parents[3]
GUARD = 300  # Seconds after which a process counts as hanging.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def folder(corpus) -> Path:
    return next(iter(corpus.domains.values())).folder


def ends(corpus, store, mesh, *own, count=2) -> list[tuple[int, str, str]]:
    """Runs processes of two devices each, with `own` arguments each, to their ends.

    Returns exit code, stdout and stderr of each.
    """
    flags = os.environ["XLA_FLAGS"].replace("count=8", "count=2")
    command = [sys.executable, "-m", "tests.experiments.command.several", "run"]
    command += ["--config=tests/experiments/command/one_run.py"]
    command += [f"--config.corpus={folder(corpus)}"]
    command += [f"--store={store}", f"--mesh={mesh}", "--checkpoint-seconds=0"]
    command += [f"--coordinator=127.0.0.1:{free_port()}", f"--processes={count}"]
    started = [
        subprocess.Popen(
            [*command, f"--process={index}", *arguments],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, arguments in enumerate(own)
    ]
    try:
        said = [process.communicate(timeout=GUARD) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(started, said, strict=True)]


def go_on(corpus, store, mesh) -> np.ndarray:
    """Trains what is left in this process, with its eight devices; returns losses by step."""
    config = one_run.get_config()
    config.corpus = str(folder(corpus))
    study = one_run.study(config)
    worker = Worker(plan(study.runs), Store.at(store), corpus, study.evaluation, make_mesh(mesh))
    worker.run()
    found = [r for id in worker.plan.segments for r in worker.store.metrics(id)]
    # Each step is recorded once, whoever trained it and how often.
    assert [r["step"] for r in found] == list(range(1, study.runs[0].run.steps + 1))
    assert all(worker.store.done(id) is not None for id in worker.plan.segments)
    return np.array([r["loss"] for r in found])


def newest(store) -> int:
    """Returns the step of the newest checkpoint."""
    found = Path(store).glob("segments/*/checkpoint/*")
    return max(int(step.name) for step in found if step.name.isdecimal())


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """The losses of the uninterrupted run, on as many devices, and of nudged ones."""
    losses = [go_on(corpus, tmp_path_factory.mktemp("whole"), "data:4")]
    for seed in NUDGES:
        with starts_nudged(seed):
            losses.append(go_on(corpus, tmp_path_factory.mktemp("nudged"), "data:4"))
    return losses


def assert_as_whole(losses, whole) -> None:
    """Fails where losses differ by more than rounding from those of the uninterrupted run."""
    assert_same_trajectory(losses, whole[0], whole[1:])


@pytest.mark.system
@pytest.mark.equality
def test_stopped_then_killed_on_two_processes_and_resumed_on_one(corpus, whole, tmp_path):
    first, second = ends(corpus, tmp_path, "data:4", [], ["--end-at=8", "--by=TERM"])
    # SIGTERM reached the second process; both stop at the step they agreed on.
    assert (first[0], second[0]) == (0, 128 + signal.SIGTERM), (first, second)
    stopped = newest(tmp_path)
    assert 8 <= stopped < 32 and f"stopped at step {stopped} of 80" in first[1]
    killed = ends(corpus, tmp_path, "data:4", ["--end-at=32"], ["--end-at=32"])
    assert [code for code, *_ in killed] == [-signal.SIGKILL] * 2, killed
    resumed = newest(tmp_path)
    assert stopped < resumed < 50
    losses = go_on(corpus, tmp_path, "data:8")
    assert_as_whole(losses, whole)
    assert losses[-1] < losses[0] - 0.5  # It is training that agrees.


@pytest.mark.thorough
def test_a_lost_process_ends_the_other_with_one_line_and_the_run_goes_on(corpus, whole, tmp_path):
    before = 0
    for lost, at in ((1, 16), (0, 32)):  # The one that coordinates comes last.
        own = [[f"--end-at={at}"] if index == lost else [] for index in range(2)]
        found = ends(corpus, tmp_path, "fsdp:2,data:2", *own)
        assert found[lost][0] == -signal.SIGKILL, found
        code, _, said = found[1 - lost]
        assert code == LOST, found
        last = said.splitlines()[-1]
        assert last.startswith("espalier: another process is gone") and "goes on" in last
        assert said.count("espalier:") == 1
        assert "Traceback" not in said and "stack trace" not in said
        assert newest(tmp_path) > before
        before = newest(tmp_path)
    losses = go_on(corpus, tmp_path, "fsdp:4,data:2")
    assert_as_whole(losses, whole)


def test_a_process_that_waits_in_vain_for_the_others_says_so(corpus, tmp_path):
    ((code, _, said),) = ends(corpus, tmp_path, "", ["--join-seconds=1"])
    assert code == LOST
    assert said.splitlines()[-1].startswith("espalier: not all processes were there within 1 s")
    assert "stack trace" not in said
