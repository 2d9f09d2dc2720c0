"""One call of the command on a study: plan it, run it, report it."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import jax
from etils import epath
from ml_collections import ConfigDict

from data import cache_folder
from data.stand_in import NAME as STAND_IN
from experiments.command import named
from experiments.command.opened import (
    Settings,
    answer,
    folder,
    foreseen,
    full_name,
    grown,
    kept_by,
    results,
    worker,
)
from experiments.command.plan_view import plan_text, unsplit_line
from experiments.evidence.report import write_report
from experiments.evidence.study import Study
from refused import Refused
from scaling import Stopped, Store, Worker, checkpoint, keeping, processes
from scaling.events import Curves
from scaling.files import is_local, sweep
from scaling.fleet import resumed
from scaling.grouping import planned as fleets_of
from scaling.leases import Leases
from scaling.plan import plan as make_plan
from scaling.progress import progress
from scaling.sharing import Sharing
from scaling.speed import calibration, fleet_sizes
from scaling.tables import write_table
from scaling.trace import Trace
from scaling.trackers import Several, project_of, tracker

ENDING = (signal.SIGTERM, signal.SIGUSR2)  # Signals that end training in good order.
# The files of a report, which are no folders.
WRITTEN = ("report.md", "report.html", "explorer.html", "runs.csv", "runs.parquet")


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
    store, name = work.store, full_name(study, config, settings)
    if (said := named.renamed(study, config, store, name)) is not None:
        print(said)
    rates = calibration(cache_folder() / "speed")
    found = []
    sizes = fleet_sizes(settings.fleet, planned.segments.values(), work.mesh, measuring=False)
    if work.way is not None:
        found = fleets_of(planned, work.mesh, sizes)
    unmeasured = len({fleet.program for fleet in found if not sizes(fleet.program)})
    missing = work.missing()
    print(
        plan_text(
            study,
            planned,
            epochs,
            missing,
            rates,
            found,
            unmeasured,
            begins=resumed(work, found, work.begins(missing)),
            kept=keeping.choose(planned, settings.keep, store, work.has_end),
        )
    )
    if line := unsplit_line(planned, work.mesh):
        print(line)
    if settings.prune:
        print(pruned(work, settings, dry=True))
    for line in foreseen(study):
        print(line)


def pruned(work: Worker, settings: Settings, dry: bool) -> str:
    """Gives back the room of states that `--keep` would not keep; says how much that is.

    Parameters of runs count as such without `--keep-params`. `dry` only says it.
    """
    kept = keeping.choose(work.plan, settings.keep, work.store, lambda segment: False).ids
    count = size = 0
    for segment in work.plan.segments.values():
        folder = work.store.folder(segment.id)
        leaf = settings.keep_params and segment.id in work.plan.leaves
        if segment.id in kept or leaf or work.lacks(segment) or work.taken(segment):
            continue
        if checkpoint.steps(folder):
            count, size = count + 1, size + checkpoint.total_bytes(folder)
            if not dry:
                checkpoint.discard(folder)
    return f"prune: {size:,} bytes of {count} states {'would be' if dry else 'were'} given back"


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
    refuse_early(study, config, settings)
    trace = Trace(settings.profile if jax.process_index() == 0 else None)
    first = jax.process_index() == 0
    with (
        signalled() as told,
        alone(study, config, settings),
        Leases(Store.at(settings.store), settings.lease_seconds)
        if first
        else contextlib.nullcontext() as leases,
    ):

        def once(study: Study, left: float | None) -> bool:
            some = replace(settings, stop_after=left)
            done = train(study, config, some, None, lambda: not told, trace, leases)
            return done is not None

        study, ended = in_rounds(study, config, settings, once)
        if ended and settings.prune and first:
            work = worker(study, make_plan(study.runs), settings)
            print(pruned(work, settings, dry=False))
    if trace.file is not None:
        print(f"trace: {trace.file} (open it in ui.perfetto.dev)")
    elif not trace.over:
        print("no trace: no segment to train had steps enough")
    if not ended:
        return code(told)
    if first:
        report(study, config, settings)
    processes.barrier("report written")
    return 0


def alone(study: Study, config: ConfigDict, settings: Settings):
    """Keeps a study to this run while it trains, which its first process sees to."""
    if jax.process_index() > 0:
        return contextlib.nullcontext()
    name = full_name(study, config, settings)
    return Store.at(settings.store).reserved(name, shared=False)


def work(study: Study, config: ConfigDict, settings: Settings) -> int:
    """Trains a study's missing segments beside other workers on the store, until none is missing.

    SIGTERM, or SIGUSR2 with which Slurm's jobs are told, has it write a checkpoint, release its
    lease and end; returns 128 and the signal's number then (143 or 140), otherwise 0.

    Raises:
      Refused: settings that a worker of several cannot have.
    """
    check_shared(settings)
    refuse_early(study, config, settings)
    store = Store.at(settings.store)
    with (
        store.reserved(full_name(study, config, settings), shared=True),
        Leases(store, settings.lease_seconds) as leases,
    ):
        sharing = Sharing(leases)
        with signalled(sharing.stop) as told:
            once = lambda study, left: (
                train(study, config, replace(settings, stop_after=left), sharing) is not None
            )
            study, ended = in_rounds(study, config, settings, once)
    count = len(sharing.trained)
    print(f"worker {leases.owner}: {count} segments finished here, no lease held", flush=True)
    if not ended:
        return code(told)
    print("the plan is done; espalier report writes tables, fit and report", flush=True)
    return 0


def refuse_early(study: Study, config: ConfigDict, settings: Settings) -> None:
    """Refuses runs, a mesh or a place for the report that cannot be before anything is written."""
    if study.corpus.tokenizer == STAND_IN:
        raise Refused("corpus", study.corpus.name, "a corpus with tokens; a stand-in is for plans")
    study.check()
    if settings.track:
        project_of(settings.track)
    work = worker(study, make_plan(study.runs), settings)
    keeping.budget(settings.keep, work.store)
    out = folder(study, config, settings)
    for name in ("", "figures", *WRITTEN):
        path, is_folder = out / name, not name or name == "figures"
        if path.exists() and path.is_dir() != is_folder:
            raise Refused("--store", path, "a folder" if is_folder else "a file, not a folder")


def check_shared(settings: Settings) -> None:
    """Refuses what a worker of several cannot have."""
    if not settings.lease_seconds > 0:
        raise Refused("--lease-seconds", settings.lease_seconds, "more than 0")
    if settings.fleet not in ("auto", "loop"):
        accepted = "auto or loop: a worker trains one segment after the other; or espalier run"
        raise Refused("--fleet", settings.fleet, accepted)


def train(
    study: Study,
    config: ConfigDict,
    settings: Settings,
    sharing: Sharing | None = None,
    alive=lambda: True,
    trace: Trace | None = None,
    leases: Leases | None = None,
) -> Worker | None:
    """Trains a study's missing segments; None when the time allowed ended first."""
    study.check()
    planned = make_plan(study.runs)
    first = jax.process_index() == 0
    work = worker(
        study, planned, settings, progress() if first else None, sharing, alive, trace, leases
    )
    say = print if first else lambda *_: None
    work.keep = kept_by(work, settings)
    missing = work.missing()
    say(f"{study.name}: {len(planned.segments)} segments, {len(missing)} to train")
    if first:
        work.curves = announced(work, study, config, settings, bool(missing))
    told = tracked(work, study, config, settings) if first and settings.track else None
    began, cpu = time.monotonic(), time.process_time()
    try:
        work.run()
    except Stopped as stopped:
        say(f"{stopped}; the same command goes on")
        return None
    finally:
        if told is not None:
            told.close()
    spent = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} CPU-seconds"
    done = "trained" if sharing is None else "trained here or elsewhere"
    say(f"{done} {len(missing)} segments in {spent}" if missing else "nothing to train")
    processes.barrier("trained")  # Every process reads the same losses after it.
    return work


