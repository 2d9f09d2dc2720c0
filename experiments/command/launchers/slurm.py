"""Workers as a Slurm job array, and one job after it that reports."""

import contextlib
import io
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.command.launchers.wanted import (
    ENDED,
    SAFE,
    Launch,
    checkout,
    command,
    needed,
    work,
)
from refused import Refused

REQUEUED = 128 + signal.SIGUSR2  # What a worker returns that submitit asked to end, to be requeued.
# A plan of days in jobs of an hour is requeued often; submitit's own limit is 3.
MOST_TIMEOUTS = 100
# Seconds that a worker which SIGTERM ended waits for Slurm to kill or requeue its job.
LONGEST_GRACE = 600.0

# sbatch(1): a limit is minutes, minutes:seconds, hours:minutes:seconds, days-hours,
# days-hours:minutes or days-hours:minutes:seconds.
TIMES = "240, 04:00:00, 1-12 or 1-12:30:00, as sbatch takes it, of a minute at least"
# sbatch's letters for the options that are looked at here.
LETTERS = {
    "A": "account",
    "C": "constraint",
    "D": "chdir",
    "G": "gpus",
    "J": "job-name",
    "N": "nodes",
    "a": "array",
    "c": "cpus-per-task",
    "d": "dependency",
    "e": "error",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "t": "time",
    "w": "nodelist",
    "x": "exclude",
}
# What would start copies of a worker inside its job, where it is not 1.
COPIES = ("nodes", "ntasks", "ntasks-per-node", "ntasks-per-gpu", "tasks-per-node")
# What would take from the launcher what it does itself, and what to do instead.
OTHERWISE = {
    "array": "--workers=N",
    "wrap": "none: the job is a worker",
    "no-requeue": "none: a job is requeued at its time limit",
    "parsable": "none: the launcher reads what sbatch says",
    "test-only": "--dry-run",
    "chdir": "espalier launch called in that folder",
}
# Options of the array that the job which reports has too; it asks for no GPU.
REPORTED = ("account", "partition", "qos", "reservation", "clusters", "constraint")
REPORTED += ("mem", "mem-per-cpu", "mail-user", "mail-type", "comment", "wckey")
REPORT_MINUTES = 60


def launch(wanted: Launch) -> int:
    """Submits a job array, one worker a task, and a report after it; waits for neither.

    Raises:
      Refused: a time or an option that cannot be, no submitit, no Slurm here, or what sbatch said.
    """
    needed("submitit", "slurm")
    given, minutes = checked(wanted.options)
    if not wanted.dry_run and not (shutil.which("srun") and shutil.which("sbatch")):
        raise Refused("--on", "slurm", "a machine with srun and sbatch, or --dry-run")
    count, logs = wanted.workers or 1, logs_of(wanted)
    executor = array(logs, given, minutes, count, wanted.setup)
    if wanted.dry_run:
        if count > 1:
            executor.parameters["map_count"] = count  # As `submit_array` sets it.
        print(executor._make_submission_file_text(executor._submitit_command_str, "dry"))
        print(f"# Each of {count} tasks: {shlex.join(['espalier', 'work', *wanted.arguments])}")
        if wanted.report:
            print(f"\n# Then:\n{report_script('JOB', wanted, given, logs)}", end="")
        return 0
    said = lambda error: Refused("--on", "slurm", f"what sbatch takes ({one_line(error)})")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # It is in the error, too.
            jobs = submit(executor, wanted)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise said(error) from None
    print(f"submitted {', '.join(job.job_id for job in jobs)}; logs: {logs}")
    if wanted.report:
        first = jobs[0].job_id.partition("_")[0]
        try:
            print(f"submitted {submit_report(first, wanted, given, logs)}: the report after them")
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            subprocess.run(["scancel", first], check=False)
            raise said(error) from None
    return 0


def one_line(error: Exception) -> str:
    """Returns what an error says as one line."""
    return " ".join(str(error).split())[:300]


def checked(options: dict[str, str | bool]) -> tuple[dict[str, str | bool], int]:
    """Returns options by sbatch's long names, without the time, and the minutes that it is.

    Raises:
      Refused: an option that would start copies of a worker, or undo what the launcher does.
    """
    given: dict[str, str | bool] = {}
    for key, value in options.items():
        name = LETTERS.get(key, key.replace("_", "-"))
        if name in given:
            raise Refused(f"--option={name}", f"{given[name]} and {value}", "it once")
        if name in OTHERWISE:
            raise Refused("--option", key, OTHERWISE[name])
        if name in COPIES and value not in ("1", "1-1"):
            accepted = "1: each of --workers=N is one task of an array; more would be copies of it"
            raise Refused(f"--option={key}", value, accepted)
        if name == "signal" and str(value).startswith(("B:", "R:")):
            raise Refused(f"--option={key}", value, "USR2@SECONDS, which the worker itself gets")
        given[name] = value
    return given, minutes_of(given.pop("time", "60"))


