"""The wheel: what is in it, and that it works by itself, from an empty folder, as a user types."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from setuptools import build_meta

from experiments.command.studies import names
from tests.test_docs import copy_of_project
from tests.test_espalier import hostile

ROOT = Path(__file__).parents[1]
TOP = ("setup.cfg", "pyproject.toml", "LICENSE", "README.md", "espalier.py")
LEFT = {"results", "__pycache__", ".ipynb_checkpoints"}  # Reports, and what running left.
SMALL = (
    "--config=over_training:cpu",
    "--config.widths=(16,)",
    "--config.seeds=(1,)",
    "--config.tokens=(20480,40960)",
    "--config.warmup_tokens=2048",
    "--config.evaluation_tokens=1024",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, as `pip wheel .` builds it from a checkout, without the network."""
    source = copy_of_project(tmp_path_factory.mktemp("source"))
    for name in TOP:
        shutil.copy(ROOT / name, source)
    said = io.StringIO()
    with contextlib.chdir(source), contextlib.redirect_stdout(said):
        name = build_meta.build_wheel(str(source / "dist"))
    assert "Warning" not in said.getvalue()
    return source / "dist" / name


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """An environment that holds the wheel; its dependencies are those that the tests run with."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"]
    quiet = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*command, *quiet, wheel], check=True)
    # A folder that a .pth file names is searched last, and its own .pth files are not read: an
    # editable installation of the checkout in it is not seen.
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # It lies in a repository of a user's own, whose commit is none of ours.
    subprocess.run(["git", "init", "-q", folder], check=True)
    git = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    return folder


def typed(environment: Path, cwd: Path, *args, **more: str) -> subprocess.CompletedProcess:
    """Runs the console command of an environment in a folder, with no checkout on the path."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
    command = [environment / "bin" / "espalier", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, check=False)


def test_the_wheel_holds_studies_notebooks_launch_examples_and_data(wheel):
    with zipfile.ZipFile(wheel) as file:
        found = set(file.namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for room in ("experiments", "scaling", "models", "data", "fitting")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and not LEFT & set(path.relative_to(ROOT).parts)
    }
    ours = {name for name in found if ".dist-info/" not in name}
    assert ours == wanted | {"espalier.py", "refused.py"}
    assert {f"experiments/{name}.py" for name in names()} < ours


@pytest.mark.system
def test_the_wheel_plans_runs_and_reports_a_study_by_name_and_fits_a_table(environment, tmp_path):
    params, tokens = (x.ravel() for x in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    loss = 1.7 + 400 * params**-0.34 + 410 * tokens**-0.28
    table = pd.DataFrame({"params_total": params, "tokens": tokens, "loss": loss})
    table.to_csv(tmp_path / "mine.csv", index=False)
    out = tmp_path / "runs" / "studies" / "over_training-cpu"

    done = typed(environment, tmp_path, "plan", *SMALL, "--mesh=data:1")
    assert done.returncode == 0, done.stderr
    assert "2 runs, 4 segments" in done.stdout and not out.exists()
    done = typed(environment, tmp_path, "run", *SMALL, "--mesh=data:1")
    assert done.returncode == 0, done.stderr
    assert "trained 4 segments" in done.stdout and len(pd.read_csv(out / "runs.csv")) == 2
    (record, *_) = (tmp_path / "runs" / "segments").glob("*/done.json")
    assert '"commit": null' in record.read_text()
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    done = typed(environment, tmp_path, "report", *SMALL)
    assert done.returncode == 0, done.stderr
    assert (out / "report.html").read_text() == page
    done = typed(
        environment, tmp_path, "fit", "--law=chinchilla", "--table=mine.csv", "--point-only"
    )
    assert done.returncode == 0, done.stderr
    assert "alpha" in done.stdout


def test_a_users_own_packages_beside_it_are_not_looked_at(environment, tmp_path):
    hostile(tmp_path, "data")
    done = typed(environment, tmp_path, "corpus", "show", "--name=wheels")
    assert done.returncode == 0 and "tokenizer bytes, 256 tokens" in done.stdout, done.stderr
    done = typed(environment, tmp_path, "help", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert f"data: got {tmp_path / 'data'}; accepted: {environment}" in done.stderr


def test_a_package_that_another_distribution_wrote_over_is_named(environment, tmp_path):
    (file,) = environment.glob("lib/python*/site-packages/data/corpus.py")
    ours = file.read_text()
    try:
        file.write_text("x = 1\n")
        done = typed(environment, tmp_path, "corpus", "show", "--name=wheels")
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert f"espalier: {file}: got it written over by another distribution;" in done.stderr
        file.unlink()
        done = typed(environment, tmp_path, "corpus", "show", "--name=wheels")
        assert done.returncode == 2 and f"espalier: {file}: got it gone; accepted" in done.stderr
    finally:
        file.write_text(ours)
