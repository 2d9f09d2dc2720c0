"""`espalier export`: one run's model in a file that other programs read."""

import json

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import Place


@click.command(cls=Command)
@options.one_run
@click.option(
    "--out",
    type=Place("file"),
    required=True,
    metavar="FILE",
    help="the file to write, as in model.safetensors",
)
def command(chosen, store: str, run: str, study: str, out: str) -> int:
    """Write one run's model, packed to its bits, as safetensors.

    The run was trained with --keep-params; its id stands in the run table.

    \b
    espalier export --store=runs --run=ID --out=model.safetensors
    espalier export --store=runs --study=qat_ratio-cpu --run=ID --out=model.safetensors
    """
    from experiments.command import opened

    return opened.of_store(lambda *found: write(*found, run, study, out), chosen, store)


def write(store, study, run: str, name: str | None, out: str) -> None:
    """Writes one run's model to a safetensors file and prints its size.

    Raises:
      Refused: what `models_kept` refuses.
    """
    import models
    from experiments.command import models_kept
    from models.export import export
    from scaling.runs import canonical

    last, state = models_kept.ended(store, models_kept.chosen(store, run, name, study))
    about = {"run": run, "model": json.dumps(canonical(last))}
    size = export(out, last, state.params, state.buffers, about)
    plain = 4 * models.count(last).params_total
    print(f"{out}: {size:,} bytes of tensors, {size / plain:.3f} of float32")
