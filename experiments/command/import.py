"""`espalier import`: a model from elsewhere as a file that runs start from."""

import click

from experiments.command.arguments import Command
from experiments.command.options import Place


@click.command(cls=Command)
@click.option(
    "--from",
    "source",
    type=Place(),
    required=True,
    metavar="PATH",
    help="a folder with config.json and safetensors (Llama, Qwen2, Qwen3, Qwen3-MoE), or a file "
    "of espalier export",
)
@click.option("--out", type=Place("file"), metavar="FILE", help="the file to write (default: none)")
@click.option(
    "--tokenizer",
    type=Place("file"),
    metavar="FILE",
    help="where to write its tokenizer.json, for espalier corpus build",
)
def command(source: str, out: str | None, tokenizer: str | None) -> int:
    """Read a model, say what it is, and write it as a file.

    A study starts from either, by scaling.interchange.begin: see docs/models.md.

    \b
    espalier import --from=Qwen3-0.6B --out=qwen3.safetensors --tokenizer=tokenizer.json
    """
    from experiments.command import faults

    try:
        with faults.of_disk(out or tokenizer or "."):
            read(source, out, tokenizer)
    except faults.Failed as failed:
        faults.say(f"espalier: {failed}")
        return faults.FAILED
    return 0


def read(source: str, out: str | None, tokenizer: str | None) -> None:
    """Reads a model, prints what it is, and writes what is asked for.

    Raises:
      Refused: a model that cannot be used, or a tokenizer that is asked for and not there.
    """
    from pathlib import Path

    import models
    from refused import Refused
    from scaling.files import write_atomically
    from scaling.interchange import native, opened, tokens

    kept = opened.read(source)
    config, counts = kept.config, models.count(kept.config)
    for note in kept.notes:
        print(f"note: {note}")
    print(
        f"{source}: {counts.params_total:,} parameters ({counts.params_non_embedding:,} without "
        f"token tables), width {config.width}, depth {config.depth}, context {config.context:,}, "
        f"{config.vocabulary:,} tokens"
    )
    print(f"content {kept.content}")
    if tokenizer is not None:
        if kept.tokenizer is None:
            raise Refused("--tokenizer", source, "a model that has a tokenizer")
        text = kept.tokenizer
        if text == tokens.BYTES:
            accepted = "no FILE: build the corpus with --tokenizer=bytes"
            raise Refused("--tokenizer", "a model that reads bytes", accepted)
        write_atomically(Path(tokenizer), text)
        print(f"{tokenizer}: build its corpus with espalier corpus build --tokenizer={tokenizer}")
    if out is not None:
        native.write(out, kept)
        print(f"{out}: start a run from it, or from {source}")
