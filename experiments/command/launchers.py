"""Where workers are started: `espalier launch --on=local|slurm|ray|tpu`.

Nothing is scheduled here. Slurm or Ray place the workers, and leases in the store settle which of
them trains which segment (`scaling.leases`), so that the others go on where one has died. A TPU pod
is one machine to JAX: it gets one run over all its hosts.
"""

import contextlib
import importlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.command.arguments import told
from experiments.command.work import command as work_command
from refused import Refused

# Python of ours is started without its working folder on its path (-P): a user's own `data/` or
# `models/` there would be taken for ours.
SAFE = "-P"
# Where our packages lie: a checkout, or an environment's packages.
HERE = Path(__file__).resolve().parents[2]

ENDED = 128 + signal.SIGTERM  # What a worker returns that SIGTERM ended, checkpoint written.
REQUEUED = 128 + signal.SIGUSR2  # The same of the signal with which submitit asks for it.

# A plan of days in jobs of an hour is requeued often; submitit's own limit is 3.
MOST_TIMEOUTS = 100
# Seconds that a worker which SIGTERM ended waits for Slurm to kill or requeue its job.
LONGEST_GRACE = 600.0


@dataclass(frozen=True)
class Launch:
    """What to start: the flags that each worker gets, the store among them, and how many workers.

    `workers` is None where nobody said. `options` are sbatch's on Slurm, gcloud's for a pod.
    """

    arguments: tuple[str, ...]
    store: str = "runs"
    workers: int | None = None
    options: dict[str, str | bool] = field(default_factory=dict)
    dry_run: bool = False


def launch(on: str, wanted: Launch) -> int:
    """Starts workers, or with `dry_run` prints what would be started; returns the exit code.

    Raises:
      Refused: no such place, fewer than one worker, options that the place does not know.
    """
    if on not in PLACES:
        raise Refused("--on", on, ", ".join(PLACES))
    if wanted.workers is not None and wanted.workers < 1:
        raise Refused("--workers", wanted.workers, "at least 1")
    if wanted.options and on in ("local", "ray"):
        raise Refused("--option", next(iter(wanted.options)), "none, but with slurm and tpu")
    return PLACES[on](wanted)


def options(pairs: Sequence[str]) -> dict[str, str | bool]:
    """Returns KEY=VALUE pairs, and KEY alone as a switch, by their keys."""
    split = [pair.lstrip("-").partition("=") for pair in pairs]
    return {key: value if equals else True for key, equals, value in split}


def needed(package: str, extra: str):
    """Imports what an extra brings.

    Raises:
      Refused: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        accepted = f"{package} installed: pip install 'espalier[{extra}]'"
        raise Refused("--on", extra, accepted) from None


def command(arguments: Sequence[str]) -> list[str]:
    """Returns the command of a worker in a process of its own."""
    return [sys.executable, SAFE, "-m", "espalier", "work", *arguments]


def surroundings() -> dict[str, str]:
    """Returns a worker's environment, in which it finds the packages of this checkout."""
    found = dict(os.environ)
    if (HERE / "setup.cfg").exists():
        others = [folder for folder in found.get("PYTHONPATH", "").split(os.pathsep) if folder]
        found["PYTHONPATH"] = os.pathsep.join([str(HERE), *others])
    return found


def work(arguments: Sequence[str]) -> int:
    """Is a worker in this process; returns its exit code."""
    return told(work_command, arguments, "espalier work")


def verdict(failures: int, count: int, stopped: bool) -> int:
    """Prints how the workers ended and returns the launcher's exit code."""
    how = "as told" if stopped else "well"
    more = "; the same command goes on" if stopped or failures else ""
    print(f"{count - failures} of {count} workers ended {how}{more}", flush=True)
    return 1 if failures else ENDED if stopped else 0


def on_this_machine(wanted: Launch) -> int:
    """Runs workers as processes of this machine; SIGTERM and SIGINT have them end in good order."""
    from scaling.environment import visible_cpus

    count, cpus = wanted.workers or 1, visible_cpus()
    if wanted.dry_run:
        print("\n".join([shlex.join(command(wanted.arguments))] * count))
        return 0
    print(f"workers: {count}; CPUs: {cpus}, {cpus / count:.2g} for each", flush=True)
    return processes([command(wanted.arguments)] * count)


