"""A planted Chinchilla problem that several test files share."""

import numpy as np

from fitting.chinchilla import CHINCHILLA
from fitting.objective import Problem

TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def problem(objective="huber", noise=0.0, seed=0, **changes):
    rng = np.random.default_rng(seed)
    columns = {"params": 10 ** rng.uniform(7, 10, 40), "tokens": 10 ** rng.uniform(9, 11.5, 40)}
    loss = CHINCHILLA.predict(columns, TRUTH) * np.exp(noise * rng.normal(size=40))
    return Problem(CHINCHILLA, columns, loss, objective, **changes)


def point_of(parameters):
    return np.array([p.to_search(parameters[p.name]) for p in CHINCHILLA.parameters])
