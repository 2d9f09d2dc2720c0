"""Models that the tests of this folder and of `tests/interop` write and read."""

import numpy as np

from models import Experts, ModelConfig, skeleton
from scaling.interchange.kept import BYTES, Kept
from tests.corpora import model

# One of every kind that transformers has a like of.
LIKE: dict[str, ModelConfig] = {
    "mha": model(),
    "gqa": model(heads=4, kv_heads=2, head_size=16, rope_base=5e5, norm_epsilon=1e-5),
    "tied": model(tied=True, separator=0),
    "qk_norm": model(heads=4, kv_heads=2, qk_norm=True),
    "biases": model(qkv_bias=True, heads=4, kv_heads=2),
    "biases_qk_norm": model(qkv_bias=True, qk_norm=True),
    "experts": model(
        qk_norm=True, feed_forward=Experts(4, 2, 0, capacity_factor=None, first_dense=1)
    ),
}


def kept(config: ModelConfig, tokenizer: str | None = BYTES, seed: int = 0) -> Kept:
    """Returns a model away from its start: gains and biases are not all the same."""
    params, buffers = skeleton(config).initialise(seed)
    rng = np.random.default_rng(seed)
    moved = {p: (x + rng.normal(0, 0.1, x.shape)).astype(np.float32) for p, x in params.items()}
    return Kept(config, moved, buffers, tokenizer)


def assert_same(one: Kept, other: Kept) -> None:
    """Fails unless two models have the same settings, values and tokenizer."""
    assert one.config == other.config and one.tokenizer == other.tokenizer
    assert one.content == other.content
    assert one.params.keys() == other.params.keys()
    for path, value in one.params.items():
        np.testing.assert_array_equal(value, other.params[path], err_msg=path)
