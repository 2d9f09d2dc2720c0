"""`espalier plan`."""

import click

from experiments.command import options
from experiments.command.arguments import Command


@click.command(cls=Command)
@options.config
@options.store
@options.mesh
@options.fleet
@options.keep
@options.keep_params
@options.named
@options.prune
def command(chosen, **settings) -> int:
    """Show what a study would train, its cost and what is there.

    \b
    espalier plan --config=over_training:cpu
    espalier plan --config=my_study.py --config.widths="(16,32)" --config.seeds="(1,1)"
    """
    from experiments.command import opened, session

    return opened.called(session.plan, chosen.open(), session.Settings(**settings))
