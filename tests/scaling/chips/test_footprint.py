"""What a traced computation keeps at once: a compiler that fuses keeps no elementwise result."""

import jax
import jax.numpy as jnp
import pytest

from scaling.chips.footprint import kept

SIDE = 64
ONE = 4 * SIDE * SIDE  # Bytes of one array.


def of(f, count: int = 1, platform: str = "tpu", **more) -> float:
    given = [jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32)] * count
    return kept(jax.make_jaxpr(f)(*given).jaxpr, platform, **more) / ONE


@pytest.mark.parametrize(
    ("f", "count", "arrays"),
    [
        (lambda x: jnp.tanh(x * 2 + 1), 1, 0),  # Computed where it is read.
        (lambda x: x @ x, 1, 1),
        (lambda x: (x @ x) @ x, 1, 2),
        (lambda x: ((x @ x) @ x) @ x, 1, 2),  # The first is let go.
        (lambda x: jnp.sum(jnp.tanh(x @ x)), 1, 1),
        (lambda x, y: (jnp.tanh(x @ y) * (y @ x)) @ x, 2, 3),  # Both factors and the product.
    ],
)
def test_products_are_kept_while_they_are_needed(f, count, arrays):
    assert of(f, count) == pytest.approx(arrays, abs=0.01)


def test_on_gpus_products_read_their_operands_from_memory():
    gated = lambda x: (jnp.tanh(x @ x) * 2) @ x
    assert of(gated, platform="cuda") == pytest.approx(2 + 1, abs=0.01)
    assert of(gated) == pytest.approx(2, abs=0.01)


def test_a_sum_of_many_is_kept_rather_than_all_of_them():
    def stream(x):
        for _ in range(6):
            x = x + x @ x
        return x

    assert of(stream) <= 4


def test_a_gradient_keeps_what_the_backward_pass_reads_and_recomputation_less():
    def chain(x, layer):
        for _ in range(8):
            x = layer(x)
        return jnp.sum(x)

    layer = lambda x: jnp.tanh(jnp.tanh(x @ x) @ jnp.sin(x))
    plain = of(jax.grad(lambda x: chain(x, layer)))
    spared = of(jax.grad(lambda x: chain(x, jax.checkpoint(layer))))
    assert 8 < spared < 14 < plain


def test_a_loop_keeps_what_one_turn_needs_and_what_it_stacks():
    turn = lambda x, _: (jnp.tanh(x @ x), None)
    assert of(lambda x: jax.lax.scan(turn, x, None, 10)[0]) == pytest.approx(2, abs=0.5)
    stacks = lambda x, _: (jnp.tanh(x @ x), x)
    assert of(lambda x: jax.lax.scan(stacks, x, None, 10)) == pytest.approx(12, abs=1)


def test_what_a_loops_body_needs_is_in_a_memory_of_its_own_as_far_as_that_goes():
    turn = lambda x, _: (((x @ x) @ x) @ x, None)
    loop = lambda x: jax.lax.scan(turn, x, None, 10)[0]
    assert [of(loop, near=n * ONE) for n in (0, 1, 2, 9)] == [3, 2, 1, 1]
    assert of(lambda x: x @ x, near=ONE) == 1


def test_what_a_call_writes_lies_there_for_the_next_one():
    twice = jax.jit(lambda x: x @ x)
    both = lambda x: (lambda y: twice(y) + twice(y))(jnp.tanh(x @ x))
    assert of(both, platform="cuda") == 3  # The factor, which both read, and two products.


def test_gpus_put_together_what_is_read_from_its_parts():
    parts = lambda x: (lambda y: jnp.concatenate([y[:32] * 2, y[32:]]))(x @ x)
    assert (of(parts, platform="cuda"), of(parts, platform="tpu")) == (1, 2)


def test_results_that_are_split_over_devices_count_for_their_part():
    two = lambda x: (x @ x, (x + 1) @ x)
    assert of(two) == 2
    assert of(two, outputs={0: 0.25}) == pytest.approx(1.25)


def test_split_inputs_that_are_stacked_stay_split():
    stacked = lambda x, y: jnp.sum(jnp.stack([x, y]) @ (x @ y))
    whole, split = (of(stacked, 2, inputs=parts) for parts in (None, {0: 0.25, 1: 0.25}))
    assert whole - split == pytest.approx(1.5)


def test_parts_of_one_buffer_are_split_once():
    parts = lambda x: (lambda y: (y[:2], y[2:]))(x @ x)
    assert of(parts, outputs={0: 0.5, 1: 0.5}) == pytest.approx(0.5, abs=0.05)
