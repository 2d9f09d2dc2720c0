"""Several devices and several processes train the same run as one."""

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from models import Experts
from refused import Refused
from scaling import Evaluation, Store, Worker, make_mesh, plan
from scaling.mesh import laid_out, shards, state_shardings, unsplit
from scaling.state import abstract, initial
from scaling.train import Program, advance, on_mesh
from tests.corpora import model, recipe, study_runs
from tests.rounding import (
    NUDGES,
    assert_same_steps,
    assert_same_trajectory,
    starts_nudged,
    state_nudged,
)
from tests.tiers import mostly

STEPS = 50


def train(spec: str, steps: int = STEPS, config=None, state=None):
    """Returns losses and state after some steps on a mesh, from a state or the start."""
    batch, config = 512, config or model(width=32)
    program = Program(
        recipe=recipe(config, study_runs_optimizer()), batch_tokens=batch, mesh=make_mesh(spec)
    )
    state = initial(recipe(config), 0) if state is None else jax.tree.map(np.array, state)
    state = on_mesh(program, state)
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.integers(-2, 3, (steps, batch // 32, 33)), axis=2) % 24 + 40
    losses = []
    for begin in range(0, steps, program.dispatch_steps):
        some = walk[begin : begin + program.dispatch_steps]
        state, metrics = advance(program, state, some, np.full(len(some), 0.005), 0.01)
        losses.append(np.asarray(metrics["nll"])[: len(some)])
    return np.concatenate(losses), state


def study_runs_optimizer():
    from scaling import AdamW

    return AdamW(learning_rate=0.005, weight_decay=0.01)


def assert_as_on_one_device(spec: str, steps: int, config) -> None:
    """Compares a step from the start, a step from a trained state, and the whole way."""
    start = initial(recipe(config), 0)
    losses, trained = train("data:1", steps, config, start)
    step = lambda spec: lambda state: train(spec, 1, config, state)[1]
    for state in (start, trained):
        assert_same_steps(step("data:1"), step(spec), state)
    moved = [train("data:1", steps, config, state_nudged(start, seed))[0] for seed in NUDGES]
    assert_same_trajectory(train(spec, steps, config)[0], losses, moved)
    assert losses[-1] < losses[0] - 0.3  # It is training, not standing still, that agrees.


@pytest.mark.equality
@pytest.mark.parametrize("spec", mostly(["data:8", "fsdp:4,data:2"], ["fsdp:4,data:2"]))
def test_eight_devices_agree_with_one(spec):
    assert jax.device_count() == 8
    assert_as_on_one_device(spec, STEPS, model(width=32))


def test_state_is_really_sharded():
    _, state = train("fsdp:4,data:2", steps=1)
    for path in ("layers.0.feed_forward.up", "embedding.table", "head.kernel"):
        moments = state.moments[path]
        for array in (state.params[path], moments.mu, moments.nu):
            parts = [s.data.size for s in array.addressable_shards]
            assert parts == [array.size // 4] * 8, path
    gain = state.params["final_norm.gain"]
    assert gain.is_fully_replicated and not state.params["head.kernel"].is_fully_replicated


def nudged_workers(runs, corpus, path) -> list[Worker]:
    """Trains runs on one device, then again from starts moved by one unit in the last place."""
    workers = []
    for seed in (None, *NUDGES):
        with contextlib.nullcontext() if seed is None else starts_nudged(seed):
            store = Store.at(path / f"one{seed}")
            workers.append(Worker(plan(runs), store, corpus, Evaluation(128), make_mesh("data:1")))
            workers[-1].run()
    return workers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.system
@pytest.mark.equality
def test_two_processes_match_one(corpus, tmp_path):
    where = next(iter(corpus.domains.values())).folder
    root = Path(__file__).parents[2]
    common = [sys.executable, "-m", "tests.scaling.processes", "--corpus", str(where)]
    common += ["--kinds", "wsd"]
    port = free_port()
    two = [
        subprocess.Popen(
            [*common, "--stores", str(tmp_path / "two"), "--mesh", "data:4,fsdp:2"]
            + ["--coordinator", f"127.0.0.1:{port}", "--process", str(index)],
            cwd=root,
            env=os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=4")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate()[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    runs = study_runs("wsd", corpus)
    one, *moved = nudged_workers(runs, corpus, tmp_path)
    both = Store.at(tmp_path / "two" / "wsd")
    path = one.plan.path(runs[-1].identity)
    read = lambda store: [r["loss"] for s in path for r in store.metrics(s.id)]
    first, second = read(one.store), read(both)
    assert len(first) == len(second) >= STEPS
    assert_same_trajectory(second, first, [read(worker.store) for worker in moved])
    # Only the first process writes, and each record once.
    assert all(both.done(id) is not None for id in one.plan.segments)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rows:2", "mesh: got rows:2; accepted: an axis of run, data, fsdp"),
        ("data:x", "mesh.data: got x; accepted: a positive integer"),
        ("data:3,fsdp:4", "mesh: got data:3,fsdp:4; accepted: a product of sizes of at most 8"),
    ],
)
def test_impossible_meshes_are_refused_by_name(spec, message):
    with pytest.raises(Refused) as refused:
        make_mesh(spec)
    assert message in str(refused.value)


def test_a_mesh_without_the_devices_of_some_process_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(Refused, match="got data:4; accepted: a product of sizes of 8: every proc"):
        make_mesh("data:4")
    assert make_mesh("data:4,fsdp:2").size == 8


@dataclass(frozen=True)
class Chip:
    """A chip of an absent TPU v5e slice of 16 × 16, whose hosts have 2 × 4 chips each."""

    id: int
    device_kind: ClassVar[str] = "TPU v5 lite"
    platform: ClassVar[str] = "tpu"
    core_on_chip: ClassVar[int] = 0
    slice_index: ClassVar[int] = 0

    @property
    def coords(self) -> tuple[int, int, int]:
        host, chip = divmod(self.id, 8)
        return (host % 4 * 4 + chip % 4, host // 4 * 2 + chip // 4, 0)

    @property
    def process_index(self) -> int:
        return self.id // 8


def furthest(grid: np.ndarray, axis: int) -> int:
    """Returns the most links between neighbours on an axis; the slice is a torus."""

    def links(one, other):
        steps = [abs(a - b) for a, b in zip(one.coords, other.coords, strict=True)]
        return sum(min(s, 16 - s) for s in steps)

    pairs = zip(grid.ravel(), np.roll(grid, 1, axis).ravel(), strict=True)
    return max(links(one, other) for one, other in pairs)


@pytest.mark.parametrize("shape", [(1, 16, 16, 1), (1, 256, 1, 1), (1, 4, 64, 1)])
def test_neighbours_on_an_axis_of_a_tpu_mesh_are_linked(shape):
    chips = [Chip(number) for number in range(256)]
    grid, by_number = laid_out(chips, shape), np.asarray(chips).reshape(shape)
    assert sorted(chip.id for chip in grid.ravel()) == list(range(256))
    for axis in (1, 2):
        assert furthest(grid, axis) <= min(furthest(by_number, axis), 4), axis
    if shape == (1, 16, 16, 1):
        assert [furthest(grid, axis) for axis in (1, 2)] == [1, 1]
        assert max(furthest(by_number, axis) for axis in (1, 2)) >= 8
    some = laid_out(chips[:6], (1, 6, 1, 1))  # Of a torus with a gap: by number.
    assert [chip.id for chip in some.ravel()] == list(range(6))


def test_a_width_that_fsdp_does_not_divide_is_split_elsewhere_or_told():
    config = model(width=20, ff_width=24, heads=2, head_size=8)
    mesh = make_mesh("fsdp:8")
    spec = lambda path: state_shardings(mesh, config, abstract(recipe(config))).params[path].spec
    assert spec("layers.0.attention.query") == PartitionSpec(None, "fsdp")
    assert spec("embedding.table") == PartitionSpec("fsdp", None)
    assert spec("layers.0.feed_forward.down") == PartitionSpec("fsdp", None)
    assert unsplit(mesh, config) == {}
    odd = replace(config, ff_width=20)
    assert unsplit(mesh, odd)["layers.1.feed_forward.up"] == (20, 20)
    assert unsplit(make_mesh("data:8"), odd) == {}


def test_batches_that_do_not_divide_are_refused():
    mesh = make_mesh("data:8")
    assert shards(mesh) == 8
    with pytest.raises(Refused, match="phase.batch_tokens: got 96"):
        Program(recipe=recipe(model(), study_runs_optimizer()), batch_tokens=96, mesh=mesh)


def experts(**fields):
    return model(width=32, feed_forward=Experts(8, 2, 1, granularity=4.0, **fields))


@pytest.mark.equality
def test_experts_sharded_over_four_devices_agree_with_one():
    config = experts(router="sigmoid")  # tests/models/test_moe.py has the other, for a step.
    assert_as_on_one_device("expert:4,data:2", 20, config)
    _, split = train("expert:4,data:2", 1, config)
    for path in ("layers.1.feed_forward.gate", "layers.1.feed_forward.down"):
        for array in (split.params[path], split.moments[path].mu):
            assert {s.data.shape for s in array.addressable_shards} == {(2, *array.shape[1:])}


@pytest.mark.thorough
def test_experts_are_split_over_both_axes_and_must_divide():
    config = experts()
    _, state = train("expert:2,fsdp:4", steps=1, config=config)
    array = state.params["layers.0.feed_forward.up"]
    assert {s.data.shape for s in array.addressable_shards} == {(4, 8, 16)}
    program = Program(
        recipe=recipe(config, study_runs_optimizer()), batch_tokens=768, mesh=make_mesh("expert:3")
    )
    with pytest.raises(Refused, match="mesh.expert: got 3; accepted: a divisor of the 8 experts"):
        on_mesh(program, initial(recipe(config), 0))
