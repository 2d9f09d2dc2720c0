"""Streams that come and go in the middle of a run."""

from dataclasses import replace

import numpy as np
import pytest

from models import Streams, count
from refused import Refused
from scaling import AddStreams, Freeze, KeepStreams
from scaling.state import initial, trainable
from tests.corpora import model, recipe

STREAMS = Streams(3, prefix=4)


@pytest.mark.parametrize("freeze", [False, True])
def test_added_streams_keep_the_backbone_and_start_as_from_scratch(freeze):
    config = model()
    state = initial(recipe(config), 7)
    change = AddStreams(STREAMS, freeze)
    after = change.config(config)
    changed = change.state(state, recipe(after), 7)
    assert all(changed.params[path] is state.params[path] for path in state.params)
    scratch = initial(recipe(model(streams=STREAMS)), 7)
    assert changed.params.keys() == scratch.params.keys()
    for path in changed.params.keys() - state.params.keys():
        np.testing.assert_array_equal(changed.params[path], scratch.params[path])
        assert int(changed.moments[path].count) == 0 and not changed.moments[path].mu.any()
    new = changed.params.keys() - state.params.keys()
    assert set(changed.moments) == set(trainable(after)) == (new if freeze else set(changed.params))
    if not freeze:
        assert all(changed.moments[path] is state.moments[path] for path in state.moments)


def test_a_frozen_backbone_saves_the_gradients_of_all_its_matrices():
    config = model()
    after = AddStreams(STREAMS, freeze=True).config(config)
    accounts = count(after)
    matrices = count(config).flops_forward_body
    head = 2 * config.vocabulary * config.width
    saved = STREAMS.count * matrices + head
    assert accounts.flops_train == 3 * accounts.flops_forward - saved


@pytest.mark.parametrize("freeze", [False, True])
def test_fewer_streams_are_those_that_were_there(freeze):
    config = AddStreams(STREAMS, freeze).config(model())
    state = initial(recipe(config), 0)
    change = KeepStreams(2)
    after = change.config(config)
    changed = change.state(state, recipe(after), 0)
    direct = initial(recipe(after), 0)
    assert changed.params.keys() == direct.params.keys()
    assert changed.moments.keys() == direct.moments.keys()
    for path, value in changed.params.items():
        assert value.shape == direct.params[path].shape
        if ".prefix." in path:
            np.testing.assert_array_equal(value, state.params[path][:2])
        elif "aggregation" not in path:
            assert value is state.params[path]
    assert (
        changed.moments["aggregation.hidden"].mu.shape == direct.params["aggregation.hidden"].shape
    )


def test_one_stream_kept_is_the_backbone_alone():
    config = model(streams=STREAMS)
    state = initial(recipe(config), 0)
    change = KeepStreams(1)
    assert change.config(config) == model()
    changed = change.state(state, recipe(model()), 0)
    assert changed.params.keys() == initial(recipe(model()), 0).params.keys()
    assert all(value is state.params[path] for path, value in changed.params.items())
    assert changed.moments["head.kernel"] is state.moments["head.kernel"]


def test_streams_added_twice_are_refused():
    with pytest.raises(Refused, match="add_streams: got a model with 3; accepted: .* added once"):
        AddStreams(STREAMS).config(model(streams=STREAMS))
    assert AddStreams(Streams(1)).config(model()) == model()
    with pytest.raises(Refused, match="add_streams.streams: got 1; accepted: 2 or more"):
        AddStreams(Streams(1), freeze=True).config(model())


def test_streams_that_are_not_there_cannot_be_kept():
    for config, streams in ((model(streams=STREAMS), 4), (model(streams=STREAMS), 0), (model(), 1)):
        with pytest.raises(Refused, match=f"keep_streams: got {streams}"):
            KeepStreams(streams).config(config)
    frozen = AddStreams(STREAMS, freeze=True).config(model())
    with pytest.raises(Refused, match="a frozen backbone alone is the run before"):
        KeepStreams(1).config(frozen)


def test_some_may_be_frozen_already():
    frozen = Freeze("embedding.*").config(model())
    after = AddStreams(STREAMS, freeze=True).config(frozen)
    assert after.frozen[0] == "embedding.*"
    assert all(".prefix." in path or "aggregation" in path for path in trainable(after))
    assert replace(after, streams=None, frozen=()) == model()
