"""The data-constrained law: repeated tokens and excess parameters lose value exponentially."""

from collections.abc import Mapping

import numpy as np

from fitting.law import Law, Parameter, exponent

# Muennighoff et al. 2023 (arXiv:2305.16264), fitted to C4; alpha = beta by their choice.
C4_BASE = {
    "E": float(np.exp(0.6254804)),
    "A": float(np.exp(6.255414)),
    "B": float(np.exp(7.3049974)),
    "alpha": 0.3526596,
    "beta": 0.3526596,
}


def optimal_params(base, unique_tokens):
    """Parameters that are compute-optimal for a number of distinct tokens, counts."""
    alpha, beta = base["alpha"], base["beta"]
    ratio = (alpha * base["A"] / (beta * base["B"])) ** (1 / (alpha + beta))
    return (unique_tokens * ratio) ** (beta / alpha) * ratio


def _saturating(total, unique, rate):
    repeats = np.maximum(total / unique - 1, 0)
    return unique - unique * rate * np.expm1(-repeats / rate)


def repetition_law(base: Mapping[str, float], name: str = "repetition") -> Law:
    """The law with its single-epoch part held at a Chinchilla fit.

    Args:
      base: {"E", "A", "B", "alpha", "beta"} of a fit to runs without repetition.
    """

    def terms(columns, repeats_data, repeats_params):
        unique = np.minimum(columns["unique_tokens"], columns["tokens"])
        enough = np.minimum(columns["params"], optimal_params(base, unique))
        tokens = _saturating(columns["tokens"], unique, repeats_data)
        params = _saturating(columns["params"], enough, repeats_params)
        loss = base["E"] + base["A"] * params ** -base["alpha"]
        return (loss + base["B"] * tokens ** -base["beta"],)

    return Law(
        name=name,
        formula=(
            "L = E + A / N'^alpha + B / D'^beta, D' = U_D + U_D R_D (1 - exp(-(D/U_D - 1) / R_D)), "
            "N' alike from R_N and the optimal parameters for U_D; E, A, B, alpha, beta held"
        ),
        predictors=("params", "tokens", "unique_tokens"),
        parameters=(
            Parameter("R_D", "repeats", 1e-2, 1e4, (1.0, 300.0)),
            Parameter("R_N", "multiples of the optimal parameters", 1e-2, 1e4, (0.3, 50.0)),
        ),
        terms=terms,
        identified_by="many repeats at several sizes, and sizes beyond the unique tokens' optimum",
        source="Muennighoff et al. 2023 (arXiv:2305.16264) eq. 5, 6",
        published={"c4": {"R_D": 15.387756, "R_N": 5.309743}},
        constants=dict(base),
    )


REPETITION = repetition_law(C4_BASE)

# Units of the search for a free base: they keep both terms near one, and cancel in A and B.
_PARAMS, _TOKENS = 1e8, 1e10


def free_base(values) -> dict:
    """A and B of the single-epoch part from the searched parameters."""
    by_tokens = values["S"] * _TOKENS ** values["beta"]
    return {"A": values["S"] * values["ratio"] * _PARAMS ** values["alpha"], "B": by_tokens}


def _free_terms(columns, ratio, alpha, beta, repeats_data, repeats_params):
    unique = np.minimum(columns["unique_tokens"], columns["tokens"])
    scale = {"S": 1.0, "ratio": ratio, "alpha": alpha, "beta": beta}
    best = optimal_params(scale | free_base(scale), unique)
    # np.minimum orders complex numbers by their real part: the step of a derivative survives.
    enough = np.minimum(columns["params"] + 0 * best, best)
    tokens = _saturating(columns["tokens"], unique, repeats_data)
    params = _saturating(columns["params"], enough, repeats_params)
    return 1.0, ratio * (params / _PARAMS) ** -alpha + (tokens / _TOKENS) ** -beta


REPETITION_FREE = Law(
    name="repetition_free",
    formula=f"{REPETITION.formula.removesuffix('; E, A, B, alpha, beta held')}; all fitted",
    predictors=("params", "tokens", "unique_tokens"),
    parameters=(
        Parameter("E", "nats/token"),
        Parameter("S", "nats/token"),
        Parameter("ratio", "1", 1e-8, 1e8, (0.03, 30.0)),
        exponent("alpha"),
        exponent("beta"),
        *REPETITION.parameters,
    ),
    terms=_free_terms,
    derived=free_base,
    identified_by=f"{REPETITION.identified_by}; runs without repeats at several sizes",
    source=REPETITION.source,
)
