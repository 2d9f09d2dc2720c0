"""The console command's entry, `espalier` or `python -m espalier`: looks before it imports.

The project's packages have plain names (`data`, `models`, …), which a user's own folders may have
too. Where one of those comes first on Python's path, or another distribution has written over a
file of ours, the command says so instead of failing.
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


def replaced() -> str | None:
    """Returns a line that names an installed file of ours that is not as installed, or None."""
    import importlib.metadata  # Here, since it costs what all of `espalier help` does.

    try:
        files = importlib.metadata.distribution("espalier").files or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(file.locate())
        if file.suffix != ".py" or file.hash is None or file.parts[0] not in ROOMS:
            continue
        there = path.exists()
        if not there or sum_of(path.read_bytes(), file.hash.mode) != file.hash.value:
            got = "written over by another distribution" if there else "gone"
            accepted = "it as installed: pip install --force-reinstall --no-deps espalier's wheel"
            return f"{path}: got it {got}; accepted: {accepted}, in an environment of its own"
    return None


def sum_of(content: bytes, mode: str) -> str:
    """Returns a checksum as an installation's record writes it (PEP 376, section RECORD)."""
    import base64
    import hashlib

    digest = hashlib.new(mode, content).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def refuse(told: str | None) -> None:
    """Ends the process with a line and code 2, where there is one."""
    if told is not None:
        print(f"espalier: {told}", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """Is the console script: exits with the command's code, or with 2 and one line."""
    refuse(shadowed())
    try:
        from experiments.command.main import run

        run()
    except Exception:
        refuse(replaced())
        raise


if __name__ == "__main__":
    run()
