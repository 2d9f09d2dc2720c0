"""Studies by name from anywhere, their files, and the values of their configurations."""

import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from experiments import over_training
from experiments.command.studies import HERE, Chosen, imported, names, override
from refused import Refused
from tests.test_espalier import hostile

TEXT = """
from dataclasses import dataclass
from ml_collections import ConfigDict

@dataclass(frozen=True)
class Own:
    a: int = 1

def get_config(name="cpu"):
    return ConfigDict(dict(preset=name, a=Own().a))

def study(config):
    return config.a
"""


def test_studies_are_the_files_of_the_folder():
    assert set(names()) == {f.stem for f in HERE.glob("*.py")} - {"__init__"}
    assert "over_training" in names() and names() == sorted(names())


@pytest.mark.parametrize("text", ["over_training", "over-training", str(HERE / "over_training.py")])
def test_a_study_is_found_from_anywhere_and_is_the_module_that_it_is(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, config = Chosen.of(f"{text}:laptop", {"widths": "(16,)"}).open()
    assert module is over_training
    assert config.preset == "laptop" and config.widths == (16,)


def test_a_file_of_ones_own_is_a_study(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere.py").write_text(TEXT)
    for text in (f"{tmp_path}/elsewhere.py", "~/elsewhere.py"):
        module, config = Chosen.of(text, {"a": "3"}).open()
        assert module.study(config) == 3 and config.preset == "cpu"


def test_a_study_imports_what_lies_beside_it_and_ours_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "law_of_mine.py").write_text("VALUE = 7")
    hostile(tmp_path)
    text = "import law_of_mine\nimport data.corpus\n" + TEXT.replace(
        "a=", "b=law_of_mine.VALUE, a="
    )
    (tmp_path / "beside.py").write_text(text)
    _, config = Chosen.of(str(tmp_path / "beside.py"), {}).open()
    assert config.b == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("over_trainin", "config: got over_trainin; accepted: a file, .* mean over_training?"),
        ("stems.py", "config: got stems.py; accepted: a file that is there, .* did you mean stem?"),
        ("experiments", "config: got experiments; accepted: a file, as experiments.py, or binary"),
        (__file__[:-2] + "txt", "accepted: a file that is there"),
        (str(Path(__file__).parent / ".."), "accepted: a file that is there"),
        ("over_training:cup", "preset: got cup; accepted: cpu, laptop"),
        ("over_training:", "preset: got ; accepted: cpu, laptop"),
    ],
)
def test_a_study_that_is_not_there_is_refused_with_what_was_meant(text, message):
    with pytest.raises(Refused, match=message.replace("?", r"\?")):
        Chosen.of(text, {}).open()


def test_files_that_are_no_studies_are_refused(tmp_path):
    for text in ("x = (", "x = 1"):
        (tmp_path / "s.py").write_text(text)
        with pytest.raises(Refused, match="config: got"):
            imported(tmp_path / "s.py")
    (tmp_path / "s.txt").write_text("")
    with pytest.raises(Refused, match="accepted: a Python file"):
        Chosen.of(str(tmp_path / "s.txt"), {})


def config() -> ConfigDict:
    return ConfigDict(
        dict(count=3, rate=0.5, on=False, text="a", sizes=(1, 2), shares=(0.5,), words=("a",))
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "4", 4),
        ("rate", "1", 1.0),
        ("rate", "1e-3", 1e-3),
        ("on", None, True),
        ("on", "true", True),
        ("on", "0", False),
        ("text", "b=1,c=2", "b=1,c=2"),
        ("text", "", ""),
        ("text", "~/x", "HOME/x"),
        ("sizes", "(16,32)", (16, 32)),
        ("sizes", "16,32", (16, 32)),
        ("sizes", "16", (16,)),
        ("shares", "(1,0.5)", (1, 0.5)),
        ("words", "('b','c')", ("b", "c")),
        ("words", "b", ("b",)),
    ],
)
def test_values_are_read_as_ml_collections_reads_them(name, text, value, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = config()
    override(found, name, text)
    wanted = value.replace("HOME", str(tmp_path)) if isinstance(value, str) else value
    assert found[name] == wanted and type(found[name]) is type(wanted)
    assert {n: v for n, v in found.items() if n != name} == {
        n: v for n, v in config().items() if n != name
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cuont", "4", "config.cuont: got an unknown name; .*; did you mean count?"),
        ("count", "4.5", "config.count: got 4.5; accepted: int, as in 3"),
        ("count", "", "config.count: got ; accepted: int, as in 3"),
        ("count", None, "config.count: got nothing; accepted: int, as in 3"),
        ("rate", "nan", "config.rate: got nan; accepted: finite numbers"),
        ("rate", "fast", "config.rate: got fast; accepted: float, as in 0.5"),
        ("shares", "(1e999,)", r"config.shares: got \(inf,\); accepted: finite numbers"),
        ("on", "perhaps", "config.on: got perhaps; accepted: bool, as in False"),
        ("sizes", "(1.5,)", "config.sizes: got .*; accepted: a tuple of int, as in"),
        ("sizes", "()", "config.sizes: got .*; accepted: a tuple of int, as in"),
        ("sizes", "(1, 2", "config.sizes: got .*; accepted: tuple, as in"),
    ],
)
def test_a_value_that_cannot_be_is_refused(name, text, message):
    found = config()
    with pytest.raises(Refused, match=message.replace("mean count?", r"mean count\?")):
        override(found, name, text)


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("class Own:", "class Own"), 6, "expected ':'"),
        (("    a: int = 1", "    a: int = nothing"), 7, "NameError: name 'nothing' is not defined"),
        (("a=Own().a))", "a=Own().b))"), 10, "AttributeError: 'Own' object has no attribute 'b'"),
        (("return config.a", "return 1 / 0"), 13, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_faulty_file_is_told_by_its_line_in_one_line(change, line, said, tmp_path, capsys):
    from experiments.command.main import main

    file = tmp_path / "faulty.py"
    file.write_text(TEXT.replace(*change))
    assert main(["espalier", "plan", f"--config={file}", f"--store={tmp_path}/runs"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"config: got {file}, line {line}: {said}" in told
