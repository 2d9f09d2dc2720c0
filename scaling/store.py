"""The store: what each segment leaves behind, by its id; finished atomically, read by anyone.

`<store>/segments/<id>/` holds `spec.json`, `metrics.jsonl`, `eval.jsonl`, `checkpoint/` and, last
of all, `done.json`. A store may be any path that `etils.epath` opens. Everything in it is sealed
(`scaling.seals`): a finished segment of which a file is damaged is told and counts as not trained.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from etils import epath

from refused import Refused
from scaling import seals
from scaling.files import is_local, sweep, write_atomically
from scaling.plan import Segment
from scaling.runs import canonical
from scaling.seals import Damaged

# Records found sound with all that they vouch for, by file: a process checks each once.
SOUND: dict[str, bytes] = {}


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
        """Returns where a segment's files are.

        Raises:
          Refused: what is no id.
        """
        if not re.fullmatch("[0-9a-f]{16}", id):
            raise Refused("run", id, "an id of 16 hexadecimal digits")
        return self.path / "segments" / id

    def study(self, name: str) -> epath.Path:
        """Returns where a study's record, tables and report are."""
        return self.path / "studies" / plain(name)

    def done(self, id: str) -> dict | None:
        """Returns a finished segment's record; None where there is none, or something is damaged.

        What is damaged is told once.
        """
        file = self.folder(id) / "done.json"
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            record = seals.opened(content, f"{id} done.json", file, self.path)
            vouched = record.pop("metrics", None)
            if record.get("id", id) != id:
                raise Damaged(file, f"it is of segment {record['id']}")
            if vouched is not None and SOUND.get(os.fspath(file)) != content:
                self.vouch(id, vouched)
                SOUND[os.fspath(file)] = content
        except Damaged as damaged:
            seals.tell(f"{damaged}: segment {id} counts as not trained")
            return None
        return record

    def vouch(self, id: str, vouched: dict) -> None:
        """Checks a segment's metrics against what its record says of them.

        Raises:
          Damaged: they are others.
        """
        found = self.lines(id)
        if found.why is not None or found.head != vouched["check"]:
            why = found.why or f"{len(found.records)} lines of {vouched['lines']}, or others"
            raise Damaged(self.folder(id) / "metrics.jsonl", why)

    def spec(self, id: str) -> dict | None:
        """Returns what a segment is: the run up to its end, and where it begins; None without it.

        Raises:
          Damaged: it is not what was written.
        """
        file = self.folder(id) / "spec.json"
        if not file.exists():
            return None
        return seals.opened(file.read_bytes(), f"{id} spec.json", file, self.path)

    @contextlib.contextmanager
    def reserved(self, name: str, shared: bool) -> Iterator[None]:
        """Keeps a study to one process inside, or to those that share it (leases settle the rest).

        The lock is the kernel's and ends with the process, killed or not. Object stores and file
        systems without locks have none.

        Raises:
          Refused: another process has it that does not share it, or this one would not.
        """
        if not is_local(self.path):
            yield
            return
        folder = self.path / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / plain(name), "w") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                accepted = "one espalier run of a study at a time, or any number of espalier work"
                raise Refused(f"--store={self.path}", f"{name} in training", accepted) from None
            except OSError:
                pass  # A network file system without locks.
            yield

    def finish(self, id: str, record: dict, log: "Records | None" = None) -> None:
        """Writes `done.json`; finishing twice is harmless, since both records say the same."""
        lines = self.lines(id) if log is None else log
        vouched = {"lines": len(lines.records), "check": lines.head}
        text = seals.sealed(f"{id} done.json", record | {"metrics": vouched})
        write_atomically(self.folder(id) / "done.json", text)

    def begin(self, segment: Segment) -> None:
        """Writes `spec.json`: the run up to the segment's end, where it begins, and its parent."""
        folder = self.folder(segment.id)
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        spec = {
            "id": segment.id,
            "parent": segment.parent,
            "trunk": segment.run.trunk,
            "first_step": segment.first_step,
            "last_step": segment.run.steps,
            "run": canonical(segment.run),
        }
        write_atomically(folder / "spec.json", seals.sealed(f"{segment.id} spec.json", spec))

    def records(self, id: str, before_step: int | None = None) -> "Records":
        """Opens a segment's metrics for appending."""
        return Records(self.folder(id), f"{id} metrics.jsonl", before_step)

    def lines(self, id: str) -> seals.Lines:
        """Returns a segment's metrics, up to what a kill cut short."""
        return seals.read_lines(parts(self.folder(id), "metrics"), f"{id} metrics.jsonl")

    def metrics(self, id: str) -> list[dict]:
        """Returns the records of a segment's metrics."""
        return self.lines(id).records

    def evals(self, id: str) -> list[dict]:
        """Returns a segment's evaluations; a damaged line is told and left out."""
        found = []
        for file in parts(self.folder(id), "eval"):
            for text in file.read_bytes().splitlines():
                one = seals.Lines()
                one.take(text.decode(errors="replace"), f"{id} eval.jsonl")
                if one.why is None and not one.head:
                    seals.tell_old(self.path)
                if one.why is not None:
                    damaged = Damaged(file, one.why)
                    seals.tell(f"{damaged}: that evaluation of segment {id} counts as not made")
                found += one.records
        return found

    def add_eval(self, id: str, record: dict) -> None:
        """Adds an evaluation, in place of one of the same identity."""
        there = [r for r in self.evals(id) if r["evaluation"] != record["evaluation"]]
        place, texts = f"{id} eval.jsonl", map(json.dumps, [*there, record])
        text = "".join(seals.line(place, one) + "\n" for one in texts)
        file = self.folder(id) / "eval.jsonl"
        write_atomically(file, text)
        for part in parts(self.folder(id), "eval"):
            if part.name != file.name:
                part.unlink()

    def chain(self, id: str) -> list[tuple[str, dict]]:
        """Returns the records, by id, of the segments through which a state was trained.

        They follow each other without overlap, however a study cuts its runs.
        """
        found, known = [], self.done(id)
        while known is not None:
            found.append((id, known))
            id = known.get("parent")
            known = self.done(id) if id else None
        return found[::-1]


