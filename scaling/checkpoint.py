"""Checkpoints: the state at a step, written by orbax, restored onto any mesh.

A checkpoint is `<segment>/checkpoint/<step>`; `sums.json` in it has the checksum of every file, and
says whether it is a state that is kept. Orbax is imported where it is used: a plan, a report and a
start without a checkpoint need none.
"""

import contextlib
import errno
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator

import jax
from etils import epath
from jax.sharding import Mesh

from scaling import background, processes, seals
from scaling.files import is_local, remove, sync, sync_tree, write_atomically
from scaling.mesh import state_shardings
from scaling.recipe import Recipe
from scaling.state import State, abstract

# What a state has beside parameters and buffers, several arrays for each leaf.
STATEFUL = ("moments", "averages")

WRITE_SECONDS = 3600  # After which a checkpoint that is not written counts as failed.
KEEP = 2  # The newest may be damaged by what killed the process: one before it is kept.
SUMS = "sums.json"
FULL = re.compile(r"no space left|disk quota|read-only file system", re.IGNORECASE)

SOUND: set[str] = set()  # Checkpoints that this process has compared with their checksums.


def place(folder: epath.Path, step: int) -> epath.Path:
    """Returns where a checkpoint is."""
    return folder / "checkpoint" / str(step)


def steps(folder: epath.Path) -> list[int]:
    """Lists the steps at which there are checkpoints, the newest last."""
    there = folder / "checkpoint"
    if not there.exists():
        return []
    found = sorted(int(path.name) for path in there.iterdir() if path.name.isdecimal())
    whole = lambda step: is_local(there) or (place(folder, step) / "commit_success.txt").exists()
    return [step for step in found if whole(step)]


def save(folder: epath.Path, step: int, state: State, meta: dict, kept: bool = False) -> None:
    """Writes one atomic checkpoint; every process of a multi-process run calls it (`save_tree`)."""
    save_tree(folder, step, to_tree(state), meta, kept)


def save_tree(folder: epath.Path, step: int, tree: dict, meta: dict, kept: bool = False) -> None:
    """Begins to write one atomic checkpoint of nested dicts of arrays; older ones are dropped then.

    It returns once the arrays are off their devices, which may be donated then. The rest is done
    in the background; `background.wait` waits for it.

    Raises:
      OSError: it, or the one before, cannot be written; then nothing is left of that.
    """
    background.wait()
    processes.barrier("the checkpoint before is written")
    first, final = jax.process_index() == 0, place(folder, step)
    beside = final.parent / f".saving-{step}" if is_local(folder) else final
    if step in steps(folder):
        if kept and first and not is_kept(folder, step):
            seal(final, step, kept)
        return
    with undone(final):
        if first:
            final.parent.mkdir(parents=True, exist_ok=True)
            remove(beside)
        processes.barrier("room for a checkpoint")
        written = begin(beside, tree, meta | {"sealed": True})

    def finish() -> None:
        with undone(final):
            written()
            if first:
                seal(beside, step, kept)
                if beside is not final:
                    sync_tree(beside)
                    arrive(beside, final)
                clean(folder, steps(folder)[-KEEP:])

    background.start(finish)


def arrive(beside: epath.Path, final: epath.Path) -> None:
    """Gives a written checkpoint its name, unless another worker was first: both say the same."""
    try:
        beside.rename(final)
    except OSError:
        if not (final / SUMS).exists():
            raise
        remove(beside)
    sync(final.parent)


@contextlib.contextmanager
def undone(final: epath.Path) -> Iterator[None]:
    """Leaves nothing of a checkpoint that cannot be written."""
    try:
        yield
    except Exception as error:
        there = final.parent.exists() and jax.process_index() == 0
        for path in final.parent.iterdir() if there else ():
            if not path.name.isdecimal():
                remove(path)
        raise of_disk(error, final) from error


