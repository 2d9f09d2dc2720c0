"""The packed layout: every width's numbers times its scales are the weights, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

from models import Quantization
from models.export import rounded
from models.quantize import BITS, Quantizer
from refused import Refused
from scaling.interchange import folder, packed, weights
from tests.scaling.interchange.models import LIKE, kept

WIDTHS = {1: 2, 1.58: 2, 2: 3, 3: 3, 4: 4, 6: 6, 8: 8}


@pytest.mark.parametrize("bits", BITS)
def test_whole_numbers_times_scales_are_the_weights(bits):
    quantizer, rng = Quantizer(bits), np.random.default_rng(0)
    scales = rng.lognormal(-3, 1, (1, 512)).astype(np.float32)
    codes = rng.integers(quantizer.lowest, -quantizer.lowest + 1 - (bits > 1.58), (64, 512))
    codes = codes.astype(np.float32)
    numbers, width, factors = packed.whole(quantizer, codes, scales)
    assert width == WIDTHS[bits]
    assert -(2 ** (width - 1)) <= numbers.min() and numbers.max() < 2 ** (width - 1)
    np.testing.assert_array_equal(numbers * factors, quantizer.values(codes, scales))
    assert (numbers * factors).dtype == np.float32


def test_numbers_lie_from_the_lowest_bit_on_across_words():
    # Eleven numbers of 3 bits end one bit into the second word.
    words = packed.rows(np.array([[-4, 3] + [-4] * 8 + [-1]]), 3)
    assert words.dtype == np.int32 and words.tolist() == [[7 << 3 | (3 << 30) - (1 << 32), 0]]
    assert packed.rows(np.full((2, 5), -8), 4).tolist() == [[0], [0]]


@pytest.mark.parametrize("name", ["biases", "experts"])
def test_a_packed_folder_is_read_as_the_rounded_weights(name, tmp_path):
    rule = (("layers.0.attention.query", 2), ("layers.1.attention.value", None))
    config = replace(LIKE[name], quantization=Quantization(4, rule))
    one = kept(config)
    notes = folder.write(tmp_path / "m", one)
    said = folder.record(tmp_path / "m" / "config.json")
    groups = said["quantization_config"]["config_groups"]
    assert groups["bits_3"]["targets"] == ["model.layers.0.self_attn.q_proj"]
    assert "model.layers.1.self_attn.v_proj" in said["quantization_config"]["ignore"]
    own = folder.record(tmp_path / "m" / folder.OWN)
    assert notes[-1] == f"as the rounded floats that training reads: {', '.join(own['rounded'])}"
    assert "embedding.table" in own["rounded"]
    assert ("layers.1.feed_forward.down" in own["rounded"]) == (name == "experts")
    folder.write(tmp_path / "floats", one, pack=False)
    assert "quantization_config" not in folder.record(tmp_path / "floats" / "config.json")
    expected = rounded(config, dict(one.params))
    for place in ("m", "floats"):
        back = folder.read(tmp_path / place)
        assert back.params.keys() == expected.keys()
        for path, value in expected.items():
            np.testing.assert_array_equal(back.params[path], value, err_msg=path)
    sizes = [(tmp_path / p / "model.safetensors").stat().st_size for p in ("m", "floats")]
    assert sizes[0] < sizes[1]


def test_other_packings_are_refused():
    config = replace(LIKE["mha"], quantization=Quantization(4))
    one = kept(config)
    found = weights.theirs(replace(config, quantization=None), rounded(config, dict(one.params)))
    said = {"quantization_config": packed.written(config, one.params, found)}
    with pytest.raises(Refused, match="quantization_config: got gptq None; accepted"):
        packed.read({"quantization_config": {"quant_method": "gptq"}}, found)
    with pytest.raises(Refused, match="weight_zero_point: got a zero point"):
        packed.read(said, found | {"lm_head.weight_zero_point": np.zeros(1)})
    with pytest.raises(Refused, match="tensors lm_head: got others; accepted: packed numbers"):
        packed.read(said, {n: x for n, x in found.items() if n != "lm_head.weight_scale"})
    groups = {"all": packed.group(4, ["re:.*lm_head", "Linear"])}
    again = packed.read(
        {"quantization_config": said["quantization_config"] | {"config_groups": groups}}, found
    )
    np.testing.assert_array_equal(
        again["lm_head.weight"].T, rounded(config, dict(one.params))["head.kernel"]
    )
