"""One call of the command on a study: plan it, run it, report it."""

import json
import time
from dataclasses import dataclass

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

import models
from data import Refused, cache_folder
from experiments.plan_view import plan_text
from experiments.report import Block, write_report
from experiments.study import Results, Study
from scaling import Stopped, Store, Worker, checkpoint, make_mesh, tables
from scaling.environment import compilation_cache
from scaling.events import write_events
from scaling.plan import Plan
from scaling.plan import plan as make_plan
from scaling.progress import Silent, progress
from scaling.runs import canonical
from scaling.speed import calibration
from scaling.tables import write_table


@dataclass(frozen=True)
class Settings:
    """How a study is worked on; none of it changes a number."""

    store: str = "runs"
    mesh: str = ""
    checkpoint_seconds: float = 60.0
    stop_after: float | None = None
    keep_params: bool = False
    run: str | None = None
    out: str | None = None


def start(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Turns on the compilation cache and, where asked for, several processes.

    `coordinator` is host:port, or "auto" where the cluster says who is who.
    """
    compilation_cache(cache_folder() / "compiled")
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator is not None:
        jax.distributed.initialize(coordinator, processes, process)


def folder(study: Study, config: ConfigDict, settings: Settings) -> epath.Path:
    """Returns where a study's tables and report are written."""
    return epath.Path(settings.store) / "studies" / f"{study.name}-{config.preset}"


def worker(study: Study, planned: Plan, settings: Settings, show=None) -> Worker:
    """Returns the worker that trains a study's plan."""
    return Worker(
        planned,
        Store.at(settings.store),
        study.corpus,
        study.evaluation,
        make_mesh(settings.mesh),
        checkpoint_seconds=settings.checkpoint_seconds,
        stop_after=settings.stop_after,
        keep_params=settings.keep_params,
        progress=show or Silent(),
    )


def plan(study: Study, config: ConfigDict, settings: Settings) -> None:
    """Prints the plan of a study; trains nothing."""
    epochs = study.check()
    planned = make_plan(study.runs)
    missing = worker(study, planned, settings).missing()
    rates = calibration(cache_folder() / "speed")
    print(plan_text(study, planned, epochs, missing, rates))


def run(study: Study, config: ConfigDict, settings: Settings) -> None:
    """Trains what the store lacks, then writes tables and report."""
    study.check()
    planned = make_plan(study.runs)
    work = worker(study, planned, settings, progress() if jax.process_index() == 0 else None)
    missing = work.missing()
    say = print if jax.process_index() == 0 else lambda *_: None
    say(f"{study.name}: {len(planned.segments)} segments, {len(missing)} to train")
    began, cpu = time.monotonic(), time.process_time()
    try:
        work.run()
    except Stopped as stopped:
        say(f"{stopped}; the same command goes on")
        return
    spent = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} CPU-seconds"
    say(f"trained {len(missing)} segments in {spent}" if missing else "nothing to train")
    if jax.process_index() == 0:
        report(study, config, settings)
    work.barrier("report written")


def report(study: Study, config: ConfigDict, settings: Settings) -> None:
    """Writes tables, TensorBoard files and the report from what the store has."""
    planned = make_plan(study.runs)
    store, out = Store.at(settings.store), folder(study, config, settings)
    runs, evals = tables(planned, store, study.corpus, study.evaluation)
    write_table(runs, out, "runs")
    write_table(evals, out, "evals")
    curves(planned, store, out)
    absent = len(planned.runs) - len(runs)
    blocks: list[Block] = study.report(Results(config, planned, study.corpus, runs, evals))
    write_report(out, study, config, blocks, absent)
    print(f"report: {out / 'report.html'} (and report.md, runs.csv, runs.parquet)")


def export(study: Study, config: ConfigDict, settings: Settings) -> None:
    """Writes one run's model, packed to its bits, to a safetensors file.

    Raises:
      Refused: a run that is not the study's, or one whose parameters were not kept.
    """
    from models.export import export as write

    ids = [run.identity for run in study.runs]
    if settings.run not in ids:
        some = ", ".join(ids[:3])
        raise Refused("--run", settings.run, f"one of the study's {len(ids)} runs, such as {some}")
    if not settings.out:
        raise Refused("--out", settings.out, "a file to write, such as model.safetensors")
    chosen = study.runs[ids.index(settings.run)]
    folder_, last = Store.at(settings.store).folder(settings.run), chosen.model_at(-1)
    found = checkpoint.restore(folder_, last, make_mesh("data:1"))
    if found is None:
        accepted = f"one that was trained with --keep-params into --store={settings.store}"
        raise Refused("--run", settings.run, accepted)
    state = jax.tree.map(np.asarray, found[0])
    about = {"run": settings.run, "model": json.dumps(canonical(last))}
    size = write(settings.out, last, state.params, state.buffers, about)
    plain = 4 * models.count(last).params_total
    print(f"{settings.out}: {size:,} bytes of tensors, {size / plain:.3f} of float32")


def curves(planned: Plan, store: Store, out: epath.Path) -> None:
    """Writes one TensorBoard run per run of the study: its segments as one curve."""
    for index, run in enumerate(planned.runs):
        records = [
            record
            for segment in planned.path(run.identity)
            for name in ("metrics", "eval")
            for record in store.read(segment.id, name)
        ]
        name = f"{index:03d}-width{run.model.width}-{run.tokens / 1e6:.2f}M-seed{run.seed}"
        if records:
            write_events(out / "tensorboard" / name, records, replace=True)