def minutes_of(text: str | bool) -> int:
    """Returns the minutes of a time as sbatch takes it; Slurm rounds seconds up to a minute.

    Raises:
      Refused: another text, or less than a minute.
    """
    days, dash, clock = str(text).rpartition("-")
    parts = clock.split(":")
    good = re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", str(text), re.ASCII)
    if good is None:
        raise Refused("--option=time", text, TIMES)
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, (*numbers, 0)[:2]
    whole = (int(days or 0) * 24 + hours) * 60 + minutes + -(-seconds // 60)
    if not whole:
        raise Refused("--option=time", text, TIMES)
    return whole


def logs_of(wanted: Launch) -> Path:
    """Returns the folder of the jobs' logs, which is no bucket's."""
    store = Path("runs" if "://" in wanted.store else wanted.store)
    return store.expanduser().absolute() / "slurm"


def prepared(setup: Sequence[str]) -> list[str]:
    """Returns what a job does before Espalier: a user's lines, of which none may fail."""
    lines = ["set -e", *setup, "set +e"] if setup else []
    if (folder := checkout()) is not None:
        path = f"export PYTHONPATH={shlex.quote(str(folder))}${{PYTHONPATH:+:$PYTHONPATH}}"
        lines.append(path)
    return lines


def array(logs: Path, given: dict, minutes: int, count: int, setup: Sequence[str]):
    """Returns the executor of submitit's that submits workers, `count` at a time."""
    from submitit.slurm.slurm import SlurmExecutor

    class Shown(SlurmExecutor):
        """Writes scripts on machines without Slurm, too."""

        affinity = classmethod(lambda cls: 2)

    executor = Shown(logs / "%j", MOST_TIMEOUTS, python=f"{shlex.quote(sys.executable)} {SAFE}")
    # Left to itself submitit has srun write to files of its own.
    output = given.get("output")
    places = {"output": output, "error": given.get("error", output)}
    files = [f"--{name}={place}" for name, place in places.items() if place]
    additional = {"requeue": True} | {name: v for name, v in given.items() if name != "job-name"}
    with warnings.catch_warnings():  # Of options that it takes for others of its own.
        warnings.simplefilter("ignore")
        executor.update_parameters(
            job_name=str(given.get("job-name", "espalier")),
            time=minutes,
            array_parallelism=count,
            additional_parameters=additional,
            setup=prepared(setup) or None,
            srun_args=[*files, "--open-mode=append"],
            stderr_to_stdout=output is not None and "error" not in given,
        )
    return executor


def submit(executor, wanted: Launch) -> list:
    """Submits an array of workers to an executor of submitit's and returns its jobs."""
    return executor.submit_array([Task(wanted.arguments)] * (wanted.workers or 1))


def report_script(first: str, wanted: Launch, given: dict, logs: Path) -> str:
    """Returns the script of the job that reports once the array `first` is over.

    It comes after any end (`afterany`): where a worker failed, the others may have trained the plan
    to its end, and the report says what is absent. A job that is requeued is not over.
    """
    wanted_by_report = [
        flag
        for flag in wanted.arguments
        if flag.startswith(("--config=", "--config.", "--store=", "--as="))
    ]
    options = {
        "job-name": f"{given.get('job-name', 'espalier')}-report",
        "dependency": f"afterany:{first}",
        "output": f"{logs}/{first}_report.log",
        "time": REPORT_MINUTES,
    } | {name: given[name] for name in REPORTED if name in given}
    flags = [
        f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}"
        for name, value in options.items()
    ]
    lines = ["#!/bin/bash", *flags, "", *prepared(wanted.setup)]
    lines += ["export JAX_PLATFORMS=cpu", shlex.join(command("report", wanted_by_report)), ""]
    return "\n".join(lines)


def submit_report(first: str, wanted: Launch, given: dict, logs: Path) -> str:
    """Submits the job that reports and returns its number.

    Raises:
      RuntimeError: with what sbatch said where it refused.
    """
    text = report_script(first, wanted, given, logs)
    done = subprocess.run(
        ["sbatch", "--parsable"], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stdout.strip().partition(";")[0]


@dataclass(frozen=True)
class Task:
    """A worker as a job of submitit's, which is requeued when it is preempted or its time is over.

    Before the time is over, and on clusters that say so before they preempt, SIGUSR2 comes: the
    worker writes a checkpoint and releases its lease, and submitit then requeues the job.
    """

    arguments: tuple[str, ...]

    def __call__(self) -> None:
        code = work(self.arguments)
        if code == REQUEUED:
            signal.raise_signal(signal.SIGUSR2)  # To submitit's handler: it requeues and exits.
        if code == ENDED:
            # Either the job was cancelled, or it is preempted: Slurm kills it, or SIGUSR2 follows.
            time.sleep(LONGEST_GRACE)
        if code != 0:
            raise RuntimeError(f"espalier work ended with code {code}")

    def checkpoint(self):
        """Returns what the requeued job does: the same, from the worker's last checkpoint."""
        return needed("submitit", "slurm").helpers.DelayedSubmission(self)
