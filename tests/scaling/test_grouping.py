"""Which segments train together, how a fleet shrinks, and what its dead weight may cost."""

from dataclasses import replace

import numpy as np
import pytest

from data import Mixture
from scaling import plan, wsd
from scaling.grouping import MOST_WASTE, fleets, halvings, planned, waste
from tests.corpora import STEP
from tests.scaling.test_fleet import members


def test_many_proxies_are_a_handful_of_programs_compiled_once(corpus, mesh):
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], 512)
    mixtures = [Mixture.of(dict(zip(corpus.names, some, strict=True))) for some in shares]
    base = members(corpus, 1, steps=(100,))[0]
    runs = [
        replace(base, seed=seed, data=replace(base.data, mixture=mixture))
        for seed, mixture in enumerate(mixtures)
    ]
    found = planned(plan(runs), mesh, lambda program: 32)
    assert sum(len(f.segments) for f in found) == 2 * len(runs)
    assert len({(f.program, size) for f in found for _, size in f.sizes}) == 1
    assert max(f.waste for f in found) <= MOST_WASTE


def test_a_fleet_halves_when_half_of_it_has_ended():
    assert halvings(8, [10] * 4 + [12] * 2 + [20, 30]) == [(0, 8), (10, 4), (12, 2), (20, 1)]
    assert halvings(8, [10] * 8) == [(0, 8)]
    assert halvings(8, [10] * 7 + [20]) == [(0, 8), (10, 4), (10, 2), (10, 1)]
    assert halvings(16, [10] * 7 + [20] * 2, multiple=8) == [(0, 16), (10, 8)]
    assert waste(8, [10] * 8) == 0
    assert waste(4, [10, 10, 20, 20]) == 0
    assert waste(3, [10, 20, 20]) == pytest.approx(1 - 50 / 60)


@pytest.mark.parametrize("most", [1, 4, 7, 32])
def test_dead_weight_stays_below_its_bound_and_everyone_has_a_place(most, corpus, mesh):
    lengths = np.random.default_rng(most).integers(6, 100, 40)
    runs = [
        replace(run, phases=wsd(int(n) * STEP, STEP, 2 * STEP))
        for run, n in zip(members(corpus, 40), lengths, strict=True)
    ]
    segments = list(plan(runs).segments.values())
    found = fleets([s for s in segments if s.parent is None], mesh, lambda program: most)
    placed = [s.id for fleet in found for s in fleet.segments]
    assert sorted(placed) == sorted(s.id for s in segments if s.parent is None)
    for fleet in found:
        assert len(fleet.segments) <= fleet.size <= most and fleet.waste <= MOST_WASTE
        assert max(fleet.lengths) <= 2 * min(fleet.lengths)
        for step in range(max(fleet.lengths)):
            live = {i for i, n in enumerate(fleet.lengths) if n > step}
            assert live <= set(fleet.rows(step))
