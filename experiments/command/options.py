"""Options that several commands share, each declared once, and the kinds of value they take."""

import csv
import math
import sys
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from experiments.command import outline, studies
from experiments.command.arguments import OVERRIDES
from refused import Refused, listed


class Columns(click.ParamType):
    """THEIRS=OURS,... as a mapping; a name with a comma in it stands in double quotes."""

    name = "columns"

    def convert(self, value, param, ctx):
        """Returns the mapping."""
        if isinstance(value, dict):
            return value
        accepted = (
            'THEIRS=OURS,..., as in size=params_total[M]; "a, b"=loss where a name has commas'
        )
        try:
            items = next(csv.reader([value], skipinitialspace=True, strict=False), [])
        except csv.Error:
            raise Refused(param.opts[0], value, accepted) from None
        pairs = [item.rpartition("=") for item in items if item.strip()]
        if not all(theirs.strip() and ours.strip() for theirs, _, ours in pairs):
            raise Refused(param.opts[0], value, accepted)
        return {theirs.strip(): ours.strip() for theirs, _, ours in pairs}


class Place(click.ParamType):
    """A file or folder, whose `~` is the home folder; what `kind` says is completed by shells."""

    def __init__(self, kind: str = "dir"):
        self.name = self.kind = kind

    def convert(self, value, param, ctx):
        """Returns the path as text; a bucket's address is left as it is."""
        return str(Path(value).expanduser()) if value.startswith("~") else value

    def shell_complete(self, ctx, param, incomplete):
        """Leaves it to the shell."""
        return [CompletionItem(incomplete, type=self.kind)]


class Number(click.ParamType):
    """A finite number between bounds that are accepted themselves, unless `above` is given."""

    def __init__(self, kind: type = float, least=None, most=None, above=None):
        self.name, self.kind = "number", kind
        self.least, self.most, self.above = least, most, above

    def convert(self, value, param, ctx):
        """Returns the number.

        Raises:
          Refused: another text, NaN, infinity, or a number out of bounds.
        """
        try:
            number = self.kind(value)
            good = math.isfinite(number)
        except (ValueError, OverflowError):
            good = False
        good = good and (self.least is None or number >= self.least)
        good = good and (self.most is None or number <= self.most)
        if not good or (self.above is not None and number <= self.above):
            raise Refused(param.opts[0], value, self.accepted())
        return number

    def accepted(self) -> str:
        """Says which numbers there are."""
        word = "a whole number" if self.kind is int else "a number"
        if self.above is not None:
            return f"{word} more than {self.above:g}"
        if self.most is not None:
            return f"{word} from {self.least:g} to {self.most:g}"
        return word if self.least is None else f"{word}, {self.least:g} or more"


class OneOf(click.ParamType):
    """One of a few names."""

    name = "name"

    def __init__(self, *names: str):
        self.names = names

    def convert(self, value, param, ctx):
        """Returns the name.

        Raises:
          Refused: another one.
        """
        if value not in self.names:
            raise Refused(param.opts[0], value, listed(self.names, value))
        return value

    def shell_complete(self, ctx, param, incomplete):
        """Completes the name."""
        return [CompletionItem(name) for name in self.names if name.startswith(incomplete)]


class StudyName(click.ParamType):
    """A study by name or file, with a preset, and the values of its configuration."""

    name = "study"

    def convert(self, value, param, ctx):
        """Returns the study with its values; its file is found here and imported when opened."""
        return studies.Chosen.of(value, ctx.meta.get(OVERRIDES, {}))

    def shell_complete(self, ctx, param, incomplete):
        """Completes the studies that come with the project, and presets; files the shell knows."""
        name, colon, preset = incomplete.partition(":")
        if colon:
            try:
                found = outline.presets(studies.Chosen.of(name, {}).file)
            except Refused:
                return []
            return [CompletionItem(f"{name}:{n}") for n in found if n.startswith(preset)]
        found = [name for name in studies.names() if name.startswith(incomplete)]
        return [CompletionItem(n) for n in found] or [CompletionItem(incomplete, type="file")]

    def names_of(self, chosen) -> list[str]:
        """Lists the names of a study's values, for completion."""
        found = outline.presets(chosen.file)
        return found.get(chosen.preset or next(iter(found), ""), [])


def switch(name: str, help: str):
    """Declares a switch that is off by default: `--name`, `--no-name`."""
    return click.option(f"--{name}/--no-{name}", help=help)


