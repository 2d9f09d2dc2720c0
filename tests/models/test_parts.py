"""The product that all parts share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.parts import product
from tests.zoo import CONFIGS, COVER


@pytest.mark.parametrize("lead", [(6,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_a_product_and_its_gradients_are_those_of_jax(lead, dtype, tolerance):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.standard_normal(s), dtype) for s in ((*lead, 5), (5, 7)))
    weigh = jnp.asarray(rng.standard_normal((*lead, 7)), jnp.float32)
    plain = lambda x, kernel: jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
    ours = lambda x, kernel: product(jnp.float32, x, kernel)
    both = [
        jax.value_and_grad(lambda *inputs, f=f: jnp.sum(weigh * f(*inputs)), argnums=(0, 1))
        for f in (ours, plain)
    ]
    (value, gradients), (expected, others) = (f(x, kernel) for f in both)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for gradient, other, like in zip(gradients, others, (x, kernel), strict=True):
        assert gradient.dtype == like.dtype and gradient.shape == like.shape
        np.testing.assert_allclose(
            gradient.astype(np.float32), other.astype(np.float32), rtol=tolerance, atol=tolerance
        )


def test_products_of_a_fleet_are_those_of_its_members():
    rng = np.random.default_rng(1)
    x, kernels = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((3, 4, 5), (3, 5, 7)))
    one = jax.grad(lambda kernel, x: jnp.sum(product(jnp.float32, x, kernel) ** 2))
    together = jax.vmap(one)(kernels, x)
    alone = [one(kernel, rows) for kernel, rows in zip(kernels, x, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-5)


def test_the_cover_of_the_zoo_has_every_part_of_it():
    kind = lambda part: part if isinstance(part, str) else type(part).__name__

    def parts(config):
        streams, experts = config.streams, config.feed_forward
        return {
            ("embedding", kind(config.embedding)),
            ("attention", kind(config.attention)),
            ("feed_forward", kind(experts)),
            ("router", getattr(experts, "router", None)),
            ("lazy", getattr(experts, "lazy", None)),
            ("streams", None if streams is None else streams.neutral),
            ("quantised", config.quantization is not None),
            ("tied", config.tied),
            ("documents", config.separator is not None),
            ("qk_norm", config.qk_norm),
        }

    every = set().union(*map(parts, CONFIGS.values()))
    covered = set().union(*(parts(CONFIGS[name]) for name in COVER))
    assert every - covered == {("feed_forward", "gelu")}  # Two products where others have three.
