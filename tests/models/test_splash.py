"""Splash attention, step by step on the CPU, against explicit products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import attend, documents_of, ones_before, visible
from models.fused import attend_fused
from models.splash import BLOCKS, block_of, splash
from tests.tiers import mostly

# Of an array's norm. float32: both sum some hundred terms in other orders. bfloat16, whose unit is
# 2⁻⁸: the kernel also rounds the scaled queries, the products the weights; each term on its own.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
PREFIXED = (5, 24, None, "float32")


def inputs(before: int, values: int, dtype: str, length: int = 200, batch: int = 2):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32)).astype(dtype)
    keys = before + length
    query, key = draw(batch, 4, length, 16), draw(batch, 2, keys, 16)
    tokens = jnp.asarray(rng.integers(0, 40, (batch, length)).astype(np.int32))
    return (query, key, draw(batch, 2, keys, values)), draw(batch, 4, length, values), tokens


def values_and_gradients(f, weigh, *inputs):
    """Returns the output and the gradients of its product with `weigh`, in float32."""
    output, pull = jax.vjp(jax.jit(f), *inputs)
    return [np.asarray(x, np.float32) for x in (output, *pull(weigh))]


def assert_close(found, reference, tolerance):
    for ours, theirs in zip(found, reference, strict=True):
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


@pytest.mark.parametrize(
    ("before", "values", "separator", "dtype"),
    mostly([PREFIXED, (0, 16, 0, "float32"), (0, 16, None, "bfloat16")], [PREFIXED]),
)
def test_values_and_gradients_are_those_of_the_products(before, values, separator, dtype):
    sent, weigh, tokens = inputs(before, values, dtype)
    mask = visible(tokens, separator, 200)
    mask = jnp.concatenate([ones_before(mask, before), mask], axis=3)
    documents = documents_of(tokens, separator)
    ours = functools.partial(splash, documents=documents, interpret=True)
    reference = values_and_gradients(lambda *x: attend(*x, mask), weigh, *sent)
    assert_close(values_and_gradients(ours, weigh, *sent), reference, TOLERANCE[dtype])


def test_a_fleet_on_a_mesh_runs_it_on_what_each_device_owns(monkeypatch):
    from scaling import make_mesh

    monkeypatch.setattr("models.splash.splash", functools.partial(splash, interpret=True))
    sent, weigh, tokens = inputs(0, 16, "float32", length=128, batch=4)
    members = tuple(jnp.stack([x, x[::-1]]) for x in sent)
    documents = documents_of(tokens, 0)
    one = lambda *x: attend_fused("splash", *x, documents)
    many = jax.vmap(one, spmd_axis_name="run")
    with jax.set_mesh(make_mesh("run:2,data:2,fsdp:2")):
        weights = jnp.stack([weigh, weigh[::-1]])
        found = values_and_gradients(many, weights, *members)
    for member, order in enumerate((slice(None), slice(None, None, -1))):
        mask = visible(tokens, 0, 128)
        some = [x[order] for x in sent]
        reference = values_and_gradients(lambda *x: attend(*x, mask), weigh[order], *some)  # noqa: B023
        assert_close([x[member] for x in found], reference, TOLERANCE["float32"])


@pytest.mark.parametrize(
    ("length", "block"), [(128, 128), (1152, 384), (2048, 512), (2049, 384), (1920, 512), (90, 128)]
)
def test_blocks_are_as_large_as_pad_little(length, block):
    assert block_of(length) == block in BLOCKS
    padded = -(-length // block) * block
    assert padded <= 1.125 * (-(-length // 128) * 128)
