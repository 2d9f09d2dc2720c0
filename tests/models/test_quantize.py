"""Quantisers against table and closed form; what a quantised model reads, counts and refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Quantization, count, held_out_nll, loss, skeleton
from models.quantize import BITS, FLOOR, Quantizer, fake_quantize, quantized, scale_of
from refused import Refused
from tests.corpora import model
from tests.zoo import CONFIGS

LSQ = (3, 4, 6, 8)


def weights(shape=(24, 12), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded(bits, weight, scale, axis=-2):
    return np.asarray(fake_quantize(Quantizer(bits, axis), jnp.asarray(weight), jnp.asarray(scale)))


def table(bits, weight, scale, upstream):
    """Returns value and gradients in float64, element by element, as ParetoQ's table has them."""
    value, by_weight = np.zeros(weight.shape), np.zeros(weight.shape)
    by_scale = np.zeros(scale.shape)
    largest = 2 ** (int(bits) - 1) - 1 if bits >= 3 else 1
    damping = 1 / np.sqrt(weight.size * largest)
    for i, j in np.ndindex(weight.shape):
        alpha = max(float(scale[0, j]), FLOOR)
        x = float(weight[i, j]) / alpha
        if bits == 1:
            level = slope = np.sign(x)
            inside = abs(x) <= 1
        elif bits < 3:
            steps, shift = {1.58: (1.5, 0.0), 2: (2.0, 0.5)}[bits]
            level = (np.round(min(max(x, -0.99), 0.99) * steps - shift) + shift) / steps
            inside = abs(x) <= 0.99
            slope = level - x if inside else np.sign(x) * (steps - shift) / steps
        else:
            low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            level = min(max(np.round(x), low), high)
            inside = low <= x <= high
            slope = level - x if inside else (low if x < 0 else high)
        value[i, j] = alpha * level
        by_weight[i, j] = upstream[i, j] * inside
        by_scale[0, j] += damping * upstream[i, j] * slope
    return value, by_weight, by_scale


@pytest.mark.parametrize("bits", BITS)
def test_value_and_gradients_are_those_of_the_table(bits):
    weight, upstream = weights(), weights(seed=1)
    # Scales small enough that some weights of every row saturate, on both sides.
    scale = (np.abs(weights((1, 12), 2)) + 0.5) * (0.5 / 2 ** max(int(bits) - 3, 0))
    scale = scale.astype(np.float32)
    value, pull = jax.vjp(lambda w, s: fake_quantize(Quantizer(bits), w, s), weight, scale)
    expected = table(bits, weight, scale, upstream)
    found = (value, *pull(jnp.asarray(upstream)))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert 0.02 < np.mean(expected[1] == 0) < 0.98


@pytest.mark.parametrize("bits", BITS)
def test_levels_are_as_many_as_the_bits_hold(bits):
    weight = weights((4096, 2))
    scale = Quantizer(bits).start(weight)
    ratios = rounded(bits, weight, scale) / scale
    found = [np.unique(np.round(column, 4)) for column in ratios.T]
    exact = {1: [-1, 1], 1.58: [-2 / 3, 0, 2 / 3], 2: [-0.75, -0.25, 0.25, 0.75]}
    for some in found:
        if bits in exact:
            np.testing.assert_allclose(some, exact[bits], atol=1e-4)
        else:
            assert len(some) <= 2**bits and set(some) == set(np.round(some))
            # The largest weight lies on the edge, so one end is always reached.
            assert max(abs(some)) == 2 ** (bits - 1) - 1
    if bits in LSQ:  # One level more below zero, reached under a smaller scale.
        far = rounded(bits, weight, scale / 2) / (scale / 2)
        assert far.min() == -(2 ** (bits - 1)) and far.max() == 2 ** (bits - 1) - 1


@pytest.mark.parametrize("bits", BITS)
def test_rounding_twice_changes_nothing_and_scales_stretch_it(bits):
    weight = weights()
    scale = Quantizer(bits).start(weight) * np.float32(0.8)
    once = rounded(bits, weight, scale)
    np.testing.assert_array_equal(rounded(bits, once, scale), once)
    np.testing.assert_array_equal(rounded(bits, 4 * weight, 4 * scale), 4 * once)
    if bits != 2 and bits not in LSQ:
        np.testing.assert_array_equal(rounded(bits, -weight, scale), -once)
    if bits in LSQ:
        top = 2 ** (bits - 1) - 1
        inside = np.abs(weight) <= top * scale
        assert (np.abs(once - weight) <= 0.5001 * scale)[inside].all()


