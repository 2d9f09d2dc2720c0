"""Builds the site into build/docs/site; a dead link, a dead anchor or any warning fails.

    python docs/build.py

Pages are those of this folder, every study's report from experiments/results, every command's help
from the command line itself, and the reference from docstrings. Zensical's strict mode lets pass
what mkdocstrings says of a docstring, missing pictures and links in HTML: these are looked for
here.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))  # The command line is asked for its help.

import generated  # noqa: E402
import links  # noqa: E402

BUILD = ROOT / "build" / "docs"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def assemble(pages: Path) -> None:
    """Writes every page as Markdown, with what it shows."""
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(HERE, pages, ignore=shutil.ignore_patterns("*.py", "*.toml", "__pycache__"))
    shutil.copytree(ROOT / "experiments" / "results", pages / "results")
    for page in pages.rglob("*.md"):
        up = "../" * (len(page.relative_to(pages).parts) - 1)
        page.write_text(
            page.read_text("utf-8").replace(f"]({up}../experiments/results/", f"]({up}results/")
        )
    generated.commands(pages / "commands.md")
    generated.reference(pages / "reference", ROOT)


def built(folder: Path) -> list[str]:
    """Runs the generator; returns what it warns of."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = COLOURS.sub("", done.stdout + done.stderr).splitlines()
    # The progress is no warning; whatever else is said is one.
    told = [line for line in said if line.strip() and not line.startswith("Build ")]
    if "Traceback (most recent call last):" in told:  # Of its own, after what it warned of.
        told = told[: told.index("Traceback (most recent call last):")] or told
    if done.returncode and not told:
        told = [f"zensical ended with code {done.returncode}"]
    return [line for line in told if "No issues found" not in line]


def main() -> int:
    """Builds and returns the exit code."""
    BUILD.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(BUILD / "site", ignore_errors=True)
    assemble(BUILD / "pages")
    shutil.copy(HERE / "zensical.toml", BUILD)
    faults = built(BUILD) or links.dead(BUILD / "site")
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        count = len(list((BUILD / "site").rglob("*.html")))
        print(f"{count} pages: {(BUILD / 'site' / 'index.html').relative_to(ROOT)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
