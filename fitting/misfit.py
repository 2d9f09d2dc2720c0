"""What a law that is a little wrong costs beyond its data, learned from its own rolling errors."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fitting.held_out import along
from fitting.observations import Observations

# Rule of the weights, fixed on half of the public tables (results/extrapolation).
LATER, NEAR = 2.0, 0.5
LEAST = 0.4  # of the noise that is left where rolling errors are less; weights were fitted to them
ASSUMPTION = (
    "the error beyond the data grows in proportion to the log distance, with a slope as random as "
    "at the earlier cuts of the same runs (a hierarchical model, its variance by moments)"
)


@dataclass(frozen=True)
class Misfit:
    """Error of extrapolation beyond what noise explains.

    slope: its standard deviation in log target per unit of log distance; direction: what distance
    is measured in; params: the count that compute or params mean; end: log of the farthest fitted
    run's place; tested: the farthest log distance that the rolling fits were asked for; cuts: how
    many fits it is learned from.
    """

    slope: float
    direction: str
    params: str | None
    end: float
    tested: float
    cuts: int

    def distance(self, frame) -> np.ndarray:
        """Log distance of each row beyond the fitted runs, (rows,), 0 inside.

        Raises:
          Refused: a frame without the columns that place its rows.
        """
        if isinstance(frame, Mapping):
            arrays = np.broadcast_arrays(*(np.atleast_1d(values) for values in frame.values()))
            frame = dict(zip(frame, arrays, strict=True))
        frame = pd.DataFrame(frame).reset_index(drop=True)
        places = [name for name in frame if name not in ("run", "trunk", "loss", "diverged_step")]
        placed = along(Observations(frame[places]), self.direction, self.params)
        return np.maximum(placed - self.end, 0.0)

    def scale(self, frame) -> np.ndarray:
        """Standard deviation of the misfit in log target, (rows,)."""
        return self.slope * self.distance(frame)

    def caption(self) -> str:
        """One line: the slope, where it comes from and on which assumption."""
        return (
            f"extrapolation misfit {self.slope:.2%} for each factor e in {self.direction}, from "
            f"{self.cuts} rolling fits tested up to {np.exp(self.tested):.3g} times beyond theirs; "
            f"assumed: {ASSUMPTION}"
        )

    def warning(self, frame) -> str | None:
        """One line if rows lie farther out than the rolling fits were tested, else None."""
        farthest = float(np.max(self.distance(frame)))
        if farthest <= self.tested + 1e-6:
            return None
        return (
            f"asked {np.exp(farthest):.3g} times beyond the largest fitted {self.direction}; "
            f"rolling fits were tested up to {np.exp(self.tested):.3g} times"
        )


def learn(
    rows: pd.DataFrame, obs: Observations, direction: str, params: str | None, distance: float
) -> Misfit:
    """The misfit of one law from its rolling errors.

    At each cut the squared errors, less the variance that noise alone gives them, are regressed on
    the squared log distance; the slopes of later cuts and of distances like the one asked about
    weigh more. Random effects by moments as DerSimonian and Laird 1986; errors are scaled by a
    difficulty, here distance, as in normalised conformal prediction (Papadopoulos et al. 2002).

    Args:
      rows: of `extrapolations`, for one law.
      obs: the runs that its fit rests on.
      direction: as in `along`.
      params: as in `along`.
      distance: log distance asked about.
    """
    end = float(np.max(along(obs, direction, params)))
    slopes, weights = [], []
    for _, cut in rows.groupby("cut"):
        far = cut["distance"].to_numpy(float)
        near = _near(far, distance)
        excess = cut["error"].to_numpy(float) ** 2 - cut["spread"].to_numpy(float) ** 2
        slopes.append(np.sum(near * excess) / np.sum(near * far**2))
        weights.append(float(cut["fitted"].iloc[0]) ** LATER)
    variance = max(float(np.average(slopes, weights=weights)), 0.0) if slopes else 0.0
    tested = float(rows["distance"].max()) if len(rows) else 0.0
    return Misfit(float(np.sqrt(variance)), direction, params, end, tested, len(slopes))


def noise_share(rows: pd.DataFrame, distance: float) -> float:
    """How much of their spread by noise the rolling errors of a mean of laws show, `LEAST` to 1.

    The mean of laws errs less than each law by its own noise; the root mean square of errors over
    spreads, weighed as in `learn`, is the score of normalised conformal prediction (Papadopoulos et
    al. 2002).

    Args:
      rows: of `extrapolations`, for the mean.
      distance: log distance asked about.
    """
    shares, weights = [], []
    for _, cut in rows.groupby("cut"):
        near = _near(cut["distance"].to_numpy(float), distance)
        share = (cut["error"].to_numpy(float) / cut["spread"].to_numpy(float)) ** 2
        shares.append(np.average(share, weights=near))
        weights.append(float(cut["fitted"].iloc[0]) ** LATER)
    return float(np.clip(np.sqrt(np.average(shares, weights=weights)), LEAST, 1)) if shares else 1.0


def _near(far: np.ndarray, distance: float) -> np.ndarray:
    """Closeness of log distances to the one asked about, (rows,)."""
    return np.exp(-0.5 * ((far - distance) / (NEAR * (1 + distance))) ** 2) + 1e-9
