"""What is written to start from works as it is written, and hides nothing."""

import importlib
import subprocess
import sys

import pytest

from experiments.command.new import NEXT, TEMPLATES, renamed
from fitting.laws import LAWS
from models.transformer import PARTS
from scaling.optimizers import OPTIMIZERS
from tests.experiments.command.test_main import ROOT, call

KNOWN = (LAWS, OPTIMIZERS, PARTS["feed_forward"])


@pytest.mark.system
@pytest.mark.parametrize("kind", NEXT)
def test_a_new_file_passes_its_own_test(kind, tmp_path, capsys, monkeypatch):
    name, folder = f"own_{kind}", tmp_path / "mine"
    code, out, err = call(capsys, "new", kind, name.replace("_", "-"), f"--out={folder}")
    assert code == 0, err
    assert {file.name for file in folder.iterdir()} == {f"{name}.py", f"test_{name}.py"}
    assert f"{folder}/{name}.py" in out and f"python -m pytest {folder}" in out
    monkeypatch.syspath_prepend(folder)
    try:
        tests = importlib.import_module(f"test_{name}")
        found = [value for key, value in vars(tests).items() if key.startswith("test_")]
        assert len(found) == 1
        found[0]()
        assert kind == "study" or any(name in known for known in KNOWN)
    finally:
        for module in (name, f"test_{name}"):
            sys.modules.pop(module, None)
        for known in KNOWN:
            known.pop(name, None)
    # The order of imports depends on which packages ruff takes for one's own in that folder.
    check = [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml"]
    subprocess.run([*check, "--ignore=I", folder], check=True, capture_output=True)


def test_there_is_a_template_and_its_test_for_every_kind():
    found = {file.name for file in TEMPLATES.glob("*.py")} - {"__init__.py"}
    assert found == {f"{test}{kind}.py" for kind in NEXT for test in ("", "test_")}
    for file in found:
        text = renamed((TEMPLATES / file).read_text(), "own")
        assert "example" not in text.lower(), file


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["modle", "x"], "kind: got modle; accepted: study, law, part, optimizer"),
        (["lwa", "x"], "kind: got lwa; accepted: study, law, part, optimizer; did you mean law?"),
        (["law", "1x"], "name: got 1x; accepted: small letters, digits and _"),
        (["law", "../x"], "name: got ../x; accepted: small letters"),
        (["law", "class"], "name: got class; accepted: small letters"),
        (["law", "data"], "name: got data; accepted: a name that no package has, as my_data"),
        (["law", "chinchilla"], "name: got chinchilla; accepted: a name that no law has yet"),
        (["optimizer", "muon"], "name: got muon; accepted: a name that no optimizer has yet"),
        (["part", "gelu"], "name: got gelu; accepted: a name that no part has yet, as my_gelu"),
        (["study", "stem"], "name: got stem; accepted: a name that no study has yet"),
        (["study"], "name: got nothing; accepted: espalier new"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(args, message, tmp_path, capsys):
    code, out, err = call(capsys, "new", *args, f"--out={tmp_path}/mine")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert f"espalier: {message}" in err and not (tmp_path / "mine").exists()


def test_a_file_that_is_there_is_not_written_over(tmp_path, capsys):
    (tmp_path / "test_own.py").write_text("mine")
    code, _, err = call(capsys, "new", "law", "own", f"--out={tmp_path}")
    assert code == 2 and f"accepted: one of which there is no {tmp_path}/test_own.py yet" in err
    assert [file.name for file in tmp_path.iterdir()] == ["test_own.py"]
