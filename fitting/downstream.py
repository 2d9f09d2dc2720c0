"""Downstream error from loss, alone and chained behind a loss law."""

import numpy as np
import pandas as pd

from fitting.intervals import quantiles, widen
from fitting.law import Law, Parameter
from refused import Refused


def _terms(columns, gamma):
    return 1.0, -np.exp(-gamma * columns["loss"])


DOWNSTREAM = Law(
    name="downstream",
    formula="error = eps - k exp(-gamma loss)",
    predictors=("loss",),
    parameters=(
        Parameter("eps", "fraction wrong"),
        Parameter("k", "fraction wrong"),
        Parameter("gamma", "token/nat", 1e-3, 20.0, (0.1, 3.0)),
    ),
    terms=_terms,
    gradient=lambda columns, terms, gamma: ((None, -columns["loss"] * terms[1]),),
    target="error.average_17",
    identified_by="losses from near chance to far below it",
    source="Gadre et al. 2024 (arXiv:2403.08540) eq. 5; values refitted to mlfoundations/scaling",
    published={
        "c4, 17 tasks": {"k": 2.07891, "gamma": 0.756121, "eps": 0.849742},
        "redpajama, 17 tasks": {"k": 2.20649, "gamma": 0.714591, "eps": 0.856992},
        "refinedweb, 17 tasks": {"k": 2.21481, "gamma": 0.707049, "eps": 0.865280},
        "c4, 46 tasks": {"k": 1.28852, "gamma": 0.972164, "eps": 0.758949},
        "redpajama, 46 tasks": {"k": 1.32290, "gamma": 0.890708, "eps": 0.760850},
        "refinedweb, 46 tasks": {"k": 1.12807, "gamma": 0.821523, "eps": 0.767679},
    },
)


def _sigmoid_terms(columns, reach, steepness, middle):
    # tanh does not overflow, and takes complex steps.
    learned = reach * (0.5 - 0.5 * np.tanh(steepness * (columns["loss"] - middle) / 2))
    return 1 - learned, learned


def _ceiling(values):
    return {"ceiling": values["floor"] + (1 - values["floor"]) * values["reach"]}


DOWNSTREAM_SIGMOID = Law(
    name="downstream_sigmoid",
    formula=(
        "accuracy = floor + (1 - floor) reach / (1 + exp(steepness (loss - middle))); "
        "chance is the floor where it is known (`fixed`)"
    ),
    predictors=("loss",),
    parameters=(
        Parameter("floor", "fraction right", 1e-6, 1.0),
        # A share of the way from the floor to 1: no value of it predicts beyond either.
        Parameter("reach", "1", 1e-3, 1.0, (0.3, 1.0)),
        Parameter("steepness", "1 / unit of the loss", 1e-2, 200.0, (0.5, 20.0)),
        Parameter("middle", "unit of the loss", 1e-3, 50.0, (0.3, 4.0)),
    ),
    terms=_sigmoid_terms,
    derived=_ceiling,
    target="accuracy",
    identified_by="losses from chance to well above it; a row at loss 0 with the ceiling",
    source="Bhagia et al. 2024 (arXiv:2412.04403) eq. 2",
)


def chain(loss_fit, error_fit, frame) -> pd.DataFrame:
    """Error predicted from the loss that a loss law predicts.

    Args:
      loss_fit: fit of a law of the loss; error_fit: fit of `DOWNSTREAM`; frame: table with the
        predictors of the loss law.

    Returns:
      DataFrame(loss, prediction, low, high); the interval pairs the draws of both fits, which are
      taken as independent, and is NaN if either fit has none.
    """
    if error_fit.law.predictors != ("loss",):
        raise Refused("error_fit", error_fit.law.name, "a fit of the downstream law")
    loss = loss_fit.predict(frame)["prediction"].to_numpy()
    out = pd.DataFrame(
        {"loss": loss, "prediction": error_fit.predict({"loss": loss})["prediction"]}
    )
    low = high = np.full(len(loss), np.nan)
    if loss_fit.draws is not None and error_fit.draws is not None:
        losses = loss_fit.law.predict(loss_fit.columns(frame), loss_fit.parameter_draws())
        first, second = losses, error_fit.parameter_draws()
        count = min(len(first), len(second["k"]))
        pick = np.random.default_rng(0).permutation(len(second["k"]))[:count]
        shape = {name: values[pick][:, None] for name, values in second.items()}
        cloud = shape["eps"] - shape["k"] * np.exp(-shape["gamma"] * first[:count])
        factor = max(loss_fit.draws.factor, error_fit.draws.factor)
        low, high = quantiles(widen(cloud, out["prediction"], factor), error_fit.level)
    return out.assign(low=low, high=high)
