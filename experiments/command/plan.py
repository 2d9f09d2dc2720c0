"""`espalier plan`."""

import click

from experiments.command import options
from experiments.command.arguments import Command
from refused import Refused


@click.command(cls=Command)
@options.config
@options.store
@options.mesh
@options.fleet
@options.keep
@options.keep_params
@options.named
@options.prune
@options.target
@options.price
def command(chosen, target, price, **settings) -> int:
    """Show what a study would train, its cost and what is there.

    \b
    espalier plan --config=over_training:cpu
    espalier plan --config=my_study.py --config.widths="(16,32)" --config.seeds="(1,1)"
    espalier plan --config=over_training:pod --for=v5e:8x8 --price=1.2
    """
    from experiments.command.opened import Settings, called

    if price is not None and target is None:
        raise Refused("--price", price, "with --for=DEVICE[:SHAPE]")
    if target is None:
        from experiments.command import session

        return called(session.plan, chosen.open(), Settings(**settings))
    from experiments.command.plan_for import plan_for, with_stand_in
    from scaling.chips.devices import Target

    where = Target.of(target)
    opened = with_stand_in(*chosen.open())
    there = lambda study, config, settings: plan_for(study, settings.mesh, where, price)
    return called(there, opened, Settings(**settings))
