"""`espalier report`."""

import click

from experiments.command import options
from experiments.command.arguments import Command


@click.command(cls=Command)
@options.config
@options.store
@options.named
def command(chosen, **settings) -> int:
    """Write tables, fit and report from what the store has.

    \b
    espalier report --config=over_training:cpu --store=runs
    """
    from experiments.command import opened, session

    return opened.called(session.report, chosen.open(), session.Settings(**settings))
