"""How fast everything is, measured in one run: `make bench`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import models
from data import Mixture, Order, Piece, load
from data.build import build
from data.reader import tokens_per_second
from experiments.bench.explorer import explored
from experiments.bench.mfu import mfu, recipe
from experiments.bench.peer import peer
from experiments.evidence.report import pipes
from models import Experts, Stem, ladder
from models.codes import Codes
from scaling import (
    AdamW,
    Data,
    Evaluation,
    Phase,
    Recipe,
    Run,
    Store,
    Worker,
    decay,
    make_mesh,
    plan,
)
from scaling.environment import environment
from scaling.optimizers import OPTIMIZERS, named
from scaling.speed import alone, candidates, fastest, fleet_speeds, measure, peak_flops, typical
from scaling.state import initial, optimizer_bytes, optimizer_flops, update
from scaling.train import Program, advance, compiled, on_mesh

WIDTHS = (16, 32, 64, 128, 256)
OPTIMIZER_WIDTHS = (64, 128, 256, 512)
BATCH = 1024


def training() -> None:
    """Prints tokens/s, FLOP/s and share of peak by width."""
    peak, source = peak_flops()
    rows = []
    for width in WIDTHS:
        config = ladder(width, 10**6).model
        accounts = models.count(config)
        speed = measure(recipe(config), BATCH)
        rate = speed * accounts.flops_train
        rows.append(
            {
                "width": width,
                "params_total": accounts.params_total,
                "tokens/s": round(speed),
                "GFLOP/s": rate / 1e9,
                "share of peak (%)": 100 * rate / peak,
            }
        )
    print(f"training, batch {BATCH} tokens, context 64, float32")
    print(pipes(pd.DataFrame(rows)))
    print(f"share of peak = tokens/s · exact training FLOPs per token / {peak / 1e9:.0f} GFLOP/s")
    print(f"({source})\n")


# Architectures that are timed against the baseline: name → fields in which they differ from it.
# A vocabulary among them is the baseline's too.
ZOO: dict[str, dict] = {
    "gelu": dict(feed_forward="gelu"),
    "codes": dict(embedding=Codes()),
    "recoded codes": dict(embedding=Codes(recode_seed=0)),
    # Rows of 3/4 and 3 widths: as many parameters as a plain block (arXiv:2410.23168, table 9).
    "tokenformer": dict(
        attention=models.ParameterTokens(192),
        feed_forward=models.ParameterTokens(768),
        block_norm="layer_norm",
    ),
    "4 streams": dict(streams=models.Streams(4)),
    "8 experts": dict(feed_forward=Experts(8, back_end="capacity")),
    "16 experts": dict(feed_forward=Experts(16, back_end="capacity")),
    "stem 1/3, V 4096": dict(feed_forward=Stem("third"), vocabulary=4096),
    "stem all but first, V 4096": dict(feed_forward=Stem("all_but_first"), vocabulary=4096),
    "the same, Adam on all rows": dict(
        feed_forward=Stem("all_but_first", lazy=False), vocabulary=4096
    ),
}
ZOO_WIDTH = 256

FLEET_SHAPES = ((16, 64), (16, 1024), (32, 128), (32, 1024), (64, 1024), (128, 1024), (256, 1024))
FLEET_SIZES = (1, 2, 4, 8, 16, 32, 64)
FLEET_ACTIVATIONS = 1 << 20  # Members × batch tokens × width at most beyond what is tried.


def zoo() -> None:
    """Prints each architecture's training time beside its FLOPs, as ratios to the baseline's.

    The optimizer's update is timed by itself too: it follows all parameters, FLOPs the active ones.
    """
    rows = []
    for name, fields in ZOO.items():
        shape = {"vocabulary": fields["vocabulary"]} if "vocabulary" in fields else {}
        base = ladder(ZOO_WIDTH, 10**6, **shape).model
        config = replace(base, **fields)
        # In turns, so that what else the machine does hits both.
        turns = [
            [(BATCH / measure(recipe(c), BATCH), updating(recipe(c)).min()) for c in (base, config)]
            for _ in "12"
        ]
        (base_step, base_update), (step, apart) = (
            map(min, zip(*side, strict=True)) for side in zip(*turns, strict=True)
        )
        accounts = models.count(config)
        rows.append(
            {
                "architecture": name,
                "params_total": accounts.params_total,
                "FLOP ratio": accounts.flops_train / models.count(base).flops_train,
                "time ratio": step / base_step,
                "optimizer (% of time)": 100 * apart / step,
                "time ratio without optimizer": (step - apart) / (base_step - base_update),
            }
        )
    print(f"training time per token against the baseline at width {ZOO_WIDTH}")
    print(pipes(pd.DataFrame(rows)) + "\n")


def fleets() -> None:
    """Prints the tokens/s of all members against their number, and the automatic choice.

    Every other turn makes the choice, the others judge it: a best of many sizes by the turns that
    chose it would flatter it, and a choice made minutes before, on a shared machine, is judged on
    another machine.
    """
    rows = []
    for width, batch in FLEET_SHAPES:
        config = ladder(width, 10**6, context=32 if batch < 512 else 64).model
        tried = candidates(
            Program(recipe=recipe(config), batch_tokens=batch, mesh=make_mesh("run:1"))
        )
        sizes = [n for n in FLEET_SIZES if n in tried or n * batch * width <= FLEET_ACTIVATIONS]
        turns = fleet_speeds(recipe(config), batch, sizes, times=2)
        chosen = fastest({size: turns[size][::2] for size in turns if size in tried})
        speeds = typical({size: speed[1::2] for size, speed in turns.items()})
        row = {"width": width, "batch tokens": batch}
        row |= {f"R = {size}": round(speed) for size, speed in speeds.items()}
        rows.append(
            row | {"choice": chosen, "choice / best": speeds[chosen] / max(speeds.values())}
        )
    print("fleets: tokens/s of all R members together (R = 1: the loop), medians of turns")
    print(pipes(pd.DataFrame(rows, dtype=object)) + "\n")


def updating(plan: Recipe, steps: int = 8, clock=time.perf_counter) -> np.ndarray:
    """Returns the seconds of optimizer steps by themselves: clipping, moments, parameters."""
    state = jax.tree.map(jnp.asarray, initial(plan, 0))
    gradients = {path: 0.1 * state.params[path] for path in state.moments}
    rate, seconds = jnp.float32(1e-3), []
    step = jax.jit(
        lambda state, gradients: update(plan, state, gradients, rate, rate), donate_argnums=0
    )
    for _ in range(steps + 1):  # The first compiles.
        began = clock()
        state, _ = jax.block_until_ready(step(state, gradients))
        seconds.append(clock() - began)
    return np.array(seconds[1:])


def training_seconds(plan: Recipe, clock, steps: int = 4) -> float:
    """Returns the seconds of a training step of one batch."""
    train = alone(plan, BATCH, steps)
    train()  # The first call compiles.
    began = clock()
    train()
    return (clock() - began) / steps


def optimizers(widths=OPTIMIZER_WIDTHS, names=tuple(OPTIMIZERS)) -> None:
    """Prints every optimizer's step by itself, and training's time per step, beside AdamW's.

    Training is timed with AdamW; another optimizer's step then takes the place of AdamW's. Steps
    are means over ten, one of SOAP's decompositions among them, each the best of two. Times are of
    the processor, so that what else the machine does is not in them.
    """
    rows, clock = [], time.process_time
    step = lambda plan: updating(plan, 20, clock).reshape(2, 10).min(axis=0).mean()
    for width in widths:
        config = ladder(width, 10**6).model
        accounts, whole = models.count(config), training_seconds(recipe(config), clock)
        plain = step(recipe(config))
        for name in names:
            plan = Recipe(model=config, optimizer=named(name, learning_rate=1e-3))
            apart = plain if name == "adamw" else step(plan)
            row = {"optimizer": name, "width": width, "step alone (CPU-ms)": 1e3 * apart}
            row |= {"over AdamW's": apart / plain, "training": (whole - plain + apart) / whole}
            share = optimizer_flops(plan) / (BATCH * accounts.flops_train)
            row |= {"products (% of FLOPs)": 100 * share}
            row |= {"state (bytes/parameter)": optimizer_bytes(plan) / accounts.params_total}
            rows.append(row)
    print(f"optimizers: a step by itself, and training in AdamW's time, batch {BATCH} tokens")
    print(pipes(pd.DataFrame(rows)) + "\n")


def overhead() -> None:
    """Prints the Python time per step at 12 layers, amortised over a dispatch."""
    config = models.ModelConfig(width=16, depth=12, heads=2, context=8, vocabulary=16)
    program = Program(recipe=recipe(config), batch_tokens=16, mesh=make_mesh("data:1"))
    state = on_mesh(program, initial(recipe(config), 0))
    steps = program.dispatch_steps
    windows = np.zeros((steps, 2, 9), np.int32)
    rates = np.full(steps, 1e-3)
    state, metrics = advance(program, state, windows, rates, 0.0)
    jax.block_until_ready(metrics)
    times = []
    for _ in range(20):
        began = time.thread_time()
        state, metrics = advance(program, state, windows, rates, 0.0)
        times.append(time.thread_time() - began)
        jax.block_until_ready(metrics)
    per_step = 1e3 * float(np.median(times)) / steps
    print(f"Python overhead at 12 layers: {per_step:.3f} ms a step (< 0.5), {steps} a dispatch\n")


def reading() -> None:
    """Prints the reader's speed."""
    corpus = load("wheels")
    mixture = Mixture.uniform(corpus.main)
    order = Order(corpus, (Piece(10**6, 64, mixture),), 0)
    speed = tokens_per_second(corpus, order, 16)
    print(
        f"reader: {speed / 1e6:.0f}M tokens/s (> 20M), batches of 16 × 64 over "
        f"{len(corpus.main)} domains\n"
    )


