"""Share of an accelerator's peak (MFU) by model size, in bfloat16: a section of `make bench`."""

import jax
import pandas as pd

import models
from experiments.evidence.report import pipes
from models import ModelConfig
from scaling import AdamW, Recipe
from scaling.chips.devices import DEVICES, of_kind
from scaling.speed import measure, training_bytes

VOCABULARY, CONTEXT, HEAD_SIZE = 4096, 1024, 64

# Width and depth of about 20M, 120M and 350M parameters; no deeper than what is trained without
# recomputation (`models.transformer.LOOPED_LAYERS`), whose FLOPs MFU does not count.
SHAPES = ((512, 6), (896, 12), (1536, 12))

LARGEST_BATCH = 1 << 16  # Tokens; more do not raise MFU at these sizes, and few runs train so.
MEMORY_SHARE = 0.8  # Of the device's memory, for what `training_bytes` predicts.

FORMULA = "MFU = tokens/s · exact training FLOPs per token / dense bf16 peak"


def shape(width: int, depth: int) -> ModelConfig:
    """Returns the baseline at a width and depth, computed in bfloat16."""
    return ModelConfig(
        vocabulary=VOCABULARY,
        width=width,
        depth=depth,
        heads=width // HEAD_SIZE,
        context=CONTEXT,
        dtype="bfloat16",
    )


def recipe(config: ModelConfig) -> Recipe:
    """Returns the recipe that is timed; what a rate is changes no time."""
    return Recipe(model=config, optimizer=AdamW(learning_rate=1e-3))


def batch_that_fits(config: ModelConfig, memory: float) -> int:
    """Returns the largest power-of-two batch in tokens, up to `LARGEST_BATCH`, for some bytes."""
    batch = LARGEST_BATCH
    most = MEMORY_SHARE * memory
    while batch > config.context and training_bytes(recipe(config), batch) > most:
        batch //= 2
    return batch


def row(config: ModelConfig, batch_tokens: int, peak: float) -> dict:
    """Measures one model on one device, whose peak is in FLOP/s."""
    accounts, speed = models.count(config), measure(recipe(config), batch_tokens)
    return {
        "width": config.width,
        "depth": config.depth,
        "params_total": accounts.params_total,
        "batch (tokens)": batch_tokens,
        "tokens/s": round(speed),
        "GFLOPs per token": accounts.flops_train / 1e9,
        "TFLOP/s": speed * accounts.flops_train / 1e12,
        "MFU (%)": 100 * speed * accounts.flops_train / peak,
    }


def mfu() -> None:
    """Prints MFU by size on one device, or in one line that it takes an accelerator."""
    device = jax.devices()[0]
    known = of_kind(device.device_kind)
    if known is None:
        kinds = ", ".join(kind for one in DEVICES.values() for kind in one.kinds)
        print(f"MFU: {device.device_kind} has no dense bf16 peak here; it takes one of {kinds}\n")
        return
    peak, memory = known.peak, device.memory_stats()["bytes_limit"]
    configs = [shape(*pair) for pair in SHAPES]
    rows = [row(config, batch_that_fits(config, memory), peak) for config in configs]
    print(f"training on one {device.device_kind}, bfloat16, context {CONTEXT}")
    print(pipes(pd.DataFrame(rows)))
    print(f"{FORMULA} ({peak / 1e12:.0f} TFLOP/s, data sheet)\n")
