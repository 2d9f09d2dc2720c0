"""The store: what each segment leaves behind, by its id; finished atomically, read by anyone.

`<store>/segments/<id>/` holds `spec.json`, `metrics.jsonl`, `eval.jsonl`, `checkpoint/` and, last
of all, `done.json`. A store may be any path that `etils.epath` opens.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from etils import epath

from refused import Refused
from scaling.plan import Segment
from scaling.runs import canonical


@dataclass(frozen=True)
class Store:
    """A folder of segments; nothing in it is ever half true."""

    path: epath.Path

    @classmethod
    def at(cls, path) -> "Store":
        """Names a store without touching it; a local path is made absolute, as orbax needs."""
        path = epath.Path(path)
        return cls(epath.Path(os.path.abspath(path)) if is_local(path) else path)

    def folder(self, id: str) -> epath.Path:
        """Returns where a segment's files are."""
        return self.path / "segments" / id

    def done(self, id: str) -> dict | None:
        """Returns a finished segment's record, or None."""
        file = self.folder(id) / "done.json"
        return json.loads(file.read_text()) if file.exists() else None

    @contextlib.contextmanager
    def reserved(self, name: str, shared: bool) -> Iterator[None]:
        """Keeps a study to one process inside, or to those that share it (leases settle the rest).

        The lock is the kernel's and ends with the process, killed or not. Object stores and file
        systems without locks have none: there two that train the same segments write double lines.

        Raises:
          Refused: another process has it that does not share it, or this one would not.
        """
        if not is_local(self.path):
            yield
            return
        folder = self.path / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / name, "w") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                accepted = "one espalier run of a study at a time, or any number of espalier work"
                raise Refused(f"--store={self.path}", f"{name} in training", accepted) from None
            except OSError:
                pass  # A network file system without locks.
            yield

    def finish(self, id: str, record: dict) -> None:
        """Writes `done.json`; finishing twice is harmless, since both records say the same."""
        write_atomically(self.folder(id) / "done.json", json.dumps(record, indent=1) + "\n")

    def begin(self, segment: Segment) -> None:
        """Writes `spec.json`: the run up to the segment's end, where it begins, and its parent."""
        folder = self.folder(segment.id)
        folder.mkdir(parents=True, exist_ok=True)
        spec = {
            "id": segment.id,
            "parent": segment.parent,
            "trunk": segment.run.trunk,
            "first_step": segment.first_step,
            "last_step": segment.run.steps,
            "run": canonical(segment.run),
        }
        write_atomically(folder / "spec.json", json.dumps(spec, indent=1) + "\n")

    def records(self, id: str, name: str, before_step: int | None = None) -> "Records":
        """Opens a segment's `metrics` or `eval` lines for appending."""
        return Records(self.folder(id), name, before_step)

    def read(self, id: str, name: str) -> Iterator[dict]:
        """Yields the records of a segment's `metrics` or `eval` lines."""
        for part in parts(self.folder(id), name):
            yield from lines(part)


class Records:
    """Lines of JSON appended to `NAME.jsonl`, or to numbered parts on object stores.

    Opening with `before_step` drops the lines of later steps: those of work that a kill undid.
    Lines are buffered until `flush`.
    """

    def __init__(self, folder: epath.Path, name: str, before_step: int | None = None):
        self.folder, self.name, self.pending = folder, name, []
        existing = parts(folder, name)
        kept = [r for part in existing for r in lines(part)] if before_step else []
        kept = [record for record in kept if record["step"] <= before_step]
        self.local = is_local(folder)
        if existing:
            first = folder / (f"{name}.jsonl" if self.local else f"{name}-00000.jsonl")
            for part in existing:
                if part != first:
                    part.unlink()
            write_atomically(first, "".join(json.dumps(r) + "\n" for r in kept))
        self.count = 1 if existing else 0

    def append(self, record: dict) -> None:
        """Adds a line."""
        self.pending.append(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Writes the added lines."""
        if not self.pending:
            return
        text = "".join(self.pending)
        if self.local:
            with open(self.folder / f"{self.name}.jsonl", "a", encoding="utf-8") as file:
                file.write(text)
        else:
            (self.folder / f"{self.name}-{self.count:05d}.jsonl").write_text(text)
            self.count += 1
        self.pending = []


def is_local(path: epath.Path) -> bool:
    """Says whether a path is a file system's, where files can be appended to."""
    return "://" not in os.fspath(path)


def parts(folder: epath.Path, name: str) -> list[epath.Path]:
    """Lists the files that hold a segment's lines, in order."""
    if not folder.exists():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if file.name == f"{name}.jsonl"
        or (file.name.startswith(f"{name}-") and file.name.endswith(".jsonl"))
    )


def lines(part: epath.Path) -> Iterable[dict]:
    """Yields the records of a file, up to a line that a kill cut short."""
    for line in part.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def write_atomically(file: epath.Path, text: str) -> None:
    """Writes a whole file or nothing: to a file beside it of this process's own, then a rename."""
    if not is_local(file):  # Object stores show an object only once it is whole.
        file.write_text(text)
        return
    beside = file.parent / f".{file.name}.{os.getpid()}"
    beside.write_text(text)
    beside.replace(file)
