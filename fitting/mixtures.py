"""From the losses of proxy runs to a predicted loss for any mixture, and how far to trust it.

A regressor is a function (shares [n, D], losses [n]) → predictor, and a predictor is a function
shares [m, D] → losses [m]. Shares are of training tokens, losses in nats/token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from refused import Refused

Predictor = Callable[[np.ndarray], np.ndarray]
Regressor = Callable[[np.ndarray, np.ndarray], Predictor]

# Published tables round shares to 1e-3: 17 of them miss a sum of 1 by up to 4e-3.
SIMPLEX_TOLERANCE = 5e-3

HUBER = 0.03  # nats/token; Ye et al. 2024 (arXiv:2403.16952) fit with 0.01 to 0.05
FLOORS = (0.05, 0.5, 2.0)  # starts of c below the lowest loss, in ranges of the losses

# LightGBM as in RegMix's regression notebook (arXiv:2407.01492; github.com/sail-sg/regmix, commit
# 0928f16): l2, rate 0.01, 1000 rounds, seed 42; leaves and the fewest runs in a leaf are
# LightGBM's defaults. Its early stopping on the test mixtures is left out.
ROUNDS, LEAST_IN_LEAF = 1000, 20
TREES = {"objective": "l2", "learning_rate": 0.01, "num_leaves": 31, "seed": 42}
TREES |= {"min_child_samples": LEAST_IN_LEAF}

PENALTIES = tuple(np.geomspace(1e-4, 1e2, 13))  # of ridge, in units of the shares' variance × runs


@dataclass(frozen=True)
class Proxies:
    """Proxy runs: their mixtures, their losses on the target's domains, and the target's weights.

    domains: names [D]; shares: [n, D], rows on the simplex; target: weights by domain, summing to
    1; losses: [n, targets], nats/token, in the order of `target`.
    """

    domains: tuple[str, ...]
    shares: np.ndarray
    target: Mapping[str, float]
    losses: np.ndarray

    @classmethod
    def of(cls, frame: pd.DataFrame, target: str | Mapping[str, float]) -> "Proxies":
        """Reads columns `mixture.<domain>` and `loss.<target>`; diverged runs are left out.

        Args:
          frame: one row per proxy run; an empty share is none.
          target: a domain, or weights by domain that sum to 1.

        Raises:
          Refused: a target that the table lacks, weights that do not sum to 1, fewer than two
            domains, mixtures off the simplex, an empty or non-positive loss.
        """
        target = {target: 1.0} if isinstance(target, str) else dict(target)
        weights = np.array(list(target.values()), float)
        if not (len(weights) and (weights >= 0).all() and abs(weights.sum() - 1) <= 1e-6):
            raise Refused("target", target, "weights from 0 to 1 that sum to 1")
        if "diverged_step" in frame:
            frame = frame[frame["diverged_step"].isna()]
        known = [name[5:] for name in map(str, frame) if name.startswith("loss.")]
        for name in target:
            if name not in known:
                raise Refused("target", name, f"one of {', '.join(known) or 'no loss columns'}")
        columns = [name for name in map(str, frame) if name.startswith("mixture.")]
        if len(columns) < 2:
            accepted = "two or more mixture.<domain> columns"
            raise Refused("mixture", ", ".join(columns) or "no column", accepted)
        shares = on_simplex(frame[columns].fillna(0.0).to_numpy(float))
        losses = frame[[f"loss.{name}" for name in target]].to_numpy(float)
        if not (np.isfinite(losses) & (losses > 0)).all():
            bad = losses[~(np.isfinite(losses) & (losses > 0))][0]
            raise Refused("loss", bad, "a positive loss in nats/token for every proxy and target")
        return cls(tuple(name[8:] for name in columns), shares, target, losses)

    def __len__(self) -> int:
        return len(self.shares)

    @property
    def loss(self) -> np.ndarray:
        """The target's loss [n], nats/token: the weighted mean over its domains."""
        return self.losses @ np.array(list(self.target.values()))

    def only(self, rows) -> "Proxies":
        """Some of the runs, by index or mask."""
        return replace(self, shares=self.shares[rows], losses=self.losses[rows])


