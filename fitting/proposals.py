"""From a predicted loss to a mixture to train: within bounds, and not far from what was tried.

Mixtures are arrays [D] of shares in the order of `Proxies.domains`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fitting.mixtures import MixingLaw, Predictor, Proxies, Weighted, by_name
from refused import Refused

# RegMix (arXiv:2407.01492, section 3.3) simulates a million mixtures and averages the best 100.
SIMULATED, AVERAGED = 1_000_000, 100
BLOCK = 100_000  # simulated mixtures predicted at a time, which bounds memory

KL_WEIGHT = 0.05  # nats of loss per nat of divergence; Olmix (arXiv:2602.12237), its default

TINY = 1e-300  # stands for 0 under a logarithm
SLACK = 1e-9  # by which sums of bounds may miss 1


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest share of every domain, arrays [D] of numbers from 0 to 1.

    Raises:
      Refused: bounds between which no mixture lies.
    """

    domains: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray

    def __post_init__(self):
        for name, low, high in zip(self.domains, self.low, self.high, strict=True):
            if not low <= high:
                accepted = f"at most {high:g}, its largest share"
                raise Refused(f"bounds.{name}", f"a smallest share of {low:g}", accepted)
        if self.low.sum() > 1 + SLACK:
            said = f"smallest shares that sum to {self.low.sum():.4g}"
            raise Refused("bounds", said, "a sum of at most 1")
        if self.high.sum() < 1 - SLACK:
            said = f"largest shares that sum to {self.high.sum():.4g}"
            raise Refused("bounds", said, "a sum of at least 1")

    @classmethod
    def of(
        cls,
        domains: Iterable[str],
        smallest: Mapping[str, float] | None = None,
        largest: Mapping[str, float] | None = None,
        sizes: Mapping[str, float] | None = None,
        tokens: float | None = None,
        epochs: float = 1.0,
    ) -> "Bounds":
        """The bounds by domain name, default 0 and 1, and repetition caps.

        Args:
          sizes: distinct training tokens by domain; with `tokens`, the length of the run to come,
            no domain's share exceeds epochs x size / tokens.

        Raises:
          Refused: an unknown domain, a bound outside 0 to 1, bounds that no mixture meets, or a
            smallest share that needs more epochs than allowed.
        """
        domains = tuple(domains)
        low = by_name(domains, smallest or {}, "smallest")
        high = by_name(domains, dict.fromkeys(domains, 1.0) | dict(largest or {}), "largest")
        for field, bounds in (("smallest", low), ("largest", high)):
            for name, value in zip(domains, bounds, strict=True):
                if not 0 <= value <= 1:
                    raise Refused(f"{field}.{name}", value, "a share from 0 to 1")
        if sizes is not None:
            size = by_name(domains, sizes, "sizes")
            if tokens is None or not tokens > 0:
                raise Refused("tokens", tokens, "the length of the run that the sizes cap")
            for name, share, there in zip(domains, low, size, strict=True):
                needs_epochs(name, share, there, tokens, epochs)
            high = np.minimum(high, epochs * size / tokens)
        return cls(domains, low, high)

    def project(self, mixtures: np.ndarray) -> np.ndarray:
        """The nearest mixtures [n, D] within the bounds (Euclidean); those inside stay as they are.

        Each is clip(mixture + shift, low, high) with the shift at which it sums to 1, found by
        bisection, so that bounds hold exactly.
        """
        inside = ((mixtures >= self.low) & (mixtures <= self.high)).all(axis=1)
        inside &= np.abs(mixtures.sum(axis=1) - 1) <= SLACK
        out = mixtures.copy()
        out[~inside] = self._shifted(mixtures[~inside])
        return out

    def _shifted(self, mixtures: np.ndarray) -> np.ndarray:
        left = (self.low - mixtures).min(axis=1)
        right = (self.high - mixtures).max(axis=1)
        for _ in range(60):
            middle = (left + right) / 2
            total = np.clip(mixtures + middle[:, None], self.low, self.high).sum(axis=1)
            left, right = np.where(total < 1, middle, left), np.where(total < 1, right, middle)
        return np.clip(mixtures + right[:, None], self.low, self.high)


def needs_epochs(name: str, share: float, size: float, tokens: float, epochs: float) -> None:
    """Raises `Refused` when a share of a run reads a domain more often than allowed."""
    needed = share * tokens / size if size else (np.inf if share else 0.0)
    if needed > epochs * (1 + SLACK):
        said = f"{share:g} of {tokens:g} tokens, {needed:.2f} epochs"
        accepted = f"at most {epochs:g} epochs, a share of {epochs * size / tokens:.4g}"
        raise Refused(f"share of {name}", said, accepted)