def begin(path: epath.Path, tree: dict, meta: dict) -> Callable[[], None]:
    """Has orbax take arrays off their devices; returns what waits until its files are written.

    On CPUs orbax reads arrays where they are; JAX donates none that is still being read.
    """
    import orbax.checkpoint as ocp

    args = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())
        handler = ocp.CompositeCheckpointHandler()
        writer = ocp.AsyncCheckpointer(handler, timeout_secs=WRITE_SECONDS)
        stack.callback(writer.close)
        writer.save(path, args=args, force=True)
        return stack.pop_all().close


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps orbax and its threads from printing stacks of an error, which is raised as well.

    Where one was raised, a thread may still find its event loop closed a moment later.
    """
    logger, hook = logging.getLogger("absl"), sys.unraisablehook

    def hush(found) -> None:
        if not (found.exc_type is RuntimeError and str(found.exc_value) == "Event loop is closed"):
            hook(found)

    before, logger.disabled, sys.unraisablehook = logger.disabled, True, hush
    try:
        yield
        sys.unraisablehook = hook
    finally:
        logger.disabled = before


def of_disk(error: Exception, path: epath.Path) -> Exception:
    """Returns an error of the disk's as an OSError, whichever library told it; others as is."""
    if isinstance(error, OSError) or not FULL.search(str(error)):
        return error
    number = errno.EROFS if "read-only" in str(error).lower() else errno.ENOSPC
    return OSError(number, os.strerror(number), os.fspath(path))


def seal(path: epath.Path, step: int, kept: bool) -> None:
    """Writes the checksums of a checkpoint's files, bound to its segment and step."""
    record = {"kept": kept, "files": seals.sums(path, SUMS)}
    segment = path.parent.parent.name
    write_atomically(path / SUMS, seals.sealed(f"{segment} checkpoint {step}", record))


def fault(folder: epath.Path, step: int, afresh: bool = True) -> str | None:
    """Says what is wrong with a checkpoint, None where nothing is, or was unless `afresh`."""
    path = place(folder, step)
    if not afresh and os.fspath(path) in SOUND:
        return None
    try:
        record = sums_of(folder, step)
        found = seals.sums(path, SUMS) if record else {}
    except seals.Damaged as damaged:
        return f"{SUMS}: {damaged.why}"
    except OSError as error:
        return str(error)
    written = record["files"] if record else {}
    for name in sorted(written.keys() | found.keys()):
        if written.get(name) != found.get(name):
            return f"{name} is {'not what was written' if name in found else 'missing'}"
    SOUND.add(os.fspath(path))
    return None


def sums_of(folder: epath.Path, step: int) -> dict | None:
    """Returns what a checkpoint's `sums.json` says; None of one from before there were any.

    Raises:
      Damaged: it is not what was written for this segment and step.
    """
    file = place(folder, step) / SUMS
    if not file.exists():
        if said(folder, step).get("sealed"):
            raise seals.Damaged(file, "missing")
        seals.tell_old(folder.parent.parent)
        return None
    where = f"{folder.name} checkpoint {step}"
    return seals.opened(file.read_bytes(), where, file, folder.parent.parent)


def total_bytes(folder: epath.Path) -> int:
    """Returns the bytes of all files of a segment's checkpoints."""
    paths = (place(folder, step) for step in steps(folder))
    return sum(size for path in paths for size, _ in seals.sums(path, "").values())


def said(folder: epath.Path, step: int) -> dict:
    """Returns a checkpoint's meta data without orbax; empty where they cannot be read."""
    try:
        return json.loads((place(folder, step) / "meta" / "metadata").read_text())
    except (OSError, ValueError):
        return {}


def is_kept(folder: epath.Path, step: int) -> bool:
    """Says whether a checkpoint is a state that is kept when its segment is finished.

    One from before there were checksums counts as kept, since nothing says that it is not.
    """
    try:
        record = sums_of(folder, step)
    except seals.Damaged:
        return False
    return record is None or record["kept"]


