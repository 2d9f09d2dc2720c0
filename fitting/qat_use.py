"""What a QAT loss law is for: the share of QAT tokens, the bits, and the tokens wasted.

The four uses of Dremov et al. 2025 (arXiv:2509.22935): the best share at a budget, the best bits at
a fixed memory, the bits at which QAT costs next to nothing, and what a wrong share wastes. Token
budgets are totals, full precision and QAT together; parameter counts are those of the fit.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from fitting.law import Law, Use
from refused import Refused

_ENDS = 7.0  # log odds of the smallest and largest share looked at: 0.0009 and 0.9991
_COARSE, _FINE, _ROUNDS = 65, 17, 3  # shares on the first grid, on each finer one, finer grids
_BITS = (1.0, 16.0)


def loss_at(
    law: Law,
    parameters: Mapping,
    params: ArrayLike,
    tokens: ArrayLike,
    bits: ArrayLike,
    fraction: ArrayLike,
) -> np.ndarray:
    """The law in total tokens and QAT share.

    Args:
      parameters: {name: number or array (draws,)}.
      params: numbers or (draws,).
      tokens: numbers or (draws,).
      bits: numbers or (draws,).
      fraction: number, (shares,) or (draws, shares).

    Returns:
      (draws, shares) nats/token; one row for numbers.
    """
    values = {name: np.atleast_1d(parameters[name]) for name in law.names}
    settings = (params, tokens, bits)
    params, tokens, bits = (np.reshape(np.asarray(s, float), (-1, 1)) for s in settings)
    fraction = np.atleast_2d(fraction)
    columns = {"params": params, "bits": bits}
    columns |= {"tokens_qat": fraction * tokens, "tokens_fp": (1 - fraction) * tokens}
    return law.predict(columns, values)


def at_best_fraction(law: Law, parameters: Mapping, params, tokens, bits):
    """Best QAT share and the loss there, each (draws,), to about 1e-4 in log odds.

    Arguments as in `loss_at`. The first grid finds the basin, finer ones the minimum in it. Where
    the loss falls all the way to an end of the search, 0.0009 or 0.9991, the share is that end.
    """
    draws = max(np.size(value) for value in (*map(parameters.get, law.names), params, tokens, bits))
    low, high = np.full((draws, 1), -_ENDS), np.full((draws, 1), _ENDS)
    count = _COARSE
    for _ in range(1 + _ROUNDS):
        odds = low + (high - low) * np.linspace(0, 1, count)
        loss = loss_at(law, parameters, params, tokens, bits, 1 / (1 + np.exp(-odds)))
        best = np.argmin(loss, axis=1)[:, None]
        step = (high - low) / (count - 1)
        centre = np.take_along_axis(odds, best, axis=1)
        low, high = np.maximum(centre - step, -_ENDS), np.minimum(centre + step, _ENDS)
        count = _FINE
    return 1 / (1 + np.exp(-centre[:, 0])), np.take_along_axis(loss, best, axis=1)[:, 0]


def _best_fraction(law, parameters, settings):
    share, loss = at_best_fraction(law, parameters, **settings)
    return {"fraction": share, "loss": loss}


def _best_bits(law, parameters, settings):
    memory, widths = settings["memory"], np.atleast_1d(settings["bits"])
    found = [
        at_best_fraction(law, parameters, 8 * memory / width, settings["tokens"], width)
        for width in widths
    ]
    shares, losses = (np.stack(parts) for parts in zip(*found, strict=True))
    best = np.argmin(losses, axis=0)
    row = np.arange(losses.shape[1])
    out = {"bits": widths[best], "params": 8 * memory / widths[best]}
    return out | {"fraction": shares[best, row], "loss": losses[best, row]}


def _matching_bits(law, parameters, settings):
    """Bisection over widths between 1 and 16; the law's penalty is positive at any of them."""
    params, tokens, within = (settings[name] for name in ("params", "tokens", "within"))
    plain = loss_at(law, parameters, params, tokens, 16.0, 0.0)[:, 0]
    low, high = np.full(len(plain), _BITS[0]), np.full(len(plain), _BITS[1])

    def above(width):
        return at_best_fraction(law, parameters, params, tokens, width)[1] - plain > within

    never, enough = above(high), ~above(low)
    for _ in range(24):
        middle = (low + high) / 2
        missing = above(middle)
        low, high = np.where(missing, middle, low), np.where(missing, high, middle)
    return {"bits": np.where(never, np.inf, np.where(enough, _BITS[0], high))}


def _needed_tokens(law, parameters, settings):
    params, tokens, bits = (settings[name] for name in ("params", "tokens", "bits"))
    fraction = settings["fraction"]
    if not 0 < fraction < 1:
        raise Refused("fraction", fraction, "a share between 0 and 1")
    goal = loss_at(law, parameters, params, tokens, bits, fraction)[:, 0]
    high = np.full(len(goal), np.log(tokens))
    low = high - np.log(1e6)
    for _ in range(40):
        middle = (low + high) / 2
        above = at_best_fraction(law, parameters, params, np.exp(middle), bits)[1] > goal
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return {"tokens": np.exp(high)}


_SETTING = {"params": "count", "tokens": "total", "bits": "per weight"}
USES = {
    "best_fraction": Use(
        about="share of the tokens best spent on QAT; 0.0009 and 0.9991 are ends of the search",
        settings=_SETTING,
        outputs={"fraction": "share", "loss": "nats/token"},
        answer=_best_fraction,
        odds=("fraction",),
    ),
    "best_bits": Use(
        about="of some widths (bits=2/4/6), the one with the lowest loss in so many weight bytes, "
        "each at its best share",
        settings={"memory": "bytes", "tokens": "total", "bits": "widths"},
        outputs={"bits": "1", "params": "count", "fraction": "share", "loss": "nats/token"},
        answer=_best_bits,
        odds=("fraction",),
    ),
    "matching_bits": Use(
        about="fewest bits with a loss within so many nats/token of full precision",
        settings={"params": "count", "tokens": "total", "within": "nats/token"},
        outputs={"bits": "1"},
        answer=_matching_bits,
    ),
    "needed_tokens": Use(
        about="tokens that give the loss of this QAT share when spent at the best share",
        settings=_SETTING | {"fraction": "share"},
        outputs={"tokens": "total"},
        answer=_needed_tokens,
    ),
}
