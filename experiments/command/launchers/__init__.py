"""Where workers are started: `espalier launch --on=local|slurm|ray|tpu`.

Nothing is scheduled here. Slurm or Ray place the workers, and leases in the store settle which of
them trains which segment (`scaling.leases`), so that the others go on where one has died. A TPU pod
is one machine to JAX: it gets one run over all its hosts.
"""

from experiments.command.launchers import local, ray, slurm, tpu
from experiments.command.launchers.wanted import Launch, options
from refused import Refused, listed

__all__ = ["PLACES", "Launch", "launch", "options"]

PLACES = {"local": local.launch, "slurm": slurm.launch, "ray": ray.launch, "tpu": tpu.launch}


def launch(on: str, wanted: Launch) -> int:
    """Starts workers, or with `dry_run` prints what would be started; returns the exit code.

    Raises:
      Refused: no such place, fewer than one worker, options that the place does not know.
    """
    if on not in PLACES:
        raise Refused("--on", on, listed(PLACES, on))
    if wanted.workers is not None and wanted.workers < 1:
        raise Refused("--workers", wanted.workers, "at least 1")
    if on in ("local", "ray"):
        for flag, given in (("--option", wanted.options), ("--setup", wanted.setup)):
            if given:
                raise Refused(flag, next(iter(given)), "none, but with slurm and tpu")
    return PLACES[on](wanted)
