"""A state as its program has it: layers that are scanned are stacked once, on the mesh.

All else (changes, growth, export, checkpoints) sees leaves by path; `stacked` and `by_path` pass
between the two, one stack after the other, so that no more than one is there twice. A program that
loops over its layers has its state by path.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from models import ModelConfig, skeleton, stacks, transformer
from models.accounting import is_frozen
from scaling.recipe import Recipe
from scaling.state import State, abstract


def runs(config: ModelConfig) -> list[range]:
    """Returns the layers that are stacked: of one structure, one after the other.

    Layers of a stack are frozen and quantised alike.
    """
    if config.depth <= transformer.LOOPED_LAYERS:
        return []
    bones, kinds = skeleton(config), [{} for _ in range(config.depth)]
    for path in bones.params:
        if label := stacks.label(path):
            rest = path.removeprefix(f"{stacks.LAYERS}{label}")
            kinds[int(label)][rest] = is_frozen(config, path), bones.quantizers.get(path)
    kind = lambda layer: (config.layer(layer), kinds[layer])
    groups = (list(group) for _, group in itertools.groupby(range(config.depth), key=kind))
    return [range(group[0], group[-1] + 1) for group in groups if len(group) > 1]


def shapes(recipe: Recipe) -> State:
    """Returns the shapes and types of a recipe's state as its program has it."""
    shape = lambda x: jax.ShapeDtypeStruct((len(x), *x[0].shape), x[0].dtype)
    return joined(recipe.model, abstract(recipe), shape)


def stacked(config: ModelConfig, state: State, axis: int = 0) -> State:
    """Returns a state by path, on a mesh, as its program has it; stacks lead with their layers.

    Arrays that go into a stack are freed. `axis` is where that of the layers comes to lie.
    """

    def join(arrays):
        at = arrays[0].sharding
        spec = [*at.spec, *[None] * (arrays[0].ndim - len(at.spec))]
        found = joiner(axis, laid(at, [*spec[:axis], None, *spec[axis:]]))(*arrays)
        for array in arrays:
            array.delete()
        return found

    return joined(config, state, join)


def by_path(state: State, axis: int = 0, keep: bool = False) -> State:
    """Returns a program's state by path; its stacks are freed, unless they are kept.

    Where they are kept, accelerators' arrays go to their hosts' memory: there may be room for one
    state alone on the devices.
    """

    def split(array):
        at, count = array.sharding, array.shape[axis]
        spec = [*at.spec, *[None] * (array.ndim - len(at.spec))]
        parts = splitter(axis, count, laid(at, [*spec[:axis], *spec[axis + 1 :]]))(array)
        if not keep:
            array.delete()
        elif next(iter(at.device_set)).platform != "cpu":
            parts = jax.block_until_ready(to_host(parts))
        return parts

    return apart(state, split)


def joined(config: ModelConfig, state: State, join: Callable[[list], object]) -> State:
    """Returns a state by path with the arrays of each stack joined under its name."""

    def of(leaves):
        found = dict(leaves)
        for run in runs(config):
            first, label = str(run[0]), f"{run[0]}-{run[-1]}"
            for path in [path for path in leaves if stacks.label(path) == first]:
                name = stacks.renamed(path, {first: label})
                parts = [found.pop(part) for part in stacks.paths(name)]
                found[name] = jax.tree.map(lambda *arrays: join(arrays), *parts)
        return found

    return each(state, of)


def apart(state: State, split: Callable[[Array], tuple[Array, ...]]) -> State:
    """Returns a state whose stacks' arrays are split into those of each layer, by path."""

    def of(leaves):
        found = {}
        for name, leaf in leaves.items():
            if not stacks.is_stack(name):
                found[name] = leaf
                continue
            arrays, structure = jax.tree.flatten(leaf)
            parts, paths = [split(array) for array in arrays], stacks.paths(name)
            for index, path in enumerate(paths):
                found[path] = jax.tree.unflatten(structure, [part[index] for part in parts])
        return found

    return each(state, of)


def each(state: State, of: Callable[[dict], dict]) -> State:
    """Applies a function to the leaves of every kind that a state has."""
    names = [field.name for field in dataclasses.fields(state)]
    return State(**{name: of(getattr(state, name)) for name in names})


def laid(like: NamedSharding, spec: list) -> NamedSharding:
    """Returns how an array lies whose dimensions are split so over the mesh of another."""
    return NamedSharding(like.mesh, PartitionSpec(*spec) if any(spec) else PartitionSpec())


def to_host(arrays):
    """Moves arrays into the memory of their devices' hosts."""
    kind = "pinned_host"
    return jax.device_put(arrays, [x.sharding.with_memory_kind(kind) for x in arrays])


@functools.cache
def joiner(axis: int, sharding: NamedSharding):
    """Returns the program that stacks arrays."""
    return jax.jit(lambda *arrays: jnp.stack(arrays, axis), out_shardings=sharding)


@functools.cache
def splitter(axis: int, count: int, sharding: NamedSharding):
    """Returns the program that gives the parts of a stack."""
    take = lambda array: [jax.lax.index_in_dim(array, i, axis, False) for i in range(count)]
    return jax.jit(take, out_shardings=[sharding] * count)
