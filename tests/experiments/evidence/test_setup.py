"""What a configuration says for all runs of a study."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from data import Mixture
from experiments.evidence.setup import Setup, matched
from models import count
from models.ladder import ladder, learning_rate, weight_decay
from scaling import Lion, labelled, sweep
from tests.corpora import STEP


@pytest.fixture(scope="module")
def config() -> ConfigDict:
    """A configuration with what every study's has."""
    lengths = dict(tokens=20 * STEP, batch_tokens=STEP, warmup_tokens=5 * STEP)
    return ConfigDict(dict(lengths, context=32, evaluation_tokens=64, repeat=True))


def with_(config, **values) -> ConfigDict:
    """The configuration with other values."""
    return ConfigDict(config.to_dict() | values)


@pytest.mark.parametrize("values", [{}, {"mixture": ""}])
def test_without_a_mixture_runs_read_the_main_domains_in_equal_shares(config, corpus, values):
    setup = Setup(with_(config, **values), corpus)
    assert setup.data.mixture == Mixture.uniform(corpus.main)
    assert setup.evaluation.domains == setup.data.mixture.names


def test_a_mixture_decides_what_is_read_and_evaluated(config, corpus):
    setup = Setup(with_(config, mixture="low=1"), corpus)
    assert setup.data.mixture == Mixture.parse("low=1")
    assert setup.data.content == corpus.content_hash
    assert setup.evaluation.domains == ("low",) and setup.evaluation.tokens_per_domain == 64


def test_every_model_has_the_corpuss_vocabulary_and_the_configurations_context(config, corpus):
    model = Setup(with_(config, dtype="bfloat16"), corpus).rung(16, depth=3).model
    assert (model.vocabulary, model.context, model.dtype) == (corpus.vocabulary, 32, "bfloat16")
    assert (model.width, model.depth) == (16, 3)
    assert (
        Setup(config, corpus).rung(16).model == ladder(16, 1, **Setup(config, corpus).shape).model
    )


def test_runs_on_the_ladder_are_those_of_its_rates(config, corpus):
    setup = Setup(config, corpus)
    run = setup.on_ladder(16, 3, setup.phases(10 * STEP))
    assert run == setup.run(setup.rung(16).model, learning_rate(16), 3, setup.phases(10 * STEP))
    assert run.seed == 3 and run.tokens == 10 * STEP
    assert run.optimizer.weight_decay == weight_decay(run.optimizer.learning_rate)
    other = setup.run(run.model, 0.01, 3, run.phases, Lion)
    assert isinstance(other.optimizer, Lion) and other.identity != run.identity


def test_an_arm_is_swept_around_its_peak_in_rates_of_three_digits(config, corpus):
    setup = Setup(config, corpus)
    arm = setup.arm(setup.rung(16).model, 0.0123)
    made = sweep({"plain": arm}, (0.35, 1.0, 2.0), range(1))
    assert [item.run.optimizer.learning_rate for item in made] == [0.0043, 0.0123, 0.0246]
    assert {item.run.tokens for item in made} == {config.tokens}


def report(results) -> list:
    """Writes nothing."""
    return []


def test_a_study_is_called_after_the_file_of_its_report(config, corpus):
    setup = Setup(config, corpus)
    runs = (labelled(setup.on_ladder(16, 0, setup.phases()), arm="one"),)
    study = setup.study(report, runs, awaited=runs)
    assert study.name == "test_setup" and study.corpus is corpus and study.report is report
    assert study.evaluation == setup.evaluation and study.repeat and study.awaited == runs


def test_a_vocabulary_is_enough_to_describe_models(config):
    assert Setup(config, SimpleNamespace(vocabulary=77)).rung(8).model.vocabulary == 77


def test_a_feed_forward_is_widened_until_a_count_matches(config, corpus):
    model = Setup(config, corpus).rung(16).model
    for column in ("params_non_embedding", "params_active"):
        target = 1.5 * getattr(count(model), column)
        found = matched(model, column, target)
        assert getattr(count(found), column) == pytest.approx(target, rel=0.01)
        assert replace(found, ff_width=model.ff_width) == model
