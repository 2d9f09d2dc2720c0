"""A law with estimated parameters, and what it predicts."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fitting.columns import finite
from fitting.intervals import Draws, quantiles, scatter, widen
from fitting.law import Law
from fitting.misfit import Misfit
from fitting.observations import Observations
from fitting.profiles import Profile
from fitting.solver import Optimum
from refused import Refused

_log = logging.getLogger("fitting")


@dataclass(frozen=True, repr=False)
class Fitted:
    """A fitted law and its evidence; `fit.Fit` is one that also shows, draws and keeps itself.

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
