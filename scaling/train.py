"""The compiled program: several optimizer steps per dispatch, and evaluation."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

import models
from models import ModelConfig
from models.placement import along_batch, constrained
from models.scans import RECOMPUTE
from refused import Refused
from scaling.mesh import batched, of_one_run, place, replicated, shards, state_shardings
from scaling.processes import compile_together
from scaling.recipe import Recipe
from scaling.stacks import shapes, stacked
from scaling.state import State, average, update

# Steps per dispatch at most: enough that 12 layers' Python overhead (1.1 ms a dispatch, measured)
# vanishes, few enough that a dispatch of the smallest models stays below a second.
DISPATCH_STEPS = 32

# Tokens are sent to the device as this type, whatever type a corpus is stored in: one program.
WINDOW_TYPE = np.int32

# No more than this many tokens are sent to the device per dispatch.
DISPATCH_TOKENS = 1 << 21

# A TPU's compiler would multiply by each device's part of a matrix as it comes, and read all
# activations anew for each part: 7B on v5e:8x8 at fsdp:32,data:2 in 17.8 s a step, by the roofline
# of what it compiles. Where matrices of less than so many MiB are put together first: in 11.2 s.
OPTIONS = {"tpu": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}}


@dataclass(frozen=True, kw_only=True)
class Program:
    """What one compiled training program depends on; segments that agree on it share it.

    What enters as arrays is taken out of the recipe, so that a sweep over it compiles once.
    `accumulate` is the number of micro-batches that a batch's gradient is summed over, one after
    the other; `recompute` is what the backward pass computes again (`models.scans`). Both
    need less memory, for more time, and change results by rounding alone where a batch's loss is
    the mean of its sequences' losses. Where it is not: the balance loss of a mixture of experts is
    that of each micro-batch, of which the mean is taken, and so is that of what buffers become.

    Raises:
      Refused: a batch whose sequences the mesh, or micro-batches on it, do not divide.
    """

    recipe: Recipe
    batch_tokens: int
    mesh: Mesh
    accumulate: int = 1
    recompute: str = "auto"

    def __post_init__(self):
        object.__setattr__(self, "recipe", self.recipe.static)
        if self.accumulate < 1:
            raise Refused("accumulate", self.accumulate, "1 or more micro-batches")
        if self.recompute not in RECOMPUTE:
            raise Refused("recompute", self.recompute, f"one of {', '.join(RECOMPUTE)}")
        parts = shards(self.mesh) * self.accumulate
        if self.sequences % parts:
            micro = f" × accumulate {self.accumulate}" if self.accumulate > 1 else ""
            raise Refused(
                "phase.batch_tokens",
                self.batch_tokens,
                f"a number of sequences (context {self.config.context}) that mesh data × fsdp × "
                f"expert{micro} = {parts} divides",
            )

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.recipe.model

    @property
    def sequences(self) -> int:
        """Sequences in a batch."""
        return self.batch_tokens // self.config.context

    @property
    def dispatch_steps(self) -> int:
        """Steps in the largest dispatch."""
        return max(1, min(DISPATCH_STEPS, DISPATCH_TOKENS // self.batch_tokens))


def steps_of(program: Program, read: Callable, over: Callable = lambda step: step):
    """Returns `advance(state, source, rates, settings, steps) -> (state, metrics)`, to be compiled.

    `read(source, index)` gives the windows [B, L+1] of a step; `rates` is [K] float32, `settings`
    are the optimizer's (a scalar, its decay, unless it is swept), `steps` is a scalar. The first
    `steps` ≤ K steps are taken, by a loop whose trip count is data: where a segment is cut changes
    neither the program nor a bit. Metrics are [K] float32 arrays. `over` makes a step
    `(state, source, rates, settings, index)` one of several runs at once, whose arrays lead with
    their axis: to map the loop itself would trace every step three times.
    """

    def step(state, source, rates, settings, index):
        gradients, buffers, metrics = gradients_of(program, state, read(source, index))
        rate = jax.lax.dynamic_index_in_dim(rates, index, keepdims=False)
        state, norm = update(program.recipe, state, gradients, rate, settings)
        state = average(program.recipe.averaging, program.batch_tokens, state)
        metrics = metrics | {"grad_norm": norm}
        return state.replace(buffers=buffers), metrics

    each = over(step)

    def advance(state, source, rates, settings, steps):
        shapes = jax.eval_shape(each, state, source, rates, settings, jnp.int32(0))[1]
        metrics = {k: jnp.zeros(rates.shape, v.dtype) for k, v in shapes.items()}

        def body(index, carried):
            state, metrics = carried
            state, new = each(state, source, rates, settings, index)
            return state, {k: metrics[k].at[..., index].set(v) for k, v in new.items()}

        return jax.lax.fori_loop(jnp.int32(0), steps, body, (state, metrics))

    return advance


def gradients_of(program: Program, state: State, windows: Int[Array, "B L+1"]):
    """Returns the gradients of a batch's loss, the buffers after it, and its metrics.

    Micro-batches take every so many-th sequence, so that on a mesh no sequence moves; gradients
    are summed in float32, one after the other. Along the mesh's `data` axis each device sums its
    own, and they are sent once, after the last. Along `fsdp` and `expert` they are sent for each:
    there a sum of whole gradients would take the memory that splitting them saves.
    """
    train = {path: state.params[path] for path in state.moments}
    rest = {path: x for path, x in state.params.items() if path not in train}

    def of(train, rest, buffers, windows):
        def objective(train):
            return models.loss(program.config, rest | train, buffers, windows, program.recompute)

        (_, (buffers, metrics)), gradients = jax.value_and_grad(objective, has_aux=True)(train)
        return gradients, buffers, metrics

    given, mesh, count = (train, rest, state.buffers, windows), program.mesh, program.accumulate
    if count == 1:
        return of(*given)
    layout = state_shardings(mesh, program.config, state).params
    run = functools.partial(sum_of, of, count, {path: layout[path].spec for path in train})
    if mesh.shape["data"] > 1:
        own, whole = run, PartitionSpec()
        run = jax.shard_map(
            lambda *given: jax.lax.psum(own(*given), "data"),
            in_specs=(whole, whole, whole, PartitionSpec("data")),
            out_specs=whole,
            axis_names={"data"},
            check_vma=False,  # What parts return does not say along which axes it varies.
        )
    # Divided at last, where it is read: a pass over all gradients less.
    return jax.tree.map(lambda x: x / (count * mesh.shape["data"]), run(*given))


def sum_of(of: Callable, count: int, layout: dict, train, rest, buffers, windows):
    """Returns the sum of what `of` returns of so many micro-batches.

    Sums of gradients lie as the parameters do: `layout`, by path.
    """

    def add(total, windows):
        found = of(train, rest, buffers, along_batch(windows))
        gradients, *others = jax.tree.map(jnp.add, total, found)
        gradients = {path: constrained(x, *layout[path]) for path, x in gradients.items()}
        return (gradients, *others), None

    micro = jnp.swapaxes(windows.reshape(-1, count, windows.shape[-1]), 0, 1)
    shapes = jax.eval_shape(of, train, rest, buffers, micro[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, micro)[0]


@functools.cache
def compiled(program: Program):
    """Returns the jitted `advance` of one run over windows [K, B, L+1]; the state is donated."""
    take = lambda windows, index: jax.lax.dynamic_index_in_dim(windows, index, keepdims=False)
    advance = steps_of(program, take)
    shardings = state_shardings(program.mesh, program.config, shapes(program.recipe))
    return jax.jit(
        advance,
        donate_argnums=0,
        out_shardings=(shardings, replicated(program.mesh)),
        compiler_options=OPTIONS.get(program.mesh.devices.flat[0].platform),
    )


def place_windows(mesh: Mesh, windows: np.ndarray) -> jax.Array:
    """Sends this process's rows of windows [..., B, L+1] to the mesh, split by sequence."""
    sharding = batched(mesh, windows.ndim, windows.ndim - 2)
    if jax.process_count() == 1:
        return jax.device_put(windows, sharding)
    return jax.make_array_from_process_local_data(sharding, windows)


