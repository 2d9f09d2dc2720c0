"""Layers one after the other: by a loop, or by a scan over stacks of their parameters."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from models import stacks
from models.parts import ATTENTION, PRODUCT, Buffer

# What of the layers the backward pass computes again: nothing; all but products with parameters and
# attention by a kernel; all but their inputs. "auto" is none in a loop and all in a scan.
DOTS = jax.checkpoint_policies.save_only_these_names(PRODUCT, ATTENTION)
RECOMPUTE = {
    "auto": None,
    "none": lambda layer: layer,
    "dots": lambda layer: jax.checkpoint(layer, policy=DOTS),
    "full": jax.checkpoint,
}


def looped(layers, x, inputs, recompute):
    """Applies the layers one after the other; reports are one value a layer that has it."""
    reports = {}
    for layer in layers:
        if recompute in ("auto", "none"):
            x, report = layer(x, inputs)
        else:
            definition, state = nnx.split(layer)
            x, (report, buffers) = RECOMPUTE[recompute](body(definition, inputs))(x, state)
            nnx.update(layer, buffers)
        for key, value in report.items():
            reports.setdefault(key, []).append(value)
    return x, {key: jnp.stack(values) for key, values in reports.items()}


def scanned(layers, x, inputs, recompute):
    """Applies layers of one structure after another by a scan over their stacked parameters.

    Layers whose neighbours are of other structures are looped over.
    """
    reports, begin = [], 0
    split = [nnx.split(layer) for layer in layers]
    for definition, group in itertools.groupby(split, key=lambda pair: pair[0]):
        states = [state for _, state in group]
        some, begin = layers[begin : begin + len(states)], begin + len(states)
        if len(states) == 1:
            x, report = looped(some, x, inputs, recompute)
        else:
            stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            x, report, buffers = scan(definition, stack, x, inputs, recompute)
            for index, layer in enumerate(some):
                nnx.update(layer, jax.tree.map(lambda leaf, i=index: leaf[i], buffers))
        reports.append(report)
    return x, one_after_the_other(reports)


def over_stacks(labels, layers, x, inputs, recompute):
    """Applies blocks whose labels are stacks' by scans over them, and others as they are."""
    reports = []
    for block, label in zip(layers, labels, strict=True):
        if len(stacks.numbers(label)) > 1:
            x, report, buffers = scan(*nnx.split(block), x, inputs, recompute)
            nnx.update(block, buffers)
        else:
            x, report = looped([block], x, inputs, recompute)
        reports.append(report)
    return x, one_after_the_other(reports)


def scan(definition, stack, x, inputs, recompute):
    """Applies layers by their stacked state; returns x, their reports and their buffers after."""
    again = RECOMPUTE["full" if recompute == "auto" else recompute]
    x, (report, buffers) = jax.lax.scan(again(body(definition, inputs)), x, stack)
    return x, report, buffers


def one_after_the_other(reports: list[dict]) -> dict:
    """Joins what groups of layers report, each of which may have values of its own."""
    named = dict.fromkeys(key for report in reports for key in report)
    found = {key: [report[key] for report in reports if key in report] for key in named}
    return {k: v[0] if len(v) == 1 else jnp.concatenate(v) for k, v in found.items()}


def body(definition, inputs):
    """Returns a layer as a function of the residual stream and its state."""

    def run(x, state):
        layer = nnx.merge(definition, state)
        x, report = layer(x, inputs)
        return x, (report, nnx.state(layer, Buffer))

    return run
