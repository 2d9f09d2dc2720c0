"""A real Slurm of one node, started here: an array, a requeue, and the report after them."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pandas as pd
import pytest

from tests.experiments.command.launchers.trained import STUDY, assert_same
from tests.experiments.command.test_main import ROOT

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = pytest.mark.slow


def free_ports(count: int) -> list[int]:
    """Returns ports on which nobody listens."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [found.getsockname()[1] for found in taken]


def until(what: Callable[[], bool], seconds: float, said: Callable[[], str] = str) -> None:
    """Waits for something to be so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, said()
        time.sleep(0.2)


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[None]:
    """A controller and a node on the loopback address."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {missing[0]} here: apt-get install slurmctld slurmd slurm-client")
    if os.getuid() != 0:
        pytest.skip("slurmd starts jobs as root only")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    given = dict(host=host, folder=folder, user=getpass.getuser(), ports=free_ports(2))
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**given))
    (folder / "cgroup.conf").touch()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            log = stack.enter_context((folder / f"{command[0]}.out").open("w"))
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
        logs = lambda: "".join(file.read_text() for file in folder.glob("*.log"))
        until(lambda: "idle" in asked("sinfo", "--noheader"), 60, logs)
        yield
        asked("scancel", "--user", getpass.getuser())
        until(lambda: not asked("squeue", "--noheader"), 60)


def states() -> dict[str, str]:
    """Returns the state of every job that is not over, by its number."""
    lines = asked("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
    return dict(line.split() for line in lines)


def test_an_array_one_of_it_requeued_gives_the_table_of_one_and_a_report(slurm, alone, tmp_path):
    study = ("--config=over_training", *STUDY[1:])
    options = ["--option=time=00:30:00", f"--option=output={tmp_path}/log-%a"]
    options += ["--setup=ready=yes", f"--setup=echo $ready >> {tmp_path}/set-up"]
    command = [sys.executable, "-P", "-m", "espalier", "launch", "--on=slurm", "--workers=2"]
    done = subprocess.run(
        [*command, *options, *study],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
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
    assert "Calling checkpoint method" in read() and "stopped at step" in read()
    assert states()[report] == "PENDING"
    # Slurm holds a requeued job back for two minutes.
    asked("scontrol", "update", f"job={first}_0", "StartTime=now")
    until(lambda: not states(), 240, lambda: f"{states()}\n{read()}")

    assert read().count("the plan is done") == 1  # The log of both of its starts is kept.
    assert (tmp_path / "set-up").read_text() == "yes\n" * 4  # Two, one again, and the report.
    table = pd.read_csv(tmp_path / "runs" / "studies" / "over_training-cpu" / "runs.csv")
    assert len(table) == 2
    assert_same(tmp_path / "runs", alone)
