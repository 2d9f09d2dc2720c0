"""A planted truth, and tables of it: a law with its parameters, the noise, the runs, what is asked.

`plans` has one for every law.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fitting import LAWS, Observations

ALONE, SHARED = (0.0,), (0.0, 0.7)  # shares of the noise variance that the runs of a trunk share


@dataclass(frozen=True)
class Plan:
    """One planted truth.

    law: the true one; frame: predictors of the runs, and their trunk where noise may be shared;
    parameters: true ones; noise: standard deviation of the log target; fixed: parameters that the
    fit knows too; fitted: another law that is fitted, empty for the true one; new: {times the
    largest compute: predictors of a new run}; shared: shares of the noise variance that a trunk
    shares, one set of tables each.
    """

    law: str
    frame: pd.DataFrame
    parameters: dict
    noise: float = 0.003
    fixed: dict = field(default_factory=dict)
    fitted: str = ""
    new: dict = field(default_factory=dict)
    objective: str = "huber"
    shared: tuple = ALONE

    @property
    def estimated(self) -> tuple[str, ...]:
        """The parameters whose true value a fit has to find; none where the law is wrong."""
        names = () if self.fitted else LAWS[self.law].names
        return tuple(name for name in names if name not in self.fixed)


def mesh(**axes) -> pd.DataFrame:
    """Every combination of the axes."""
    grid = np.meshgrid(*axes.values(), indexing="ij")
    return pd.DataFrame(
        {name: axis.ravel().astype(float) for name, axis in zip(axes, grid, strict=True)}
    )


def neighbours(frame: pd.DataFrame, by: list[str], size: int) -> pd.DataFrame:
    """The table with trunks of `size` runs that follow one another in `by`."""
    frame = frame.sort_values(by).reset_index(drop=True)
    return frame.assign(trunk=[f"trunk{row // size}" for row in range(len(frame))])


def grouped(frame: pd.DataFrame, by: list[str], size: int) -> pd.DataFrame:
    """The table with trunks of `size` neighbouring runs that agree in all of `by` but the last."""
    frame = frame.sort_values(by, kind="stable").reset_index(drop=True)
    place = (frame.groupby(by[:-1], sort=False).cumcount() // size).astype(str)
    return frame.assign(trunk=frame[by[:-1]].astype(str).agg("/".join, axis=1) + "/" + place)


def plant(plan: Plan, shared: float, rng) -> tuple[Observations, dict[int, float]]:
    """One planted table, and {times: measured value of a new run on a trunk of its own}."""
    frame, law = plan.frame.copy(), LAWS[plan.law]
    trunks = frame["trunk"] if "trunk" in frame else np.arange(len(frame))
    _, index = np.unique(trunks, return_inverse=True)
    between = np.sqrt(shared) * rng.normal(size=index.max() + 1)[index]
    noise = between + np.sqrt(1 - shared) * rng.normal(size=len(index))
    # A share that noise moves beyond 1 is read as 1.
    top = 1.0 if law.target == "accuracy" else np.inf
    frame[law.target] = np.minimum(truth(plan, frame) * np.exp(plan.noise * noise), top)
    new = {
        times: float(truth(plan, table)[0] * np.exp(plan.noise * rng.normal()))
        for times, table in plan.new.items()
    }
    return Observations(frame), new


def truth(plan: Plan, table) -> np.ndarray:
    """The planted law without noise at the rows of a table, (rows,)."""
    law = LAWS[plan.law]
    names = {name: "params_total" if name == "params" else name for name in law.predictors}
    columns = {name: np.asarray(table[theirs], float) for name, theirs in names.items()}
    return law.predict(columns, plan.parameters)
