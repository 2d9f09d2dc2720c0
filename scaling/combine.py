"""Combinators that build lists of runs from plain values."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from refused import Refused
from scaling.changes import Quantize
from scaling.labels import Label, Labelled, labelled
from scaling.runs import Phase, Rate, Run, decay, warmup


def product(**axes: Iterable) -> Iterator[dict]:
    """Yields one dict per element of the Cartesian product of the named axes, last axis fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def sweep(
    arms: Mapping[str, Callable[[float, int], Run]],
    rates: Iterable[float],
    seeds: Iterable[int],
    **labels: Label,
) -> tuple[Labelled, ...]:
    """Builds every arm at every multiple of its reference rate with every seed.

    An arm is a function (rate multiple, seed) → run. Labels are `arm` and `rate`, the multiple,
    after those given.

    Raises:
      Refused: fewer than three rates, with which a best one could not be told from an edge, or
        one that is not above 0.
    """
    rates, seeds = sorted(rates), list(seeds)
    if len(set(rates)) < 3 or not rates[0] > 0:
        raise Refused("config.rates", tuple(rates), "three or more above 0, around 1.0")
    return tuple(
        labelled(build(rate, seed), **labels, arm=arm, rate=rate)
        for arm, build in arms.items()
        for rate in rates
        for seed in seeds
    )


def per_width(widths: Iterable[int], seeds: Iterable[int]) -> list[tuple[int, int]]:
    """Returns each width with its number of seeds.

    The last number also holds for the widths after it, so that one number may stand for all;
    numbers beyond the widths are not used.

    Raises:
      Refused: no number, or one below 1.
    """
    widths, numbers = list(widths), list(seeds)
    if not numbers or min(numbers) < 1:
        accepted = "numbers from 1, one per width; the last holds for the widths after it"
        raise Refused("config.seeds", tuple(numbers), accepted)
    numbers += numbers[-1:] * (len(widths) - len(numbers))
    return list(zip(widths, numbers, strict=False))


def steps_in(tokens: int, batch_tokens: int) -> int:
    """Returns the whole number of steps nearest to a length.

    Raises:
      Refused: a batch of no tokens.
    """
    if batch_tokens < 1:
        raise Refused("batch_tokens", batch_tokens, "1 or more")
    return round(tokens / batch_tokens)


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
    steps = steps_in(tokens, batch_tokens)
    decay_steps = round(steps * decay_fraction)
    if not 0 < decay_steps < steps:
        accepted = (
            f"enough for a stable and a decay step (batch_tokens={batch_tokens}, "
            f"decay_fraction={decay_fraction})"
        )
        raise Refused("tokens", tokens, accepted)
    stable = Phase((steps - decay_steps) * batch_tokens, batch_tokens, warmup(warmup_tokens))
    return stable, Phase(decay_steps * batch_tokens, batch_tokens, decay(shape))


def classic(
    tokens: int,
    batch_tokens: int,
    warmup_tokens: int,
    fraction: float,
    change: Quantize,
    decay_fraction: float = 0.2,
    peak: float = 1.0,
    rewarm_fraction: float = 0.05,
    keep_optimizer: bool = True,
) -> tuple[Phase, ...]:
    """Returns full-precision training to its end, then quantisation-aware training after it.

    The last `fraction` of the tokens is trained quantised: the rate, cooled down by then (`wsd`),
    is raised again over `rewarm_fraction` of it to `peak` times the run's peak and falls to zero
    along a cosine (Dremov et al. 2025, arXiv:2509.22935, section 2.1).

    Raises:
      Refused: a fraction that leaves one of the two phases without its steps.
    """
    plain, quantised = shares(tokens, batch_tokens, fraction)
    rewarm = max(1, round(quantised * rewarm_fraction))
    if rewarm >= quantised:
        accepted = f"enough for a step of re-warming and one of decay (tokens={tokens})"
        raise Refused("fraction", fraction, accepted)
    return (
        *wsd(plain * batch_tokens, batch_tokens, warmup_tokens, decay_fraction),
        Phase(
            rewarm * batch_tokens,
            batch_tokens,
            Rate(0.0, peak, over=rewarm * batch_tokens),
            change=change,
            keep_optimizer=keep_optimizer,
        ),
        Phase((quantised - rewarm) * batch_tokens, batch_tokens, decay("cosine", peak)),
    )


def fused(
    tokens: int,
    batch_tokens: int,
    warmup_tokens: int,
    fraction: float,
    change: Quantize,
    keep_optimizer: bool = True,
) -> tuple[Phase, Phase]:
    """Returns training whose only cooldown is that of its quantised phase.

    The last `fraction` of the tokens starts at the stable rate, where the full-precision phase
    leaves it, and falls to zero along the same cosine as in `classic`: neither a cooldown before
    nor a re-warming (Dremov et al. 2025, arXiv:2509.22935, "cooldown and QAT fusion").

    Raises:
      Refused: a fraction that leaves no quantised step, or no stable one before it.
    """
    plain, quantised = shares(tokens, batch_tokens, fraction)
    if plain * batch_tokens <= warmup_tokens:
        accepted = f"one that leaves a stable phase (tokens={tokens}, warmup={warmup_tokens})"
        raise Refused("fraction", fraction, accepted)
    stable = Phase(plain * batch_tokens, batch_tokens, warmup(warmup_tokens))
    quantised = Phase(
        quantised * batch_tokens,
        batch_tokens,
        decay("cosine"),
        change=change,
        keep_optimizer=keep_optimizer,
    )
    return stable, quantised


def shares(tokens: int, batch_tokens: int, fraction: float) -> tuple[int, int]:
    """Splits a length into steps at full precision and quantised ones; their sum is the whole.

    Raises:
      Refused: a fraction that leaves one of them without a step.
    """
    steps = steps_in(tokens, batch_tokens)
    quantised = round(steps * fraction)
    if not 0 < quantised < steps:
        accepted = f"one that leaves steps before and after the switch ({steps} in all)"
        raise Refused("fraction", fraction, accepted)
    return steps - quantised, quantised
