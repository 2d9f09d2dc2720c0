"""How fast this device trains, measured; what a plan will take; and share of peak."""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

import models
from data import cache_folder
from data.order import PERIOD, Tables
from refused import Refused
from scaling import seals
from scaling.chips.devices import of_kind
from scaling.chips.estimate import memory
from scaling.chips.thrift import thrifty
from scaling.environment import PACKAGES, code, environment
from scaling.files import write_atomically
from scaling.fleet import Source, by_run
from scaling.fleet import compiled as together
from scaling.grouping import program_of
from scaling.mesh import make_mesh
from scaling.optimizers import AdamW
from scaling.plan import Segment
from scaling.recipe import Recipe
from scaling.runs import canonical
from scaling.stacks import stacked
from scaling.state import initial, optimizer_bytes
from scaling.train import Program, advance, on_mesh

CALIBRATION_WIDTHS = (16, 64, 128)
CALIBRATION_TOKENS = 1024
CALIBRATION_STEPS = 8

LARGEST_FLEET = 64
WORTH = 1.01  # A larger fleet must be faster by this much: a smaller one wastes less at its end.
# Turns of timing every size once. On shared CPUs a turn finds the difference of two sizes to 5 %
# (standard deviation over 60 turns at three shapes), many together to 1 %.
TURNS, TURNS_ON_ACCELERATORS = 27, 9
TIMED_SECONDS = 0.15  # Of calls at least: short ones after another size's find the caches cold.
# Members × batch tokens × width up to which fleets of more than two were ever the fastest on a CPU
# with 1 to 2 MiB of second-level cache; beyond, their activations leave it. Two members were 15 %
# slower than the loop at width 128 once and up to 15 % faster at other times: always tried.
CPU_FLEET_ACTIVATIONS = 1 << 17
# Training FLOPs from which a program's fleet size is worth measuring on a CPU: some 10 minutes (at
# width 64), of which a fleet saves a tenth, against half a minute of compiling and timing.
CPU_FLEET_FLOPS = 3e13
# Members × batch tokens × width × steps of one timed call: a tenth of a second or so on a CPU; on
# accelerators more, since a call of one step there is mostly dispatch.
TIMED_ACTIVATIONS, TIMED_ON_ACCELERATORS = 1 << 20, 1 << 26


def peak_flops() -> tuple[float, str]:
    """Returns the FLOP/s that share of peak refers to, and where the figure comes from.

    Known accelerators: dense bfloat16 peak times devices. Elsewhere, such as on CPUs: the best of
    a few large float32 matrix products measured now.
    """
    kind, devices = jax.devices()[0].device_kind, jax.device_count()
    known = of_kind(kind)
    if known is not None:
        return known.peak * devices, f"{devices} × {kind}, dense bf16 data sheet"
    size = 1536
    product = jax.jit(lambda x: x @ x)
    x = jax.block_until_ready(product(np.ones((size, size), np.float32)))
    best = np.inf
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(product(x))
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best, f"float32 matrix product of size {size}, measured"


def measure(recipe: Recipe, batch_tokens: int, steps: int = CALIBRATION_STEPS) -> float:
    """Returns training tokens per second of a recipe on this process's first device."""
    train = alone(recipe, batch_tokens, steps)
    best = np.inf
    for _ in range(4):
        began = time.perf_counter()
        train()
        best = min(best, time.perf_counter() - began)
    return steps * batch_tokens / best


def fleet_speeds(
    recipe: Recipe, batch_tokens: int, sizes: Iterable[int], times: int = 1
) -> dict[int, np.ndarray]:
    """Returns the training tokens per second of all members together, (turns,) by fleet size.

    All sizes are timed in every turn, of which there are `times` as many as a choice needs. Sizes
    that the device's memory does not hold are left out.
    """
    turns = times * (TURNS if jax.default_backend() == "cpu" else TURNS_ON_ACCELERATORS)
    calls: dict[int, Callable[[], float]] = {}
    for size in sorted(sizes):
        try:
            calls[size] = timed(recipe, batch_tokens, size)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            break
    speeds = np.array([[call() for call in calls.values()] for _ in range(turns)])
    return dict(zip(calls, speeds.T, strict=True))


def typical(speeds: dict[int, np.ndarray]) -> dict[int, float]:
    """Returns each size's middle speed, sizes compared within a turn.

    What else the device does in a turn hits all sizes alike.
    """
    turns = np.log(np.stack(list(speeds.values()), axis=1))
    level = turns.mean(axis=1)
    middle = np.exp(np.median(turns - level[:, None], axis=0) + np.median(level))
    return dict(zip(speeds, middle.tolist(), strict=True))


