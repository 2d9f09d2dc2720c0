"""Every law has a planted truth, and those that are fitted by a wrong law say so."""

import pytest

from experiments.bench.plans import PLANS
from experiments.bench.planted_tables import ON_TABLES
from fitting import LAWS
from tests.experiments.bench.test_planted import check_planted

GRIDS = [name for name, make in PLANS.items() if make not in ON_TABLES]


@pytest.mark.parametrize("name", GRIDS)
def test_a_plan_plants_what_its_law_predicts(name):
    check_planted(PLANS[name]())


def test_every_law_is_planted_and_a_wrong_one_is_asked_for_new_runs_only():
    plans = [PLANS[name]() for name in GRIDS]
    wrong = [plan for plan in plans if plan.fitted]
    assert len(wrong) == 2 and all(plan.estimated == () and plan.new for plan in wrong)
    right = {plan.law for plan in plans if not plan.fitted} | {make.__name__ for make in ON_TABLES}
    assert right == set(LAWS)
