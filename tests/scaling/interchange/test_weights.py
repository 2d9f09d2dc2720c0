"""Tensors under their names: there and back, and none lost or added in silence."""

import ml_dtypes
import numpy as np
import pytest

from refused import Refused
from scaling.interchange import weights
from tests.scaling.interchange.models import LIKE, kept


@pytest.mark.parametrize("name", LIKE)
def test_parameters_come_back_from_their_tensors(name):
    one = kept(LIKE[name])
    found = weights.theirs(one.config, one.params)
    back = weights.ours(one.config, found)
    assert [*back] == [*one.params]
    for path, value in one.params.items():
        np.testing.assert_array_equal(back[path], value, err_msg=path)
    ours = sum(x.size for x in one.params.values())
    added = sum(int(np.prod(s)) for s in weights.output_biases(one.config).values())
    assert sum(x.size for x in found.values()) == ours + added


def test_matrices_are_turned_and_experts_taken_apart():
    one = kept(LIKE["experts"])
    found = weights.theirs(one.config, one.params)
    expert = found["model.layers.1.mlp.experts.2.down_proj.weight"]
    np.testing.assert_array_equal(expert.T, one.params["layers.1.feed_forward.down"][2])
    router = found["model.layers.1.mlp.gate.weight"]
    np.testing.assert_array_equal(router.T, one.params["layers.1.feed_forward.router"])


def test_narrow_floats_are_widened_and_whole_numbers_refused():
    one = kept(LIKE["mha"])
    found = weights.theirs(one.config, one.params)
    narrow = {n: x.astype(ml_dtypes.bfloat16) for n, x in found.items()}
    for path, value in weights.ours(one.config, narrow).items():
        expected = one.params[path].astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(value, expected)
    found["lm_head.weight"] = found["lm_head.weight"].astype(np.int8)
    with pytest.raises(Refused, match="lm_head.weight: got int8; accepted: float32, bfloat16"):
        weights.ours(one.config, found)


def test_a_tensor_too_many_too_few_or_of_another_shape_is_refused():
    one = kept(LIKE["biases"])
    found = weights.theirs(one.config, one.params)
    with pytest.raises(Refused, match="tensors: got a, b, c, ...; accepted"):
        weights.ours(one.config, found | dict.fromkeys("abcd", np.zeros(1)))
    with pytest.raises(Refused, match="tensor model.norm.weight: got nothing"):
        weights.ours(one.config, {n: x for n, x in found.items() if n != "model.norm.weight"})
    with pytest.raises(Refused, match=r"model.norm.weight: got shape \(3,\)"):
        weights.ours(one.config, found | {"model.norm.weight": np.zeros(3, np.float32)})
    bias = {"model.layers.1.self_attn.o_proj.bias": np.ones(16, np.float32)}
    with pytest.raises(Refused, match="o_proj.bias: got values other than 0"):
        weights.ours(one.config, found | bias)


def test_a_tied_head_may_be_there_only_if_it_is_the_table():
    one = kept(LIKE["tied"])
    found = weights.theirs(one.config, one.params)
    computed = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    table = found["model.embed_tokens.weight"]
    weights.ours(one.config, found | {"lm_head.weight": table} | computed)
    with pytest.raises(Refused, match="lm_head.weight: got another matrix; accepted: the token"):
        weights.ours(one.config, found | {"lm_head.weight": table + 1})
