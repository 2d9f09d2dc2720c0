"""Export: packed bytes, equal logits, and a payload that is the accounting's."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors import safe_open

from models import Quantization, count, skeleton
from models.export import export, load, pack, unpack
from models.quantize import BITS, Quantizer, quantized, scale_of
from refused import Refused
from tests.corpora import model
from tests.zoo import CONFIGS, COVER


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


def assert_round_trip(config, file):
    """Asserts that a file gives the model's logits back, and that its size is the accounting's."""
    params, buffers = trained(config)
    size = export(file, config, params, buffers, {"run": "none"})
    own = sum(4 * leaf.size for leaf in skeleton(config).buffers.values())
    assert size == count(config).bytes + own
    with safe_open(file, framework="np") as opened:
        assert size == sum(opened.get_tensor(name).nbytes for name in opened.keys())
        assert opened.metadata()["run"] == "none"
    plain = replace(config, quantization=None)
    read, kept = load(file)
    assert set(read) == set(skeleton(plain).params) and set(kept) == set(buffers)
    for path, value in quantized(skeleton(config).quantizers, params).items():
        np.testing.assert_allclose(read[path], value, rtol=1e-6, atol=0)
    tokens = np.random.default_rng(0).integers(1, 256, (2, config.context))
    run, run_plain = (
        jax.jit(lambda p, b, c=c: skeleton(c).merge(p, b)(tokens)) for c in (config, plain)
    )
    ours, theirs = np.asarray(run(params, buffers)), np.asarray(run_plain(read, kept))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6 * np.abs(ours).max())
    full = run_plain({path: params[path] for path in read}, {path: buffers[path] for path in kept})
    assert np.abs(full - ours).max() > 1e-4 * np.abs(ours).max()


@pytest.mark.parametrize("bits", BITS)
def test_the_baseline_is_the_same_from_its_file_at_all_bits(bits, tmp_path):
    assert_round_trip(model(quantization=Quantization(bits)), tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", COVER[1:])
def test_every_architecture_is_the_same_from_its_file_at_four_bits(name, tmp_path):
    config = replace(CONFIGS[name], quantization=Quantization(4))
    assert_round_trip(config, tmp_path / "model.safetensors")


def test_rules_and_unlearned_scales_are_kept(tmp_path):
    rule = (("layers.0.attention.*", None), ("head.*", 8))
    config = model(quantization=Quantization(1.58, rule, "absmax"))
    assert_round_trip(config, tmp_path / "model.safetensors")


def test_a_zero_that_one_bit_cannot_hold_is_refused(tmp_path):
    config = model(quantization=Quantization(1))
    params, buffers = skeleton(config).initialise(0)
    params["layers.0.attention.query"][3, 4] = 0.0
    with pytest.raises(Refused, match="export.layers.0.attention.query: got 1 zeros; accepted"):
        export(tmp_path / "model.safetensors", config, params, buffers, {})
    assert Quantizer(1).lowest == -1 and Quantizer(2).lowest == -2 and Quantizer(1.58).lowest == -1
