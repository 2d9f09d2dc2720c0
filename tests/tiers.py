"""Which cases `make test` runs, and which only `make test-thorough` does."""

from collections.abc import Collection, Iterable

import pytest


def mostly(cases: Iterable, always: Collection) -> list:
    """Returns test cases of which all but those named `always` are thorough.

    The same property over more parts, meshes or optimizers costs a program or more each.
    """
    cases = list(cases)
    if missing := [case for case in always if case not in cases]:
        raise ValueError(f"always: got {missing}; accepted: some of {cases}")
    thorough = lambda case: pytest.param(
        *(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.thorough
    )
    return [case if case in always else thorough(case) for case in cases]
