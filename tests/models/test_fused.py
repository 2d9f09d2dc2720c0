"""Which kernel takes an attention, and what is done around it."""

import functools
import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from models import ModelConfig, Streams, loss, skeleton
from models.attention import attend, ones_before, visible
from models.fused import attention_of, choose, cudnn
from models.splash import splash

CONFIG = ModelConfig(vocabulary=64, width=32, depth=1, heads=4, kv_heads=2, context=128)


@pytest.mark.parametrize(
    ("platform", "fields", "kernel", "why"),
    [
        ("tpu", {}, "splash", ""),
        ("tpu", {"separator": 0, "dtype": "float32"}, "splash", ""),
        ("tpu", {"streams": Streams(2)}, "splash", ""),
        ("tpu", {"streams": Streams(2), "separator": 0}, "products", "no prefix that all docum"),
        ("tpu", {"streams": Streams(2, neutral=True), "separator": 0}, "splash", ""),
        ("cuda", {}, "cudnn", ""),
        ("cuda", {"streams": Streams(2)}, "cudnn", ""),
        ("cuda", {"dtype": "float32"}, "products", "cuDNN takes bfloat16, not float32"),
        ("cuda", {"head_size": 256}, "products", "heads of at most 128, not 256"),
        ("cuda", {"separator": 0}, "products", "cuDNN has no documents"),
        ("cpu", {}, "products", "no kernel for cpu"),
    ],
)
def test_a_kernel_is_chosen_or_the_reason_is_told(platform, fields, kernel, why):
    chosen = attention_of(replace(CONFIG, **{"dtype": "bfloat16"} | fields), platform)
    assert chosen.kernel == kernel and why in chosen.why and bool(chosen.why) == bool(why)


def test_values_wider_than_keys_count_as_their_head_size():
    assert choose("cuda", jnp.bfloat16, (64, 128), 0, False).kernel == "cudnn"
    assert "not 192" in choose("cuda", jnp.bfloat16, (64, 192), 0, False).why


@pytest.mark.parametrize(("before", "values"), [(0, 12), (5, 20), (3, 4)])
def test_around_cudnn_a_prefix_and_odd_heads_change_nothing(monkeypatch, before, values):
    call = jax.nn.dot_product_attention

    def library(query, key, value, implementation, **how):
        assert implementation == "cudnn" and query.shape[3] == key.shape[3] == value.shape[3]
        assert query.shape[3] % 8 == 0 and query.shape[1] == key.shape[1]
        return call(query, key, value, implementation="xla", **how)

    monkeypatch.setattr(jax.nn, "dot_product_attention", library)
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    query, key, value = (
        draw(2, 4, 9, 12),
        draw(2, 2, before + 9, 12),
        draw(2, 2, before + 9, values),
    )
    mask = visible(jnp.zeros((2, 9), jnp.int32), None, 9)
    mask = jnp.concatenate([ones_before(mask, before), mask], axis=3)
    expected = attend(query, key, value, mask)
    np.testing.assert_allclose(cudnn(query, key, value), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_a_model_told_that_it_is_on_a_tpu_trains_alike(monkeypatch):
    config = replace(CONFIG, streams=Streams(2, prefix=5), qk_norm=True)
    params, buffers = skeleton(config).initialise(0)
    windows = np.random.default_rng(0).integers(0, 64, (1, 129)).astype(np.int32)

    def gradient():
        of = lambda params: loss(config, params, buffers, windows)[0]
        return jax.jit(jax.value_and_grad(of))(params)

    expected = gradient()
    ran = []

    def watched(query, key, value):
        ran.append(key.shape[2] - query.shape[2])
        return splash(query, key, value, interpret=True)

    monkeypatch.setattr("models.attention.platform", lambda: "tpu")
    monkeypatch.setattr("models.splash.splash", watched)
    found = gradient()
    assert ran == [5]
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for path, theirs in expected[1].items():  # The aggregation's gradient is a small difference.
        difference = np.linalg.norm(found[1][path] - theirs)
        assert difference <= 1e-3 * np.linalg.norm(theirs), path


def largest_square(platform: str, kind: str, length: int) -> int:
    """Returns the elements of the largest array with two dimensions of at least `length`.

    Of a gradient as it is handed to the compiler of a platform that is not here.
    """
    config = replace(CONFIG, width=64, context=length, dtype="bfloat16")
    params, buffers = skeleton(config).initialise(0)
    windows = np.zeros((2, length + 1), np.int32)
    device = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    gradient = jax.jit(jax.grad(lambda p: loss(config, p, buffers, windows)[0]))
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("data",), abstract_device=device)):
        text = gradient.trace(params).lower(lowering_platforms=(platform,)).as_text()
    assert ("tpu_custom_call" in text) == (platform == "tpu")
    shapes = [list(map(int, x.split("x"))) for x in re.findall(r"tensor<((?:\d+x)*\d+)x\w+>", text)]
    return max((math.prod(x) for x in shapes if sum(d >= length for d in x) >= 2), default=0)


def test_no_array_of_scores_is_left_on_a_tpu():
    length, scores = 1152, 2 * 4 * 1152**2  # No width is 1,152.
    assert largest_square("cpu", "cpu", length) == scores
    assert largest_square("tpu", "TPU v5 lite", length) <= length**2  # At most a mask.


def test_products_are_what_a_cpu_runs_whatever_the_process_would(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", functools.partial(pytest.fail, "asked the process"))
    params, buffers = skeleton(CONFIG).initialise(0)
    windows = np.zeros((1, 129), np.int32)
    text = jax.jit(lambda p: loss(CONFIG, p, buffers, windows)[0]).lower(params).as_text()
    assert "128x128" in text and "custom_call" not in text
