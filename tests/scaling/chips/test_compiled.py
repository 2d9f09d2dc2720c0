"""What a compiled program does: products, bytes and exchanges; and that meshes divide the work."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec

from models import Experts, ModelConfig, ParameterTokens
from models.embeddings import cross_entropy
from refused import Refused
from scaling.chips.absent import lowered
from scaling.chips.compiled import Account, account, meetings
from scaling.chips.estimate import wire
from scaling.mesh import make_mesh
from scaling.train import Program
from tests.corpora import model, recipe, tokenformer
from tests.scaling.chips import old_loss
from tests.zoo import CONFIGS

BATCH = 2048
# What is read is the same without the back end's optimisations, which take half of the time.
QUICK = {"xla_backend_optimization_level": 0}

MESHES = ("data:8", "fsdp:8", "fsdp:4,data:2", "expert:4,data:2")
MODELS = {
    "baseline": model(),
    "experts": model(feed_forward=Experts(8, 2, 1, granularity=4.0, capacity_factor=1.5)),
    "stem": CONFIGS["stem"],
    "tokenformer": tokenformer(attention=ParameterTokens(16)),
}
# Every other part meets one mesh, so that each mesh meets six parts at least.
OTHERS = {
    "data:8": ("gelu", "streams_neutral"),
    "fsdp:8": ("codes", "grouped"),
    "fsdp:4,data:2": ("tied", "quantised"),
    "expert:4,data:2": ("experts_bias", "documents"),
}
CASES = [(name, spec) for spec in MESHES for name in (*MODELS, *OTHERS[spec])]


def program(config: ModelConfig, spec: str) -> Program:
    return Program(recipe=recipe(config), batch_tokens=BATCH, mesh=make_mesh(spec))


def compiled(config: ModelConfig, spec: str) -> Account:
    text = lowered(program(config, spec)).compile(compiler_options=QUICK).as_text()
    return account(text, make_mesh(spec))


@functools.cache
def alone(config: ModelConfig) -> float:
    """FLOPs of a step on one device."""
    return compiled(config, "data:1").flops


@pytest.fixture
def uncached():
    """Compiles anew: a program from the cache would not warn."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.mark.parametrize(("name", "spec"), CASES)
def test_a_mesh_divides_the_work_and_sends_what_it_must(name, spec, capfd, uncached):
    config = MODELS.get(name) or CONFIGS[name]
    found = compiled(config, spec)
    assert "nvoluntary full rematerialization" not in capfd.readouterr().err
    assert found.flops == pytest.approx(alone(config) / 8, rel=0.1)
    least = BATCH * min(config.width, config.vocabulary)
    large = [one for one in found.collectives if max(a.size for a in one.arrays) >= least]
    assert large == []
    sent, formula = found.wire, sum(wire(program(config, spec)).values())
    assert sent <= 1.3 * formula


def loss_alone(cross_entropy, spec: str) -> Account:
    """Reads value and gradient of a loss over 256 rows in pieces of 32, in a loop."""
    mesh = make_mesh(spec)
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp", "expert")))
    shaped = lambda *args: jax.ShapeDtypeStruct(args[0], args[1], sharding=args[2])
    x = shaped((16, 16, 8), jnp.float32, split)
    kernel = shaped((8, 96), jnp.float32, NamedSharding(mesh, PartitionSpec()))
    targets = shaped((16, 16), jnp.int32, split)
    rows = 32 // (8 if spec == "data:8" and cross_entropy is new_loss else 1)
    total = lambda x, kernel, targets: jnp.mean(cross_entropy(x, kernel, targets, rows * 96))
    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.value_and_grad(total, argnums=(0, 1))).lower(x, kernel, targets)
        return account(lowered.compile(compiler_options=QUICK).as_text(), mesh)


def new_loss(x, kernel, targets, largest):
    return cross_entropy(x, kernel, targets, largest)[0]


def test_the_loss_that_ran_whole_on_every_device_is_found_out():
    head = 2 * 256 * 8 * 96  # One product of all rows with the matrix; four are taken.
    one, eight = (loss_alone(old_loss.cross_entropy, spec) for spec in ("data:1", "data:8"))
    assert one.flops == eight.flops == 4 * head  # Eight times a device's share.
    # Its own two; another emitter makes a loop of the rows that a gather takes.
    assert all(sorted(found.loops.values())[:2] == [8, 8] for found in (one, eight))
    mended = loss_alone(new_loss, "data:8")
    assert mended.flops == 4 * head / 8 and 8 in mended.loops.values()


def text_of(f, *shapes) -> str:
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(f).lower(*given).compile().as_text()


