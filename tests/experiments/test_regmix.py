"""The mixture study: its two stages, what follows from planted losses, and what it refuses."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from data import Mixture, load
from experiments import regmix
from experiments.command import session
from experiments.evidence.mixtures import target_loss
from experiments.evidence.report import Table, Text
from experiments.evidence.study import Results
from models import count
from refused import Refused
from scaling import Store, plan
from tests.drawn import stumbles


@pytest.fixture(autouse=True)
def fewer_simulated(monkeypatch):
    monkeypatch.setattr(regmix, "SIMULATED", 2000)


@pytest.fixture(scope="module")
def config():
    return regmix.get_config("cpu")


@pytest.fixture(scope="module")
def study(config):
    return regmix.study(config)


def changed(config, **values) -> ConfigDict:
    return ConfigDict(config.to_dict() | values)


def planted(config, study, slope: float = 0.3) -> pd.DataFrame:
    """Losses on the target that fall with the share of code, and most with some docs."""
    rng, rows = np.random.default_rng(0), []
    for item in study.runs:
        run = item.run
        shares = dict(run.data.mixture.weights)
        code, docs = shares.get("code", 0.0), shares.get("docs", 0.0)
        level = 2.4 if run.model.width == config.proxy_width else 1.9
        loss = level + slope * np.exp(-2.0 * code - 3.0 * docs) + 0.002 * rng.normal()
        accounts = count(run.model)
        rows.append(
            {
                "run": run.identity,
                **item.labels,
                "seed": run.seed,
                "width": run.model.width,
                "params_total": accounts.params_total,
                "params_non_embedding": accounts.params_non_embedding,
                "tokens": run.tokens,
                "loss.networkx": loss,
                "bits_per_byte.networkx": loss / np.log(2),
                "diverged_step": pd.NA,
                **{f"mixture.{name}": share for name, share in shares.items()},
            }
        )
    return pd.DataFrame(rows)


def results(config, study, runs=None) -> Results:
    runs = planted(config, study) if runs is None else runs
    return Results(config, plan(study.runs), study.corpus, runs, runs[:0])


def test_the_first_stage_lists_proxies_and_what_needs_no_proxies(config, study):
    design = regmix.Design(config, study.corpus)
    assert len(design.domains) >= 4 and config.proxies >= 64 and config.seeds >= 2
    assert regmix.get_config("gpu").proxies == 512
    runs = [item.run for item in study.runs]
    small = [run for run in runs if run.model.width == config.proxy_width]
    large = [run for run in runs if run.model.width == config.width]
    assert len(small) == config.proxies == len({run.data.mixture for run in small})
    assert len(large) == config.transfer + 2 * config.seeds
    for name in ("params_total", "params_non_embedding"):
        ratio = getattr(count(large[0].model), name) / getattr(count(small[0].model), name)
        assert ratio >= 4
    assert "networkx" not in {name for run in runs for name in run.data.mixture.names}
    assert study.evaluation.domains == ("networkx",)
    assert len(study.awaited) == 2 * config.seeds


def test_what_follows_is_the_planted_optimum_and_the_best_sampled(config, study):
    further = study.then(results(config, study))
    assert len(further) == 2 * config.seeds
    assert {item.run.tokens for item in further} == {item.run.tokens for item in study.awaited}
    assert {item.run.flops() for item in further} == {item.run.flops() for item in study.awaited}
    proposal, best = (dict(further[i * config.seeds].run.data.mixture.weights) for i in (0, 1))
    # KL to the natural shares keeps some of each domain; docs have the steepest rate.
    assert proposal["docs"] > proposal["code"] > max(proposal["headers"], proposal["tests"])
    runs = planted(config, study)
    small = runs[runs["width"] == config.proxy_width]
    lowest = small.loc[small["loss.networkx"].idxmin()]
    assert best == {k[8:]: v for k, v in lowest.items() if k.startswith("mixture.") and v > 0}


def test_the_report_says_who_wins_and_shows_both_baselines(config, study):
    first = results(config, study)
    further = study.then(first)
    whole = replace(study, runs=(*study.runs, *further), then=None)
    blocks = study.report(results(config, whole))
    assert stumbles(blocks) == {}
    text = "\n".join(block.markdown for block in blocks if isinstance(block, Text))
    assert "**stratified**: +" in text and "]: higher than the proposal." in text
    assert "one comparison made twice" in text
    tables = {block.name: block.frame for block in blocks if isinstance(block, Table)}
    assert list(tables["arms"]["mixture"]) == ["proposal", "best sampled", "stratified", "natural"]
    crossed = set(tables["cross_validated"]["predictor"])
    assert crossed == {"log_linear", "ridge", "lightgbm", "closest domain's share", "stratified"}
    ranks = tables["transfer"].set_index("predictor")["spearman"]
    assert ranks["proxies' losses"] > 0.9 and ranks["log_linear"] > 0.9
    assert (
        tables["mixtures"][["code", "docs", "headers", "tests"]].sum(axis=1) - 1
    ).abs().max() < 1e-9
    half = study.report(results(config, study, planted(config, study)[:10]))
    assert "proxies are not trained yet" in half[0].markdown
    early = study.report(first)
    assert "not trained yet" in early[0].markdown
    assert "arms" not in {block.name for block in early if isinstance(block, Table)}


def test_a_weighted_target_may_be_trained_on_within_one_epoch(config):
    weighted = changed(config, target="code=0.5,docs=0.5")
    found = regmix.study(weighted)
    assert found.evaluation.domains == ("code", "docs")
    runs = pd.DataFrame({"loss.code": [1.0], "loss.docs": [2.0]})
    assert target_loss(runs, {"code": 0.25, "docs": 0.75})[0] == 1.75
    with pytest.raises(Refused, match="config.epochs: got 2.0; accepted: above 0 and at most 1"):
        regmix.study(changed(weighted, epochs=2.0))
    assert regmix.study(changed(config, epochs=2.0))


def test_bounds_and_caps_hold_for_everything_that_is_proposed(config):
    bounded = changed(config, smallest="headers=0.1", largest="docs=0.2", transfer=3)
    bounded = changed(bounded, tokens=16_384_000)
    found = regmix.study(bounded)
    further = found.then(results(bounded, found))
    cap = 8_348_536 / 16_384_000
    for item in further:
        shares = dict(item.run.data.mixture.weights)
        assert shares["headers"] >= 0.1 and shares["docs"] <= 0.2
        assert max(shares.values()) <= cap + 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert max(replace(found, runs=further).check().values()) <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": "web"}, "config.target: got web; accepted: code, docs, headers, tests"),
        ({"target": "code"}, "config.target: got code; accepted: a domain that is not trained on"),
        ({"target": "code=1"}, "config.target: got code=1; accepted: a domain that is not"),
        ({"trained": "code"}, "config.trained: got code; accepted: two or more domains"),
        ({"trained": "code,web"}, "config.trained: got web; accepted: code"),
        ({"proxies": 6}, r"proxies for log_linear: got 5 \(of 6, one of 8 folds|config.folds"),
        ({"proxies": 40, "regressor": "lightgbm"}, "proxies for lightgbm: got 35"),
        ({"regressor": "forest"}, "regressor: got forest; accepted: log_linear"),
        ({"width": 32}, "config.width: got 32, 41632 params_total; accepted: a width with 59712"),
        ({"seeds": 1}, "config.seeds: got 1; accepted: 2 or more"),
        ({"transfer": 65}, "config.transfer: got 65; accepted: 3 to 64"),
        ({"smallest": "code=0.7,docs=0.7"}, "bounds: got smallest shares that sum to 1.4"),
        ({"smallest": "code"}, "config.smallest: got code; accepted: DOMAIN=SHARE"),
        ({"largest": "web=0.5"}, "largest.web: got an unknown domain"),
        (
            {"smallest": "code=0.9", "tokens": 16_384_000},
            "share of code: got 0.9 of 1.6384e.07 tokens, 1.77 epochs; accepted: at most 1 epochs",
        ),
        ({"tokens": 65_536_000}, "bounds: got largest shares that sum to 0.51"),
        ({"target": "networkx", "epochs": 5.0}, "config.epochs: got 5.0; accepted: above 0 and at"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(config, values, message):
    with pytest.raises((Refused, Refused), match=message):
        regmix.study(changed(config, **values))


@pytest.fixture(scope="module")
def tiny(corpus):
    """A study of seconds, on a small corpus whose third domain is the target."""
    folder = str(next(iter(corpus.domains.values())).folder)
    return changed(
        regmix.get_config("cpu"),
        corpus=folder,
        trained="low,middle",
        target="high",
        proxies=8,
        folds=4,
        proxy_width=8,
        width=24,
        proxy_tokens=2560,
        tokens=2560,
        seeds=2,
        transfer=3,
        batch_tokens=256,
        context=32,
        warmup_tokens=512,
        evaluation_tokens=512,
    )


@pytest.mark.system
def test_one_command_trains_both_stages_and_a_second_trains_nothing(tiny, tmp_path, capsys):
    study = regmix.study(tiny)
    settings = session.Settings(store=str(tmp_path), mesh="data:1")
    session.plan(study, tiny, settings)
    said = capsys.readouterr().out
    assert "then: 4 runs that follow from the losses of these" in said
    session.run(study, tiny, settings)
    said = capsys.readouterr().out
    first, second = (line for line in said.splitlines() if "to train" in line)
    assert int(second.split()[-3]) <= 8 < int(first.split()[-3])
    whole = session.grown(study, tiny, settings)
    assert whole.then is None and len(whole.runs) == len(study.runs) + 4
    for item in whole.runs:
        assert Store.at(str(tmp_path)).done(item.run.identity)["diverged_step"] is None
    session.plan(study, tiny, settings)
    said = capsys.readouterr().out
    assert "to train: 0 tokens" in said and "then:" not in said
    session.run(study, tiny, settings)
    assert "nothing to train" in capsys.readouterr().out
    text = (tmp_path / "studies" / "regmix-cpu" / "report.md").read_text()
    assert "- **stratified**: " in text and "are not in the store" not in text


def test_the_first_stage_may_be_stopped_and_its_report_says_what_is_missing(tiny, tmp_path, capsys):
    study = regmix.study(tiny)
    settings = session.Settings(store=str(tmp_path), mesh="data:1", stop_after=0.0)
    session.run(study, tiny, settings)
    assert "the same command goes on" in capsys.readouterr().out
    assert session.grown(study, tiny, settings) is study
    session.report(study, tiny, settings)
    text = (tmp_path / "studies" / "regmix-cpu" / "report.md").read_text()
    assert "proxies are not trained yet" in text and "runs are not in the store" in text


def test_the_default_target_is_in_the_corpus_and_natural_shares_leave_it_out():
    corpus = load("wheels")
    assert "networkx" in corpus.domains
    assert "networkx" not in Mixture.natural(corpus).names
