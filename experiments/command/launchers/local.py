"""Workers as processes of this machine, each with GPUs of its own where there are enough."""

import contextlib
import glob
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

from experiments.command.launchers.wanted import ENDED, Launch, command, surroundings, verdict
from refused import Refused

# Of a GPU's memory JAX takes this share at its start (docs.jax.dev, GPU memory allocation); several
# workers on one GPU divide it.
PREALLOCATED = 0.75
MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION"


def launch(wanted: Launch) -> int:
    """Runs workers as processes of this machine; SIGTERM and SIGINT have them end in good order.

    Raises:
      Refused: several workers where TPU chips are, which are one process's.
    """
    from scaling.environment import visible_cpus

    count, cpus = wanted.workers or 1, visible_cpus()
    if count > 1 and not on_cpu() and glob.glob("/dev/accel[0-9]*"):
        raise Refused("--workers", count, "1: the TPU chips of a machine are one process's")
    each, said = devices(gpus(), count)
    line = command("work", wanted.arguments)
    if wanted.dry_run:
        for given in each:
            print(shlex.join([*(f"{name}={value}" for name, value in given.items()), *line]))
        return 0
    print(f"workers: {count}; CPUs: {cpus}, {cpus / count:.2g} for each{said}", flush=True)
    return processes([line] * count, each)


def on_cpu() -> bool:
    """Says whether JAX was told to use the CPU only."""
    return os.environ.get("JAX_PLATFORMS", "") == "cpu"


def gpus() -> list[str]:
    """Returns the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if on_cpu():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        # CUDA sees none from the first one on that is not there, as -1 (CUDA C++ Programming Guide,
        # "CUDA Environment Variables").
        names = [name.strip() for name in named.split(",")]
        end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:end]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def devices(found: Sequence[str], count: int) -> tuple[list[dict[str, str]], str]:
    """Returns for each of `count` workers what its environment says of GPUs, and words for it.

    Each has as many of its own as come out even; where there are fewer than workers, they share.
    """
    if not found:
        return [{}] * count, ""
    own = len(found) // count
    if own:
        parts = [found[own * i : own * (i + 1)] for i in range(count)]
        idle = len(found) - own * count
        said = f"; GPUs: {len(found)}, {own} for each" + (f", {idle} idle" if idle else "")
        return [{"CUDA_VISIBLE_DEVICES": ",".join(part)} for part in parts], said
    most = -(-count // len(found))
    share = {} if MEMORY in os.environ else {MEMORY: f"{PREALLOCATED / most:.2f}"}
    each = [{"CUDA_VISIBLE_DEVICES": found[i % len(found)]} | share for i in range(count)]
    return each, f"; GPUs: {len(found)}, each shared by up to {most} workers"


def processes(
    commands: Sequence[Sequence[str]], each: Sequence[Mapping[str, str]] | None = None
) -> int:
    """Runs commands beside each other, their output under numbers; returns the exit code.

    `each` adds to the environment of each.

    The first SIGTERM or SIGINT is handed on as SIGTERM, a second one kills.
    """
    started: list[subprocess.Popen] = []
    signals: list[int] = []
    shape = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    # In groups of their own, so that Ctrl-C reaches the launcher alone.
    shape |= dict(process_group=0)
    around = surroundings() | {"PYTHONUNBUFFERED": "1"}

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
        for line, given in zip(commands, each or [{}] * len(commands), strict=True):
            if signals:
                break
            started.append(subprocess.Popen(line, env=around | given, **shape))
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
