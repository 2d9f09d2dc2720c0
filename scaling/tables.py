"""Run tables: what training hands to fitting, one row per run or evaluation."""

import math

import pandas as pd
from etils import epath

import models
from data import Corpus
from scaling.columns import COLUMNS
from scaling.downstream import METRICS
from scaling.evaluation import Evaluation
from scaling.files import write_atomically
from scaling.labels import as_column
from scaling.optimizers import AdamW
from scaling.plan import Plan, Segment, order
from scaling.runs import Run
from scaling.store import Store

FULL_BITS = 32  # Parameters are kept in float32.


def row(plan: Plan, store: Store, corpus: Corpus, segment: Segment, evaluation: str) -> dict:
    """Returns the table row of a finished segment's end."""
    run, config, record = segment.run, segment.config, store.done(segment.id)
    accounts, reads = models.count(config), order(corpus, run)
    evals = [r for r in store.evals(segment.id) if r["evaluation"] == evaluation]
    found = evals[-1] if evals else {}
    losses, bits = found.get("loss", {}), found.get("bits_per_byte", {})
    ends = store.metrics(segment.id)[-1:]
    routing = {k: v for record in ends for k, v in record.items() if k.startswith("router.")}
    plain = [run.model_at(i).quantization is None for i in range(len(run.phases))]
    tokens_fp = sum(p.tokens for p, is_plain in zip(run.phases, plain, strict=True) if is_plain)
    shares = {name: count / run.tokens for name, count in reads.tokens().items()}
    return {
        "run": segment.id,
        "trunk": run.trunk,
        **plan.cells(segment),
        "seed": run.seed,
        "width": config.width,
        "depth": config.depth,
        "context": config.context,
        "streams": config.stream_count,
        "params_total": accounts.params_total,
        "params_non_embedding": accounts.params_non_embedding,
        "params_active": accounts.params_active,
        **models.sparsity(config),
        "bytes": accounts.bytes,
        "bits": float(config.quantization.bits if config.quantization else FULL_BITS),
        "tokens": run.tokens,
        "tokens_qat": run.tokens - tokens_fp,
        "tokens_fp": tokens_fp,
        "unique_tokens": reads.unique_tokens(),
        "token_multiplier": run.tokens / accounts.params_total,
        "batch_tokens": segment.phase.batch_tokens,
        "learning_rate": run.optimizer.learning_rate,
        "weight_decay": run.optimizer.weight_decay,
        "flops": run.flops(),
        "flops_body": run.flops("flops_train_body"),
        "flops_6nd": 6.0 * accounts.params_total * run.tokens,
        "loss": mean(losses),
        **{f"loss.{name}": value for name, value in losses.items()},
        "bits_per_byte": mean(bits),
        **{f"bits_per_byte.{name}": value for name, value in bits.items()},
        "loss_unquantised": mean(found.get("loss_unquantised", {})),
        "bits_per_byte_unquantised": mean(found.get("bits_per_byte_unquantised", {})),
        **optional(plan, run, found),
        **downstream(store, segment),
        **{f"mixture.{name}": share for name, share in shares.items() if share},
        "train_loss": record["train_loss"],
        "diverged_step": record["diverged_step"],
        **routing,
        "evaluation": evaluation,
        "cooled": segment.id in plan.leaves,
        "seconds": sum(r.get("seconds", 0.0) for _, r in store.chain(segment.id)),
        "tokens_per_second": record["tokens_per_second"],
        "device": record["environment"]["device"],
    }


def mean(values: dict[str, float]) -> float:
    """Returns the mean over domains, NaN of none."""
    return math.fsum(values.values()) / len(values) if values else math.nan


def downstream(store: Store, segment: Segment) -> dict[str, float]:
    """Returns the columns of the tasks that a segment's end was asked, the last asked counting."""
    lines = [line for line in store.evals(segment.id) if "task" in line]
    return {
        f"{metric}.{name}": value
        for line in lines
        for metric in METRICS
        for name, value in line[metric].items()
    }


def optional(plan: Plan, run: Run, found: dict) -> dict:
    """Returns the columns that a table has only where a run of the plan gives them a meaning."""
    columns = {}
    if any(type(other.optimizer) is not AdamW for other in plan.runs):
        columns["optimizer"] = type(run.optimizer).__name__
    if any(other.averaging is not None for other in plan.runs):
        names = ("loss_averaged", "bits_per_byte_averaged")
        columns |= {name: mean(found.get(name, {})) for name in names}
    return columns


def tables(
    plan: Plan, store: Store, corpus: Corpus, evaluation: Evaluation
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the `runs` table (ends of runs) and the `evals` table (every other evaluation).

    Only finished segments are in them; rows are in the plan's order. Labels stand right after
    `trunk`. A run has one row however many label sets it has: their values are joined by " | " in
    one order in every column, or stand once where they are equal; `labels.unfolded` gives a row for
    each. A row of `evals` has the labels that all runs through its segment share.
    """
    rows = [
        row(plan, store, corpus, s, evaluation.identity(corpus, s.config))
        for s in plan.segments.values()
        if store.done(s.id) is not None
    ]
    empty = [name for name in COLUMNS if "<" not in name]
    empty[2:2] = plan.label_names
    table = pd.DataFrame(rows, columns=None if rows else empty)
    if rows:
        for name in plan.label_names:
            table[name] = as_column([row[name] for row in rows])
        table["diverged_step"] = table["diverged_step"].astype("Int64")
    ends = table["cooled"].astype(bool)
    inside = ~ends & table["loss"].notna()
    return table[ends].reset_index(drop=True), table[inside].reset_index(drop=True)


def write_table(table: pd.DataFrame, folder: epath.Path, name: str) -> None:
    """Writes `NAME.parquet` and `NAME.csv`, each whole or not at all."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.csv", table.to_csv(index=False))
    write_atomically(folder / f"{name}.parquet", table.to_parquet(index=False))
