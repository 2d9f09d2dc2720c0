"""Planted Chinchilla problems that several test files share."""

from pathlib import Path

import numpy as np
import pandas as pd

from fitting import LAWS, Observations
from fitting.chinchilla import CHINCHILLA
from fitting.objective import Problem
from fitting.solver import solve

# Public tables that only some checkouts have beside them: tests that read them are skipped else.
PUBLIC = Path(__file__).parents[3] / "shared" / "data"

TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def problem(objective="huber", noise=0.0, seed=0, **changes):
    rng = np.random.default_rng(seed)
    columns = {"params": 10 ** rng.uniform(7, 10, 40), "tokens": 10 ** rng.uniform(9, 11.5, 40)}
    loss = CHINCHILLA.predict(columns, TRUTH) * np.exp(noise * rng.normal(size=40))
    return Problem(CHINCHILLA, columns, loss, objective, **changes)


def grid(**axes):
    """Columns of the full grid over some axes, {name: (rows,)}."""
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    return {name: axis.ravel() for name, axis in zip(axes, mesh, strict=True)}


def recovered(law, columns, truth, **fixed):
    """{parameter: value} that a fit finds in noise-free runs of a law, derived ones last."""
    target = law.predict(columns, truth)
    found = solve(Problem(law, columns, target, "least_squares_log", fixed=fixed), audits=6)
    pairs = zip(law.parameters, found.point, strict=True)
    values = {parameter.name: float(parameter.from_search(x)) for parameter, x in pairs}
    return values | (law.derived(values) if law.derived else {})


def point_of(parameters):
    return np.array([p.to_search(parameters[p.name]) for p in CHINCHILLA.parameters])


LADDER = {"E": 1.2, "A": 10.0, "B": 60.0, "alpha": 0.2, "beta": 0.3}


def ladder(seed=0, between=0.004, within=0.003, widths=(16, 24, 32, 48, 64), seeds=(3, 2, 2, 1, 1)):
    """A small study: sizes by tokens, several trunks for the smaller sizes."""
    rng = np.random.default_rng(seed)
    rows = []
    for width, count in zip(widths, seeds, strict=True):
        params = 48 * width**2 + 256 * width
        for copy in range(count):
            shared = between * rng.normal()
            for tokens in (256e3, 512e3, 1e6, 2e6):
                mean = LAWS["chinchilla"].predict({"params": params, "tokens": tokens}, LADDER)
                loss = float(mean * np.exp(shared + within * rng.normal()))
                run = f"w{width}-s{copy}-d{tokens:g}"
                trunk = f"w{width}-s{copy}"
                rows.append((run, trunk, copy, width, params, tokens, loss))
    names = ["run", "trunk", "seed", "width", "params_total", "tokens", "loss"]
    return Observations(pd.DataFrame(rows, columns=names))
