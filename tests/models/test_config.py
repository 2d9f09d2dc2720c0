"""What a model's configuration refuses."""

import pytest

from models import ModelConfig
from refused import Refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "model.width: got 0; accepted: 1 or more"),
        ({"width": 20, "heads": 3}, "model.heads: got 3"),
        ({"heads": 4, "kv_heads": 3, "width": 64}, "model.kv_heads: got 3"),
        ({"width": 6, "heads": 2}, "model.head_size: got 3"),
        ({"dtype": "float16"}, "model.dtype: got float16; accepted: float32 or bfloat16"),
        ({"context": -1}, "model.context: got -1"),
    ],
)
def test_impossible_sizes_are_refused_by_name(fields, message):
    with pytest.raises(Refused) as refused:
        ModelConfig(**fields)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_gated_width_keeps_the_parameters_of_a_plain_unit():
    config = ModelConfig(width=768, heads=12)
    assert 3 * config.inner_width == pytest.approx(8 * 768, rel=0.01)
    assert ModelConfig(feed_forward="gelu", width=64).inner_width == 256
    assert ModelConfig(ff_width=100).inner_width == 100
