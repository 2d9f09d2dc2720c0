"""Mixture of experts: a router that picks a few of many small feed-forwards for every token."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models.config import ModelConfig
from models.dispatch import back_end, computed
from models.experts import Experts
from models.feed_forward import SwiGLU, residual
from models.parts import MATRIX, Count, Group, buffer, constant, normal, parameter
from models.placement import mean_of_devices
from models.routing import balanced, route

ROUTER = replace(MATRIX, name="router")


class MixtureOfExperts(nnx.Module):
    """A router over E stacked SwiGLU experts, and shared experts beside them (`Experts`)."""

    def __init__(self, config: ModelConfig):
        self.config, self.settings = config, config.feed_forward
        settings, width = self.settings, config.width
        experts, inner = settings.routed, settings.width_in(config)
        group = expert_group(settings)
        self.router = parameter((width, experts), normal(width**-0.5), ROUTER)
        shape = (experts, width, inner)
        self.gate = parameter(shape, normal(width**-0.5), group, fsdp=1, expert=0)
        self.up = parameter(shape, normal(width**-0.5), group, fsdp=1, expert=0)
        out = residual(inner, config.depth)
        self.down = parameter((experts, inner, width), out, group, fsdp=2, expert=0)
        if settings.shared:
            self.shared = SwiGLU(shared_config(config))
        if settings.balancing()[2]:
            self.bias = buffer((experts,), constant(0.0))

    def __call__(self, x: Float[Array, "B L D"], inputs) -> tuple[Float[Array, "B L D"], dict]:
        settings = self.settings
        # Accelerators would round float32 factors, and near ties would go either way.
        exact = jax.lax.Precision.HIGHEST
        wide = x.astype(jnp.float32)
        logits = jnp.einsum("bld,de->ble", wide, self.router[...], precision=exact)
        bias = self.bias[...] if hasattr(self, "bias") else None
        routes, report = route(settings, logits, bias)
        if bias is not None:  # Only `loss` hands buffers on: evaluation does not move the bias.
            load = mean_of_devices(jnp.sum(routes.counts, axis=0).astype(jnp.float32))
            self.bias.set_value(balanced(bias, load, settings.balancing()[2]))
        kernels = [k[...] for k in (self.gate, self.up, self.down)]
        y = computed(back_end(settings, x.shape[1]), x, routes, kernels)
        if settings.shared:
            y = y + self.shared(x, inputs)[0]
        return y, report

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts one layer; a token multiplies by the router, k experts and the shared ones."""
        settings = config.feed_forward
        one = 3 * config.width * settings.width_in(config)
        always = Count.dense(config.width * settings.routed + settings.shared * one)
        active = settings.active * one
        return always + Count(params=settings.routed * one, active=active, flops=2.0 * active)


def expert_group(settings: Experts) -> Group:
    """Returns the group of the stacked experts: a token multiplies by k of the E."""
    return replace(MATRIX, name="expert", matmul=settings.active / settings.routed)


def shared_config(config: ModelConfig) -> ModelConfig:
    """Returns the configuration of the SwiGLU that all shared experts together are."""
    inner = config.feed_forward.shared * config.feed_forward.width_in(config)
    return replace(config, feed_forward="swiglu", ff_width=inner)
