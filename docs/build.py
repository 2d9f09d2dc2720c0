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
FIGURE = re.compile(r"!\[[^\]\n]*\]\((figures/[^)\s]+\.png)\)")
WIDE = 1000  # pixels of a picture; those of one column of a paper have fewer
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def marked(text: str, folder: Path) -> str:
    """Marks the figures of a page that are too wide for a phone, where they scroll."""

    def one(found: re.Match) -> str:
        header = (folder / found[1]).read_bytes()[:24]  # PNG 1.2, sections 3.1 and 4.1.1.
        return found[0] + "{ .wide }" * (int.from_bytes(header[16:20], "big") > WIDE)

    return FIGURE.sub(one, text)


def assemble(pages: Path) -> None:
    """Writes every page as Markdown, with what it shows."""
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(HERE, pages, ignore=shutil.ignore_patterns("*.py", "*.toml", "__pycache__"))
    shutil.copytree(ROOT / "experiments" / "results", pages / "results")
    for page in pages.rglob("*.md"):
        up = "../" * (len(page.relative_to(pages).parts) - 1)
        text = page.read_text("utf-8").replace(f"]({up}../experiments/results/", f"]({up}results/")
        page.write_text(marked(text, page.parent))
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
        site = (BUILD / "site").relative_to(ROOT)
        print(f"{count} pages: {site / 'index.html'}")
        print(f"with search, which browsers allow no file: python -m http.server -d {site}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
