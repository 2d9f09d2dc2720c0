"""The law of quantised runs: its loss at a share, and the nearest run as its rival."""

import numpy as np
import pandas as pd
import pytest

from experiments.evidence.quantised_law import FALLING, law_loss, nearest, unseen_errors
from fitting import Observations, fit


def planted() -> pd.DataFrame:
    """Losses of a law in size, tokens and bits, with a best share near 0.2; shares 0 are plain."""
    rng, rows = np.random.default_rng(0), []
    for width, params in ((16, 1e4), (24, 2e4), (40, 6e4)):
        for tokens in (1e5, 2e5):
            plain = 1 + 30 * params**-0.4 + 60 * tokens**-0.35
            for bits in (1, 2, 4):
                for share in (0.05, 0.1, 0.2, 0.3, 0.5) + (0.0,) * (bits == 4):
                    gap = 0.5 * 2.0**-bits + 0.02 * np.log(share / 0.2) ** 2 if share else 0.0
                    row = dict(width=width, params_total=params, tokens=tokens, fraction=share)
                    row |= dict(bits=bits if share else 32, tokens_qat=share * tokens)
                    row |= dict(schedule="classic" if share else "plain")
                    row |= dict(tokens_fp=(1 - share) * tokens, trunk=f"{width}")
                    rows.append(row | {"loss": (plain + gap) * np.exp(rng.normal(0, 1e-3))})
    return pd.DataFrame(rows)


def test_the_loss_at_a_share_is_the_laws_prediction_of_such_a_run():
    runs = planted()
    found = fit(FALLING, Observations(runs), params="params_total", point_only=True, audits=2)
    assert found.parameters["xi"] >= 0
    row = runs.iloc[3]
    here = law_loss(found, row["params_total"], row["tokens"], row["bits"], row["fraction"])
    expected = found.predict(runs.iloc[[3]])["prediction"]
    assert here == pytest.approx(expected.to_numpy(), rel=1e-12)


def test_the_nearest_run_has_equal_bits_and_the_nearest_size_tokens_and_share():
    runs = planted()
    rows = runs[(runs["width"] == 40) & (runs["schedule"] == "classic")]
    fitted = runs[runs["width"] < 40]
    guess = nearest(fitted, rows)
    same = fitted[(fitted["width"] == 24)].set_index(["tokens", "bits", "fraction"])["loss"]
    expected = [same[row.tokens, row.bits, row.fraction] for row in rows.itertuples()]
    np.testing.assert_allclose(guess, expected)


@pytest.mark.system
def test_errors_are_of_the_scored_runs_by_every_prediction():
    runs = planted()
    out = (runs["fraction"] == 0.3).to_numpy()
    scored = out & (runs["width"] == 40).to_numpy()
    errors = unseen_errors(runs, out, scored)
    assert list(errors)[:2] == ["QAT law", "QAT law, any sign of xi"] and len(errors) == 5
    assert all(len(values) == scored.sum() for values in errors.values())
    assert np.median(errors["QAT law"]) < np.median(errors["Chinchilla without bits"])
