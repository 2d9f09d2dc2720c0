"""Candidate mixtures for proxy runs, drawn as RegMix draws them, and the caps that sizes put."""

from collections.abc import Iterable, Mapping

import numpy as np

from data.corpus import Corpus, windows
from data.mixtures import Mixture, require_domains
from data.order import PERIOD
from refused import Refused

# RegMix, Liu et al. 2024 (arXiv:2407.01492): the constants of its sampling script,
# mixture_config/synthesize_mixture.py of github.com/sail-sg/regmix, commit 0928f16; section 3.1
# of the paper describes the draw.
TEMPERED = 0.5  # TEMP: power of the prior's shares, so that small domains are tried as well
STRENGTHS = np.geomspace(0.1, 5.0, 15)  # MIN_STRENGH, MAX_STRENGH and their number
MOST_TIMES_PRIOR = 15.0  # MAXIMUM_USAGE: largest share, in multiples of the prior's own
SMALLEST = 2e-4  # MINIMUM: smaller shares become zero, others multiples of it; here 1/`PERIOD`
OVERSAMPLED = 100  # SAMPLE_MULTIPLIER: draws per candidate kept
DISTINCT = 1e-5  # threshold: L1 distance up to which two candidates are the same


def candidates(
    prior: Mixture, count: int, seed: int, caps: Mapping[str, float] | None = None
) -> tuple[Mixture, ...]:
    """Draws distinct mixtures around a prior, from almost one domain to nearly all alike.

    A draw is Dirichlet with mean prior^0.5 (renormalised) at one of fifteen strengths; draws with
    a share above 15 times the prior's are rejected, shares are rounded to 1/`PERIOD`, duplicates
    left out, and `count` of the rest chosen at random.

    Args:
      prior: at least two domains with shares above zero.
      seed: of the draw; equal arguments give equal candidates.
      caps: largest share by domain (see `largest_shares`), besides 15 times the prior's.

    Raises:
      Refused: a prior of one domain, a cap for a domain outside the prior, or caps that leave
        fewer than `count` distinct mixtures.
    """
    names, shares = prior.names, prior.array(prior.names)
    if len(names) < 2:
        raise Refused("prior", ", ".join(names), "a mixture of two or more domains")
    if count < 1:
        raise Refused("candidates", count, "1 or more")
    most = np.minimum(MOST_TIMES_PRIOR * shares, 1.0)
    for name, cap in (caps or {}).items():
        if name not in names:
            raise Refused(f"caps.{name}", "a domain outside the prior", ", ".join(names))
        most[names.index(name)] = min(most[names.index(name)], cap)
    rng = np.random.default_rng(seed)
    mean = shares**TEMPERED / np.sum(shares**TEMPERED)
    strength = rng.choice(STRENGTHS, count * OVERSAMPLED)
    drawn = rng.standard_gamma(strength[:, None] * mean)
    drawn = drawn[drawn.sum(axis=1) > 0]  # gammas this concentrated may all underflow
    drawn /= drawn.sum(axis=1, keepdims=True)
    drawn = drawn[(drawn <= most).all(axis=1)]
    drawn = on_grid(np.where(drawn < SMALLEST, 0.0, drawn))
    drawn = drawn[(drawn <= most + 1e-12).all(axis=1)]  # rounding may have crossed a cap
    # On a grid of 2e-4, mixtures within an L1 distance of 1e-5 are equal.
    drawn = np.unique(np.round(drawn / DISTINCT).astype(np.int64), axis=0) * DISTINCT
    if len(drawn) < count:
        accepted = f"at most {len(drawn)}, what is left under the largest shares"
        raise Refused("candidates", count, accepted)
    chosen = rng.choice(len(drawn), count, replace=False)
    rows = on_grid(drawn[chosen]).tolist()
    return tuple(Mixture.of(dict(zip(names, row, strict=True))) for row in rows)


def on_grid(shares: np.ndarray) -> np.ndarray:
    """Rounds mixtures [..., D] to multiples of 1/`PERIOD` that sum to 1, by largest remainder.

    A share never crosses a bound that is itself such a multiple.
    """
    shares = np.asarray(shares, float)
    scaled = shares / shares.sum(axis=-1, keepdims=True) * PERIOD
    count = np.floor(scaled + 1e-9)
    short = PERIOD - count.sum(axis=-1, keepdims=True)
    order = np.argsort(count - scaled, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1, kind="stable")
    return (count + (rank < short)) / PERIOD


def largest_shares(
    corpus: Corpus, tokens: int, epochs: float, context: int, names: Iterable[str] | None = None
) -> dict[str, float]:
    """The largest share of each domain that reads it at most `epochs` times in `tokens` tokens.

    Rounded down to 1/`PERIOD`, so that a run of that share stays within the epochs.

    Args:
      names: domains (default: the corpus's main ones).

    Raises:
      Refused: a domain that the corpus lacks, tokens, epochs or a context that are not positive.
    """
    names = tuple(corpus.main if names is None else names)
    require_domains(names, corpus)
    for field, value in (("tokens", tokens), ("epochs", epochs), ("context", context)):
        if not value > 0:
            raise Refused(field, value, "a number above 0")
    there = {n: windows(corpus.domains[n].train_tokens, context) * context for n in names}
    return {n: min(1.0, np.floor(PERIOD * epochs * t / tokens) / PERIOD) for n, t in there.items()}