def simulate(
    predict: Predictor,
    prior: np.ndarray,
    bounds: Bounds,
    count: int = SIMULATED,
    averaged: int = AVERAGED,
    seed: int = 0,
) -> np.ndarray:
    """Averages the mixtures of the lowest predicted losses among many drawn around a prior.

    Mixtures are drawn from the Dirichlet distribution whose parameters are the prior's shares,
    as in RegMix's notebook, and moved to the nearest ones within the bounds.

    Args:
      prior: [D] on the simplex; a domain without a share is never drawn.

    Raises:
      Refused: fewer draws than are averaged.
    """
    if not 1 <= averaged <= count:
        raise Refused("averaged", averaged, f"1 to {count}, the simulated mixtures")
    rng = np.random.default_rng(seed)
    best, losses = np.empty((0, len(prior))), np.empty(0)
    for begin in range(0, count, BLOCK):
        drawn = rng.standard_gamma(np.tile(prior, (min(BLOCK, count - begin), 1)))
        drawn = drawn[drawn.sum(axis=1) > 0]
        drawn = bounds.project(drawn / drawn.sum(axis=1, keepdims=True))
        best, losses = np.concatenate([best, drawn]), np.r_[losses, predict(drawn)]
        kept = np.argsort(losses, kind="stable")[:averaged]
        best, losses = best[kept], losses[kept]
    return bounds.project(best.mean(axis=0, keepdims=True))[0]


def convex(
    laws: Weighted,
    prior: np.ndarray,
    bounds: Bounds,
    kl: float = KL_WEIGHT,
    tolerance: float = 1e-10,
    iterations: int = 20_000,
) -> np.ndarray:
    """Minimises the predicted loss + kl x KL(mixture ‖ prior) within the bounds (Olmix's form).

    Log-linear laws are convex in the mixture, so the minimum is unique for kl > 0. Mirror descent
    in the entropy's geometry, the divergence taken whole in each step, with backtracking; each
    step ends on the bounds exactly.

    Args:
      laws: log-linear laws with the weights of the target's domains.
      prior: [D] on the simplex; a domain without a share gets none when kl > 0.

    Raises:
      Refused: laws that are not log-linear, a negative kl, bounds that ask for a share of a
        domain which the prior leaves out, or no convergence.
    """
    if not all(isinstance(part, MixingLaw) for part in laws.parts):
        raise Refused("regressor", "not log-linear", "log_linear, or the proposer `simulate`")
    if not kl >= 0:
        raise Refused("kl", kl, "0 or more")
    high = np.where(prior > 0, bounds.high, 0.0) if kl > 0 else bounds.high
    bounds = Bounds(bounds.domains, bounds.low, high)
    log_prior = np.log(np.maximum(prior, TINY))
    rates = np.stack([law.rates for law in laws.parts])

    def slope(x):
        return (np.exp(rates @ x) * np.array(laws.weights)) @ rates

    x = tilted(np.log(np.maximum(prior, 1e-12)), bounds)
    gradient, log_x, step = slope(x), np.log(np.maximum(x, TINY)), 1.0
    for _ in range(iterations):
        while True:
            score = (kl * log_prior + log_x / step - gradient) / (kl + 1 / step)
            after = tilted(score, bounds)
            new, log_after = slope(after), np.log(np.maximum(after, TINY))
            # Smooth relative to the entropy, along this step (Lu et al. 2018, arXiv:1610.05708).
            curved, allowed = (new - gradient) @ (after - x), (log_after - log_x) @ (after - x)
            if curved * step <= allowed or step < 1e-9:
                break
            step /= 2
        settled = np.abs(after - x).max() <= tolerance * min(1.0, step)
        x, gradient, log_x = after, new, log_after
        if settled:
            return x
        step = min(step * 1.5, 1e6)
    raise Refused("kl", f"{kl:g} (no convergence in {iterations} steps)", "a larger value")


def tilted(score: np.ndarray, bounds: Bounds) -> np.ndarray:
    """The mixture clip(e^(score + shift), low, high) whose shift makes it sum to 1."""
    score = score - score.max()
    left, right = -800.0, 800.0 - min(float(score.min()), 0.0)
    for _ in range(80):
        middle = (left + right) / 2
        total = np.clip(np.exp(np.minimum(score + middle, 50.0)), bounds.low, bounds.high).sum()
        left, right = (middle, right) if total < 1 else (left, middle)
    return np.clip(np.exp(np.minimum(score + right, 50.0)), bounds.low, bounds.high)


def distances(mixtures: Mapping[str, np.ndarray], proxies: Proxies) -> pd.DataFrame:
    """How far mixtures are from the sampled ones, in total variation (0 equal, 1 disjoint).

    Returns:
      one row per mixture: mixture, distance (to the nearest sampled mixture) and farther, the
      fraction of sampled mixtures that are farther than that from their own nearest neighbour.
      A mixture that few are farther than lies outside what the regression has seen.
    """
    apart = lambda x: np.abs(proxies.shares - x).sum(axis=1) / 2
    own = np.array([np.delete(apart(x), i).min() for i, x in enumerate(proxies.shares)])
    rows = []
    for name, mixture in mixtures.items():
        nearest = float(apart(mixture).min())
        rows.append(
            {"mixture": name, "distance": nearest, "farther": float(np.mean(own > nearest))}
        )
    return pd.DataFrame(rows)