class Records:
    """Lines of JSON appended to `metrics.jsonl`, or to numbered parts on object stores.

    Opening with `before_step` drops the lines of later steps: those of work that a kill undid.
    Lines are buffered until `flush`, which may be called again after one that failed.
    """

    def __init__(self, folder: epath.Path, place: str, before_step: int | None = None):
        self.folder, self.place, self.head = folder, place, ""
        self.local = is_local(folder)
        self.records: list[int] = []  # The steps of all lines.
        self.pending: list[str] = []
        existing = parts(folder, "metrics")
        kept = seals.read_lines(existing, place).records if before_step else []
        for record in kept:
            if record["step"] <= before_step:
                self.append(record)
        text, self.pending = "".join(self.pending).encode(), []
        self.size, self.count = len(text), 1 if existing else 0
        if existing:
            first = folder / ("metrics.jsonl" if self.local else "metrics-00000.jsonl")
            for part in existing:
                if part != first:
                    part.unlink()
            write_atomically(first, text)

    def append(self, record: dict) -> None:
        """Adds a line."""
        text = seals.line(self.head or self.place, json.dumps(record))
        self.head = seals.check_of(text)
        self.records.append(record["step"])
        self.pending.append(text + "\n")

    def flush(self) -> None:
        """Writes the added lines."""
        if not self.pending:
            return
        data = "".join(self.pending).encode()
        if self.local:
            file = self.folder / "metrics.jsonl"
            with open(file, "r+b" if self.size else "wb") as opened:
                opened.truncate(self.size)  # Of an earlier try.
                opened.seek(self.size)
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
        else:
            (self.folder / f"metrics-{self.count:05d}.jsonl").write_bytes(data)
        self.pending, self.size, self.count = [], self.size + len(data), self.count + 1


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


def plain(name: str) -> str:
    """Returns a study's name if it is one.

    Raises:
      Refused: what could be a path, or markup.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", name):
        raise Refused("study's name", name, "at most 100 letters, digits and _ . + -")
    return name
