"""Export: packed bytes, the bits that training reads, and a payload that is the accounting's."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from models import Quantization, count, skeleton
from models.export import codes_of, encode, pack, rounded, scales_of, tensors, unpack, values
from models.quantize import BITS, Quantizer, fake_quantize, quantized, scale_of
from refused import Refused
from tests.corpora import model
from tests.tiers import mostly
from tests.zoo import CONFIGS, COVER, KINDS


@pytest.mark.parametrize("bits", BITS)
def test_codes_survive_packing_into_as_few_bytes_as_can_be(bits):
    top = 3 if bits == 1.58 else 2**bits
    for size in (1, 4, 5, 8, 37):
        codes = np.random.default_rng(size).integers(0, top, size)
        packed = pack(codes, bits)
        assert packed.dtype == np.uint8
        assert len(packed) == -(-size // 5) if bits == 1.58 else -(-size * bits // 8)
        np.testing.assert_array_equal(unpack(packed, bits, size), codes)


def test_the_first_code_is_in_the_lowest_bits():
    assert list(pack(np.array([1, 2, 15]), 4)) == [0x21, 0x0F]
    assert list(pack(np.array([2, 1, 0, 0, 1]), 1.58)) == [2 + 3 + 81]


def trained(config, seed=0):
    """Returns parameters that are not at their start: scales moved, one column of zeros."""
    params, buffers = skeleton(config).initialise(seed)
    rng = np.random.default_rng(seed)
    for path in skeleton(config).quantizers:
        if scale_of(path) in params:
            moved = rng.uniform(0.3, 1.2, params[scale_of(path)].shape).astype(np.float32)
            params[scale_of(path)] = params[scale_of(path)] * moved
        if path.endswith("down"):
            params[path][..., 1] = 0.0
    return params, {path: x + np.float32(0.5) for path, x in buffers.items()}


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_those_of_training_where_numpy_rounds_some_otherwise(bits):
    # Weights half a level from the next, where a unit in the last place decides.
    rng, quantizer = np.random.default_rng(0), Quantizer(bits)
    scale = rng.uniform(0.01, 0.02, (1, 256)).astype(np.float32)
    edges = rng.integers(-3, 3, (256, 256)) + 0.5 + rng.integers(0, 2, (256, 256)) * 0.25
    weight = (edges * scale).astype(np.float32)
    read = jax.jit(lambda w, s: fake_quantize(quantizer, w, s))(weight, scale)
    codes = np.asarray(codes_of(quantizer, weight, scale))
    np.testing.assert_array_equal(quantizer.values(codes, scale), read)
    if bits >= 3:
        assert (quantizer.codes(weight, scale) != codes).any()


def assert_round_trip(config, bits_of=None):
    """Asserts that tensors give back what training reads, bit for bit, and themselves."""
    params, buffers = trained(config)
    found = tensors(config, params, buffers)
    own = sum(4 * leaf.size for leaf in skeleton(config).buffers.values())
    assert sum(x.nbytes for x in found.values()) == count(config).bytes + own
    learned = replace(config, quantization=replace(config.quantization, scales="learned"))
    read, kept = values(learned, found)
    assert list(read) == list(skeleton(learned).params)
    trainings = jax.jit(lambda p: quantized(skeleton(config).quantizers, p))(params)
    again = jax.jit(lambda p: quantized(skeleton(learned).quantizers, p))(read)
    alone = rounded(config, params)
    assert trainings.keys() == again.keys() == alone.keys()
    for path, value in trainings.items():
        np.testing.assert_array_equal(again[path], value, err_msg=path)
        np.testing.assert_array_equal(alone[path], value, err_msg=path)
        assert path not in skeleton(config).quantizers or (params[path] != value).any()
    for path, value in buffers.items():
        np.testing.assert_array_equal(kept[path], value)
    twice = tensors(learned, read, kept)
    assert twice.keys() == found.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(twice[name], value, err_msg=name)


@pytest.mark.parametrize("bits", BITS)
def test_the_baseline_is_the_same_from_its_tensors_at_all_bits(bits):
    assert_round_trip(model(quantization=Quantization(bits)))


@pytest.mark.parametrize("name", mostly(COVER[1:], KINDS[1:]))
def test_every_architecture_is_the_same_from_its_tensors_at_four_bits(name):
    assert_round_trip(replace(CONFIGS[name], quantization=Quantization(4)))


def test_rules_and_unlearned_scales_are_kept():
    rule = (("layers.0.attention.*", None), ("head.*", 8))
    assert_round_trip(model(quantization=Quantization(1.58, rule, "absmax")))


def test_scales_that_are_not_learned_are_those_that_training_takes():
    config = model(quantization=Quantization(3, scales="absmax"))
    weight = skeleton(config).initialise(0)[0]["head.kernel"]
    quantizer = skeleton(config).quantizers["head.kernel"]
    _, scales = encode("head.kernel", quantizer, weight, np.asarray(scales_of(quantizer, weight)))
    np.testing.assert_array_equal(scales, jax.jit(quantizer.start)(weight))


def test_tensors_of_another_model_are_refused():
    config = model(quantization=Quantization(2))
    found = tensors(config, *skeleton(config).initialise(0))
    with pytest.raises(Refused, match="no tensor layers.1.attention_norm.gain; accepted"):
        values(config, {n: x for n, x in found.items() if n != "layers.1.attention_norm.gain"})
    with pytest.raises(Refused, match="tensors more; accepted"):
        values(config, found | {"more": np.zeros(1, np.float32)})
    with pytest.raises(Refused, match=r"final_norm.gain: got shape \(3,\)"):
        values(config, found | {"final_norm.gain": np.zeros(3, np.float32)})
    with pytest.raises(Refused, match="packed array: got .* bytes"):
        values(config, found | {"head.kernel:codes": np.zeros(3, np.uint8)})


def test_a_zero_that_one_bit_cannot_hold_is_refused():
    config = model(quantization=Quantization(1))
    params, buffers = skeleton(config).initialise(0)
    params["layers.0.attention.query"][3, 4] = 0.0
    with pytest.raises(Refused, match="export.layers.0.attention.query: got 1 zeros; accepted"):
        tensors(config, params, buffers)
    assert Quantizer(1).lowest == -1 and Quantizer(2).lowest == -2 and Quantizer(1.58).lowest == -1
