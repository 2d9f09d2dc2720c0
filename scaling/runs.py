"""What a run is: model, data, optimizer, seed and an ordered chain of phases; and its identity."""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass, field, replace

import numpy as np

import data
import models
from data import Corpus, Mixture
from models import ModelConfig, Settings
from models.ladder import Rung
from models.transformer import LOOPED_LAYERS
from refused import Refused
from scaling.optimizers import AdamW, Optimizer
from scaling.recipe import Averaging, Recipe
from scaling.start import Start

NUMERICS = 1  # Enters every run's identity; raised when a golden table of training changes.
# Enters the identity of runs whose layers are scanned, and no other's: raised to 1 when these were
# first stacked outside of the step, which moved their losses by rounding.
SCANNED = 1


# Fraction of the way from `start` (1) to `stop` (0) as x goes from 0 to 1. "1-sqrt" is the best
# cooldown of Hägele et al. 2024 (arXiv:2405.18392, section 4).
SHAPES = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + np.cos(np.pi * x)) / 2,
    "1-sqrt": lambda x: 1 - np.sqrt(x),
}


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How the learning rate goes over a phase, in multiples of the run's peak rate.

    It moves from `start` to `stop` in the given shape over `over` tokens and stays there; without
    `over` it moves over the whole phase. End points themselves are not visited: step i of n has
    x = (i + 1)/(n + 1), so no step is spent at a rate of zero.
    """

    start: float = 1.0
    stop: float = 1.0
    shape: str = "linear"
    over: int | None = None

    def __post_init__(self):
        if self.shape not in SHAPES:
            raise Refused("rate.shape", self.shape, f"one of {', '.join(SHAPES)}")
        if self.over is not None and self.over < 0:
            raise Refused("rate.over", self.over, "a number of tokens, 0 or more")

    @property
    def prefix_closed(self) -> bool:
        """Says whether the rate at a step is independent of where the phase ends."""
        return self.start == self.stop or self.over is not None


def constant(level: float = 1.0) -> Rate:
    """Holds the rate at a multiple of the peak."""
    return Rate(start=level, stop=level)


def warmup(over: int) -> Rate:
    """Raises the rate linearly from zero to the peak over `over` tokens, then holds it."""
    return Rate(start=0.0, stop=1.0, shape="linear", over=over)


def decay(shape: str = "1-sqrt", start: float = 1.0, stop: float = 0.0) -> Rate:
    """Lowers the rate to zero over the whole phase."""
    return Rate(start=start, stop=stop, shape=shape)


@dataclass(frozen=True)
class Phase:
    """A stretch of training: `tokens` in batches of `batch_tokens`, at a rate, on a mixture.

    `mixture` None keeps the one before. `change` is applied to configuration and state at the
    phase's start. `keep_optimizer` False starts the phase with fresh optimizer state.
    """

    tokens: int
    batch_tokens: int
    rate: Rate = field(default_factory=constant)
    mixture: Mixture | None = None
    change: object | None = None
    keep_optimizer: bool = True

    def __post_init__(self):
        if self.batch_tokens < 1:
            raise Refused("phase.batch_tokens", self.batch_tokens, "1 or more")
        if 0 < self.tokens < self.batch_tokens:
            accepted = f"at least one step of batch_tokens={self.batch_tokens}"
            raise Refused("phase.tokens", self.tokens, accepted)
        if self.tokens % self.batch_tokens or self.tokens < 0:
            near = round(self.tokens / self.batch_tokens) * self.batch_tokens
            accepted = f"a multiple of batch_tokens={self.batch_tokens}, such as {near}"
            raise Refused("phase.tokens", self.tokens, accepted)

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.tokens // self.batch_tokens

    @property
    def prefix_closed(self) -> bool:
        """Says whether a step of this phase is independent of where the phase ends."""
        return self.rate.prefix_closed

    def rates(self, start: int, stop: int) -> np.ndarray:
        """Returns the rate multipliers [stop − start] of steps `start` to `stop` (float64)."""
        rate = self.rate
        length = self.steps if rate.over is None else rate.over / self.batch_tokens
        x = np.minimum((np.arange(start, stop) + 1) / (length + 1), 1.0)
        return rate.stop + (rate.start - rate.stop) * SHAPES[rate.shape](x)


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run reads: a corpus by name and content hash, and the mixture it starts with."""

    corpus: str
    content: str
    mixture: Mixture

    @classmethod
    def of(cls, corpus: Corpus, mixture: Mixture) -> "Data":
        """Returns a mixture of an opened corpus."""
        return cls(corpus=corpus.name, content=corpus.content_hash, mixture=mixture)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run; its identity is the hash of everything that changes its numbers.

    It begins with values drawn by its seed, or with those of `start` (`interchange.begin`).
    """

    model: ModelConfig
    data: Data
    optimizer: Optimizer
    seed: int
    phases: tuple[Phase, ...]
    averaging: Averaging | None = None
    start: Start | None = None

    @classmethod
    def of(cls, rung: Rung, data: Data, seed: int, phases: tuple[Phase, ...]) -> "Run":
        """Returns the run of a rung of the ladder, at its own rate."""
        optimizer = AdamW(learning_rate=rung.learning_rate, weight_decay=rung.weight_decay)
        return cls(model=rung.model, data=data, optimizer=optimizer, seed=seed, phases=phases)

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:
            raise Refused("run.seed", self.seed, "an integer from 0 to 2^31 − 1")
        for index, phase in enumerate(self.phases):
            context = self.model_at(index).context
            if phase.batch_tokens % context:
                accepted = f"a multiple of model.context={context}"
                raise Refused("phase.batch_tokens", phase.batch_tokens, accepted)

    @functools.cached_property
    def identity(self) -> str:
        """Sixteen hexadecimal digits that name the run and the state at its end."""
        numerics = [models.NUMERICS, data.NUMERICS, NUMERICS]
        numerics += [SCANNED] if self.model.depth > LOOPED_LAYERS else []
        spec = [numerics, canonical(self)]
        text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def tokens(self) -> int:
        """Tokens trained on, over all phases."""
        return sum(phase.tokens for phase in self.phases)

    @property
    def steps(self) -> int:
        """Optimizer steps, over all phases."""
        return sum(phase.steps for phase in self.phases)

    def model_at(self, index: int) -> ModelConfig:
        """Returns the configuration in force during a phase; −1 is the last."""
        last = index % len(self.phases) if self.phases else -1
        changes = [p.change for p in self.phases[: last + 1] if p.change is not None]
        return functools.reduce(lambda config, change: change.config(config), changes, self.model)

    def recipe_at(self, index: int) -> Recipe:
        """Returns the recipe in force during a phase; −1 is the last."""
        return replace(self.recipe, model=self.model_at(index))

    @property
    def recipe(self) -> Recipe:
        """The recipe before any phase's change."""
        return Recipe(model=self.model, optimizer=self.optimizer, averaging=self.averaging)

    def mixture_at(self, index: int) -> Mixture:
        """Returns the mixture in force during a phase."""
        given = [p.mixture for p in self.phases[: index + 1] if p.mixture is not None]
        return given[-1] if given else self.data.mixture

    def until(self, index: int, tokens: int | None = None) -> "Run":
        """Cuts the run after phase `index`, or `tokens` into it (for prefix-closed phases)."""
        phases = self.phases[: index + 1]
        if tokens is not None:
            phases = (*phases[:-1], replace(phases[-1], tokens=tokens))
        return replace(self, phases=phases)

    @functools.cached_property
    def trunk(self) -> str:
        """Names what runs of one trunk share: model, data, optimizer, seed and a first phase."""
        if not self.phases:
            return self.identity
        return self.until(0, 0 if self.phases[0].prefix_closed else None).identity

    def flops(self, name: str = "flops_train") -> float:
        """Sums training FLOPs over the phases, each at its own configuration."""
        return sum(
            getattr(models.count(self.model_at(i)), name) * phase.tokens
            for i, phase in enumerate(self.phases)
        )


def canonical(value):
    """Turns a run into JSON values without what equals its default.

    So a new field with a default re-hashes nothing. What does not compare, such as where a file
    is, is left out as well. Changes, a part's settings and optimizers
    carry the name of their class, but for AdamW, which runs had before there was a choice.
    """
    if dataclasses.is_dataclass(value):
        fields = {
            f.name: canonical(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.compare and not is_default(f, getattr(value, f.name))
        }
        name = type(value).__name__
        chosen = hasattr(value, "config") or isinstance(value, (Settings, Optimizer))
        return [name, fields] if chosen and name != AdamW.__name__ else fields
    if isinstance(value, (tuple, list)):
        return [canonical(v) for v in value]
    return value


def is_default(field_, value) -> bool:
    """Says whether a field's value equals its default."""
    if field_.default is not dataclasses.MISSING:
        return value == field_.default
    if field_.default_factory is not dataclasses.MISSING:
        return value == field_.default_factory()
    return False
