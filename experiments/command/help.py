"""`espalier help`: what there is, or one command with its flags."""

import click

from experiments.command.arguments import Command
from refused import Refused, listed


@click.command(cls=Command)
@click.argument("names", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """List the commands, or show one: espalier help fit."""
    found, parent = ctx.parent.command, ctx.parent
    for index, name in enumerate(names):
        inside = found.get_command(parent, name) if isinstance(found, click.Group) else None
        if inside is None:
            known = found.list_commands(parent) if isinstance(found, click.Group) else []
            raise Refused("command", " ".join(names[: index + 1]), listed(known, name) or "no more")
        found, parent = inside, click.Context(inside, info_name=name, parent=parent)
    click.echo(found.get_help(parent))