def corpora() -> None:
    """Prints how fast one process builds a corpus from JSONL, in bytes and in BPE tokens."""
    wheels = load("wheels-bpe4096")
    tokenizer = wheels.domains["code"].folder / "tokenizer.json"
    source = load("wheels").domains["code"].train
    texts = [document.decode() for document in source.tobytes().split(b"\0")[1:]]
    speeds = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "code.jsonl")
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        for name in ("bytes", str(tokenizer)):
            began = time.perf_counter()
            path = Path(folder, "bytes" if name == "bytes" else "bpe")
            build(path, name=path.name, domains={"code": [file]}, tokenizer=name, workers=1)
            speeds[path.name] = len(source) / (time.perf_counter() - began)
    minutes = 1e9 / speeds["bytes"] / 60
    print(
        f"corpus build, one process: {speeds['bytes'] / 1e6:.0f} MB/s in bytes, 1 GB in "
        f"{minutes:.1f} minutes (≤ 5 with two); {speeds['bpe'] / 1e6:.1f} MB/s in BPE tokens\n"
    )


def starting() -> None:
    """Prints seconds from command to first step, cold and with the compilation cache."""
    code = (
        "import sys, time; began = time.perf_counter()\n"
        "from pathlib import Path\n"
        "from scaling.environment import compilation_cache\n"
        "compilation_cache(Path(sys.argv[1]))\n"
        "import numpy as np, jax\n"
        "from models import ladder\n"
        "from scaling import AdamW, Recipe, make_mesh\n"
        "from scaling.state import initial\n"
        "from scaling.train import Program, advance, on_mesh\n"
        "config = ladder(64, 10**6).model\n"
        "recipe = Recipe(model=config, optimizer=AdamW(learning_rate=1e-3))\n"
        "program = Program(recipe=recipe, batch_tokens=1024, mesh=make_mesh())\n"
        "windows = np.zeros((1, 16, 65), np.int32)\n"
        "state = on_mesh(program, initial(recipe, 0))\n"
        "jax.block_until_ready(advance(program, state, windows, np.full(1, 1e-3), 0.0))\n"
        "print(time.perf_counter() - began)"
    )
    with tempfile.TemporaryDirectory() as cache:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code, cache],
                check=True,
                stdout=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
            )
            seconds.append(time.perf_counter() - began)
    print(
        f"command to first step, width 64: {seconds[0]:.1f} s cold, {seconds[1]:.1f} s with the "
        f"compilation cache ({seconds[1] / seconds[0]:.2f})\n"
    )


