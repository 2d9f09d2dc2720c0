"""Evaluation windows."""

import numpy as np
import pytest

from data import HeldOut
from refused import Refused


def test_windows_are_fixed_evenly_spread_and_disjoint(corpus):
    held_out = HeldOut(corpus, 32, 640)
    numbers = held_out.window_numbers("low")
    assert len(numbers) == 20 and (np.diff(numbers) >= 1).all()
    assert set(np.diff(numbers)) <= {np.diff(numbers).min(), np.diff(numbers).min() + 1}
    assert held_out.windows("low").shape == (20, 33)
    np.testing.assert_array_equal(held_out.windows("low"), HeldOut(corpus, 32, 640).windows("low"))


def test_the_identity_names_corpus_context_domains_and_windows(corpus):
    same = {HeldOut(corpus, 32, n).identity for n in (640, 641, 671)}
    others = [
        HeldOut(corpus, 32, 672),
        HeldOut(corpus, 64, 640),
        HeldOut(corpus, 32, 640, ("low",)),
    ]
    assert len(same) == 1
    assert len(same | {other.identity for other in others}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((32, 10**6), "held_out.tokens_per_domain: got 1000000 tokens; accepted: at most"),
        ((32, 5), "held_out.tokens_per_domain: got 5"),
        ((1000, 2000), "context: got 1000 tokens; accepted: at most 901"),
        ((32, 640, ("web",)), "held_out.names: got 'web'"),
    ],
)
def test_what_the_corpus_cannot_give_is_refused_by_name(corpus, arguments, message):
    with pytest.raises(Refused) as refused:
        HeldOut(corpus, *arguments)
    assert message in str(refused.value)
