"""`espalier sample`: how one run's model goes on after a prompt."""

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import Number


@click.command(cls=Command)
@options.one_run
@click.option("--prompt", default="", metavar="TEXT", help="the text to go on after")
@click.option(
    "--tokens",
    type=Number(int),
    metavar="COUNT",
    help="tokens to draw (default: up to the context)",
)
@click.option(
    "--temperature",
    type=Number(least=0),
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="of the draw; 0 takes the likeliest",
)
@click.option(
    "--samples",
    type=Number(int, least=1),
    default=1,
    show_default=True,
    metavar="COUNT",
    help="how many texts",
)
@click.option(
    "--seed", type=Number(int), default=0, show_default=True, metavar="NUMBER", help="of the draw"
)
def command(chosen, store: str, run: str, study: str, **asked) -> int:
    """Print texts with which a run's model goes on.

    The run was trained with --keep-params; its id stands in the run table.

    \b
    espalier sample --store=runs --run=ID --prompt="def " --samples=3
    """
    from experiments.command import opened

    return opened.of_store(lambda *found: write(*found, run, study, **asked), chosen, store)


def write(
    store,
    study,
    run: str,
    name: str | None,
    prompt: str = "",
    tokens: int | None = None,
    temperature: float = 1.0,
    samples: int = 1,
    seed: int = 0,
) -> None:
    """Prints texts that go on after a prompt, up to a document's end.

    Raises:
      Refused: what `models_kept` or `models.sample` refuses, or a corpus without text.
    """
    import numpy as np

    import models
    from data.tokenizer import tokenizer_of
    from experiments.command import models_kept

    one = models_kept.chosen(store, run, name, study)
    last, state = models_kept.ended(store, one)
    corpus = models_kept.corpus_of(store, one) if study is None else study.corpus
    tokenizer = tokenizer_of(corpus)
    (document,) = tokenizer.documents([prompt.encode()])
    start = [tokenizer.separator, *document.tokens.tolist()]
    count = last.context - len(start) if tokens is None else tokens
    rows = np.tile(np.array(start, np.int32), (samples, 1))
    texts = models.sample(last, state.params, state.buffers, rows, count, temperature, seed)
    for number, drawn in enumerate(texts.tolist(), start=1):
        end = drawn.index(tokenizer.separator) if tokenizer.separator in drawn else len(drawn)
        text = tokenizer.decode([*start[1:], *drawn[:end]]).decode(errors="replace")
        print(f"--- {number}, {'ended' if end < count else 'cut'} after {end} tokens\n{text}")
