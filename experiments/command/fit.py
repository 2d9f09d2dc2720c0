"""`espalier fit`: a law fitted to anybody's losses; needs no accelerator."""

import click

from experiments.command.arguments import Command
from experiments.command.options import Number, Place, switch
from refused import Refused


class Columns(click.ParamType):
    """THEIRS=OURS,... as a mapping."""

    name = "columns"

    def convert(self, value, param, ctx):
        """Returns the mapping."""
        pairs = [item.partition("=") for item in value.split(",") if item]
        if not all(theirs and ours for theirs, _, ours in pairs):
            raise Refused(param.opts[0], value, "THEIRS=OURS,..., as in size=params_total")
        return {theirs: ours for theirs, _, ours in pairs}


class Budgets(click.ParamType):
    """FLOP,... as numbers."""

    name = "budgets"

    def convert(self, value, param, ctx):
        """Returns the budgets."""
        try:
            return [float(budget) for budget in value.split(",") if budget]
        except ValueError:
            raise Refused(param.opts[0], value, "FLOP,..., as in 1e21,1e22") from None


@click.command(cls=Command)
@click.option("--law", required=True, metavar="NAME", help="the law's name, as in chinchilla")
@click.option(
    "--table",
    type=Place("file"),
    required=True,
    metavar="FILE",
    help="a CSV or Parquet file, or published:NAME",
)
@click.option(
    "--columns", type=Columns(), default="", metavar="THEIRS=OURS,...", help="column names"
)
@click.option("--params", metavar="COLUMN", help="the parameter count that the law means")
@click.option("--target", metavar="COLUMN", help="column to predict (default: the law's)")
@click.option(
    "--held-out",
    default="",
    metavar="SPLIT",
    help="largest_decile, above:0.25 (of the largest compute) or COLUMN>VALUE",
)
@click.option("--flops", type=Budgets(), default="", metavar="FLOP,...", help="budgets to allocate")
@click.option("--out", type=Place(), metavar="FOLDER", help="also write tables and figures there")
@click.option(
    "--objective",
    default="huber",
    show_default=True,
    metavar="NAME",
    help="huber, lad, least_squares or least_squares_log",
)
@click.option(
    "--delta",
    type=Number(above=0),
    default=1e-3,
    show_default=True,
    metavar="NUMBER",
    help="of the Huber loss, in log loss",
)
@click.option(
    "--level",
    type=Number(),
    default=0.9,
    show_default=True,
    metavar="SHARE",
    help="of the intervals",
)
@switch("point-only", "no intervals, which takes a moment only")
def command(law: str, table: str, held_out: str, **asked) -> None:
    """Fit a law to anybody's table of losses.

    Prints intervals and how they were made, what the data do not identify, errors on held-out
    runs beside naive baselines and, with --flops, compute-optimal sizes. Needs no accelerator.

    \b
    espalier fit --law=chinchilla --table=mine.csv --columns=size=params_total
    espalier fit --law=over_training --table=published:over_training:c4
    espalier fit --law=chinchilla --table=published:chinchilla:240 --flops=1e21,5.76e23
    """
    from fitting.report import fit_report

    asked["columns"] = asked["columns"] or None
    print(fit_report(law, table, held_out=held_out or None, **asked))
