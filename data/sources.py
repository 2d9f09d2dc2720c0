"""Readers: the texts of a user's files, one by one, and a name for each that cannot be used."""

import codecs
import csv
import dataclasses
import itertools
import json
import lzma
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data.files import AUTO, BLOCK_BYTES, FORMATS, blocks, kind, opened, parts
from refused import Refused

VERSION = 2  # Of the readers: raised when the same files give other texts, or other shards.
ROWS = 64  # Of Parquet in memory at once: few, because a row may be as long as a text may be.
EMPTY = "empty file"
COLUMNS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
ARROW = b"ARROW1"  # Begins a file of Arrow's that has an index.
BETWEEN = re.compile(r"[\s,]*")  # Of two records of a JSON file.


class Fault(NamedTuple):
    """Why a file or one text of it cannot be used, and where in the file."""

    reason: str
    place: str = ""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How texts are found in files.

    `field` is the key or column of JSON, CSV and Parquet. `split` is what stands between the
    documents of a text file (default: nothing, a file is one document). `longest` is the most
    bytes that a document, or a line of JSONL, may have: nothing longer is ever held in memory,
    except by Parquet's own reader. `format` is one of `data.files.FORMATS`, or `auto`: by each
    file's content and name. `Refused` for an empty field, a `longest` below 1 or another format.
    """

    field: str = "text"
    split: str = ""
    longest: int = 1 << 24
    format: str = AUTO

    def __post_init__(self):
        if not self.field:
            raise Refused("field", "nothing", "the key or column that holds the text")
        if self.longest < 1:
            raise Refused("longest", self.longest, "1 or more bytes")
        if self.format not in (AUTO, *FORMATS):
            raise Refused("format", self.format, ", ".join((AUTO, *FORMATS)))

    @classmethod
    def of_domains(
        cls,
        domains: Iterable[str],
        fields: Sequence[str] = (),
        formats: Sequence[str] = (),
        **shared,
    ) -> "dict[str, Reading]":
        """Returns each domain's reading, from values for all and `DOMAIN=VALUE` for one.

        Raises:
          Refused: a domain that is not there, or two values for one domain or for all.
        """
        domains, common = tuple(domains), cls(**shared)
        field = _by_domain("field", fields, domains, common.field)
        format_ = _by_domain("format", formats, domains, common.format)
        return {d: dataclasses.replace(common, field=field[d], format=format_[d]) for d in domains}


def _by_domain(option: str, values: Sequence[str], domains: Sequence[str], default: str) -> dict:
    found: dict[str | None, str] = {}
    for given in values:
        domain, equals, value = given.partition("=")
        domain, value = (domain, value) if equals else (None, given)
        if equals and domain not in domains:
            accepted = f"DOMAIN=VALUE of {', '.join(domains)}, or one VALUE for all others"
            raise Refused(option, given, accepted)
        if domain in found:
            raise Refused(option, f"{found[domain]} and {value}", "one for all, and one per domain")
        found[domain] = value
    return {domain: found.get(domain, found.get(None, default)) for domain in domains}


def texts(file: Path, reading: Reading) -> Iterator[bytes | Fault]:
    """Yields a file's texts in their order, UTF-8 without byte 0, and a `Fault` for each other.

    Never raises for what a file holds. Of a file that breaks off, the texts before are yielded.
    Line ends stay as they are; a byte order mark is left out, and so is what is only white space
    between the documents of a text file or the lines of JSONL. A file without any text gives one
    fault, whose reason is `EMPTY`.
    """
    found = False
    try:
        format, compression = kind(file, reading.format)
        for result in READERS[format](file, compression, reading):
            found = True
            yield result
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        found = True
        yield Fault(f"unreadable ({' '.join(str(error).split())[:120]})")
    if not found:
        yield Fault(EMPTY)


def checked(text: bytes, longest: int, place: str) -> bytes | Fault:
    """Returns a text that can be used as it is, a `Fault` for any other."""
    if len(text) > longest:
        return Fault(f"longer than {longest} bytes", place)
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
            yield checked(text, reading.longest, place)


def lines(file: Path, compression: str | None, reading: Reading) -> Iterator[bytes | Fault]:
    """Yields a field of every line of a JSONL file."""
    for number, line in enumerate(parts(file, compression, b"\n", reading.longest), 1):
        place = f"line {number}"
        if line is None:
            yield Fault(f"longer than {reading.longest} bytes", place)
        elif line.strip():
            try:
                record = json.loads(line.decode())
            except UnicodeDecodeError:
                yield Fault("broken UTF-8", place)
            except (ValueError, RecursionError):
                yield Fault("no JSON", place)
            else:
                yield value(record, reading, place)


def value(record: object, reading: Reading, place: str) -> bytes | Fault:
    """Returns the text in the field of one record of JSON."""
    field = reading.field
    if not isinstance(record, dict) or record.get(field) is None:
        return Fault(f"no field {field!r}", place)
    if not isinstance(record[field], str):
        return Fault(f"field {field!r} is no text", place)
    try:
        return checked(record[field].encode(), reading.longest, place)
    except UnicodeEncodeError:  # Half of a surrogate pair, which JSON can escape.
        return Fault("broken UTF-8", place)


def records(file: Path, compression: str | None, reading: Reading) -> Iterator[bytes | Fault]:
    """Yields a field of every object of a JSON file: one array of them, or one after the other.

    What is no JSON ends the file, because nothing says where the next object begins.
    """
    number = 0
    try:
        for record in values(file, compression, reading.longest):
            number += 1
            yield value(record, reading, f"record {number}")
    except UnicodeDecodeError:
        yield Fault("broken UTF-8", f"record {number + 1}")
    except ValueError as error:
        yield Fault(str(error), f"record {number + 1}")


def values(file: Path, compression: str | None, longest: int) -> Iterator[object]:
    """Yields the elements of a JSON array, or JSON values one after the other.

    Raises:
      ValueError: something else, or a value longer than `longest` bytes.
    """
    read, utf8 = json.JSONDecoder().raw_decode, codecs.getincrementaldecoder("utf-8")()
    text, at, begun, depth = "", 0, False, 0
    for block in itertools.chain(blocks(file, compression), [None]):
        text, at = text[at:] + utf8.decode(block or b"", final=block is None), 0
        while (at := BETWEEN.match(text, at).end()) < len(text):
            if text[at] == "[" and not begun:
                begun, depth, at = True, 1, at + 1
            elif text[at] == "]" and depth == 1:
                depth, at = -1, at + 1
            elif depth == -1:
                raise ValueError("no JSON (something after the array)")
            else:
                try:
                    record, at = read(text, at)
                except (ValueError, RecursionError):  # Not yet whole, or never.
                    break
                begun = True
                yield record
        if len(text) - at > longest + BLOCK_BYTES:
            raise ValueError(f"no JSON within {longest} bytes")
    if at < len(text) or depth == 1:
        raise ValueError("no JSON")


def table(
    file: Path, compression: str | None, reading: Reading, delimiters: str
) -> Iterator[bytes | Fault]:
    """Yields a column of every row of a CSV or TSV file (RFC 4180), named in its first line.

    The delimiter is the first of `delimiters` that finds the column. What breaks the rules of
    quoting ends the file, and a row of another width is a fault.
    """
    number, limit = 0, csv.field_size_limit()  # The process's, and others read with it too.
    try:
        source = csv_lines(file, compression, reading.longest)
        header = next(source, "")
        delimiter, names = header_of(header, delimiters, reading.field)
        if header.strip() and names.count(reading.field) != 1:
            reason = "two columns" if reading.field in names else "no field"
            yield Fault(f"{reason} {reading.field!r}")
            return
        csv.field_size_limit(min(reading.longest, sys.maxsize))
        for row in csv.reader(source, delimiter=delimiter, strict=True):
            number += bool(row)
            if len(row) == len(names):
                text = row[names.index(reading.field)].encode("utf-8", "surrogateescape")
                yield checked(text, reading.longest, f"row {number}")
            elif row:
                yield Fault(f"{len(row)} columns instead of {len(names)}", f"row {number}")
    except csv.Error as error:
        yield Fault(f"no CSV ({error})", f"row {number + 1}")
    finally:
        csv.field_size_limit(limit)


def csv_lines(file: Path, compression: str | None, longest: int) -> Iterator[str]:
    """Yields lines with their ends, bytes that are no UTF-8 kept as Python escapes them."""
    for line in parts(file, compression, b"\n", longest):
        if line is None:
            raise csv.Error(f"a line longer than {longest} bytes")
        yield line.decode("utf-8", "surrogateescape") + "\n"


def header_of(line: str, delimiters: str, field: str) -> tuple[str, list[str]]:
    """Returns the first delimiter that finds the field in a header, and the names it gives."""
    for delimiter in delimiters:
        names = next(csv.reader([line], delimiter=delimiter, strict=True), [])
        if field in names:
            return delimiter, names
    return delimiters[0], next(csv.reader([line], delimiter=delimiters[0]), [])


def rows(file: Path, compression: str | None, reading: Reading) -> Iterator[bytes | Fault]:
    """Yields a column of every row of a Parquet file."""
    if compression:
        yield Fault("unreadable (Parquet is compressed inside, not as a whole)")
        return
    if file.stat().st_size == 0:
        return
    with pq.ParquetFile(file, buffer_size=BLOCK_BYTES, pre_buffer=False) as table:
        if fault := column_fault(table.schema_arrow, reading.field):
            yield fault
            return
        batches = table.iter_batches(ROWS, columns=[reading.field], use_threads=False)
        yield from column((batch.column(0) for batch in batches), reading)


def messages(file: Path, compression: str | None, reading: Reading) -> Iterator[bytes | Fault]:
    """Yields a column of every row of a file of Arrow's, as a stream or with an index."""
    if not compression and file.stat().st_size == 0:
        return
    with opened(file, compression) as stream:
        whole = stream.read(len(ARROW)) == ARROW
    if whole and compression:
        yield Fault("unreadable (a file of Arrow's with an index, compressed as a whole)")
        return
    with opened(file, compression) as stream:
        table = pa.ipc.open_file(stream) if whole else pa.ipc.open_stream(stream)
        if fault := column_fault(table.schema, reading.field):
            yield fault
            return
        many = range(table.num_record_batches) if whole else ()
        batches = map(table.get_batch, many) if whole else table
        few = (
            batch.column(reading.field).slice(begin, ROWS)
            for batch in batches
            for begin in range(0, batch.num_rows, ROWS)
        )
        yield from column(few, reading)


def column_fault(schema: pa.Schema, field: str) -> Fault | None:
    """Returns why a column cannot be read; None where it can."""
    if field not in schema.names:
        return Fault(f"no field {field!r}")
    if schema.names.count(field) > 1:
        return Fault(f"two columns {field!r}")
    type_ = schema.field(field).type
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    return None if str(type_) in COLUMNS else Fault(f"field {field!r} is no text")


def column(arrays: Iterable[pa.Array], reading: Reading) -> Iterator[bytes | Fault]:
    """Yields every value of a column that comes in pieces."""
    number = 0
    for array in arrays:
        type_ = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
        for text in array.cast(type_).cast(pa.large_binary()).to_pylist():
            number += 1
            if text is None:
                yield Fault(f"no field {reading.field!r}", f"row {number}")
            else:
                yield checked(text, reading.longest, f"row {number}")


READERS = {
    "text": pieces,
    "jsonl": lines,
    "json": records,
    "csv": partial(table, delimiters=",;\t|"),
    "tsv": partial(table, delimiters="\t,"),
    "parquet": rows,
    "arrow": messages,
}
