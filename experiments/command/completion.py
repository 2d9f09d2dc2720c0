"""`espalier completion`: what a shell needs to complete commands, flags and studies."""

import click
from click.shell_completion import get_completion_class

from experiments.command.arguments import Command, listed
from refused import Refused

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", metavar="bash|zsh|fish")
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print what has a shell complete commands.

    Also flags and the names of studies.

    \b
    bash   echo 'eval "$(espalier completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(espalier completion zsh)"' >> ~/.zshrc
    fish   espalier completion fish > ~/.config/fish/completions/espalier.fish
    """
    if shell not in SHELLS:
        raise Refused("shell", shell, listed(SHELLS, shell))
    root = ctx.find_root()
    found = get_completion_class(shell)(root.command, {}, root.info_name, "_ESPALIER_COMPLETE")
    click.echo(found.source())
