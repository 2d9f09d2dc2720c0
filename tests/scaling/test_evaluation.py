"""Losses on held-out windows, by domain, of a state and of its variants."""

import math
from dataclasses import replace

import numpy as np
import pytest

from models import Experts, Quantization, held_out_nll
from scaling import Evaluation
from scaling.evaluation import evaluate, finite
from scaling.state import initial
from tests.corpora import model, recipe


def test_a_domains_loss_is_the_mean_over_its_windows(corpus, mesh):
    config = model()
    state = initial(recipe(config), 0)
    held_out = Evaluation(128, domains=("low", "high")).held_out(corpus, config.context)
    found = evaluate(held_out, config, mesh, state)
    assert found.keys() == {"loss", "bits_per_byte"}
    for name in ("low", "high"):
        nats = held_out_nll(config, state.params, state.buffers, held_out.windows(name))
        assert found["loss"][name] == pytest.approx(float(np.mean(nats)), rel=1e-6)
        bits = found["loss"][name] / math.log(2) / held_out.bytes_per_token(name)
        assert found["bits_per_byte"][name] == pytest.approx(bits, rel=1e-12)


def test_a_quantised_model_is_evaluated_with_its_weights_as_kept_too(corpus, mesh):
    config = replace(model(), quantization=Quantization(1))
    state = initial(recipe(config), 0)
    held_out = Evaluation(128).held_out(corpus, config.context)
    found = evaluate(held_out, config, mesh, state)
    plain = evaluate(held_out, replace(config, quantization=None), mesh, state)
    assert found["loss_unquantised"] == plain["loss"] != found["loss"]
    assert found["bits_per_byte_unquantised"] == plain["bits_per_byte"]


def test_an_evaluation_that_training_limits_has_a_name_of_its_own(corpus):
    evaluation = Evaluation(128)
    windows = evaluation.held_out(corpus, 32).identity
    assert evaluation.identity(corpus, model()) == windows
    # Full or free experts drop nothing and keep the name; limited ones were evaluated with drops.
    free = [Experts(4, 2, 1), Experts(8, 2, 1, capacity_factor=None)]
    names = {evaluation.identity(corpus, model(feed_forward=some)) for some in free}
    limited = model(feed_forward=Experts(8, 2, 1, capacity_factor=1.0))
    assert names == {windows} != {evaluation.identity(corpus, limited)}


def test_json_holds_none_for_what_is_not_finite():
    assert [finite(x) for x in (np.float32(1.5), math.nan, math.inf)] == [1.5, None, None]
