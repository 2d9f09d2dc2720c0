"""What a study's text says of itself is what it says once imported."""

import importlib

import pytest

from experiments.command.outline import presets
from experiments.command.studies import HERE, names


@pytest.mark.parametrize("study", names())
def test_a_study_declares_what_its_text_says(study):
    module = importlib.import_module(f"experiments.{study}")
    found = presets(HERE / f"{study}.py")
    assert found == {name: sorted(values) for name, values in module.PRESETS.items()}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('PRESETS = {"a": {"x": 1, "y": 2}, "b": dict(z=1)}', {"a": ["x", "y"], "b": ["z"]}),
        ("A = dict(x=1)\nB = A | dict(y=2)\nPRESETS = {'a': dict(B, z=3)}", {"a": ["x", "y", "z"]}),
        ("A = dict(**A)\nPRESETS = {'a': A}", {"a": []}),
        ("PRESETS = made()", {}),
        ("PRESETS = (", {}),
        ("x = 1", {}),
    ],
)
def test_a_file_is_read_without_running_it(text, found, tmp_path):
    (tmp_path / "own.py").write_text(text)
    assert presets(tmp_path / "own.py") == found
    assert presets(tmp_path / "none.py") == {}