def test_ties_go_to_even_and_edges_belong_to_the_clip():
    scale = np.full((1, 1), 0.5, np.float32)
    column = lambda *values: np.asarray(values, np.float32)[:, None] * scale
    np.testing.assert_array_equal(
        rounded(4, column(0.5, 1.5, 2.5, -7.5, 7.0, -8.0), scale) / scale,
        column(0, 2, 2, -8, 7, -8) / scale,
    )

    def slopes(bits, weight, scale):
        total = lambda w, s: jnp.sum(fake_quantize(Quantizer(bits), w, s))
        return np.asarray(jax.grad(total)(jnp.asarray(weight), jnp.asarray(scale)))[:, 0]

    edges = column(7.0, -8.0, 7.001, -8.001, 0.0)
    np.testing.assert_array_equal(slopes(4, edges, scale), [1, 1, 0, 0, 1])
    np.testing.assert_array_equal(slopes(2, column(0.99, -0.99, 0.991), scale), [1, 1, 0])
    np.testing.assert_array_equal(slopes(1, column(1.0, -1.0, 1.001), scale), [1, 1, 0])
    # At the start each row's largest weight is on the edge, whatever the rounding of w/scale.
    weight = weights((64, 50))
    for bits in LSQ:
        start = Quantizer(bits).start(weight)
        total = lambda w, bits=bits, start=start: jnp.sum(fake_quantize(Quantizer(bits), w, start))
        assert (np.asarray(jax.grad(total)(jnp.asarray(weight))) == 1).all()


@pytest.mark.parametrize("bits", BITS)
def test_rows_of_zeros_are_safe(bits):
    weight = weights((8, 3))
    weight[:, 1] = 0.0
    scale = Quantizer(bits).start(weight)
    assert scale[0, 1] == np.float32(FLOOR)
    value, pull = jax.vjp(lambda w, s: fake_quantize(Quantizer(bits), w, s), weight, 0 * scale)
    for x in (value, *pull(jnp.ones_like(weight))):
        assert np.isfinite(x).all()
    assert np.abs(rounded(bits, weight, scale)[:, 1]).max() <= FLOOR


