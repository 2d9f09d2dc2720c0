"""What the tests of launchers share: a small study, its table, and programs that stand in."""

import subprocess
import sysconfig
from pathlib import Path

import pandas as pd

from experiments.command import session

TIMES = ["seconds", "tokens_per_second"]
STUDY = (
    "--config=experiments/over_training.py",
    "--config.widths=(16,)",
    "--config.seeds=(1,)",
    "--config.tokens=(20480,40960)",
    "--config.warmup_tokens=2048",
    "--config.evaluation_tokens=1024",
    "--mesh=data:1",
    "--keep=none",
)


def shell_checked(script: str) -> None:
    """Fails unless a script is free of errors and of what shellcheck warns of."""
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    binary = Path(sysconfig.get_path("scripts")) / "shellcheck"
    command = [binary, "--shell=bash", "--exclude=SC2016", "-"]  # It doubts every quoted $.
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


def small_study():
    """Returns the study that STUDY names, and its configuration."""
    from experiments import over_training

    config = over_training.get_config("cpu")
    config.widths, config.seeds, config.tokens = (16,), (1,), (20480, 40960)
    config.warmup_tokens, config.evaluation_tokens = 2048, 1024
    return over_training.study(config), config


def table(store) -> pd.DataFrame:
    """Returns a store's run table without its times."""
    study, config = small_study()
    found = session.results(study, config, session.Settings(store=str(store)))
    return found.runs.drop(columns=TIMES)


def assert_same(store: Path, alone: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(table(store), alone, check_exact=True)
    assert list((store / "leases").iterdir()) == []
    assert list(store.rglob("checkpoint")) == []


def program(folder: Path, name: str, body: str) -> None:
    """Writes a program of bash."""
    file = folder / name
    file.write_text(f"#!/usr/bin/env bash\n{body}\n")
    file.chmod(0o755)
