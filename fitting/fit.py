"""Fit a law to observations, with the evidence that the fit can be believed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from fitting import tables, use
from fitting.bounds import bounded
from fitting.figures import Plots
from fitting.fitted import Fitted, named, predictor_columns
from fitting.held_out import held_out_mask, seeds
from fitting.intervals import draw, quantiles, variances, widen
from fitting.law import Law
from fitting.laws import law_named
from fitting.objective import Problem, exact, objective_and_gradient, residuals
from fitting.observations import Observations
from fitting.options import Options
from fitting.profiles import Profile, design_effect, profile
from fitting.saved import as_json, from_json
from fitting.solver import Optimum, solve
from fitting.summary import as_html, summary
from refused import Refused

FEWEST_LEVELS = 3
MANY_STARTS = 16  # so many that one alone in a basin does not show that there is no better one
NO_RESIDUALS = "none (residuals are zero)"


@dataclass(frozen=True, repr=False)
class Fit(Fitted):
    """A fitted law and its evidence; printed, it is what a person reads of it."""

    def __str__(self) -> str:
        return summary(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self)

    @property
    def plot(self) -> Plots:
        """The figures that papers show, as in `fit.plot.loss()`; `.save(FOLDER)` writes all."""
        return Plots(self)

    def allocate(self, flops: ArrayLike, **settings: Any) -> pd.DataFrame:
        """Compute-optimal parameters and tokens with intervals, as `use.allocate`."""
        return use.allocate(self, flops, **settings)

    def to_frame(self) -> pd.DataFrame:
        """The parameters: DataFrame(parameter, value, low, high, unit, verdict)."""
        return pd.DataFrame(tables.rows(self))

    def save(self, path: str | Path) -> None:
        """Writes the whole fit as one JSON file, which `Fit.read` gives back bit by bit."""
        Path(path).write_text(as_json(self), "utf-8")

    @classmethod
    def read(cls, path: str | Path) -> "Fit":
        """The fit that `save` wrote; Refused for another file."""
        return cls(**from_json(path))


def fit(
    law: str | Law,
    obs: Observations | pd.DataFrame,
    options: Options | None = None,
    **changes: Any,
) -> Fit:
    """Fit a law to the runs that are not held out.

    Args:
      law: a `Law` or a name in `LAWS`.
      obs: finished runs, or a table of them with the columns of `COLUMNS`.
      options: how, `Options()` by default.
      changes: fields of `Options` to replace in it.

    Raises:
      Refused: unknown law or objective, missing or constant predictors, and, unless point_only,
        fewer runs than fitted parameters + 2 or fewer than 3 levels of a predictor.
    """
    options = (options or Options()).change(**changes)
    obs = obs if isinstance(obs, Observations) else Observations(pd.DataFrame(obs))
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
