"""Muon against its polynomial, written out in float64."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonState

from models import skeleton
from refused import Refused
from scaling import Muon
from scaling.state import initial
from tests.corpora import model, recipe, tokenformer
from tests.zoo import CONFIGS

# Jordan et al. 2024, section "Definition": a, b, c of the quintic, and its number of steps.
A, B, C, STEPS = 3.4445, -4.7750, 2.0315, 5
MUON = Muon(learning_rate=0.01)


def polynomial(matrix: np.ndarray) -> np.ndarray:
    """Returns the Newton–Schulz iteration of a matrix in float64, a product at a time."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(STEPS):
        square = x @ x.T
        x = A * x + (B * square + C * square @ square) @ x
    return x


def uneven(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Draws matrices whose singular values go from 1 down to 1e-3."""
    rng = np.random.default_rng(seed)
    left, values, right = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    values = np.broadcast_to(np.logspace(0, -3, values.shape[-1]), values.shape)
    return ((left * values[..., None, :]) @ right).astype(np.float32)


def matrices():
    """Lists leaves that Muon updates: a wide, a tall and a square one, experts, tokens."""
    experts = CONFIGS["experts"]
    return [
        (model(), "layers.0.feed_forward.up"),
        (model(), "layers.0.feed_forward.down"),
        (model(), "layers.0.attention.query"),
        (experts, "layers.1.feed_forward.gate"),
        (experts, "layers.1.feed_forward.down"),
        (tokenformer(), "layers.0.feed_forward.only.keys"),
    ]


@pytest.mark.parametrize(("config", "path"), matrices())
def test_the_update_is_the_polynomial_of_the_momentum_matrix_by_matrix(config, path):
    leaf = skeleton(config).params[path]
    rule = MUON.rule_of(path, leaf).transformation
    state, momentum, beta = rule.init(jnp.zeros(leaf.shape)), 0.0, MUON.momentum
    for step in range(1, 4):
        gradient = uneven(leaf.shape, step)
        with jax.numpy_dtype_promotion("standard"):
            found, state = jax.jit(rule.update)(gradient, state)
        assert found.dtype == jnp.float32
        # Nesterov's momentum, corrected for bias (Dozat 2016, algorithm 2, with a constant beta).
        momentum = beta * momentum + (1 - beta) * gradient.astype(np.float64)
        ahead = beta * momentum / (1 - beta ** (step + 1))
        ahead = ahead + (1 - beta) * gradient / (1 - beta**step)
        wide = np.asarray(found, np.float64) / (0.2 * np.sqrt(max(leaf.shape[-2:])))
        for one, other in zip(
            wide.reshape(-1, *leaf.shape[-2:]), ahead.reshape(-1, *leaf.shape[-2:]), strict=True
        ):
            expected = polynomial(other)
            assert np.linalg.norm(one - expected) <= 1e-4 * np.linalg.norm(expected)
            left, values, right = np.linalg.svd(other, full_matrices=False)
            large = values >= 0.01 * np.linalg.norm(other)
            assert large.sum() > 3 and (step > 1 or not large.all())
            along = np.abs(np.diag(left.T @ one @ right.T))[large]
            assert (along >= 0.65).all() and (along <= 1.25).all()
    assert len(leaf.shape) == 2 or not np.allclose(found[0], found[1], atol=0.1)


def test_singular_values_of_random_gradients_are_near_one():
    leaf = skeleton(model(width=32)).params["layers.0.feed_forward.up"]
    rule = MUON.rule("", leaf).transformation
    gradient = np.random.default_rng(0).standard_normal(leaf.shape).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"):
        found, _ = rule.update(gradient, rule.init(gradient))
    values = np.linalg.svd(found / MUON.scale(leaf), compute_uv=False)
    assert 0.65 <= values.min() <= values.max() <= 1.25


@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_matrices_alone_are_orthogonalised(name):
    config = CONFIGS[name]
    bones, state = skeleton(config), initial(recipe(config, MUON), 0)
    found = {path for path, m in state.moments.items() if isinstance(m[0], MuonState)}
    groups = {bones.params[path].group.name for path in found}
    others = {bones.params[path].group.name for path in state.moments.keys() - found}
    assert groups <= {"matrix", "expert", "router"}
    assert others <= {"embedding", "head", "vector", "stem", "prefix", "scale"}
    assert "matrix" in groups


def test_steps_have_the_size_of_adams_or_jordans():
    leaves = skeleton(model()).params
    up, down = (leaves[f"layers.0.feed_forward.{name}"] for name in ("up", "down"))
    wide = max(up.shape)
    assert MUON.scale(up) == MUON.scale(down) == 0.2 * wide**0.5
    jordan = replace(MUON, rms=None, adam_rate=0.015)
    assert jordan.scale(up) == (wide / 16) ** 0.5 and jordan.scale(down) == 1
    assert jordan.rule_of("", leaves["head.kernel"]).rate == 0.015
    assert jordan.rule_of("", up).rate == 1


def test_settings_that_cannot_be_are_refused_by_name():
    with pytest.raises(Refused, match="optimizer.rms: got -1"):
        Muon(learning_rate=0.1, rms=-1)
    with pytest.raises(Refused, match="optimizer.steps: got 0"):
        Muon(learning_rate=0.1, steps=0)
