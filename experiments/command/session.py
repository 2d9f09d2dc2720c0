"""One call of the command on a study: plan it, run it, report it."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

import models
from data import cache_folder
from data.stand_in import NAME as STAND_IN
from experiments.command import plan_for as plan_for_view
from experiments.command.plan_view import plan_text, unsplit_line
from experiments.evidence.report import Block, write_report
from experiments.evidence.study import Results, Study
from refused import Refused
from scaling import Stopped, Store, Worker, checkpoint, make_mesh, processes, tables
from scaling.devices import Target
from scaling.environment import compilation_cache
from scaling.events import folder_name, write_events
from scaling.grouping import planned as fleets_of
from scaling.leases import Leases
from scaling.mesh import shards
from scaling.plan import Plan
from scaling.plan import plan as make_plan
from scaling.progress import Silent, progress
from scaling.schedule import in_fleets
from scaling.sharing import Sharing
from scaling.speed import calibration, fleet_sizes
from scaling.state import State, evaluated
from scaling.tables import write_table
from scaling.targeted import fitted, needs
from scaling.trace import Trace

ENDING = (signal.SIGTERM, signal.SIGUSR2)  # Signals that end training in good order.


@dataclass(frozen=True)
class Settings:
    """How a study is worked on; none of it changes a number."""

    store: str = "runs"
    mesh: str = ""
    checkpoint_seconds: float = 60.0
    stop_after: float | None = None
    keep_params: bool = False
    fleet: str = "auto"
    lease_seconds: float = 60.0
    profile: str | None = None


def called(action: Callable, opened: tuple[ModuleType, ConfigDict], settings: Settings) -> int:
    """Does what a command does with an opened study; returns its exit code."""
    compilation_cache(cache_folder() / "compiled")
    module, config = opened
    return action(module.study(config), config, settings) or 0


def folder(study: Study, config: ConfigDict, settings: Settings) -> epath.Path:
    """Returns where a study's tables and report are written."""
    return epath.Path(settings.store) / "studies" / full_name(study, config)


def full_name(study: Study, config: ConfigDict) -> str:
    """Returns the name of a study with its preset."""
    return f"{study.name}-{config.preset}"


def worker(
    study: Study,
    planned: Plan,
    settings: Settings,
    show=None,
    way=None,
    alive=lambda: True,
    trace: Trace | None = None,
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
    )


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


def in_rounds(
    study: Study,
    config: ConfigDict,
    settings: Settings,
    once: Callable[[Study, float | None], bool],
) -> tuple[Study, bool]:
    """Trains a study, and again what follows from its losses, until nothing does.

    `once(study, seconds left)` says whether it came to the end; returns the study and that.
    """
    began = time.monotonic()
    study = grown(study, config, settings)
    while True:
        left = settings.stop_after and settings.stop_after - (time.monotonic() - began)
        if not once(study, left):
            return study, False
        after = grown(study, config, settings)
        if len(after.runs) == len(study.runs):
            return after, True
        study = after


def plan(study: Study, config: ConfigDict, settings: Settings) -> None:
    """Prints the plan of a study; trains nothing."""
    study = grown(study, config, settings)
    epochs = study.check()
    planned = make_plan(study.runs)
    work = worker(study, planned, settings)
    rates = calibration(cache_folder() / "speed")
    found = []
    sizes = fleet_sizes(settings.fleet, planned.segments.values(), work.mesh, measuring=False)
    if work.way is not None:
        found = fleets_of(planned, work.mesh, sizes)
    unmeasured = len({fleet.program for fleet in found if not sizes(fleet.program)})
    print(plan_text(study, planned, epochs, work.missing(), rates, found, unmeasured))
    if line := unsplit_line(planned, work.mesh):
        print(line)


def plan_for(study: Study, config: ConfigDict, settings: Settings, target: Target, price) -> None:
    """Prints the plan of a study for devices that need not be here; trains nothing."""
    planned = make_plan((*study.runs, *study.awaited))
    found = needs(planned.segments.values())
    print(plan_for_view.heading(study.name, found, target, study.corpus.name), flush=True)
    fits = []
    for index, need in enumerate(found, start=1):
        fits.append(fitted(need, target, settings.mesh))
        print(plan_for_view.program_text(index, len(found), fits[-1]), flush=True)
    print(plan_for_view.total_text(fits, price))


