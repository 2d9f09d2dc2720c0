"""Runs from what a store says they are: every part of the zoo comes back as the same run."""

import json
from dataclasses import replace

import pytest

from refused import Refused
from scaling import Lion, Muon, Store, plan
from scaling.runs import Run, canonical
from scaling.specs import decoded, run_of
from tests.corpora import KINDS, study_runs
from tests.zoo import CONFIGS


def back(run: Run) -> Run:
    return decoded(Run, json.loads(json.dumps(canonical(run))))


def test_every_kind_of_run_comes_back_as_itself(corpus):
    runs = [run for kind in KINDS for run in study_runs(kind, corpus)]
    runs += [replace(runs[0], model=config) for config in CONFIGS.values()]
    runs += [replace(runs[0], optimizer=kind(learning_rate=0.01)) for kind in (Lion, Muon)]
    for run in runs:
        assert back(run) == run and back(run).identity == run.identity


def test_a_run_is_read_from_a_store_and_held_to_its_identity(corpus, tmp_path):
    store, segment = Store.at(tmp_path), next(plan(study_runs("wsd", corpus)).walk())
    with pytest.raises(Refused, match="--run: got .*; accepted: a run that is in"):
        run_of(store, segment.id)
    store.begin(segment)
    assert run_of(store, segment.id) == segment.run
    file = tmp_path / "segments" / segment.id / "spec.json"
    file.write_text(file.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(Refused, match=r"spec.json is damaged \(its checksum is another\)"):
        run_of(store, segment.id)
    spec = {"run": canonical(replace(segment.run, seed=4))}
    file.write_text(json.dumps(spec))  # Of before there were checksums.
    with pytest.raises(Refused, match="a run of this version's parts"):
        run_of(store, segment.id)
