"""The binary-codes study: its arms differ in the input alone, and its report says what it found."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from experiments import binary_codes
from experiments.binary_codes import ARMS, BASELINE, attempts, inputs, model
from experiments.evidence.setup import Setup
from models import count
from models.codes import Codes
from refused import Refused
from scaling.columns import COLUMNS
from tests.drawn import stumbles


@pytest.fixture(scope="module")
def config() -> ConfigDict:
    """The study's `cpu` preset at a tiny size."""
    small = dict(width=16, tokens=4096, batch_tokens=128, context=32, warmup_tokens=256)
    return ConfigDict(binary_codes.PRESETS["cpu"] | small | {"preset": "cpu"})


@pytest.fixture(scope="module")
def setup(config, corpus) -> Setup:
    """The configuration on the tests' corpus."""
    return Setup(config, corpus)


def test_arms_differ_from_the_baseline_in_the_input_table_alone(setup):
    baseline = model(setup, BASELINE, 0)
    accounts = count(baseline)
    for arm in ARMS:
        chosen = model(setup, arm, 0)
        assert replace(chosen, embedding="learned", frozen=()) == baseline
        assert count(chosen).params_non_embedding == accounts.params_non_embedding
        assert count(chosen).flops_train == accounts.flops_train
    coded = count(model(setup, "codes 0/1", 0))
    assert (
        accounts.params_total - coded.params_total == setup.corpus.vocabulary * setup.config.width
    )


def test_every_arm_is_trained_at_the_same_rates_with_the_same_seeds(setup):
    config, made = setup.config, attempts(setup)
    assert len(config.rates) >= 3 and config.seeds >= 3
    assert len({t.run.identity for t in made}) == len(made)
    assert len(made) == len(ARMS) * len(config.rates) * config.seeds
    settings = {
        arm: [
            (t.run.optimizer, t.run.seed, t.run.phases, t.run.data)
            for t in made
            if t.labels["arm"] == arm
        ]
        for arm in ARMS
    }
    assert all(theirs == settings[BASELINE] for theirs in settings.values())
    # A recoding is drawn anew with each seed; no other arm's model depends on it.
    models = {arm: {t.run.model for t in made if t.labels["arm"] == arm} for arm in ARMS}
    sizes = {arm: len(some) for arm, some in models.items()}
    assert sizes == {arm: config.seeds if arm == "recoded 0/1" else 1 for arm in ARMS}


def test_the_published_preset_is_the_papers_size():
    published = ConfigDict(binary_codes.PRESETS["published"])
    shape = type("Corpus", (), {"vocabulary": 65_536})
    coded, learned = (
        count(model(Setup(published, shape), arm, 0)).params_total
        for arm in ("codes 0/1", BASELINE)
    )
    assert coded == pytest.approx(469.8e6, rel=2e-4) and learned == pytest.approx(536.9e6, rel=2e-4)
    assert published.tokens == pytest.approx(17e9, rel=0.01)
    assert Codes().length(65_536) == 16


def test_what_enters_the_first_layer_is_told_by_scale_rank_and_training(setup):
    told = inputs(setup).set_index("arm")
    bits = 8
    assert told.loc["codes ±1", "RMS"] == 1.0 and told.loc["codes ±0.02", "RMS"] == pytest.approx(
        0.02
    )
    # Half of all bits are one; every bit is as often one as zero, in all codes together.
    assert told.loc["codes 0/1", "RMS"] == pytest.approx(0.5**0.5)
    assert told.loc["recoded 0/1", "RMS"] == pytest.approx(0.5**0.5)
    assert told.loc["learned, std 0.02", "RMS"] == pytest.approx(0.02, rel=0.05)
    assert (told.loc[["codes ±1", "codes 0/1", "recoded 0/1"], "rank"] == bits).all()
    assert (told.loc[[BASELINE, "frozen random"], "rank"] == setup.config.width).all()
    # All ±1 codes sum to zero, so their pairs' mean cosine is −1/(V − 1).
    assert told.loc["codes ±1", "cosine"] == pytest.approx(-1 / 255, rel=1e-6)
    assert told["trained"].to_dict() == {
        arm: "yes" if arm.startswith("learned") else "no" for arm in ARMS
    }
    stored = told["input parameters"]
    assert stored[BASELINE] == stored["frozen random"] == 256 * setup.config.width
    assert stored["codes 0/1"] == stored["recoded 0/1"] == 0


def planted(made, shift: dict[str, float]) -> pd.DataFrame:
    """Losses with an effect of seed, rate and arm; an arm's shift is in nats per token."""
    rng = np.random.default_rng(0)
    by_seed = rng.normal(0, 0.05, 10)
    rows = []
    for t in made:
        arm, rate, seed = t.labels["arm"], t.labels["rate"], t.run.seed
        loss = 5 + by_seed[seed] + shift.get(arm, 0.0) + 0.1 * np.log(rate / 0.5) ** 2
        row = dict.fromkeys((name for name in COLUMNS if "<" not in name), 1.0) | {
            "run": t.run.identity,
            **t.labels,
            "seed": seed,
            "loss": loss + rng.normal(0, 1e-4),
            "diverged_step": pd.NA,
        }
        rows.append(row | {"bits_per_byte": row["loss"] / 2})
    return pd.DataFrame(rows)


def test_the_report_gives_verdicts_and_ratios_of_perplexity(config, corpus):
    made = attempts(Setup(config, corpus))
    runs = planted(made, {"codes 0/1": 0.2, "codes ±1": -0.1})
    results = binary_codes.Results(config, None, corpus, runs, runs[:0])
    blocks = {getattr(b, "name", i): b for i, b in enumerate(binary_codes.report(results))}
    assert stumbles(blocks.values()) == {}
    assert "8 bits a token, 2 copies" in blocks[0].markdown
    verdicts = blocks["differences"].frame.set_index("arm")["verdict"]
    assert verdicts["codes 0/1"] == "higher" and verdicts["codes ±1"] == "lower"
    ratios = blocks["perplexity"].frame.set_index("arm")
    assert ratios.loc["codes 0/1", "perplexity ratio"] == pytest.approx(np.exp(0.2), rel=1e-3)
    assert ratios.loc["codes 0/1", "paper"] == pytest.approx(0.967, abs=5e-4)
    assert ratios.loc["recoded 0/1", "paper"] == pytest.approx(0.980, abs=5e-4)
    assert np.isnan(ratios.loc["codes ±1", "paper"])
    edge = blocks["arms"].frame.set_index("arm")["edge"]
    assert (edge == "").all()


def test_arms_without_the_baseline_are_refused(config, corpus):
    for arms in (("codes 0/1",), (BASELINE, "hashed")):
        with pytest.raises(Refused, match="config.arms"):
            attempts(Setup(ConfigDict(config.to_dict() | {"arms": arms}), corpus))
