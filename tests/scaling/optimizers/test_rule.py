"""What every optimizer of the registry is."""

import dataclasses

import jax
import numpy as np
import pytest

from models import Stem, skeleton
from refused import Refused
from scaling import AdamW
from scaling.optimizers import OPTIMIZERS, Rule, named
from scaling.state import initial
from tests.corpora import model, recipe


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rate_and_decay_are_taken_out_of_what_is_compiled(name):
    one, other = (named(name, learning_rate=r, weight_decay=r) for r in (0.1, 0.2))
    assert one != other and one.static == other.static
    static = {f.name for f in dataclasses.fields(one)} - one.TRACED.keys()
    for field in static:
        value = getattr(one, field)
        changed = dataclasses.replace(one, **{field: 0.5 if value is None else value / 2})
        assert changed.static != one.static, field


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lazy_tables_keep_the_rows_that_no_batch_read(name):
    plan = recipe(model(feed_forward=Stem()), named(name, learning_rate=0.1))
    path = "layers.1.feed_forward.table"
    rule = plan.optimizer.rule_of(path, skeleton(plan.model).params[path])
    state = initial(plan, 0)
    gradient = np.zeros_like(state.params[path])
    gradient[[3, 9]] = 1.0
    with jax.numpy_dtype_promotion("standard"):
        direction, after = rule.transformation.update(
            gradient, state.moments[path], state.params[path]
        )
    moved = np.flatnonzero(np.asarray(direction).any(axis=1))
    assert rule.lazy and list(moved) == [3, 9]
    assert np.asarray(after.count).sum() == 2


def test_an_optimizer_is_picked_by_name_and_slips_are_told():
    assert named("adamw", learning_rate=0.1, b2=0.95) == AdamW(learning_rate=0.1, b2=0.95)
    with pytest.raises(Refused, match="optimizer: got adam; accepted: one of adamw, lion, muon"):
        named("adam", learning_rate=0.1)
    with pytest.raises(Refused, match="optimizer.beta: got 0.9; accepted: for lion one of learn"):
        named("lion", learning_rate=0.1, beta=0.9)


def test_groups_multiply_what_an_optimizer_says():
    table = skeleton(model(feed_forward=Stem(rate=3.0, decay=False))).params
    rule = AdamW(learning_rate=0.1).rule_of("", table["layers.1.feed_forward.table"])
    assert (rule.rate, rule.decay, rule.lazy) == (3.0, 0.0, True)
    assert dataclasses.replace(rule, rate=2.0) == Rule(
        transformation=rule.transformation, rate=2.0, decay=0.0, lazy=True
    )
