"""The ladder from 20M to 7B on accelerators that need not be here: `docs/scale.md`, by one command.

    python -m experiments.bench.scale [--compile=all|ROW,ROW] > docs/scale.md

A row is a size on a device, as `1.3B on v5e:8x8`. Those named are compiled, one after the other,
where the extra `tpu` or `gpu` is installed, or read from the cache where they were compiled before.
All other rows are by accounting alone, and say so.
"""

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

import models
from experiments.evidence.report import pipes
from models import ModelConfig
from refused import Refused
from scaling import AdamW, Recipe
from scaling.chips.devices import Target
from scaling.chips.targeted import Fit, Need, fitted

VOCABULARY, CONTEXT, HEAD_SIZE = 32_768, 2048, 128

# Width, inner width of the feed-forwards and depth by size. Inner widths are the multiple of 128
# next to 8/3 of the width: gradients of other sizes a TPU's compiler sums whole along `fsdp`, where
# parts would do.
LADDER = {
    "20M": (256, 768, 4),
    "120M": (768, 2048, 10),
    "350M": (1024, 2816, 22),
    "1.3B": (2048, 5504, 24),
    "7B": (4096, 11008, 32),
}
DEVICES = ("h200", "h100:8", "v5e:8x8", "v5p:4x4x4", "v6e:16x16")

# The least MFU in % that is aimed at, by size.
AIMED = {"350M": 40, "1.3B": 40, "7B": 50}

# Tokens in a batch at most, up to 1.3B and at 7B, and on one device, whose memory bounds it.
LARGEST_BATCH, BATCH_7B, EACH = 1 << 19, 1 << 22, 1 << 15

HEAD = """# At scale

What XLA says of a training step on accelerators that need not be here, and what the accounting
says where nothing was compiled: `python -m experiments.bench.scale --compile=all > docs/scale.md`
(half an hour; what was compiled is kept). `espalier plan --for=DEVICE` says the same of a study's
own programs.

Baseline in bfloat16, vocabulary {vocabulary:,}, context {context:,}, heads of {head}, AdamW.
*Roofline*: over a step's instructions the sum of the longer of products over peak and bytes
over memory bandwidth, and bytes sent over link bandwidth, nothing hidden; *overlapped* hides
all but the longest of the three. MFU is training FLOPs (`models.count`: nothing that is
computed again) over chips × peak × those seconds: the most that the program allows, not a
measurement. Memory is XLA's arguments + outputs + temporaries − aliased + code, of what a
device has; *foretold* is that figure without code, by accounting. For a TPU that scans over layers
(from 13 on) XLA's figure has the stacks into which loops write once more, which is not there at
once: so it may be above what a device has, and of an uncompiled row the memory is without it. By
accounting, seconds are those of products and links alone, since what memory takes is not known
uncompiled: such MFU is an upper bound and marked ≤.

At commit {commit}.

"""


def shape(size: str) -> ModelConfig:
    """Returns the baseline of a size."""
    width, inner, depth = LADDER[size]
    return ModelConfig(
        vocabulary=VOCABULARY,
        width=width,
        ff_width=inner,
        depth=depth,
        heads=width // HEAD_SIZE,
        context=CONTEXT,
        dtype="bfloat16",
    )


def need(size: str, target: Target) -> Need:
    """Returns a size's program in the batch that a table's row has."""
    largest = BATCH_7B if size == "7B" else LARGEST_BATCH
    batch = min(largest, EACH * target.count)
    return Need(Recipe(model=shape(size), optimizer=AdamW(learning_rate=1e-3)), batch)


def row(size: str, target: Target, compiling: bool) -> tuple[dict, Fit | None]:
    """Returns one row of the table, and what it says it of, where it fits."""
    wanted = need(size, target)
    head = {"model": size, "on": target.name, "batch (tokens)": wanted.batch_tokens}
    try:
        fit = fitted(wanted, target, compiling=compiling)
        return head | cells(fit), fit
    except Refused as refused:
        return head | {"mesh": f"does not fit; would: {refused.accepted}"}, None


