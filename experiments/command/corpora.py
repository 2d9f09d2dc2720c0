"""Your own text as a corpus: `espalier corpus build`, `show` and `list`."""

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
from data.catalogue import built, cache_folder, load
from data.corpus import SPLITS, Corpus
from data.datasets import splits
from data.sources import Reading
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

    def word(self, line):
        """Prints the line above the bar."""
        print(f"note: {line}", file=sys.stderr)


def build(
    name: str,
    out: str | None,
    patterns: Sequence[str],
    fields: Sequence[str] = (),
    formats: Sequence[str] = (),
    split: str = "",
    longest: int = Reading.longest,
    on: str = "local",
    **options,
) -> Corpus:
    """Builds a corpus from NAME=GLOB patterns or datasets' folders and prints what it holds.

    `fields`, `formats`, `split` and `longest` are as for `data.sources.Reading.of_domains`, and
    `options` as for `data.build.build`. `on` is `local` or `ray`.

    Raises:
      Refused: as these two, or a pattern that no file matches.
    """
    path = out or str(FOLDER / name)
    shared = {"split": unescaped(split), "longest": longest}
    if on == "ray":
        from experiments.command.launchers.tasks import tasks_of_ray

        options["tasks"] = tasks_of_ray
    with Bar() as bar:
        domains = matches(patterns, bar)
        reading = Reading.of_domains(domains, fields, formats, **shared)
        done = build_corpus(path, name=name, domains=domains, reading=reading, shown=bar, **options)
    kept = done.documents - done.duplicates - done.near_duplicates
    near = "near_duplicates" in options and options["near_duplicates"] is not None
    also = f"{done.near_duplicates} near-duplicates left out, " if near else ""
    print(
        f"{done.documents} documents read, {done.duplicates} duplicates left out, {also}"
        f"{kept} kept; "
        f"{done.faults} bad left out; {done.empty_files} empty files left out"
    )
    print(text(done.corpus))
    print(f"use it as --config.corpus={path}")
    return done.corpus


def show(name: str) -> str:
    """Returns what a corpus holds: one that was built by that name, a path, or one of `load`'s."""
    here = FOLDER / name
    return text(load(str(here) if (here / "corpus.json").exists() else name))


def listing(folder: str | None) -> str:
    """Returns the corpora of a folder (default: those built here, then those in the cache)."""
    table = Table("corpus", "tokenizer")
    for column in ("vocabulary", "domains", "training tokens", "held-out tokens"):
        table.add_column(column, justify="right")
    table.add_column("content hash")
    lines = []
    for place in [Path(folder)] if folder else [FOLDER, cache_folder()]:
        for path, corpus in built(place):
            if isinstance(corpus, Refused):
                lines.append(f"unreadable: {corpus}")
                continue
            domains = corpus.domains.values()
            counts = [sum(d.counts(split)["tokens"] for d in domains) for split in SPLITS]
            numbers = (corpus.vocabulary, len(domains), *counts)
            cells = (f"{number:,}" for number in numbers)
            table.add_row(str(path), corpus.tokenizer, *cells, corpus.content_hash[:12])
    if not table.row_count:
        lines.append(f"no corpus in {folder or f'{FOLDER} or {cache_folder()}'}")
        return "\n".join(lines)
    return "\n".join([printed(table), *lines])


def matches(patterns: Sequence[str], shown: Silent) -> dict[str, list[Path] | dict]:
    """Returns the files of each domain: of patterns, which add up, or of a dataset, by split."""
    domains: dict[str, list[Path] | dict] = {}
    for pattern in patterns:
        domain, equals, where = pattern.partition("=")
        if not (domain and equals and where):
            raise Refused("domain", pattern, "NAME=GLOB, as in code='src/**/*.py', or NAME=FOLDER")
        where = str(Path(where).expanduser())
        dataset = dataset_of(where)
        if domain in domains and (dataset or isinstance(domains[domain], dict)):
            raise Refused(f"domain {domain!r}", "a dataset and more", "one dataset, or patterns")
        if dataset:
            found = splits(*dataset)
            for line in found.words:
                shown.word(f"{domain}: {line}")
            held_out = {"held_out": found.held_out, "train": found.train}
            domains[domain] = held_out if found.held_out else found.train
            continue
        files = [Path(f) for f in glob.glob(where, recursive=True) if Path(f).is_file()]
        if not files:
            raise Refused(f"domain {domain!r}", f"no file for {where}", "a pattern of files")
        domains.setdefault(domain, []).extend(files)
    return domains


def dataset_of(where: str) -> tuple[Path, str] | None:
    """Returns a dataset's folder and subset of FOLDER or FOLDER:SUBSET; None for a pattern."""
    folder, _, subset = where.rpartition(":")
    if Path(where).is_dir():
        return Path(where), ""
    return (Path(folder), subset) if folder and Path(folder).is_dir() else None


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
    head = f"{corpus.name}: tokenizer {corpus.tokenizer}, {corpus.vocabulary:,} tokens"
    return f"{head}\ncontent hash {corpus.content_hash}\n{printed(table)}"


def printed(table: Table) -> str:
    """Returns a table as it is printed, as wide as it needs to be."""
    stream = io.StringIO()
    console = Console(file=stream, width=200, highlight=False, markup=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())
