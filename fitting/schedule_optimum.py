"""The schedule that a law of the learning rate likes best, and what it gains over common ones."""

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from fitting.schedule_laws import momentum_drops, multi_power_drops, predict_curve
from fitting.schedules import LONGEST, Schedule, cosine, warmup_stable_decay
from refused import Refused

# Law -> (drops, its shape parameters after alpha, its coefficient, whether the warm-up counts).
_LAWS = {
    "multi_power": (multi_power_drops, ("C", "beta", "gamma"), "B", True),
    "momentum": (momentum_drops, ("memory",), "C", False),
}
_STEP = 1e-30
_PARTS = 4  # of every straight piece, in the sum over its steps
_DEEPEST = 15.0  # e-folds that the rate falls towards its end
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # of the steps, for decays


def best_schedule(
    law: str,
    parameters: Mapping[str, float],
    *,
    steps: float,
    peak: float,
    end: float,
    warmup: float = 0.0,
) -> Schedule:
    """The falling schedule with the least loss at its last step under a law.

    After the warm-up the rate falls from the peak by decrements of 0 or more, and stays at or above
    `end` (Luo et al. 2025, arXiv:2503.12811, section 5).

    Args:
      law: `multi_power` or `momentum`.
      parameters: of the law.
      steps: all, warm-up included.
      peak: the highest rate.
      end: the lowest rate.
      warmup: steps of a rise from zero.

    Raises:
      Refused: another law, rates or steps that do not order.
    """
    _check(law, steps, peak, end, warmup)
    how = {"steps": steps, "peak": peak, "end": end, "warmup": warmup}
    # As fine as the laws look at a change: coarser knots would be made use of.
    places = np.linspace(warmup, steps, int(np.ceil((steps - warmup) / LONGEST)) + 1)
    rise = Schedule(np.array([0.0, warmup]), np.array([0.0, peak])) if warmup else None
    known = rise.changes() if rise is not None else None

    def loss(rates):
        return _final_loss(law, parameters, places, rates, known, warmup * peak / 2)

    begins = np.array([schedule.rate(places) for _, _, schedule in _common(**how)])
    rates = _descend(loss, begins[np.argmin(loss(begins))], peak, end)
    if warmup:
        places, rates = np.append(0.0, places), np.append(0.0, rates)
    return Schedule(places, rates)


def _common(*, steps: float, peak: float, end: float, warmup: float):
    """(name, share of the steps that decay, schedule): cosine, and decays of many lengths."""
    out = [("cosine", np.nan, cosine(steps, peak, end, warmup))]
    for shape in ("linear", "sqrt", "exponential"):
        for share in SHARES:
            how = {"steps": steps, "peak": peak, "end": end, "warmup": warmup}
            out.append((shape, share, warmup_stable_decay(share=share, shape=shape, **how)))
    return out


def compared(
    law: str, parameters, *, steps: float, peak: float, end: float, warmup: float = 0.0
) -> pd.DataFrame:
    """The best schedule beside cosine and a sweep of decays, by the law's loss at the last step.

    Returns:
      DataFrame(schedule, share: of the steps that decay, loss), least loss first.
    """
    how = {"steps": steps, "peak": peak, "end": end, "warmup": warmup}
    rows = [("best", np.nan, best_schedule(law, parameters, **how)), *_common(**how)]
    last = np.array([steps])
    table = [(name, share, predict_curve(law, parameters, s, last)[0]) for name, share, s in rows]
    frame = pd.DataFrame(table, columns=["schedule", "share", "loss"])
    return frame.sort_values("loss", kind="stable").reset_index(drop=True)


def _check(law, steps, peak, end, warmup):
    if law not in _LAWS:
        raise Refused("law", law, ", ".join(_LAWS))
    if not 0 < end < peak:
        raise Refused("end", end, f"above 0 and below the peak, {peak:g}")
    if not 0 <= warmup < steps:
        raise Refused("warmup", warmup, f"0 to below {steps:g} steps")


def _final_loss(law, parameters, places, rates, known, before):
    """Loss at the last of places (knots,) for rates (batch, knots); `known`: warm-up changes."""
    drops, shape, coefficient, counts = _LAWS[law]
    # Every piece in parts: where a rate falls far in one, its middle does not stand for all of it.
    cut = np.linspace(0, 1, _PARTS + 1)
    inner = rates[:, :-1, None] + (rates[:, 1:] - rates[:, :-1])[..., None] * cut
    widths = np.diff(places)[:, None] / _PARTS
    low, high = inner[..., :-1], inner[..., 1:]
    pieces = (widths * (low + high) / 2).reshape(len(rates), -1)
    after = np.cumsum(pieces[:, ::-1], axis=1)[:, ::-1]
    area = before + after[:, 0]
    # From the middle of each part to the end, as `Schedule.changes` has them.
    since = after - pieces + (widths * (low + 3 * high) / 8).reshape(pieces.shape)
    drop, to = ((one).reshape(pieces.shape) for one in (low - high, (low + high) / 2))
    middles = (places[:-1, None] + np.diff(places)[:, None] * (cut[1:] + cut[:-1]) / 2).ravel()
    steps_since = np.broadcast_to(places[-1] - middles, drop.shape)
    if counts and known is not None:
        rise = np.broadcast_to(known.drop, (len(rates), len(known.drop)))
        done = before * (known.step / places[0]) ** 2
        since = np.concatenate([area[:, None] - done, since], axis=1)
        drop = np.concatenate([rise, drop], axis=1)
        to = np.concatenate([np.broadcast_to(known.to, rise.shape), to], axis=1)
    part = SimpleNamespace(
        drop=drop[:, None], to=to[:, None], since=since[:, None], steps_since=steps_since[:, None]
    )
    values = [np.array([[parameters[name]]]) for name in shape]
    fallen = drops(part, *values)[:, 0]
    falling = parameters["A"] * np.exp(-parameters["alpha"] * np.log(area))
    return parameters["L0"] + falling + parameters[coefficient] * fallen


def _descend(loss, rates, peak, end) -> np.ndarray:
    """Rates (knots,) of the optimum near given ones; what is left above `end` falls by factors."""
    left = np.maximum((rates - end) / (peak - end), np.exp(-_DEEPEST))
    start = np.maximum(-np.diff(np.log(left)), 0.0)

    def curve(falls):
        left = np.exp(-np.cumsum(falls, axis=-1))
        top = np.ones_like(left[..., :1])
        return end + (peak - end) * np.concatenate([top, left], axis=-1)

    def cost(falls):
        stepped = falls[None] + 1j * _STEP * np.eye(len(falls))
        found = loss(curve(stepped))
        return float(np.real(found[0])), np.imag(found) / _STEP

    found = minimize(
        *(cost, start),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, _DEEPEST)] * len(start),
        options={"maxiter": 300, "ftol": 1e-12, "gtol": 1e-9},
    )
    return curve(found.x)
