"""Completion by a shell: of commands, flags, studies and names, without a heavy library."""

import os
import shutil
import subprocess
import sys

import pytest

from experiments.command.completion import SHELLS
from tests.experiments.command.test_main import ROOT, call


def completed(line: str) -> list[str]:
    """Returns what bash would be offered for the last word of a line."""
    words = line.split(" ")
    asked = dict(COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "espalier"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "_ESPALIER_COMPLETE": "bash_complete"} | asked,
        capture_output=True,
        text=True,
        check=True,
    )
    return [item.partition(",")[2] for item in done.stdout.split()]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("espalier re", ["report"]),
        ("espalier corpus s", ["show"]),
        ("espalier run --st", ["--store", "--stop-after"]),
        ("espalier plan --config=over", ["over_training"]),
        ("espalier plan --config.widths=(16,) --store=x --config=st", ["stem"]),
        ("espalier launch --on=", ["local", "slurm", "ray", "tpu"]),
    ],
)
def test_a_shell_is_offered_what_fits(line, offered):
    assert completed(line) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_takes_the_script(shell, capsys, tmp_path):
    code, out, err = call(capsys, "completion", shell)
    assert (code, err) == (0, "") and "_ESPALIER_COMPLETE" in out and "espalier" in out
    if shutil.which(shell):
        (tmp_path / "script").write_text(out)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_another_shell_is_refused(capsys):
    code, _, err = call(capsys, "completion", "zhs")
    assert code == 2 and err.startswith("espalier: shell: got zhs; accepted: bash, zsh, fish; did")
