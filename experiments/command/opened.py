"""A study opened on a store: how it is worked on, its worker, and what the store has of it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import jax
from etils import epath
from ml_collections import ConfigDict

from data import cache_folder
from experiments.command import faults, named
from experiments.command.studies import of_study
from experiments.evidence.report import Block, Table, Text
from experiments.evidence.study import Results, Study
from refused import Refused
from scaling import Store, Worker, keeping, make_mesh, processes, tables
from scaling.environment import compilation_cache
from scaling.leases import Leases
from scaling.mesh import shards
from scaling.plan import Plan
from scaling.plan import plan as make_plan
from scaling.progress import Silent
from scaling.schedule import in_fleets
from scaling.speed import fleet_sizes
from scaling.trace import Trace

RUN_COLUMNS = ("seed", "width", "params_total", "tokens", "loss", "bits_per_byte", "diverged_step")


@dataclass(frozen=True)
class Settings:
    """How a study is worked on; none of it changes a number."""

    store: str = "runs"
    mesh: str = ""
    checkpoint_seconds: float = 60.0
    stop_after: float | None = None
    keep_params: bool = False
    track: str | None = None
    fleet: str = "auto"
    lease_seconds: float = 60.0
    profile: str | None = None
    keep: str = "none"
    prune: bool = False
    named: str | None = None
    file: str | None = None


def called(action: Callable, opened: tuple[ModuleType, ConfigDict], settings: Settings) -> int:
    """Does what a command does with an opened study; returns its exit code.

    What fails of the disk, the store or the study's file is told in one line.
    """
    compilation_cache(cache_folder() / "compiled")
    module, config = opened
    faults.reachable(settings.store)
    settings = replace(settings, file=named.file_of(module))
    try:
        with faults.of_disk(settings.store):
            try:
                study = module.study(config)
            except Exception as error:
                raise of_study(error, module.__file__) from error
            return action(study, config, settings) or 0
    except faults.Failed as failed:
        faults.say(f"espalier: {failed}")
        return faults.FAILED


def of_store(action: Callable, chosen, store: str) -> int:
    """Calls an action with a store, and with a study where one was chosen; returns its exit code.

    What fails of the disk, the store or the study's file is told in one line.
    """
    if chosen is not None:
        act = lambda study, config, settings: action(Store.at(store), study)
        return called(act, chosen.open(), Settings(store=store))
    faults.reachable(store)
    try:
        with faults.of_disk(store):
            return action(Store.at(store), None) or 0
    except faults.Failed as failed:
        faults.say(f"espalier: {failed}")
        return faults.FAILED


def folder(study: Study, config: ConfigDict, settings: Settings) -> epath.Path:
    """Returns where a study's tables and report are written."""
    return Store.at(settings.store).study(full_name(study, config, settings))


def full_name(study: Study, config: ConfigDict, settings: Settings) -> str:
    """Returns the name of a study in the store."""
    return named.name_of(study, config, Store.at(settings.store), settings.named)


def worker(
    study: Study,
    planned: Plan,
    settings: Settings,
    show=None,
    way=None,
    alive=lambda: True,
    trace: Trace | None = None,
    leases: Leases | None = None,
) -> Worker:
    """Returns the worker that trains a study's plan, in fleets where they pay unless told how."""
    mesh = make_mesh(settings.mesh)
    most = fleet_sizes(settings.fleet, planned.segments.values(), mesh)
    # Several data or fsdp devices, or processes, serve one segment after the other.
    alone = settings.fleet == "loop" or (
        settings.fleet == "auto" and (shards(mesh) > 1 or jax.process_count() > 1)
    )
    return Worker(
        planned,
        Store.at(settings.store),
        study.corpus,
        study.evaluation,
        mesh,
        checkpoint_seconds=settings.checkpoint_seconds,
        stop_after=settings.stop_after,
        keep_params=settings.keep_params,
        progress=show or Silent(),
        way=way or (None if alone else in_fleets(most)),
        alive=alive,
        trace=trace or Trace(),
        leases=leases,
    )


def kept_by(work: Worker, settings: Settings) -> frozenset[str]:
    """Returns the segments whose end states stay in the store, as the first process decides."""
    ids, kept = list(work.plan.segments), frozenset()
    if jax.process_index() == 0:
        kept = keeping.choose(work.plan, settings.keep, work.store, work.has_end).ids
    flags = processes.any_of(*(id in kept for id in ids))
    return frozenset(id for id, flag in zip(ids, flags, strict=True) if flag)


def results(study: Study, config: ConfigDict, settings: Settings) -> Results:
    """Returns what the store has of a study."""
    planned = make_plan(study.runs)
    found = tables(planned, Store.at(settings.store), study.corpus, study.evaluation)
    return Results(config, planned, study.corpus, *found)


def grown(study: Study, config: ConfigDict, settings: Settings) -> Study:
    """Adds the runs that follow from a study's results, as often as the store has all of these."""
    key = lambda item: (item.run.identity, *sorted(item.labels.items()))
    while study.then is not None and not worker(study, make_plan(study.runs), settings).missing():
        asked, known = study.then(results(study, config, settings)), {*map(key, study.runs)}
        further = tuple(item for item in asked if key(item) not in known)
        then = study.then if further else None
        study = replace(study, runs=(*study.runs, *further), then=then, awaited=())
    return study


def foreseen(study: Study) -> list[str]:
    """Says which laws of a study's report its runs cannot give, before they are trained."""
    if study.laws is None:
        return []
    from experiments.evidence.law import foreseen

    return foreseen(study)


def answer(study: Study, found: Results) -> list[Block]:
    """Returns the blocks of a study's report; where it has none, why, and the runs."""
    try:
        return study.report(found)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 — of a study's file anything may be raised.
        told = of_study(error, inspect.getsourcefile(study.report) or "")
        if told is error and not isinstance(error, Refused):
            raise
        faults.say(f"espalier: the report has no law: {told}")
    shown = [name for name in RUN_COLUMNS if name in found.runs]
    return [
        Text(f"**These runs do not give what the report is about.** {told}."),
        Table("run_table", found.runs[[*found.plan.label_names, *shown]], "The runs."),
    ]
