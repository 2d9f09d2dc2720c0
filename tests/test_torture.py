"""A store bears kills, damage and a full disk: the short form of `make torture`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.system
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_short_torture_finds_nothing_wrong():
    command = [sys.executable, "-m", "tests.torture", "--short"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; 0 faults; " in done.stdout and "SIGKILL" in done.stdout
