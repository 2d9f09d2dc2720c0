"""Identities of the studies' runs: what is in people's stores and in the published tables."""

import hashlib
import importlib
import json
import warnings
from pathlib import Path

import pytest

# Recorded at commit cf68389, `optimizers` when it was new: how many runs each study's `cpu` preset
# has, and the hash of their sorted identities, one a line.
RECORDED = json.loads(Path(__file__).with_name("study_identities.json").read_text())


# Their corpus in 4,096 tokens is learned and encoded first, half a CPU-minute on a fresh machine.
ENCODED = ("binary_codes", "stem")
CASES = [
    pytest.param(name, marks=pytest.mark.system) if name in ENCODED else name for name in RECORDED
]


@pytest.mark.parametrize("name", CASES)
def test_the_runs_of_every_cpu_preset_keep_their_identities(name):
    module = importlib.import_module(f"experiments.{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What a study says about itself is not asked here.
        study = module.study(module.get_config("cpu"))
    ids = sorted({item.run.identity for item in study.runs})
    found = {"runs": len(ids), "sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()}
    assert found == RECORDED[name]
