"""`espalier work`."""

import click

from experiments.command import options
from experiments.command.arguments import Command


@click.command(cls=Command)
@options.config
@options.store
@options.mesh
@options.fleet
@options.checkpoint_seconds
@options.stop_after
@options.keep_params
@options.keep
@options.named
@options.lease_seconds
def command(chosen, **settings) -> int:
    """Train what is missing beside other workers on one store.

    Any number of them may train one study. SIGTERM has one write a checkpoint and end.

    \b
    espalier work --config=over_training:gpu --store=/shared/runs
    """
    from experiments.command import opened, session

    return opened.called(session.work, chosen.open(), session.Settings(**settings))
