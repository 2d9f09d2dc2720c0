"""Slurm: what is submitted, refused and requeued."""

import os
import signal
import sys

import pytest
import submitit

from experiments.command.launchers import Launch, slurm
from experiments.command.launchers.slurm import Task, checked, minutes_of
from refused import Refused
from tests.experiments.command.launchers import launched
from tests.experiments.command.launchers.trained import STUDY, assert_same, program
from tests.experiments.command.test_main import ROOT, call


@pytest.mark.system
def test_a_job_of_submitit_that_is_requeued_gives_the_table_of_one(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "Task", launched.Interrupted)
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    monkeypatch.chdir(ROOT)
    store, logs = tmp_path / "runs", tmp_path / "logs"
    executor = submitit.LocalExecutor(logs, max_num_timeout=1)
    executor.update_parameters(timeout_min=10)
    (job,) = slurm.submit(executor, Launch((*STUDY, f"--store={store}")))
    try:
        assert job.exception() is None, job.stdout() + job.stderr()
    finally:
        job.cancel()
        job._process.wait()
    assert job.stderr().count("Requeued job") == 1
    assert "stopped " in job.stdout() and "the plan is done" in job.stdout()
    assert_same(store, alone)


def test_a_job_of_slurm_leaves_its_working_folder_off_pythons_path(capsys):
    _, out, _ = call(capsys, "launch", *STUDY, "--on=slurm", "--dry-run")
    assert f"{sys.executable} -P -u -m submitit" in out


def test_slurm_gets_what_the_dry_run_prints(tmp_path, capsys, monkeypatch):
    program(tmp_path, "srun", "exit 1")
    program(
        tmp_path,
        "sbatch",
        f'if [ "$1" = --parsable ]; then cat > {tmp_path}/report; echo "43;cluster"; else '
        f'cp "$1" {tmp_path}/script; echo Submitted batch job 42; fi',
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    command = ["launch", *STUDY, "--on=slurm", "--workers=2", f"--store={tmp_path}/runs"]
    _, shown, _ = call(capsys, *command, "--dry-run")
    code, out, err = call(capsys, *command)
    assert code == 0, err
    assert out == (
        f"submitted 42_0, 42_1; logs: {tmp_path}/runs/slurm\nsubmitted 43: the report after them\n"
    )
    script, report = (tmp_path / "script").read_text(), (tmp_path / "report").read_text()
    assert shown.startswith(script) and shown.replace("JOB", "42").endswith(f"# Then:\n{report}")
    assert "#SBATCH --dependency=afterany:42\n" in report and "--mesh" not in report
    assert f"-m espalier report {STUDY[0]} '--config.widths=(16,)'" in report
    for index in range(2):
        file = tmp_path / "runs" / "slurm" / f"42_{index}" / f"42_{index}_submitted.pkl"
        job = submitit.helpers.DelayedSubmission.load(file)
        assert job.function == Task((*STUDY, f"--store={tmp_path}/runs"))
        assert job._timeout_min == 60 and job._timeout_countdown == slurm.MOST_TIMEOUTS


def test_a_job_that_sigterm_ended_waits_for_slurm(monkeypatch):
    naps = []
    monkeypatch.setattr(slurm, "work", lambda arguments: 128 + signal.SIGTERM)
    monkeypatch.setattr(slurm.time, "sleep", naps.append)
    with pytest.raises(RuntimeError, match="code 143"):
        Task(())()
    assert naps == [slurm.LONGEST_GRACE]


def test_without_a_report_job_none_is_submitted(capsys):
    _, out, _ = call(capsys, "launch", *STUDY, "--on=slurm", "--no-report", "--dry-run")
    assert "espalier work" in out and "espalier report" not in out


@pytest.mark.parametrize("second", [False, True])
def test_what_sbatch_refuses_is_told_in_one_line_and_nothing_stays(
    second, tmp_path, capsys, monkeypatch
):
    refuse = 'echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1'
    parsable = f'if [ "$1" = --parsable ]; then {refuse}; fi; ' if second else refuse
    program(tmp_path, "srun", "exit 1")
    program(tmp_path, "sbatch", f"{parsable}\necho Submitted batch job 42")
    program(tmp_path, "scancel", f'echo "$@" > {tmp_path}/cancelled')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    code, _, err = call(capsys, "launch", *STUDY, "--on=slurm", f"--store={tmp_path}/runs")
    assert code == 2 and err.count("\n") == 1
    assert "--on: got slurm; accepted: what sbatch takes (" in err and "invalid partition" in err
    assert (tmp_path / "cancelled").exists() == second


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("240", 240),
        ("04:00:00", 240),
        ("90:30", 91),
        ("00:00:59", 1),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("1-12:30:01", 2191),
    ],
)
def test_times_are_read_as_sbatch_reads_them(text, minutes):
    """sbatch(1), --time; seconds are rounded up to a minute."""
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["0", "1:", "a", "-1", "1-", "1-2:3:4:5", "00:00:00", True, "٣"])
def test_times_that_sbatch_would_not_take_are_refused(text):
    with pytest.raises(Refused, match="accepted: 240, 04:00:00, 1-12"):
        minutes_of(text)


@pytest.mark.parametrize("key", [*slurm.COPIES, "N", "ntasks_per_node", *slurm.OTHERWISE])
def test_what_would_start_copies_or_undo_the_launcher_is_refused(key):
    with pytest.raises(Refused, match=f"--option(={key}: got 2|: got {key}); accepted: "):
        checked({key: "2"})


def test_one_node_and_one_task_may_be_said():
    assert checked({"nodes": "1", "n": "1", "t": "30"}) == ({"nodes": "1", "ntasks": "1"}, 30)
    with pytest.raises(Refused, match="--option=time: got 1 and 2; accepted: it once"):
        checked({"t": "1", "time": "2"})
    with pytest.raises(Refused, match="--option=signal: got B:USR1@60; accepted: USR2@SECONDS"):
        checked({"signal": "B:USR1@60"})
