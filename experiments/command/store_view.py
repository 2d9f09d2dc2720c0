"""A store as a person reads it: its studies, who is at what, and the room that states take."""

import io
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from experiments.command import named
from experiments.command.plan_view import duration, number
from refused import Refused
from scaling import Store, checkpoint
from scaling.leases import Leases

WIDTH = 140


@dataclass(frozen=True)
class Standing:
    """What a store has of a study: segments and tokens done and left, FLOPs, seconds, bytes."""

    runs: int
    segments: int
    done: int
    tokens_left: int
    flops_left: float
    flops_done: float
    seconds_done: float
    kept: int

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest takes at the speed of what is done; None where nothing is."""
        if not self.flops_done or not self.seconds_done:
            return None
        return self.flops_left * self.seconds_done / self.flops_done


def standing(store: Store, known: dict) -> Standing:
    """Counts what a store has of a study by its record."""
    done = tokens = kept = 0
    left = flops = seconds = 0.0
    for id, (_, segment_tokens, segment_flops, evaluation) in known["segments"].items():
        record = store.done(id)
        kept += checkpoint.total_bytes(store.folder(id))
        finished = record is not None and (
            evaluation is None
            or record["diverged_step"] is not None
            or evaluation in {line["evaluation"] for line in store.evals(id)}
        )
        if finished:
            done, flops = done + 1, flops + record["flops_train"]
            seconds += record["seconds"]
        else:
            tokens, left = tokens + segment_tokens, left + segment_flops
    counts = len(known["runs"]), len(known["segments"])
    return Standing(*counts, done, tokens, left, flops, seconds, kept)


def status_text(store: Store) -> str:
    """Returns what is printed of a store.

    Raises:
      Refused: no study is in it.
    """
    names = list(named.names(store))
    if not names:
        raise Refused("--store", store.path, "a store in which a study was trained")
    at, stream = holders(store), io.StringIO()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("study", "runs", "segments", "done", "left", "seconds left", "states", "running"):
        table.add_column(name, justify="left" if name in ("study", "running") else "right")
    for name in names:
        known = named.record(store, name)
        if known is None:
            table.add_row(name, *["–"] * 6, "its record is damaged")
            continue
        now = standing(store, known)
        here = [f"{who} at {id}" for id, who in at.items() if id in known["segments"]]
        table.add_row(
            name,
            str(now.runs),
            str(now.segments),
            str(now.done),
            f"{number(now.tokens_left)} tokens" if now.tokens_left else "–",
            "–" if not now.tokens_left else rest(now),
            f"{number(now.kept)}B",
            ", ".join(here) or "–",
        )
    Console(file=stream, width=WIDTH, highlight=False, markup=False).print(table)
    return stream.getvalue().rstrip()


def rest(now: Standing) -> str:
    """Writes the seconds left, at the speed of what is done."""
    return "unknown" if now.seconds_left is None else f"about {duration(now.seconds_left)}"


def holders(store: Store) -> dict[str, str]:
    """Returns who is at each segment that is leased, and how long ago a silent one was heard."""
    leases, found = Leases(store), {}
    there = leases.folder
    for lease in sorted(there.iterdir()) if there.exists() else ():
        holder = leases.holder(lease.name)
        if holder is None or leases.lives(holder[0]) is False:
            continue
        pulse = leases.workers / holder[0]
        silent = time.time() - pulse.stat().mtime if holder[0] and pulse.exists() else 0.0
        quiet = f" (silent for {duration(silent)})" if silent > holder[1] else ""
        found[lease.name] = (holder[0] or "an unknown worker") + quiet
    return found
