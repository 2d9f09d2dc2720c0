"""Attention to parameter tokens, and the published sizes of TokenFormer (arXiv:2410.23168)."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from models import ModelConfig, ParameterTokens, count, loss, skeleton
from models.tokenformer import NORMS, Pattention, unit, weigh
from refused import Refused
from tests.corpora import tokenformer

ROWS, MORE, SIZE = 12, 20, 16
DEFAULT = ParameterTokens(ROWS)


def random(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


X, KEYS, VALUES = random(5, SIZE), random(SIZE, ROWS) / 4, random(ROWS, SIZE)
NEW_KEYS, NEW_VALUES = random(SIZE, MORE, seed=1), random(MORE, SIZE, seed=1)


def patt(settings, x, keys, values):
    """Applies the layer with given keys and values."""
    layer = Pattention(settings, SIZE, SIZE)
    layer.keys[...], layer.values[...] = jnp.asarray(keys), jnp.asarray(values)
    return layer(jnp.asarray(x))


def grown(new_keys):
    return np.concatenate([KEYS, new_keys], 1), np.concatenate([VALUES, NEW_VALUES], 0)


def oracle(settings, x, keys, values) -> np.ndarray:
    """The definitions in float64."""
    gelu = lambda z: z * (1 + erf(z / math.sqrt(2))) / 2
    length = lambda z: np.linalg.norm(z, axis=-1, keepdims=True)
    scores, tau = x.astype(np.float64) @ keys, settings.length
    if settings.norm == "softmax":
        weights = np.exp(scores)
        weights *= tau**2 / weights.sum(axis=-1, keepdims=True)
    elif settings.norm == "gelu_l2_norm":
        weights = tau * gelu(scores) / length(gelu(scores))
    else:
        weights = gelu(tau * scores / length(scores))
    return weights @ values


@pytest.mark.parametrize("norm", NORMS)
def test_each_norm_is_the_published_one(norm):
    for tau, base in (("base_rows", None), ("base_rows", 3), ("rows", 3)):
        settings = ParameterTokens(ROWS, base, tau, norm)
        expected = oracle(settings, X, KEYS, VALUES)
        np.testing.assert_allclose(patt(settings, X, KEYS, VALUES), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["l2_norm_gelu", "gelu_l2_norm"])
def test_zero_keys_change_nothing_where_tau_is_kept(norm):
    settings = ParameterTokens(ROWS, norm=norm)
    after = patt(settings.grown(ROWS + MORE), X, *grown(np.zeros_like(NEW_KEYS)))
    np.testing.assert_allclose(after, patt(settings, X, KEYS, VALUES), rtol=1e-6, atol=1e-6)


def test_a_tau_of_the_new_rows_stretches_the_scores_inside_the_gelu():
    before = patt(DEFAULT, X, KEYS, VALUES)
    released = DEFAULT.grown(ROWS + MORE, "rows")
    after = patt(released, X, *grown(np.zeros_like(NEW_KEYS)))
    stretched = ParameterTokens(ROWS + MORE)  # τ·√((n + m)/n), on the old rows alone.
    np.testing.assert_allclose(after, oracle(stretched, X, KEYS, VALUES), rtol=1e-4, atol=1e-4)
    change = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert change > 0.3
    assert released.length / DEFAULT.length == pytest.approx(math.sqrt(1 + MORE / ROWS))


def test_at_zero_keys_new_values_get_no_gradient_and_new_keys_do():
    settings, upstream = DEFAULT.grown(ROWS + MORE), jnp.asarray(random(5, SIZE, seed=2))
    objective = lambda settings: lambda x, k, v: jnp.sum(patt(settings, x, k, v) * upstream)
    slopes = lambda settings, *at: jax.grad(objective(settings), (0, 1, 2))(*map(jnp.asarray, at))
    dx, dkeys, dvalues = slopes(settings, X, *grown(np.zeros_like(NEW_KEYS)))
    old = slopes(DEFAULT, X, KEYS, VALUES)
    np.testing.assert_array_equal(dvalues[ROWS:], np.zeros_like(NEW_VALUES))
    # GELU'(0) = 1/2, so ∂/∂K_new,i = Σ_t ½·τ/‖A_t‖·(g_t·V_new,i)·x_t.
    lengths = np.linalg.norm(X.astype(np.float64) @ KEYS, axis=-1, keepdims=True)
    expected = (X * settings.length / lengths / 2).T @ (np.asarray(upstream) @ NEW_VALUES.T)
    np.testing.assert_allclose(dkeys[:, ROWS:], expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in ((dx, old[0]), (dkeys[:, :ROWS], old[1]), (dvalues[:ROWS], old[2])):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    nothing = np.concatenate([VALUES, np.zeros_like(NEW_VALUES)])
    keys, _ = grown(np.zeros_like(NEW_KEYS))
    _, dkeys, dvalues = slopes(settings, X, keys, nothing)
    assert not dkeys[:, ROWS:].any() and not dvalues[ROWS:].any()  # Zero values would be dead.


def test_positive_scale_and_order_of_rows_do_not_matter():
    plain = np.asarray(patt(DEFAULT, X, KEYS, VALUES))
    close = lambda y: np.testing.assert_allclose(y, plain, rtol=1e-5, atol=1e-5)
    close(patt(DEFAULT, 1e-3 * X, KEYS, VALUES))
    close(patt(DEFAULT, X, 50.0 * KEYS, VALUES))
    order = np.random.default_rng(0).permutation(ROWS)
    close(patt(DEFAULT, X, KEYS[:, order], VALUES[order]))
    slope = jax.grad(lambda keys: jnp.sum(patt(DEFAULT, X, keys, VALUES) ** 2))(jnp.asarray(KEYS))
    size = np.linalg.norm(slope) * np.linalg.norm(KEYS)
    assert abs(float(jnp.sum(slope * KEYS))) < 1e-5 * size


def test_rows_in_blocks_share_one_norm():
    scores = X @ KEYS
    tau = DEFAULT.length / np.linalg.norm(scores, axis=-1, keepdims=True)
    gelu = lambda z: np.asarray(jax.nn.gelu(jnp.asarray(z), approximate=False))
    blocks = sum(gelu(tau * scores[:, i : i + 5]) @ VALUES[i : i + 5] for i in range(0, ROWS, 5))
    np.testing.assert_allclose(blocks, patt(DEFAULT, X, KEYS, VALUES), rtol=1e-4, atol=1e-5)


def test_a_softmax_sees_zero_keys():
    settings = ParameterTokens(ROWS, norm="softmax")
    after = patt(settings.grown(ROWS + MORE), X, *grown(np.zeros_like(NEW_KEYS)))
    before = patt(settings, X, KEYS, VALUES)
    assert np.linalg.norm(after - before) > 0.1 * np.linalg.norm(before)


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_row_has_finite_output_and_gradient(norm):
    settings = ParameterTokens(ROWS, norm=norm)
    x = jnp.asarray(X).at[2].set(0.0)
    run = lambda x, k: jnp.sum(patt(settings, x, k, VALUES) ** 2)
    dx, dkeys = jax.grad(run, (0, 1))(x, jnp.asarray(KEYS))
    assert np.isfinite(dx).all() and np.isfinite(dkeys).all()
    assert float(jnp.abs(dx[0]).max()) > 0
    y = patt(settings, x, KEYS, VALUES)
    assert np.isfinite(y).all()
    if norm != "softmax":
        assert not y[2].any() and not dx[2].any()


def test_scores_have_the_length_tau_and_weights_the_known_moments():
    scores = jnp.asarray(random(400, 512))
    np.testing.assert_allclose(
        jnp.linalg.norm(unit(scores) * math.sqrt(512), axis=-1), math.sqrt(512), rtol=1e-5
    )
    weights = np.asarray(weigh(scores, ParameterTokens(512)))
    assert weights.min() >= -0.17  # GELU's minimum is −0.16997.
    assert np.sqrt(np.mean(weights**2)) == pytest.approx(0.652, abs=0.003)
    assert weights.mean() == pytest.approx(0.283, abs=0.003)


def sized(depth, width, heads, attention, feed_forward, **fields) -> ModelConfig:
    """A published model: tied, 50,432 tokens, no parameters in the norms of blocks."""
    return ModelConfig(
        vocabulary=50_432,
        width=width,
        depth=depth,
        heads=heads,
        attention=ParameterTokens(attention),
        feed_forward=ParameterTokens(feed_forward),
        tied=True,
        block_norm="layer_norm",
        **fields,
    )


# Layers, width, heads, rows of attention and feed-forward; millions of non-embedding parameters,
# and the millions in the model's published name. Wang et al. 2024, table 9; configurations of the
# released code (github.com/Haiyang-W/TokenFormer, 4d56c73). The "1.4B" one counts 1.31 billion.
PUBLISHED = {
    "pile 150M": (12, 768, 12, 768, 3072, 113.2, 152.0),
    "pile 450M": (24, 1024, 16, 1024, 4096, 402.7, 454.3),
    "pile 900M": (32, 1280, 16, 1280, 5120, 838.9, 903.4),
    "pile 1.5B": (40, 1536, 16, 1536, 6144, 1509.9, 1587.4),
    "growth 124M": (12, 768, 12, 576, 2304, 84.9, 123.7),
    "growth 354M": (12, 768, 12, 2140, 8560, 315.6, 354.3),
    "growth 757M": (12, 768, 12, 4850, 19_400, 715.2, 753.9),
    "growth 1.4B": (12, 768, 12, 8620, 34_480, 1271.1, 1309.8),
    "torch 354M": (24, 1024, 16, 768, 3072, 302.0, 353.6),
    "torch 757M": (24, 1024, 16, 1792, 7168, 704.6, 756.3),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name):
    depth, width, heads, attention, feed_forward, body, total = PUBLISHED[name]
    accounts = count(sized(depth, width, heads, attention, feed_forward))
    exact = 2 * width * depth * (4 * attention + feed_forward)
    assert accounts.params_non_embedding == exact + 2 * width
    assert accounts.params_total == exact + 50_432 * width + 2 * width
    assert exact / 1e6 == pytest.approx(body, abs=0.06)
    assert accounts.params_total / 1e6 == pytest.approx(total, abs=0.1)
    assert accounts.params_active == accounts.params_total


def test_flops_are_two_per_parameter_and_do_not_grow_between_tokens():
    small, large = (sized(12, 768, 12, n, 4 * n, context=1024) for n in (576, 2140))
    for config in (small, large):
        accounts = count(config)
        exact = 2 * 768 * 12 * (4 * config.attention.rows + config.feed_forward.rows)
        assert accounts.flops_forward_body == 2 * exact
        between = accounts.flops_forward - accounts.flops_forward_body - 2 * 50_432 * 768
        assert between == 4 * 12 * 768 * (1024 + 1) / 2  # Table 8: the same at every size.


def test_xla_counts_the_same_products():
    rows = dict(attention=ParameterTokens(96), feed_forward=ParameterTokens(384))
    config = replace(tokenformer(), width=256, heads=4, context=64, **rows)
    whole = count(config)
    head = 2 * config.vocabulary * config.width
    attention = whole.flops_forward - whole.flops_forward_body - head
    full = attention * 2 * config.context / (config.context + 1)  # XLA multiplies all L × L.
    expected = (whole.flops_forward_body + head + full) * config.context
    params, buffers = skeleton(config).initialise(0)
    tokens = np.zeros((1, config.context), np.int32)
    forward = jax.jit(lambda p, t: skeleton(config).merge(p, buffers)(t))
    found = forward.lower(params, tokens).compile().cost_analysis()["flops"]
    assert expected <= found <= 1.1 * expected  # Norms, GELU and rotations are elementwise.


def test_only_the_final_norm_has_parameters():
    paths = list(skeleton(tokenformer()).params)
    assert [p for p in paths if "norm" in p] == ["final_norm.bias", "final_norm.gain"]
    inside = {p.split(".", 2)[2] for p in paths if p.startswith("layers.")}
    places = ("attention.query", "attention.key", "attention.value", "attention.output")
    kinds = ("keys", "values")
    assert inside == {f"{p}.{kind}" for p in (*places, "feed_forward.only") for kind in kinds}


def test_layouts_and_starts_are_those_stated():
    config = sized(2, 768, 12, 576, 2304)
    leaves = skeleton(config).params
    keys, values = (leaves[f"layers.0.feed_forward.only.{kind}"] for kind in ("keys", "values"))
    assert keys.shape == (768, 2304) and values.shape == (2304, 768)
    assert (keys.fsdp, values.fsdp) == (1, 0)  # Rows are what is split.
    params, _ = skeleton(replace(config, width=64, heads=2)).initialise(0)
    assert params["layers.0.feed_forward.only.keys"].std() == pytest.approx(64**-0.5, rel=0.02)
    assert params["layers.0.attention.query.values"].std() == pytest.approx(576**-0.5, rel=0.02)


def test_grouped_heads_and_qk_norm_work_with_parameter_tokens():
    config = replace(tokenformer(), heads=4, kv_heads=2, qk_norm=True)
    leaves = skeleton(config).params
    assert leaves["layers.0.attention.value.values"].shape == (12, 8)
    assert leaves["layers.0.attention.query_norm.gain"].shape == (4,)
    assert count(config).params_total == sum(leaf.size for leaf in leaves.values())
    windows = np.random.default_rng(0).integers(0, 256, (2, 33))
    params, buffers = skeleton(config).initialise(0)
    value = loss(config, params, buffers, windows)[0]
    assert float(value) == pytest.approx(math.log(256), abs=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParameterTokens(0), "parameter_tokens.rows: got 0; accepted: 1 or more"),
        (
            lambda: ParameterTokens(8, norm="l1"),
            "parameter_tokens.norm: got l1; accepted: one of l2_norm_gelu, gelu_l2_norm, softmax",
        ),
        (lambda: ParameterTokens(8, tau="n"), "parameter_tokens.tau: got n; accepted: one of"),
        (lambda: ParameterTokens(8, 9), "parameter_tokens.base_rows: got 9; accepted: 1 to rows=8"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(Refused) as refused:
        make()
    assert message in str(refused.value)
