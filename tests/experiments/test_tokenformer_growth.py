"""The growth study: equal compute, looks that train nothing, and its report on planted losses."""

import math

import numpy as np
import pandas as pd
import pytest

from data import load
from experiments import tokenformer_growth as growth
from experiments.evidence.growth import jumps, saved
from experiments.evidence.report import write_report
from experiments.evidence.setup import Setup
from experiments.evidence.study import Results
from models import count
from scaling import plan, unfolded
from tests.drawn import stumbles


@pytest.fixture(scope="module")
def config():
    return growth.get_config("cpu")


@pytest.fixture(scope="module")
def trials(config):
    return growth.compared(Setup.of(config))


@pytest.mark.parametrize("name", growth.PRESETS)
def test_all_arms_cost_the_same_and_end_at_one_size(name):
    config = growth.get_config(name)
    trials = growth.compared(Setup.of(config))
    ends = {t.labels["arm"]: t.run for t in trials if t.run.seed == 0 and t.labels["rate"] == 1.0}
    budgets = {growth.scratch(budget): budget for budget in config.budgets}
    whole = ends[growth.EXACT].flops()
    for arm, run in ends.items():
        assert run.flops() / whole == pytest.approx(budgets.get(arm, 1.0), rel=0.01), arm
    sizes = [count(run.model_at(-1)).params_non_embedding for run in ends.values()]
    np.testing.assert_allclose(sizes, sizes[0], rtol=0.01)
    assert len(config.rates) >= 3


def test_published_stages_are_the_papers():
    config = growth.get_config("published")
    sizes = [count(growth.tokenformer(config, i)).params_total / 1e6 for i in range(4)]
    np.testing.assert_allclose(sizes, [123.7, 354.3, 753.9, 1309.8], atol=0.1)
    tokens = [steps * config.batch_tokens / 1e9 for steps in config.steps]
    np.testing.assert_allclose(tokens, [300, 30, 30, 30], rtol=0.05)


def test_the_arms_of_growth_share_their_first_stage(config, trials):
    runs = {t.labels["arm"]: t.run for t in trials if t.run.seed == 0 and t.labels["rate"] == 1.0}
    exact, published = runs[growth.EXACT], runs[growth.PUBLISHED]
    assert exact.until(0).identity == published.until(0).identity
    assert exact.until(1).identity != published.until(1).identity
    shared = plan([exact, published])
    assert shared.tokens == exact.tokens + published.tokens - exact.phases[0].tokens


def test_looks_train_nothing(config, trials):
    looks = growth.looks(Setup.of(config))
    alone = plan(trials)
    both = plan([*trials, *looks])
    assert both.tokens == alone.tokens
    right_after = [look for look in looks if "kind" in look.labels]
    assert {look.run.phases[-1].tokens for look in right_after} == {0}
    assert {look.labels["kind"] for look in right_after} == set(growth.KINDS)


def planted(config, trials, looks) -> pd.DataFrame:
    """Losses of a power law in compute from scratch; growth reaches those of 1.25 the compute."""
    rows, shared = {}, plan([*trials, *looks])

    def row(run, loss):
        accounts = count(run.model_at(-1))
        rows.setdefault(
            run.identity,
            {
                "run": run.identity,
                **shared.cells(shared.segments[run.identity]),
                "seed": run.seed,
                "params_total": accounts.params_total,
                "params_non_embedding": accounts.params_non_embedding,
                "tokens": run.tokens,
                "flops": run.flops(),
                "learning_rate": run.optimizer.learning_rate,
                "tokens_per_second": 1e5,
                "loss": loss,
                "bits_per_byte": loss / math.log(2),
                "diverged_step": pd.NA,
            },
        )

    for trial in trials:
        run, labels = trial.run, trial.labels
        gain = 1.25 if labels["arm"].startswith("grown") else 1.0
        law = 20 * (gain * run.flops()) ** -0.1
        row(run, law + 0.01 * abs(math.log(labels["rate"])) + 1e-4 * run.seed)
    for look in looks:
        random = "random" in look.labels.get("kind", "")
        row(look.run, 2.0 + (0.5 + 0.01 * look.run.seed) * random)
    return pd.DataFrame(rows.values())


def test_the_report_finds_what_was_planted(config, trials, tmp_path):
    corpus = load(config.corpus)
    looks = growth.looks(Setup(config, corpus))
    runs = planted(config, trials, looks)
    every = unfolded(runs)
    claims, saving = saved(every[every["role"] == "end"], config.budgets)
    # Interpolated between budgets a factor of two apart, in the logarithm of compute.
    np.testing.assert_allclose(saving.frame["compute saved (%)"], 20, atol=0.5)
    assert {claim.verdict for claim in claims.values()} == {"higher"}
    assert not saving.frame["seeds beyond the budgets"].any()
    table = jumps(every[every["role"] == "look"], config.rows).frame
    random = table["new rows"].str.startswith("random")
    np.testing.assert_allclose(table.loc[random, "jump (nats/token)"], 0.51)
    np.testing.assert_allclose(table.loc[~random, "jump (nats/token)"], 0, atol=1e-12)
    study = growth.study(config)
    blocks = growth.report(Results(config, plan(study.runs), corpus, runs, runs[:0]))
    assert stumbles(blocks) == {}
    write_report(tmp_path, study, config, blocks)
    text = (tmp_path / "report.md").read_text()
    assert "cost the same training FLOPs" in text
    assert "**grown, exact**: +20" in text and "]: higher than zero." in text