def cells(fit: Fit) -> dict:
    """Returns what is said of a program that fits."""
    gib, found = 1 << 30, fit.compiled
    mark = "" if found else "≤ "
    overlapped = fit.mfu * fit.seconds / fit.overlapped
    return {
        "mesh": fit.mesh,
        "memory (GiB)": f"{fit.bytes / gib:.2f} of {fit.target.device.memory / gib:.1f}",
        "foretold (GiB)": f"{fit.memory.total / gib:.2f}",
        "step (ms)": f"{1e3 * fit.seconds:.3g}" if found else f"≥ {1e3 * fit.seconds:.3g}",
        "MFU (%)": f"{mark}{100 * fit.mfu:.0f}",
        "overlapped (%)": f"{mark}{100 * overlapped:.0f}",
        "sent (MB)": f"{found['wire'] / 1e6:.0f}" if found else "–",
        "compiled (CPU-s)": f"{found['compile_seconds']:.0f}" if found else "by accounting",
    }


def costliest(fit: Fit) -> str:
    """Names the three costliest instructions of a compiled step, with their milliseconds."""
    last = lambda said: said.strip('"').rpartition("jit(advance)/")[2]
    costs = fit.compiled["costliest"]
    return "; ".join(f"{1e3 * x:.3g} ms {said.split()[0]} `{last(said)}`" for said, x in costs)


def summary(found: dict[str, Fit]) -> Iterator[str]:
    """Yields what the compiled rows come to: bars that are missed, compile times, memory."""
    aimed = {name: fit for name, fit in found.items() if name.split()[0] in AIMED}
    short = {n: 100 * f.mfu for n, f in aimed.items() if 100 * f.mfu < AIMED[n.split()[0]]}
    if aimed:
        missed = ", ".join(f"{name} ({mfu:.0f})" for name, mfu in short.items()) or "none"
        bars = ", ".join(f"{bar} % at {size}" for size, bar in AIMED.items())
        met = f"{len(aimed) - len(short)} of {len(aimed)} rows"
        yield f"- MFU of at least {bars}: {met}. Missed by: {missed}."
    spent = lambda fit: fit.compiled["compile_seconds"]
    for kind, platform in (("TPUs", "tpu"), ("GPUs", "cuda")):
        some = {name: fit for name, fit in found.items() if fit.target.device.platform == platform}
        if some:
            slowest = max(some, key=lambda name: spent(some[name]))
            yield f"- Compiled for {kind} in at most {spent(some[slowest]):.0f} CPU-s ({slowest})."
    ratio = {n: f.memory.total / (f.bytes - f.compiled["memory"]["code"]) for n, f in found.items()}
    if ratio:
        least, most = min(ratio, key=ratio.get), max(ratio, key=ratio.get)
        ends = f"{ratio[least]:.2f} ({least}) to {ratio[most]:.2f} ({most})"
        yield f"- Memory foretold over XLA's without code: {ends}."


def commit() -> str:
    """Returns the checkout's commit."""
    folder = Path(__file__).parent
    asked = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def main(argv: list[str] | None = None) -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", default="", metavar="all|ROW,ROW", help="1.3B on v5e:8x8")
    parser.add_argument("--sizes", default=",".join(LADDER), metavar="SIZE,SIZE")
    given = parser.parse_args(argv)
    chosen, sizes = set(filter(None, given.compile.split(","))), given.sizes.split(",")
    if unknown := set(sizes) - set(LADDER):
        raise Refused("--sizes", ", ".join(sorted(unknown)), f"sizes of {', '.join(LADDER)}")
    rows = {f"{size} on {name}": (size, Target.of(name)) for size in sizes for name in DEVICES}
    chosen = set(rows) if chosen == {"all"} else chosen
    if unknown := chosen - set(rows):
        raise Refused("--compile", ", ".join(sorted(unknown)), f"all, or rows of {', '.join(rows)}")
    found = {name: row(*pair, compiling=name in chosen) for name, pair in rows.items()}
    table = [cells for cells, _ in found.values()]
    shape_of = dict(vocabulary=VOCABULARY, context=CONTEXT, head=HEAD_SIZE)
    print(HEAD.format(commit=commit(), **shape_of) + pipes(pd.DataFrame(table).fillna("–")))
    compiled = {name: fit for name, (_, fit) in found.items() if fit is not None and fit.compiled}
    if compiled:
        print("\nOf rows that were compiled:\n", *summary(compiled), sep="\n")
        print("\nThe costliest instructions of a step, nothing hidden:\n")
    for name, fit in compiled.items():
        print(f"- {name}: {costliest(fit)}")
    if left := [size for size in LADDER if size not in sizes]:
        print(f"\nLeft out: {', '.join(left)} (--sizes).")
    counts = {name: models.count(shape(name)).params_total for name in sizes}
    print("\nSizes: " + ", ".join(f"{name} is {count:,}" for name, count in counts.items()) + ".")


if __name__ == "__main__":
    main()
