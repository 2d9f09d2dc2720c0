"""Fit a law to observations, with the evidence that the fit can be believed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from fitting.held_out import checked_mask, setting_labels
from fitting.intervals import Draws, draw, quantiles, scatter, variances, widen
from fitting.law import Law
from fitting.laws import law_named
from fitting.objective import Problem, exact, objective_and_gradient, residuals
from fitting.observations import Observations, finite
from fitting.profiles import Profile, design_effect, profile
from fitting.solver import Optimum, solve
from refused import Refused

DRAWS = 2000
FEWEST_LEVELS = 3
NO_RESIDUALS = "none (residuals are zero)"


@dataclass(frozen=True)
class Fit:
    """A fitted law and its evidence.

    Attributes:
      law: the law; params: the parameter count it was fitted in; target: the predicted column.
      parameters: {name: value}, full precision, derived ones last; units in `law.parameters`.
      intervals: {name: (low, high)} at `level`, empty if there are none.
      interval_method: how the intervals were made, or why there are none; one line.
      verdicts: {name: "identified", "weakly identified" or "not identified"} from the profiles.
      profiles: {name: Profile}.
      optimum: objective, share of starts, next basin, gradient norm, condition, bounds hit.
      residuals: DataFrame(run, observed, predicted, residual = log observed - log predicted).
      held_out: DataFrame(run, observed, predicted, low, high, relative_error), empty without.
      observations: the runs that were fitted; notes: what was left out or looked odd.
    """

    law: Law
    params: str | None
    target: str
    objective: str
    delta: float
    level: float
    parameters: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    interval_method: str
    verdicts: Mapping[str, str]
    profiles: Mapping[str, Profile]
    optimum: Optimum
    residuals: pd.DataFrame
    held_out: pd.DataFrame
    observations: Observations
    draws: Draws | None
    fixed: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def columns(self, frame) -> dict[str, np.ndarray]:
        """The law's predictors taken from a table or dict, {predictor: (rows,)}."""
        return predictor_columns(self.law, frame, self.params)

    def parameter_draws(self) -> dict[str, np.ndarray]:
        """Bootstrap draws of every parameter, {name: (draws,)}; Refused if there are none."""
        if self.draws is None:
            raise Refused("intervals", self.interval_method, "a fit with intervals")
        return named(self.law, self.draws.points)

    def predict(self, frame, new_run: bool = True, seed: int = 0) -> pd.DataFrame:
        """Predicted target for each row.

        Args:
          frame: table or {column: values} with the law's predictors, in the units of `COLUMNS`.
          new_run: whether the interval is for a new run's measured value (scatter included) or
            for the law's mean.
          seed: of the scatter draws.

        Returns:
          DataFrame(prediction, low, high); low and high are NaN if the fit has no intervals.
        """
        columns = self.columns(frame)
        mean = np.atleast_1d(self.law.predict(columns, self.parameters))
        low = high = np.full(len(mean), np.nan)
        if self.draws is not None:
            with np.errstate(all="ignore"):
                cloud = self.law.predict(columns, self.parameter_draws())
            cloud = widen(cloud, mean, self.draws.factor)
            if new_run:
                noise = scatter(self.draws, cloud.shape, seed)
                linear = self.objective == "least_squares"
                cloud = cloud + noise if linear else cloud * np.exp(noise)
            low, high = quantiles(cloud, self.level)
        return pd.DataFrame({"prediction": mean, "low": low, "high": high})


def fit(
    law,
    obs: Observations,
    *,
    objective: str = "huber",
    delta: float = 1e-3,
    held_out=None,
    params: str | None = None,
    target: str | None = None,
    level: float = 0.9,
    draws: int = DRAWS,
    point_only: bool = False,
    fixed: Mapping[str, float] | None = None,
    audits: int = 32,
    seed: int = 0,
) -> Fit:
    """Fit a law to the runs that are not held out.

    Args:
      law: a `Law` or a name in `LAWS`.
      obs: finished runs.
      objective: key of `OBJECTIVES`; delta: of the Huber loss, in log loss.
      held_out: bool (rows of obs,), True for runs kept out of the fit; None keeps all in.
      params: which parameter count the law means; needed when the table has several.
      target: column to predict; the law's own by default.
      level: of the intervals; draws: bootstrap refits; seed: of every random choice.
      point_only: fit even when there are too few runs for an interval, and give none.
      fixed: {parameter: value} held constant.
      audits: random starts that check the optimum.

    Raises:
      Refused: unknown law or objective, missing or constant predictors, and, unless point_only,
        fewer runs than fitted parameters + 2 or fewer than 3 levels of a predictor.
    """
    law = law_named(law)
    if not 0 < level < 1:
        raise Refused("level", level, "a number between 0 and 1")
    mask = checked_mask(obs, held_out)
    target = target or law.target
    if "params" in law.predictors:
        params = obs.params_column(params)
    if target in law.predictors or target == params:
        raise Refused("target", target, f"a column that {law.name} does not predict from")
    inside = obs.only(~mask)
    columns = predictor_columns(law, inside.frame, params)
    problem = Problem(law, columns, inside.column(target), objective, delta, None, fixed or {})
    if np.any(problem.target <= 0):
        raise Refused(target, float(problem.target.min()), "positive values")
    reason = _too_few(problem, point_only)
    labels = {params if name == "params" else name for name in law.predictors}
    trunks = inside.frame["trunk"].astype(str).to_numpy()
    with threadpool_limits(limits=1):
        optimum = solve(problem, audits=audits, seed=seed)
        if reason is None and exact(problem, optimum.point):
            reason = NO_RESIDUALS
        profiles, cloud = {}, None
        if reason is None:
            profiles, found = _profiles(problem, optimum, trunks, labels, inside)
            if found is not None:
                optimum = found
                profiles, _ = _profiles(problem, optimum, trunks, labels, inside)
            settings = setting_labels(inside, sorted(labels))
            cloud = draw(problem, optimum.point, trunks, settings, draws, seed)
    parameters = {name: float(value[0]) for name, value in named(law, optimum.point[None]).items()}
    intervals = {}
    if cloud is not None:
        for name, values in named(law, cloud.points).items():
            if name not in problem.fixed:
                low, high = quantiles(widen(values, parameters[name], cloud.factor), level)
                intervals[name] = (float(low), float(high))
    result = Fit(
        law=law,
        params=params,
        target=target,
        objective=objective,
        delta=delta,
        level=level,
        parameters=parameters,
        intervals=intervals,
        interval_method=reason or cloud.method,
        verdicts={name: entry.verdict for name, entry in profiles.items()},
        profiles=profiles,
        optimum=optimum,
        residuals=_residuals(inside, target, law.predict(columns, parameters)),
        held_out=pd.DataFrame(),
        observations=inside,
        draws=cloud,
        fixed=dict(problem.fixed),
        notes=obs.notes,
    )
    return replace(result, held_out=_held_out(result, obs.frame[mask]))


