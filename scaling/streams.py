"""Changes of the number of streams: a second stage with P of them, and fewer at evaluation."""

import re
from dataclasses import dataclass, replace

from models import ModelConfig, Streams, skeleton
from models.parscale import kept
from refused import Refused
from scaling.changes import carry
from scaling.recipe import Recipe
from scaling.state import State, trainable


@dataclass(frozen=True)
class AddStreams:
    """Goes on with P streams of the model so far (arXiv:2505.10475, section 4.1: stage 2).

    The new parameters start as in a model that had streams from the beginning. `freeze` trains
    them alone (section 4.2): streams can then be taken away again without a trace.
    """

    streams: Streams
    freeze: bool = False

    def config(self, model: ModelConfig) -> ModelConfig:
        """Adds the streams; refuses a model that has some, and a stage that trains nothing."""
        if model.streams is not None:
            accepted = "a model without streams: they are added once"
            raise Refused("add_streams", f"a model with {model.stream_count}", accepted)
        frozen = model.frozen
        if self.freeze:
            # One pattern for all layers; none of them matches a prefix.
            paths = (re.sub(r"\.\d+\.", ".*.", path) for path in skeleton(model).params)
            frozen = (*frozen, *(path for path in dict.fromkeys(paths) if path not in frozen))
        after = replace(model, streams=self.streams, frozen=frozen)
        if not trainable(after):
            raise Refused("add_streams.streams", self.streams.count, "2 or more, with freeze=True")
        return after

    def state(self, state: State, after: Recipe, seed: int) -> State:
        """Keeps every value; new leaves start with zero moments."""
        return carry(state, after, seed)


@dataclass(frozen=True)
class KeepStreams:
    """Goes on with the first of the model's streams alone; with one, with the bare backbone.

    In a phase of one step at a rate of zero this evaluates a model at fewer streams than it was
    trained with. `models.parscale.kept` says what becomes of the aggregation.
    """

    streams: int

    def config(self, model: ModelConfig) -> ModelConfig:
        """Lowers the number of streams; refuses one that the model does not have."""
        most = model.stream_count
        if not 1 <= self.streams <= most or most == 1:
            raise Refused("keep_streams", self.streams, f"1 to {most} of a model with several")
        after = replace(model, streams=replace(model.streams, count=self.streams))
        if not trainable(after):
            accepted = "2 or more: a frozen backbone alone is the run before its streams"
            raise Refused("keep_streams", self.streams, accepted)
        return after

    def state(self, state: State, after: Recipe, seed: int) -> State:
        """Takes the parameters of the streams kept; leaves of a new shape get zero moments."""
        params = kept(state.params, self.streams)
        same = lambda path: path in params and params[path] is state.params[path]
        kept_of = lambda tree: {path: x for path, x in tree.items() if same(path)}
        moments, averages = kept_of(state.moments), kept_of(state.averages)
        return carry(
            State(params=params, buffers=state.buffers, moments=moments, averages=averages),
            after,
            seed,
        )
