"""What a program needs by accounting alone: bytes on a device, and bytes that are sent."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from models import Experts, skeleton
from scaling.chips.estimate import converted, memory, near, wire
from scaling.mesh import absent_mesh, state_shardings
from scaling.stacks import shapes
from scaling.state import abstract, array_bytes
from scaling.train import Program
from tests.corpora import model, recipe

TPU = ("TPU v5 lite", "tpu")


def program(spec: str, config=None, batch: int = 2048, kind=("cpu", "cpu")) -> Program:
    mesh = absent_mesh(spec, 8, *kind)
    return Program(recipe=recipe(config or model()), batch_tokens=batch, mesh=mesh)


def test_gradients_go_round_once_and_split_arrays_three_times():
    params = 4 * sum(leaf.size for leaf in skeleton(model()).params.values())
    gains = 4 * 16 * 5  # Norms' gains are not split.
    (whole,) = wire(program("data:8")).items()
    assert whole == (("data",), pytest.approx(2 * params * 7 / 8))
    split = wire(program("fsdp:8"))
    assert split["fsdp",] == pytest.approx((3 * (params - gains) + 2 * gains) * 7 / 8)
    both = wire(program("fsdp:4,data:2"))
    assert both["fsdp",] == pytest.approx(3 * (params - gains) * 3 / 4)
    assert both["data",] == pytest.approx(2 * (params - gains) / 4 * 1 / 2)
    assert both["data", "fsdp"] == pytest.approx(2 * gains * 7 / 8)
    micro = wire(replace(program("fsdp:4,data:2"), accumulate=4))
    assert micro["fsdp",] == pytest.approx(4 * (3 * (params - gains) + 2 * gains) * 3 / 4)
    assert micro["data",] == pytest.approx(2 * ((params - gains) / 4 + gains) * 1 / 2)
    assert wire(replace(program("data:8"), accumulate=4)) == wire(program("data:8"))


def test_scanned_layers_are_kept_once_and_counted_as_they_are_split():
    config = model(depth=13, vocabulary=16)  # Parameters outweigh activations.
    layers = 4 * sum(leaf.size for p, leaf in skeleton(config).params.items() if "layers" in p)
    whole, split = (memory(program(spec, config, 256)) for spec in ("data:8", "fsdp:8"))
    less = whole.activations - split.activations
    assert 0.8 * layers < less < layers  # Their gradients; they themselves are the state's.
    assert whole.state == array_bytes(abstract(recipe(config)))
    assert whole.state / 8 < split.state < whole.state / 7


def test_stacks_on_tpus_are_counted_as_xla_counts_them_and_fit_by_what_is_there_at_once():
    config = model(depth=13, vocabulary=16, dtype="bfloat16")
    there, here = (program("fsdp:8", config, 256, kind) for kind in (TPU, ("cpu", "cpu")))
    gradients = array_bytes(abstract(there.recipe).params)
    inputs = 2 * 13 * (256 // 8) * config.width  # Of all layers, of a device's tokens.
    assert gradients / 8 < memory(there).again - inputs < gradients / 7
    assert memory(here).total == memory(here).at_once
    micro = memory(replace(program("fsdp:8", config, 512, TPU), accumulate=2))
    assert micro.again - inputs == 2 * (memory(there).again - inputs)
    matrices = [leaf for leaf in skeleton(config).params.values() if len(leaf.shape) > 1]
    layout = state_shardings(there.mesh, config, shapes(there.recipe)).params
    assert converted(there, layout) == 2 * sum(leaf.size for leaf in matrices) / 8
    assert converted(program("fsdp:8", model(depth=13)), layout) == 0


def test_a_chunk_of_logits_lies_near_on_tpus_but_not_beside_experts():
    experts = model(feed_forward=Experts(8, 2, 1, granularity=4.0))
    of = lambda config, kind: near(program("data:8", config, kind=kind))
    assert of(model(), TPU) == 112 * 2**20
    assert of(experts, TPU) == of(model(), ("cpu", "cpu")) == 0


def test_tokens_go_to_their_experts_and_back():
    config = model(feed_forward=Experts(8, 2, 1, granularity=4.0, capacity_factor=1.0))
    found = wire(program("expert:4,data:2", config))
    rows = 8 * 8 * 8  # Sequences of a device, experts, slots of a sequence.
    assert found["expert",] == pytest.approx(2 * 4 * 4 * rows * 16 * 3 / 4)


def test_split_arrays_gathered_in_bfloat16_send_half():
    full, half = (wire(program("fsdp:8", model(dtype=d))) for d in ("float32", "bfloat16"))
    split = [leaf for leaf in skeleton(model()).params.values() if leaf.fsdp is not None]
    less = 2 * 2 * sum(leaf.size for leaf in split) * 7 / 8
    assert full["fsdp",] - half["fsdp",] == pytest.approx(less)


def test_state_is_counted_as_it_is_split_and_tokens_by_row():
    state = array_bytes(abstract(recipe(model())))
    whole, split = (memory(program(spec)) for spec in ("data:8", "fsdp:8"))
    assert whole.state == state and state / 8 < split.state < state / 7
    assert whole.inputs == split.inputs == 32 * 8 * 33 * 4
    assert whole.gathered == 0 < split.gathered < state


def test_activations_grow_with_the_rows_of_a_device_and_less_under_recomputation():
    one, two = (memory(program("data:8", batch=batch)).activations for batch in (4096, 8192))
    assert one < two < 2.1 * one


def test_a_program_is_traced_for_the_devices_that_it_is_meant_for():
    config = model(context=256, dtype="bfloat16")
    scores = 2 * 2 * 256 * 256 * 4  # Of one layer, of a device's two sequences, in float32.
    here = memory(program("data:8", config, 16 * 256))
    there = memory(program("data:8", config, 16 * 256, TPU))
    assert here.activations > there.activations + 0.9 * scores
    on_gpus = memory(program("data:8", config, 16 * 256, ("NVIDIA H200", "cuda")))
    assert there.activations < on_gpus.activations < here.activations  # Without cuDNN, too.


def test_accounting_foretells_what_the_compiler_takes(uncompiled):
    program, compiled = uncompiled
    found = memory(program).total
    sizes = compiled.memory_analysis()
    taken = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    taken += sizes.temp_size_in_bytes - sizes.alias_size_in_bytes
    assert 0.9 * taken < found < 1.15 * taken


@pytest.fixture(scope="module")
def uncompiled():
    from scaling.chips.absent import lowered
    from scaling.mesh import make_mesh

    config = model(width=64, context=64)
    big = Program(recipe=recipe(config), batch_tokens=1 << 14, mesh=make_mesh("data:1"))
    assert jax.tree.leaves(abstract(big.recipe))[0].dtype == np.float32
    return big, lowered(big).compile(compiler_options={"xla_backend_optimization_level": 0})
