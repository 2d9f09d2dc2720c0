"""Which law to predict with: the one whose rolling errors are least, and a weighted mean of all."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from fitting.fit import Fit, fit
from fitting.held_out import FAR, along, direction_of, held_out_mask
from fitting.law import Law
from fitting.laws import LAWS, law_named
from fitting.misfit import Misfit, learn, noise_share
from fitting.observations import Observations
from fitting.options import Options
from fitting.rolling import HALF, PLAIN, extrapolations, later_half, root_mean_square, spread
from refused import Refused

# Rule of the score, fixed on half of the public tables (results/extrapolation): a cut counts by
# this power of the runs that its fits see, a row by its closeness to the distances asked about, and
# the weights of the mean are drawn by PULL towards the inverse of the scores to a power.
LATER, NEAR, PULL, POWER = 3.0, 0.35, 0.6, 4.0
APART = 0.5  # of the laws' weighted standard deviation, fixed on that half too
MOST_ASKED = 101  # distances of held-out runs, beyond which their quantiles stand for them
ONE = 0.99  # correlation of log size and log tokens from which they vary as one


@dataclass(frozen=True)
class Choice:
    """Laws judged by rolling extrapolation, each fitted to all runs and to the later half of them.

    laws: DataFrame(law, with `HALF` behind it where it sees those alone, parameters, cuts, score:
    weighted root mean square of log errors, weight in the mean, verdict), best first; plain:
    {prediction without a law: score}; mean_score: of the weighted mean on the rows that its weights
    come from; fits: {law: Fit} with weight; rolled: rows of `extrapolations`; mean: its rows of the
    weighted mean; misfit: of the mean; direction, distance: what was asked about; left_out:
    {law: why}; warnings: what to say loudly.
    """

    laws: pd.DataFrame
    plain: Mapping[str, float]
    mean_score: float
    fits: Mapping[str, Fit]
    rolled: pd.DataFrame
    mean: pd.DataFrame
    misfit: Misfit
    direction: str
    distance: float
    left_out: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """The chosen law, of those that see all runs."""
        return self.ranking[0]

    @property
    def ranking(self) -> list[str]:
        """The laws that see all runs, the least rolling error first."""
        return [name for name in self.laws["law"] if not name.endswith(HALF)]

    @property
    def weights(self) -> dict[str, float]:
        """{law: weight in the mean}, positive ones."""
        found = dict(zip(self.laws["law"], self.laws["weight"], strict=True))
        return {name: weight for name, weight in found.items() if weight > 0}

    def predict(self, frame, level: float = 0.9) -> pd.DataFrame:
        """The weighted mean (geometric) for each row, for a new run's value.

        Returns:
          DataFrame(prediction, low, high), normal in log: noise and parameters by `spread`, their
          weighted mean times `noise_share`, and the larger of the mean's misfit and of APART of
          what the laws differ by. NaN ends where no rolling fit could be made.
        """
        from scipy.special import ndtri  # Here, since a plan chooses no law.

        weights = np.array(list(self.weights.values()))
        laws = [self.fits[name] for name in self.weights]
        each = np.log([result.predict(frame)["prediction"].to_numpy() for result in laws])
        logs = weights @ each
        deviation = weights @ np.array([spread(result, frame) for result in laws])
        deviation = deviation * noise_share(self.mean, self.distance)
        apart = np.sqrt(weights @ (each - logs) ** 2)
        wrong = np.maximum(self.misfit.scale(frame), APART * apart)
        wide = ndtri(0.5 + level / 2) * np.hypot(deviation, wrong)
        if not self.misfit.cuts:
            wide = np.full(len(logs), np.nan)
        ends = {"low": np.exp(logs - wide), "high": np.exp(logs + wide)}
        return pd.DataFrame({"prediction": np.exp(logs), **ends})


def admitted(obs: Observations, options: Options) -> list[Law]:
    """The laws that a table's columns allow, for the target that is asked for.

    Laws of one predictor are left out where size and tokens vary on their own and laws of both are
    there: they cannot see what moves the loss.
    """
    target = options.target
    out = []
    for law in LAWS.values():
        fits = law.target == target or (law.target == "loss" and target not in law.predictors)
        if not fits or (target is None and law.target != "loss"):
            continue
        if not set(options.fixed) <= set(law.names):
            continue
        try:
            params = obs.params_column(options.params) if "params" in law.predictors else None
        except Refused:
            continue
        if all((params if name == "params" else name) in obs.frame for name in law.predictors):
            out.append(law)
    several = [law for law in out if len(law.predictors) > 1]
    if several and _independent(obs, options):
        out = several
    if not out:
        raise Refused("law", "auto", f"a table with the predictors of one of {', '.join(LAWS)}")
    return out


def _independent(obs: Observations, options: Options) -> bool:
    """Whether size and tokens vary, and not as one."""
    try:
        size, data = (along(obs, name, options.params) for name in ("params", "tokens"))
    except Refused:
        return False
    if min(np.ptp(size), np.ptp(data)) < 1e-6:
        return False
    return abs(np.corrcoef(size, data)[0, 1]) < ONE


def choose(
    laws: str | Iterable[str | Law],
    obs: Observations,
    options: Options | None = None,
    distance: float | None = None,
    direction: str | None = None,
    **changes: Any,
) -> Choice:
    """Fit several laws and choose by rolling extrapolation on the runs that are not held out.

    Args:
      laws: "auto" for all that the table admits, or laws and names.
      options: as for `fit`.
      changes: as for `fit`.
      distance: log distance asked about; without held-out runs log 10 beyond the largest compute.
      direction: compute, params or tokens; None takes both from where the held-out runs lie.

    Raises:
      Refused: no law can be fitted, or the table has nothing that places its runs.
    """
    options = (options or Options()).change(**changes)
    laws = admitted(obs, options) if isinstance(laws, str) else [law_named(law) for law in laws]
    mask = held_out_mask(obs, options.held_out, options.params)
    found = direction_of(obs, mask, options.params)
    direction = direction or found[0]
    asked = _asked(obs, mask, direction, options.params) if distance is None else None
    distance = found[1] if distance is None else distance
    asked = np.array([distance]) if asked is None else asked
    inside, options = obs.only(~mask), options.change(held_out=None)
    fits, left_out = _fits(laws, inside, direction, options)
    chosen = [law for law in laws if law.name in fits]
    rolled = extrapolations(chosen, inside, options, direction, halves=True)
    judged, common = _comparable(rolled, list(fits))
    for law in chosen:
        if law.name not in judged:
            left_out[law.name] = "too few runs for rolling fits"
    equal = dict.fromkeys(judged, 1 / len(judged))
    weights = stack(common, judged, asked) if len(common) else equal
    mean = weighted(common, weights)
    misfit = learn(mean, inside, direction, options.params, distance)
    table = _table(fits, judged, common, weights, asked)
    plain = {name: score(common[common["law"] == name], asked) for name in PLAIN}
    mean_score = score(mean, asked)
    kept = {name: fits[name] for name in fits if weights.get(name, 0) > 0}
    told = _warnings(common, plain, mean_score, mean, misfit, asked)
    where = (direction, float(distance))
    return Choice(table, plain, mean_score, kept, rolled, mean, misfit, *where, left_out, told)


def _fits(laws, obs: Observations, direction: str, options: Options) -> tuple[dict, dict]:
    """({name: point fit to all runs, or with `HALF` to the later half}, {law: why it has none})."""
    fits, left_out = {}, {}
    place, none = np.round(along(obs, direction, options.params), 6), np.zeros(len(obs), bool)
    how = options.change(point_only=True, audits=min(8, options.audits))
    for law in laws:
        try:
            fits[law.name] = fit(law, obs, how)
            keep = later_half(law, place, none, options)
            if keep is not None:
                # As its rolling fits, which have no audits: few runs have narrow optima besides.
                fits[law.name + HALF] = fit(law, obs.only(keep), how, audits=0)
        except Refused as error:
            if law.name not in fits:
                left_out[law.name] = str(error)
    if not fits:
        raise Refused("law", ", ".join(left_out), "; ".join(left_out.values()))
    return fits, left_out


def extrapolating(
    result: Fit,
    rolled: pd.DataFrame | None = None,
    direction: str = "compute",
    distance: float = FAR,
) -> Fit:
    """A fit whose predictions beyond its runs carry the misfit that its rolling errors show.

    Args:
      result: a fit.
      rolled: rows of `extrapolations` that hold its law; None makes them.
      direction: what is asked about, as in `choose`.
      distance: what is asked about, as in `choose`.
    """
    options = Options(
        objective=result.objective,
        delta=result.delta,
        params=result.params or result.law.size,
        target=result.target,
        fixed=result.fixed,
        quantile=result.quantile,
        overestimate_penalty=result.over,
    )
    obs = result.observations
    if rolled is None:
        rolled = extrapolations([result.law], obs, options, direction)
    rows = rolled[rolled["law"] == result.law.name]
    return replace(result, misfit=learn(rows, obs, direction, options.params, distance))


def _comparable(rolled: pd.DataFrame, names: list[str]) -> tuple[list[str], pd.DataFrame]:
    """Laws with at least two cuts and half of the most, and the rows of the cuts they share."""
    cuts = {name: set(rolled.loc[rolled["law"] == name, "cut"]) for name in names}
    most = max(map(len, cuts.values()), default=0)
    judged = [name for name in names if len(cuts[name]) >= max(2, most / 2)] or names
    shared = set.intersection(*(cuts[name] for name in judged))
    return judged, rolled[rolled["cut"].isin(shared)]


def _asked(obs: Observations, mask, direction: str, params: str | None) -> np.ndarray | None:
    """Log distances at which the masked runs lie, (distances,); None without any."""
    if not mask.any():
        return None
    place = along(obs, direction, params)
    far = np.maximum(place[mask] - place[~mask].max(), 0.0)
    return far if len(far) <= MOST_ASKED else np.quantile(far, np.linspace(0, 1, MOST_ASKED))


def row_weights(rows: pd.DataFrame, asked: float | np.ndarray) -> np.ndarray:
    """What each rolling error counts, (rows,): closeness to the log distances that are asked about,
    (distances,) or one, and each cut by the runs it was fitted to.
    """
    fitted, far = rows["fitted"].to_numpy(float), rows["distance"].to_numpy(float)
    asked = np.atleast_1d(asked)
    near = np.exp(-0.5 * ((far[:, None] - asked) / (NEAR * (1 + asked))) ** 2).mean(axis=1)
    size = rows.groupby("cut")["run"].transform("size").to_numpy(float)
    return ((fitted / fitted.max()) ** LATER * near + 1e-9) / size


def score(rows: pd.DataFrame, asked: float | np.ndarray) -> float:
    """Weighted root mean square of rolling log errors of one law, NaN without rows."""
    if not len(rows):
        return float("nan")
    weights = row_weights(rows, asked)
    return float(np.sqrt(np.average(rows["error"].to_numpy(float) ** 2, weights=weights)))


def _wide(rows: pd.DataFrame, names, values: str) -> pd.DataFrame:
    some = rows[rows["law"].isin(names)]
    return some.pivot(index=["cut", "run"], columns="law", values=values)[list(names)]


def stack(rows: pd.DataFrame, names: list[str], asked: float | np.ndarray) -> dict[str, float]:
    """Weights on the simplex with the least rolling error of the mean (Breiman 1996), drawn a
    little towards those that each law's own error gives it (Bates and Granger 1969, to a higher
    power); {law: weight}.
    """
    from scipy.optimize import nnls  # Here, since a plan chooses no law.

    errors = _wide(rows, names, "error")
    some = rows[rows["law"] == names[0]].set_index(["cut", "run"]).loc[errors.index]
    weights = row_weights(some.reset_index(), asked)
    matrix = errors.to_numpy(float) * np.sqrt(weights / weights.sum())[:, None]
    own = np.maximum(np.sqrt(np.sum(matrix**2, axis=0)), 1e-12)
    least, alone = float(own.min()), (own.min() / own) ** POWER
    pull, sure = np.sqrt(PULL) * least, 1e3 * least  # sure: they sum to one
    left = np.vstack([matrix, sure * np.ones(len(names)), pull * np.eye(len(names))])
    right = np.concatenate([np.zeros(len(matrix)), [sure], pull * alone / alone.sum()])
    found, _ = nnls(left, right)
    found = np.where(found < 1e-3 * found.sum(), 0.0, found)
    return dict(zip(names, (found / found.sum()).tolist(), strict=True))


def weighted(rows: pd.DataFrame, weights: Mapping[str, float]) -> pd.DataFrame:
    """Rolling rows of the weighted mean of laws: its errors, and their spread by noise at most."""
    names = [name for name in weights if (rows["law"] == name).any()]
    if not names:
        return rows.iloc[:0]
    share = np.array([weights[name] for name in names])
    errors, spreads = (_wide(rows, names, values) for values in ("error", "spread"))
    some = rows[rows["law"] == names[0]].set_index(["cut", "run"]).loc[errors.index].reset_index()
    ours = {"error": errors.to_numpy(float) @ share, "spread": spreads.to_numpy(float) @ share}
    return some.assign(law="weighted mean", **ours)


def _table(fits, judged, common, weights, asked) -> pd.DataFrame:
    rows = []
    for name in judged:
        own = common[common["law"] == name]
        free = len(fits[name].law.names) - len(fits[name].fixed)
        row = {"law": name, "parameters": free, "cuts": own["cut"].nunique()}
        rows.append(row | {"score": score(own, asked), "weight": weights.get(name, 0.0)})
    table = pd.DataFrame(rows).sort_values("score", kind="stable").reset_index(drop=True)
    best = next(name for name in table["law"] if not name.endswith(HALF))
    told = [_verdict(common, name, best, asked) for name in table["law"]]
    return table.assign(verdict=told)


def _verdict(rows, name: str, best: str, asked) -> str:
    """Whether a law's errors differ from the best one's."""
    if name == best:
        return "chosen"
    if not len(rows):
        return "not judged"
    errors = _wide(rows, [name, best], "error")
    some = rows[rows["law"] == best].set_index(["cut", "run"]).loc[errors.index].reset_index()
    low, high = _gap(some, errors[name].to_numpy(float), errors[best].to_numpy(float), asked)
    if low <= 0 <= high:
        return "cannot be told from it"
    return "worse" if low > 0 else "better"


def _gap(some: pd.DataFrame, one, other, asked, draws: int = 1000) -> tuple[float, float]:
    """90 % interval of how much larger errors are than others on the same rows, by trunks drawn."""
    weights = row_weights(some, asked)
    gap = weights * (np.abs(np.asarray(one, float)) - np.abs(np.asarray(other, float)))
    _, index = np.unique(some["trunk"].astype(str), return_inverse=True)
    totals, counts = np.bincount(index, gap), np.bincount(index, weights)
    picks = np.random.default_rng(0).integers(len(counts), size=(draws, len(counts)))
    low, high = np.quantile(totals[picks].sum(1) / counts[picks].sum(1), [0.05, 0.95])
    return float(low), float(high)


def unproven(rows: pd.DataFrame, mean: pd.DataFrame, asked) -> list[str]:
    """The plain predictions that the weighted mean is not shown to be better than."""
    out = []
    for name in PLAIN:
        both = mean.merge(rows.loc[rows["law"] == name, ["cut", "run", "error"]], on=["cut", "run"])
        if len(both) and _gap(both, both["error_y"], both["error_x"], asked)[0] <= 0:
            out.append(name)
    return out


def overtaking(rows: pd.DataFrame, mean: pd.DataFrame) -> str | None:
    """The plain prediction that was better than the mean at both of the last two cuts, if any."""
    last = sorted(mean["cut"].unique())[-2:]

    def errors(table):
        return [root_mean_square(table.loc[table["cut"] == cut, "error"]) for cut in last]

    if len(last) < 2:
        return None
    found = {name: part for name, part in rows.groupby("law") if name in PLAIN}
    found = {name: errors(part) for name, part in found.items()}
    ahead = [name for name, size in found.items() if np.all(np.less_equal(size, errors(mean)))]
    return min(ahead, key=lambda name: found[name][-1], default=None)


def _warnings(rows, plain, mean_score, mean, misfit: Misfit, asked) -> tuple[str, ...]:
    out, distance = [], float(np.max(asked))
    known = {name: value for name, value in plain.items() if np.isfinite(value)}
    if known and np.isfinite(mean_score):
        best = min(known, key=known.get)
        if known[best] <= mean_score:
            out.append(
                f"{best} alone predicts the runs beyond each cut better than every law: "
                f"{known[best]:.2%} against {mean_score:.2%}"
            )
    if not out and (ahead := overtaking(rows, mean)) is not None:
        out.append(
            f"{ahead} alone predicts better than every law beyond the last two cuts, as it did not "
            "before: the laws may miss what comes"
        )
    if not out and (equals := unproven(rows, mean, asked)):
        out.append(
            f"the laws are not shown to predict better than {' or '.join(equals)} alone: their "
            "errors beyond the cuts differ by no more than chance"
        )
    by_cut = mean.groupby("cut")["error"].apply(lambda e: float(np.sqrt(np.mean(e**2))))
    if len(by_cut) >= 3 and (np.diff(by_cut) > 0).all():
        out.append("the errors beyond the cuts rise with every cut: the laws fail where it matters")
    if not misfit.cuts:
        out.append("too few runs for rolling fits: the choice rests on nothing")
    elif distance > misfit.tested + 1e-6:
        out.append(
            f"asked {np.exp(distance):.3g} times beyond the largest fitted {misfit.direction}; "
            f"rolling fits were tested up to {np.exp(misfit.tested):.3g} times"
        )
    return tuple(out)