def fastest(speeds: dict[int, np.ndarray]) -> int:
    """Returns the fleet size to train with: the smallest that is about as fast as any."""
    middle = typical(speeds)
    return next(size for size in sorted(middle) if middle[size] * WORTH >= max(middle.values()))


def timed(recipe: Recipe, batch_tokens: int, size: int) -> Callable[[], float]:
    """Compiles what trains a fleet, and returns what times it for a while: tokens per second.

    One member is trained as the loop trains it; more read random windows in one program.
    """
    work = TIMED_ACTIVATIONS if jax.default_backend() == "cpu" else TIMED_ON_ACCELERATORS
    steps = min(max(work // (size * batch_tokens * recipe.model.width), 1), CALIBRATION_STEPS)
    if size == 1:
        train = alone(recipe, batch_tokens, steps)
    else:
        train = members(recipe, batch_tokens, size, steps)
    train()  # The first call compiles.
    began = time.perf_counter()
    train()
    calls = math.ceil(TIMED_SECONDS / (time.perf_counter() - began))

    def call() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            train()
        return calls * size * steps * batch_tokens / (time.perf_counter() - began)

    return call


def alone(recipe: Recipe, batch_tokens: int, steps: int) -> Callable[[], None]:
    """Returns what trains one recipe for some steps on the first device."""
    config = recipe.model
    program = thrifty(recipe.static, batch_tokens, make_mesh("data:1"))
    state = on_mesh(program, initial(recipe, 0))
    shape = (steps, program.sequences, config.context + 1)
    windows = np.random.default_rng(0).integers(0, config.vocabulary, shape).astype(np.int32)
    rates = np.full(steps, 1e-3)

    def train() -> None:
        nonlocal state
        state, metrics = advance(program, state, windows, rates, recipe.optimizer.settings)
        jax.block_until_ready(metrics)

    return train


def members(recipe: Recipe, batch_tokens: int, size: int, steps: int) -> Callable[[], None]:
    """Returns what trains a fleet of equal members for some steps on the first device."""
    mesh, config = make_mesh("run:1"), recipe.model
    program = Program(recipe=recipe, batch_tokens=batch_tokens, mesh=mesh)
    lead = lambda x: np.broadcast_to(np.asarray(x), (size, *np.shape(x)))
    rows = jax.device_put(jax.tree.map(lead, initial(recipe, 0)), by_run(mesh))
    state = stacked(config, rows, axis=1)
    words = np.random.default_rng(0).integers(0, config.vocabulary, 1 << 20)
    slots, one = np.arange(PERIOD, dtype=np.uint32), np.ones(1, np.uint32)
    count = one * ((len(words) - 1) // config.context)
    tables = Tables(0 * slots, slots, PERIOD * one, 0 * one, count, one)
    source = Source(
        Tables(*map(lead, tables)),
        lead(np.uint32(0)),
        jax.device_put(words.astype(np.min_scalar_type(config.vocabulary - 1))),
        np.zeros(1, np.int32),
    )
    rates = lead(np.full(program.dispatch_steps, 1e-3, np.float32))

    def train() -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = together(program)(
                state, source, rates, lead(recipe.optimizer.settings), np.int32(steps)
            )
        jax.block_until_ready(metrics)

    return train


def candidates(program: Program) -> list[int]:
    """Returns the fleet sizes worth measuring: on CPUs while their activations stay in the caches.

    The loop and two members always are.
    """
    bound = LARGEST_FLEET
    if jax.default_backend() == "cpu":
        activations = program.batch_tokens * program.config.width
        bound = min(bound, max(2, CPU_FLEET_ACTIVATIONS // activations))
    return [1 << power for power in range(bound.bit_length())]


def most(program: Program, measuring: bool = True) -> int:
    """Returns the fleet size of a program that trains the most tokens per second on this device.

    What was measured is kept on disk. Without `measuring`, which compiles a program per size, what
    was not measured before is 0.
    """
    recipe, batch = program.recipe, program.batch_tokens
    text = json.dumps([canonical(recipe), batch], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = cache_folder() / "speed" / f"{device_key()}-fleet-sizes.json"
    known = measured(file)
    if key not in known:
        if not measuring:
            return 0
        known[key] = fastest(fleet_speeds(recipe, batch, candidates(program)))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(epath.Path(file), json.dumps(known, indent=1) + "\n")
    return known[key]


def measured(file: Path) -> dict[str, int]:
    """Returns the fleet sizes that were measured before; a damaged file is told, and none."""
    if not file.exists():
        return {}
    try:
        known = json.loads(file.read_bytes())
        if all(isinstance(size, int) and size > 0 for size in known.values()):
            return known
    except (ValueError, AttributeError):
        pass
    seals.tell(f"{seals.Damaged(file, 'no fleet sizes')}: they are measured again")
    return {}


def fleet_sizes(
    choice: str, segments: Iterable[Segment], mesh: Mesh, measuring: bool = True
) -> Callable[[Program], int]:
    """Turns `auto`, `loop` or a number into the fleet size of a program that segments share.

    With `auto` it is what `most` says, on CPUs of programs that train for long enough.

    Raises:
      Refused: anything else.
    """
    if choice == "auto":
        flops: dict[Program, float] = {}
        for s in segments:
            program = program_of(s, mesh)
            flops[program] = flops.get(program, 0.0) + s.flops
        least = CPU_FLEET_FLOPS if jax.default_backend() == "cpu" else 0.0
        return lambda program: most(program, measuring) if flops[program] >= least else 1
    if choice == "loop":
        return lambda program: 1
    if not choice.isdecimal() or int(choice) < 1:
        raise Refused("fleet", choice, "auto, loop or the largest number of members")
    return lambda program: int(choice)


def device_key() -> str:
    """Names the device, as far as speed depends on it, for a file."""
    here = environment()
    key = f"{here['device']}-{here['cpus']}cpu-jaxlib{here['jaxlib']}"
    return key.replace(" ", "_").replace("/", "_")


def calibration(folder: Path) -> dict[int, float]:
    """Returns measured training FLOP/s by the baseline's width on this device; cached on disk.

    The cache is keyed by device, visible CPUs and jaxlib.
    """
    file = folder / f"{device_key()}.json"
    try:
        return {int(k): v for k, v in json.loads(file.read_text())["flops_per_second"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    rates = {}
    for width in CALIBRATION_WIDTHS:
        config = models.ladder(width, 10**6).model
        recipe = Recipe(model=config, optimizer=AdamW(learning_rate=1e-3))
        speed = measure(recipe, CALIBRATION_TOKENS)
        rates[width] = speed * models.count(config).flops_train
    folder.mkdir(parents=True, exist_ok=True)
    about = {"date": time.strftime("%Y-%m-%d"), "flops_per_second": rates}
    write_atomically(epath.Path(file), json.dumps(about))
    return rates


def predicted_seconds(segments: Iterable[Segment], rates: dict[int, float]) -> float:
    """Predicts training seconds from measured FLOP/s, interpolated in the logarithm of the width.

    Beyond the calibrated widths the nearest measurement is used. Compiling and evaluating are left
    out.
    """
    widths = np.log(sorted(rates))
    values = np.log([rates[w] for w in sorted(rates)])
    speed = lambda segment: np.exp(np.interp(np.log(segment.config.width), widths, values))
    return float(sum(segment.flops / speed(segment) for segment in segments))


def largest(segments: Iterable[Segment]) -> Segment:
    """Returns the segment that needs the most memory, judged by what its products write."""

    def judged(segment):
        accounts = models.count(segment.config)
        written = accounts.flops_forward / (2 * segment.config.width)
        kept = 8 * accounts.params_total + optimizer_bytes(segment.recipe)  # With the gradient.
        return kept + 4 * written * segment.phase.batch_tokens

    return max(segments, key=judged)


def predicted_bytes(segment: Segment) -> int:
    """Predicts the device memory of training a segment, as `training_bytes` says.

    What was traced is kept on disk, by all that it depends on, the code included.
    """
    recipe, batch, here = segment.recipe, segment.phase.batch_tokens, environment()
    where = [here[name] for name in ("device", *PACKAGES)]
    text = json.dumps([canonical(recipe.static), batch, where, code()], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = cache_folder() / "memory" / f"{key}.json"
    with contextlib.suppress(OSError, seals.Damaged):
        return seals.opened(file.read_bytes(), key, file, file.parent)["bytes"]
    found = training_bytes(recipe, batch)
    with contextlib.suppress(OSError):  # Where nothing can be kept it is traced each time.
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(epath.Path(file), seals.sealed(key, {"bytes": found}))
    return found


def training_bytes(recipe: Recipe, batch_tokens: int) -> int:
    """Predicts the memory of training a recipe on this process's first device (`estimate`)."""
    program = Program(recipe=recipe, batch_tokens=batch_tokens, mesh=make_mesh("data:1"))
    return round(memory(program).total)
