"""Readers of files: every sound text byte for byte, and the place of all that is not."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.sources import Fault, Reading, texts
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
        ({"text": pa.array([], pa.string())}, [Fault("empty file")]),
    ],
)
def test_rows_of_parquet_that_cannot_be_used_are_named(table, faults, tmp_path):
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    assert list(texts(tmp_path / "t.parquet", Reading(longest=50))) == faults


def test_texts_are_kept_byte_for_byte_in_every_type_of_column(tmp_path):
    wanted = ["  naïve\r\n", "x", "x", "🌳"]
    for number, kind in enumerate(
        (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))
    ):
        file = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"text": pa.array(wanted).cast(kind)}), file)
        assert list(texts(file, Reading())) == [text.encode() for text in wanted]
    file = tmp_path / "t.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "||".join(wanted).encode())
    assert list(texts(file, Reading(split="||"))) == [text.encode() for text in wanted]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
def test_a_mark_parts_a_text_wherever_blocks_end(block, tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.BLOCK_BYTES", block)
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


@pytest.mark.parametrize("reading", [{"field": ""}, {"longest": 0}])
def test_readings_that_cannot_be_are_refused(reading):
    with pytest.raises(Refused):
        Reading(**reading)


@pytest.mark.parametrize("name", ["gone.txt", "gone.jsonl.gz", "gone.parquet"])
def test_a_file_that_cannot_be_opened_is_named(name, tmp_path):
    (found,) = texts(tmp_path / name, Reading())
    assert found.reason.startswith("unreadable (") and "\n" not in found.reason
