"""Runs kept out of a fit, the baselines a law has to beat on them, and the spread of seeds."""

import logging

import numpy as np
import pandas as pd

from fitting.observations import Observations, Refused

_log = logging.getLogger("fitting")


def compute(obs: Observations, params: str | None = None) -> np.ndarray:
    """Training FLOP of every run, (rows,): `flops`, else `flops_6nd`, else 6 x params x tokens."""
    for name in ("flops", "flops_6nd"):
        if name in obs.frame:
            return obs.column(name)
    return 6 * obs.column(obs.params_column(params)) * obs.column("tokens")


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
    size = np.log(np.stack([obs.column(params), obs.column("tokens")], axis=1))
    loss, flops = obs.column(target), np.log(compute(obs, params))
    inside = ~mask
    distance = np.linalg.norm(size[mask][:, None] - size[inside][None], axis=2)
    nearest = loss[inside][np.argmin(distance, axis=1)]
    if inside.sum() < 2:
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
