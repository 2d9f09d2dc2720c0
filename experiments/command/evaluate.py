"""`espalier evaluate`: downstream tasks asked of runs that are trained."""

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import Place, switch


@click.command(cls=Command)
@options.one_run
@click.option(
    "--tasks",
    type=Place("file"),
    multiple=True,
    required=True,
    metavar="FILE|NAME",
    help="a task's items as JSON lines (docs/models.md), or closing, identifier, continuation, "
    "word: made of the corpus's held-out text; repeatable",
)
@switch("opened", "begin every context with the separator, as documents in training do")
def command(chosen, store: str, run: str, study: str, tasks: tuple[str, ...], opened: bool) -> int:
    """Ask runs of a store downstream tasks, by log-likelihood.

    One run by --run, or every run of --study whose parameters were kept (--keep-params). Scores are
    kept in the store and stand in the run table from then on; what was asked before is not asked
    again.

    \b
    espalier evaluate --store=runs --run=ID --tasks=cloze.jsonl
    espalier evaluate --store=runs --study=over_training-cpu --tasks=a.jsonl --tasks=b.jsonl
    """
    from experiments.command import opened as opening

    act = lambda found, asked: evaluate(found, asked, run, study, tasks, opened)
    return opening.of_store(act, chosen, store)


def evaluate(store, study, run: str | None, name: str | None, files, opened: bool) -> None:
    """Asks the tasks and prints a line per run and task.

    Raises:
      Refused: what `models_kept` or `Task.read` refuses, or no run whose parameters were kept.
    """
    from experiments.command import models_kept
    from refused import Refused
    from scaling.tasks import task_of

    if run is not None or (study is None and name is None):
        runs = [models_kept.chosen(store, run, name, study)]
    else:
        runs = models_kept.every(store, name, study)
    corpus = models_kept.corpus_of(store, runs[0]) if study is None else study.corpus
    tasks = [task_of(file, corpus, runs[0].data.mixture.names[0]) for file in files]
    if len({task.name for task in tasks}) < len(tasks):
        raise Refused("--tasks", ", ".join(files), "files of different names")
    for one in runs:
        for task in tasks:
            print(f"{one.identity}  {asked(store, study, one, task, opened)}")


def asked(store, study, run, task, opened: bool) -> str:
    """Asks a run one task, unless the store has its answers; returns the scores as text."""
    from experiments.command import models_kept
    from refused import Refused
    from scaling import downstream

    config = run.model_at(-1)
    identity = task.identity(config, opened)
    there = [line for line in store.evals(run.identity) if line["evaluation"] == identity]
    if not there:
        kept = models_kept.model_of(store, run, study)
        tokenizer = kept.text()
        if tokenizer is None:
            raise Refused("--run", run.identity, "a run that learned from text")
        model = kept.config, dict(kept.params), dict(kept.buffers)
        found = downstream.answers(*model, tokenizer, task, opened)
        scored = downstream.summary(task, found)
        line = {"step": run.steps, "tokens": run.tokens}
        line |= downstream.record(task, config, opened, scored)
        store.add_eval(run.identity, line)
        there = [line]
    value = lambda metric: there[-1][metric][task.name]
    cut = f", {value('cut')} contexts cut" if value("cut") else ""
    return (
        f"{task.name}: {value('items')} items, chance {value('chance'):.3f}, accuracy "
        f"{value('accuracy'):.3f} ({value('accuracy_norm'):.3f} per character, "
        f"{value('accuracy_bytes'):.3f} per byte), right answers {value('answer_nats'):.3f} nats, "
        f"{value('answer_bits_per_byte'):.3f} bits/byte{cut}"
    )
