"""`espalier compare`: two studies of a store side by side."""

import click

from experiments.command import options
from experiments.command.arguments import Command


@click.command(cls=Command)
@click.argument("first")
@click.argument("second")
@options.store
@click.option(
    "--law",
    default="chinchilla",
    show_default=True,
    metavar="NAME",
    help="the law that is fitted to both",
)
def command(first: str, second: str, store: str, law: str) -> int:
    """Compare two studies of a store by their labels and by a law fitted to each.

    \b
    espalier compare over_training-cpu longer --store=runs
    """
    from experiments.command import opened

    return opened.of_store(lambda store, _: write(store, first, second, law), None, store)


def write(store, first: str, second: str, law: str) -> None:
    """Writes the comparison's report into the store and prints where it is.

    Raises:
      Refused: a study without a sound run table, an unknown law, or one study given twice.
    """
    from experiments.command import named
    from experiments.evidence.report import write_blocks
    from experiments.evidence.side_by_side import side_by_side
    from fitting.laws import law_named
    from refused import Refused

    if first == second:
        raise Refused("study", f"{first} twice", "two studies")
    law_named(law)
    for name in (first, second):
        store.study(name)
    tables = {name: named.table_of(store, name) for name in (first, second)}
    out = store.path / "comparisons" / f"{first}.{second}"
    write_blocks(out, f"{first} and {second}", side_by_side(tables, law))
    print(f"comparison: {out / 'report.html'} (and report.md, tables as CSV)")
