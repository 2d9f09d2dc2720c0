"""Counts against the initialised tree and against XLA's own analysis."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from models import ModelConfig, count, skeleton
from models.transformer import Transformer
from tests.corpora import model
from tests.zoo import CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_tree(name):
    config = CONFIGS[name]
    leaves = {p: x for p, x in skeleton(config).params.items() if x.group.name != "scale"}
    accounts = count(config)
    assert accounts.params_total == sum(leaf.size for leaf in leaves.values())
    # What has a row or a column per token; of a table inside a layer a token reads one row.
    tables = {path: leaf for path, leaf in leaves.items() if config.vocabulary in leaf.shape}
    assert accounts.params_non_embedding == accounts.params_total - sum(
        leaf.size for leaf in tables.values()
    )

    def read(path, leaf):
        if path in tables and path.startswith("layers."):
            return leaf.size // config.vocabulary
        # Of stacked experts a token reads a share.
        return leaf.size * (leaf.group.matmul if leaf.expert is not None else 1)

    assert accounts.params_active == sum(read(*item) for item in leaves.items())
    assert count(replace(config, quantization=None)).bytes == 4 * accounts.params_total


@pytest.mark.parametrize("name", ["default", "gelu", "tied", "grouped", "stem"])
def test_forward_flops_are_those_that_xla_counts(name):
    # Wide enough that products dominate; XLA multiplies whole L × L score matrices.
    config = replace(CONFIGS[name], width=128, heads=4, kv_heads=2, context=64)
    whole = count(config)
    parts = whole.flops_forward - whole.flops_forward_body
    head = 2 * config.vocabulary * config.width
    attention = (parts - head) * 2 * config.context / (config.context + 1)
    expected = (whole.flops_forward_body + head + attention) * config.context
    params, buffers = skeleton(config).initialise(0)
    tokens = np.zeros((1, config.context), np.int32)
    forward = jax.jit(lambda p, t: skeleton(config).merge(p, buffers)(t))
    found = forward.lower(params, tokens).compile().cost_analysis()["flops"]
    # Norms, rotations, softmax and activations are elementwise and not counted by us.
    assert expected <= found <= 1.05 * expected


def test_training_costs_three_forward_passes_less_what_is_frozen():
    config = model()
    accounts = count(config)
    assert accounts.flops_train == 3 * accounts.flops_forward
    frozen = replace(config, frozen=("layers.0.feed_forward.*",))
    saved = 2 * 3 * config.width * config.inner_width
    assert accounts.flops_train - count(frozen).flops_train == saved


def test_sizes_are_those_published_for_pythia():
    # Biderman et al. 2023 (arXiv:2304.01373), table 1: 85,056,000 non-embedding parameters at 12
    # layers and width 768, which include 9 width biases per layer and 4 width of layer norms.
    config = ModelConfig(vocabulary=50_304, width=768, depth=12, heads=12, feed_forward="gelu")
    ours = count(config).params_non_embedding
    biases = 12 * (9 + 2) * 768 + 768  # Biases, and the norms' biases, which we do not have.
    assert ours + biases == 85_056_000


def test_no_array_is_needed_to_count():
    billions = ModelConfig(
        vocabulary=128_256, width=8192, depth=80, heads=64, kv_heads=8, ff_width=28_672
    )
    # Grattafiori et al. 2024 (arXiv:2407.21783), table 3: the 70B model has 70.6e9 parameters.
    assert count(billions).params_total == pytest.approx(70.55e9, rel=1e-3)
    assert Transformer  # The class is imported, never built.
