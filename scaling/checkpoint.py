"""Checkpoints: the state at a step, written by orbax, restored onto any mesh."""

import logging

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from models import ModelConfig
from scaling.mesh import state_shardings
from scaling.optimizer import State, abstract

KEEP = 2  # The newest may be damaged by what killed the process: one before it is kept.


def manager(folder: epath.Path) -> ocp.CheckpointManager:
    """Opens a segment's checkpoints."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEEP, cleanup_tmp_directories=True, enable_async_checkpointing=False
    )
    return ocp.CheckpointManager(folder / "checkpoint", options=options)


def save(folder: epath.Path, step: int, state: State, meta: dict) -> None:
    """Writes one atomic checkpoint; every process of a multi-process run calls it."""
    with manager(folder) as checkpoints:
        if step in checkpoints.all_steps():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(to_tree(state)), meta=ocp.args.JsonSave(meta)
        )
        checkpoints.save(step, args=args, force=True)
        checkpoints.wait_until_finished()


def restore(folder: epath.Path, config: ModelConfig, mesh: Mesh) -> tuple[State, dict] | None:
    """Returns the newest good checkpoint's state and meta data, or None.

    A checkpoint that cannot be read is reported and the one before it is tried.
    """
    if not (folder / "checkpoint").exists():
        return None
    like = abstract(config)
    shardings = state_shardings(mesh, config, like)
    wanted = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        to_tree(like),
        to_tree(shardings),
    )
    with manager(folder) as checkpoints:
        for step in sorted(checkpoints.all_steps(), reverse=True):
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(wanted), meta=ocp.args.JsonRestore()
            )
            try:
                found = checkpoints.restore(step, args=args)
            except Exception as error:  # noqa: BLE001 — a damaged file can raise anything.
                reason = str(error).strip().splitlines()
                logging.warning(
                    "checkpoint %s of segment %s cannot be read (%s); trying the one before it",
                    step,
                    folder.name,
                    reason[0][:200] if reason else type(error).__name__,
                )
                continue
            return from_tree(found["state"], like), found["meta"]
    return None


def discard(folder: epath.Path) -> None:
    """Deletes a segment's checkpoints."""
    if (folder / "checkpoint").exists():
        (folder / "checkpoint").rmtree()


def to_tree(state: State) -> dict:
    """Turns a state into nested dicts of arrays, so that files name no class of a library."""
    moments = {path: dict(enumerate_leaves(m)) for path, m in state.moments.items()}
    tree = {"params": state.params, "buffers": state.buffers, "moments": moments}
    return {name: leaves for name, leaves in tree.items() if leaves}


def from_tree(tree: dict, like: State) -> State:
    """Turns nested dicts back into a state of the structure of `like`."""
    moments = {
        path: jax.tree.unflatten(
            jax.tree.structure(m), [tree["moments"][path][k] for k, _ in enumerate_leaves(m)]
        )
        for path, m in like.moments.items()
    }
    return State(tree["params"], tree.get("buffers", {}), moments)


def enumerate_leaves(moments) -> list[tuple[str, jax.Array]]:
    """Names the arrays of one leaf's optimizer state."""
    leaves = jax.tree_util.tree_flatten_with_path(moments)[0]
    return [(jax.tree_util.keystr(path).strip("."), leaf) for path, leaf in leaves]