def announced(
    work: Worker, study: Study, config: ConfigDict, settings: Settings, training: bool
) -> Curves:
    """Writes down what a study is before it is trained, and says where its curves are to be seen.

    Returns what writes them.
    """
    name = full_name(study, config, settings)
    for line in (named.renamed(study, config, work.store, name), *foreseen(study)):
        if line is not None:
            print(line)
    due = named.due(work.plan, study.evaluation, study.corpus)
    named.write(work.store, name, study, config, work.plan, due, settings.file)
    logs = work.store.study(name) / "tensorboard"
    if training:
        print(f"curves: tensorboard --logdir={logs}", flush=True)
    return Curves(logs, work.plan, work.store, shared=work.leases is None)


def tracked(work: Worker, study: Study, config: ConfigDict, settings: Settings):
    """Has a worker tell a service its curves too; returns the tracker, which is to be closed."""
    folder = work.store.study(full_name(study, config, settings)) / "tracked"
    if not is_local(folder):  # The service's own files cannot be appended to in a bucket.
        folder = epath.Path(cache_folder()) / "tracked"
    found = tracker(settings.track, folder, work.plan, work.store)
    work.curves = Several(work.curves, found)
    return found


def report(study: Study, config: ConfigDict, settings: Settings) -> None:
    """Writes tables, TensorBoard files and the report from what the store has.

    What the study cannot write of it, such as a law that its runs do not admit, is a sentence.

    Raises:
      Refused: nothing of the study is there.
    """
    study = grown(study, config, settings)
    found, out = results(study, config, settings), folder(study, config, settings)
    store = Store.at(settings.store)
    if not any(store.folder(id).exists() for id in found.plan.segments):
        accepted = f"a store in which {full_name(study, config, settings)} has been trained"
        raise Refused("--store", settings.store, accepted)
    sweep(out)
    write_table(found.runs, out, "runs")
    write_table(found.evals, out, "evals")
    named.seal_tables(store, out.name)
    Curves(out / "tensorboard", found.plan, store).rewrite()
    absent = len(found.plan.runs) + len(study.awaited) - len(found.runs)
    write_report(out, study, config, answer(study, found), absent, found.runs)
    print(f"report: {out / 'report.html'} (and report.md, runs.csv, runs.parquet)")
