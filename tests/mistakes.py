"""The page of mistakes: what each command there is told; `python -m tests.mistakes` renews it."""

import contextlib
import io
import re
import shlex
import sys
import tempfile
from pathlib import Path

from experiments.command.main import main

PAGE = Path(__file__).parents[1] / "docs" / "mistakes.md"
TYPED = re.compile(r"^\$ (espalier .*)\n(.*)$", re.M)

NAMES = re.compile(r"[\w-]+(, [\w-]+){6,}")


def told(command: str) -> tuple[int, str, str]:
    """Runs a command in this process in an empty folder: its code, output, and what it is told."""
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(shlex.split(command))
        assert not any(Path().iterdir()), f"{command} wrote something"
    return code, out.getvalue(), err.getvalue()


def shortened(line: str) -> str:
    """Cuts a list of more than six names to three: others come to it every week."""
    return NAMES.sub(lambda found: ", ".join([*found[0].split(", ")[:3], "…"]), line)


def renewed(text: str) -> str:
    """Returns the page with each command followed by what it is told now."""
    line = lambda found: f"$ {found[1]}\n{shortened(told(found[1])[2].rstrip())}"
    return TYPED.sub(line, text)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")
    sys.exit(0)
