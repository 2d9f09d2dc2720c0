"""The columns of run tables, with their units and meanings."""

# Every column: unit and meaning. `loss.<domain>` and `bits_per_byte.<domain>` repeat per domain.
COLUMNS = {
    "run": ("id", "identity of the run up to this row's step"),
    "trunk": ("id", "what runs of one trunk share; rows of one trunk are not independent"),
    "<label>": ("", "what the study calls the run (`scaling.labels`); never in the identity"),
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
    "accuracy.<task>": ("", "share of a downstream task's items answered right (`downstream`)"),
    "accuracy_norm.<task>": ("", "the same by log-likelihood per character, as acc_norm"),
    "accuracy_bytes.<task>": ("", "the same by log-likelihood per byte"),
    "answer_nats.<task>": ("nats/answer", "mean over items of the right answer's"),
    "answer_bits_per_byte.<task>": ("bits/byte", "of the right answers"),
    "chance.<task>": ("", "accuracy of a guess"),
    "items.<task>": ("", "number of items"),
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

# `loss.` for `loss.<domain>`.
FAMILIES = tuple(name.partition("<")[0] for name in COLUMNS if "<" in name and name != "<label>")


def is_column(name: str) -> bool:
    """Says whether a name is a run table's own column, and so no label."""
    return name in COLUMNS or name.startswith(FAMILIES)
