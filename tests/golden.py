"""Rewrites the golden tables on purpose: `python -m tests.golden`.

A table may only change together with the NUMERICS of the package that changed it.
"""

import json
import sys
from pathlib import Path

import tests.conftest  # noqa: F401 — the settings under which the tables hold.

FOLDER = Path(__file__).with_name("golden_tables")


def numerics() -> list[int]:
    """Returns the numbers that a golden table belongs to: models, data, training."""
    import data
    import models
    import scaling

    return [models.NUMERICS, data.NUMERICS, scaling.NUMERICS]


def assert_golden(name: str, values: dict, close, start: str = "") -> None:
    """Fails unless a golden table holds and belongs to the present NUMERICS.

    With `start`, only the rows whose names begin so are compared.
    """
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    expected = {key: value for key, value in golden["values"].items() if key.startswith(start)}
    hint = (
        f"golden table {name} does not hold. If the change of numbers is meant, raise NUMERICS in "
        "models, data or scaling, whichever changed, and run `make golden`."
    )
    assert golden["numerics"] == numerics(), hint
    assert expected.keys() == values.keys(), hint
    for key, value in values.items():
        assert close(key, expected[key], value), f"{key}: {expected[key]} → {value}: {hint}"


def write(name: str, values: dict) -> None:
    """Writes a table; refuses to change old values unless NUMERICS has been raised."""
    file = FOLDER / f"{name}.json"
    if file.exists():
        before = json.loads(file.read_text())
        same = {key: values.get(key) for key in before["values"]} == before["values"]
        if not same and before["numerics"] == numerics():
            sys.exit(f"{name} changed: raise NUMERICS in models, data or scaling first")
    file.write_text(json.dumps({"numerics": numerics(), "values": values}, indent=1) + "\n")
    print(f"wrote {file}")


def main() -> None:
    """Rewrites every table, and the identities of the reference runs."""
    from tests.scaling.test_golden import orders, steps
    from tests.scaling.test_runs import IDENTITIES, reference_runs
    from tests.zoo import CONFIGS

    write("steps", *steps(CONFIGS))
    write("order", orders())
    found = {name: run.identity for name, run in reference_runs().items()}
    IDENTITIES.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
