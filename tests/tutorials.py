"""Types what the tutorials say, from an empty folder, and compares what is printed with what they
show.

    python -m tests.tutorials [--bin=FOLDER] [--show] [PAGE...]

Commands are those of `sh` blocks, files those of `python` blocks that begin with their name; other
`python` blocks are run. A `text` block shows lines of what the block before it printed, in their
order. Its whole numbers are exactly those printed; others within a thousandth, or within
`<!-- close: 5% -->` above the block. What `<!-- varies: REGEX -->` names there is not compared:
times, free disk. A block below `<!-- ends: 2 -->` ends with that code. Those below
`<!-- needs: slurm -->` are for a cluster: a Slurm of one node is started for them where that is
possible, and else they are left out, which is said. `console` blocks are not run.

PAGE is a path below docs/, all of `PAGES` by default. `--bin` is the folder of the python and
espalier to run, as of an environment that holds the wheel alone; what they import may not lie in
this checkout, unless they are those that run this.
"""

import argparse
import contextlib
import os
import re
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.experiments.command.launchers.node import lacking, one_node

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("start.md", *(f"tutorials/{name}.md" for name in ("csv", "text", "cluster", "own")))
FENCE = re.compile(r"((?:^<!-- [^\n]*-->\n)*)^```(sh|python|text)\n(.*?)^```$", re.S | re.M)
MARK = re.compile(r"<!-- (\w+)(?:: (.*?))? -->")
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A block of a page: its kind, its text, and the marks above it."""

    kind: str
    text: str
    marks: dict[str, str]


def blocks(page: str) -> list[Block]:
    """Returns the blocks of a page's text, in their order."""
    return [
        Block(kind, text, dict(MARK.findall(above))) for above, kind, text in FENCE.findall(page)
    ]


def same(shown: str, printed: str, close: float) -> bool:
    """Says whether two lines are the same but for spaces, rules of tables, and rounding."""
    shown, printed = (
        re.sub(r"[-─]{3,}", "---", re.sub(r"\s+", " ", line)).strip() for line in (shown, printed)
    )
    if NUMBER.sub("#", shown) != NUMBER.sub("#", printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(a == b or near(a, b, close) for a, b in pairs)


def near(a: str, b: str, close: float) -> bool:
    """Says whether two numbers that are no counts are the same but for rounding."""
    if not set(".e") & set(a + b):
        return False
    a, b = (float(text.replace(",", "")) for text in (a, b))
    return abs(a - b) <= close * max(abs(a), abs(b))


def missing(block: Block, printed: str) -> str | None:
    """Returns the first line that is shown and was not printed after those before it."""
    close = float(block.marks.get("close", "0.1%").rstrip("%")) / 100
    varies = re.compile(block.marks["varies"]) if "varies" in block.marks else None
    plain = lambda line: varies.sub("~", line) if varies else line
    lines = iter([plain(line) for line in printed.splitlines()])
    for shown in block.text.splitlines():
        if shown.strip() in ("", "…"):
            continue
        if not any(same(plain(shown), line, close) for line in lines):
            return shown
    return None


def run(block: Block, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Runs a block; returns the exit code and all that it printed."""
    first, _, rest = block.text.partition("\n")
    named = re.fullmatch(r"# (\S+\.py)", first)
    if block.kind == "python" and named:
        (folder / named[1]).write_text(rest, "utf-8")
        return 0, ""
    command = ["bash", "-euo", "pipefail", "-c"] if block.kind == "sh" else ["python", "-c"]
    done = subprocess.run(
        [*command, block.text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    return done.returncode, done.stdout


def environment(folder: str | None) -> dict[str, str]:
    """Returns the environment of a person who has installed the wheel, and nothing else set."""
    kept = {
        name: os.environ[name]
        for name in ("HOME", "LANG", "ESPALIER_CACHE", "SLURM_CONF")
        if name in os.environ
    }
    own = Path(folder).resolve() if folder else Path(sys.executable).parent
    # Wide enough for every table, as a terminal that a person would widen.
    return kept | {"PATH": f"{own}:/usr/local/bin:/usr/bin:/bin", "COLUMNS": "110"}


def refuse_checkout(environment: dict[str, str]) -> None:
    """Ends where the package would come from this checkout instead of an installed wheel."""
    code = "import refused, sys; sys.stdout.write(refused.__file__)"
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            ["python", "-c", code], cwd=empty, env=environment, capture_output=True, text=True
        )
    found = Path(done.stdout)  # An environment may lie in the checkout, with a wheel in it.
    if done.returncode or (found.is_relative_to(ROOT) and "site-packages" not in found.parts):
        sys.exit(f"tutorials: {done.stdout or done.stderr} is no installed wheel")


def typed(name: str, environment: dict[str, str], show: bool) -> list[str]:
    """Types a page; returns what went otherwise than shown."""
    faults, printed, ran, lines, left = [], None, 0, 0, 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="tutorial-") as folder:
        for block in blocks((ROOT / "docs" / name).read_text("utf-8")):
            if "needs" in block.marks and "SLURM_CONF" not in environment:
                left, printed = left + (block.kind != "text"), None
            elif block.kind != "text":
                code, printed = run(block, Path(folder), environment)
                ran += 1
                if show:
                    print(f"$ {block.text}{printed}")
                if code != int(block.marks.get("ends", 0)):
                    faults.append(f"{name}: ended with code {code}:\n{block.text}{printed}")
                    break
            elif printed is not None:
                lines += len(block.text.splitlines())
                line = missing(block, printed)
                if line is not None:
                    faults.append(f"{name}: not printed as shown:\n{line}\nprinted:\n{printed}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    without = f", {left} blocks left out" if left else ""
    print(
        f"{name}: {ran} blocks, {lines} lines shown, {spent:.0f} CPU-seconds{without}", flush=True
    )
    return faults


def main() -> int:
    """Types the pages and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("pages", nargs="*", default=PAGES)
    parser.add_argument("--bin")
    parser.add_argument("--show", action="store_true")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if (why := lacking()) is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-"))
            stack.enter_context(one_node(Path(folder)))
        else:
            print(f"without Slurm: {why}")
        chosen = environment(asked.bin)
        if asked.bin:
            refuse_checkout(chosen)
        faults = [fault for name in asked.pages for fault in typed(name, chosen, asked.show)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
