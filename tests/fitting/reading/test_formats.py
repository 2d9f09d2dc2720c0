"""Files by what they are; what each holds is tested line by line in test_page.py."""

import bz2
import gzip
import lzma
import random
import sys

import pandas as pd
import pytest

from fitting.reading.formats import sheet_of
from refused import Refused
from tests.fitting.reading.logs import tensorboard

FRAME = pd.DataFrame({"run": ["a", "b"], "loss": [3.0, 2.5]})


def test_json_lines_may_have_other_keys_each(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text('{"run": "a", "x": {"y": 1}}\n\n{"run": "b", "loss": "2,5"}\n')
    sheet = sheet_of(file)
    assert list(sheet.frame) == ["run", "x/y", "loss"] and list(sheet.lines) == [1, 3]


@pytest.mark.parametrize(
    "content", ["", "[1, 2]\n", '{"loss": 1, "loss": 2}\n', '{"run": "a"}\nnothing\n']
)
def test_other_json_is_refused(tmp_path, content):
    (tmp_path / "runs.jsonl").write_text(content)
    with pytest.raises(Refused, match="table"):
        sheet_of(tmp_path / "runs.jsonl")


def test_a_run_s_last_values_are_read_or_its_every_step(tmp_path):
    tensorboard(tmp_path / "logs", ("run", "loss"), (("a", 3.0), ("b", 2.5)))
    assert sheet_of(tmp_path / "logs").frame.to_dict("list") == {
        "run": ["a", "b"],
        "step": [2, 2],
        "loss": [3.0, 2.5],
    }
    curves = sheet_of(tmp_path / "logs", curves=True).frame
    assert list(curves["loss"]) == [6.0, 3.0, 5.0, 2.5] and list(curves["step"]) == [1, 2, 1, 2]


def test_a_study_of_a_store_is_read_by_its_folder_or_the_store_s(tmp_path):
    study = tmp_path / "studies" / "one"
    study.mkdir(parents=True)
    FRAME.to_parquet(study / "runs.parquet")
    for folder in (study, tmp_path):
        assert sheet_of(folder).frame["loss"].tolist() == [3.0, 2.5]


def test_a_reader_that_is_not_installed_is_named(tmp_path, monkeypatch):
    (tmp_path / "runs.xlsx").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(Refused, match="table"):
        sheet_of(tmp_path / "runs.xlsx")


@pytest.mark.parametrize("name", ["runs.docx", "runs", "runs.parquet.gz"])
def test_other_files_are_refused_with_what_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"loss\n1\n")
    with pytest.raises(Refused, match=r"\.csv, \.tsv"):
        sheet_of(tmp_path / name)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_damaged_packed_text_is_refused(tmp_path, pack, place):
    rng = random.Random(0)
    packed = bytearray(pack("".join(f"{rng.random()}\n" for _ in range(200)).encode()))
    packed[int(place * len(packed))] ^= 64
    ending = {gzip: "gz", bz2: "bz2", lzma: "xz"}[sys.modules[pack.__module__]]
    (tmp_path / f"runs.csv.{ending}").write_bytes(packed)
    with pytest.raises(Refused, match="a readable table"):
        sheet_of(tmp_path / f"runs.csv.{ending}")
