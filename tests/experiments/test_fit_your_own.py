from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "notebooks" / "fit_your_own.ipynb"


# Kernels open sockets and event loops whose deprecation warnings are not ours.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = str([cell.get("outputs") for cell in notebook.cells])
    assert "trunk bootstrap" in shown and "image/png" in shown
    stored = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in stored.cells), (
        "store the notebook without outputs"
    )
