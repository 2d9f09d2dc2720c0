"""A disk or a store that fails is told in one line."""

import errno
import os

import pytest

from experiments.command import faults
from experiments.command.main import main
from refused import Refused

STUDY = ("--config=tests/growing.py", "--mesh=data:1")


def test_a_full_disk_is_one_line_with_the_file_and_what_is_saved():
    with pytest.raises(faults.Failed) as told, faults.of_disk("runs"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/segments/a/metrics.jsonl")
    assert str(told.value) == (
        "runs/segments/a/metrics.jsonl: No space left on device; what was finished or "
        "checkpointed before is in --store=runs, and the same command goes on"
    )


def test_a_bucket_that_nothing_here_reads_is_refused_with_what_to_install():
    with pytest.raises(Refused, match=r"--store: got gs://mine/runs; accepted: pip install"):
        faults.reachable("gs://mine/runs")
    faults.reachable("runs")


def test_a_file_in_the_place_of_a_store_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="--store: got .*/file; accepted: a folder"):
        faults.reachable(str(tmp_path / "file"))


def test_a_store_that_cannot_be_written_ends_with_one_line(corpus, tmp_path, monkeypatch, capsys):
    from tests.experiments.command.test_main import ROOT

    monkeypatch.chdir(ROOT)
    (tmp_path / "file").touch()
    where = next(iter(corpus.domains.values())).folder
    args = [f"--config.corpus={where}", f"--store={tmp_path}/file/runs"]
    assert main(["espalier", "run", *STUDY, *args]) == faults.FAILED
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "Not a directory; what was finished" in told


def test_a_place_of_the_report_that_is_taken_is_refused_before_training(
    corpus, tmp_path, monkeypatch, capsys
):
    from tests.experiments.command.test_main import ROOT

    monkeypatch.chdir(ROOT)
    (tmp_path / "studies" / "growing-cpu" / "report.html").mkdir(parents=True)
    where = next(iter(corpus.domains.values())).folder
    args = [f"--config.corpus={where}", f"--store={tmp_path}"]
    assert main(["espalier", "run", *STUDY, *args]) == 2
    told = capsys.readouterr()
    assert "report.html; accepted: a file, not a folder" in told.err and told.out == ""
    assert not (tmp_path / "segments").exists()
