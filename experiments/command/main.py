"""The console command `espalier`: its commands, and what surrounds each of them."""

import _thread
import atexit
import contextlib
import gc
import importlib
import io
import logging
import os
import sys
import threading
import warnings

import click

from experiments.command.arguments import Commands, told

# Each is a file of this folder that defines `command`; this is the order in which help lists them.
COMMANDS = (
    "plan",
    "run",
    "work",
    "launch",
    "report",
    "status",
    "compare",
    "export",
    "import",
    "evaluate",
    "sample",
    "fit",
    "explore",
    "isoflop",
    "speedup",
    "chain",
    "schedule",
    "corpus",
    "new",
    "completion",
    "help",
)
SETTINGS = dict(help_option_names=["-h", "--help"], max_content_width=100)


def version(ctx: click.Context, _, asked: bool) -> None:
    """Prints the version and ends, where it is asked for."""
    if asked and not ctx.resilient_parsing:
        import importlib.metadata  # Here, since it costs as much as all of `espalier help`.

        click.echo(f"espalier {importlib.metadata.version('espalier')}")
        ctx.exit()


@click.group(cls=Commands, files=COMMANDS, context_settings=SETTINGS)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=version,
    help="the version",
)
def espalier() -> None:
    """Plan, train, fit and check scaling laws.

    `espalier COMMAND --help` shows a command's own flags, with examples.
    """


def root() -> click.Context:
    """Returns the context in which commands are asked for their flags and their help."""
    return click.Context(espalier, info_name="espalier", **espalier.context_settings)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code: 2, with one line, for what a user got wrong."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if "_ESPALIER_COMPLETE" in os.environ:  # A shell asks, and how ours asks is declared there.
        importlib.import_module("experiments.command.completion")
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
    if len(argv) < 2:
        told(espalier, ["help"])
        return 2
    return told(espalier, argv[1:])


class Outlet(io.FileIO):
    """An output that goes nowhere once nobody reads it, so that training goes on."""

    def write(self, data) -> int:
        """Writes to the pipe, or where it is closed, from then on to the null device."""
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def lasting(stream):
    """Returns a text stream of the process that outlives its reader, and gives it line by line."""
    with contextlib.suppress(AttributeError, OSError):  # It is closed, or no file of the system's.
        raw = Outlet(stream.fileno(), "w", closefd=False)
        return io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=True,
        )
    return stream


def interruptible() -> None:
    """Has Ctrl-C end the process also where it comes in a callback that lets no error out."""
    before = sys.unraisablehook

    def hook(found) -> None:
        if found.exc_type is not KeyboardInterrupt:
            before(found)
            return
        again = threading.Timer(0.05, _thread.interrupt_main)  # Once this callback is over.
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


def run() -> None:
    """Is the process of the console script."""
    # Importing makes half a million objects, none of them garbage. At the default of 700 Python
    # looks through all of them again and again, for a sixth of what `plan` takes.
    gc.set_threshold(5_000)
    # At its end Python looks through them once more, for a fifth of what `plan` takes; the system
    # takes the memory of a process back without that. Registered first, this is done last.
    atexit.register(gc.freeze)
    interruptible()
    sys.stdout, sys.stderr = lasting(sys.stdout), lasting(sys.stderr)
    sys.exit(main(sys.argv))
