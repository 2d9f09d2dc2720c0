"""Studies by name in a store: what each was made from, so that a store alone says what is in it."""

import functools
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
from ml_collections import ConfigDict

from experiments.command import studies
from experiments.evidence.study import Study
from refused import Refused
from scaling import Run, Store, seals
from scaling.evaluation import Evaluation
from scaling.files import write_atomically
from scaling.plan import Plan
from scaling.store import plain

RECORD = "study.json"


def values(config: ConfigDict) -> dict:
    """Returns a configuration as JSON values."""
    return json.loads(json.dumps(config.to_dict(), default=str))


def name_of(study: Study, config: ConfigDict, store: Store, named: str | None) -> str:
    """Returns the name of a study in a store: the one given, or its own with its preset.

    Where that name is another configuration's, a mark of this one is added.

    Raises:
      Refused: a name that could be a path, or markup.
    """
    if named is not None:
        return plain(named)
    base = plain(f"{study.name}-{config.preset}")
    known = record(store, base)
    if known is None or known["config"] == values(config):
        return base
    text = json.dumps(values(config), sort_keys=True)
    return f"{base}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def renamed(study: Study, config: ConfigDict, store: Store, name: str) -> str | None:
    """Says, in one line, that a configuration has a name of its own, and why; None where not."""
    base = f"{study.name}-{config.preset}"
    known = record(store, base)
    if known is None or not name.startswith(f"{base}-"):
        return None
    mine, other = values(config), known["config"]
    differing = [key for key in sorted(mine) if mine[key] != other.get(key)]
    return (
        f"{base} in this store is another configuration (config.{', config.'.join(differing)} "
        f"differ): this one is {name}; --as=NAME names it"
    )


def record(store: Store, name: str) -> dict | None:
    """Returns what a store says a study was made from; None where it says nothing.

    A damaged record is told, and counts as none.
    """
    file = store.study(name) / RECORD
    if not file.exists():
        return None
    try:
        return seals.opened(file.read_bytes(), f"study {name}", file, store.path)
    except seals.Damaged as damaged:
        seals.tell(f"{damaged}: it is written again by the next espalier run")
        return None


def write(
    store: Store,
    name: str,
    study: Study,
    config: ConfigDict,
    planned: Plan,
    evaluations: dict[str, str],
    file: str | None,
) -> None:
    """Writes what a study was made from, its runs by their labels, and its segments."""
    folder = store.study(name)
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "study": study.name,
        "preset": config.preset,
        "file": file,
        "config": values(config),
        "runs": {run.identity: described(planned, run) for run in planned.runs},
        "segments": {
            s.id: [s.parent, s.tokens, s.flops, evaluations.get(s.id)]
            for s in planned.segments.values()
        },
    }
    text = seals.sealed(f"study {name}", json.loads(json.dumps(about)))
    if (folder / RECORD).exists() and (folder / RECORD).read_bytes() == text.encode():
        return
    write_atomically(folder / RECORD, text)


def described(planned: Plan, run: Run) -> str:
    """Names a run of a study for a person: labels, seed, width and tokens."""
    width = run.model_at(-1).width
    return f"{planned.segments[run.identity].words}  width {width}  {run.tokens:,} tokens"


TABLES = ("runs.csv", "runs.parquet", "evals.csv", "evals.parquet")


def seal_tables(store: Store, name: str) -> None:
    """Writes the checksums of a study's tables beside them."""
    folder = store.study(name)
    sums = {table: seals.sum_of(folder / table) for table in TABLES}
    write_atomically(folder / "sums.json", seals.sealed(f"tables of {name}", sums))


def table_of(store: Store, name: str) -> pd.DataFrame:
    """Returns a study's run table as its last report wrote it.

    Raises:
      Refused: no such study, no report of it yet, or a table that is damaged.
    """
    folder = store.study(name)
    accepted = f"one of {studies.listed(names(store), name)}, reported by espalier report"
    if not (folder / "runs.parquet").exists():
        raise Refused("study", name, accepted)
    try:
        if not (folder / "sums.json").exists():
            seals.tell_old(store.path)
        else:
            file = folder / "sums.json"
            sums = seals.opened(file.read_bytes(), f"tables of {name}", file, store.path)
            if sums["runs.parquet"] != seals.sum_of(folder / "runs.parquet"):
                raise seals.Damaged(folder / "runs.parquet", "it is not what was written")
    except seals.Damaged as damaged:
        raise Refused("study", name, f"one that is sound; espalier report ({damaged})") from None
    return pd.read_parquet(io.BytesIO((folder / "runs.parquet").read_bytes()))


def due(planned: Plan, evaluation: Evaluation, corpus) -> dict[str, str]:
    """Returns the evaluation due at each segment's end, where one is."""
    at = functools.cache(functools.partial(evaluation.identity, corpus))
    some = planned.segments if evaluation.everywhere else planned.leaves
    return {id: at(planned.segments[id].config) for id in some}


def names(store: Store) -> Iterator[str]:
    """Yields the studies of a store by name."""
    folder = store.path / "studies"
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if (path / RECORD).exists():
            yield path.name


def reopened(store: Store, name: str) -> tuple[ModuleType, ConfigDict]:
    """Opens a study again from what a store says it was made from.

    Raises:
      Refused: no such study, or its file has moved.
    """
    known = record(store, name)
    if known is None:
        accepted = studies.listed(names(store), name) or "a study that was trained in this store"
        raise Refused("--study", name, accepted)
    try:
        chosen = studies.Chosen.of(known["file"] or known["study"], {})
    except Refused:
        accepted = f"{known['file']} where it was, or --config=STUDY"
        raise Refused("--study", name, accepted) from None
    module = studies.imported(chosen.file)
    config = module.get_config(known["preset"])
    for key, value in known["config"].items():
        if key in config:
            config[key] = tuple(value) if isinstance(value, list) else value
    return module, config


def file_of(module: ModuleType) -> str:
    """Returns a study's name, or the path of a user's file."""
    file = Path(module.__file__).resolve()
    return file.stem if file.parent == studies.HERE else str(file)