def test_errors_on_normal_rows_are_the_known_ones():
    weight = weights((256, 2000))
    found = {}
    for bits in BITS:
        start = Quantizer(bits).start(weight)
        gap = rounded(bits, weight, start) - weight
        found[bits] = np.linalg.norm(gap) / np.linalg.norm(weight)
    assert found[1] == pytest.approx(np.sqrt(1 - 2 / np.pi), rel=0.005)
    # A uniform step s of a normal's largest of 256 weights: error near s/√12.
    for bits, error in {3: 0.293, 4: 0.125, 6: 0.028, 8: 0.0069}.items():
        assert found[bits] == pytest.approx(error, rel=0.03)
    errors = [found[bits] for bits in (2, 3, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("shape", [(3, 24, 12), (2, 3, 24, 12)])
def test_stacked_matrices_are_quantised_as_each_alone(shape):
    weight, upstream = weights(shape), weights(shape, 1)
    for bits in (1, 2, 4):
        quantizer = Quantizer(bits)
        scale = quantizer.start(weight)
        assert scale.shape == quantizer.scale_shape(shape) == (*shape[:-2], 1, 12)
        value, pull = jax.vjp(lambda w, s, q=quantizer: fake_quantize(q, w, s), weight, scale)
        whole = (value, *pull(jnp.asarray(upstream)))
        index = (1,) * (len(shape) - 2)
        value, pull = jax.vjp(
            lambda w, s, q=quantizer: fake_quantize(q, w, s), weight[index], scale[index]
        )
        for many, one in zip(whole, (value, *pull(jnp.asarray(upstream[index]))), strict=True):
            np.testing.assert_allclose(many[index], one, rtol=1e-6)


def test_the_gradient_of_the_input_sees_rounded_weights():
    config = model(quantization=Quantization(2))
    params, buffers = skeleton(config).initialise(0)
    plain = replace(config, quantization=None)
    read = dict(params)
    for path, quantizer in skeleton(config).quantizers.items():
        read[path] = quantizer.values(
            quantizer.codes(params[path], params[scale_of(path)]), params[scale_of(path)]
        )
    windows = np.random.default_rng(0).integers(0, 256, (2, 33))
    gains = [p for p in params if p.endswith("gain")]

    def gradient(config, params):
        some = {p: params[p] for p in gains}
        value = lambda some: loss(config, params | some, buffers, windows)[0]
        return jax.jit(jax.value_and_grad(value))(some)

    ours, theirs = gradient(config, params), gradient(plain, read)
    assert float(ours[0]) == pytest.approx(float(theirs[0]), rel=1e-6)
    for path in gains:
        np.testing.assert_allclose(ours[1][path], theirs[1][path], rtol=1e-4, atol=1e-7)
    assert abs(float(ours[0]) - float(gradient(plain, params)[0])) > 1e-4


def test_matrices_have_the_bits_and_tables_at_least_four():
    for bits in BITS:
        found = skeleton(model(quantization=Quantization(bits))).quantizers
        tables = {p: q for p, q in found.items() if p.startswith(("embedding", "head"))}
        assert set(tables) == {"embedding.table", "head.kernel"}
        assert {q.bits for q in tables.values()} == {max(bits, 4)}
        assert {q.bits for p, q in found.items() if p not in tables} == {bits}
        assert (found["embedding.table"].axis, found["head.kernel"].axis) == (-1, -2)
        assert len(found) == 2 + 2 * 7


@pytest.mark.parametrize("name", CONFIGS)
def test_every_matrix_of_the_zoo_is_covered_and_no_vector_is(name):
    plain = replace(CONFIGS[name], quantization=None)
    bones = skeleton(replace(plain, quantization=Quantization(4)))
    leaves = skeleton(plain).params
    matrices = {p for p, x in leaves.items() if x.group.matmul and x.group.name != "router"}
    assert matrices <= set(bones.quantizers) and len(matrices) > 4
    others = set(bones.quantizers) - matrices
    assert {path.split(".")[-1] for path in others} <= {"table"}
    for path, quantizer in bones.quantizers.items():
        shape = list(leaves[path].shape)
        shape[-1 if path in others else -2] = 1
        assert bones.params[scale_of(path)].shape == quantizer.scale_shape(leaves[path].shape)
        assert quantizer.scale_shape(leaves[path].shape) == tuple(shape)
    assert all(len(bones.params[path].shape) >= 2 for path in bones.quantizers)
    for path in bones.quantizers:
        leaf = bones.params[scale_of(path)]
        assert leaf.group.name == "scale" and not leaf.group.decay
        assert leaf.size < bones.params[path].size
    assert set(bones.params) == set(skeleton(plain).params) | set(map(scale_of, bones.quantizers))


def test_routers_and_prefixes_are_quantised_only_on_demand():
    experts, streams = (replace(CONFIGS[n], quantization=None) for n in ("experts", "streams"))
    quantised = lambda config, *rule: (
        skeleton(replace(config, quantization=Quantization(2, rule))).quantizers
    )
    routers = {p for p in skeleton(experts).params if "router" in p}
    assert routers and not routers & set(quantised(experts))
    asked = quantised(experts, ("*router*", 8))
    assert {asked[path].bits for path in routers} == {8}
    stacked = [path for path, x in skeleton(experts).params.items() if len(x.shape) == 3]
    assert stacked and all(quantised(experts)[path].axis == -2 for path in stacked)
    assert not any("prefix" in path for path in quantised(streams))


def test_a_rule_goes_before_the_default_and_its_first_match_counts():
    rule = (("layers.0.attention.*", None), ("layers.0.*", 8), ("head.*", 2))
    config = model(tied=False, quantization=Quantization(4, rule))
    bits = {path: q.bits for path, q in skeleton(config).quantizers.items()}
    assert not any(path.startswith("layers.0.attention") for path in bits)
    assert bits["layers.0.feed_forward.up"] == 8 and bits["layers.1.feed_forward.up"] == 4
    assert bits["head.kernel"] == 2 and bits["embedding.table"] == 4
    assert not any("norm" in path for path in bits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantization(5), "quantize.bits: got 5; accepted: one of 1, 1.58, 2, 3, 4, 6, 8"),
        (lambda: Quantization(None), "quantize.bits: got None"),
        (lambda: Quantization(4, (("*", 16),)), "quantize.rule [*]: got 16"),
        (lambda: Quantization(4, scales="minmax"), "scales: got minmax; accepted: one of learned"),
        (
            lambda: skeleton(model(quantization=Quantization(4, (("decoder.*", 2),)))),
            "quantize.rule: got decoder.*; accepted: a pattern of some of embedding.table",
        ),
        (
            lambda: skeleton(model(quantization=Quantization(4, (("*_norm.gain", 2),)))),
            "quantize.rule: got .*gain; accepted: a pattern of some of",
        ),
        (
            lambda: skeleton(model(quantization=Quantization(4, (("*", None),)))),
            "a rule that quantises some of the arrays",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(Refused, match=message):
        make()


def test_scales_start_from_the_weights_and_absmax_ones_stay_there():
    config = model(depth=1, quantization=Quantization(4))
    params, buffers = skeleton(config).initialise(3)
    plain, _ = skeleton(model(depth=1)).initialise(3)
    for path, value in plain.items():
        np.testing.assert_array_equal(value, params[path])
    path = "layers.0.attention.query"
    expected = np.abs(plain[path]).max(axis=0, keepdims=True) / 7
    np.testing.assert_allclose(params[scale_of(path)], expected, rtol=1e-6)
    moving = replace(config, quantization=Quantization(4, scales="absmax"))
    assert set(skeleton(moving).params) == set(plain)
    windows = np.random.default_rng(0).integers(0, 256, (2, 33))
    learned, absmax = (
        jax.jit(lambda p, c=c: loss(c, p, buffers, windows)[0])(params) for c in (config, moving)
    )
    assert float(learned) == pytest.approx(float(absmax), rel=1e-6)
    # A scale that followed its largest weight would give that weight's gradient a second part.
    total = lambda w: jnp.sum(quantized({path: Quantizer(4, learned=False)}, {path: w})[path])
    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(plain[path])), 1.0)


def test_bytes_are_those_of_packed_codes_and_scales():
    config = model(quantization=Quantization(2))
    parts = {
        "tables": 2 * (256 * 16 // 2 + 4 * 256),
        "attention": 2 * 4 * (16 * 16 // 4 + 4 * 16),
        "feed_forward": 2 * (2 * (16 * 48 // 4 + 4 * 48) + 48 * 16 // 4 + 4 * 16),
        "gains": 4 * 5 * 16,
    }
    assert count(config).bytes == sum(parts.values())
    assert count(config).params_total == count(model()).params_total
    assert count(config).flops_train == count(model()).flops_train
    odd = Quantizer(1.58)
    assert odd.payload((3, 7)) == 5 + 4 * 7  # 21 codes in five bytes of five.
    assert Quantizer(3).payload((3, 3)) == 4 + 4 * 3
    absmax = replace(config, quantization=Quantization(2, scales="absmax"))
    assert count(absmax).bytes == count(config).bytes


def test_the_same_parameters_are_read_with_and_without_quantisation():
    config = model(quantization=Quantization(1))
    params, buffers = skeleton(config).initialise(0)
    windows = np.random.default_rng(0).integers(0, 256, (2, 33))
    nll = lambda config, params: np.asarray(held_out_nll(config, params, buffers, windows))
    plain = {path: x for path, x in params.items() if not path.endswith(":scale")}
    np.testing.assert_array_equal(nll(model(), params), nll(model(), plain))
    assert np.abs(nll(config, params) - nll(model(), params)).max() > 1e-3


def test_rounding_is_done_in_float32_whatever_the_products_are_in():
    config = model(quantization=Quantization(8), dtype="bfloat16")
    params, buffers = skeleton(config).initialise(0)
    read = skeleton(config).merge(params, buffers).layers[0].attention.query[...]
    quantizer = skeleton(config).quantizers["layers.0.attention.query"]
    scale = params[scale_of("layers.0.attention.query")]
    assert read.dtype == jnp.float32
    codes = np.asarray(read) / scale
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    assert np.abs(codes).max() == pytest.approx(quantizer.largest, abs=1e-4)


def test_qwix_agrees_where_it_quantises_as_we_do():
    qwix = pytest.importorskip("qwix")
    weight = weights((256, 8))
    theirs = qwix.dequantize(qwix.quantize(weight, "int4", channelwise_axes=[1]))
    # Its range ends half a step beyond the last level, where a row's largest weight is a tie.
    largest = np.abs(weight).max(axis=0, keepdims=True)
    ours, inside = rounded(4, weight, largest / 7.5), np.abs(weight) < largest
    np.testing.assert_allclose(ours[inside], theirs[inside], rtol=1e-5, atol=1e-6)
