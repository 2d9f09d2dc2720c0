import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from fitting.observations import Observations
from fitting.speed_up import lines, speed_up, speed_up_report
from refused import Refused

TOKENS = np.geomspace(1e9, 3e10, 9)


def base(tokens):
    return 1.8 + 60 * tokens**-0.2


def arm(curve, noise=0.0, seed=0):
    shaken = np.exp(noise * np.random.default_rng(seed).normal(size=len(TOKENS)))
    return pd.DataFrame({"tokens": TOKENS, "loss": curve(TOKENS) * shaken})


def test_curves_that_match_give_the_planted_factor():
    found = speed_up(arm(base), arm(lambda x: base(1.4 * x)), asymptote=1.8)
    assert found.value == pytest.approx(1.4, rel=1e-9)
    assert found.exponent == pytest.approx(0.2) and found.drift == pytest.approx(0, abs=1e-9)
    fitted = speed_up(arm(base), arm(lambda x: base(1.4 * x)))
    assert fitted.value == pytest.approx(1.4, rel=0.01)
    assert fitted.asymptote == pytest.approx(1.8, abs=0.02)


def test_it_is_the_formula_of_two_losses_at_one_place():
    found = speed_up(arm(base), {"tokens": [1e10], "loss": [2.3]}, asymptote=1.8)
    assert found.value == pytest.approx(((base(1e10) - 1.8) / (2.3 - 1.8)) ** (1 / 0.2))
    assert np.isnan(found.low) and found.method == "none (1 runs of the variant)"
    assert not found.proven


# Variants that no stretch of the baseline's curve gives: another exponent, another floor, an
# asymptote pinned too low, a baseline that bends.
CASES = {
    "match": (base, lambda x: base(1.4 * x), None),
    "exponent": (base, lambda x: 1.8 + 57 * 1e9**0.03 * x**-0.23, None),
    "floor": (base, lambda x: 1.74 + 58 * x**-0.2, None),
    "pinned": (base, lambda x: 1.8 + 57 * 1e9**0.02 * x**-0.22, 1.3),
    "bent": (
        lambda x: 1.8 + 60 * x**-0.2 * (1 + (x / 1e10) ** 2) ** -0.05,
        lambda x: 1.78 + 56 * x**-0.2 * (1 + (x / 1e10) ** 2) ** -0.05,
        None,
    ),
    "none": (base, base, None),
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_on_curves_that_do_not_match(case):
    first, second, asymptote = CASES[case]
    at = TOKENS[-1]
    reached = brentq(lambda log: first(np.exp(log)) - second(at), 0, 60)
    truth, inside = np.exp(reached) / at, 0
    for seed in range(20):
        arms = arm(first, 0.002, 2 * seed), arm(second, 0.002, 2 * seed + 1)
        found = speed_up(*arms, asymptote=asymptote, draws=60)
        inside += found.low <= truth <= found.high
    assert inside >= 16


def test_a_drifting_factor_is_told():
    found = speed_up(arm(base), arm(CASES["exponent"][1]), asymptote=1.8)
    assert found.drift == pytest.approx(0.03 / 0.2, rel=1e-6)
    text = "\n".join(lines(found, "adamw", "muon"))
    assert "drift: the factor changes by +16.2% per factor e" in text and "pinned" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"asymptote": 2.5}, "asymptote"),
        ({"along": "flops"}, "flops"),
        ({"at": -1.0}, "at"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, told):
    with pytest.raises(Refused, match=told):
        speed_up(arm(base), arm(lambda x: base(1.4 * x)), **options)


def test_a_baseline_that_rises_or_is_too_short_is_refused():
    with pytest.raises(Refused, match="losses that fall"):
        speed_up(arm(lambda x: 2 + x / 1e11), arm(base))
    with pytest.raises(Refused, match="4 or more"):
        speed_up(arm(base).iloc[:3], arm(base))


def test_published_fits_of_two_optimizers():
    # Wen et al. 2025 (arXiv:2509.02046): log-log fits, 14.7284 N^-.07974 for AdamW; their lines of
    # AdamW and Muon cross below 7 billion parameters, so Muon's gain shrinks with size.
    table = Observations.read("published:optimizers")
    multiplier = table.column("tokens") / table.column("params_non_embedding")
    arms = {name: rows for name, rows in table.only(multiplier == 80).frame.groupby("optimizer")}
    found = speed_up(arms["adamw"], arms["muon"], "params_non_embedding", asymptote=0.0)
    assert found.exponent == pytest.approx(0.07974, abs=2e-4)
    assert found.drift < 0
    other = speed_up(arms["muon"], arms["adamw"], "params_non_embedding", asymptote=0.0)
    assert other.exponent == pytest.approx(0.07735, abs=2e-4)


def test_a_report_on_two_sets_of_rows_of_a_table(tmp_path):
    both = pd.concat(
        [arm(base).assign(arm="a"), arm(lambda x: base(1.4 * x)).assign(arm="b")], axis=0
    )
    both.to_csv(tmp_path / "runs.csv", index=False)
    text = speed_up_report(tmp_path / "runs.csv", "arm == a", "arm == b", asymptote=1.8)
    assert "speed-up in tokens at 3e+10: 1.4 (" in text and "exponent 0.2" in text
