"""Your own text as a corpus: `espalier corpus build` and `espalier corpus show`."""

import glob
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from data.build import Silent
from data.build import build as build_corpus
from data.catalogue import load
from data.corpus import SPLITS, Corpus
from refused import Refused

FOLDER = Path("corpora")  # Where corpora are built without --out, by name.


class Bar(Silent):
    """Draws a bar for each stage on a terminal, and prints faults in any case."""

    def __init__(self):
        console = Console(stderr=True, highlight=False)
        self.bars = Progress(
            TextColumn("{task.description:10}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self):
        self.bars.start()
        return self

    def __exit__(self, *_):
        self.bars.stop()

    def stage(self, name, total):
        """Draws the next bar, empty."""
        self.task = self.bars.add_task(name, total=total)

    def advance(self, amount):
        """Moves the bar on."""
        self.bars.advance(self.task, amount)

    def fault(self, line):
        """Prints the line above the bar."""
        print(f"bad: {line}", file=sys.stderr)


def build(name: str, out: str | None, patterns: Sequence[str], **options) -> Corpus:
    """Builds a corpus from NAME=GLOB patterns and prints what it holds; `options` as `data.build`.

    Raises:
      Refused: as `data.build.build`, or a pattern that no file matches.
    """
    path = Path(out) if out else FOLDER / name
    with Bar() as bar:
        built = build_corpus(path, name=name, domains=matches(patterns), shown=bar, **options)
    kept = built.documents - built.duplicates
    print(
        f"{built.documents} documents read, {built.duplicates} duplicates left out, {kept} kept; "
        f"{built.faults} bad left out"
    )
    print(text(built.corpus))
    print(f"use it as --config.corpus={path}")
    return built.corpus


def show(name: str) -> str:
    """Returns what a corpus holds: one that was built by that name, a path, or one of `load`'s."""
    built = FOLDER / name
    return text(load(str(built) if (built / "corpus.json").exists() else name))


def matches(patterns: Sequence[str]) -> dict[str, list[Path]]:
    """Returns the files of each domain, whose patterns add up."""
    domains: dict[str, list[Path]] = {}
    for pattern in patterns:
        domain, equals, where = pattern.partition("=")
        if not (domain and equals and where):
            raise Refused("domain", pattern, "NAME=GLOB, as in code='src/**/*.py'")
        where = str(Path(where).expanduser())
        found = [Path(f) for f in glob.glob(where, recursive=True) if Path(f).is_file()]
        if not found:
            raise Refused(f"domain {domain!r}", f"no file for {where}", "a pattern of files")
        domains.setdefault(domain, []).extend(found)
    return domains


def unescaped(mark: str) -> str:
    """Returns a mark with \\n and \\t, as a shell hands them over, made into what they mean."""
    return mark.replace(r"\n", "\n").replace(r"\t", "\t")


def text(corpus: Corpus) -> str:
    """Returns a corpus's header and its counts by domain and side, as printed."""
    table = Table("domain", "side")
    for column in ("documents", "tokens", "bytes", "bytes/token"):
        table.add_column(column, justify="right")
    for domain in corpus.domains.values():
        for split in SPLITS:
            counts = domain.counts(split)
            cells = [f"{counts[key]:,}" for key in ("documents", "tokens", "bytes")]
            ratio = counts["bytes"] / counts["tokens"] if counts["tokens"] else 0.0
            table.add_row(domain.name, split.replace("_", " "), *cells, f"{ratio:.3f}")
    stream = io.StringIO()
    console = Console(file=stream, width=100, highlight=False, markup=False)
    console.print(f"{corpus.name}: tokenizer {corpus.tokenizer}, {corpus.vocabulary:,} tokens")
    console.print(f"content hash {corpus.content_hash}", soft_wrap=True)
    console.print(table)
    return stream.getvalue().rstrip()
