"""The smoothly broken power law with one break, in parameters, tokens or compute."""

import numpy as np

from fitting.law import Law, Parameter, exponent


def _softplus(value):
    """log(1 + exp(value)), without overflow, also for complex values near the real line."""
    large = np.real(value) > 0
    return np.where(large, value, 0.0) + np.log1p(np.exp(np.where(large, -value, value)))


def broken_power_law(name: str, predictor: str, unit: str) -> Law:
    """E + b x^-c0 (1 + (x / d)^(1/f))^(-c1 f) in one predictor x."""

    def terms(columns, c0, c1, d, f):
        x = np.log(columns[predictor])
        return 1.0, np.exp(-c0 * x - c1 * f * _softplus((x - np.log(d)) / f))

    def starts(columns, target, count, rng):
        x = np.log(columns[predictor])
        shapes = rng.uniform([0.01, -0.4, 0.0, np.log(0.05)], [0.6, 0.8, 1.0, 0.5], (count, 4))
        # A break outside the data is a plain power law: breaks are looked for inside.
        shapes[:, 2] = np.exp(x.min() + shapes[:, 2] * (x.max() - x.min()))
        shapes[:, 3] = np.exp(shapes[:, 3])
        return shapes

    return Law(
        name=name,
        formula=f"L = E + b x^-c0 (1 + (x / d)^(1 / f))^(-c1 f), x = {predictor}",
        predictors=(predictor,),
        parameters=(
            Parameter("E", "nats/token"),
            Parameter("b", f"nats/token x {unit}^c0"),
            exponent("c0", start=(0.01, 0.6)),
            Parameter("c1", "1", 0.0, 3.0, (-0.4, 0.8), positive=False),
            Parameter("d", unit, 1.0, 1e30, (1e5, 1e13)),
            Parameter("f", "1", 0.01, 10.0, (0.05, 1.6)),
        ),
        terms=terms,
        starts=starts,
        identified_by="runs on both sides of the break, a decade or more on each",
        source="Caballero et al. 2022 (arXiv:2210.14891) eq. 1 with one break",
    )


BROKEN_SIZE = broken_power_law("broken_size", "params", "params")
BROKEN_DATA = broken_power_law("broken_data", "tokens", "tokens")
BROKEN_COMPUTE = broken_power_law("broken_compute", "flops", "FLOP")
BROKEN = (BROKEN_SIZE, BROKEN_DATA, BROKEN_COMPUTE)
