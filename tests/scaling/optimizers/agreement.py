"""What rounding may change in training, by a bound or measured in the same run."""

import contextlib

import numpy as np
import pytest

from models.transformer import Skeleton
from scaling.checkpoint import enumerate_leaves

ROUNDOFF = float(np.finfo(np.float32).eps) / 2  # The largest relative error of one operation.


def nudged(params: dict, seed: int) -> dict[str, np.ndarray]:
    """Returns parameters moved up or down by one unit in the last place, zeros apart."""
    rng = np.random.default_rng(seed)

    def moved(value):
        toward = rng.choice([-np.inf, np.inf], value.shape).astype(value.dtype)
        return np.where(value == 0, value, np.nextafter(value, toward))

    return {path: moved(np.asarray(value)) for path, value in params.items()}


@contextlib.contextmanager
def nudged_starts(seed: int):
    """Lets every model start one unit in the last place from where it would."""
    draw = Skeleton.initialise

    def initialise(self, *args, **settings):
        params, buffers = draw(self, *args, **settings)
        return nudged(params, seed), buffers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Skeleton, "initialise", initialise)
        yield


def assert_same_trajectory(found, reference, moved: list) -> None:
    """Fails where losses [..., steps] differ by over 10 times a unit in the last place's effect.

    `moved` are trajectories from nudged starts; their largest effect up to a step counts, at least
    1e-6 of the loss.
    """
    found, reference, moved = (np.asarray(x, np.float64) for x in (found, reference, moved))
    effect = np.maximum.accumulate(np.abs(moved - reference).max(axis=0), axis=-1)
    excess = np.abs(found - reference) / np.maximum(10 * effect, 1e-6 * np.abs(reference))
    assert (excess <= 1).all(), f"{excess.max():.3g} times what is allowed at {excess.argmax()}"


def momentum(state, path: str) -> np.ndarray:
    """Returns a leaf's first moment: it is linear in the gradient, as updates are not."""
    return next(np.asarray(x) for name, x in enumerate_leaves(state.moments[path]) if "mu" in name)


def assert_same_gradients(found, reference, before, terms: int) -> None:
    """Fails where a step's gradients, read off the moments after it, differ by more than rounding.

    A sum of n terms is off by at most n roundoffs of its terms (Higham 2002, eq. 4.4); a leaf's
    gradient is a sum over the batch's tokens, `terms`. Moments are rounded once more.
    """
    for path in reference.moments:
        old, one, other = (momentum(s, path).astype(float) for s in (before, reference, found))
        share = np.linalg.norm(one - old)  # At least (1 − b)·|gradient − moment|.
        size = np.linalg.norm(old) + np.linalg.norm(one)
        assert np.linalg.norm(one - other) <= ROUNDOFF * (terms * share + size), path
