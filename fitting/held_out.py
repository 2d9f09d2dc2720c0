"""Runs kept out of a fit, the baselines a law has to beat on them, and the spread of seeds."""

import logging

import numpy as np
import pandas as pd

from fitting.observations import Observations
from refused import Refused

BASELINES = ("nearest_run", "log_linear", "chinchilla_no_floor")
_log = logging.getLogger("fitting")


SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of the runs, by compute: where rolling fits end


def compute(obs: Observations, params: str | None = None) -> np.ndarray:
    """Training FLOP of every run, (rows,): `flops`, else `flops_6nd`, else 6 x params x tokens."""
    for name in ("flops", "flops_6nd"):
        if name in obs.frame:
            return obs.column(name)
    return 6 * obs.column(obs.params_column(params)) * tokens(obs)


def tokens(obs: Observations) -> np.ndarray:
    """Training tokens of every run, (rows,): `tokens`, else `tokens_qat` + `tokens_fp`."""
    if "tokens" not in obs.frame and {"tokens_qat", "tokens_fp"} <= set(obs.frame):
        return obs.column("tokens_qat") + obs.column("tokens_fp")
    return obs.column("tokens")


def above_compute(obs: Observations, fraction: float = 0.25, params: str | None = None):
    """Mask of runs with more than `fraction` of the largest training compute, (rows,)."""
    flops = compute(obs, params)
    return flops > fraction * flops.max()


def largest_decile(obs: Observations, params: str | None = None) -> np.ndarray:
    """Mask of the tenth of the runs with the most compute, at least one, (rows,)."""
    flops = compute(obs, params)
    count = max(1, len(flops) // 10)
    return flops >= np.sort(flops)[-count]


def checked_mask(obs: Observations, held_out) -> np.ndarray:
    """`held_out` as a bool array (rows,); Refused when it does not fit the table."""
    if held_out is None:
        return np.zeros(len(obs), bool)
    mask = np.asarray(held_out)
    if mask.dtype != bool or mask.shape != (len(obs),):
        raise Refused("held_out", f"{mask.dtype} {mask.shape}", f"bool of shape ({len(obs)},)")
    if mask.all():
        raise Refused("held_out", "every run", "a mask that leaves runs to fit")
    return mask


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
    from fitting.fit import fit
    from fitting.laws import LAWS

    mask = checked_mask(obs, held_out)
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


def rolling(law, obs: Observations, params=None, target=None, shares=SHARES, **options):
    """Rolling extrapolation: fits to the runs of least compute, each asked for the next ones.

    Args:
      law: a `Law` or its name; shares: of the runs, ascending; the runs up to one share are fitted,
        those up to the next predicted. Runs of equal compute stay together.
      options: as for `fit`.

    Returns:
      DataFrame(fitted, predicted: numbers of runs; times: largest predicted compute over largest
      fitted; error: root mean square relative error of the law, NaN where `fit` refuses those runs;
      nearest_run, log_linear, chinchilla_no_floor: of the baselines).

    Raises:
      Refused: the table has no compute.
    """
    from fitting.fit import fit
    from fitting.laws import law_named

    law = law_named(law)
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
            common = {"held_out": mask, "params": params, "target": target, "point_only": True}
            found = fit(law, some, **common, **options)
            row["error"] = root_mean_square(found.held_out["relative_error"])
        except Refused as error:
            _log.info("no fit to the %d runs of least compute: %s", row["fitted"], error)
        try:
            other = baselines(some, mask, params, target or law.target)
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


def setting_labels(obs: Observations, columns) -> np.ndarray:
    """Labels (rows,) equal where all the given numeric columns are equal."""
    values = np.stack([np.asarray(obs.frame[name], float) for name in columns], axis=1)
    return np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)


def seed_standard_deviation(obs: Observations, params=None, target: str = "loss"):
    """Pooled standard deviation of runs equal in params and tokens on different trunks.

    Returns:
      (standard deviation in the target's unit, degrees of freedom); (None, 0) without replicates.
    """
    from fitting.intervals import replicates

    names = [obs.params_column(params), "tokens"]
    names += [name for name in ("unique_tokens", "bits", "streams", "experts") if name in obs.frame]
    labels = setting_labels(obs, names)
    loss = obs.column(target)
    rows = replicates(obs.frame["trunk"].astype(str), labels)
    squares, degrees = 0.0, 0
    for label in np.unique(labels[rows]):
        group = loss[rows & (labels == label)]
        squares += float(np.sum((group - group.mean()) ** 2))
        degrees += len(group) - 1
    return (float(np.sqrt(squares / degrees)), degrees) if degrees else (None, 0)
