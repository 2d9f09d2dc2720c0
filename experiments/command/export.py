"""`espalier export`: one run's model in files that other programs read."""

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import OneOf, Place


@click.command(cls=Command)
@options.one_run
@click.option(
    "--format",
    "kind",
    type=OneOf("native", "hf", "hf-float"),
    default="native",
    show_default=True,
    metavar="native|hf|hf-float",
    help="native: one file, packed to its bits; hf: a folder for Hugging Face transformers, few "
    "bits as compressed-tensors packs them; hf-float: the same, few bits as rounded floats",
)
@click.option(
    "--out",
    type=Place("file"),
    required=True,
    metavar="PATH",
    help="the file to write, as in model.safetensors; with hf the folder",
)
def command(chosen, store: str, run: str, study: str, kind: str, out: str) -> int:
    """Write one run's model as safetensors, with its settings and tokenizer.

    The run was trained with --keep-params; its id stands in the run table.

    \b
    espalier export --store=runs --run=ID --out=model.safetensors
    espalier export --store=runs --run=ID --format=hf --out=model
    espalier export --store=runs --study=qat_ratio-cpu --run=ID --out=model.safetensors
    """
    from experiments.command import opened

    act = lambda found, asked: write(found, asked, run, study, out, kind)
    return opened.of_store(act, chosen, store)


def write(store, study, run: str, name: str | None, out: str, kind: str = "native") -> None:
    """Writes one run's model and prints its size.

    Raises:
      Refused: what `models_kept` refuses, or a model that the format cannot hold.
    """
    import models
    from experiments.command import models_kept
    from scaling.interchange import folder, native

    kept = models_kept.model_of(store, models_kept.chosen(store, run, name, study), study)
    if kind != "native":
        for note in folder.write(out, kept, run, pack=kind == "hf"):
            print(f"note: {note}")
        print(f"{out}: {kept.config.vocabulary:,} tokens; opens with AutoModelForCausalLM")
        return
    size = native.write(out, kept, run)
    plain = 4 * models.count(kept.config).params_total
    print(f"{out}: {size:,} bytes of tensors, {size / plain:.3f} of float32")