@contextlib.contextmanager
def signalled(stop: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Gives the ending signals that have come so far, and calls `stop` at each."""
    told: list[int] = []

    def note(number, _) -> None:
        told.append(number)
        stop()

    before = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def code(told: list[int]) -> int:
    """Returns the exit code after training that ended early: 128 and the signal's number, or 0."""
    if not told:
        return 0
    # Of both, the signal counts that asks for more: to be requeued.
    return 128 + (signal.SIGUSR2 if signal.SIGUSR2 in told else signal.SIGTERM)


def run(study: Study, config: ConfigDict, settings: Settings) -> int:
    """Trains what the store lacks, runs that follow from others included, then reports.

    SIGTERM or SIGUSR2, to any of several processes, has it write a checkpoint and end; returns 143
    or 140 then in the process that it was sent to, otherwise 0.
    """
    refuse_early(study, settings)
    trace = Trace(settings.profile if jax.process_index() == 0 else None)
    with signalled() as told, alone(study, config, settings):

        def once(study: Study, left: float | None) -> bool:
            some = replace(settings, stop_after=left)
            return train(study, some, None, lambda: not told, trace) is not None

        study, ended = in_rounds(study, config, settings, once)
    if trace.file is not None:
        print(f"trace: {trace.file} (open it in ui.perfetto.dev)")
    elif not trace.over:
        print("no trace: no segment to train had steps enough")
    if not ended:
        return code(told)
    if jax.process_index() == 0:
        report(study, config, settings)
    processes.barrier("report written")
    return 0


def alone(study: Study, config: ConfigDict, settings: Settings):
    """Keeps a study to this run while it trains, which its first process sees to."""
    if jax.process_index() > 0:
        return contextlib.nullcontext()
    return Store.at(settings.store).reserved(full_name(study, config), shared=False)


def work(study: Study, config: ConfigDict, settings: Settings) -> int:
    """Trains a study's missing segments beside other workers on the store, until none is missing.

    SIGTERM, or SIGUSR2 with which Slurm's jobs are told, has it write a checkpoint, release its
    lease and end; returns 128 and the signal's number then (143 or 140), otherwise 0.

    Raises:
      Refused: settings that a worker of several cannot have.
    """
    check_shared(settings)
    refuse_early(study, settings)
    store = Store.at(settings.store)
    with (
        store.reserved(full_name(study, config), shared=True),
        Leases(store, settings.lease_seconds) as leases,
    ):
        sharing = Sharing(leases)
        with signalled(sharing.stop) as told:
            once = lambda study, left: (
                train(study, replace(settings, stop_after=left), sharing) is not None
            )
            study, ended = in_rounds(study, config, settings, once)
    count = len(sharing.trained)
    print(f"worker {leases.owner}: {count} segments finished here, no lease held", flush=True)
    if ended:
        print("the plan is done; espalier report writes tables, fit and report", flush=True)
    return 0 if ended else code(told)


def refuse_early(study: Study, settings: Settings) -> None:
    """Refuses runs, and a mesh, that cannot be before anything is written."""
    if study.corpus.tokenizer == STAND_IN:
        raise Refused("corpus", study.corpus.name, "a corpus with tokens; a stand-in is for plans")
    study.check()
    worker(study, make_plan(study.runs), settings)


def check_shared(settings: Settings) -> None:
    """Refuses what a worker of several cannot have."""
    if not settings.lease_seconds > 0:
        raise Refused("--lease-seconds", settings.lease_seconds, "more than 0")
    if settings.fleet not in ("auto", "loop"):
        accepted = "auto or loop: a worker trains one segment after the other; or espalier run"
        raise Refused("--fleet", settings.fleet, accepted)


def train(
    study: Study,
    settings: Settings,
    sharing: Sharing | None = None,
    alive=lambda: True,
    trace: Trace | None = None,
) -> Worker | None:
    """Trains a study's missing segments; None when the time allowed ended first."""
    study.check()
    planned = make_plan(study.runs)
    show = progress() if jax.process_index() == 0 else None
    work = worker(study, planned, settings, show, sharing, alive, trace)
    missing = work.missing()
    say = print if jax.process_index() == 0 else lambda *_: None
    say(f"{study.name}: {len(planned.segments)} segments, {len(missing)} to train")
    began, cpu = time.monotonic(), time.process_time()
    try:
        work.run()
    except Stopped as stopped:
        say(f"{stopped}; the same command goes on")
        return None
    spent = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} CPU-seconds"
    done = "trained" if sharing is None else "trained here or elsewhere"
    say(f"{done} {len(missing)} segments in {spent}" if missing else "nothing to train")
    processes.barrier("trained")  # Every process reads the same losses after it.
    return work


def report(study: Study, config: ConfigDict, settings: Settings) -> None:
    """Writes tables, TensorBoard files and the report from what the store has.

    Raises:
      Refused: nothing of the study is there.
    """
    study = grown(study, config, settings)
    found, out = results(study, config, settings), folder(study, config, settings)
    store = Store.at(settings.store)
    if not any(store.folder(id).exists() for id in found.plan.segments):
        accepted = f"a store in which {full_name(study, config)} has been trained"
        raise Refused("--store", settings.store, accepted)
    write_table(found.runs, out, "runs")
    write_table(found.evals, out, "evals")
    curves(found.plan, store, out)
    absent = len(found.plan.runs) + len(study.awaited) - len(found.runs)
    blocks: list[Block] = study.report(found)
    write_report(out, study, config, blocks, absent)
    print(f"report: {out / 'report.html'} (and report.md, runs.csv, runs.parquet)")


def kept(
    study: Study, config: ConfigDict, settings: Settings, id: str | None
) -> tuple[models.ModelConfig, State]:
    """Returns the model of one run of a study as it ended, its values as numpy arrays.

    Raises:
      Refused: a run that is not the study's, or one whose parameters were not kept.
    """
    runs = {item.run.identity: item.run for item in grown(study, config, settings).runs}
    if id not in runs:
        some = ", ".join(list(runs)[:3])
        got = "nothing" if id is None else id
        raise Refused("--run", got, f"one of the study's {len(runs)} runs, such as {some}")
    last = runs[id].recipe_at(-1)
    found = checkpoint.restore(Store.at(settings.store).folder(id), last, make_mesh("data:1"))
    if found is None:
        accepted = f"one that was trained with --keep-params into --store={settings.store}"
        raise Refused("--run", id, accepted)
    return last.model, jax.tree.map(np.asarray, evaluated(last, found[0]))


def curves(planned: Plan, store: Store, out: epath.Path) -> None:
    """Writes one TensorBoard run per run of the study: its segments as one curve."""
    for index, run in enumerate(planned.runs):
        records = [
            record
            for segment in planned.path(run.identity)
            for name in ("metrics", "eval")
            for record in store.read(segment.id, name)
        ]
        if records:
            name = folder_name(planned, index)
            write_events(out / "tensorboard" / name, records, replace=True)
