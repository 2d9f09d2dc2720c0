"""Mixtures."""

import math

import pytest

from data import Mixture
from refused import Refused


def test_equal_mixtures_are_equal_however_written():
    one = Mixture.of({"b": 0.25, "a": 0.75, "c": 0.0})
    assert one == Mixture.of({"a": 0.75, "b": 0.25}) and hash(one) == hash(
        Mixture.of(dict(one.weights))
    )
    assert one.names == ("a", "b")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"a": 0.5, "b": 0.6},
            "mixture: got a=0.5, b=0.6 (sum 1.1); accepted: shares that sum to 1",
        ),
        ({"a": -0.1, "b": 1.1}, "mixture.a: got -0.1"),
        ({"a": math.nan}, "mixture.a: got nan"),
        ({}, "mixture: got no domain"),
    ],
)
def test_what_is_off_the_simplex_is_refused_by_name(weights, message):
    with pytest.raises(Refused) as refused:
        Mixture.of(weights)
    assert message in str(refused.value)


def test_mixtures_can_be_written_as_text():
    assert Mixture.parse("b=0.25, a=0.75") == Mixture.of({"a": 0.75, "b": 0.25})
    for text in ("a", "a=x", ""):
        with pytest.raises(Refused, match="accepted: DOMAIN=SHARE"):
            Mixture.parse(text)


def test_a_domain_that_the_corpus_lacks_is_refused_with_those_it_has(corpus):
    with pytest.raises(Refused, match="low, middle, high"):
        Mixture.of({"web": 1.0}).check(corpus)


def test_natural_shares_are_those_of_the_tokens(corpus):
    shares = dict(Mixture.natural(corpus).weights)
    total = sum(d.train_tokens for d in corpus.domains.values())
    for name, domain in corpus.domains.items():
        assert shares[name] == pytest.approx(domain.train_tokens / total)


def test_temperature_goes_from_natural_to_uniform(corpus):
    assert Mixture.temperature(corpus, 1.0) == Mixture.natural(corpus)
    hot = dict(Mixture.temperature(corpus, 1e9).weights)
    assert all(share == pytest.approx(1 / 3) for share in hot.values())
