"""Combinators."""

from dataclasses import replace

import numpy as np
import pytest

from refused import Refused
from scaling import Quantize, classic, fused, per_width, plan, product, sweep, wsd
from tests.corpora import STEP, study_runs


def test_product_varies_the_last_axis_fastest():
    assert list(product(a=[1, 2], b="xy")) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert list(product()) == [{}]


def test_a_sweep_is_every_arm_at_every_rate_with_every_seed(corpus):
    run = study_runs("wsd", corpus)[0]
    arms = {
        name: lambda rate, seed, width=width: replace(
            run,
            seed=seed,
            model=replace(run.model, width=width),
            optimizer=replace(run.optimizer, learning_rate=0.01 * rate),
        )
        for name, width in (("narrow", 16), ("wide", 32))
    }
    made = sweep(arms, (2.0, 0.5, 1.0), range(2), role="main")
    assert len({item.run.identity for item in made}) == len(made) == 12
    assert made[0].labels == {"role": "main", "arm": "narrow", "rate": 0.5}
    for item in made:
        assert item.run.model.width == {"narrow": 16, "wide": 32}[item.labels["arm"]]
        assert item.run.optimizer.learning_rate == 0.01 * item.labels["rate"]
    with pytest.raises(Refused, match=r"config.rates: got \(1.0, 2.0\)"):
        sweep(arms, (1.0, 2.0), range(2))


def test_the_last_number_of_seeds_holds_for_further_widths():
    assert per_width((16, 32, 64), (3,)) == [(16, 3), (32, 3), (64, 3)]
    assert per_width((16, 32, 64), (3, 2)) == [(16, 3), (32, 2), (64, 2)]
    assert per_width((16, 32), (3, 2, 2, 2, 2)) == [(16, 3), (32, 2)]
    for seeds in ((), (0,), (2, 0)):
        with pytest.raises(Refused, match="config.seeds: got .*; accepted: numbers from 1"):
            per_width((16, 32), seeds)


def test_lengths_of_one_trunk_share_its_plateau():
    short, long = wsd(10_000, 100, 500), wsd(20_000, 100, 500)
    assert short[0].rate == long[0].rate and short[0].prefix_closed
    assert [p.tokens for p in short + long] == [8000, 2000, 16_000, 4000]


def rates(phases) -> np.ndarray:
    """Returns the rate multiplier of every step."""
    return np.concatenate([phase.rates(0, phase.steps) for phase in phases])


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 0.7])
def test_fused_and_classic_take_equal_tokens_and_end_at_equal_rates(fraction):
    made = [build(500 * STEP, STEP, 20 * STEP, fraction, Quantize(4)) for build in (classic, fused)]
    for phases in made:
        switch = next(i for i, phase in enumerate(phases) if phase.change is not None)
        plain = sum(phase.steps for phase in phases[:switch])
        quantised = sum(phase.steps for phase in phases[switch:])
        assert plain + quantised == 500 and quantised == round(500 * fraction)
        assert rates(phases)[-1] < 0.01
        before, after = rates(phases)[plain - 1 : plain + 1]
        if len(phases) == 2:  # Fused: the rate goes on where it is.
            assert before == 1.0 and after == pytest.approx(1.0, abs=0.01)
        else:
            assert before < 0.06 and rates(phases[:switch]).max() == 1.0
            assert rates(phases)[plain:].max() == pytest.approx(1.0, abs=0.15)
    assert made[0][0].rate == made[1][0].rate and made[0][0].prefix_closed


def test_both_schedules_of_all_fractions_and_bits_share_one_trunk(corpus):
    base = study_runs("wsd", corpus)[0]
    fractions, bits = (0.1, 0.5), (1, 4)
    phases = [
        build(100 * STEP, STEP, 10 * STEP, fraction, Quantize(some))
        for build in (classic, fused)
        for fraction in fractions
        for some in bits
    ]
    shared = plan(replace(base, phases=some) for some in phases)
    assert len({run.trunk for run in shared.runs}) == 1 and len(shared.runs) == 8
    # One plateau to the last switch, a cooldown per fraction, a quantised phase per run.
    cooldowns = round(0.2 * 90) + round(0.2 * 50)
    assert shared.tokens == (90 + cooldowns + 2 * 2 * (10 + 50)) * STEP


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: classic(9000, 100, 500, 0.0, Quantize(4)), "fraction: got 0.0; accepted: one tha"),
        (lambda: fused(9000, 100, 500, 0.001, Quantize(4)), "leaves steps before and after the"),
        (lambda: fused(9000, 100, 500, 0.99, Quantize(4)), "one that leaves a stable phase"),
        (lambda: classic(9000, 100, 500, 0.01, Quantize(4)), "a step of re-warming and one of dec"),
        (lambda: classic(9000, 100, 500, 0.98, Quantize(4)), "enough for a stable and a decay"),
    ],
)
def test_schedules_without_their_phases_are_refused(make, message):
    with pytest.raises(Refused, match=message):
        make()