def by_name(domains, shares: Mapping[str, float], field: str = "mixture") -> np.ndarray:
    """Numbers by domain name as an array [D], 0 where there is none; Refused for unknown names."""
    for name in shares:
        if name not in domains:
            raise Refused(f"{field}.{name}", "an unknown domain", ", ".join(domains))
    return np.array([float(shares.get(name, 0.0)) for name in domains])


def on_simplex(shares: np.ndarray) -> np.ndarray:
    """Returns mixtures [n, D] as they are.

    Raises:
      Refused: a share outside 0 to 1, or shares that do not sum to 1 within `SIMPLEX_TOLERANCE`.
    """
    for index, row in enumerate(shares):
        if not ((row >= 0) & (row <= 1)).all():
            bad = row[~((row >= 0) & (row <= 1))][0]
            raise Refused(f"mixture {index}", f"a share of {bad:g}", "shares from 0 to 1")
        if abs(row.sum() - 1) > SIMPLEX_TOLERANCE:
            raise Refused(f"mixture {index}", f"shares that sum to {row.sum():.4g}", "a sum of 1")
    return shares


@dataclass(frozen=True)
class MixingLaw:
    """The log-linear mixing law, loss = c + exp(sum of rate x share).

    The usual factor k is in the rates: shares sum to 1, so adding log k to all of them
    multiplies by k (Ye et al. 2024, arXiv:2403.16952, eq. 1; Olmix, arXiv:2602.12237).
    """

    c: float
    rates: np.ndarray

    def __call__(self, shares: np.ndarray) -> np.ndarray:
        return self.c + np.exp(shares @ self.rates)


def log_linear(shares: np.ndarray, losses: np.ndarray) -> MixingLaw:
    """Fits the log-linear mixing law by Huber loss on the losses, c ≥ 0, from several starts."""
    enough("log_linear", len(losses), shares.shape[1])
    ones = np.ones(len(losses))

    def miss(p):
        return p[0] + np.exp(np.minimum(shares @ p[1:], 50.0)) - losses

    def slope(p):
        return np.column_stack([ones, np.exp(np.minimum(shares @ p[1:], 50.0))[:, None] * shares])

    low = np.r_[0.0, np.full(shares.shape[1], -np.inf)]
    found = []
    for floor in FLOORS:
        c = max(losses.min() - floor * max(np.ptp(losses), 1e-6), 1e-6)
        log = np.log(np.maximum(losses - c, 1e-9))
        start = np.r_[c, np.linalg.lstsq(shares, log, rcond=None)[0]]
        options = dict(bounds=(low, np.inf), loss="huber", f_scale=HUBER, max_nfev=500)
        found.append(least_squares(miss, start, slope, **options))
    best = min(found, key=lambda result: result.cost).x
    return MixingLaw(float(best[0]), best[1:])


def ridge(shares: np.ndarray, losses: np.ndarray, penalties=PENALTIES) -> Predictor:
    """Fits a linear law with the penalty that leaves the least error of one run left out.

    A single penalty of 0 is least squares.
    """
    enough("ridge", len(losses), shares.shape[1])
    middle, mean = shares.mean(axis=0), losses.mean()
    u, s, v = np.linalg.svd(shares - middle, full_matrices=False)
    kept = s > 1e-10 * s[0]
    u, s, v = u[:, kept], s[kept], v[kept]
    scale, best = np.mean(s**2), (np.inf, None)
    for penalty in penalties:
        shrink = s**2 / (s**2 + penalty * scale)
        leverage = (u**2) @ shrink + 1 / len(losses)
        left_out = (losses - mean - u @ (shrink * (u.T @ (losses - mean)))) / (1 - leverage)
        rates = v.T @ (shrink / s * (u.T @ losses))
        best = min(best, (np.mean(left_out**2), rates), key=lambda pair: pair[0])
    return lambda x: mean + (x - middle) @ best[1]


