"""Readers of files: every sound text byte for byte, and the place of all that is not."""

import bz2
import csv
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.sources import EMPTY, Fault, Reading, texts
from refused import Refused


@pytest.mark.parametrize(
    ("table", "faults"),
    [
        ({"body": ["x"]}, [Fault("no field 'text'")]),
        ({"text": [3]}, [Fault("field 'text' is no text")]),
        (
            {"text": [b"a\xff", None, b"b\0", b"c" * 99]},
            [
                Fault("broken UTF-8", "row 1"),
                Fault("no field 'text'", "row 2"),
                Fault("byte 0 in the text", "row 3"),
                Fault("longer than 50 bytes", "row 4"),
            ],
        ),
        ({"text": pa.array([], pa.string())}, [Fault(EMPTY)]),
    ],
)
def test_rows_of_parquet_that_cannot_be_used_are_named(table, faults, tmp_path):
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    assert list(texts(tmp_path / "t.parquet", Reading(longest=50))) == faults


WANTED = ["  naïve\r\n", "x", "x", '🌳 "quoted", and\n\nlines; a\ttab']
COLUMNS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.large_string()),
]


@pytest.mark.parametrize("kind", COLUMNS, ids=str)
def test_texts_are_kept_byte_for_byte_in_every_type_of_column(kind, tmp_path):
    column = pa.array(WANTED * 40).cast(kind)
    for name in ("a.PARQUET", "part-00000"):
        pq.write_table(pa.table({"id": [0] * 160, "text": column}), tmp_path / name)
        assert list(texts(tmp_path / name, Reading())) == [text.encode() for text in WANTED * 40]


def rows(delimiter: str, ends: str = "\n") -> str:
    """The wanted texts as RFC 4180 writes them."""
    quoted = ['"' + text.replace('"', '""') + '"' for text in WANTED]
    return ends.join([f"id{delimiter}text", *(f"7{delimiter}{text}" for text in quoted)]) + ends


LINES = "".join(json.dumps({"url": "u", "text": text}) + "\n" for text in WANTED)
ARRAY = json.dumps([{"text": text, "more": [{"a": "]"}]} for text in WANTED], indent=1)
PRETTY = "\n".join(json.dumps({"text": text}, indent=2, ensure_ascii=False) for text in WANTED)
WRITTEN = {
    "c4-train.00000-of-01024.json.gz": gzip.compress(LINES.encode()),
    "members.jsonl.gz": b"".join(gzip.compress(line.encode()) for line in LINES.splitlines(True)),
    "A.JSONL": LINES.encode(),
    "crlf.Json": LINES.replace("\n", "\r\n").encode(),
    "b.NDJSON.XZ": lzma.compress(LINES.encode()),
    "c.json.zst": pa.compress(LINES.encode(), "zstd", asbytes=True),
    "d.jsonl.BZ2": bz2.compress(LINES.encode()),
    "gzip-under-another-name.jsonl": gzip.compress(LINES.encode()),
    "part-00000": LINES.encode(),
    "array.json": ARRAY.encode(),
    "array.jsonl": ARRAY.replace("\n", "").encode(),
    "array.json.xz": lzma.compress(b"\xef\xbb\xbf" + ARRAY.encode()),
    "pretty.json": PRETTY.encode(),
    "a.csv": rows(",").encode(),
    "A.CSV.GZ": gzip.compress(b"\xef\xbb\xbf" + rows(",", "\r\n").encode()),
    "semicolon.csv": rows(";").encode(),
    "a.tsv": rows("\t").encode(),
    "bar.csv.xz": lzma.compress(rows("|").encode().removesuffix(b"\n")),
}


@pytest.mark.parametrize("block", [11, 1 << 20])
@pytest.mark.parametrize("name", WRITTEN)
def test_texts_are_the_same_in_every_format(name, block, tmp_path, monkeypatch):
    monkeypatch.setattr("data.files.BLOCK_BYTES", block)
    (tmp_path / name).write_bytes(WRITTEN[name])
    assert list(texts(tmp_path / name, Reading())) == [text.encode() for text in WANTED]


