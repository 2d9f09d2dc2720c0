"""Routed language models: loss in dense size and expert count, at a fixed number of tokens."""

import numpy as np

from fitting.law import Law, Parameter, Use, exponent


def effective_experts(experts, start, most):
    """Expert count that saturates: `start` at one expert, `most` for infinitely many."""
    return 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most)


def _terms(columns, start, most):
    size = np.log10(columns["params_active"])
    routed = np.log10(effective_experts(columns["experts"], start, most))
    return 1.0, size + 0 * routed, routed, size * routed


def _dense_size(law, parameters, settings):
    start, most = parameters["E_start"], parameters["E_max"]
    here = np.log10(effective_experts(settings["experts"], start, most))
    dense = np.log10(effective_experts(1.0, start, most))
    slope = parameters["a"] + parameters["c"] * here
    rise = slope * np.log10(settings["params_active"]) + parameters["b"] * (here - dense)
    return {"params": 10 ** (rise / (parameters["a"] + parameters["c"] * dense))}


def _published(a, b, c, d, start, most):
    return {"a": a, "b": b, "c": c, "d": d, "E_start": start, "E_max": most}


_PER_DECADE = "log10 nats per decade"
ROUTED = Law(
    name="routed",
    formula=(
        "log10 L = d + a log10 N + b log10 E' + c log10 N log10 E', N = params_active, "
        "1/E' = 1/(experts - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max"
    ),
    predictors=("params_active", "experts"),
    parameters=(
        Parameter("d", "log10 nats", positive=False),
        Parameter("a", _PER_DECADE, positive=False),
        Parameter("b", _PER_DECADE, positive=False),
        Parameter("c", "log10 nats per decade squared", positive=False),
        Parameter("E_start", "experts", 1.0, 20.0, (1.01, 8.0)),
        Parameter("E_max", "experts", 30.0, 1e5, (50.0, 1500.0)),
    ),
    terms=_terms,
    link="log10",
    uses={
        "effective_params": Use(
            about="parameters of the dense model with the loss of the routed one",
            settings={"params_active": "count", "experts": "count"},
            outputs={"params": "count"},
            answer=_dense_size,
        )
    },
    identified_by="several dense sizes, each at several expert counts from 1 to beyond E_max",
    source="Clark et al. 2022 (arXiv:2202.01169) eq. 5, table 3",
    published={
        "s-base": _published(-0.082, -0.108, 0.009, 1.104, 1.847, 314.478),
        "rl-r": _published(-0.083, -0.126, 0.012, 1.111, 1.880, 469.982),
        "hash": _published(-0.087, -0.136, 0.012, 1.157, 4.175, 477.741),
    },
)


def _floor_terms(columns, by_size, by_experts, both, start, most):
    size = np.log(columns["params_active"] / 1e8)
    routed = np.log(effective_experts(columns["experts"], start, most))
    return 1.0, np.exp(-by_size * size + by_experts * routed + both * size * routed)


def _signed(name, low, high):
    return Parameter(name, "1", 0.0, 3.0, (low, high), positive=False)


ROUTED_FLOOR = Law(
    name="routed_floor",
    formula="L = E + K N^-a E'^(b + c ln N), N = params_active / 1e8, E' as in the routed law",
    predictors=("params_active", "experts"),
    parameters=(
        Parameter("E", "nats/token"),
        Parameter("K", "nats/token"),
        exponent("a"),
        _signed("b", -0.4, 0.0),
        _signed("c", -0.02, 0.06),
        Parameter("E_start", "experts", 1.0, 20.0, (1.01, 8.0)),
        Parameter("E_max", "experts", 30.0, 1e5, (50.0, 1500.0)),
    ),
    terms=_floor_terms,
    identified_by=ROUTED.identified_by,
    source="Clark et al. 2022 (arXiv:2202.01169) eq. 5 above a floor, as in later laws of mixtures",
)
