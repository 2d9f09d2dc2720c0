"""Workers that get a signal in mid-training, and launches on a Ray cluster: run with -m.

Ray forks, which a process that JAX runs in must not; so it has a process of its own.
"""

import argparse
import contextlib
import os
import secrets
import signal
import tempfile
import threading

import tests.conftest  # noqa: F401 — the same settings as in the tests.
from experiments.command.launchers.ray import Actor
from experiments.command.launchers.ray import launch as on_ray
from experiments.command.launchers.slurm import Task
from experiments.command.launchers.wanted import ENDED, Launch

# Ray asks nothing of the network, keeps its token out of the home folder, and lets workers have
# their share of a busy machine.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_worker_niceness": "0",
}


def interrupting(number: int) -> None:
    """Has the first worker that trains, of all with one MARKER, get a signal in a segment."""
    from experiments.command import session
    from scaling.progress import Silent

    class Interrupt(Silent):
        def update(self, segment, step, loss, speed):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(os.environ["MARKER"], os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), number)

    session.progress = Interrupt


class Interrupted(Task):
    """A job of which one is told, in mid-training, that it will be preempted."""

    def __call__(self):
        interrupting(signal.SIGUSR2)
        super().__call__()


class Killed(Actor):
    """An actor of which one dies in mid-training."""

    def work(self, arguments, folder):
        interrupting(signal.SIGKILL)
        return super().work(arguments, folder)


class Missing(Actor):
    """An actor whose node lacks the folder."""

    def work(self, arguments, folder):
        return super().work(arguments, folder + "/nowhere")


class Told(Actor):
    """An actor that has the launcher get SIGTERM, and waits to be told itself."""

    def work(self, arguments, folder):
        told = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: told.set())
        os.kill(int(os.environ["LAUNCHER"]), signal.SIGTERM)
        told.wait()
        return ENDED


def run() -> None:
    """Launches workers, of which some die or are told to end, and prints the exit codes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--marker")
    args, flags = parser.parse_known_args()
    os.environ.update(SETTINGS | {"MARKER": args.marker, "LAUNCHER": str(os.getpid())})
    import ray

    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # Ray's sockets need short paths.
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=80 << 20,
            _temp_dir=folder,
        )
        try:
            codes = [on_ray(Launch(tuple(flags), workers=2), Killed)]
            codes.append(on_ray(Launch((), workers=3), Missing))  # The third waits for a CPU.
            codes.append(on_ray(Launch(()), Told))
        finally:
            ray.shutdown()
    print("codes", *codes, flush=True)


if __name__ == "__main__":
    run()
