"""`espalier status`."""

import click

from experiments.command import options
from experiments.command.arguments import Command


@click.command(cls=Command)
@options.store
def command(store: str) -> int:
    """Show every study of a store: what is done, who is at what, what is left.

    \b
    espalier status --store=runs
    """
    from experiments.command import opened
    from experiments.command.store_view import status_text

    return opened.of_store(lambda store, _: print(status_text(store)), None, store)
