"""`espalier isoflop`: the best size of every compute budget, and its exponent in compute."""

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import Number, Place


@click.command(cls=Command)
@options.table
@options.columns
@click.option("--where", metavar="CONDITION", help="rows to take, as in 'params > 1e6'")
@click.option("--params", metavar="COLUMN", help="the parameter count that is meant")
@click.option("--law", default="chinchilla", show_default=True, help="a law to fit beside")
@click.option("--out", type=Place(), metavar="FOLDER", help="also write table and figure there")
@click.option("--level", type=Number(), default=0.9, show_default=True, help="of the intervals")
@click.option(
    "--draws", type=Number(int, least=1), default=1000, show_default=True, help="resamples"
)
@click.option(
    "--seed", type=Number(int, least=0), default=0, show_default=True, help="of the draws"
)
def command(table, columns, **asked) -> None:
    """Find the compute-optimal size of every budget of a table.

    Runs of equal compute make a curve, smoothed as far as their noise asks; budgets whose least
    loss is at an edge are named and left out. Needs no accelerator.

    \b
    espalier isoflop --table=mine.csv --columns=n=params_total,c=flops
    espalier isoflop --table=mine.csv --where='corpus == web' --out=minima
    """
    from fitting.isoflop_report import isoflop_report

    print(options.asked(columns, lambda names: isoflop_report(table, columns=names, **asked)))
