"""Run table to law to prediction, with intervals; numpy and SciPy only."""

from fitting.fit import Fit, fit
from fitting.held_out import above_compute, baselines, largest_decile, seed_standard_deviation
from fitting.law import Law, Parameter
from fitting.laws import LAWS
from fitting.objective import OBJECTIVES
from fitting.observations import Observations

__all__ = [
    "LAWS",
    "OBJECTIVES",
    "Fit",
    "Law",
    "Observations",
    "Parameter",
    "above_compute",
    "baselines",
    "fit",
    "largest_decile",
    "seed_standard_deviation",
]
