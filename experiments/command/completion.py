"""`espalier completion`: what a shell needs to complete commands, flags and studies."""

import os

import click
from click.shell_completion import (
    BashComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from experiments.command.arguments import Command
from refused import Refused, listed

SHELLS = ("bash", "zsh", "fish")


class Bash(BashComplete):
    """Completion by bash, which takes a word for several where it holds `=` or `:`.

    Words are read from the line itself, and of what is offered only what bash puts in is given.
    """

    source_template = """
%(complete_func)s() {
  local line=${COMP_LINE:0:COMP_POINT} word=${COMP_WORDS[COMP_CWORD]} typed given kind value
  typed=${line##*[[:space:]]}
  [[ $typed == -*=* ]] && typed=${typed#*=}
  [[ $word == [=:] ]] && word=""
  given=${typed%%"$word"}
  COMPREPLY=()
  while IFS=, read -r kind value; do
    case $kind in
      dir) compopt -o dirnames ;;
      file) compopt -o default ;;
      plain)
        COMPREPLY+=("${value#"$given"}")
        [[ $value == *= ]] && compopt -o nospace
        ;;
    esac
  done < <(COMP_LINE=$line %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Returns the words before the one that is completed, and that one."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() else words.pop()
        return words[1:], incomplete


add_completion_class(Bash)


@click.command(cls=Command)
@click.argument("shell", metavar="bash|zsh|fish")
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print what has a shell complete commands.

    Also flags, studies, their presets and the names of their values.

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
