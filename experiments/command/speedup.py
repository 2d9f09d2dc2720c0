"""`espalier speedup`: how much further a baseline has to train for a variant's loss."""

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import Number


@click.command(cls=Command)
@options.table
@click.option("--baseline", required=True, metavar="CONDITION", help="rows, as in 'arm == adamw'")
@click.option("--variant", required=True, metavar="CONDITION", help="rows, as in 'arm == muon'")
@options.columns
@click.option(
    "--along", default="tokens", show_default=True, metavar="COLUMN", help="what is saved"
)
@click.option("--at", type=Number(above=0), help="where; the variant's largest by default")
@click.option("--asymptote", type=Number(least=0), help="of the baseline; fitted by default")
@click.option("--target", default="loss", show_default=True, metavar="COLUMN", help="the loss")
@click.option("--level", type=Number(), default=0.9, show_default=True, help="of the interval")
@click.option(
    "--draws", type=Number(int, least=1), default=400, show_default=True, help="resamples"
)
@click.option(
    "--seed", type=Number(int, least=0), default=0, show_default=True, help="of the draws"
)
def command(table, baseline, variant, columns, **asked) -> None:
    """Compare two arms by the training that one saves.

    The interval is made of the lack of fit: it stays wide where the two curves are not stretches of
    one another. Needs no accelerator.

    \b
    espalier speedup --table=runs.csv --baseline='arm == adamw' --variant='arm == muon'
    """
    from fitting.speed_up import speed_up_report

    report = lambda names: speed_up_report(table, baseline, variant, names, **asked)
    print(options.asked(columns, report))