def predictor_columns(law: Law, frame, params: str | None) -> dict[str, np.ndarray]:
    """{predictor: (rows,)} from a table or dict; Refused for a missing or empty column."""
    out = {}
    for name in law.predictors:
        column = params if name == "params" else name
        if column not in frame:
            raise Refused("column", column, f"a table with {', '.join(law.predictors)}")
        out[name] = finite(frame[column], column)
    return out


def named(law: Law, points: np.ndarray) -> dict[str, np.ndarray]:
    """Search coordinates (batch, parameters) -> {name: (batch,)}, derived parameters last."""
    with np.errstate(all="ignore"):
        out = {p.name: p.from_search(points[:, i]) for i, p in enumerate(law.parameters)}
        return out | (law.derived(out) if law.derived else {})


def _too_few(problem: Problem, point_only: bool) -> str | None:
    rows, fitted = len(problem.target), int(problem.free.sum())
    for name, values in problem.columns.items():
        # Shares may be zero, and a domain may take few values; counts are compared in log.
        levels = len(np.unique(np.round(np.log(np.maximum(values, 1e-12)), 6)))
        if levels == 1:
            raise Refused(name, f"the constant {values[0]:g}", "a predictor that varies")
        if levels < FEWEST_LEVELS and not point_only:
            raise Refused(name, f"{levels} levels", f"{FEWEST_LEVELS} levels, or point_only")
    if rows < fitted + 2 and not point_only:
        accepted = f"{fitted + 2} for {fitted} parameters, or point_only"
        raise Refused("runs", rows, accepted)
    return f"none ({rows} runs, {fitted} parameters)" if point_only else None


def _profiles(problem, optimum, trunks, labels, inside):
    scaled = float(objective_and_gradient(problem, optimum.point[None])[0][0])
    miss = residuals(problem, optimum.point[None])[0]
    settings = setting_labels(inside, sorted(labels))
    between, within, _ = variances(miss, trunks, settings, int(problem.free.sum()))
    shared = between**2 / max(between**2 + within**2, 1e-300)
    effect = design_effect(problem, optimum.point, trunks, shared)
    profiles, better = profile(problem, optimum.point, scaled, effect)
    if better is None or problem.objective == "lad":
        return profiles, None
    cost = float(objective_and_gradient(problem, better[None])[0][0]) * problem.scale()
    # No start reached the point that profiling met: the evidence has to say so.
    gap = optimum.objective / cost - 1 if cost > 0 else None
    return profiles, replace(optimum, point=better, objective=cost, share=0.0, next_basin=gap)


def problem_of(result: Fit) -> Problem:
    """The optimisation problem behind a fit."""
    columns = result.columns(result.observations.frame)
    target = result.observations.column(result.target)
    options = (result.objective, result.delta, None, dict(result.fixed))
    return Problem(result.law, columns, target, *options)


def _residuals(obs: Observations, target: str, predicted) -> pd.DataFrame:
    observed = obs.column(target)
    return pd.DataFrame(
        {
            "run": obs.frame["run"].to_numpy(),
            "observed": observed,
            "predicted": predicted,
            "residual": np.log(observed) - np.log(predicted),
        }
    )


def _held_out(result: Fit, frame: pd.DataFrame) -> pd.DataFrame:
    names = ["run", "observed", "predicted", "low", "high", "relative_error"]
    if not len(frame):
        return pd.DataFrame(columns=names)
    table = result.predict(frame)
    observed = np.asarray(frame[result.target], float)
    predicted = table["prediction"].to_numpy()
    columns = [frame["run"].to_numpy(), observed, predicted, table["low"], table["high"]]
    return pd.DataFrame(dict(zip(names, [*columns, predicted / observed - 1], strict=True)))
