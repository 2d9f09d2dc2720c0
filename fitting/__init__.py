"""Run table to law to prediction, with intervals; numpy and SciPy only."""

from fitting.fit import Fit, fit
from fitting.formula import formula_law
from fitting.held_out import above_compute, largest_decile, seed_standard_deviation
from fitting.law import Law, Parameter, Use
from fitting.laws import LAWS
from fitting.objective import OBJECTIVES
from fitting.observations import Observations
from fitting.options import Options
from fitting.rolling import baselines

__all__ = [
    "LAWS",
    "OBJECTIVES",
    "Fit",
    "Law",
    "Observations",
    "Options",
    "Parameter",
    "Use",
    "above_compute",
    "baselines",
    "fit",
    "formula_law",
    "largest_decile",
    "seed_standard_deviation",
]
