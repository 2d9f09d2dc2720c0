"""The baseline beside the same shapes in PyTorch eager, one thread each.

`python -m experiments.bench.peer` prints the table. Each side is a process of its own on one and
the same CPU, and they take turns, so that what else the machine does hits both. Speed is tokens per
second of CPU time, which with one thread is that of an idle CPU; the ratio by the wall clock
stands beside it. Needs the extra `peer`.
"""

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

WIDTHS = (64, 128, 256, 512)
BATCH = 1024
TURNS = 9
SIDES = ("here", "torch")
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    **{name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
}


def here(config, windows) -> Callable[[], None]:
    """Returns what takes one step of ours per row of windows [steps, B, L+1], once compiled."""
    import jax
    import numpy as np

    from scaling import AdamW, Recipe, make_mesh
    from scaling.state import initial
    from scaling.train import Program, advance, on_mesh, warm

    recipe = Recipe(model=config, optimizer=AdamW(learning_rate=1e-3, weight_decay=0.1))
    program = Program(recipe=recipe, batch_tokens=BATCH, mesh=make_mesh("data:1"))
    state = [warm(program, on_mesh(program, initial(recipe, 0)))]
    rates = np.full(len(windows), 1e-3)

    def turn():
        state[0], metrics = advance(program, state[0], windows, rates, 0.1)
        jax.block_until_ready((state[0], metrics))

    return turn


def torch(config, windows) -> Callable[[], None]:
    """Returns what takes one step of PyTorch's per row of windows [steps, B, L+1]."""
    import torch as library

    from experiments.bench.peer_torch import Trainer
    from scaling import AdamW, Recipe
    from scaling.state import initial

    library.set_num_threads(1)
    recipe = Recipe(model=config, optimizer=AdamW(learning_rate=1e-3, weight_decay=0.1))
    trainer = Trainer(config, recipe.optimizer, initial(recipe, 0).params)
    batches = library.tensor(windows).long()

    def turn():
        for batch in batches:
            trainer.step(batch)

    return turn


def serve(side: str, width: int, steps: int, cpu: int) -> None:
    """Is one side: takes a turn per line on stdin, and answers with its seconds."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})  # Before a library counts CPUs for its threads.
    import numpy as np

    from models import ladder

    config = ladder(width, 10**6).model
    shape = (steps, BATCH // config.context, config.context + 1)
    windows = np.random.default_rng(0).integers(0, config.vocabulary, shape).astype(np.int32)
    turn = {"here": here, "torch": torch}[side](config, windows)
    for _ in sys.stdin:
        wall, cpu_time = time.perf_counter(), time.process_time()
        turn()
        spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu_time}
        print(json.dumps(spent), flush=True)


def compare(width: int, turns: int = TURNS, steps: int | None = None, sides=SIDES) -> dict:
    """Times both sides at one width, in turns; returns a row of the table.

    The first turn of each side is not counted. `steps` are taken in a turn.

    Raises:
      RuntimeError: a side ended early; it has said why on stderr.
    """
    import models

    steps = steps or max(4, 2048 // width)
    cpu = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    command = [sys.executable, "-m", "experiments.bench.peer"]
    asked = [[*command, side, *map(str, (width, steps, cpu))] for side in sides]
    spent = alternate([(line, ONE_THREAD) for line in asked], turns)
    ours, theirs = (statistics.median(pair[side]["cpu"] for pair in spent) for side in (0, 1))
    clock = statistics.median(pair[1]["wall"] / pair[0]["wall"] for pair in spent)
    return {
        "width": width,
        "params_total": models.count(models.ladder(width, 10**6).model).params_total,
        "tokens/s here": round(steps * BATCH / ours),
        "tokens/s PyTorch eager": round(steps * BATCH / theirs),
        "ratio": statistics.median(pair[1]["cpu"] / pair[0]["cpu"] for pair in spent),
        "ratio by the wall clock": clock,
    }


def alternate(sides, turns: int, cpu: int | None = None) -> list[list[dict]]:
    """Lets processes take turns; each answers a line on its stdin with one line of JSON.

    Args:
      sides: (command, additions to the environment) of each.
      turns: that count; the first of each side, which may compile, does not.
      cpu: that all of them run on; None leaves it to them.

    Returns:
      a list of answers, in the order of the sides, per turn.

    Raises:
      RuntimeError: a side ended early; it has said why on stderr.
    """
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | added,
            cwd=Path(__file__).parents[2],
        )
        for command, added in sides
    ]

    def turn(process) -> dict:
        with contextlib.suppress(BrokenPipeError):  # Its end shows in its empty answer.
            process.stdin.write("\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{process.args} ended with code {process.wait()}")
        return json.loads(answer)

    try:
        if cpu is not None:
            for process in processes:
                os.sched_setaffinity(process.pid, {cpu})
        return [[turn(process) for process in processes] for _ in range(turns + 1)][1:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def peer(widths=WIDTHS) -> None:
    """Prints the table, or in one line that PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        print("PyTorch eager: not installed (pip install 'espalier[peer]'), so not compared\n")
        return
    from importlib.metadata import version

    import pandas as pd

    from experiments.evidence.report import pipes

    rows = [compare(width) for width in widths]
    print(f"training beside PyTorch {version('torch')} eager, one thread each, float32,")
    print(f"batch {BATCH} tokens, context 64; tokens per CPU-second, medians of {TURNS} turns each")
    print(pipes(pd.DataFrame(rows)) + "\n", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 5:
        serve(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        peer()
