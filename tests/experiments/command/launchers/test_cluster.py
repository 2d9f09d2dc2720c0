"""A real Slurm of one node, started here: an array, a requeue, and the report after them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pandas as pd
import pytest

from tests.experiments.command.launchers.node import asked, lacking, one_node, until
from tests.experiments.command.launchers.trained import STUDY, assert_same
from tests.experiments.command.test_main import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[None]:
    """A controller and a node on the loopback address."""
    if (why := lacking()) is not None:
        pytest.skip(why)
    with one_node(tmp_path_factory.mktemp("slurm")):
        yield


def states() -> dict[str, str]:
    """Returns the state of every job that is not over, by its number."""
    lines = asked("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
    return dict(line.split() for line in lines)


def test_an_array_one_of_it_requeued_gives_the_table_of_one_and_a_report(slurm, alone, tmp_path):
    study = ("--config=over_training", *STUDY[1:])
    options = ["--option=time=00:30:00", f"--option=output={tmp_path}/log-%a"]
    options += ["--setup=ready=yes", f"--setup=echo $ready >> {tmp_path}/set-up"]
    command = [sys.executable, "-P", "-m", "espalier", "launch", "--on=slurm", "--workers=2"]
    # Compiling takes seconds in which the signal below finds the job, short as its training is.
    given = {"PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [*command, *options, *study],
        cwd=tmp_path,
        env=os.environ | given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first = done.stdout.split()[1].partition("_")[0]
    report = done.stdout.partition(": the report")[0].split()[-1]
    log = tmp_path / "log-0"
    read = lambda: log.read_text() if log.exists() else ""

    # As Slurm tells a job whose time is over, or that is preempted.
    until(lambda: "4 to train" in read(), 120, read)
    asked("scancel", "--signal=USR2", f"{first}_0")
    until(lambda: states().get(f"{first}_0") == "PENDING", 60, read)
    # The worker that was told trains the plan's trunk, or waits for the other, which does.
    assert re.search(r"stopped (at step|with) \d+ ", read()), read()
    assert "Calling checkpoint method" in read()
    assert states()[report] == "PENDING"
    # Slurm holds a requeued job back for two minutes.
    asked("scontrol", "update", f"job={first}_0", "StartTime=now")
    until(lambda: not states(), 240, lambda: f"{states()}\n{read()}")

    assert read().count("the plan is done") == 1  # The log of both of its starts is kept.
    assert (tmp_path / "set-up").read_text() == "yes\n" * 4  # Two, one again, and the report.
    table = pd.read_csv(tmp_path / "runs" / "studies" / "over_training-cpu" / "runs.csv")
    assert len(table) == 2
    assert_same(tmp_path / "runs", alone)
