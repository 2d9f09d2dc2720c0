"""Combinators that build lists of runs from plain values."""

import itertools
from collections.abc import Iterable, Iterator, Mapping

from data import Refused
from scaling.runs import Phase, decay, warmup


def product(**axes: Iterable) -> Iterator[dict]:
    """Yields one dict per element of the Cartesian product of the named axes, last axis fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def zipped(**axes: Iterable) -> Iterator[dict]:
    """Yields one dict per position of named axes of equal length.

    Raises:
      Refused: axes of different lengths.
    """
    axes = {name: list(values) for name, values in axes.items()}
    lengths = {name: len(values) for name, values in axes.items()}
    if len(set(lengths.values())) > 1:
        raise Refused("zipped", lengths, "axes of equal length")
    for values in zip(*axes.values(), strict=True):
        yield dict(zip(axes, values, strict=True))


def chain(*sweeps: Iterable[Mapping]) -> Iterator[dict]:
    """Yields the elements of several sweeps one after the other, each only once."""
    seen = []
    for point in map(dict, itertools.chain(*sweeps)):
        if point not in seen:
            seen.append(point)
            yield point


def wsd(
    tokens: int,
    batch_tokens: int,
    warmup_tokens: int,
    decay_fraction: float = 0.2,
    shape: str = "1-sqrt",
) -> tuple[Phase, Phase]:
    """Returns a warmup–stable–decay schedule; runs of any length share one warmup and plateau.

    The whole length and the decay are rounded to whole steps. A fraction of 0.2 with a 1-sqrt
    shape matched or beat a cosine in Hägele et al. 2024 (arXiv:2405.18392, section 4).

    Raises:
      Refused: a length that leaves no stable or no decay step.
    """
    steps = round(tokens / batch_tokens)
    decay_steps = round(steps * decay_fraction)
    if not 0 < decay_steps < steps:
        accepted = (
            f"enough for a stable and a decay step (batch_tokens={batch_tokens}, "
            f"decay_fraction={decay_fraction})"
        )
        raise Refused("tokens", tokens, accepted)
    stable = Phase((steps - decay_steps) * batch_tokens, batch_tokens, warmup(warmup_tokens))
    return stable, Phase(decay_steps * batch_tokens, batch_tokens, decay(shape))