def advance(
    program: Program,
    state: State,
    windows: np.ndarray,
    rates: np.ndarray,
    settings: float | np.ndarray,
):
    """Trains `len(rates)` steps on windows [steps, B, L+1]; returns the state and metrics [K].

    `settings` are those of the optimizer, of which the program's stands for any.

    Inputs are padded to the program's dispatch size, so that every cut runs the same program.
    """
    steps = len(rates)
    padding = program.dispatch_steps - steps
    windows = np.pad(windows.astype(WINDOW_TYPE), [(0, padding), (0, 0), (0, 0)])
    rates = np.pad(rates.astype(np.float32), (0, padding))
    sent = place_windows(program.mesh, windows)
    with jax.set_mesh(program.mesh):
        inputs = (state, sent, rates, np.float32(settings), np.int32(steps))
        if program not in WARM:
            compile_together(compiled(program), *inputs)
        return compiled(program)(*inputs)


WARM: set[Program] = set()


def warm(program: Program, state: State) -> State:
    """Compiles a program by a dispatch of no steps, so that no segment's speed counts compiling."""
    if program in WARM:
        return state
    rows = program.sequences // jax.process_count()
    windows = np.zeros((0, rows, program.config.context + 1), WINDOW_TYPE)
    settings = program.recipe.optimizer.settings
    state = jax.block_until_ready(advance(program, state, windows, np.zeros(0), settings)[0])
    WARM.add(program)
    return state


