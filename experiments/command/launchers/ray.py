"""Workers as actors of a Ray cluster, one per accelerator."""

import contextlib
import importlib
import os
import re
import shlex
import signal
import socket
from collections.abc import Iterator, Sequence
from types import ModuleType

from experiments.command.launchers.wanted import ENDED, HERE, Launch, needed, verdict, work
from refused import Refused

CONNECT_SECONDS = 10


class Actor:
    """A worker as an actor of Ray's."""

    def place(self) -> tuple[str, int]:
        """Returns the node and the process."""
        return importlib.import_module("ray").get_runtime_context().get_node_id(), os.getpid()

    def work(self, arguments: Sequence[str], folder: str) -> int:
        """Is a worker until the plan is done; returns its exit code."""
        os.chdir(folder)
        return work(arguments)


@contextlib.contextmanager
def cluster() -> Iterator[ModuleType]:
    """Gives Ray, of the cluster that RAY_ADDRESS names or that runs on this machine.

    Where there is none, it is a new one of this machine, for as long.

    Raises:
      Refused: Ray is not installed, or the cluster does not answer.
    """
    ray = needed("ray", "ray")
    mine = not ray.is_initialized()
    if mine:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Nothing is sent to anybody.
        answering(os.environ.get("RAY_ADDRESS", ""))
        with contextlib.chdir(HERE):  # Ray puts the folder it is called in first on workers' paths.
            try:
                ray.init()
            except ConnectionError as error:  # As of `auto` where none runs.
                got = os.environ.get("RAY_ADDRESS", "nothing")
                said = " ".join(str(error).split())[:160]
                raise Refused("RAY_ADDRESS", got, f"a cluster that answers ({said})") from None
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def answering(address: str) -> None:
    """Refuses an address of a host and a port where nobody answers: Ray would ask for minutes."""
    if found := re.fullmatch(r"(?:ray://)?([^/\s]+):(\d+)", address):
        try:
            socket.create_connection((found[1].strip("[]"), int(found[2])), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise Refused("RAY_ADDRESS", f"{address} ({error})", "a cluster that answers") from None


def launch(wanted: Launch, actor: type = Actor) -> int:
    """Starts an actor per accelerator of a Ray cluster and waits for them.

    The cluster is the one that RAY_ADDRESS names or that runs on this machine, otherwise a new one
    of this machine. Its nodes see the folder this is called in, and the store. Where it has no
    GPUs, an actor takes one CPU. SIGTERM and SIGINT have the workers end in good order.
    """
    if wanted.dry_run:
        needed("ray", "ray")
        where = os.environ.get("RAY_ADDRESS", "the one of this machine, or a new one of it")
        print(f"cluster: {where}")
        print(f"actors: {wanted.workers or 'one per GPU; in a cluster without GPUs one per node'}")
        print("each: num_gpus=1; in a cluster without GPUs num_cpus=1")
        print(f"in {os.getcwd()}: {shlex.join(['espalier', 'work', *wanted.arguments])}")
        return 0
    with cluster() as ray:
        return watched(ray, wanted, actor)


def watched(ray: ModuleType, wanted: Launch, actor: type) -> int:
    """Starts the actors and waits for them; returns the launcher's exit code."""
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
