"""A learning-rate schedule of the fitting room as phases that a run trains under."""

from fitting.schedules import Schedule
from refused import Refused
from scaling.runs import Phase, Rate


def phases(schedule: Schedule, batch_tokens: int, tolerance: float = 0.005) -> tuple[Phase, ...]:
    """The schedule as a chain of phases in which the rate is straight.

    A phase does not visit its end points, so that rates differ from the schedule's by at most one
    step's fall and `tolerance`.

    Args:
      schedule: steps and learning rates; its highest rate is the run's peak.
      batch_tokens: of every step; tolerance: share of the peak within which knots are left out.

    Raises:
      Refused: a schedule without a rate above zero.
    """
    peak = float(schedule.rates.max())
    if not peak > 0:
        raise Refused("schedule", "rates of 0", "a highest rate above 0")
    return tuple(
        Phase(
            tokens=steps * batch_tokens,
            batch_tokens=batch_tokens,
            rate=Rate(start=first / peak, stop=last / peak, shape="linear"),
        )
        for steps, first, last in schedule.simpler(tolerance).pieces()
    )