def let_go(program: Program) -> None:
    """Frees what is compiled of a program and its evaluation; it compiles again where needed."""
    WARM.discard(program)
    compiled(program).clear_cache()
    for quantization in {program.config.quantization, None}:  # A quantised model has two.
        config = replace(program.config, quantization=quantization)
        evaluator(config, of_one_run(program.mesh)).clear_cache()


EVALUATION_TOKENS = 1 << 13  # Tokens per forward pass when evaluating; bounds activations.


@functools.cache
def evaluator(config: ModelConfig, mesh: Mesh):
    """Returns the jitted `evaluate(params, buffers, windows [n, B, L+1]) -> nats [n, B]`."""

    def evaluate(params, buffers, windows):
        one = lambda batch: models.held_out_nll(config, params, buffers, batch).sum(axis=-1)
        return jax.lax.map(one, windows)

    return jax.jit(evaluate, out_shardings=replicated(mesh))


def evaluate(config: ModelConfig, mesh: Mesh, state: State, windows: np.ndarray) -> np.ndarray:
    """Returns each window's summed negative log-likelihood in nats, [n] float64.

    `windows` is [n, L+1]; every process passes all of them.
    """
    count, width = windows.shape
    batch = -(-max(1, EVALUATION_TOKENS // (width - 1)) // shards(mesh)) * shards(mesh)
    batches = -(-count // batch)
    padded = np.concatenate([windows, np.repeat(windows[:1], batches * batch - count, axis=0)])
    padded = padded.reshape(batches, batch, width)
    with jax.set_mesh(mesh):
        sharding = batched(mesh, 3, 1)
        sent = jax.make_array_from_callback(padded.shape, sharding, lambda index: padded[index])
        inputs = (state.params, state.buffers, sent)
        compile_together(evaluator(config, mesh), *inputs)
        sums = evaluator(config, mesh)(*inputs)
        return np.asarray(sums, np.float64).reshape(-1)[:count]


def on_mesh(program: Program, state: State) -> State:
    """Lays a state out over the program's mesh, with its scanned layers stacked."""
    laid = place(state, state_shardings(program.mesh, program.config, state))
    return stacked(program.config, laid)
