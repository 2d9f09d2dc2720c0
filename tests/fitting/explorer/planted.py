"""Fits of every law without fitting: parameters, draws and runs are planted."""

import numpy as np
import pandas as pd

from fitting import LAWS, Fit, Observations, formula_law
from fitting.intervals import Draws
from fitting.law import Law
from fitting.misfit import Misfit

RANGES = {
    "params_total": (2e7, 1e10),
    "params_non_embedding": (1e7, 5e9),
    "params_active": (1e7, 5e9),
    "tokens": (1e9, 3e11),
    "unique_tokens": (1e9, 1e11),
    "flops": (1e18, 1e21),
    "bits": (2.0, 8.0),
    "tokens_qat": (1e9, 1e10),
    "tokens_fp": (1e9, 1e11),
    "streams": (1.0, 8.0),
    "experts": (1.0, 64.0),
    "activation_ratio": (0.02, 1.0),
    "granularity": (1.0, 16.0),
    "learning_rate": (1e-4, 1e-2),
    "batch_tokens": (1e5, 4e6),
    "unigram_loss": (6.0, 8.0),
    "loss": (2.0, 4.0),
}
FORMULAS = (
    "E + A*(params_total/1e8)**-a + B*(tokens/1e9)**-b",
    "E + k*max(log10(params_total), 2)**-c + m*exp(-s*sqrt(tokens/1e9)) + abs(tanh(log(tokens)))",
)


def runs(count: int = 40, seed: int = 0) -> Observations:
    """Runs with every column that any law predicts from, and a few labels."""
    rng = np.random.default_rng(seed)
    columns = {n: np.exp(rng.uniform(*np.log(ends), count)) for n, ends in RANGES.items()}
    columns["params_total"] = columns["params_non_embedding"] * rng.uniform(1.1, 2, count)
    columns["loss.other"] = columns["loss"] + 0.1
    arm = np.where(np.arange(count) % 2, "one", "two")
    return Observations(
        pd.DataFrame(columns | {"arm": arm, "run": [f"r{i}" for i in range(count)]})
    )


def laws() -> list[Law]:
    """Every registered law, and laws given as text."""
    own = [formula_law(text, name=f"formula{i}") for i, text in enumerate(FORMULAS)]
    return [*LAWS.values(), *own]


def centre(law: Law, obs: Observations) -> dict[str, float]:
    """Parameters at which every term is about one at the middle of the runs."""
    shape = {}
    for parameter in law.parameters[law.linear_count :]:
        low, high = parameter.start
        shape[parameter.name] = (
            np.sqrt(low * high) if parameter.positive else 0.3 * low + 0.7 * high
        )
    names = {name: "params_total" if name == "params" else name for name in law.predictors}
    middle = {n: np.exp(np.mean(np.log(obs.column(c)))) for n, c in names.items()}
    terms = law.terms(middle, *shape.values())
    sizes = [1 / max(abs(float(term)), 1e-12) for term in terms[: law.linear_count]]
    linear = [parameter.name for parameter in law.parameters[: law.linear_count]]
    return dict(zip(linear, sizes, strict=True)) | shape


def misfit(direction: str = "compute") -> Misfit:
    """An error of extrapolation that begins within the runs."""
    end = {"compute": 3e20, "params": 3e9, "tokens": 1e11}[direction]
    return Misfit(0.03, direction, "params_total", np.log(end), 2.0, 3)


def fit_of(law: Law, obs: Observations, draws: int = 40, seed: int = 1, **changes) -> Fit:
    """A fit whose draws scatter around planted parameters."""
    rng = np.random.default_rng(seed)
    values = centre(law, obs)
    point = np.array([p.to_search(values[p.name]) for p in law.parameters])
    points = point + 0.01 * rng.normal(size=(draws, len(point))) * np.maximum(abs(point), 0.1)
    cloud = Draws(points, "planted draws", 0.01, 0.01, 20, 0.01 * rng.normal(size=30), 1.1)
    settings = {
        "law": law,
        "params": "params_total",
        "target": "loss",
        "objective": "huber",
        "delta": 1e-3,
        "level": 0.9,
        "parameters": values,
        "intervals": {},
        "interval_method": cloud.method,
        "verdicts": {},
        "profiles": {},
        "optimum": None,
        "residuals": pd.DataFrame(),
        "held_out": pd.DataFrame(),
        "observations": obs,
        "draws": cloud,
        "misfit": None,
    }
    return Fit(**settings | changes)