def test_a_file_is_read_as_it_is_told_to_be(tmp_path):
    (tmp_path / "a.json").write_text(LINES)
    assert list(texts(tmp_path / "a.json", Reading(format="text"))) == [LINES.encode()]
    (tmp_path / "a.txt").write_text(rows(","))
    read = list(texts(tmp_path / "a.txt", Reading(format="csv")))
    assert read == [text.encode() for text in WANTED]
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + "||".join(WANTED).encode())
    read = list(texts(tmp_path / "b.txt", Reading(split="||")))
    assert read == [text.encode() for text in WANTED]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b""),
        ("a.txt", b"\xef\xbb\xbf \n"),
        ("a.txt.gz", gzip.compress(b"", mtime=0)),
        ("a.jsonl.xz", lzma.compress(b"\n")),
        ("a.jsonl.zst", b""),
        ("a.json", b" [ ]\n"),
        ("a.json", b"\n"),
        ("a.csv", b""),
        ("a.csv", b"id,text\n\n"),
        ("a.parquet", b""),
    ],
)
def test_a_file_without_text_is_called_empty(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert list(texts(tmp_path / name, Reading())) == [Fault(EMPTY)]


BROKEN = {
    "a.csv": (
        b'id,text\n1,a\n2,b,c\n3\n4,\n5,\xff\n6,"a\0b"\n7,good\n8,"un"quoted\n9,lost\n',
        [
            b"a",
            Fault("3 columns instead of 2", "row 2"),
            Fault("1 columns instead of 2", "row 3"),
            Fault("empty text", "row 4"),
            Fault("broken UTF-8", "row 5"),
            Fault("byte 0 in the text", "row 6"),
            b"good",
            Fault("no CSV (',' expected after '\"')", "row 8"),
        ],
    ),
    "open.csv": (b'text\n"never closed\na\n', [Fault("no CSV (unexpected end of data)", "row 1")]),
    "long.csv": (
        b"text\n" + b"y" * 60,
        [Fault("no CSV (a line longer than 50 bytes)", "row 1")],
    ),
    "lines.csv": (
        b'text\n"' + b"y\n" * 60 + b'"\n',
        [Fault("no CSV (field larger than field limit (50))", "row 1")],
    ),
    "twice.csv": (b"text,text\na,b\n", [Fault("two columns 'text'")]),
    "other.tsv": (b"body\tid\na\t1\n", [Fault("no field 'text'")]),
    "a.json": (
        b'[{"text": "a"}, 3, {"text": 3}, {"body": "b"}, {"text": "' + b"y" * 60 + b'"}, {"te',
        [
            b"a",
            Fault("no field 'text'", "record 2"),
            Fault("field 'text' is no text", "record 3"),
            Fault("no field 'text'", "record 4"),
            Fault("longer than 50 bytes", "record 5"),
            Fault("no JSON", "record 6"),
        ],
    ),
    "open.json": (b'[{"text": "a"}', [b"a", Fault("no JSON", "record 2")]),
    "after.json": (
        b'[{"text": "a"}]\n{"text": "b"}',
        [b"a", Fault("no JSON (something after the array)", "record 2")],
    ),
    "utf8.json": (b'[{"text": "a"},{"text": "\xff"}]', [Fault("broken UTF-8", "record 1")]),
    "data.json": (b'{\n "data": [{"text": "a"}]\n}', [Fault("no field 'text'", "record 1")]),
    "endless.json": (
        b'[{"text": "' + b"y" * (3 << 20),
        [Fault("no JSON within 50 bytes", "record 1")],
    ),
    "deep.json": (b"[" * 100_000, [Fault("no JSON", "record 1")]),
    "cut.jsonl.xz": (
        lzma.compress(b'{"text": "a"}\n' * 99)[:-9],
        [Fault("unreadable (Compressed file ended before the end-of-stream marker was reached)")],
    ),
    "a.csv.gz": (b"text\na\n", [Fault("unreadable (zlib inflate failed: incorrect header check)")]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_used_has_a_reason_and_a_place(name, tmp_path):
    content, wanted = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    limit = csv.field_size_limit()
    assert list(texts(tmp_path / name, Reading(longest=50))) == wanted
    assert csv.field_size_limit() == limit  # Others of the process read with it.


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
def test_a_mark_parts_a_text_wherever_blocks_end(block, tmp_path, monkeypatch):
    monkeypatch.setattr("data.files.BLOCK_BYTES", block)
    file = tmp_path / "t.txt"
    content = b"one<e>two<<e>" + b"long" * 9 + b"<e>e><e>" + b"y" * 12 + b"<e>" + b"z" * 13
    file.write_bytes(content)
    long = "longer than 12 bytes"
    wanted = [
        b"one",
        b"two<",
        Fault(long, "document 3"),
        b"e>",
        b"y" * 12,
        Fault(long, "document 6"),
    ]
    assert list(texts(file, Reading(split="<e>", longest=12))) == wanted
    assert list(texts(file, Reading(longest=len(content)))) == [content]
    assert list(texts(file, Reading(longest=len(content) - 1))) == [
        Fault(f"longer than {len(content) - 1} bytes")
    ]


@pytest.mark.parametrize("reading", [{"field": ""}, {"longest": 0}, {"format": "xml"}])
def test_readings_that_cannot_be_are_refused(reading):
    with pytest.raises(Refused):
        Reading(**reading)


def test_each_domain_may_have_its_own_field_and_format():
    found = Reading.of_domains(("code", "web"), ["body", "code=content"], ["web=csv"], split="\n")
    assert found == {
        "code": Reading("content", "\n"),
        "web": Reading("body", "\n", format="csv"),
    }
    assert Reading.of_domains(("a",), ["a=b=c"])["a"].field == "b=c"
    for fields in (["x=body"], ["a", "b"], ["code=a", "code=b"], ["code="]):
        with pytest.raises(Refused, match="field"):
            Reading.of_domains(("code", "web"), fields)


@pytest.mark.parametrize("name", ["gone.txt", "gone.jsonl.gz", "gone.parquet"])
def test_a_file_that_cannot_be_opened_is_named(name, tmp_path):
    (found,) = texts(tmp_path / name, Reading())
    assert found.reason.startswith("unreadable (") and "\n" not in found.reason
