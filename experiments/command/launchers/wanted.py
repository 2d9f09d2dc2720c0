"""What is launched, and what every place has in common: commands, exit codes and the last line."""

import importlib
import os
import signal
import sys
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
HERE = Path(__file__).resolve().parents[3]

ENDED = 128 + signal.SIGTERM  # What a worker returns that SIGTERM ended, checkpoint written.


@dataclass(frozen=True)
class Launch:
    """What to start: the flags that each worker gets, the store among them, and how many workers.

    `workers` is None where nobody said. `options` are sbatch's on Slurm, gcloud's for a pod;
    `setup` are lines of bash before a worker or a run starts there. `report` asks for a job that
    reports once the workers have ended, where a place can start one.
    """

    arguments: tuple[str, ...]
    store: str = "runs"
    workers: int | None = None
    options: dict[str, str | bool] = field(default_factory=dict)
    dry_run: bool = False
    setup: tuple[str, ...] = ()
    report: bool = True


def options(pairs: Sequence[str]) -> dict[str, str | bool]:
    """Returns KEY=VALUE pairs, and KEY alone as a switch, by their keys.

    Raises:
      Refused: a pair without a key, or a key that is given twice.
    """
    found: dict[str, str | bool] = {}
    for pair in pairs:
        key, equals, value = pair.lstrip("-").partition("=")
        if not key:
            raise Refused("--option", pair, "KEY=VALUE, or KEY alone for a switch")
        if key in found:
            raise Refused(f"--option={key}", f"{found[key]} and {value}", "it once")
        found[key] = value if equals else True
    return found


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


def command(name: str, arguments: Sequence[str]) -> list[str]:
    """Returns a command of espalier's in a process of its own."""
    return [sys.executable, SAFE, "-m", "espalier", name, *arguments]


def checkout() -> Path | None:
    """Returns the checkout that our packages lie in; None where they are installed."""
    return HERE if (HERE / "setup.cfg").exists() else None


def surroundings() -> dict[str, str]:
    """Returns a worker's environment, in which it finds the packages of this checkout."""
    found = dict(os.environ)
    if (folder := checkout()) is not None:
        others = [other for other in found.get("PYTHONPATH", "").split(os.pathsep) if other]
        found["PYTHONPATH"] = os.pathsep.join([str(folder), *others])
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
