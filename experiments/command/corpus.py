"""`espalier corpus`: your own text as a corpus."""

import click

from experiments.command.arguments import Command, Commands
from experiments.command.options import Number, OneOf, Place
from refused import Refused

command = Commands("corpus", help="Build corpora of your own text, show or list them.")


@command.command("build", cls=Command)
@click.option("--name", required=True, metavar="NAME", help="the corpus's name")
@click.option(
    "--domain",
    multiple=True,
    metavar="NAME=GLOB",
    help="a domain and its files, or a dataset's folder; repeatable",
)
@click.option("--out", type=Place(), metavar="FOLDER", help="(default: corpora/NAME)")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="KEY",
    help="key or column of the text, or DOMAIN=KEY; repeatable (default: text)",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="FORMAT",
    help="text, jsonl, json, csv, ..., or DOMAIN=FORMAT; repeatable (default: by each file)",
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
    "held_out",
    type=Number(),
    default=0.05,
    show_default=True,
    metavar="SHARE",
    help="of the documents",
)
@click.option(
    "--near-duplicates",
    type=Number(),
    metavar="LIKENESS",
    help="leave out what is so much like an earlier document, as 0.8 (default: only equal ones)",
)
@click.option(
    "--longest",
    type=Number(int),
    default=1 << 24,
    show_default=True,
    metavar="BYTES",
    help="of a document",
)
@click.option(
    "--workers",
    type=Number(int),
    metavar="COUNT",
    help="processes, or tasks of Ray at once (default: one per core)",
)
@click.option(
    "--on",
    type=OneOf("local", "ray"),
    default="local",
    show_default=True,
    metavar="local|ray",
    help="where files are read and tokenized: here, or on a Ray cluster that sees them",
)
def build(name: str, domain: tuple[str, ...], out: str | None, **asked) -> None:
    """Tokenize your own text into a corpus that studies read.

    Reads text, JSON, CSV, Parquet and Arrow, also compressed, and folders of Hugging Face
    datasets with their splits. A killed build goes on where it was.

    \b
    espalier corpus build --name=mine --domain code='src/**/*.py' --domain web='crawl/*.jsonl'
    espalier corpus build --name=web --domain web='crawl/*.txt' --split='\\n\\n'
    espalier corpus build --name=web --domain web='/shared/*.jsonl' --on=ray --out=/shared/web
    """
    from experiments.command import corpora

    corpora.build(name, out, domain, **asked)


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


@command.command("list", cls=Command)
@click.option("--out", type=Place(), metavar="FOLDER", help="(default: corpora and the cache)")
def list_(out: str | None) -> None:
    """List the corpora that are built, here and in the cache.

    \b
    espalier corpus list
    espalier corpus list --out=corpora
    """
    from experiments.command import corpora

    print(corpora.listing(out))
