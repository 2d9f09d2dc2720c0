"""Seals: checksums of what a store keeps, each bound to its place.

The place (a segment's id with the name of the file, and for lines all lines before) enters the
checksum, so that a good file in the wrong place is found. A record carries its own, in the same
file; so do lines. Of a folder a file of sums is written into it before it has its name. Files from
before there were checksums are read as they are, with one note for each store.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from etils import epath

DIGITS = 32  # Hexadecimal digits of a checksum: 128 bits of SHA-256.
LINE_DIGITS = 16  # Of a line's.
BLOCK_BYTES = 1 << 22  # Read of a file at a time.
MARK = ', "check": "'  # Stands before a line's checksum, at its end,
RECORD_MARK = ',\n "checksum": "'  # and before a record's.


class Damaged(Exception):
    """A file that is not what was written there."""

    def __init__(self, path, why: str):
        super().__init__(f"{path} is damaged ({why})")
        self.path, self.why = path, why


@functools.cache
def tell(text: str) -> None:
    """Says something once in a process."""
    logging.warning("%s", text)


def tell_old(store) -> None:
    """Says once of a store that some of its files have no checksums."""
    tell(f"note: {store} has files from before there were checksums; they are read unchecked")


def digest(*parts: str | bytes) -> str:
    """Returns the checksum of texts, one after the other."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(b"%d " % len(data) + data)
    return total.hexdigest()[:DIGITS]


def sealed(place: str, record: dict) -> str:
    """Returns a record as JSON with its checksum at the end."""
    text = json.dumps({"sealed": True} | record, indent=1)[: -len("\n}")]
    return f'{text}{RECORD_MARK}{digest(place, text)}"\n}}\n'


def opened(content: bytes, place: str, file, store) -> dict:
    """Returns the record that `sealed` wrote.

    Raises:
      Damaged: it is no record, or another one than was written for this place.
    """
    try:
        text = content.decode()
        record = json.loads(text)
    except ValueError:
        raise Damaged(file, "no JSON" if content.strip() else "empty") from None
    if not isinstance(record, dict):
        raise Damaged(file, "no record")
    marks = [record.pop(name, None) for name in ("sealed", "checksum")]
    if marks == [None, None]:
        tell_old(store)
        return record
    inside = text.rpartition(RECORD_MARK)[0]
    if text != f'{inside}{RECORD_MARK}{digest(place, inside)}"\n}}\n':
        raise Damaged(file, "its checksum is another")
    return record


def line(before: str, text: str) -> str:
    """Returns a line of JSON with its checksum at the end.

    `before` is the checksum of the line before, or the place of the file.
    """
    return f'{text[:-1]}{MARK}{digest(before, text)[:LINE_DIGITS]}"}}'


def check_of(text: str) -> str:
    """Returns the checksum at the end of a line."""
    return text.rpartition(MARK)[2][:LINE_DIGITS]


@dataclass
class Lines:
    """The lines of a file up to the first that is not as it was written.

    `checks` has the checksum after each record, empty for lines from before there were any; `why`
    says what is wrong with the next line, None where all are sound.
    """

    records: list[dict] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    why: str | None = None

    @property
    def head(self) -> str:
        """The checksum after the last line."""
        return self.checks[-1] if self.checks else ""

    def take(self, text: str, before: str) -> None:
        """Takes one more line."""
        try:
            record = json.loads(text)
            check = record.pop("check", None)
        except (ValueError, AttributeError):
            self.why = "a line that is no record"
            return
        if check is None and not self.head:
            check = ""
        elif text != line(before, text.rpartition(MARK)[0] + "}"):
            self.why = "the checksum of a line is another"
            return
        elif self.checks and not self.head:
            self.why = "lines with and without checksums"
            return
        self.records.append(record)
        self.checks.append(check)


def read_lines(files: Iterable[epath.Path], place: str, chain: bool = True) -> Lines:
    """Reads the lines of files; of a chain each line's checksum goes on from the one before."""
    found = Lines()
    for file in files:
        for text in file.read_bytes().decode(errors="replace").splitlines():
            found.take(text, (chain and found.head) or place)
            if found.why is not None:
                return found
    return found


def sums(folder: epath.Path, without: str) -> dict[str, list]:
    """Returns {file: [bytes, SHA-256]} of all files below a folder but one at its top."""
    found = {file.name: sum_of(file) for file in files(folder) if file.name != without}
    for inner in folder.iterdir():
        if inner.is_dir():
            found |= {f"{inner.name}/{name}": sum for name, sum in sums(inner, "").items()}
    return found


def files(folder: epath.Path) -> list[epath.Path]:
    """Lists the files right in a folder."""
    return [file for file in folder.iterdir() if not file.is_dir()]


def sum_of(file: epath.Path) -> list:
    """Returns a file's number of bytes and their SHA-256."""
    total, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            total.update(block)
            size += len(block)
    return [size, total.hexdigest()]
