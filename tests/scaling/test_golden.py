"""Golden tables: a few numbers of one training step, and the beginning of an order."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from data import Mixture, Order, Piece
from models import skeleton
from scaling import AdamW, make_mesh
from scaling.state import initial
from scaling.train import Program, advance, let_go, on_mesh
from tests.corpora import recipe, small_corpus
from tests.golden import FOLDER, assert_golden
from tests.rounding import FACTOR, NUDGES, state_nudged
from tests.tiers import mostly
from tests.zoo import CONFIGS, FEW

BATCH = 128  # Tokens.


def steps(names: Iterable[str], *seeds: int) -> list[dict]:
    """Returns losses, gradient norms and a parameter sum of three steps of each model named.

    Then the same for each seed, with parameters that start one unit in the last place from there.
    """
    values = [{} for _ in (None, *seeds)]
    for name in names:
        config = CONFIGS[name]
        program = Program(
            recipe=recipe(config, AdamW(learning_rate=0.01)),
            batch_tokens=BATCH,
            mesh=make_mesh("data:1"),
        )
        rng = np.random.default_rng(0)
        windows = rng.integers(0, 256, (3, BATCH // config.context, config.context + 1))
        start = initial(recipe(config), 0)
        some = sorted(skeleton(config).params)[0]
        for into, seed in zip(values, (None, *seeds), strict=True):
            state = on_mesh(program, start if seed is None else state_nudged(start, seed))
            state, metrics = advance(program, state, windows, np.full(3, 0.01), 0.1)
            for step in range(3):
                into[f"{name} loss {step}"] = float(metrics["nll"][step])
                into[f"{name} norm {step}"] = float(metrics["grad_norm"][step])
            into[f"{name} sum of {some}"] = float(np.abs(state.params[some]).sum())
        let_go(program)
    return values


def orders() -> dict:
    """Returns the first windows that an order reads."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = small_corpus(Path(folder))
        mixture = Mixture.of({"low": 0.5, "middle": 0.2, "high": 0.3})
        pieces = (Piece(40, 32, mixture), Piece(40, 64, Mixture.of({"low": 1.0})))
        order = Order(corpus, pieces, 11)
        return {
            f"piece {piece} {what}": np.asarray(values).tolist()
            for piece in (0, 1)
            for what, values in zip(
                ("domain", "window"), order.locate(piece, range(20)), strict=True
            )
        }


@pytest.mark.equality
@pytest.mark.parametrize("name", mostly(CONFIGS, FEW + ("experts_bias",)))
def test_one_step_is_what_it_was(name):
    # Units of the last place change most values by less than 1e-6; where gradients nearly vanish
    # Adam moves parameters by their signs, and AVX2 and SSE4.2 gave up to 1.2e-5.
    found, *moved = steps([name], *NUDGES)

    def close(key, old, new):
        effect = max(abs(other[key] - new) for other in moved)
        return abs(new - old) <= max(2e-5 * abs(old), FACTOR * effect)

    assert_golden("steps", found, close, start=f"{name} ")


def test_the_golden_steps_are_those_of_every_model():
    golden = json.loads((FOLDER / "steps.json").read_text())["values"]
    assert {key.split(" ")[0] for key in golden} == CONFIGS.keys()


def test_the_order_is_what_it_was():
    assert_golden("order", orders(), lambda key, old, new: old == new)
