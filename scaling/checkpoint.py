"""Checkpoints: the state at a step, written by orbax, restored onto any mesh."""

import logging
from collections.abc import Callable

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from scaling.mesh import state_shardings
from scaling.recipe import Recipe
from scaling.state import State, abstract

# What a state has beside parameters and buffers, several arrays for each leaf.
STATEFUL = ("moments", "averages")

KEEP = 2  # The newest may be damaged by what killed the process: one before it is kept.


def manager(folder: epath.Path) -> ocp.CheckpointManager:
    """Opens a segment's checkpoints."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEEP, cleanup_tmp_directories=True, enable_async_checkpointing=False
    )
    return ocp.CheckpointManager(folder / "checkpoint", options=options)


def save(folder: epath.Path, step: int, state: State, meta: dict) -> None:
    """Writes one atomic checkpoint; every process of a multi-process run calls it."""
    save_tree(folder, step, to_tree(state), meta)


def save_tree(folder: epath.Path, step: int, tree: dict, meta: dict) -> None:
    """Writes one atomic checkpoint of nested dicts of arrays."""
    with manager(folder) as checkpoints:
        if step in checkpoints.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
        checkpoints.save(step, args=args, force=True)
        checkpoints.wait_until_finished()


def restore(folder: epath.Path, recipe: Recipe, mesh: Mesh) -> tuple[State, dict] | None:
    """Returns the newest good checkpoint's state and meta data, or None."""
    like = abstract(recipe)
    shardings = state_shardings(mesh, recipe.model, like)
    found = restore_tree(folder, lambda meta: shaped(to_tree(like), to_tree(shardings)))
    return found and (from_tree(found[0], like), found[1])


def shaped(tree, shardings):
    """Says how a tree of arrays should lie on the mesh when it is read."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def restore_tree(folder: epath.Path, wanted: Callable[[dict], dict]) -> tuple[dict, dict] | None:
    """Returns the arrays and the meta data of the newest checkpoint that can be read, or None.

    `wanted(meta)` gives the tree of shapes to read. A checkpoint that cannot be read is reported
    and the one before it is tried.
    """
    if not (folder / "checkpoint").exists():
        return None
    with manager(folder) as checkpoints:
        for step in sorted(checkpoints.all_steps(), reverse=True):
            read = lambda step=step, **items: checkpoints.restore(
                step, args=ocp.args.Composite(**items)
            )
            try:
                meta = read(meta=ocp.args.JsonRestore())["meta"]
                state = read(state=ocp.args.StandardRestore(wanted(meta)))["state"]
            except Exception as error:  # noqa: BLE001 — a damaged file can raise anything.
                reason = str(error).strip().splitlines()
                logging.warning(
                    "checkpoint %s of segment %s cannot be read (%s); trying the one before it",
                    step,
                    folder.name,
                    reason[0][:200] if reason else type(error).__name__,
                )
                continue
            return state, meta
    return None


def discard(folder: epath.Path) -> None:
    """Deletes a segment's checkpoints."""
    if (folder / "checkpoint").exists():
        (folder / "checkpoint").rmtree()


def to_tree(state: State) -> dict:
    """Turns a state into nested dicts of arrays, so that files name no class of a library."""
    tree = {"params": state.params, "buffers": state.buffers}
    for name in STATEFUL:
        leaves = {p: dict(enumerate_leaves(x)) for p, x in getattr(state, name).items()}
        tree[name] = {path: arrays for path, arrays in leaves.items() if arrays}
    return {name: leaves for name, leaves in tree.items() if leaves}


def from_tree(tree: dict, like: State) -> State:
    """Turns nested dicts back into a state of the structure of `like`."""
    found = {name: tree.get(name, {}) for name in STATEFUL}
    filled = lambda x, arrays: jax.tree.unflatten(
        jax.tree.structure(x), [arrays[name] for name, _ in enumerate_leaves(x)]
    )
    stateful = {
        name: {p: filled(x, arrays.get(p, {})) for p, x in getattr(like, name).items()}
        for name, arrays in found.items()
    }
    return State(params=tree["params"], buffers=tree.get("buffers", {}), **stateful)


def enumerate_leaves(tree) -> list[tuple[str, jax.Array]]:
    """Names the arrays that one leaf's optimizer state or average consists of."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path).strip("."), leaf) for path, leaf in leaves]
