"""Seals: every flipped bit is found, and so is a good file in the wrong place."""

import json

import pytest
from etils import epath

from scaling import seals
from scaling.seals import Damaged, Lines, line, opened, read_lines, sealed, sums

RECORD = {"loss": {"low": 1.25e-7, "high": 2.5}, "parent": None, "words": "é <b>", "steps": [1, 2]}


def read(content: bytes, place: str = "a done.json") -> dict:
    return opened(content, place, "file", "store")


def test_a_record_comes_back_and_every_flipped_bit_of_it_is_found():
    content = sealed("a done.json", RECORD).encode()
    assert read(content) == RECORD
    for place in range(len(content)):
        for bit in (0, 3, 5):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            with pytest.raises(Damaged, match="file is damaged"):
                read(bytes(flipped))
    for cut in (0, 1, len(content) // 2, len(content) - 1):
        with pytest.raises(Damaged):
            read(content[:cut])


def test_a_good_record_in_another_place_is_found():
    with pytest.raises(Damaged, match="its checksum is another"):
        read(sealed("b done.json", RECORD).encode())


def test_a_record_from_before_there_were_checksums_is_read_with_one_note(caplog):
    seals.tell.cache_clear()
    for _ in range(2):
        assert read(json.dumps(RECORD).encode()) == RECORD
    assert caplog.text.count("note: store has files from before there were checksums") == 1


def written(folder, count: int = 4) -> epath.Path:
    """Writes lines, each with the checksum that goes on from the one before."""
    before, texts = "place", []
    for step in range(1, count + 1):
        texts.append(line(before, json.dumps({"step": step, "loss": 1 / step})))
        before = seals.check_of(texts[-1])
    file = epath.Path(folder) / "metrics.jsonl"
    file.write_text("".join(f"{text}\n" for text in texts))
    return file


def steps(file, place: str = "place") -> tuple[list[int], bool]:
    found = read_lines([file], place)
    return [record["step"] for record in found.records], found.why is None


@pytest.mark.parametrize("number", [0, 1, 3])
def test_lines_are_read_up_to_the_first_that_is_not_as_it_was_written(tmp_path, number):
    file = written(tmp_path)
    assert steps(file) == ([1, 2, 3, 4], True)
    texts = file.read_text().splitlines()
    for other in (texts[number].replace('"loss": ', '"loss": 1'), texts[number][:-9], ""):
        file.write_text("\n".join([*texts[:number], other, *texts[number + 1 :]]) + "\n")
        assert steps(file) == ([1, 2, 3, 4][:number], False)
    if number < 3:  # The last one that is missing is told by who vouches for the file.
        file.write_text("\n".join(texts[:number] + texts[number + 1 :]) + "\n")
        assert steps(file) == ([1, 2, 3, 4][:number], False)


def test_lines_of_another_segment_are_none_of_this_one_s(tmp_path):
    assert steps(written(tmp_path), "elsewhere") == ([], False)


def test_lines_without_checksums_are_read_but_not_beside_others():
    found = Lines()
    for text in ('{"step": 1}', '{"step": 2}'):
        found.take(text, "place")
    assert len(found.records) == 2 and found.head == "" and found.why is None
    found.take(line("place", '{"step": 3}'), "place")
    assert found.why == "lines with and without checksums" and len(found.records) == 2


def test_sums_of_a_folder_name_every_file_below_it(tmp_path):
    (tmp_path / "state" / "d").mkdir(parents=True)
    (tmp_path / "state" / "d" / "a").write_bytes(b"abc")
    (tmp_path / "sums.json").write_text("{}")
    found = sums(epath.Path(tmp_path), "sums.json")
    assert list(found) == ["state/d/a"] and found["state/d/a"][0] == 3
    (tmp_path / "state" / "d" / "a").write_bytes(b"abd")
    assert sums(epath.Path(tmp_path), "sums.json") != found
