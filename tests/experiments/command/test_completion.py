"""Completion by a shell: of commands, flags, studies and names, without a heavy library."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from experiments.command.completion import SHELLS
from tests.experiments.command.test_main import ROOT, call

PRESETS = ("cpu", "laptop", "gpu", "pod", "pod_7b")


def completed(line: str, shell: str = "bash") -> list[str]:
    """Returns what a shell is offered for the last word of a line."""
    words = line.split(" ")
    asked = dict(COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), COMP_LINE=line)
    around = {"PYTHONPATH": str(ROOT), "_ESPALIER_COMPLETE": f"{shell}_complete"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "espalier"],
        cwd=ROOT,
        env=os.environ | around | asked,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.split()
    return [item.partition(",")[2] for item in lines] if shell == "bash" else lines[1::3]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("espalier re", ["report"]),
        ("espalier corpus s", ["show"]),
        ("espalier run --st", ["--store", "--stop-after"]),
        ("espalier plan --config=over", ["over_training"]),
        ("espalier plan --config.widths=(16,) --store=x --config=st", ["stem"]),
        ("espalier launch --on=", ["local", "slurm", "ray", "tpu"]),
        ("espalier plan --config=over_training:", [f"over_training:{p}" for p in PRESETS]),
        ("espalier plan --config=over-training:p", ["over-training:pod", "over-training:pod_7b"]),
        ("espalier plan --config=nowhere:", []),
        ("espalier plan --config=over_training --config.se", ["--config.seeds="]),
        ("espalier plan --config=over_training:pod --config.vo", ["--config.vocabulary="]),
        ("espalier plan --config=over_training:cpu --config.vo", []),
        ("espalier plan --config.se", []),
    ],
)
def test_a_shell_is_offered_what_fits(line, offered):
    assert completed(line) == offered


@pytest.mark.parametrize(
    ("line", "put_in"),
    [
        ("espalier plan --config=over", ["over_training"]),
        ("espalier plan --config over", ["over_training"]),
        ("espalier plan --config=over_training:", [*PRESETS]),
        ("espalier plan --config over_training:l", ["laptop"]),
        ("espalier launch --on=", ["local", "slurm", "ray", "tpu"]),
        ("espalier plan --config=stem:cpu --config.to", ["--config.tokens="]),
    ],
)
def test_bash_itself_puts_in_what_fits(line, put_in, tmp_path, capsys):
    """It takes `=` and `:` for the ends of words, and replaces what stands after them."""
    (tmp_path / "espalier").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m espalier "$@"\n')
    (tmp_path / "espalier").chmod(0o755)
    (tmp_path / "script").write_text(call(capsys, "completion", "bash")[1])
    words = [*re.findall(r"[=:]+|[^\s=:]+", line)]
    ask = (
        f"source {tmp_path}/script; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
        f"COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}; _espalier_completion espalier; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", ask],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == put_in, done.stderr


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