SECONDS = Number(least=0)
_PER_STEP = "TOKENS_PER_STEP"  # In a question's option, where a number belongs.

config = click.option(
    "--config",
    "chosen",
    type=StudyName(),
    required=True,
    metavar="STUDY[:PRESET]",
    help="a study by name or a study's file, as in over_training:cpu; its values are changed by "
    "--config.NAME=VALUE",
)
store = click.option(
    "--store",
    type=Place(),
    default="runs",
    show_default=True,
    metavar="FOLDER",
    help="where segments and reports are kept; also a bucket, as gs://mine/runs",
)
target = click.option(
    "--for",
    "target",
    metavar="DEVICE[:SHAPE]",
    help="plan for devices that need not be here, as h200:8, v5e:8x8 or v5p:4x4x4",
)
price = click.option(
    "--price",
    type=Number(least=0),
    metavar="PER_CHIP_HOUR",
    help="with --for: what an hour of one chip costs, in any currency",
)
mesh = click.option(
    "--mesh",
    default="",
    metavar="AXIS:SIZE,...",
    help="device mesh, as in fsdp:4,data:2 (default: all devices on data)",
)
fleet = click.option(
    "--fleet",
    default="auto",
    show_default=True,
    metavar="auto|loop|SIZE",
    help="most runs in one program; loop: one by one",
)
checkpoint_seconds = click.option(
    "--checkpoint-seconds",
    type=SECONDS,
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="most work that a kill can undo",
)
stop_after = click.option(
    "--stop-after",
    type=SECONDS,
    metavar="SECONDS",
    help="end cleanly after so long; the same command goes on",
)
keep_params = switch("keep-params", "keep each run's parameters, which export and sample need")
lease_seconds = click.option(
    "--lease-seconds",
    type=Number(above=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="silence after which other workers take over a segment",
)
profile = click.option(
    "--profile", type=Place(), metavar="FOLDER", help="write a trace of some steps there"
)
join_seconds = click.option(
    "--join-seconds",
    type=Number(above=0),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="several processes: how long the others are waited for",
)
study = click.option("--study", metavar="NAME", help="a study by its name in the store")
run = click.option("--run", metavar="ID", help="the run's id, as in the run table")
keep = click.option(
    "--keep",
    default="auto",
    show_default=True,
    metavar="auto|all|none|BYTES",
    help="end states that stay, so that a study can grow; auto: within a tenth of the free disk",
)
named = click.option("--as", "named", metavar="NAME", help="the study's name in the store")
prune = switch("prune", "give back the room of states that --keep would not keep")


def one_run(command):
    """Adds the options that name one run of a store, or of a study."""
    optional = click.option(
        "--config",
        "chosen",
        type=StudyName(),
        metavar="STUDY[:PRESET]",
        help="a study, where the store alone does not say enough",
    )
    for option in (run, study, optional, store):
        command = option(command)
    return command


table = click.option(
    "--table",
    type=Place("file"),
    required=True,
    metavar="FILE",
    help="a table in almost any file (docs/tables.md), a folder of runs, or published:NAME",
)
columns = click.option(
    "--columns",
    type=Columns(),
    default="",
    metavar="THEIRS=OURS,...",
    help="what columns are, with units, as in size=params_total[M]; guessed by name without",
)


def asked(columns, task):
    """Calls a task with the meanings of a table's columns, and asks where it does not know them.

    Without a terminal there is nobody to ask: the refusal prints the line to use.
    """
    columns = dict(columns or {})
    while True:
        try:
            return task(columns or None)
        except Refused as unsure:
            questions = getattr(unsure, "questions", ())
            if not questions or not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            columns = {**unsure.known, **columns, **{q.theirs: _answer(q) for q in questions}}
            from fitting.reading.units import line

            click.echo(line(columns), err=True)


def _answer(question) -> str:
    """One of a question's options, chosen by the person at the terminal."""
    text = f"{question.theirs}: {question.why}"
    chosen = question.options[0]
    if len(question.options) > 1:
        chosen = click.prompt(text, type=click.Choice(question.options), err=True)
    elif _PER_STEP not in chosen:
        click.confirm(f"{text} {chosen}", abort=True, err=True)
    if _PER_STEP in chosen:
        number = click.prompt(text, type=float, err=True)
        chosen = chosen.replace(_PER_STEP, f"{number:.17g}")
    return chosen
