"""Properties of the ladder."""

import pytest

from models import count, ladder
from models.ladder import batch_tokens, best_rates, learning_rate
from refused import Refused


def test_every_width_gives_a_model():
    sizes = [count(ladder(width, 10**7).model).params_total for width in range(8, 1025, 8)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("width", [0, 7, 12, -8])
def test_other_widths_are_refused(width):
    with pytest.raises(Refused, match="width"):
        ladder(width, 10**6)


def test_the_rate_falls_with_width_and_stays_near_the_measurements():
    rates = [learning_rate(w) for w in (16, 32, 64, 128, 1024)]
    assert rates == sorted(rates, reverse=True)
    for width, best in best_rates():
        assert learning_rate(width) == pytest.approx(best, rel=0.5)


def test_rate_times_decay_is_constant():
    products = [r.learning_rate * r.weight_decay for r in (ladder(16, 10**6), ladder(512, 10**9))]
    assert products[0] == pytest.approx(products[1], rel=0.02)


def test_batches_follow_step_law():
    # Li et al. 2025 (arXiv:2503.04715): 0.58·D^0.571 tokens, 0.34M at 1.14e10 tokens.
    for tokens in (10**6, 10**8, 11_400_000_000):
        law = 0.58 * tokens**0.571
        assert 0.7 <= batch_tokens(tokens, 64) / law <= 1.42
        assert batch_tokens(tokens, 64) % 64 == 0
