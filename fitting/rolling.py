"""Extrapolation from the runs of least compute, beside predictions that need no trusted law."""

import logging

import numpy as np
import pandas as pd

from fitting.fit import fit
from fitting.held_out import compute, held_out_mask, tokens
from fitting.laws import LAWS, law_named
from fitting.observations import Observations
from fitting.options import Options
from refused import Refused

BASELINES = ("nearest_run", "log_linear", "chinchilla_no_floor")
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of the runs, by compute: where rolling fits end
_log = logging.getLogger("fitting")


def baselines(obs: Observations, held_out, params=None, target: str = "loss") -> pd.DataFrame:
    """Relative errors of three predictions that need no trusted law.

    Args:
      obs: all runs; held_out: bool (rows,), True where a run is kept out of the fits.

    Returns:
      one row per held-out run: run, observed, then (predicted - observed) / observed of
      nearest_run (nearest in log params and log tokens), log_linear (log loss linear in log
      compute) and chinchilla_no_floor (the Chinchilla law with E = 0; empty where that law
      cannot be fitted).
    """
    mask = held_out_mask(obs, held_out)
    params = obs.params_column(params)
    size = np.log(np.stack([obs.column(params), tokens(obs)], axis=1))
    loss, flops = obs.column(target), np.log(compute(obs, params))
    inside = ~mask
    distance = np.linalg.norm(size[mask][:, None] - size[inside][None], axis=2)
    nearest = loss[inside][np.argmin(distance, axis=1)]
    if np.ptp(flops[inside]) < 1e-6:
        line = np.full(int(mask.sum()), np.nan)
    else:
        slope, base = np.polyfit(flops[inside], np.log(loss[inside]), 1)
        line = np.exp(base + slope * flops[mask])
    out = pd.DataFrame({"run": np.asarray(obs.frame["run"])[mask], "observed": loss[mask]})
    out["nearest_run"] = nearest / loss[mask] - 1
    out["log_linear"] = line / loss[mask] - 1
    out["chinchilla_no_floor"] = np.nan
    try:
        law = LAWS["chinchilla_no_floor"]
        plain = fit(law, obs, held_out=mask, params=params, target=target, point_only=True)
        out["chinchilla_no_floor"] = plain.held_out["relative_error"].to_numpy()
    except Refused as error:
        _log.info("baseline chinchilla_no_floor left empty: %s", error)
    return out


def rolling(law, obs: Observations, options: Options | None = None, shares=SHARES, **changes):
    """Rolling extrapolation: fits to the runs of least compute, each asked for the next ones.

    Args:
      law: a `Law` or its name; shares: of the runs, ascending; the runs up to one share are fitted,
        those up to the next predicted. Runs of equal compute stay together.
      options, changes: as for `fit`; params also says which count compute is counted in.

    Returns:
      DataFrame(fitted, predicted: numbers of runs; times: largest predicted compute over largest
      fitted; error: root mean square relative error of the law, NaN where `fit` refuses those runs;
      nearest_run, log_linear, chinchilla_no_floor: of the baselines).

    Raises:
      Refused: the table has no compute.
    """
    law = law_named(law)
    options = (options or Options()).change(**changes)
    params, target = options.params, options.target or law.target
    flops = compute(obs, params)
    place = np.round(np.log(flops), 6)
    ends = np.sort(place)[[max(0, int(round(s * len(flops))) - 1) for s in (*shares, 1.0)]]
    ends = np.unique(ends)
    rows = []
    for end, following in zip(ends[:-1], ends[1:], strict=True):
        some = obs.only(place <= following)
        mask = place[place <= following] > end
        row = {"fitted": int((~mask).sum()), "predicted": int(mask.sum())}
        row |= {"times": float(np.exp(following - end)), "error": np.nan}
        try:
            found = fit(law, some, options, held_out=mask, point_only=True)
            row["error"] = root_mean_square(found.held_out["relative_error"])
        except Refused as error:
            _log.info("no fit to the %d runs of least compute: %s", row["fitted"], error)
        try:
            other = baselines(some, mask, params, target)
        except Refused as error:
            _log.info("no baselines: %s", error)
            other = {}
        for name in BASELINES:
            row[name] = root_mean_square(other[name]) if name in other else np.nan
        rows.append(row)
    return pd.DataFrame(rows, columns=["fitted", "predicted", "times", "error", *BASELINES])


def root_mean_square(errors) -> float:
    """Root mean square of errors (rows,), NaN if one is."""
    return float(np.sqrt(np.mean(np.asarray(errors, float) ** 2)))
