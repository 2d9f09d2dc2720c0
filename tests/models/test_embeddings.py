"""Token tables and the loss: sums in float32, and on a mesh each device's own rows alone."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import models
from models import skeleton
from models.embeddings import cross_entropy, looked_up
from scaling import make_mesh
from scaling.mesh import batched, replicated
from tests.tiers import mostly
from tests.zoo import CONFIGS

MESHES = ("data:8", "fsdp:8", "fsdp:4,data:2", "expert:4,data:2")
ROWS, WIDTH, VOCABULARY, LARGEST = (16, 8), 32, 64, 1 << 9  # Two chunks on each of eight devices.


def inputs():
    """Returns hidden states, the head's matrix and targets."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*ROWS, WIDTH), np.float32)
    kernel = rng.standard_normal((WIDTH, VOCABULARY), np.float32)
    return x, kernel, rng.integers(0, VOCABULARY, ROWS).astype(np.int32)


def objective(x, kernel, targets, largest=LARGEST):
    """Weighs loss and normaliser, so that both have a gradient."""
    nll, normaliser = cross_entropy(x, kernel, targets, largest)
    return jnp.mean(nll) + 1e-3 * jnp.mean(normaliser**2)


def compiled(mesh):
    """Returns the compiled loss with its gradients, and its inputs where they lie."""
    where = (batched(mesh, 3, 0), replicated(mesh), batched(mesh, 2, 0))
    placed = [
        jax.device_put(value, sharding) for value, sharding in zip(inputs(), where, strict=True)
    ]
    with jax.set_mesh(mesh):
        program = jax.jit(jax.value_and_grad(objective, argnums=(0, 1))).lower(*placed)
        return program.compile(), placed


@pytest.mark.parametrize("spec", MESHES)
def test_the_loss_of_a_mesh_is_that_of_one_device(spec):
    with jax.set_mesh(make_mesh("data:1")):
        plain = jax.jit(jax.value_and_grad(objective, argnums=(0, 1)))(*inputs())
    program, placed = compiled(make_mesh(spec))
    # Sums of 128 terms in another order: a few units in the last place of the largest.
    bound = lambda x: 128 * np.finfo(np.float32).eps * np.abs(np.asarray(x)).max()
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(program(*placed)), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=bound(one))


@pytest.mark.parametrize("spec", MESHES)
def test_every_device_computes_the_logits_of_its_own_rows_alone(spec):
    text = compiled(make_mesh(spec))[0].as_text()
    rows = ROWS[0] * ROWS[1] // 8
    found = [int(n) for n in re.findall(rf"= f32\[(\d+),{VOCABULARY}\]\S* dot\(", text)]
    scores = [n for n in found if n != WIDTH]  # The other product is the matrix's gradient.
    # In the forward pass and once more in the backward one, in chunks inside a loop.
    assert scores and all(n * VOCABULARY <= LARGEST and n < rows for n in scores)
    # Hidden states stay where they are: nothing as large as the batch's is exchanged.
    exchanged = re.findall(r"= (\w+)\[([\d,]*)\]\S* (?:all-gather|all-to-all|all-reduce)", text)
    sizes = [int(np.prod([int(d) for d in dims.split(",") if d] or [1])) for _, dims in exchanged]
    assert all(size <= WIDTH * VOCABULARY for size in sizes)
    loops = re.findall(r"while\(", text)
    assert len(sizes) <= 4 and loops  # The matrix's gradient is summed once, not once a chunk.


@pytest.mark.parametrize("spec", ("fsdp:8", "fsdp:4,data:2"))
def test_each_device_looks_its_own_tokens_up_and_sums_their_gradient(spec):
    rng, mesh = np.random.default_rng(0), make_mesh(spec)
    table = rng.standard_normal((VOCABULARY, WIDTH), np.float32)
    weights = rng.standard_normal((*ROWS, WIDTH), np.float32)
    tokens = inputs()[2] % 4  # Each stands in many sequences.
    total = lambda table, tokens, weights: jnp.sum(looked_up(table, tokens) * weights)
    both = jax.jit(jax.value_and_grad(total))
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    where = (split, batched(mesh, 2, 0), batched(mesh, 3, 0))
    placed = [jax.device_put(*pair) for pair in zip((table, tokens, weights), where, strict=True)]
    with jax.set_mesh(mesh):
        program = jax.jit(jax.value_and_grad(total), out_shardings=(None, split))
        program = program.lower(*placed).compile()
    plain = both(table, tokens, weights)
    for one, other in zip(plain, program(*placed), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-4)
    exchanged = re.findall(r"= f32\[([\d,]*)\]\S* all-(?:gather|to-all)", program.as_text())
    sizes = [np.prod([int(d) for d in dims.split(",") if d]) for dims in exchanged]
    assert max(sizes) <= VOCABULARY * WIDTH < np.prod(ROWS) * WIDTH


def gradients(config, windows):
    """Returns the gradient of the loss by path."""
    params, buffers = skeleton(config).initialise(0)
    loss = lambda params: models.loss(config, params, buffers, windows)[0]
    return jax.jit(jax.grad(loss))({path: jnp.asarray(x) for path, x in params.items()})


def error(name: str, tokens: int) -> float:
    """Returns how far a bfloat16 gradient is from the float32 one, relative, over all leaves."""
    config = CONFIGS[name]
    rng = np.random.default_rng(0)
    shape = (tokens // config.context, config.context + 1)
    # Zipf's law: a few tokens stand in thousands of places, as in text.
    windows = ((rng.zipf(1.3, shape) - 1) % config.vocabulary).astype(np.int32)
    exact = gradients(config, windows)
    rounded = gradients(replace(config, dtype="bfloat16"), windows)
    square = lambda tree: sum(float(jnp.sum(x**2)) for x in tree.values())
    return (square({p: rounded[p] - exact[p] for p in exact}) / square(exact)) ** 0.5


@pytest.mark.parametrize("name", mostly(["tied", "experts"], ["tied"]))
def test_a_bfloat16_gradient_is_as_exact_over_many_tokens_as_over_few(name):
    few, many = error(name, 1024), error(name, 8192)
    assert many <= 0.02 and many <= 1.5 * few


def test_a_token_that_stands_thirty_thousand_times_gets_its_whole_gradient():
    config = replace(CONFIGS["default"], dtype="bfloat16")
    params, buffers = skeleton(config).initialise(0)
    tokens = jnp.zeros((1, 30_000), jnp.int32)

    def total(table):
        model = skeleton(config).merge(params | {"embedding.table": table}, buffers)
        return jnp.sum(1e-3 * model.embedding(tokens, jnp.dtype("bfloat16")).astype(jnp.float32))

    gradient = jax.grad(total)(jnp.asarray(params["embedding.table"]))
    np.testing.assert_allclose(gradient[0], 30.0, rtol=0.005)  # 1e-3 itself is rounded.
    assert not np.any(gradient[1:])
