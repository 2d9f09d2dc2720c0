"""What rounding may change, measured in the same run, so that equality holds on any processor.

A sum taken in another order is the exact sum of terms that differ by a few units in the last place
(Higham 2002, Accuracy and Stability of Numerical Algorithms, section 4.2). What such units do to a
result differs by model, step and processor, so it is measured: the one program that others are
compared with runs once more from parameters moved by one unit in the last place. Whatever differs
by more than `FACTOR` times that is no rounding.

One step from one state is judged leaf by leaf, and finds faults of 1e-4 in a part of one gradient
(`tests/test_rounding.py`). A trajectory amplifies rounding step by step and only shows that the
steps add up.
"""

import contextlib
from collections.abc import Callable

import jax
import numpy as np
import pytest

from models.quantize import levels
from models.transformer import Skeleton

FACTOR = 10.0
# Of a trajectory's loss, at least: a float32 sum of some hundred terms of its own.
FLOOR = 1e-6
# Of a leaf's norm, at least: what storing the leaf in float32 may change.
UNIT = float(np.finfo(np.float32).eps)
NUDGES = (1, 2)  # Seeds of the directions in which parameters are moved.


def nudged(params: dict, seed: int) -> dict[str, np.ndarray]:
    """Returns the parameters, each moved up or down by one unit in the last place."""
    rng = np.random.default_rng(seed)

    def moved(value):
        value = np.asarray(value)
        there = np.nextafter(value, rng.choice([-np.inf, np.inf], value.shape).astype(value.dtype))
        return np.where(value == 0, value, there)  # Zero has no last place.

    return {path: moved(value) for path, value in params.items()}


def turned(quantizers: dict, params: dict) -> dict[str, np.ndarray]:
    """Returns the parameters with the weight nearest to an edge between two levels just across it.

    A unit in the last place takes some quantised weight over an edge sooner or later, at a step
    that no one can foretell, and from then on training goes another way: losses of the zoo differ
    by 1e-4 to 1e-3 after 50 steps.
    """
    nearest = []
    for path, quantizer in quantizers.items():
        weights = np.asarray(params[path])
        scale = np.broadcast_to(quantizer.start(weights), weights.shape)
        steps, shift = 1.0, 0.5  # At 1 bit the edge is at zero.
        if quantizer.bits > 1:
            steps, shift = levels(quantizer.bits).steps, levels(quantizer.bits).shift
        places = weights / scale * steps - shift
        ways = np.floor(places) + 0.5 - places
        clipped = np.abs(weights) > 0.7 * quantizer.largest * scale  # Beyond the outermost edge.
        at = np.unravel_index(np.abs(np.where(clipped, 1, ways)).argmin(), weights.shape)
        there = places[at] + ways[at] + np.copysign(1e-4, ways[at])
        nearest.append((abs(ways[at]), path, at, (there + shift) / steps * scale[at]))
    if not nearest:
        return params
    _, path, at, value = min(nearest)
    moved = np.array(params[path])
    moved[at] = value
    return params | {path: moved}


def state_nudged(state, seed: int, quantizers: dict | None = None):
    """Returns a state of training whose parameters are moved by one unit in the last place.

    With a model's quantizers, where steps follow, one weight is taken over an edge besides.
    """
    return state.replace(params=nudged(turned(quantizers or {}, state.params), seed))


@contextlib.contextmanager
def starts_nudged(seed: int):
    """Lets every model start from parameters moved by one unit in the last place."""
    draw = Skeleton.initialise

    def initialise(self, *args, **settings):
        params, buffers = draw(self, *args, **settings)
        within = {p: q for p, q in self.quantizers.items() if p in params}
        return nudged(turned(within, params), seed), buffers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Skeleton, "initialise", initialise)
        yield


def leaves(tree) -> dict[str, np.ndarray]:
    """Returns the arrays of a tree by their paths."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def distances(one: dict, other: dict) -> dict[str, float]:
    """Returns the Euclidean distance between two trees, leaf by leaf."""
    assert one.keys() == other.keys()
    wide = lambda x: x.astype(np.float64)
    return {path: float(np.linalg.norm(wide(x) - wide(other[path]))) for path, x in one.items()}


def excesses(found, reference, moved: list) -> dict[str, float]:
    """Returns how far a tree is from another, leaf by leaf, in units of what rounding may do.

    `moved` are the reference's values after a unit in the last place. Counts must be equal.
    """
    found, reference = leaves(found), leaves(reference)
    effects = [distances(leaves(other), reference) for other in moved]
    excess = {}
    for path, distance in distances(found, reference).items():
        value = reference[path]
        size = UNIT * float(np.linalg.norm(value.astype(np.float64)))
        allowed = FACTOR * max(size, *(effect[path] for effect in effects))
        if not np.issubdtype(value.dtype, np.floating):
            allowed = 0.0
        excess[path] = distance / allowed if allowed else (np.inf if distance else 0.0)
    return excess


def assert_same_step(found, reference, moved: list) -> None:
    """Fails where one step from one state gave leaves that differ by more than rounding."""
    beyond = {path: x for path, x in excesses(found, reference, moved).items() if not x <= 1}
    assert not beyond, f"differ by so many times what rounding may do: {beyond}"


def assert_same_steps(one: Callable, other: Callable, state) -> None:
    """Fails unless two ways to take a step, state → tree, agree from one state."""
    assert_same_step(other(state), one(state), [one(state_nudged(state, s)) for s in NUDGES])


def assert_same_trajectory(found, reference, moved: list) -> None:
    """Fails where losses [..., steps] differ by more than what a unit in the last place does.

    `moved` are trajectories from nudged starts. What counts is the largest effect up to a step.
    """
    reference = np.asarray(reference, np.float64)
    effect = np.max([np.abs(np.asarray(other) - reference) for other in moved], axis=0)
    effect = np.maximum.accumulate(effect, axis=-1)
    allowed = np.maximum(FLOOR * np.abs(reference), FACTOR * effect)
    excess = np.abs(np.asarray(found) - reference) / allowed
    assert (excess <= 1).all(), (
        f"differs by {excess.max():.3g} times what rounding may do, at {np.argmax(excess)}"
    )