def newest(
    folder: epath.Path, wanted: Callable[[dict], bool] = lambda _: True, mend: bool = False
) -> int | None:
    """Returns the step of the newest checkpoint that is sound and wanted by its meta data, or None.

    What is damaged is told once, and with `mend` deleted.
    """
    background.wait()
    there = steps(folder)
    for step in reversed(there):
        why = fault(folder, step, afresh=False)
        if why is None:
            if wanted(said(folder, step)):
                return step
            continue
        told_damaged(folder, step, why, there)
        if mend:
            remove(place(folder, step))
    return None


def told_damaged(folder: epath.Path, step: int, why: str, there: list[int]) -> None:
    """Tells of a damaged checkpoint, and what is done about it."""
    instead = "the one before it is used" if step > there[0] else "it is trained again"
    seals.tell(f"{seals.Damaged(place(folder, step), why)}: {instead}")


def restore(
    folder: epath.Path,
    recipe: Recipe,
    mesh: Mesh,
    wanted: Callable[[dict], bool] = lambda _: True,
    mend: bool = True,
) -> tuple[State, dict] | None:
    """Returns the newest good checkpoint's state and meta data, or None.

    `wanted` says by the meta data whether a checkpoint can be used; with `mend` damaged ones go.
    """
    like = abstract(recipe)
    shardings = state_shardings(mesh, recipe.model, like)
    shapes = lambda meta: shaped(to_tree(like), to_tree(shardings)) if wanted(meta) else None
    found = restore_tree(folder, shapes, mend)
    return found and (from_tree(found[0], like), found[1])


def shaped(tree, shardings):
    """Says how a tree of arrays should lie on the mesh when it is read."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def restore_tree(
    folder: epath.Path, shapes: Callable[[dict], dict | None], mend: bool = True
) -> tuple[dict, dict] | None:
    """Returns the arrays and the meta data of the newest checkpoint that is sound, or None.

    `shapes(meta)` gives the tree of shapes to read, None of a checkpoint that is of no use. A
    damaged checkpoint is told and, with `mend`, deleted, and the one before it is tried.
    """
    background.wait()
    processes.barrier("checkpoints are written")
    first, there = jax.process_index() == 0, steps(folder)
    for step in reversed(there):
        why = fault(folder, step) if first else None
        if not processes.any_of(why is not None)[0]:
            try:
                meta = read_meta(place(folder, step))
                tree = shapes(meta)
                if tree is None:
                    continue
                return read_state(place(folder, step), tree), meta
            except Exception as error:  # noqa: BLE001 — of an older one anything may be raised.
                reason = str(error).strip().splitlines()
                why = f"cannot be read: {reason[0][:200] if reason else type(error).__name__}"
        if first:
            told_damaged(folder, step, why, there)
            if mend:
                remove(place(folder, step))
        processes.barrier("a damaged checkpoint is gone")
    return None


def read_meta(path: epath.Path) -> dict:
    """Returns a checkpoint's meta data."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = reader.restore(path, args=args)["meta"]
    return {name: value for name, value in meta.items() if name != "sealed"}


def read_state(path: epath.Path, tree: dict) -> dict:
    """Returns a checkpoint's arrays, laid out as a tree of shapes says."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(tree))
        return reader.restore(path, args=args)["state"]


def clean(folder: epath.Path, keep: list[int]) -> None:
    """Deletes checkpoints but those of some steps, with what a kill left of any."""
    there = folder / "checkpoint"
    if not there.exists():
        return
    wanted = {str(step) for step in keep}
    for path in there.iterdir():
        if path.name not in wanted:
            remove(path)
            SOUND.discard(os.fspath(path))
    if not wanted:
        remove(there)


def discard(folder: epath.Path, last: int | None = None) -> None:
    """Deletes a segment's checkpoints; given its last step, not a state that is kept there."""
    background.wait()
    kept = last is not None and last in steps(folder) and is_kept(folder, last)
    clean(folder, [last] if kept else [])


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
