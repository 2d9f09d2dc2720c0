"""Run tables: what training hands to fitting, one row per run or evaluation."""

import math

import pandas as pd
from etils import epath

import models
from data import Corpus
from scaling.evaluation import Evaluation
from scaling.optimizers import AdamW
from scaling.plan import Plan, Segment, order
from scaling.runs import Run
from scaling.store import Store, write_atomically

FULL_BITS = 32  # Parameters are kept in float32.

# Every column: unit and meaning. `loss.<domain>` and `bits_per_byte.<domain>` repeat per domain.
COLUMNS = {
    "run": ("id", "identity of the run up to this row's step"),
    "trunk": ("id", "what runs of one trunk share; rows of one trunk are not independent"),
    "seed": ("", "seed of initial values and data order"),
    "width": ("", "residual width D"),
    "depth": ("layers", "number of layers"),
    "context": ("tokens", "context length at the end"),
    "streams": ("", "parallel streams P at the end; 1 without"),
    "params_total": ("parameters", "all parameters, token tables included"),
    "params_non_embedding": ("parameters", "without token tables and head"),
    "params_active": ("parameters", "read for one token"),
    "experts": ("", "routed experts E; 1 for a dense feed-forward"),
    "activation_ratio": ("", "(active + shared)/(routed + shared) experts; 1 for a dense one"),
    "granularity": ("", "2 · width / expert width (arXiv:2507.17702)"),
    "bytes": ("bytes", "size of the parameters: float32, quantised ones packed, with scales"),
    "bits": ("bits", "per weight of the matrices at the end; 32 without quantisation"),
    "tokens": ("tokens", "tokens trained on, repetitions counted"),
    "tokens_qat": ("tokens", "of these with quantised weights"),
    "tokens_fp": ("tokens", "of these at full precision"),
    "unique_tokens": ("tokens", "training tokens read at least once"),
    "token_multiplier": ("tokens/parameter", "tokens over params_total"),
    "batch_tokens": ("tokens", "tokens per step at the end"),
    "learning_rate": ("", "peak learning rate"),
    "weight_decay": ("", "decay, multiplied by the rate at each step"),
    "optimizer": ("", "the optimizer's class, in studies of others than AdamW"),
    "flops": ("FLOPs", "training FLOPs, counted exactly, summed over phases"),
    "flops_body": ("FLOPs", "the same without head and attention"),
    "flops_6nd": ("FLOPs", "6 · params_total · tokens"),
    "loss": ("nats/token", "held-out loss, mean over the evaluation's domains"),
    "loss.<domain>": ("nats/token", "held-out loss on a domain"),
    "bits_per_byte": ("bits/byte", "held-out bits per byte, mean over domains"),
    "bits_per_byte.<domain>": ("bits/byte", "held-out bits per byte on a domain"),
    "loss_unquantised": ("nats/token", "the same of the weights as kept; empty if not quantised"),
    "bits_per_byte_unquantised": ("bits/byte", "bits per byte of the weights as kept"),
    "loss_averaged": ("nats/token", "the same of the averaged weights, in studies that have them"),
    "bits_per_byte_averaged": ("bits/byte", "bits per byte of the averaged weights"),
    "mixture.<domain>": ("", "share of the domain over all tokens read"),
    "train_loss": ("nats/token", "loss of the last training batch"),
    "diverged_step": ("step", "step at which the run diverged; empty for sound runs"),
    "router.<metric>": ("", "what a router reports in the last batch, mean over layers"),
    "evaluation": ("id", "identity of the evaluation"),
    "cooled": ("", "true at the end of a run, false inside one"),
    "seconds": ("s", "training seconds along the run, shared segments counted in full"),
    "tokens_per_second": ("tokens/s", "over the run's last segment"),
    "device": ("", "device kind of the last segment"),
}


def row(plan: Plan, store: Store, corpus: Corpus, segment: Segment, evaluation: str) -> dict:
    """Returns the table row of a finished segment's end."""
    run, config, record = segment.run, segment.config, store.done(segment.id)
    accounts, reads = models.count(config), order(corpus, run)
    evals = [r for r in store.read(segment.id, "eval") if r["evaluation"] == evaluation]
    found = evals[-1] if evals else {}
    losses, bits = found.get("loss", {}), found.get("bits_per_byte", {})
    path = [store.done(s.id) or {} for s in plan.path(segment.id)]
    ends = [*store.read(segment.id, "metrics")][-1:]
    routing = {k: v for record in ends for k, v in record.items() if k.startswith("router.")}
    plain = [run.model_at(i).quantization is None for i in range(len(run.phases))]
    tokens_fp = sum(p.tokens for p, is_plain in zip(run.phases, plain, strict=True) if is_plain)
    shares = {name: count / run.tokens for name, count in reads.tokens().items()}
    return {
        "run": segment.id,
        "trunk": run.trunk,
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
        **{f"mixture.{name}": share for name, share in shares.items() if share},
        "train_loss": record["train_loss"],
        "diverged_step": record["diverged_step"],
        **routing,
        "evaluation": evaluation,
        "cooled": segment.id in plan.leaves,
        "seconds": sum(r.get("seconds", 0.0) for r in path),
        "tokens_per_second": record["tokens_per_second"],
        "device": record["environment"]["device"],
    }


def mean(values: dict[str, float]) -> float:
    """Returns the mean over domains, NaN of none."""
    return math.fsum(values.values()) / len(values) if values else math.nan


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

    Only finished segments are in them; rows are in the plan's order.
    """
    rows = [
        row(plan, store, corpus, s, evaluation.held_out(corpus, s.config.context).identity)
        for s in plan.segments.values()
        if store.done(s.id) is not None
    ]
    table = pd.DataFrame(rows, columns=None if rows else [c for c in COLUMNS if "<" not in c])
    if rows:
        table["diverged_step"] = table["diverged_step"].astype("Int64")
    ends = table["cooled"].astype(bool)
    inside = ~ends & table["loss"].notna()
    return table[ends].reset_index(drop=True), table[inside].reset_index(drop=True)


def write_table(table: pd.DataFrame, folder: epath.Path, name: str) -> None:
    """Writes `NAME.parquet` and `NAME.csv`, each whole or not at all."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.csv", table.to_csv(index=False))
    beside = folder / f".{name}.parquet"
    beside.write_bytes(table.to_parquet(index=False))
    beside.replace(folder / f"{name}.parquet")
