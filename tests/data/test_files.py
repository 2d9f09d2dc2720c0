"""Kinds of files: by content and name, in any case, through every compression and all members."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.files import Kind, blocks, kind

PACKED = {
    None: lambda content: content,
    "gzip": gzip.compress,
    "zstd": lambda content: pa.compress(content, "zstd", asbytes=True),
    "xz": lzma.compress,
    "bz2": bz2.compress,
}
RECORD = b'{"text": "a"}\n'
PRETTY = json.dumps({"text": "a", "list": [{"b": 1}]}, indent=2).encode()


@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.json", RECORD * 2, "jsonl"),  # As large public corpora name their JSON lines.
        ("A.JSON", PRETTY, "json"),
        ("a.json", b" [" + RECORD + b"," + RECORD + b"]", "json"),
        ("a.json", b'{"text": "broken\n{"text": "b"}\n', "jsonl"),
        ("a.json", b'{"text": "' + b"long" * 400_000, "jsonl"),
        ("a.json", b"", "jsonl"),
        ("a.JsonL", PRETTY, "jsonl"),
        ("a.ndjson", b"no json", "jsonl"),
        ("part-00000", b"\xef\xbb\xbf\n" + RECORD, "jsonl"),
        ("a.txt", RECORD, "jsonl"),
        ("a.txt", PRETTY, "text"),
        ("part-00001", b"[1, 2]\n", "text"),
        ("code.js", b"{}\n{ let x; }\n", "text"),
        ("a.txt", b"text\n", "text"),
        ("a.CSV", b"text\n", "csv"),
        ("a.tsv", RECORD, "tsv"),
        ("a.Parquet", b"", "parquet"),
        ("noname", b"PAR1 begins like Parquet", "text"),
    ],
)
def test_a_file_is_what_its_content_and_its_name_say(compression, name, content, format, tmp_path):
    suffixes = {None: "", "gzip": ".gz", "zstd": ".ZST", "xz": ".xz", "bz2": ".bz2"}
    file = tmp_path / (name + suffixes[compression])
    file.write_bytes(PACKED[compression](content))
    assert kind(file) == Kind(format, compression)
    assert kind(file, "text") == Kind("text", compression)
    if compression is None:
        assert b"".join(blocks(file, None)) == content.removeprefix(b"\xef\xbb\xbf")


def test_parquet_without_a_name_and_compression_under_another_are_seen(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "part-0")
    assert kind(tmp_path / "part-0") == Kind("parquet", None)
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(RECORD))
    assert kind(tmp_path / "a.jsonl") == Kind("jsonl", "gzip")
    (tmp_path / "a.txt").write_bytes(b"BZh9 is a word")
    assert kind(tmp_path / "a.txt") == Kind("text", None)
    (tmp_path / "a.txt.xz").write_bytes(b"named so, but not so")
    assert kind(tmp_path / "a.txt.xz") == Kind("text", "xz")


@pytest.mark.parametrize("compression", list(PACKED)[1:])
def test_all_members_are_read_and_a_file_that_breaks_off_is_not_taken_as_whole(
    compression, tmp_path
):
    packed = PACKED[compression]
    (tmp_path / "whole").write_bytes(packed(b"one\n" * 3) + packed(b"two\n"))
    assert b"".join(blocks(tmp_path / "whole", compression)) == b"one\n" * 3 + b"two\n"
    (tmp_path / "cut").write_bytes(packed(bytes(range(256)) * 40)[:-9])
    with pytest.raises((OSError, EOFError)):
        list(blocks(tmp_path / "cut", compression))
