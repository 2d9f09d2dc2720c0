"""Changes: what they keep, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest

from data import Refused
from models import skeleton
from scaling import ContextLength, Freeze
from scaling.changes import carry
from scaling.optimizer import initial, trainable
from tests.corpora import model


@pytest.mark.parametrize("change", [Freeze("layers.0.*"), ContextLength(64)])
def test_kept_leaves_are_the_same_arrays(change):
    config = model()
    state = initial(config, 0)
    after = change.config(config)
    changed = change.state(state, after, 0)
    assert changed.params.keys() == state.params.keys()
    assert all(changed.params[path] is state.params[path] for path in state.params)
    assert set(changed.moments) == set(trainable(after))
    assert all(changed.moments[path] is state.moments[path] for path in changed.moments)


def test_new_leaves_start_from_their_own_stream_with_zero_moments():
    config, after = model(), model(qk_norm=True, depth=3)
    state = initial(config, 7)
    changed = carry(state, after, 7)
    assert changed.params.keys() == skeleton(after).params.keys()
    direct = initial(after, 7)
    for path in changed.params.keys() - state.params.keys():
        np.testing.assert_array_equal(changed.params[path], direct.params[path])
        assert int(changed.moments[path].count) == 0
        assert not changed.moments[path].mu.any()
    for path in state.params:
        assert changed.params[path] is state.params[path]
    back = carry(changed, config, 7)
    assert back.params.keys() == state.params.keys()


def test_patterns_that_match_nothing_or_everything_are_refused():
    with pytest.raises(Refused, match="freeze.pattern: got decoder"):
        Freeze("decoder").config(model())
    with pytest.raises(Refused, match="a pattern that leaves some to train"):
        Freeze("*").config(model())
    half = Freeze("embedding.*").config(model())
    assert replace(half, frozen=()) == model()
