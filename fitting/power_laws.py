"""Power laws in one predictor: parameters, tokens or compute, with and without a floor."""

import numpy as np

from fitting.law import Law, Parameter, exponent

_UNITS = {"params": "params", "tokens": "tokens", "flops": "FLOP"}


def power_law(name: str, predictor: str, coefficient: str, power: str, start, **law) -> Law:
    """L = E + coefficient x predictor^-power, or without E where `floor=False` is given.

    A floor is free, pinned by `fixed` or bounded by `bounds` of a fit.
    """
    floor = law.pop("floor", True)

    def terms(columns, slope):
        falling = np.exp(-slope * np.log(columns[predictor]))
        return (1.0, falling) if floor else (falling,)

    def gradient(columns, terms, slope):
        by_slope = -np.log(columns[predictor]) * terms[-1]
        return ((None, by_slope) if floor else (by_slope,),)

    unit = f"nats/token x {_UNITS[predictor]}^{power}"
    parameters = (Parameter(coefficient, unit), exponent(power, start=start))
    return Law(
        name=name,
        formula=f"L = {'E + ' if floor else ''}{coefficient} {predictor}^-{power}",
        predictors=(predictor,),
        parameters=(Parameter("E", "nats/token"), *parameters) if floor else parameters,
        terms=terms,
        gradient=gradient,
        **law,
    )


def _identified(what: str, rest: str) -> str:
    return f"three or more {what} that span a decade, {rest}"


DATA = power_law(
    *("data", "tokens", "B", "beta", (0.03, 1.2)),
    identified_by=_identified("numbers of tokens", "at one size"),
    source="Hestness et al. 2017 (arXiv:1712.00409) sec. 3; the Chinchilla law at one model size",
)
DATA_NO_FLOOR = power_law(
    *("data_no_floor", "tokens", "B", "beta", (0.01, 0.6)),
    floor=False,
    identified_by="two or more numbers of tokens at one size",
    source="Kaplan et al. 2020 (arXiv:2001.08361) eq. 1.2, L = (D_c / D)^alpha_D",
    published={"kaplan": {"B": 5.4e13**0.095, "beta": 0.095}},
)
SIZE = power_law(
    *("size", "params", "A", "alpha", (0.03, 1.2)),
    identified_by=_identified("sizes", "at the same or at ample tokens"),
    source="Henighan et al. 2020 (arXiv:2010.14701) eq. 1.1 in parameters",
)
SIZE_NO_FLOOR = power_law(
    *("size_no_floor", "params", "A", "alpha", (0.01, 0.6)),
    floor=False,
    identified_by="two or more sizes at the same or at ample tokens",
    source="Kaplan et al. 2020 (arXiv:2001.08361) eq. 1.1, L = (N_c / N)^alpha_N",
    published={"kaplan": {"A": 8.8e13**0.076, "alpha": 0.076}},
)
COMPUTE_FLOOR = power_law(
    *("compute_floor", "flops", "alpha", "beta", (0.01, 0.6)),
    identified_by=_identified("compute budgets", "each allocated alike"),
    source="Henighan et al. 2020 (arXiv:2010.14701) eq. 1.1 in compute",
)
