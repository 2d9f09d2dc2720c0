"""Downstream error or accuracy from loss; `chain` sets a loss law before them."""

import numpy as np

from fitting.law import Law, Parameter


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
