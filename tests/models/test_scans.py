"""Layers by a loop, by a scan that stacks them, and by a scan over stacks: one and the same."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.parts import Buffer
from models.scans import looped, one_after_the_other, over_stacks, scanned


class Layer(nnx.Module):
    def __init__(self, gain):
        self.gain, self.seen = nnx.Param(jnp.asarray(gain)), Buffer(jnp.zeros_like(gain))

    def __call__(self, x, inputs):
        self.seen[...] = self.seen[...] + jnp.sum(x)
        return x * self.gain[...] + inputs, {"size": jnp.sum(x)}


class Doubling(nnx.Module):
    def __call__(self, x, inputs):
        return 2 * x, {"doubled": jnp.sum(x)}


GAINS = np.array([0.5, 2.0, 3.0], np.float32)
X = np.arange(4, dtype=np.float32)


def by_path():
    return [*map(Layer, GAINS), Doubling()]


@pytest.mark.parametrize("recompute", ["none", "dots", "full"])
def test_a_loop_and_both_scans_give_the_same(recompute):
    looping, scanning, stack = by_path(), by_path(), [Layer(GAINS), Doubling()]
    give = (X, np.float32(1), recompute)
    x, reports = looped(looping, *give)
    for found, after in (
        (scanned(scanning, *give), [layer.seen[...] for layer in scanning[:3]]),
        (over_stacks(("0-2", "3"), stack, *give), stack[0].seen[...]),
    ):
        np.testing.assert_array_equal(found[0], x)
        assert found[1].keys() == reports.keys() == {"size", "doubled"}
        for name, values in reports.items():
            np.testing.assert_array_equal(found[1][name], values)
        seen = np.array([layer.seen[...] for layer in looping[:3]])
        np.testing.assert_array_equal(np.asarray(after), seen)
        assert seen.all()


def test_only_a_scan_over_layers_that_are_apart_stacks_them():
    apart = lambda x: scanned(by_path(), x, np.float32(1), "full")[0]
    stack = lambda x: over_stacks(("0-2",), [Layer(GAINS)], x, np.float32(1), "full")[0]
    joins = lambda run: re.search(r" = (concatenate|stack)\b", str(jax.make_jaxpr(run)(X)))
    assert joins(apart) and not joins(stack)


def test_reports_are_joined_over_the_groups_that_have_them():
    some, other = jnp.ones(2), jnp.zeros(1)
    found = one_after_the_other([{"a": some}, {"a": other, "b": other}])
    assert found["a"].shape == (3,) and found["b"] is other