def leaf() -> None:
    """Prints what a short leaf costs beyond its steps and its evaluation, and its files."""
    corpus = load("wheels")
    data = Data.of(corpus, Mixture.uniform(corpus.main))
    config = ladder(16, 10**6).model
    trunk = Phase(20 * BATCH, BATCH)
    runs = [
        Run(
            model=config,
            data=data,
            optimizer=AdamW(learning_rate=0.01),
            seed=0,
            phases=(trunk, Phase(steps * BATCH, BATCH, decay())),
        )
        for steps in range(8, 40, 2)
    ]
    mesh, evaluation = make_mesh("data:1"), Evaluation(8192, domains=corpus.main)
    folder = tempfile.mkdtemp()
    first = Worker(plan(runs[:1]), Store.at(os.path.join(folder, "a")), corpus, evaluation, mesh)
    first.run()
    store = Store.at(os.path.join(folder, "b"))
    worker = Worker(plan(runs), store, corpus, evaluation, mesh)
    timed = {"steps": 0.0, "evaluation": 0.0}

    def clock(name, function):
        def timed_call(*args, **kwargs):
            began = time.perf_counter()
            result = jax.block_until_ready(function(*args, **kwargs))
            timed[name] += time.perf_counter() - began
            return result

        return timed_call

    import scaling.fleet as module
    from scaling.ledger import Ledger

    kept = module.advance, Ledger.evaluate
    module.advance = clock("steps", module.advance)
    Ledger.evaluate = clock("evaluation", Ledger.evaluate)
    began = time.perf_counter()
    worker.run()
    spent = time.perf_counter() - began
    module.advance, Ledger.evaluate = kept
    files = max(len(list(store.folder(run.identity).iterdir())) for run in runs)
    each = 1e3 * (spent - sum(timed.values())) / len(worker.plan.segments)
    shutil.rmtree(folder)
    print(
        f"a short leaf: {each:.0f} ms beyond its steps and evaluation (≤ 50), {files} files (≤ 4)\n"
    )


