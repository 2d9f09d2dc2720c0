"""Candidate mixtures: RegMix's sampling, the grid of shares, and caps from sizes."""

from dataclasses import replace

import numpy as np
import pytest

from data import Mixture, Order, Piece, candidates, largest_shares, on_grid
from data.candidates import MOST_TIMES_PRIOR, SMALLEST
from refused import Refused

PRIOR = Mixture.of({"a": 0.5, "b": 0.3, "c": 0.17, "d": 0.02, "e": 0.01})


def drawn(count=512, seed=0, prior=PRIOR, **options):
    return np.array([m.array(prior.names) for m in candidates(prior, count, seed, **options)])


def test_candidates_keep_to_the_published_constants():
    found = drawn()
    assert found.shape == (512, 5)
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-12)
    slots = found / SMALLEST
    assert np.abs(slots - np.round(slots)).max() < 1e-6
    assert (found <= MOST_TIMES_PRIOR * PRIOR.array(PRIOR.names) + 1e-9).all()
    assert found[:, 4].max() > 0.1 and found[:, 0].max() > 0.95
    assert len(np.unique(found, axis=0)) == 512


def test_candidates_spread_from_single_domains_to_the_tempered_prior():
    prior = Mixture.of({"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1})
    found, tempered = drawn(prior=prior), np.sqrt(prior.array(prior.names))
    # No share is near its cap of 15 times the prior, so the mean is prior^0.5, renormalised; a
    # Dirichlet of strength s has variance m(1 - m)/(s + 1), averaged over fifteen strengths.
    mean = tempered / tempered.sum()
    strengths = np.geomspace(0.1, 5, 15)
    spread = np.sqrt(mean * (1 - mean) * np.mean(1 / (strengths + 1)))
    assert found.mean(axis=0) == pytest.approx(mean, abs=0.04)
    assert found.std(axis=0) == pytest.approx(spread, rel=0.15)
    assert (found.max(axis=1) > 0.95).any() and (found.max(axis=1) < 0.4).any()


def test_the_seed_decides_the_candidates():
    assert candidates(PRIOR, 8, seed=1) == candidates(PRIOR, 8, seed=1)
    assert candidates(PRIOR, 8, seed=1) != candidates(PRIOR, 8, seed=2)


def test_caps_are_kept_and_refused_when_too_few_mixtures_are_left():
    found = drawn(count=64, caps={"a": 0.35, "b": 0.4})
    assert found[:, 0].max() <= 0.35 and found[:, 1].max() <= 0.4
    with pytest.raises(Refused, match="candidates: got 64; accepted: at most 0"):
        candidates(PRIOR, 64, 0, caps={"a": 0.1, "b": 0.1, "c": 0.1})
    with pytest.raises(Refused, match="caps.z: got a domain outside the prior"):
        candidates(PRIOR, 4, 0, caps={"z": 0.1})


def test_a_single_domain_has_no_candidates():
    with pytest.raises(Refused, match="prior: got a; accepted: a mixture of two or more"):
        candidates(Mixture.of({"a": 1.0}), 4, 0)


def test_the_grid_sums_to_one_and_crosses_no_bound_that_lies_on_it():
    shares = np.random.default_rng(0).dirichlet(np.ones(7), 2000)
    found = on_grid(shares)
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert np.abs(found - shares).max() < SMALLEST
    for bound in (0.0, 0.1, 0.25):
        assert not ((shares <= bound) & (found > bound + 1e-12)).any()
        assert not ((shares >= bound) & (found < bound - 1e-12)).any()
    assert (on_grid(found) == found).all()


@pytest.mark.parametrize("epochs", [0.5, 1.0, 2.0])
def test_a_run_at_the_largest_share_stays_within_its_epochs(corpus, epochs):
    context = 32
    tokens = 100_000 // context * context
    caps = largest_shares(corpus, tokens, epochs, context)
    low = min(caps["low"], 1.0)
    mixture = Mixture.of({"low": low, "middle": 1 - low} if low < 1 else {"low": 1.0})
    order = Order(corpus, (Piece(tokens // context, context, mixture),), 0)
    read = order.epochs()["low"]
    assert read <= epochs
    assert low == 1.0 or read > 0.99 * epochs


def test_caps_of_unknown_domains_and_empty_budgets_are_refused(corpus):
    with pytest.raises(Refused, match="mixture.web"):
        largest_shares(corpus, 1000, 1.0, 32, ["web"])
    with pytest.raises(Refused, match="epochs: got 0"):
        largest_shares(corpus, 1000, 0, 32)


def sized(corpus, **tokens):
    """The corpus with other training sizes."""
    domains = {
        name: replace(corpus.domains[name], train_tokens=count) for name, count in tokens.items()
    }
    return replace(corpus, domains=domains)


def test_unimax_caps_epochs_shares_the_rest_alike_and_spends_everything(corpus):
    uneven = sized(corpus, low=100, middle=1000, high=5000)
    for tokens in (50, 500, 3000, 6000):
        mixture = Mixture.unimax(uneven, tokens)
        spent = {name: share * tokens for name, share in mixture.weights}
        assert sum(spent.values()) == pytest.approx(tokens)
        assert all(n <= uneven.domains[name].train_tokens * (1 + 1e-9) for name, n in spent.items())
        free = [n for name, n in spent.items() if n < uneven.domains[name].train_tokens * 0.999]
        assert free == pytest.approx([max(spent.values())] * len(free))
    # 100 of the smallest at once, twice with two epochs; the rest is split between the others.
    assert dict(Mixture.unimax(uneven, 500).weights) == pytest.approx(
        {"low": 0.2, "middle": 0.4, "high": 0.4}
    )
    assert dict(Mixture.unimax(uneven, 500, epochs=5).weights)["low"] == pytest.approx(1 / 3)


def test_unimax_refuses_a_budget_that_needs_more_epochs(corpus):
    uneven = sized(corpus, low=100, middle=1000, high=5000)
    with pytest.raises(Refused, match="mixture.tokens: got 6101; accepted: 1 to 6100, 1 epochs"):
        Mixture.unimax(uneven, 6101)
    assert Mixture.unimax(uneven, 6101, epochs=2).names == ("high", "low", "middle")