def lightgbm(
    shares: np.ndarray, losses: np.ndarray, watch: tuple[np.ndarray, np.ndarray] | None = None
) -> Predictor:
    """Fits boosted trees with RegMix's settings, all rounds of them.

    Args:
      watch: (shares, losses) whose error stops the rounds early, as the published notebook does
        with its own test mixtures.

    Raises:
      Refused: fewer than two leaves of runs, with which the trees would be a constant; or
        LightGBM is not installed.
    """
    enough("lightgbm", len(losses), shares.shape[1])
    import lightgbm as package  # here, because it is an extra

    data = package.Dataset(shares, losses)
    # It watches l1 and l2: stopping on l2 alone trains longer and ranks three domains better.
    options = TREES | {"metric": ["l1", "l2"], "num_threads": 1, "verbosity": -1}
    extra = {}
    if watch is not None:
        extra["valid_sets"] = [data.create_valid(*watch)]
        extra["callbacks"] = [package.early_stopping(3, verbose=False)]
    model = package.train(options, data, num_boost_round=ROUNDS, **extra)
    if np.ptp(losses) > 0 and np.ptp(model.predict(shares)) == 0:
        said = f"{len(losses)}, of which no split leaves {LEAST_IN_LEAF} on both sides"
        raise Refused("proxies for lightgbm", said, "more, or another regressor")
    return lambda x: np.asarray(model.predict(x))


REGRESSORS: dict[str, Regressor] = {"log_linear": log_linear, "ridge": ridge, "lightgbm": lightgbm}

# The fewest runs with which a regressor is more than determined, by the number of domains.
FEWEST: dict[str, Callable[[int], int]] = {
    "log_linear": lambda domains: domains + 2,
    "ridge": lambda domains: domains + 1,
    "lightgbm": lambda domains: 2 * LEAST_IN_LEAF,
}


def enough(regressor: str, runs: int, domains: int, what: str = "") -> None:
    """Raises `Refused` when a regressor is unknown, not installed or needs more runs than these."""
    if regressor not in REGRESSORS:
        raise Refused("regressor", regressor, ", ".join(REGRESSORS))
    if regressor == "lightgbm" and find_spec("lightgbm") is None:
        accepted = "pip install espalier[regmix], or another regressor"
        raise Refused("regressor", "lightgbm, which is not installed", accepted)
    needed = FEWEST[regressor](domains)
    if runs < needed:
        raise Refused(f"proxies for {regressor}", f"{runs}{what}", f"{needed} or more")


def usable(runs: int, domains: int) -> tuple[str, ...]:
    """The regressors that are installed and need no more runs than these."""
    installed = [n for n in REGRESSORS if n != "lightgbm" or find_spec("lightgbm") is not None]
    return tuple(name for name in installed if runs >= FEWEST[name](domains))


@dataclass(frozen=True)
class Weighted:
    """A predictor per domain of the target, summed with the target's weights."""

    weights: tuple[float, ...]
    parts: tuple[Predictor, ...]

    def __call__(self, shares: np.ndarray) -> np.ndarray:
        return sum(w * part(shares) for w, part in zip(self.weights, self.parts, strict=True))


def fit_target(regressor: str | Regressor, proxies: Proxies) -> Weighted:
    """Fits a regressor, or the one of that name, to every domain of the target.

    Raises:
      Refused: an unknown name, or fewer proxies than the regressor needs.
    """
    if isinstance(regressor, str):
        if regressor not in REGRESSORS:
            raise Refused("regressor", regressor, ", ".join(REGRESSORS))
        regressor = REGRESSORS[regressor]
    parts = tuple(regressor(proxies.shares, losses) for losses in proxies.losses.T)
    return Weighted(tuple(proxies.target.values()), parts)


def stratified_distance(shares: np.ndarray) -> np.ndarray:
    """Total variation distance [n] of mixtures from equal shares."""
    return np.abs(shares - 1 / shares.shape[1]).sum(axis=1) / 2


def line(feature: Predictor) -> Regressor:
    """Makes a regressor of one feature of the mixture: a straight line by least squares."""

    def regressor(shares, losses):
        slope, base = np.polyfit(feature(shares), losses, 1)
        return lambda x: base + slope * feature(x)

    return regressor


