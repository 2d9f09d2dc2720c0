"""The notebooks run as they stand, in a kernel of their own."""

from pathlib import Path

import pandas as pd
import pytest

import experiments

ROOM = Path(experiments.__file__).parent
NOTEBOOKS = ROOM / "notebooks"


def executed(name: str, folder: Path, monkeypatch) -> str:
    """What a notebook shows when it is run in a folder."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOM.parent))
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "store it without outputs"
    nbclient.NotebookClient(
        notebook, timeout=240, resources={"metadata": {"path": folder}}
    ).execute()
    return str([cell.get("outputs") for cell in notebook.cells])


# Kernels open sockets and event loops whose deprecation warnings are not ours.
@pytest.mark.filterwarnings("default")
def test_your_own_table_is_fitted_drawn_and_kept(tmp_path, monkeypatch):
    shown = executed("fit_your_own.ipynb", tmp_path, monkeypatch)
    assert "trunk bootstrap" in shown and shown.count("image/png") == 4
    assert "over_training: L = E + " in shown and "<table>" in shown


@pytest.mark.system
@pytest.mark.filterwarnings("default")
def test_a_study_is_read_from_its_store(tmp_path, monkeypatch):
    study = tmp_path / "runs" / "studies" / "over_training-cpu"
    study.mkdir(parents=True)
    table = pd.read_csv(ROOM / "results" / "over_training-cpu" / "runs.csv")
    table.to_parquet(study / "runs.parquet")
    shown = executed("study_store.ipynb", tmp_path, monkeypatch)
    assert shown.count("image/png") == 2 and " held out; huber" in shown
    assert "params_non_embedding" in shown


def test_every_notebook_is_tested():
    text = Path(__file__).read_text()
    assert all(file.name in text for file in NOTEBOOKS.glob("*.ipynb"))
