"""Which token goes to which experts, with what weight, and how the load is kept even."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, Real

from models.experts import ROUTERS, Experts
from models.placement import by_device, mean_of_devices, split_axes


class Routes(NamedTuple):
    """Which token goes where; the k assignments of a token are ordered by score.

    `experts` are ids, `gates` weights (float32, zero where dropped). `queue` is an assignment's
    place among those of its expert in its sequence, earlier tokens first; it is dropped from place
    `slots` on. `order` lists a sequence's assignments sorted by expert, then place; `counts` are
    the assignments of each expert, dropped ones included.
    """

    experts: Int[Array, "B L k"]
    gates: Float[Array, "B L k"]
    queue: Int[Array, "B Lk"]
    order: Int[Array, "B Lk"]
    counts: Int[Array, "B E"]
    slots: int


def route(
    settings: Experts, logits: Float[Array, "B L E"], bias: Float[Array, " E"] | None
) -> tuple[Routes, dict[str, Array]]:
    """Sends every token to k experts and reports how well that is balanced.

    The bias moves the choice, not the gates (DeepSeek-V3, arXiv:2412.19437, eq. 16), and no
    gradient passes through it. Reports: `loss.balance`, `loss.router_z` (with their coefficients),
    `router.dropped` (share of assignments), `router.load` (busiest expert over the mean) and
    `router.entropy` (nats, of the normalised scores of a token).
    """
    balance, z_loss, _ = settings.balancing()
    scores = ROUTERS[settings.router][0](logits)
    chosen_by = scores if bias is None else scores + bias[None, None]
    sent = functools.partial(assigned, settings)
    if axes := split_axes():  # Sorting is by sequence: left to itself, XLA gathers the batch first.
        split = PartitionSpec(axes)
        sent = by_device(sent, split, split)
    *sent, kept = sent(scores, jax.lax.stop_gradient(chosen_by))
    routes = Routes(*sent, max(1, settings.slots(logits.shape[1])))

    shares = scores / (jnp.sum(scores, axis=-1, keepdims=True) + 1e-20)
    load = mean_of_devices(jnp.sum(routes.counts, axis=0).astype(jnp.float32) / routes.experts.size)
    report = {
        "router.dropped": jnp.mean((~kept).astype(jnp.float32)),
        "router.load": logits.shape[2] * jnp.max(load),
        "router.entropy": -jnp.mean(jnp.sum(shares * jnp.log(shares + 1e-20), axis=-1)),
    }
    if balance:
        # Fedus et al. 2021 (arXiv:2101.03961, eq. 4–6), over k choices: 1 when all is uniform.
        uneven = logits.shape[2] * jnp.sum(load * mean_of_devices(jnp.mean(shares, axis=(0, 1))))
        report["loss.balance"] = balance * uneven
    if z_loss:
        # Zoph et al. 2022 (ST-MoE, arXiv:2202.08906, eq. 5).
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        report["loss.router_z"] = z_loss * jnp.mean(normaliser**2)
    return routes, report


def assigned(settings: Experts, scores: Array, chosen_by: Array) -> tuple[Array, ...]:
    """Picks each token's experts, and places, sequence by sequence.

    Returns the arrays of `Routes` and which assignments are kept [B, L, k].
    """
    batch, length, experts = scores.shape
    _, chosen = jax.lax.top_k(chosen_by, settings.active)
    gates = jnp.take_along_axis(scores, chosen, axis=-1)
    if settings.renormalises():
        gates = gates / (jnp.sum(gates, axis=-1, keepdims=True) + 1e-20)  # Never 0/0.
    flat = chosen.reshape(batch, -1)
    order = jnp.argsort(flat, axis=1)  # Stable: within an expert, earlier tokens come first.
    counts = jnp.sum(jax.nn.one_hot(flat, experts, dtype=jnp.int32), axis=1)
    queue = jnp.argsort(order, axis=1) - jnp.take_along_axis(starts(counts), flat, axis=1)
    kept = (queue < max(1, settings.slots(length))).reshape(gates.shape)
    return chosen, jnp.where(kept, gates, 0.0), queue, order, counts, kept


def starts(counts: Int[Array, "B E"]) -> Int[Array, "B E"]:
    """Returns where each expert's assignments begin in a sequence's sorted assignments."""
    return jnp.cumsum(counts, axis=1) - counts


def balanced(bias: Float[Array, " E"], load: Real[Array, " E"], rate: float) -> Float[Array, " E"]:
    """Moves the bias one step against the load, keeping its sum at zero.

    The sign step is DeepSeek-V3's (arXiv:2412.19437, section 2.1.2), the centring Ling 2.0's
    (arXiv:2510.22115): b += u·(sign(e) − mean sign(e)), e the mean load less an expert's.
    """
    load = load.astype(jnp.float32)
    step = jnp.sign(jnp.mean(load) - load)
    return bias + rate * (step - jnp.mean(step))
