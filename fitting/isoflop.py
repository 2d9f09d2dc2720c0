"""The isoFLOP approach, a parabola per compute budget, and the bias it is known to have."""

import numpy as np
import pandas as pd

from fitting.chinchilla import CHINCHILLA, allocation
from fitting.held_out import compute
from fitting.observations import Observations
from refused import Refused


def isoflop(obs: Observations, params: str | None = None, decimals: int = 2) -> dict:
    """Fit loss = c0 + c1 log N + c2 (log N)^2 per budget, then a power law through the vertices.

    Biased in its intercept when the exponents of params and tokens differ and in its slope when
    sweeps are off-centre, even without noise (arXiv:2603.22339): read it beside a direct fit.

    Args:
      obs: runs in groups of equal compute; decimals: log10 compute is rounded to this to group.

    Returns:
      {"budgets": DataFrame(flops, runs, params, tokens, loss), "exponent", "coefficient"} with
      N* = coefficient x C^exponent.

    Raises:
      Refused: fewer than two budgets with three sizes and a minimum.
    """
    column = obs.params_column(params)
    flops, size, loss = compute(obs, column), obs.column(column), obs.column("loss")
    labels = np.round(np.log10(flops), decimals)
    rows = []
    for label in np.unique(labels):
        group = labels == label
        if len(np.unique(size[group])) < 3:
            continue
        centre = np.mean(np.log(size[group]))
        bend, slope, base = np.polyfit(np.log(size[group]) - centre, loss[group], 2)
        if bend <= 0:
            continue
        best = float(np.exp(centre - slope / (2 * bend)))
        budget = float(np.exp(np.mean(np.log(flops[group]))))
        lowest = base - slope**2 / (4 * bend)
        rows.append((budget, int(group.sum()), best, budget / 6 / best, lowest))
    budgets = pd.DataFrame(rows, columns=["flops", "runs", "params", "tokens", "loss"])
    if len(budgets) < 2:
        accepted = "two or more budgets with three sizes and a minimum"
        raise Refused("isoflop", f"{len(budgets)} budgets", accepted)
    slope, base = np.polyfit(np.log(budgets["flops"]), np.log(budgets["params"]), 1)
    return {"budgets": budgets, "exponent": float(slope), "coefficient": float(np.exp(base))}


def isoflop_bias(parameters, budgets, factor: float = 8.0, sizes: int = 9, centre: float = 1.0):
    """What the approach makes of noise-free runs of a Chinchilla law.

    Args:
      parameters: of the law; budgets: FLOP; factor: sweep from best / factor to best x factor;
      sizes: models per budget; centre: sweep centre over the true optimum.

    Returns:
      DataFrame(flops, params_error, tokens_error), relative to the exact allocation.
    """
    budgets = np.asarray(budgets, float)
    exact = allocation(parameters, budgets)
    spread = np.geomspace(1 / factor, factor, sizes) * centre
    size = (exact["params"][:, None] * spread).ravel()
    flops = np.repeat(budgets, sizes)
    table = {"params": size, "tokens": flops / 6 / size}
    loss = CHINCHILLA.predict(table, parameters)
    frame = {"params_total": size, "tokens": table["tokens"], "flops_6nd": flops, "loss": loss}
    found = isoflop(Observations(pd.DataFrame(frame)))["budgets"]
    return pd.DataFrame(
        {
            "flops": budgets,
            "params_error": found["params"] / exact["params"] - 1,
            "tokens_error": found["tokens"] / exact["tokens"] - 1,
        }
    )
