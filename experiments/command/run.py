"""`espalier run`."""

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import Number


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
@options.prune
@options.lease_seconds
@options.profile
@click.option("--track", metavar="wandb:PROJECT", help="tell a service the curves as well")
@click.option(
    "--coordinator", metavar="HOST:PORT", help="several processes: of process 0; auto on a pod"
)
@click.option("--processes", type=Number(int), metavar="COUNT", help="how many processes there are")
@click.option("--process", type=Number(int), metavar="INDEX", help="which of them this is, from 0")
@options.join_seconds
def command(chosen, coordinator, processes, process, join_seconds, **settings) -> int:
    """Train what is missing, then write tables, fit and report.

    What is in the store is never trained twice; a killed run goes on from its last checkpoint.

    \b
    espalier run --config=over_training:cpu
    espalier run --config=over_training:gpu --store=~/runs --stop-after=3600
    espalier run --config=over_training:gpu --mesh=fsdp:4,data:2 --profile=trace
    """
    from experiments.command import session
    from experiments.command.opened import called
    from scaling.processes import joined

    opened = chosen.open()
    with joined(coordinator, processes, process, join_seconds):
        return called(session.run, opened, session.Settings(**settings))
