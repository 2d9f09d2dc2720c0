"""TensorBoard files, written with tensorboard's own messages and checksums.

Its `EventFileWriter` hands every event to a thread through a queue: for the curves of a whole study
that took as long as a fit.
"""

import functools
import os
import re
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from etils import epath

from scaling.files import is_local, remove
from scaling.labels import words
from scaling.plan import Plan
from scaling.store import Store

# Keys of a metrics line that are not curves.
NOT_CURVES = ("step", "tokens", "seconds", "batch_tokens")
PAUSE = 2.0  # Seconds between two writes of a curve in training, at least.


class Curves:
    """The curves of a plan's runs in a folder: one of TensorBoard's runs for each, by its labels.

    While a segment trains, its lines go to all runs through it, where files can be appended to; of
    several workers (`shared`) each has a file of its own. `rewrite` gives them from the store, with
    evaluations, as if nothing had been interrupted.
    """

    def __init__(self, folder: epath.Path, plan: Plan, store: Store, shared: bool = False):
        self.folder, self.plan, self.store, self.shared = folder, plan, store, shared
        self.pending: dict[str, list[dict]] = defaultdict(list)
        self.files: dict[int, epath.Path] = {}
        self.last = -PAUSE
        self.through = through(plan)

    def take(self, id: str, lines: list[dict]) -> None:
        """Takes lines of a segment in training, and writes what there is now and then."""
        if lines and is_local(self.folder):
            self.pending[id] += lines
            if time.monotonic() - self.last >= PAUSE:
                self.flush()

    def flush(self) -> None:
        """Writes the lines taken so far."""
        pending, self.pending = self.pending, defaultdict(list)
        by_run: dict[int, list[dict]] = defaultdict(list)
        for id, lines in pending.items():
            for index in self.through[id]:
                by_run[index] += lines
        for index, lines in by_run.items():
            if index not in self.files:
                self.files[index], before = self.begin(index), []
                if not self.shared:
                    seen = {line["step"] for line in lines}
                    known = records(self.store, self.plan, index)
                    before = [line for line in known if line["step"] not in seen]
                lines = [*before, *lines]
            append_events(self.files[index], lines)
        self.last = time.monotonic()

    def begin(self, index: int) -> epath.Path:
        """Returns the file that a run's curves go to from now on."""
        folder = self.folder / folder_name(self.plan, index)
        if not self.shared:
            remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / file_name()

    def rewrite(self) -> None:
        """Writes every run's curves from the store."""
        lines = functools.cache(lambda id: lines_of(self.store, id))  # A trunk is in many runs,
        written: dict[int, bytes] = {}  # and each of its lines, by its `id`, is written out once.
        for index in range(len(self.plan.runs)):
            found = records(self.store, self.plan, index, lines)
            for line in found:
                if id(line) not in written:
                    written[id(line)] = framed(event(line))
            if found:
                folder = self.folder / folder_name(self.plan, index)
                replaced(folder, [written[id(line)] for line in found])


def through(plan: Plan) -> dict[str, list[int]]:
    """Returns by segment the numbers of the runs that go through it."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, run in enumerate(plan.runs):
        for segment in plan.path(run.identity):
            found[segment.id].append(index)
    return found


def lines_of(store: Store, id: str) -> list[dict]:
    """Returns what the store has of a segment."""
    return store.metrics(id) + store.evals(id)


def records(
    store: Store, plan: Plan, index: int, lines: Callable[[str], list[dict]] | None = None
) -> list[dict]:
    """Returns what the store has of a run, its segments one after the other.

    `lines` gives a segment's, where they are kept at hand.
    """
    found = []
    for segment in plan.path(plan.runs[index].identity):
        found += lines(segment.id) if lines else lines_of(store, segment.id)
    steps = set()  # Of segments that another study cut elsewhere, a step may be there twice.
    unique = lambda r: "evaluation" in r or (r["step"] not in steps and not steps.add(r["step"]))
    return [record for record in found if unique(record)]


def replaced(folder: epath.Path, events: Iterable[bytes]) -> None:
    """Writes a folder anew with one event file."""
    if folder.exists():
        folder.rmtree()
    folder.mkdir(parents=True)
    with (folder / file_name()).open("wb") as opened:
        opened.write(b"".join([beginning(), *events]))


def append_events(file: epath.Path, records: Iterable[dict]) -> None:
    """Adds metrics lines to a local event file, which is begun where it is not there."""
    begin = [] if file.exists() else [beginning()]
    with open(file, "ab") as opened:
        opened.write(b"".join([*begin, *(framed(event(record)) for record in records)]))


def beginning() -> bytes:
    """Returns what says what kind of file it is."""
    from tensorboard.compat.proto.event_pb2 import Event

    return framed(Event(wall_time=0.0, file_version="brain.Event:2"))


def framed(event) -> bytes:
    """Returns an event as an event file has it: its length and itself, each with its checksum."""
    data = event.SerializeToString()
    return head(len(data)) + data + checksum(data)


@functools.cache  # There are few lengths, and the checksum is taken in Python.
def head(length: int) -> bytes:
    """Returns what stands before a record of some bytes."""
    packed = struct.pack("<Q", length)
    return packed + checksum(packed)


def checksum(data: bytes) -> bytes:
    """Returns a masked CRC32C, as tensorboard's own record writer writes it."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    return struct.pack("<I", masked_crc32c(data))


def file_name() -> str:
    """Names a new event file, by the time and the process."""
    return f"events.out.tfevents.{int(time.time())}.{os.getpid()}"


def event(record: dict):
    """Returns a metrics or evaluation line as TensorBoard's event."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [
        Summary.Value(tag=tag, simple_value=value)
        for tag, value in curves(record)
        if value is not None
    ]
    wall = record.get("seconds", 0.0)
    return Event(step=record["tokens"], wall_time=wall, summary=Summary(value=values))


def folder_name(plan: Plan, index: int) -> str:
    """Names a run's folder by its place in the plan, its labels, tokens and seed."""
    run = plan.runs[index]
    cells = plan.cells(plan.segments[run.identity])
    said = words({name: (value,) for name, value in cells.items()}) or f"width {run.model.width}"
    parts = [f"{index:03d}", *said.split("  "), f"{run.tokens / 1e6:.2f}M", f"seed {run.seed}"]
    return "-".join(re.sub(r"[^\w.±×]+", "_", part).strip("_") for part in parts)


def curves(record: dict) -> Iterable[tuple[str, float]]:
    """Yields (tag, value) of a metrics or evaluation line."""
    for key, value in record.items():
        if key in NOT_CURVES or isinstance(value, str):
            continue
        if isinstance(value, dict):
            yield from ((f"{key}/{name}", x) for name, x in value.items())
        else:
            yield key, value
