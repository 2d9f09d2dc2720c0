"""The entry: packages of a user's own that hide ours are named, not stumbled over."""

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import espalier

ROOT = Path(__file__).parents[1]


def hostile(folder: Path, *names: str) -> None:
    """Writes packages of a user's own under names of ours; importing one fails."""
    for name in names or ("data", "models", "fitting", "scaling"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('a user has this')\n")


def called(*command: str, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs Python in a folder, with another one on its path before the project."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_hides_ours_here():
    assert espalier.shadowed() is None
    assert all(list(ROOT.glob(f"{room}*")) for room in espalier.ROOMS)


def test_packages_beside_the_working_folder_are_not_looked_at(tmp_path):
    hostile(tmp_path)
    done = called("-P", "-m", "espalier", "corpus", "show", "--name=wheels", cwd=tmp_path)
    assert done.returncode == 0 and "tokenizer bytes, 256 tokens" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "on_path"),
    [
        (["-P", "-m", "espalier", "help"], True),
        (["-m", "espalier", "help"], False),
        (["-c", "import espalier; espalier.run()"], False),
    ],
)
@pytest.mark.parametrize("name", ["data", "experiments"])
def test_a_package_that_hides_ours_is_told_in_one_line_with_both_paths(
    command, on_path, name, tmp_path
):
    hostile(tmp_path, name)
    done = called(*command, cwd=tmp_path, path=tmp_path if on_path else ROOT)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"espalier: {name}: got {tmp_path / name}; accepted: {ROOT / name}, which that hides "
        "(see PYTHONPATH and the working folder)\n"
    )


def test_a_file_hides_ours_too(tmp_path):
    (tmp_path / "data.py").write_text("")
    done = called("-m", "espalier", cwd=tmp_path)
    assert done.returncode == 2 and f"data: got {tmp_path / 'data.py'}; accepted: " in done.stderr


def test_so_does_a_plain_folder_where_ours_is_found_by_an_editable_install(tmp_path, monkeypatch):
    plain = ModuleSpec("data", None, is_package=True)
    plain.submodule_search_locations = [str(tmp_path / "data")]
    real = importlib.util.find_spec
    found = lambda name: plain if name == "data" else real(name)
    monkeypatch.setattr(importlib.util, "find_spec", found)
    assert f"data: got {tmp_path / 'data'}; accepted: {ROOT / 'data'}" in espalier.shadowed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "experiments: got nothing on Python's path" in espalier.shadowed()
