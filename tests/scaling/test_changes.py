"""Changes: what they keep, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest

from models import held_out_nll, skeleton
from models.quantize import scale_of
from refused import Refused
from scaling import ContextLength, Freeze, Phase, Quantize, Rate, plan
from scaling.changes import carry
from scaling.state import initial, trainable
from tests.corpora import STEP, model, recipe, study_runs


@pytest.mark.parametrize("change", [Freeze("layers.0.*"), ContextLength(64)])
def test_kept_leaves_are_the_same_arrays(change):
    config = model()
    state = initial(recipe(config), 0)
    after = change.config(config)
    changed = change.state(state, recipe(after), 0)
    assert changed.params.keys() == state.params.keys()
    assert all(changed.params[path] is state.params[path] for path in state.params)
    assert set(changed.moments) == set(trainable(after))
    assert all(changed.moments[path] is state.moments[path] for path in changed.moments)


def test_new_leaves_start_from_their_own_stream_with_zero_moments():
    config, after = model(), model(qk_norm=True, depth=3)
    state = initial(recipe(config), 7)
    changed = carry(state, recipe(after), 7)
    assert changed.params.keys() == skeleton(after).params.keys()
    direct = initial(recipe(after), 7)
    for path in changed.params.keys() - state.params.keys():
        np.testing.assert_array_equal(changed.params[path], direct.params[path])
        assert int(changed.moments[path].count) == 0
        assert not changed.moments[path].mu.any()
    for path in state.params:
        assert changed.params[path] is state.params[path]
    back = carry(changed, recipe(config), 7)
    assert back.params.keys() == state.params.keys()


def test_patterns_that_match_nothing_or_everything_are_refused():
    with pytest.raises(Refused, match="freeze.pattern: got decoder"):
        Freeze("decoder").config(model())
    with pytest.raises(Refused, match="a pattern that leaves some to train"):
        Freeze("*").config(model())
    half = Freeze("embedding.*").config(model())
    assert replace(half, frozen=()) == model()


@pytest.mark.parametrize("bits", [1, 1.58, 2, 4])
def test_the_switch_keeps_every_value_and_changes_only_the_forward_pass(bits):
    config = model()
    state = initial(recipe(config), 0)
    # Scales must come from the weights of the switch, not from those of the start.
    moved = {path: 2.5 * x for path, x in state.params.items()}
    state = state.replace(params=moved)
    change = Quantize(bits)
    after = change.config(config)
    switched = change.state(state, recipe(after), 0)
    assert all(switched.params[path] is moved[path] for path in moved)
    assert all(switched.moments[path] is state.moments[path] for path in state.moments)
    added = switched.params.keys() - moved.keys()
    assert added == {scale_of(path) for path in skeleton(after).quantizers}
    path = "layers.1.feed_forward.down"
    expected = skeleton(after).quantizers[path].start(moved[path])
    np.testing.assert_array_equal(switched.params[scale_of(path)], expected)
    for path in added:
        assert int(switched.moments[path].count) == 0 and not switched.moments[path].mu.any()
    windows = np.random.default_rng(0).integers(0, 256, (2, 33))
    plain, quantised = (
        held_out_nll(c, switched.params, switched.buffers, windows) for c in (config, after)
    )
    assert np.abs(np.asarray(plain) - np.asarray(quantised)).max() > 1e-3
    # A change that comes later finds the scales and keeps them.
    later = Freeze("layers.0.*").config(after)
    frozen = carry(switched, recipe(later), 0)
    assert all(frozen.params[path] is switched.params[path] for path in added)
    assert not any(path.startswith("layers.0.") for path in frozen.moments)


def test_no_bits_change_nothing(corpus):
    config = model()
    state = initial(recipe(config), 0)
    change = Quantize(None)
    assert change.config(config) is config
    same = change.state(state, recipe(config), 0)
    assert same.params.keys() == state.params.keys()
    assert all(same.params[path] is state.params[path] for path in state.params)
    assert all(same.moments[path] is state.moments[path] for path in state.moments)


def test_quantising_is_refused_by_name_where_it_cannot_be(corpus):
    quantised = Quantize(4).config(model())
    with pytest.raises(Refused, match="quantize.bits: got 2; accepted: nothing: .* to 4 bits alr"):
        Quantize(2).config(quantised)
    with pytest.raises(Refused, match="quantize.bits: got 5; accepted: one of 1, 1.58, 2, 3"):
        Quantize(5).config(model())
    with pytest.raises(Refused, match="quantize.rule: got decoder"):
        Quantize(4, (("decoder", 2),)).config(model())
    base = study_runs("wsd", corpus)[0]
    empty = replace(base, phases=(base.phases[0], Phase(0, STEP, Rate(), change=Quantize(4))))
    with pytest.raises(Refused, match="phase.tokens: got 0; accepted: at least one step of batch"):
        plan([empty])