def processes(commands: Sequence[Sequence[str]]) -> int:
    """Runs commands beside each other, their output under numbers; returns the exit code.

    The first SIGTERM or SIGINT is handed on as SIGTERM, a second one kills.
    """
    started: list[subprocess.Popen] = []
    signals: list[int] = []
    shape = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    # In groups of their own, so that Ctrl-C reaches the launcher alone.
    shape |= dict(env=surroundings() | {"PYTHONUNBUFFERED": "1"}, process_group=0)

    def tell(process) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM if len(signals) == 1 else signal.SIGKILL)

    def hand_on(number, _) -> None:
        signals.append(number)
        for process in started:
            tell(process)

    def show(index: int, output) -> None:
        with output:
            for line in output:
                print(f"[{index}] {line}", end="", flush=True)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for line in commands:
            if signals:
                break
            started.append(subprocess.Popen(line, **shape))
            if signals:  # They came while it was started, before it stood in the list.
                tell(started[-1])
        showing = [
            threading.Thread(target=show, args=(index, process.stdout))
            for index, process in enumerate(started)
        ]
        for thread in showing:
            thread.start()
        codes = [ended(process) for process in started]
        for thread in showing:
            thread.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    failures = 0
    for index, code in enumerate(codes):
        # A signal that comes before a worker's own handler does ends it with minus its number.
        if code != 0 and not (signals and code in (ENDED, -signal.SIGTERM)):
            print(f"worker {index} failed with code {code}; the others go on", flush=True)
            failures += 1
    return verdict(failures, len(commands), bool(signals))


def ended(process: subprocess.Popen) -> int:
    """Waits for a process and returns its code, while signals go on being handled.

    The kernel gives a second signal to any thread, and Python handles it in the main one, where it
    interrupts no system call: a wait without a timeout would sleep through it.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=1.0)


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


def submit(executor, wanted: Launch) -> list:
    """Submits an array of workers to an executor of submitit's and returns its jobs."""
    return executor.submit_array([Task(wanted.arguments)] * (wanted.workers or 1))


def on_slurm(wanted: Launch) -> int:
    """Submits a job array, one worker a task, and returns without waiting for it.

    Raises:
      Refused: a time that is no number of minutes, an array, no submitit, or no Slurm here.
    """
    needed("submitit", "slurm")
    from submitit.slurm.slurm import SlurmExecutor

    class Shown(SlurmExecutor):
        """Writes scripts on machines without Slurm, too."""

        affinity = classmethod(lambda cls: 2)

    given = {key.replace("_", "-"): value for key, value in wanted.options.items()}
    minutes, count = str(given.pop("time", "60")), wanted.workers or 1
    if not minutes.isdecimal() or not int(minutes):
        raise Refused("--option=time", minutes, "minutes, as in time=240")
    if "array" in given:
        raise Refused("--option", "array", "--workers=N")
    if not wanted.dry_run and not (shutil.which("srun") and shutil.which("sbatch")):
        raise Refused("--on", "slurm", "a machine with srun and sbatch, or --dry-run")
    store = Path("runs" if "://" in wanted.store else wanted.store)  # Logs are no bucket's.
    logs = store.expanduser().absolute() / "slurm" / "%j"
    executor = Shown(logs, MOST_TIMEOUTS, python=f"{shlex.quote(sys.executable)} {SAFE}")
    executor.update_parameters(
        job_name="espalier",
        time=int(minutes),
        array_parallelism=count,
        additional_parameters={"requeue": True} | given,
    )
    if wanted.dry_run:
        if count > 1:
            executor.parameters["map_count"] = count  # As `submit_array` sets it.
        print(executor._make_submission_file_text(executor._submitit_command_str, "dry"))
        print(f"# Each of {count} tasks: {shlex.join(['espalier', 'work', *wanted.arguments])}")
        return 0
    jobs = submit(executor, wanted)
    print(f"submitted {', '.join(job.job_id for job in jobs)}; logs: {jobs[0].paths.folder.parent}")
    return 0


class Actor:
    """A worker as an actor of Ray's."""

    def place(self) -> tuple[str, int]:
        """Returns the node and the process."""
        return importlib.import_module("ray").get_runtime_context().get_node_id(), os.getpid()

    def work(self, arguments: Sequence[str], folder: str) -> int:
        """Is a worker until the plan is done; returns its exit code."""
        os.chdir(folder)
        return work(arguments)


