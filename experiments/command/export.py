"""`espalier export`: one run's model in a file that other programs read."""

import functools
import json

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import Place


@click.command(cls=Command)
@options.config
@options.store
@options.run
@click.option(
    "--out",
    type=Place("file"),
    required=True,
    metavar="FILE",
    help="the file to write, as in model.safetensors",
)
def command(chosen, store: str, run: str, out: str) -> int:
    """Write one run's model, packed to its bits, as safetensors.

    The run was trained with --keep-params; its id stands in the run table.

    \b
    espalier export --config=qat_ratio:cpu --run=ID --out=model.safetensors
    """
    from experiments.command import session

    writing = functools.partial(write, run=run, out=out)
    return session.called(writing, chosen.open(), session.Settings(store=store))


def write(study, config, settings, run: str, out: str) -> None:
    """Writes one run's model to a safetensors file and prints its size.

    Raises:
      Refused: what `session.kept` refuses.
    """
    import models
    from experiments.command import session
    from models.export import export
    from scaling.runs import canonical

    last, state = session.kept(study, config, settings, run)
    about = {"run": run, "model": json.dumps(canonical(last))}
    size = export(out, last, state.params, state.buffers, about)
    plain = 4 * models.count(last).params_total
    print(f"{out}: {size:,} bytes of tensors, {size / plain:.3f} of float32")
