"""Fit a law to observations, with the evidence that the fit can be believed."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from fitting.bounds import bounded
from fitting.columns import finite
from fitting.held_out import held_out_mask, seeds
from fitting.intervals import Draws, draw, quantiles, scatter, variances, widen
from fitting.law import Law
from fitting.laws import law_named
from fitting.misfit import Misfit
from fitting.objective import Problem, exact, objective_and_gradient, residuals
from fitting.observations import Observations
from fitting.options import Options
from fitting.profiles import Profile, design_effect, profile
from fitting.solver import Optimum, solve
from refused import Refused

FEWEST_LEVELS = 3
MANY_STARTS = 16  # so many that one alone in a basin does not show that there is no better one
_log = logging.getLogger("fitting")
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
      misfit: error of extrapolation that predictions beyond the runs carry, None without (see
        `choice.extrapolating`).
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
    quantile: float = 0.5
    over: float = 1.0
    notes: tuple[str, ...] = ()
    misfit: Misfit | None = None

    def columns(self, frame) -> dict[str, np.ndarray]:
        """The law's predictors taken from a table or dict, {predictor: (rows,)}."""
        return predictor_columns(self.law, frame, self.params)

    def parameter_draws(self) -> dict[str, np.ndarray]:
        """Bootstrap draws of every parameter, {name: (draws,)}; Refused if there are none."""
        if self.draws is None:
            raise Refused("intervals", self.interval_method, "a fit with intervals")
        return named(self.law, self.draws.points)

    def predict(
        self, frame: pd.DataFrame | Mapping, new_run: bool = True, seed: int = 0
    ) -> pd.DataFrame:
        """Predicted target for each row.

        Args:
          frame: table or {column: values} with the law's predictors, in the units of `COLUMNS`.
          new_run: whether the interval is for a new run's measured value (scatter included) or
            for the law's mean; both carry the misfit, if there is one.
          seed: of the scatter draws.

        Returns:
          DataFrame(prediction, low, high); low and high are NaN if the fit has no intervals.
        """
        columns = self.columns(frame)
        if self.misfit is not None and (told := self.misfit.warning(frame)):
            _log.warning(told)
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
            if self.misfit is not None:
                rng = np.random.default_rng([seed, 1])
                cloud = cloud * np.exp(self.misfit.scale(frame) * rng.normal(size=cloud.shape))
            low, high = quantiles(cloud, self.level)
        return pd.DataFrame({"prediction": mean, "low": low, "high": high})


def fit(law: str | Law, obs: Observations, options: Options | None = None, **changes: Any) -> Fit:
    """Fit a law to the runs that are not held out.

    Args:
      law: a `Law` or a name in `LAWS`.
      obs: finished runs.
      options: how, `Options()` by default.
      changes: fields of `Options` to replace in it.

    Raises:
      Refused: unknown law or objective, missing or constant predictors, and, unless point_only,
        fewer runs than fitted parameters + 2 or fewer than 3 levels of a predictor.
    """
    options = (options or Options()).change(**changes)
    law = bounded(law_named(law), options.bounds)
    params = obs.params_column(options.params) if "params" in law.predictors else options.params
    target = options.target or law.target
    if target in law.predictors or target == params:
        raise Refused("target", target, f"a column that {law.name} does not predict from")
    # A law that names its count means that one for compute too.
    mask = held_out_mask(obs, options.held_out, params or law.size)
    inside = obs.only(~mask)
    columns = predictor_columns(law, inside.frame, params)
    how = (options.objective, options.delta, None, options.fixed)
    sided = {"quantile": options.quantile, "over": options.overestimate_penalty}
    problem = Problem(law, columns, inside.column(target), *how, **sided)
    if np.any(problem.target <= 0):
        raise Refused(target, float(problem.target.min()), "positive values")
    with threadpool_limits(limits=1):
        found = _estimate(problem, inside, options)
    result = _result(found, problem, inside, params, target, options, obs.notes)
    return replace(result, held_out=_held_out(result, obs.frame[mask]))


def _estimate(problem: Problem, inside: Observations, options: Options):
    """(optimum, profiles, draws or None, why there are none): the numerical part of a fit."""
    reason = _too_few(problem, options.point_only)
    optimum = solve(problem, audits=options.audits, seed=options.seed)
    if reason is None and exact(problem, optimum.point):
        reason = NO_RESIDUALS
    if reason is not None:
        return optimum, {}, None, reason
    trunks = inside.frame["trunk"].astype(str).to_numpy()
    profiles, better = _profiles(problem, optimum, trunks, inside)
    if better is not None:
        optimum = better
        profiles, _ = _profiles(problem, optimum, trunks, inside)
    settings = seeds(inside)
    cloud = draw(problem, optimum.point, trunks, settings, options.draws, options.seed)
    return optimum, _settled(profiles, optimum), cloud, cloud.method


def _settled(profiles: Mapping[str, Profile], optimum: Optimum) -> Mapping[str, Profile]:
    """Profiles of an optimum that at most one of many random starts reached identify nothing."""
    if optimum.starts < MANY_STARTS or optimum.share * optimum.starts > 1.5:
        return profiles
    weakly = {"identified": "weakly identified"}
    return {
        name: replace(entry, verdict=weakly.get(entry.verdict, entry.verdict))
        for name, entry in profiles.items()
    }


def _result(found, problem: Problem, inside, params, target, options: Options, notes) -> Fit:
    optimum, profiles, cloud, method = found
    law = problem.law
    parameters = {name: float(value[0]) for name, value in named(law, optimum.point[None]).items()}
    intervals = {}
    if cloud is not None:
        for name, values in named(law, cloud.points).items():
            if name not in problem.fixed:
                moved = widen(values, parameters[name], cloud.factor)
                low, high = quantiles(moved, options.level)
                intervals[name] = (float(low), float(high))
    return Fit(
        law=law,
        params=params,
        target=target,
        objective=options.objective,
        delta=options.delta,
        level=options.level,
        parameters=parameters,
        intervals=intervals,
        interval_method=method,
        verdicts={name: entry.verdict for name, entry in profiles.items()},
        profiles=profiles,
        optimum=optimum,
        residuals=_residuals(inside, target, law.predict(problem.columns, parameters)),
        held_out=pd.DataFrame(),
        observations=inside,
        draws=cloud,
        fixed=dict(problem.fixed),
        quantile=problem.quantile,
        over=problem.over,
        notes=notes,
    )


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
        if levels < FEWEST_LEVELS and name not in problem.law.codes and not point_only:
            raise Refused(name, f"{levels} levels", f"{FEWEST_LEVELS} levels, or point_only")
    if rows < fitted + 2 and not point_only:
        accepted = f"{fitted + 2} for {fitted} parameters, or point_only"
        raise Refused("runs", rows, accepted)
    return f"none ({rows} runs, {fitted} parameters)" if point_only else None


def _profiles(problem, optimum, trunks, inside):
    scaled = float(objective_and_gradient(problem, optimum.point[None])[0][0])
    miss = residuals(problem, optimum.point[None])[0]
    settings = seeds(inside)
    between, within, _ = variances(miss, trunks, settings, int(problem.free.sum()))
    shared = between**2 / max(between**2 + within**2, 1e-300)
    effect = design_effect(problem, optimum.point, trunks, shared)
    profiles, better = profile(problem, optimum.point, scaled, effect)
    if better is None or problem.absolute:
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
    sided = {"quantile": result.quantile, "over": result.over}
    return Problem(result.law, columns, target, *options, **sided)


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