def on_ray(wanted: Launch, actor: type = Actor) -> int:
    """Starts an actor per accelerator of a Ray cluster and waits for them.

    The cluster is the one that RAY_ADDRESS names or that runs on this machine, otherwise a new one
    of this machine. Its nodes see the folder this is called in, and the store. Where it has no
    GPUs, an actor takes one CPU. SIGTERM and SIGINT have the workers end in good order.
    """
    ray = needed("ray", "ray")
    if wanted.dry_run:
        where = os.environ.get("RAY_ADDRESS", "the one of this machine, or a new one of it")
        print(f"cluster: {where}")
        print(f"actors: {wanted.workers or 'one per GPU; in a cluster without GPUs one per node'}")
        print("each: num_gpus=1; in a cluster without GPUs num_cpus=1")
        print(f"in {os.getcwd()}: {shlex.join(['espalier', 'work', *wanted.arguments])}")
        return 0
    mine = not ray.is_initialized()
    if mine:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Nothing is sent to anybody.
        with contextlib.chdir(HERE):  # Ray puts the folder it is called in first on actors' paths.
            ray.init()
    signals: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: signals.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        found = ray.cluster_resources()
        kind = "GPU" if found.get("GPU") else "CPU"
        nodes = sum(node["Alive"] for node in ray.nodes())
        count = wanted.workers or (int(found["GPU"]) if kind == "GPU" else nodes)
        print(f"workers: {count}, each of one {kind}; {kind}s: {found[kind]:g}", flush=True)
        taken = {f"num_{kind.lower()}s": 1, "scheduling_strategy": "SPREAD"}
        actors = [ray.remote(actor).options(**taken).remote() for _ in range(count)]
        places = [actor.place.remote() for actor in actors]
        tasks = [actor.work.remote(wanted.arguments, os.getcwd()) for actor in actors]
        waiting = {task: index for index, task in enumerate(tasks)}
        failures, told = 0, False
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=1.0)
            if signals and not told:
                told = True
                for index in waiting.values():
                    end(ray, actors[index], places[index])
            for task in done:
                index = waiting.pop(task)
                try:
                    code = ray.get(task)
                    said = None if code == 0 or (told and code == ENDED) else f"with code {code}"
                except ray.exceptions.RayActorError as error:
                    # Ray ends an actor to which SIGTERM comes before the worker's own handler.
                    said = None if told else f"({str(error).strip().partition(chr(10))[0]})"
                except ray.exceptions.RayTaskError as error:
                    said = f"({type(error.cause).__name__}: {error.cause})"
                ray.kill(actors[index])  # What it took is another's, where some wait for a place.
                if said:
                    print(f"worker {index} failed {said}; the others go on", flush=True)
                    failures += 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if mine:
            ray.shutdown()
    return verdict(failures, count, told)


def end(ray, actor, place) -> None:
    """Sends SIGTERM to the process of an actor, on whichever node; one not yet placed is killed."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        node, process = ray.get(place, timeout=1.0)
    except ray.exceptions.RayError:  # It waits for a place, or has just died.
        ray.kill(actor)
        return
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(terminate).options(num_cpus=0, scheduling_strategy=there).remote(process)


def terminate(process: int) -> None:
    """Sends SIGTERM to a process of this machine, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)


def on_a_pod(wanted: Launch) -> int:
    """Starts one run over all hosts of a TPU pod, through gcloud, and waits for it.

    Raises:
      Refused: no name or zone, a store that the hosts do not share, or no gcloud.
    """
    given = dict(wanted.options)
    if wanted.workers is not None:
        raise Refused("--workers", wanted.workers, "none: every host of the pod is in one run")
    for key in ("name", "zone"):
        if not isinstance(given.get(key), str) or not given[key]:
            raise Refused(f"--option={key}", "nothing", f"the pod's, as in --option={key}=...")
    if "://" not in wanted.store and not os.path.isabs(wanted.store):
        shared = "what every host sees, as gs://bucket/runs or an absolute path"
        raise Refused("--store", wanted.store, shared)
    script = pod_script(wanted.arguments, given)
    if wanted.dry_run:
        print(script, end="")
        return 0
    if shutil.which("gcloud") is None:
        raise Refused("--on", "tpu", "a machine with gcloud, or --dry-run")
    return subprocess.run(["bash", "-c", script], check=False).returncode


def pod_script(arguments: Sequence[str], given: dict[str, str | bool]) -> str:
    """Returns the script that has every host of a pod take part in one run.

    `given` has the pod's name, its zone, `checkout` (where the project lies on the hosts, seen from
    the home folder) and further options of gcloud's.
    """
    checkout = str(given.get("checkout", "espalier"))
    flags = [
        f"--{key}" if value is True else f"--{key}={value}"
        for key, value in given.items()
        if key not in ("name", "checkout")
    ]
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", str(given["name"]), *flags]
    run = [".venv/bin/espalier", "run", "--coordinator=auto", *arguments]
    return f"""#!/usr/bin/env bash
# One run over every host of a TPU pod; on each, jax.distributed finds the others.
set -euo pipefail

host=$(cat <<'HOST'
set -euo pipefail
cd {shlex.quote(checkout)}
exec {shlex.join(run)}
HOST
)
{shlex.join(ssh)} --worker=all --command="$host"
"""


PLACES = {"local": on_this_machine, "slurm": on_slurm, "ray": on_ray, "tpu": on_a_pod}
