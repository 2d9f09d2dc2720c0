"""Which end states are kept: within a budget, ends of trunks first."""

import pytest

from refused import Refused
from scaling import Store, plan
from scaling.keeping import budget, candidates, choose, state_bytes
from tests.corpora import study_runs

NOWHERE = lambda segment: False


@pytest.fixture
def planned(corpus):
    """One trunk with three branches of growing length."""
    return plan(study_runs("wsd", corpus))


def test_all_are_the_places_where_runs_branch_or_could_go_on(planned, tmp_path):
    store = Store.at(tmp_path)
    kept = choose(planned, "all", store, NOWHERE)
    assert kept.ids == planned.segments.keys() - planned.leaves
    assert kept.bytes == sum(state_bytes(planned.segments[id]) for id in kept.ids) > 0
    assert choose(planned, "none", store, NOWHERE).ids == frozenset()


def test_the_end_of_the_trunk_comes_first_and_what_is_there_costs_nothing(planned, tmp_path):
    store, trunk = Store.at(tmp_path), sorted(candidates(planned), key=lambda s: s.run.steps)
    size = state_bytes(trunk[0])
    assert choose(planned, f"{size}", store, NOWHERE).ids == {trunk[-1].id}
    assert choose(planned, f"{2 * size}B", store, NOWHERE).ids == {s.id for s in trunk[1:]}
    there = choose(planned, f"{size}", store, lambda s: s is trunk[-1])
    assert there.ids == {s.id for s in trunk[1:]} and there.bytes == size
    assert choose(planned, f"{size - 1}", store, NOWHERE).ids == frozenset()


def test_a_budget_is_a_tenth_of_the_free_disk_or_what_is_said(tmp_path, monkeypatch):
    store = Store.at(tmp_path)
    monkeypatch.setattr("scaling.keeping.free_bytes", lambda path: 5 * 10**9)
    assert budget("auto", store) == (5e8, "auto: at most a tenth of the 5.0 GB that are free")
    assert budget("1.5GB", store)[0] == 1.5e9 and budget("20k", store)[0] == 20_000
    for wrong in ("some", "-1", "1PB", ""):
        with pytest.raises(Refused, match="--keep: got .*; accepted: auto, all, none or bytes"):
            budget(wrong, store)
