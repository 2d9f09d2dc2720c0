"""`espalier corpus`: your own text as a corpus."""

import click

from experiments.command.arguments import Command, Commands
from experiments.command.options import Number, OneOf, Place
from refused import Refused

FIELD, LONGEST, HELD_OUT = "text", 1 << 24, 0.05

command = Commands("corpus", help="Build a corpus of your own text, or show what one holds.")


@command.command("build", cls=Command)
@click.option("--name", required=True, metavar="NAME", help="the corpus's name")
@click.option(
    "--domain", multiple=True, metavar="NAME=GLOB", help="a domain and its files; repeatable"
)
@click.option("--out", type=Place(), metavar="FOLDER", help="(default: corpora/NAME)")
@click.option(
    "--field",
    default=FIELD,
    show_default=True,
    metavar="NAME",
    help="key or column of JSONL and Parquet",
)
@click.option(
    "--split",
    default="",
    metavar="TEXT",
    help=r"what parts a text file's documents, as in \n\n (default: nothing)",
)
@click.option(
    "--tokenizer",
    default="bytes",
    show_default=True,
    metavar="bytes|bpe:SIZE|FILE",
    type=Place("file"),
    help="bpe is learned from the training side; a file is a tokenizer.json",
)
@click.option(
    "--on-bad",
    type=OneOf("refuse", "skip"),
    default="refuse",
    show_default=True,
    metavar="refuse|skip",
    help="what becomes of texts that cannot be used",
)
@click.option(
    "--held-out-fraction",
    type=Number(),
    default=HELD_OUT,
    show_default=True,
    metavar="SHARE",
    help="of the documents",
)
@click.option(
    "--longest",
    type=Number(int),
    default=LONGEST,
    show_default=True,
    metavar="BYTES",
    help="of a document",
)
@click.option(
    "--workers", type=Number(int), metavar="COUNT", help="processes (default: one per core)"
)
def build(name, domain, out, field, split, longest, held_out_fraction, **asked) -> None:
    """Tokenize your own text into a corpus that studies read.

    Reads text, JSONL and Parquet, also .gz and .zst. A killed build goes on where it was.

    \b
    espalier corpus build --name=mine --domain code='src/**/*.py' --domain web='crawl/*.jsonl'
    espalier corpus build --name=web --domain web='crawl/*.txt' --split='\\n\\n'
    """
    from data.sources import Reading
    from experiments.command import corpora

    reading = Reading(field, corpora.unescaped(split), longest)
    corpora.build(name, out, domain, reading=reading, held_out=held_out_fraction, **asked)


@command.command("show", cls=Command)
@click.option("--name", type=Place(), metavar="NAME", help="its name, a folder, or wheels")
@click.option("--out", type=Place(), metavar="FOLDER", help="the folder it was built in")
def show(name: str | None, out: str | None) -> None:
    """Show a corpus's domains, tokens, bytes, documents, tokenizer and hash.

    \b
    espalier corpus show --name=mine
    espalier corpus show --name=wheels
    """
    from experiments.command import corpora

    if not (name or out):
        raise Refused("--name", "nothing", "NAME: its name, a folder, or wheels")
    print(corpora.show(out or name))