def relaunch() -> None:
    """Prints how many programs a second launch of a same-shaped run compiles."""
    config = ladder(32, 10**6).model
    mesh = make_mesh("data:1")
    sizes = []
    for rate in (1e-3, 2e-3):
        program = Program(
            recipe=Recipe(model=config, optimizer=AdamW(learning_rate=rate, weight_decay=rate)),
            batch_tokens=BATCH,
            mesh=mesh,
        )
        state = on_mesh(program, initial(program.recipe, int(rate * 1000)))
        windows = np.zeros((1, 16, 65), np.int32)
        jax.block_until_ready(advance(program, state, windows, np.full(1, rate), rate))
        sizes.append(compiled(program)._cache_size())
    print(f"programs after launching a shape once and twice: {sizes[0]}, {sizes[1]}\n")


def main() -> None:
    """Prints every table, and where and when they were measured."""
    here, root = environment(), Path(__file__).parents[2]
    date = time.strftime("%Y-%m-%d")
    print(f"{here['device']}, {here['cpus']} visible CPUs, jax {here['jax']}, {date}\n")
    parts = (training, mfu, peer, zoo, optimizers, fleets, overhead, reading, corpora, starting)
    parts += (leaf, relaunch, explored)
    for part in parts:
        part()
    sys.stdout.flush()
    # In processes of their own, so that their memory is the fits' and not this one's.
    for bench in ("fitting", "fit_before"):
        command = [sys.executable, "-m", f"experiments.bench.{bench}"]
        subprocess.run(command, check=True, cwd=root)


if __name__ == "__main__":
    main()