def test_a_loops_body_counts_as_often_as_it_runs():
    inner = lambda x, w: jax.lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ w), x)
    f = lambda x, w: jax.lax.fori_loop(0, 5, lambda i, x: inner(x, w), x)
    found = account(text_of(f, (4, 8), (8, 8)), make_mesh("data:1"))
    assert found.flops == 15 * 2 * 4 * 8 * 8
    assert sorted(found.loops.values()) == [3, 5]
    once = account(text_of(lambda x, w: jnp.tanh(x @ w), (4, 8), (8, 8)), make_mesh("data:1"))
    assert once.bytes >= 4 * (4 * 8 + 8 * 8 + 4 * 8)
    assert found.bytes >= 15 * 4 * (4 * 8 + 8 * 8 + 4 * 8)


def test_a_loop_that_the_text_does_not_count_is_refused_but_for_one_over_steps():
    def until(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

    found = account(text_of(until, (4, 4)), make_mesh("data:1"))
    assert found.flops == 2 * 4**3 and list(found.loops.values()) == [1]
    inside = lambda x: jax.lax.fori_loop(0, 3, lambda i, x: until(x), x)
    with pytest.raises(Refused, match="accepted: a loop whose trip count the compiled text gives"):
        account(text_of(inside, (4, 4)), make_mesh("data:1"))


def test_a_slice_of_a_large_array_moves_its_own_bytes():
    f = lambda x, i: jax.lax.dynamic_index_in_dim(x, i.astype(int)[0], keepdims=False) * 2
    found = account(text_of(f, (1000, 64), (1,)), make_mesh("data:1"))
    assert 2 * 4 * 64 <= found.bytes < 4000


CONVOLUTION = """HloModule m

ENTRY %main (a: bf16[2,3,8], b: bf16[2,4,8]) -> bf16[2,3,4] {
  %a = bf16[2,3,8]{2,1,0} parameter(0)
  %b = bf16[2,4,8]{2,1,0} parameter(1)
  ROOT %c = bf16[2,3,4]{2,1,0} convolution(%a, %b), window={WINDOW}, dim_labels=0bf_0oi->0bf
}
"""


@pytest.mark.parametrize(
    ("window", "left", "right"),
    [
        # Two products as TPU text writes them: a stack; stacked factors of one; one factor of both.
        ("size=2 stride=1 pad=1_1 lhs_dilate=2", 2, 2),
        ("size=2 pad=1_1 rhs_reversal=1", 1, 2),
        ("size=1", 2, 1),
    ],
)
def test_a_convolution_counts_where_its_window_meets_elements(window, left, right):
    text = CONVOLUTION.replace("{WINDOW}", "{" + window + "}")
    text = text.replace("bf16[2,3,8]", f"bf16[{left},3,8]")
    text = text.replace("bf16[2,4,8]", f"bf16[{right},4,8]")
    assert account(text, make_mesh("data:1")).flops == 2 * 2 * 3 * 4 * 8


def test_padding_and_holes_meet_nothing():
    assert meetings(4, 3, 4, 1, 1, 1, 1) == 10  # 3 at each place, less one at either end.
    assert meetings(2, 2, 2, 1, 2, 1, 0) == 2  # Every second element is a hole.


TPU = """HloModule m

%started (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  %g = f32[64]{0} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8], chain_id="3"
  ROOT %s = f32[64]{0:S(1)} custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%ended (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  %g = f32[64]{0} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8], chain_id="3"
  ROOT %s = f32[64]{0:S(1)} custom-call(%g), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (a: f32[8], b: f32[16]) -> f32[64] {
  %a = f32[8]{0} parameter(0)
  %b = f32[16]{0} parameter(1)
  %start = (f32[16]{0:S(1)}, f32[16]{0}, u32[]{:S(2)}) copy-start(%b)
  %done = f32[16]{0:S(1)} copy-done(%start)
  %near = f32[16]{0:S(1)} negate(%done)
  %room = f32[512]{0} custom-call(), custom_call_target="AllocateBuffer"
  %part = ((f32[16]{0}), f32[4]{0:S(1)}, s32[]{:S(2)}) slice-start(%b), slice={[4:8]}
  %taken = f32[4]{0:S(1)} slice-done(%part)
  %x = f32[64]{0:S(1)} fusion(%a), kind=kCustom, calls=%started
  ROOT %y = f32[64]{0:S(1)} fusion(%a), kind=kCustom, calls=%ended
}
"""


def test_an_exchange_that_is_split_over_fusions_counts_once_and_near_memory_not_at_all():
    found = account(TPU, make_mesh("data:8"))
    assert [(one.kind, one.wire) for one in found.collectives] == [("all-gather", 32 * 7)]
    # The copy reads 16 numbers and the slice 4; room for more is not written; all else is near.
    assert found.bytes == 64 + 16
