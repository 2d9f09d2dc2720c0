"""The console command's entry, `espalier` or `python -m espalier`: looks before it imports.

The project's packages have plain names (`data`, `models`, …), which a user's own folders may have
too. Where one of those comes first on Python's path, the command says so instead of failing.
"""

import importlib.util
import sys
from pathlib import Path

ROOMS = ("experiments", "scaling", "models", "data", "fitting", "refused")
HERE = Path(__file__).resolve().parent


def shadowed() -> str | None:
    """Returns a line that names what would be imported in place of a package of ours, or None."""
    for name in ROOMS:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return f"{name}: got nothing on Python's path; accepted: {HERE / name}"
        places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
        found = Path(places[0]).resolve()
        found = found.parent if found.name == "__init__.py" else found
        if found not in (HERE / name, HERE / f"{name}.py"):
            accepted = f"{HERE / name}, which that hides (see PYTHONPATH and the working folder)"
            return f"{name}: got {found}; accepted: {accepted}"
    return None


def run() -> None:
    """Is the console script: exits with the command's code, or with 2 and one line."""
    told = shadowed()
    if told is not None:
        print(f"espalier: {told}", file=sys.stderr)
        sys.exit(2)
    from experiments.command.main import run

    run()


if __name__ == "__main__":
    run()
