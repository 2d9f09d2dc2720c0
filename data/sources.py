"""Readers: the texts of a user's files, one by one, and a name for each that cannot be used.

What a file is follows from its name: `.parquet`; `.jsonl` and `.ndjson`; all else is text. The
last two may end in `.gz` or `.zst` besides.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from refused import Refused

VERSION = 1  # Of the readers: raised when the same files give other texts.
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
BLOCK_BYTES = 1 << 20
ROWS = 64  # Of Parquet in memory at once: few, because a row may be as long as a text may be.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Fault(NamedTuple):
    """Why a file or one text of it cannot be used, and where in the file."""

    reason: str
    place: str = ""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How texts are found in files.

    `field` is the key or column of JSONL and Parquet. `split` is what stands between the documents
    of a text file (default: nothing, a file is one document). `longest` is the most bytes that a
    document, or a line of JSONL, may have: nothing longer is ever held in memory, except by
    Parquet's own reader. `Refused` for an empty field or a `longest` below 1.
    """

    field: str = "text"
    split: str = ""
    longest: int = 1 << 24

    def __post_init__(self):
        if not self.field:
            raise Refused("field", "nothing", "the key or column that holds the text")
        if self.longest < 1:
            raise Refused("longest", self.longest, "1 or more bytes")


def kind(file: Path) -> tuple[str, str | None]:
    """Returns a file's format (`text`, `jsonl` or `parquet`) and its compression, None without."""
    compression = COMPRESSED.get(file.suffix)
    inner = file.with_suffix("") if compression else file
    return FORMATS.get(inner.suffix, "text"), compression


def texts(file: Path, reading: Reading) -> Iterator[bytes | Fault]:
    """Yields a file's texts in their order, UTF-8 without byte 0, and a `Fault` for each other.

    Never raises for what a file holds. Of a file that breaks off, the texts before are yielded.
    Line ends stay as they are; a byte order mark is left out, and so is what is only white space
    between the documents of a text file or the lines of JSONL.
    """
    format, compression = kind(file)
    found = False
    try:
        if format == "parquet":
            results = rows(file, compression, reading)
        else:
            results = (lines if format == "jsonl" else pieces)(file, compression, reading)
        for result in results:
            found = True
            yield result
    except (OSError, pa.ArrowException) as error:
        found = True
        yield Fault(f"unreadable ({' '.join(str(error).split())[:120]})")
    if not found:
        yield Fault("empty file")


def checked(text: bytes, place: str) -> bytes | Fault:
    """Returns a text that can be used as it is, a `Fault` for any other."""
    if not text.strip():
        return Fault("empty text", place)
    if b"\0" in text:  # It separates documents in a corpus.
        return Fault("byte 0 in the text", place)
    try:
        text.decode()
    except UnicodeDecodeError:
        return Fault("broken UTF-8", place)
    return text


def pieces(file: Path, compression: str | None, reading: Reading) -> Iterator[bytes | Fault]:
    """Yields the documents of a text file."""
    mark = reading.split.encode()
    for number, text in enumerate(parts(file, compression, mark, reading.longest), 1):
        place = f"document {number}" if mark else ""
        if text is None:
            yield Fault(f"longer than {reading.longest} bytes", place)
        elif text.strip():
            yield checked(text, place)


def lines(file: Path, compression: str | None, reading: Reading) -> Iterator[bytes | Fault]:
    """Yields a field of every line of a JSONL file."""
    for number, line in enumerate(parts(file, compression, b"\n", reading.longest), 1):
        place = f"line {number}"
        if line is None:
            yield Fault(f"longer than {reading.longest} bytes", place)
        elif line.strip():
            yield value(line, reading.field, place)


def value(line: bytes, field: str, place: str) -> bytes | Fault:
    """Returns the text in a field of one line of JSON."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return Fault("broken UTF-8", place)
    except (ValueError, RecursionError):
        return Fault("no JSON", place)
    if not isinstance(record, dict) or record.get(field) is None:
        return Fault(f"no field {field!r}", place)
    if not isinstance(record[field], str):
        return Fault(f"field {field!r} is no text", place)
    try:
        return checked(record[field].encode(), place)
    except UnicodeEncodeError:  # Half of a surrogate pair, which JSON can escape.
        return Fault("broken UTF-8", place)


def rows(file: Path, compression: str | None, reading: Reading) -> Iterator[bytes | Fault]:
    """Yields a column of every row of a Parquet file."""
    if compression:
        yield Fault("unreadable (Parquet is compressed inside, not as a whole)")
        return
    if file.stat().st_size == 0:
        return
    with pq.ParquetFile(file, buffer_size=BLOCK_BYTES, pre_buffer=False) as table:
        if reading.field not in table.schema_arrow.names:
            yield Fault(f"no field {reading.field!r}")
            return
        type_ = table.schema_arrow.field(reading.field).type
        if pa.types.is_dictionary(type_):
            type_ = type_.value_type
        if type_ not in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
            yield Fault(f"field {reading.field!r} is no text")
            return
        number = 0
        for batch in table.iter_batches(ROWS, columns=[reading.field], use_threads=False):
            for text in batch.column(0).cast(type_).cast(pa.large_binary()).to_pylist():
                number += 1
                if text is None:
                    yield Fault(f"no field {reading.field!r}", f"row {number}")
                elif len(text) > reading.longest:
                    yield Fault(f"longer than {reading.longest} bytes", f"row {number}")
                else:
                    yield checked(text, f"row {number}")


def parts(file: Path, compression: str | None, mark: bytes, longest: int) -> Iterator[bytes | None]:
    """Yields what stands between marks, all of the file without one; None where it is too long."""
    rest, passing, first = b"", False, True
    with pa.OSFile(str(file)) as raw, pa.input_stream(raw, compression) as stream:
        while block := stream.read(BLOCK_BYTES):
            if first:
                block, first = block.removeprefix(BYTE_ORDER_MARK), False
            *whole, rest = (rest + block).split(mark) if mark else [rest + block]
            for part in whole:
                yield None if passing or len(part) > longest else part
                passing = False
            if len(rest) > longest + len(mark):
                passing = True
                rest = rest[len(rest) - max(len(mark) - 1, 0) :]  # A mark may have begun there.
    if passing or len(rest) > longest:
        yield None
    elif rest:
        yield rest
