"""What every optimizer of the registry is."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import Mixture
from models import Stem, skeleton
from refused import Refused
from scaling import AdamW, Data, Run, wsd
from scaling.optimizers import OPTIMIZERS, Rule, named
from scaling.state import array_bytes, initial, optimizer_flops
from tests.corpora import model, recipe


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rate_and_decay_are_taken_out_of_what_is_compiled(name):
    one, other = (named(name, learning_rate=r, weight_decay=r) for r in (0.1, 0.2))
    assert one != other and one.static == other.static
    static = {f.name: f.type for f in dataclasses.fields(one) if f.name not in one.TRACED}
    swept = dataclasses.replace(one, swept=True)
    for field, kind in static.items():
        value = getattr(one, field)
        value = value / 2 if isinstance(value, float) else 0.5 if value is None else value + 1
        assert dataclasses.replace(one, **{field: value}).static != one.static, field
        if field != "swept":
            changed = dataclasses.replace(swept, **{field: value})
            assert (changed.static == swept.static) == (kind is float), field
            assert (changed.settings != swept.settings).any() == (kind is float), field
    assert one.settings.shape == () and swept.settings[0] == np.float32(0.1)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"stosignsgd", "schedule_free"}))
def test_lazy_tables_keep_the_rows_that_no_batch_read(name):
    plan = recipe(model(feed_forward=Stem()), named(name, learning_rate=0.1))
    path = "layers.1.feed_forward.table"
    rule = plan.optimizer.rule_of(path, skeleton(plan.model).params[path])
    state = initial(plan, 0)
    gradient = np.zeros_like(state.params[path])
    gradient[[3, 9]] = 1.0
    step, after = jax.jit(rule.transformation.update), state.moments[path]
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(2):  # ADOPT takes no step at a row's first gradient.
            direction, after = step(gradient, after, state.params[path])
    moved = np.flatnonzero(np.asarray(direction).any(axis=1))
    assert rule.lazy and list(moved) == [3, 9]
    counts = [x for x in jax.tree.leaves(after) if np.issubdtype(x.dtype, np.integer)]
    assert counts and all(np.asarray(x).sum() == 4 for x in counts)


def test_an_optimizer_is_picked_by_name_and_slips_are_told():
    assert named("adamw", learning_rate=0.1, b2=0.95) == AdamW(learning_rate=0.1, b2=0.95)
    with pytest.raises(Refused, match="optimizer: got adam; accepted: one of adamw, lion, muon"):
        named("adam", learning_rate=0.1)
    with pytest.raises(Refused, match="optimizer.beta: got 0.9; accepted: for lion one of learn"):
        named("lion", learning_rate=0.1, beta=0.9)
    with pytest.raises(Refused, match="optimizer: got sophia; .*: its Hessian needs a second grad"):
        named("sophia", learning_rate=0.1)
    with pytest.raises(Refused, match="optimizer.b2: got 1.0; accepted: from 0 to below 1"):
        named("soap", learning_rate=0.1, b2=1.0)


def products(jaxpr) -> float:
    """Counts the FLOPs of the matrix products of a traced function, conditions left out."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            x, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(out) * x[equation.params["dimension_numbers"][0][0][0]]
        elif equation.primitive.name != "cond":
            inner = (getattr(x, "jaxpr", None) for x in equation.params.values())
            inside = sum(products(getattr(x, "jaxpr", x)) for x in inner if x is not None)
            total += equation.params.get("length", 1) * inside
    return total


@pytest.mark.parametrize("name", ["adamw", "muon", "scion", "soap", "cosmos", "sinkgd"])
def test_flops_and_bytes_are_those_of_what_is_multiplied_and_kept(name):
    leaf = skeleton(model(ff_width=48)).params["layers.0.feed_forward.up"]
    rule = named(name, learning_rate=0.1, **{"cosmos": {"rank": 8}}.get(name, {})).rule("", leaf)
    value, (n, m) = jnp.ones(leaf.shape), leaf.shape
    with jax.numpy_dtype_promotion("standard"):
        traced = jax.make_jaxpr(rule.transformation.update)(
            value, rule.transformation.init(value), value
        )
    r, share = 8, (2 + 8 / 3) / 10  # SOAP's basis is renewed every ten steps, in a condition.
    decomposed = {"soap": share * (n**3 + m**3), "cosmos": 4 * n * r**2 - 4 / 3 * r**3}
    assert rule.flops == pytest.approx(products(traced.jaxpr) + decomposed.get(name, 0.0))
    kept = {"adamw": 2 * n * m, "muon": n * m + 3, "scion": n * m + 3, "sinkgd": 0}
    kept |= {"soap": 2 * (n * m + n**2 + m**2), "cosmos": n * m + r * (n + m + r)}
    counted = 4 * kept[name] + (4 if name != "sinkgd" else 0)
    assert array_bytes(jax.eval_shape(rule.transformation.init, value)) == counted


def test_groups_multiply_what_an_optimizer_says():
    table = skeleton(model(feed_forward=Stem(rate=3.0, decay=False))).params
    rule = AdamW(learning_rate=0.1).rule_of("", table["layers.1.feed_forward.table"])
    assert (rule.rate, rule.decay, rule.lazy) == (3.0, 0.0, True)
    assert dataclasses.replace(rule, rate=2.0) == Rule(
        transformation=rule.transformation, rate=2.0, decay=0.0, lazy=True
    )


def test_a_models_flops_are_the_sum_of_its_leaves():
    plan = recipe(model(depth=1), named("muon", learning_rate=0.1))
    leaves = skeleton(plan.model).params.items()
    assert optimizer_flops(plan) == sum(plan.optimizer.rule(p, leaf).flops for p, leaf in leaves)
    assert optimizer_flops(plan) > 0 == optimizer_flops(recipe(plan.model))


def test_a_sweep_is_in_the_identity_of_its_runs(corpus):
    data = Data.of(corpus, Mixture.uniform(corpus.names))
    run = Run(
        model=model(),
        data=data,
        optimizer=AdamW(learning_rate=0.1),
        seed=0,
        phases=wsd(2560, 256, 256),
    )
    swept = dataclasses.replace(run.optimizer, swept=True)
    assert dataclasses.replace(run, optimizer=swept).identity != run.identity
