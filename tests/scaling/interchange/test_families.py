"""Which of their architectures a model is; what they cannot compute alike is refused by name."""

from dataclasses import replace

import pytest

from models import Experts, Stem, Streams
from models.codes import Codes
from refused import Refused
from scaling.interchange import families
from tests.corpora import model, tokenformer
from tests.scaling.interchange.models import LIKE

FAMILIES = {"qk_norm": "qwen3", "biases_qk_norm": "qwen3", "experts": "qwen3_moe"}


@pytest.mark.parametrize("name", LIKE)
def test_a_configuration_comes_back_from_config_json(name):
    config = LIKE[name]
    said = families.written(config, 0)
    assert said["model_type"] == FAMILIES.get(name, "llama")
    read, notes = families.read(said)
    assert notes == () and families.written(read, 0) == said
    feed_forward = config.feed_forward
    if name == "experts":
        feed_forward = replace(feed_forward, expert_width=config.width, renormalise=True)
    expected = replace(
        config,
        kv_heads=config.group_heads,
        head_size=config.key_size,
        ff_width=replace(config, feed_forward="swiglu").inner_width,
        feed_forward=feed_forward,
        separator=None,
    )
    assert read == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (model(embedding=Codes()), "model.embedding: got codes: .*; accepted: learned"),
        (model(feed_forward="gelu"), "model.feed_forward: got gelu: .*; accepted: swiglu or"),
        (model(feed_forward=Stem()), "model.feed_forward: got stem: "),
        (tokenformer(), "model.attention: got parameter_tokens: "),
        (model(block_norm="layer_norm"), "model.block_norm: got layer_norm: "),
        (model(streams=Streams(2, prefix=4)), "model.streams: got 2: "),
        (model(feed_forward=Experts(4, 2, 0)), "model.qk_norm: got False: Qwen3-MoE"),
        (model(qk_norm=True, feed_forward=Experts(4, 2, 1)), "feed_forward.shared: got 1: "),
        (
            model(qk_norm=True, feed_forward=Experts(4, 2, 0, router="sigmoid")),
            "feed_forward.router: got sigmoid, bias_rate 0.001: ",
        ),
    ],
)
def test_what_no_architecture_computes_is_refused_by_name(config, message):
    with pytest.raises(Refused, match=message):
        families.family(config)


def test_a_capacity_which_only_training_has_is_not_written():
    tight, none = (
        model(qk_norm=True, feed_forward=Experts(8, 2, 0, capacity_factor=limit))
        for limit in (1.25, None)
    )
    assert families.written(tight, 0) == families.written(none, 0)
    assert families.read(families.written(tight, 0))[0].feed_forward.capacity_factor is None


def test_what_qwen2_says_is_read():
    said = families.written(LIKE["biases"], 0) | {"model_type": "qwen2"}
    del said["attention_bias"], said["mlp_bias"]
    assert families.read(said)[0] == families.read(families.written(LIKE["biases"], 0))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: got gpt2; accepted: llama, qwen2, qwen3, qwen3_moe"),
        ({"hidden_act": "gelu"}, "hidden_act: got gelu; accepted: silu"),
        ({"mlp_bias": True}, "mlp_bias: got True"),
        ({"use_sliding_window": True}, "use_sliding_window: got True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: got "),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type: got yarn"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "rope_type: got linear"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: got 0.5; accepted: 1.0"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor: got 0.5",
        ),
        ({"vocab_size": 0}, "model.vocabulary: got 0"),
    ],
)
def test_settings_that_are_not_ours_are_refused(change, message):
    with pytest.raises(Refused, match=message):
        families.read(families.written(LIKE["mha"], 0) | change)


def test_a_missing_setting_is_named_and_an_unknown_one_noted():
    said = families.written(LIKE["mha"], 0)
    with pytest.raises(Refused, match="config.json: got no hidden_size; accepted: what llama"):
        families.read({name: value for name, value in said.items() if name != "hidden_size"})
    assert families.read(said | {"novelty": 3})[1] == (
        "config.json: novelty=3 is not known and was left out",
    )
    dense_last = families.written(LIKE["experts"], 0) | {"mlp_only_layers": [1]}
    with pytest.raises(Refused, match=r"got mlp_only_layers \[1\]"):
        families.read(dense_last)
