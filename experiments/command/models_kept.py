"""One run's model as it ended, from the store alone."""

import jax
import numpy as np

import models
from data import Corpus, load
from data.tokenizer import BPE, tokenizer_of
from experiments.command import named, studies
from refused import Refused
from scaling import Run, Store, checkpoint, make_mesh
from scaling.interchange.kept import BYTES, Kept
from scaling.specs import run_of
from scaling.state import State, evaluated


def chosen(store: Store, id: str | None, study: str | None, config) -> Run:
    """Returns the run of an id; of a study's, by its name in the store or its configuration.

    Raises:
      Refused: no id or another's, with those that there are; or a run that is not in the store.
    """
    if config is not None:  # Its classes are known then, a user's own among them.
        runs = {item.run.identity: item.run for item in config.runs}
        if id in runs:
            return runs[id]
        refuse(id, {id: run.tokens for id, run in runs.items()})
    if study is not None:
        known = named.record(store, study)
        if known is None:
            accepted = studies.listed(named.names(store), study) or "a study trained in this store"
            raise Refused("--study", study, accepted)
        if id not in known["runs"]:
            refuse(id, known["runs"])
    if id is None:
        accepted = "an id of the run table; or --study=NAME, which lists its runs"
        raise Refused("--run", "nothing", accepted)
    return run_of(store, id)


def refuse(id: str | None, runs: dict) -> None:
    """Refuses an id that is none of a study's."""
    some = ", ".join(f"{one} ({' '.join(str(said).split())})" for one, said in [*runs.items()][:3])
    got = "nothing" if id is None else id
    raise Refused("--run", got, f"one of the study's {len(runs)} runs, such as {some}")


def every(store: Store, study: str | None, config) -> list[Run]:
    """Returns the runs of a study whose parameters the store has.

    Raises:
      Refused: an unknown study, or one of which it has none.
    """
    if config is not None:
        runs = [item.run for item in config.runs]
    elif (known := named.record(store, study)) is not None:
        runs = [run_of(store, id) for id in known["runs"] if store.done(id) is not None]
    else:
        accepted = studies.listed(named.names(store), study) or "a study trained in this store"
        raise Refused("--study", study, accepted)
    runs = {run.identity: run for run in runs if checkpoint.steps(store.folder(run.identity))}
    if not runs:
        accepted = f"a study that was trained with --keep-params into --store={store.path}"
        raise Refused("--study", study or "this one", accepted)
    return [*runs.values()]


def ended(store: Store, run: Run) -> tuple[models.ModelConfig, State]:
    """Returns the model of a run as it ended, its values as numpy arrays.

    Raises:
      Refused: a run whose parameters were not kept, are damaged, or are of an earlier step.
    """
    folder, last = store.folder(run.identity), run.recipe_at(-1)
    accepted = f"one that was trained with --keep-params into --store={store.path}"
    there = checkpoint.steps(folder)
    if not there:
        raise Refused("--run", run.identity, accepted)
    if (why := checkpoint.fault(folder, there[-1])) is not None:
        path = checkpoint.place(folder, there[-1])
        raise Refused("--run", f"{path}, which is damaged ({why})", f"{accepted}; train it again")
    found = checkpoint.restore(folder, last, make_mesh("data:1"), mend=False)
    step = found[1]["step"] if found else None
    if step != run.steps:
        got = f"{run.identity}, of which the store has step {step} of {run.steps}"
        raise Refused("--run", got, "a run that is finished; the same espalier run goes on")
    return last.model, jax.tree.map(np.asarray, evaluated(last, found[0]))


def model_of(store: Store, run: Run, study) -> Kept:
    """Returns a run's model as it ended with its tokenizer, to be written elsewhere.

    Raises:
      Refused: what `ended` refuses, or a corpus that is not found.
    """
    last, state = ended(store, run)
    corpus = corpus_of(store, run) if study is None else study.corpus
    tokenizer = None
    if corpus.tokenizer == BYTES:
        tokenizer = BYTES
    elif corpus.tokenizer == BPE.name:
        tokenizer = tokenizer_of(corpus).json
    return Kept(last, state.params, state.buffers, tokenizer)


def corpus_of(store: Store, run: Run) -> Corpus:
    """Returns the corpus that a run read, by its name or where the store's studies have it.

    Raises:
      Refused: none of them has the run's content.
    """
    records = [named.record(store, name) for name in named.names(store)]
    places = [known["config"].get("corpus") for known in records if known]
    for place in dict.fromkeys([run.data.corpus, *filter(None, places)]):
        try:
            found = load(place)
        except Refused:
            continue
        if found.content_hash == run.data.content:
            return found
    accepted = f"--config=STUDY of a corpus with the content {run.data.content[:12]}…"
    raise Refused("corpus", run.data.corpus, accepted)
