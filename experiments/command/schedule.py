"""`espalier schedule`: a law of the learning rate fitted to loss curves, and its best schedule."""

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import Number, Place


@click.command(cls=Command)
@click.option(
    "--table",
    type=Place("file"),
    required=True,
    metavar="FILE",
    help="curves: step, loss, and learning_rate in each row or schedule in words",
)
@options.columns
@click.option("--by", default="trunk", show_default=True, metavar="COLUMN", help="names the runs")
@click.option("--where", metavar="CONDITION", help="rows that are fitted; others are predicted")
@click.option("--law", default="multi_power", show_default=True, help="multi_power or momentum")
@click.option(
    "--warmup", type=Number(least=0), default=0.0, show_default=True, help="steps before the rows"
)
@click.option("--steps", type=Number(above=0), help="of the schedule that is sought")
@click.option("--peak", type=Number(above=0), help="its highest rate")
@click.option("--end", type=Number(above=0), help="its lowest rate")
def command(table, columns, **asked) -> None:
    """Fit a law of the learning-rate schedule, and find its best schedule.

    With --steps, --peak and --end the schedule of the least loss is told beside cosine and decays.
    Needs no accelerator.

    \b
    espalier schedule --table=curves.csv --by=run --where='split == train' --warmup=2160
    """
    from fitting.schedule_report import schedule_report

    print(options.asked(columns, lambda names: schedule_report(table, columns=names, **asked)))
