"""The over-training study: its grid, its saving, and its report on planted losses."""

import numpy as np
import pandas as pd
import pytest

from experiments import over_training
from experiments.evidence.report import Picture, Table, write_report
from experiments.evidence.study import Results
from models import count
from scaling import plan
from tests.drawn import stumbles


@pytest.fixture(scope="module")
def study():
    return over_training.study(over_training.get_config("cpu"))


def test_the_grid_is_five_widths_by_four_counts_with_replicate_trunks(study):
    config = over_training.get_config("cpu")
    assert len(config.widths) >= 5 and len(config.tokens) == 4
    assert config.seeds[:3] == (3, 2, 2)
    assert max(config.tokens) >= 8 * min(config.tokens)
    assert len(study.runs) == 4 * sum(config.seeds)
    assert {item.run.tokens for item in study.runs} == set(config.tokens)


def test_widths_may_be_changed_without_the_seeds():
    config = over_training.get_config("cpu")
    config.widths = (16, 32)
    chosen = {(item.run.model.width, item.run.seed) for item in over_training.study(config).runs}
    assert chosen == {(16, 0), (16, 1), (16, 2), (32, 0), (32, 1)}
    config.widths, config.seeds = (16, 32, 48), (2,)
    runs = over_training.study(config).runs
    assert {(item.run.model.width, item.run.seed) for item in runs} == {
        (width, seed) for width in config.widths for seed in (0, 1)
    }
    held_out = [item.run for item in runs if item.labels["role"] == "held out"]
    assert {run.model.width for run in held_out} == {48} and len(held_out) == 4


def test_the_plan_saves_exactly_the_closed_form(study):
    shared = plan(study.runs)
    lengths = over_training.get_config("cpu").tokens
    form = (0.8 * max(lengths) + 0.2 * sum(lengths)) / sum(lengths)
    assert shared.tokens / shared.tokens_alone == form == pytest.approx(0.627, abs=5e-4)


def planted(study) -> pd.DataFrame:
    """Losses that follow the law, with a shared and an own error per trunk and run."""
    rng = np.random.default_rng(0)
    tree = plan(study.runs)
    runs = tree.runs
    shared = {run.trunk: rng.normal(0, 0.004) for run in runs}
    rows = []
    for run in runs:
        params, tokens = count(run.model).params_total, run.tokens
        flops, multiplier = 6 * params * tokens, tokens / params
        loss = 1.0 + (40 * multiplier**0.2 + 300 * multiplier**-0.2) * flops**-0.2
        rows.append(
            {
                "run": run.identity,
                "trunk": run.trunk,
                **tree.cells(tree.segments[run.identity]),
                "seed": run.seed,
                "width": run.model.width,
                "params_total": params,
                "params_non_embedding": count(run.model).params_non_embedding,
                "tokens": tokens,
                "token_multiplier": multiplier,
                "flops": run.flops(),
                "flops_6nd": flops,
                "loss": loss * np.exp(shared[run.trunk] + rng.normal(0, 0.002)),
                "bits_per_byte": loss / np.log(2),
                "diverged_step": pd.NA,
            }
        )
    return pd.DataFrame(rows)


def test_the_report_says_what_it_found(study, tmp_path):
    config = over_training.get_config("cpu")
    runs = planted(study)
    runs.loc[3, ["loss", "diverged_step"]] = [np.nan, 17]
    blocks = study.report(Results(config, plan(study.runs), study.corpus, runs, runs[:0]))
    assert stumbles(blocks) == {}
    write_report(tmp_path, study, config, blocks)
    text = (tmp_path / "report.md").read_text()
    head = text.split("\n\n")[1]
    assert "5 widths, at most 2,048,000 tokens" in head and "proves the machinery" in head
    assert "1 run diverged, left out of all fits" in text
    assert "Its worst is" in text and "**met**" in text
    assert "standard deviation" in text and "trunk bootstrap, 11 trunks" in text
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page.split("</style>")[1].split("base64")[0]
    assert page.count("data:image/png;base64") == sum(isinstance(b, Picture) for b in blocks)
    for block in blocks:
        if isinstance(block, Table):
            assert (tmp_path / f"{block.name}.csv").exists()
            assert (tmp_path / f"{block.name}.tex").read_text().count("tabular") == 2


def test_held_out_runs_are_those_that_are_named(study):
    runs = planted(study)
    near = runs["role"] == "held out"
    assert set(runs[near]["width"]) == {runs["width"].max()}
    assert set(runs[near]["tokens"]) == set(sorted(runs["tokens"].unique())[-2:])
    assert near.sum() == 2 * over_training.get_config("cpu").seeds[-1]
    far = over_training.held_out_compute(runs)
    assert far.sum() >= 3 and runs[~far]["flops_6nd"].max() <= runs["flops_6nd"].max() / 4
