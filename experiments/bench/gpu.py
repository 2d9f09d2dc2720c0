"""One short run on a GPU: `python -m experiments.bench.gpu --seconds=480`.

It measures what compiling alone cannot tell: MFU beside what the roofline allows, attention by
cuDNN beside explicit products in values, gradients and time, and the largest batch that memory
holds beside the largest that the accounting says. What the time allowed leaves no room for is
named and left out. The code runs on CPUs in tests, at small sizes; no figure here is from a GPU
until someone has run it on one.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import models
from experiments.bench.mfu import LARGEST_BATCH, recipe, shape
from experiments.evidence.report import pipes
from models import ModelConfig
from models.attention import attend, visible
from models.fused import attend_fused
from scaling import make_mesh
from scaling.chips.absent import lowered
from scaling.chips.compiled import account
from scaling.chips.devices import Device, Target, of_kind
from scaling.chips.estimate import memory
from scaling.chips.roofline import roofline
from scaling.chips.thrift import MEMORY_SHARE, thrifty
from scaling.speed import fleet_speeds, measure, typical
from scaling.train import Program

# Width and depth of about 20M, 120M, 350M and 1.3B parameters.
SHAPES = ((512, 6), (896, 12), (1536, 12), (2048, 24))
FLEETS = (1, 2, 4)  # Members of the smallest size.
STEPS = 2
LENGTHS = (1024, 2048)
HEADS, HEAD_SIZE, SEQUENCES = 16, 128, 4
MOST_DOUBLINGS = 6


def mfu_row(config: ModelConfig, batch_tokens: int, device: Device, members: int = 1) -> dict:
    """Measures one size, alone or in a fleet, beside the roofline of its compiled step."""
    flops = models.count(config).flops_train
    program = thrifty(recipe(config).static, batch_tokens, make_mesh("data:1"))
    read = roofline(
        account(lowered(program).compile().as_text(), program.mesh), Target(device, (1,))
    )
    if members > 1:
        speeds = typical(fleet_speeds(recipe(config), batch_tokens, (members,)))
        speed = speeds.get(members, float("nan"))
    else:
        speed = measure(recipe(config), batch_tokens, STEPS)
    allowed = flops * batch_tokens / (device.peak * read.seconds)
    return {
        "width": config.width,
        "depth": config.depth,
        "members": members,
        "batch (tokens)": batch_tokens,
        "micro-batches": program.accumulate,
        "computed again": program.recompute,
        "tokens/s": round(speed) if speed == speed else None,
        "MFU (%)": 100 * speed * flops / device.peak,
        "roofline (%)": 100 * allowed,
    }


def attention_row(kernel: str, length: int, heads: int = HEADS, batch: int = SEQUENCES) -> dict:
    """Compares a kernel with explicit products, forward and backward, in bfloat16.

    Errors are those of the output and of all gradients together, of the norm of the products in
    float32.
    """
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((4, batch, heads, length, HEAD_SIZE), np.float32)
    *given, weigh = (jnp.asarray(x).astype(jnp.bfloat16) for x in drawn)
    mask = visible(jnp.zeros((1, length), jnp.int32), None, length)
    fused = lambda *x: attend_fused(kernel, *x, None)
    plain = lambda *x: attend(*x, mask)

    def both(f):
        def call(weigh, *given):
            output, pull = jax.vjp(f, *given)
            return output, *pull(weigh)

        return jax.jit(call)

    widened = (x.astype(jnp.float32) for x in given)
    exact = both(plain)(weigh.astype(jnp.float32), *widened)
    row = {"length": length}
    for name, f in ((kernel, both(fused)), ("products", both(plain))):
        found = jax.block_until_ready(f(weigh, *given))
        error = lambda x, y: float(jnp.linalg.norm(x.astype(jnp.float32) - y) / jnp.linalg.norm(y))
        errors = [error(x.ravel(), y.ravel()) for x, y in zip(found, exact, strict=True)]
        row[f"{name} (ms)"] = 1e3 * fastest_of(lambda f=f: f(weigh, *given))
        row[f"{name}: error of the output"], row[f"{name}: of gradients"] = (
            errors[0],
            max(errors[1:]),
        )
    return row


def fastest_of(call: Callable, times: int = 5) -> float:
    """Returns the least seconds of some calls."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        jax.block_until_ready(call())
        spent.append(time.perf_counter() - began)
    return min(spent)


def largest(fits: Callable[[int], bool], batch: int) -> int:
    """Returns the largest batch that fits, by doubling from one and then by halves; 0 if none."""
    if not fits(batch):
        return 0
    for _ in range(MOST_DOUBLINGS):
        if not fits(2 * batch):
            break
        batch *= 2
    return batch + batch // 2 if fits(batch + batch // 2) else batch


def batch_row(config: ModelConfig, device: Device) -> dict:
    """Compares the largest batch that the accounting says with the largest that trains."""
    make = lambda batch: Program(
        recipe=recipe(config), batch_tokens=batch, mesh=make_mesh("data:1")
    )
    foretold = lambda batch: memory(make(batch)).total <= MEMORY_SHARE * device.memory

    def trains(batch: int) -> bool:
        try:
            measure(recipe(config), batch, 1)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return False
        return True

    start = 8 * config.context
    found = {
        "foretold (tokens)": largest(foretold, start),
        "trains (tokens)": largest(trains, start),
    }
    return {"width": config.width, "depth": config.depth} | found


def sections(device: Device) -> list[tuple[str, Callable[[], list[dict]]]]:
    """Lists what is measured, the most telling first."""
    smallest = shape(*SHAPES[0])
    sizes = [(f"{w} × {d}", shape(w, d)) for w, d in SHAPES]
    listed = [("attention", lambda: [attention_row("cudnn", length) for length in LENGTHS])]
    for name, config in sizes:
        listed.append((f"MFU {name}", lambda c=config: [mfu_row(c, LARGEST_BATCH, device)]))
    fleets = lambda: [mfu_row(smallest, LARGEST_BATCH // 8, device, size) for size in FLEETS]
    return [*listed, ("fleets", fleets), ("batches", lambda: [batch_row(sizes[1][1], device)])]


def main(argv: list[str] | None = None) -> None:
    """Prints what was measured within the time allowed, or in one line that it takes a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=480.0)
    end = time.monotonic() + parser.parse_args(argv).seconds
    kind = jax.devices()[0].device_kind
    device = of_kind(kind)
    if device is None or device.platform != "cuda":
        print(f"gpu: {kind} is no NVIDIA GPU of scaling.chips.devices; nothing is measured")
        return
    for name, rows in sections(device):
        if time.monotonic() > end:
            print(f"{name}: left out, the time allowed is over\n")
            continue
        print(f"{name} on one {kind}\n{pipes(pd.DataFrame(rows()))}\n", flush=True)


if __name__ == "__main__":
    main()