def own_share(proxies: Proxies) -> tuple[str, Regressor]:
    """The baseline of the target's own share, with its name.

    The feature is the weighted sum of the shares of the target's domains. Where none of them is
    trained on, the one domain whose share ranks the runs best stands for it, chosen anew on
    whatever runs the line is fitted to.
    """
    weights = np.array([proxies.target.get(name, 0.0) for name in proxies.domains])
    if weights.any():
        return "target's share", line(lambda x: x @ weights)

    def closest(shares, losses):
        match = rank_correlation(shares.T, losses[None])
        chosen = int(np.nanargmax(np.abs(match)))
        return line(lambda x: x[:, chosen])(shares, losses)

    return "closest domain's share", closest


def baselines(proxies: Proxies) -> dict[str, Regressor]:
    """The two regressors that any other has to beat: target's share, nearness to stratified."""
    return dict([own_share(proxies)]) | {"stratified": line(stratified_distance)}


def cross_validate(
    proxies: Proxies, regressors=("log_linear", "ridge"), folds: int = 8, seed: int = 0
) -> dict[str, np.ndarray]:
    """Predicts every proxy's target loss from the others', by regressor and for both baselines.

    Returns:
      predictor → losses [n], each run predicted by a fit without its fold.

    Raises:
      Refused: an unknown regressor, or too few proxies for one when a fold is left out.
    """
    if not 2 <= folds <= len(proxies):
        raise Refused("folds", folds, f"2 to {len(proxies)}, the proxies")
    fold = np.random.default_rng(seed).permutation(len(proxies)) % folds
    least = int(min((fold != k).sum() for k in range(folds)))
    for name in regressors:
        if name in FEWEST:
            note = f" (of {len(proxies)}, one of {folds} folds left out)"
            enough(name, least, len(proxies.domains), note)
    chosen = {name: name for name in regressors} | baselines(proxies)
    out = {name: np.empty(len(proxies)) for name in chosen}
    for k in range(folds):
        for name, regressor in chosen.items():
            out[name][fold == k] = fit_target(regressor, proxies.only(fold != k))(
                proxies.shares[fold == k]
            )
    return out


def rank_correlation(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Spearman correlation along the last axis; NaN where either is constant."""
    from scipy.stats import rankdata  # Here, since it takes half a second to import.

    a, b = rankdata(predicted, axis=-1), rankdata(observed, axis=-1)
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    size = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=-1) / size


def scores(
    predictions: Mapping[str, np.ndarray],
    observed: np.ndarray,
    reference: str | None = None,
    draws: int = 2000,
    level: float = 0.9,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank correlation and mean absolute error of predictions, with intervals over mixtures.

    Intervals are percentiles of a bootstrap that resamples the mixtures, the same ones for every
    predictor, so that differences are paired.

    Args:
      predictions: predictor → losses [n].
      observed: [n], nats/token.
      reference: predictor that the others' rank correlations are compared with.

    Returns:
      one row per predictor: predictor, spearman, spearman_low, spearman_high, mae, mae_low,
      mae_high; with a reference also difference, difference_low, difference_high (of Spearman
      correlations, predictor − reference) and separable, whether the interval leaves out 0.
    """
    if reference is not None and reference not in predictions:
        raise Refused("reference", reference, ", ".join(predictions))
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(observed), (draws, len(observed)))
    ranks = {n: rank_correlation(p[rows], observed[rows]) for n, p in predictions.items()}
    ends = lambda drawn: np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    table = []
    for name, predicted in predictions.items():
        spearman = float(rank_correlation(predicted, observed))
        miss = np.abs(predicted - observed)
        row = {"predictor": name, "spearman": spearman}
        row["spearman_low"], row["spearman_high"] = ends(ranks[name])
        row["mae"] = miss.mean()
        row["mae_low"], row["mae_high"] = ends(miss[rows].mean(axis=1))
        if reference is not None:
            other = float(rank_correlation(predictions[reference], observed))
            low, high = ends(ranks[name] - ranks[reference])
            row |= {"difference": spearman - other, "difference_low": low}
            row |= {"difference_high": high, "separable": bool(low > 0 or high < 0)}
        table.append(row)
    return pd.DataFrame(table)
