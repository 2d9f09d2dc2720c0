"""Sources of known entropy."""

import numpy as np
import pytest

from data import load
from data.markov import parse
from refused import Refused


@pytest.mark.parametrize(
    "name", ["markov:order=1,symbols=8,seed=3", "markov:order=2,symbols=5,seed=1"]
)
def test_the_rate_is_the_mean_surprise_of_a_long_sample(name):
    source = parse(name)
    sample = source.sample(400_000)
    surprise = source.negative_log_likelihood(sample)[source.order :]
    # Batches of 1000 are nearly independent: four standard errors of their mean.
    batches = surprise[: len(surprise) // 1000 * 1000].reshape(-1, 1000).mean(axis=1)
    error = batches.std(ddof=1) / np.sqrt(len(batches))
    assert abs(surprise.mean() - source.entropy_rate) < 4 * error
    assert error < 0.002


def test_the_stationary_distribution_is_stationary_and_is_sampled():
    source = parse("markov:order=1,symbols=6,seed=0")
    matrix = source.transitions / source.transitions.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(source.stationary @ matrix, source.stationary, atol=1e-12)
    shares = np.bincount(source.sample(200_000), minlength=6) / 200_000
    np.testing.assert_allclose(shares, source.stationary, atol=0.01)


def test_no_predictor_beats_the_true_one():
    source, other = (parse(f"markov:order=1,symbols=8,seed={seed}") for seed in (0, 1))
    sample = source.sample(50_000)
    truth = source.negative_log_likelihood(sample).mean()
    assert truth < other.negative_log_likelihood(sample).mean()
    assert truth < np.log(8)


def test_a_longer_sample_begins_with_the_shorter_and_streams_differ():
    source = parse("markov:order=2,symbols=4,seed=9")
    long = source.sample(5000)
    np.testing.assert_array_equal(source.sample(1000), long[:1000])
    assert (source.sample(1000, "held_out") != long[:1000]).any()


def test_the_corpus_is_the_source(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path))
    corpus = load("markov:order=1,symbols=8,seed=2,tokens=5000")
    source = parse(corpus.name)
    assert corpus.vocabulary == 8 and corpus.separator is None
    np.testing.assert_array_equal(corpus.domains["markov"].train, source.sample(5000))
    assert load(corpus.name).content_hash == corpus.content_hash


@pytest.mark.parametrize("name", ["markov:symbols=1", "markov:order=x", "markov:colour=2"])
def test_impossible_sources_are_refused(name):
    with pytest.raises(Refused):
        parse(name)
