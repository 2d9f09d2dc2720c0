"""Files as streams: what each holds by its content and name, decompressed, cut at a mark.

Compression is told by a file's first bytes, else by its name. Then the format: Parquet by its
content; `.json`, `.jsonl`, `.ndjson`, `.csv`, `.tsv`, `.parquet` and `.arrow` by the name, in any
case; any other file is JSON lines where its first line is a JSON object, and text where it is not.
"""

import contextlib
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa

BLOCK_BYTES = 1 << 20
GLANCE_BYTES = 1 << 12  # Read of every file to see what it is ...
LOOK_BYTES = 1 << 20  # ... and of one that may be JSON.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bz2"}
# First bytes, from RFC 1952 section 2.3.1, RFC 8878 section 3.1.1, the .xz file format 1.2.1,
# section 2.1.1.1, and bzip2's block header (a level between `BZh` and the digits of pi).
BEGINNINGS = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz"}
BZIP2 = (b"BZh", b"1AY&SY")
PARQUET = b"PAR1"  # Begins and ends a Parquet file.
NAMED = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
FORMATS = ("text", "jsonl", "json", "csv", "tsv", "parquet", "arrow")
AUTO = "auto"


class Kind(NamedTuple):
    """A file's format, one of `FORMATS`, and its compression, None without."""

    format: str
    compression: str | None


def kind(file: Path, format: str = AUTO) -> Kind:
    """Returns what a file is, or how it is compressed where its format is given.

    Raises:
      OSError: a file that cannot be read.
    """
    suffix = file.suffix.lower()
    compression = compression_of(file)
    if suffix in COMPRESSED:
        suffix = Path(file.stem).suffix.lower()
    named = NAMED.get(suffix)
    if format != AUTO:
        return Kind(format, compression)
    if named in ("csv", "tsv", "parquet", "arrow"):
        return Kind(named, compression)
    if compression is None and is_parquet(file):
        return Kind("parquet", None)
    return Kind(json_or_text(file, compression, named), compression)


def compression_of(file: Path) -> str | None:
    """Returns how a file is compressed: by its first bytes, or else by what its name says."""
    with open(file, "rb") as stream:
        head = stream.read(10)
    for beginning, compression in BEGINNINGS.items():
        if head.startswith(beginning):
            return compression
    if head.startswith(BZIP2[0]) and head[4:] == BZIP2[1]:
        return "bz2"
    return COMPRESSED.get(file.suffix.lower())


def is_parquet(file: Path) -> bool:
    """Says whether a file begins and ends as Parquet does."""
    with open(file, "rb") as stream:
        begins = stream.read(len(PARQUET)) == PARQUET
        return begins and (stream.seek(-len(PARQUET), 2), stream.read())[1] == PARQUET


def json_or_text(file: Path, compression: str | None, named: str | None) -> str:
    """Returns `jsonl`, `json` (an array, or objects over several lines) or `text`."""
    text = beginning(file, compression, GLANCE_BYTES).lstrip()
    if text[:1] not in (b"{", b"["):
        return "jsonl" if named else "text"
    if text[:1] == b"[":
        return "json" if named else "text"
    text = beginning(file, compression, LOOK_BYTES).lstrip()
    line, ended, rest = text.partition(b"\n")
    whole = is_object(line) or (not ended and len(text) > LOOK_BYTES // 2)  # Too long to see.
    if named is None:
        return "jsonl" if whole else "text"
    return "jsonl" if named == "jsonl" or whole or rest.startswith(b"{") else "json"


def is_object(line: bytes) -> bool:
    """Says whether a line is a JSON object with a key."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found)


def beginning(file: Path, compression: str | None, size: int) -> bytes:
    """Returns at least `size` first bytes of a file, or all there are, without a byte order mark.

    Of a compressed file that breaks off, what is whole.
    """
    found = b""
    with contextlib.suppress(OSError, EOFError, lzma.LZMAError, pa.ArrowException):
        with opened(file, compression) as stream:
            while len(found) < size and (block := stream.read(size)):
                found += block
    return found.removeprefix(BYTE_ORDER_MARK)


@contextlib.contextmanager
def opened(file: Path, compression: str | None) -> Iterator[BinaryIO]:
    """Gives a file's decompressed bytes, of all its members where it has several."""
    if compression == "xz":  # Which Arrow does not know.
        with lzma.open(file) as stream:
            yield stream
        return
    with pa.OSFile(str(file)) as raw, pa.input_stream(raw, compression) as stream:
        yield stream


def blocks(file: Path, compression: str | None) -> Iterator[bytes]:
    """Yields a file's bytes in blocks, without a byte order mark."""
    first = True
    with opened(file, compression) as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block.removeprefix(BYTE_ORDER_MARK) if first else block
            first = False


def parts(file: Path, compression: str | None, mark: bytes, longest: int) -> Iterator[bytes | None]:
    """Yields what stands between marks, all of the file without one; None where it is too long."""
    rest, passing = b"", False
    for block in blocks(file, compression):
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
