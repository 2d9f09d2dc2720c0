"""Extrapolation from a part of the runs to all beyond, beside predictions that need no law."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fitting.bfgs import curvature_inverse
from fitting.broken import BROKEN
from fitting.fit import Fit, fit, predictor_columns, problem_of
from fitting.held_out import DIRECTIONS, along, held_out_mask
from fitting.intervals import (
    FEWEST_TRUNKS,
    NORMAL_90,
    along_trunks,
    autocorrelation,
    independent,
)
from fitting.law import Law
from fitting.laws import LAWS, law_named
from fitting.objective import jacobian, residuals
from fitting.observations import Observations
from fitting.options import Options
from refused import Refused

PLAIN = ("nearest_run", "log_linear")  # predictions without any law
BASELINES = (*PLAIN, "chinchilla_no_floor")
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the runs, where rolling fits end
HALF = " (later half)"  # behind the name of a law that sees the farther half of its runs alone
EACH = 2  # runs for each parameter, with fewer of which no half is fitted
_log = logging.getLogger("fitting")


def cuts(place: np.ndarray, shares=SHARES) -> np.ndarray:
    """Ends of expanding windows: values of `place` (rows,) that leave runs beyond, ascending.

    Runs at the same place stay together.
    """
    place = np.round(place, 6)
    ranks = [max(0, int(round(share * len(place))) - 1) for share in shares]
    ends = np.unique(np.sort(place)[ranks])
    return ends[ends < place.max()]


def extrapolations(
    laws: Sequence[str | Law],
    obs: Observations,
    options: Options | None = None,
    direction: str = "compute",
    shares: Sequence[float] = SHARES,
    halves: bool = False,
    **changes: Any,
) -> pd.DataFrame:
    """Every law fitted to the runs up to a cut and asked for all runs beyond it, cut by cut.

    Args:
      laws: laws or names; the predictions of `PLAIN` come along.
      options: as for `fit`; params also says which count compute is counted in.
      changes: as for `fit`.
      direction: what the runs are ordered by.
      shares: of the runs, where the fits end.
      halves: whether every law is also fitted as `later_half` says, named with `HALF` behind it.

    Returns:
      DataFrame(law, cut: number, fitted: runs, run, trunk, distance: log of the run's place over
      that of the cut, error: log predicted - log observed, spread: its standard deviation by noise
      alone, as `spread` gives it, NaN for the plain predictions); a law that cannot be fitted up to
      a cut has no rows there.

    Raises:
      Refused: the table lacks what the direction needs.
    """
    options = (options or Options()).change(**changes)
    laws = [law_named(law) for law in laws]
    target = options.target or laws[0].target
    place = np.round(along(obs, direction, options.params), 6)
    parts = []
    for number, end in enumerate(cuts(place, shares)):
        mask = place > end
        common = {"cut": number, "fitted": int((~mask).sum()), "distance": place[mask] - end}
        common |= {name: obs.frame[name].to_numpy()[mask] for name in ("run", "trunk")}
        observed = np.log(obs.column(target)[mask])
        for name, predicted in plain(obs, mask, options.params, target).items():
            row = common | {"law": name, "error": predicted - observed, "spread": np.nan}
            parts.append(pd.DataFrame(row))
        for name, found in _fits(laws, obs, mask, options, place if halves else None):
            row = common | {"law": name, "spread": spread(found, obs.frame[mask])}
            row["error"] = np.log(found.held_out["predicted"].to_numpy(float)) - observed
            parts.append(pd.DataFrame(row))
    names = ["law", "cut", "fitted", "run", "trunk", "distance", "error", "spread"]
    table = pd.concat(parts) if parts else pd.DataFrame(columns=names)
    return table[np.isfinite(table["error"].astype(float))][names].reset_index(drop=True)


def _fits(laws, obs: Observations, mask, options: Options, place) -> Iterator[tuple[str, Fit]]:
    """(name, fit) of every law to the unmasked runs, and with a place to their later half."""
    for law in laws:
        found = {law.name: fitted_to(law, obs, mask, options)}
        keep = None if place is None else later_half(law, place, mask, options)
        if keep is not None:
            found[law.name + HALF] = fitted_to(law, obs.only(keep), mask[keep], options)
        yield from ((name, result) for name, result in found.items() if result is not None)


def later_half(law: Law, place, mask, options: Options) -> np.ndarray | None:
    """Which runs stay where a law sees only the farther half of the unmasked ones, bool (rows,).

    A law that is a little wrong bends away from its early runs; forecasts from several windows of
    the data are combined (Pesaran and Timmermann 2007). None with too few runs to fit, and for a
    law with a break, which bends by itself and needs runs far off on both sides of it.
    """
    if law in BROKEN:
        return None
    keep = mask | (place >= np.median(place[~mask]))
    least = EACH * (len(law.names) - len(options.fixed))
    return keep if int((keep & ~mask).sum()) >= least else None


def fitted_to(law: Law, obs: Observations, mask, options: Options) -> Fit | None:
    """A point fit that does not see the masked runs; None where there are too few others."""
    if int((~mask).sum()) < len(law.names) + 1 - len(options.fixed):
        return None
    try:
        return fit(law, obs, options, held_out=mask, point_only=True, audits=0)
    except Refused as error:
        _log.info("no fit of %s to %d runs: %s", law.name, int((~mask).sum()), error)
        return None


def spread(result: Fit, frame) -> np.ndarray:
    """Standard deviation of log(predicted / a new run's value) by noise alone, (rows,).

    Linear in the parameters, whose covariance is the cluster-robust one of log least squares over
    trunks (Liang and Zeger 1986), times G / (G - parameters) for G trunks as in `draw`; with fewer
    than `FEWEST_TRUNKS` over runs, times (1 + r) / (1 - r) for a correlation r of neighbours on a
    trunk. The scale is that of the central 90 % of the residuals, so that a few outliers do not
    set it.
    """
    problem = replace(problem_of(result), objective="least_squares_log")
    point, free = result.optimum.point, problem.free
    miss = residuals(problem, point[None])[0]
    fitted = int(free.sum())
    noise = np.quantile(np.abs(miss), 0.9) / NORMAL_90
    miss = np.clip(miss, -2 * noise, 2 * noise)
    trunks = result.observations.frame["trunk"].astype(str).to_numpy()
    slopes = np.where(free, jacobian(problem, point[None])[0], 0.0)
    scores, inflation = slopes * miss[:, None], 1.0
    if len(np.unique(trunks)) >= FEWEST_TRUNKS:
        _, index = np.unique(trunks, return_inverse=True)
        scores = np.stack([np.bincount(index, column) for column in scores.T], axis=1)
    else:
        order = along_trunks(problem.columns, trunks)
        inflation = 1 / independent(1, autocorrelation(miss, trunks, order))
    groups = len(scores)
    factor = inflation * groups / max(groups - fitted, groups / 4)
    factor *= _inefficiency(result.objective, result.delta / max(noise, 1e-300))
    root = scores @ curvature_inverse(problem, point[None], free[None])[0] * np.sqrt(factor)
    columns = predictor_columns(result.law, frame, result.params)
    there = replace(problem, columns=columns, target=np.ones(len(next(iter(columns.values())))))
    moved = np.where(free, jacobian(there, point[None])[0], 0.0) @ root.T
    own = noise**2 * len(miss) / max(len(miss) - fitted, 1)
    return np.minimum(np.sqrt(np.sum(moved**2, axis=1) + own), 1.0)


def _inefficiency(objective: str, delta: float) -> float:
    """Variance of the estimate over least squares' under normal noise, pi / 2 for absolute values.

    For the Huber loss E psi^2 / (E psi')^2, psi clipped at delta noise deviations (Huber 1964).
    """
    if objective.startswith("least_squares") or (objective == "huber" and delta > 10):
        return 1.0
    from scipy.special import ndtr  # Here, since a plan fits nothing.

    if objective != "huber" or delta < 1e-3:
        return float(np.pi / 2)
    delta = min(delta, 100.0)  # Nothing is clipped there, and squares of more may overflow.
    inner = 2 * ndtr(delta) - 1
    density = np.exp(-(delta**2) / 2) / np.sqrt(2 * np.pi)
    square = inner - 2 * delta * density + 2 * delta**2 * ndtr(-delta)
    return float(square / inner**2)


def plain(obs: Observations, held_out, params=None, target: str = "loss") -> dict:
    """{name: log predicted (held-out rows,)} of the `PLAIN` predictions that the table allows.

    nearest_run: the run nearest in log params and log tokens; log_linear: log of the target linear
    in log compute.
    """
    mask = held_out_mask(obs, held_out)
    value, out = np.log(obs.column(target)), {}
    places = []
    for direction in DIRECTIONS:
        try:
            places.append(along(obs, direction, params))
        except Refused:
            places.append(None)
    flops, *sizes = places
    sizes = [place for place in sizes if place is not None]
    if sizes:
        where = np.stack(sizes, axis=1)
        gap = np.linalg.norm(where[mask][:, None] - where[~mask][None], axis=2)
        out["nearest_run"] = value[~mask][np.argmin(gap, axis=1)]
    line = flops if flops is not None else (sizes[0] if sizes else None)
    if line is not None and np.ptp(line[~mask]) >= 1e-6:
        slope, base = np.polyfit(line[~mask], value[~mask], 1)
        out["log_linear"] = base + slope * line[mask]
    return out


def baselines(
    obs: Observations, held_out: np.ndarray, params: str | None = None, target: str = "loss"
) -> pd.DataFrame:
    """Relative errors of predictions that need no trusted law.

    Args:
      obs: all runs.
      held_out: bool (rows,), True where a run is kept out of the fits.

    Returns:
      one row per held-out run: run, observed, then (predicted - observed) / observed of
      nearest_run (nearest in log params and log tokens), log_linear (log loss linear in log
      compute) and chinchilla_no_floor (the Chinchilla law with E = 0; empty where that law
      cannot be fitted).
    """
    mask = held_out_mask(obs, held_out)
    params = obs.params_column(params)
    loss = obs.column(target)[mask]
    out = pd.DataFrame({"run": np.asarray(obs.frame["run"])[mask], "observed": loss})
    found = plain(obs, mask, params, target)
    for name in PLAIN:
        out[name] = np.exp(found[name]) / loss - 1 if name in found else np.nan
    out["chinchilla_no_floor"] = np.nan
    try:
        law = LAWS["chinchilla_no_floor"]
        other = fit(law, obs, held_out=mask, params=params, target=target, point_only=True)
        out["chinchilla_no_floor"] = other.held_out["relative_error"].to_numpy()
    except Refused as error:
        _log.info("baseline chinchilla_no_floor left empty: %s", error)
    return out


def rolling(table: pd.DataFrame, law: str) -> pd.DataFrame:
    """Summary of `extrapolations` for one law beside the plain predictions, a row per cut.

    Returns:
      DataFrame(fitted, predicted: numbers of runs; times: farthest predicted over the cut; error:
      root mean square of the law's log errors, NaN where it could not be fitted; nearest_run,
      log_linear: of those).
    """
    rows = []
    for _, group in table.groupby("cut", sort=True):
        by_law = {name: part["error"] for name, part in group.groupby("law")}
        row = {"fitted": int(group["fitted"].iloc[0]), "predicted": group["run"].nunique()}
        row["times"] = float(np.exp(group["distance"].max()))
        for column, name in (("error", law), *((name, name) for name in PLAIN)):
            row[column] = root_mean_square(by_law[name]) if name in by_law else np.nan
        rows.append(row)
    return pd.DataFrame(rows, columns=["fitted", "predicted", "times", "error", *PLAIN])


def root_mean_square(errors) -> float:
    """Root mean square of errors (rows,), NaN if one is."""
    return float(np.sqrt(np.mean(np.asarray(errors, float) ** 2)))
