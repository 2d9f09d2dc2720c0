"""Changes: what a phase may alter at its start.

A change is a frozen dataclass of two pure functions, `config(model) -> model` and
`state(state, after, seed) -> state`, where `after` is the recipe from then on. `carry` does the
second for every change that only adds, drops or freezes leaves.
"""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar

from models import ModelConfig, Quantization, skeleton
from models.quantize import scales
from refused import Refused
from scaling.recipe import Recipe
from scaling.state import State, fresh, fresh_averages, trainable


@dataclass(frozen=True)
class Freeze:
    """Stops training the parameters whose path matches `pattern` (`fnmatch`, such as "layers.0.*").

    Their optimizer state is dropped; they neither move nor decay.
    """

    pattern: str

    def config(self, model: ModelConfig) -> ModelConfig:
        """Adds the pattern; refuses one that matches nothing or everything."""
        paths = list(skeleton(model).params)
        if not any(fnmatchcase(path, self.pattern) for path in paths):
            raise Refused(
                "freeze.pattern", self.pattern, f"a pattern of some of {', '.join(paths)}"
            )
        frozen = replace(model, frozen=(*model.frozen, self.pattern))
        if not trainable(frozen):
            raise Refused("freeze.pattern", self.pattern, "a pattern that leaves some to train")
        return frozen

    def state(self, state: State, after: Recipe, seed: int) -> State:
        """Keeps every value."""
        return carry(state, after, seed)


@dataclass(frozen=True)
class ContextLength:
    """Changes the number of tokens that a window holds and attention sees."""

    context: int

    def config(self, model: ModelConfig) -> ModelConfig:
        """Replaces the context length."""
        return replace(model, context=self.context)

    def state(self, state: State, after: Recipe, seed: int) -> State:
        """Keeps every value: rotary positions have no parameters."""
        return carry(state, after, seed)


@dataclass(frozen=True)
class Quantize:
    """Starts quantisation-aware training: from here on weights are read at few `bits`.

    `rule` and `scales` are those of `models.Quantization`. Weights keep their float32 values and
    moments (`Phase.keep_optimizer` says whether to keep the latter); learned scales start from the
    weights at the switch. `bits` None changes nothing: the arm of a study that stays at full
    precision.
    """

    needs_steps: ClassVar[bool] = True  # Quantisation-aware training without any is a slip.

    bits: float | None
    rule: tuple[tuple[str, float | None], ...] = ()
    scales: str = "learned"

    def config(self, model: ModelConfig) -> ModelConfig:
        """Adds the quantisation; refuses a second one, and a rule that fits no array."""
        if self.bits is None:
            return model
        if model.quantization is not None:
            accepted = f"nothing: the model is quantised to {model.quantization.bits} bits already"
            raise Refused("quantize.bits", self.bits, accepted)
        quantised = replace(model, quantization=Quantization(self.bits, self.rule, self.scales))
        skeleton(quantised)  # Refuses a rule that fits no array.
        return quantised

    def state(self, state: State, after: Recipe, seed: int) -> State:
        """Keeps every value and adds the scales."""
        return carry(state, after, seed)


def carry(state: State, after: Recipe, seed: int) -> State:
    """Moves a state to a new recipe: kept leaves unchanged, new ones freshly started.

    Kept parameters, buffers, moments and averages are the same arrays; a new leaf is drawn from its
    own stream (learned scales from their weights) and gets zero moments and a step count of its
    own; leaves that the new model lacks, and moments and averages of frozen ones, are dropped.
    """
    bones = skeleton(after.model)
    new = bones.params.keys() - state.params.keys() | bones.buffers.keys() - state.buffers.keys()
    params, buffers = bones.initialise(seed, paths=new)
    params |= state.params
    params = scales(bones.quantizers, params) | params
    params = {path: params[path] for path in bones.params}
    buffers = {path: state.buffers.get(path, buffers.get(path)) for path in bones.buffers}
    train = trainable(after.model)
    lacking = lambda had: {path: params[path] for path in train if path not in had}
    moments = state.moments | fresh(after, lacking(state.moments))
    averages = state.averages | fresh_averages(after, lacking(state.averages))
    return State(
        params=params,
        buffers=buffers,
        moments={path: moments[path] for path in train},
        averages={path: averages[path] for path in train if path in averages},
    )
