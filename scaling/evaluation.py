"""Held-out evaluation: which windows, and a state's nats per token and bits per byte on them."""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
from jax.sharding import Mesh

from data import Corpus, HeldOut
from data.tokenizer import tokenizer_of
from models import ModelConfig
from scaling.downstream import Task, answers, lifted, record, summary
from scaling.mesh import of_one_run, place, state_shardings
from scaling.state import State
from scaling.train import evaluate as summed_nats


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate: tokens per domain, and whether at the ends of runs or of all segments.

    `domains` limits the domains (default: all). `tasks` are asked at the ends of runs. An
    evaluation has an identity of its own, and so has each task.
    """

    tokens_per_domain: int
    everywhere: bool = False
    domains: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()

    def held_out(self, corpus: Corpus, context: int) -> HeldOut:
        """Returns the windows for a context length."""
        return HeldOut(corpus, context, self.tokens_per_domain, self.domains)

    def identity(self, corpus: Corpus, config: ModelConfig) -> str:
        """Names the evaluation of a model, 16 hexadecimal digits: that of its windows.

        Of a model that training limits it also says that the limit was lifted.
        """
        windows = self.held_out(corpus, config.context).identity
        if not (how := lifted(config)):
            return windows
        return hashlib.sha256(f"{windows}{how}".encode()).hexdigest()[:16]

    def asked(self, corpus: Corpus, config: ModelConfig, state: State, there: set) -> list[dict]:
        """Asks the tasks whose answers are not `there`, by identity; returns a line of each."""
        model, lines = (config, state.params, state.buffers), []
        for task in self.tasks:
            if task.identity(config) not in there:
                found = answers(*model, tokenizer_of(corpus), task)
                lines.append(record(task, config, False, summary(task, found)))
        return lines


def evaluate(held_out: HeldOut, config: ModelConfig, mesh: Mesh, state: State) -> dict:
    """Returns `loss` (nats per token) and `bits_per_byte`, each by domain.

    A quantised model is evaluated once more with its weights as they are kept (`…_unquantised`),
    and a run that averages its weights with the averages (`…_averaged`).
    """
    found, others = losses(held_out, config, mesh, state), {}
    if config.quantization is not None:
        others["unquantised"] = (replace(config, quantization=None), state)
    if state.averages:
        others["averaged"] = (config, state.averaged)
    for kind, (other, values) in others.items():
        for name, by_domain in losses(held_out, other, mesh, values).items():
            found[f"{name}_{kind}"] = {domain: finite(x) for domain, x in by_domain.items()}
    return found


def losses(held_out: HeldOut, config: ModelConfig, mesh: Mesh, state: State) -> dict[str, dict]:
    """Returns `loss` and `bits_per_byte` of one configuration, each by domain."""
    windows = {name: held_out.windows(name) for name in held_out.names}
    alone = of_one_run(mesh)
    if alone is not mesh:
        state = place(state, state_shardings(alone, config, state))
    sums = summed_nats(config, alone, state, np.concatenate(list(windows.values())))
    loss, begin = {}, 0
    for name, some in windows.items():
        total = sums[begin : begin + len(some)].sum()
        loss[name] = float(total / (len(some) * (some.shape[1] - 1)))
        begin += len(some)
    per_byte = {n: x / math.log(2) / held_out.bytes_per_token(n) for n, x in loss.items()}
    return {"loss": loss, "bits_per_byte": per_byte}


def finite(x) -> float | None:
    """Returns a float that JSON can hold: None for NaN and infinities."""
    return float(x) if np.isfinite(x) else None
