"""How the loss answers to learning rate and batch, and how their optimum moves with scale."""

import numpy as np

from fitting.law import Law, Parameter, Use

# Units of the logarithms: the optimum is near zero in them.
_RATE, _BATCH = 1e-3, 1e6


def _signed(name, unit, high=1e3):
    return Parameter(name, unit, 0.0, high, positive=False)


def _rate_terms(columns):
    rate = np.log(columns["learning_rate"] / _RATE)
    return 1.0, rate, rate**2


def _both_terms(columns):
    batch = np.log(columns["batch_tokens"] / _BATCH)
    rate = np.log(columns["learning_rate"] / _RATE)
    return *_rate_terms(columns), batch, batch**2, rate * batch


def _rate_optimum(law, parameters, settings):
    bend, slope = np.asarray(parameters["rate2"]), np.asarray(parameters["rate"])
    with np.errstate(all="ignore"):
        best = -slope / (2 * bend)
        loss = parameters["base"] + slope * best / 2
        # Without a minimum there is no best rate: a parabola that opens downwards has none.
        good = bend > 0
    return {
        "learning_rate": np.where(good, _RATE * np.exp(best), np.inf),
        "loss": np.where(good, loss, np.nan),
    }


def _both_optimum(law, parameters, settings):
    rate, rate2, batch, batch2, both = (
        np.asarray(parameters[name], float)
        for name in ("rate", "rate2", "batch", "batch2", "rate_batch")
    )
    with np.errstate(all="ignore"):
        spread = 4 * rate2 * batch2 - both**2
        x = (both * batch - 2 * batch2 * rate) / spread
        y = (both * rate - 2 * rate2 * batch) / spread
        good = (spread > 0) & (rate2 > 0)
        loss = parameters["base"] + (rate * x + batch * y) / 2
    return {
        "learning_rate": np.where(good, _RATE * np.exp(x), np.inf),
        "batch_tokens": np.where(good, _BATCH * np.exp(y), np.inf),
        "loss": np.where(good, loss, np.nan),
    }


_SOURCE = (
    "quadratic in logarithms near the optimum, as in McCandlish et al. 2018 (arXiv:1812.06162)"
)
_BASE = (
    Parameter("base", "nats/token at rate 1e-3 and batch 1e6"),
    _signed("rate", "nats/token per ln rate"),
    _signed("rate2", "nats/token per (ln rate)^2"),
)

RATE_RESPONSE = Law(
    name="rate_response",
    formula="L = base + rate r + rate2 r^2, r = ln(learning_rate / 1e-3)",
    predictors=("learning_rate",),
    parameters=_BASE,
    terms=_rate_terms,
    uses={
        "optimum": Use(
            about="learning rate of the least loss; inf where the parabola has no minimum",
            settings={},
            outputs={"learning_rate": "1", "loss": "nats/token"},
            answer=_rate_optimum,
        )
    },
    identified_by="four or more rates on both sides of the best, at one size and tokens",
    source=_SOURCE,
)
RATE_BATCH_RESPONSE = Law(
    name="rate_batch_response",
    formula=(
        "L = base + rate r + rate2 r^2 + batch b + batch2 b^2 + rate_batch r b, "
        "r = ln(learning_rate / 1e-3), b = ln(batch_tokens / 1e6)"
    ),
    predictors=("learning_rate", "batch_tokens"),
    parameters=(
        *_BASE,
        _signed("batch", "nats/token per ln batch"),
        _signed("batch2", "nats/token per (ln batch)^2"),
        _signed("rate_batch", "nats/token per ln rate ln batch"),
    ),
    terms=_both_terms,
    uses={
        "optimum": Use(
            about="rate and batch of the least loss; inf where the quadratic has no minimum",
            settings={},
            outputs={"learning_rate": "1", "batch_tokens": "tokens", "loss": "nats/token"},
            answer=_both_optimum,
        )
    },
    identified_by="rates by batches around the best of both, at one size and tokens",
    source=_SOURCE,
)

BEST_RATE = Law(
    name="best_rate",
    formula="log10 rate = c + a log10 N + b log10 D, N = params_non_embedding, D = tokens",
    predictors=("params_non_embedding", "tokens"),
    parameters=(_signed("c", "log10"), _signed("a", "1"), _signed("b", "1")),
    terms=lambda columns: (
        1.0,
        np.log10(columns["params_non_embedding"]),
        np.log10(columns["tokens"]),
    ),
    link="log10",
    target="learning_rate",
    identified_by="best rates of several sizes, each at several numbers of tokens",
    source="Step Law 2025 (arXiv:2503.04715): rate = 1.79 N^-.713 D^.307",
    published={"step law": {"c": float(np.log10(1.79)), "a": -0.713, "b": 0.307}},
)
BEST_BATCH = Law(
    name="best_batch",
    formula="log10 batch = c + b log10 tokens",
    predictors=("tokens",),
    parameters=(_signed("c", "log10 tokens"), _signed("b", "1")),
    terms=lambda columns: (1.0, np.log10(columns["tokens"])),
    link="log10",
    target="batch_tokens",
    identified_by="best batches at several numbers of tokens",
    source="Step Law 2025 (arXiv:2503.04715): batch = .58 D^.571, in tokens",
    published={"step law": {"c": float(np.log10(0.58)), "b": 0.571}},
)
