"""Corpora built on Ray: the hash of a build alone, also where a node is lost in the middle."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.build import build
from experiments.command.launchers.tasks import at, result
from refused import Refused
from tests.experiments.command.launchers.built import domains
from tests.experiments.command.test_main import ROOT, call

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'espalier[ray]'")


@pytest.fixture
def folder(tmp_path) -> Path:
    """20 MB of JSON lines in ten files, and few of them in one."""
    words = " trunk branch leaf naïve root" * 33
    lines = [json.dumps({"text": f"{number}{words}"}) + "\n" for number in range(20_000)]
    (tmp_path / "web").mkdir()
    for file in range(10):
        (tmp_path / "web" / f"{file}.jsonl").write_text("".join(lines[file::10]))
    (tmp_path / "few.jsonl").write_text("".join(lines[:100]))
    assert sum(f.stat().st_size for f in (tmp_path / "web").iterdir()) > 20e6
    return tmp_path


def test_a_node_lost_in_the_middle_of_a_build_changes_no_bit(folder):
    done = subprocess.run(
        [sys.executable, "-m", "tests.experiments.command.launchers.built", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    alone = build(folder / "alone", name="alone", domains=domains(folder), workers=1).corpus
    assert f"lost {alone.content_hash}\n" in done.stdout, said
    few = {"web": [folder / "few.jsonl"]}
    alone = build(folder / "few", name="few", domains=few, tokenizer="bpe:300", workers=1).corpus
    assert f"bpe {alone.content_hash}\n" in done.stdout, said
    log = [line.split() for line in (folder / "log").read_text().splitlines()]
    [hung] = [file for node, file in log if node == "second"]
    assert ["first", hung] in log and len(log) == 11, log  # Read again where there was a node left.
    assert not list(folder.glob(".*.build"))
    assert f"without {folder / 'no work folder'}; accepted: nodes that see" in done.stdout, said


def test_without_ray_the_build_is_refused_in_one_line(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    wanted = (f"--domain=web={folder}/few.jsonl", f"--out={folder / 'mine'}", "--on=ray")
    code, out, err = call(capsys, "corpus", "build", "--name=mine", *wanted)
    said = "espalier: --on: got ray; accepted: ray installed: pip install 'espalier[ray]'\n"
    assert (code, out, err) == (2, "", said)


def test_a_task_is_done_in_the_drivers_folder_where_its_paths_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.chdir("/")
    (tmp_path / "a").touch()
    there = partial(lambda work, item: (Path.cwd(), work, item), Path("a"))
    item = ([Path("a")], "b", 3)
    assert at(str(tmp_path), there, item) == (tmp_path, Path("a"), item)
    assert at(str(tmp_path), str, Path("a")) == "a"
    for function, lacking in (
        (str, Path("b")),
        (there, (Path("a"), [Path("b")])),
        (partial(there.func, Path("b")), ()),
    ):
        with pytest.raises(Refused, match=r"--on=ray: got a node \(.*\) without b; accepted"):
            at(str(tmp_path), function, lacking)
    with pytest.raises(Refused, match="without /nowhere"):
        at("/nowhere", there, ())


def test_what_a_task_raises_and_what_is_lost_each_time_is_told_in_one_line():
    def raising(error):
        def get(_):
            raise error

        return SimpleNamespace(exceptions=ray.exceptions, get=get)

    cause = Refused("x", 1, "2")
    with pytest.raises(Refused) as refused:
        result(raising(ray.exceptions.RayTaskError("f", "a\nb", cause)), None)
    assert refused.value is cause
    with pytest.raises(Refused, match="a task lost 11 times") as refused:
        result(raising(ray.exceptions.WorkerCrashedError()), None)
    assert "\n" not in str(refused.value)
