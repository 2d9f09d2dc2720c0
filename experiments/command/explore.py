"""`espalier explore`: runs and laws as one page that works offline; needs no accelerator."""

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.fit import declared
from experiments.command.options import Place


@click.command(cls=Command)
@click.option(
    "--law", default="auto", show_default=True, metavar="NAME,...", help="laws, auto, or none"
)
@click.option(
    "--formula",
    "formulas",
    multiple=True,
    metavar="TEXT",
    help="a law of your own, as in 'E + A*params**-a'; repeatable",
)
@options.table
@options.columns
@click.option("--where", metavar="CONDITION", help="rows to take, as in 'params > 1e6'")
@click.option("--out", type=Place("file"), required=True, metavar="FILE.html", help="the page")
@declared
def command(law, formulas, table, columns, where, out, **asked) -> None:
    """Make a page in which a table and its laws are explored.

    One file: runs and laws in charts, sliders for budget, params and tokens, what the answer
    depends on, predictions for your own sizes. It works offline and on a phone.

    \b
    espalier explore --table=mine.csv --out=mine.html
    espalier explore --table=published:chinchilla:240 --law=chinchilla,skaling --out=page.html
    espalier explore --table=mine.csv --formula='E + A*params**-a' --out=page.html
    """
    from fitting.explorer import explore
    from fitting.options import Options

    chosen = Options(**asked)
    page = lambda named: explore(table, out, law, formulas, chosen, columns=named, where=where)
    print("\n".join(options.asked(columns, page)))
