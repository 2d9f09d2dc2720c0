"""STEM: a table in place of the up-projection (arXiv:2601.10639)."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from models import ModelConfig, Stem, count, loss, skeleton, swap_rows
from models.feed_forward import SwiGLU
from models.stem import StemFeedForward
from models.transformer import Inputs
from refused import Refused
from scaling import AdamW, ContextLength, checkpoint, make_mesh
from scaling.state import initial
from scaling.train import Program, advance, on_mesh
from tests.corpora import model, recipe
from tests.rounding import assert_same_steps
from tests.tiers import mostly

CONFIG = model(feed_forward=Stem((0, 1)))
TABLES = [f"layers.{layer}.feed_forward.table" for layer in (0, 1)]
# A tight clip: norms taken over shards alone would scale their gradients apart.
OPTIMIZER = AdamW(learning_rate=0.01, weight_decay=0.5, clip=0.1)
LLAMA = dict(  # Llama-3.2-1B with a head of its own, the published backbone (section 4).
    vocabulary=128_256, width=2048, depth=16, heads=32, kv_heads=8, head_size=64, ff_width=8192
)


@pytest.fixture(scope="module")
def params():
    return initial(recipe(CONFIG), 0).params


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(0, 256, (2, CONFIG.context)).astype(np.int32)


@pytest.fixture(scope="module")
def logits():
    return jax.jit(lambda params, tokens: skeleton(CONFIG).merge(params, {})(tokens))


def layer(width: int = 6, ff_width: int = 8, vocabulary: int = 11):
    """Returns a layer as a function of its matrices, random matrices, and their generator."""
    shape = dict(width=width, heads=1, vocabulary=vocabulary, ff_width=ff_width)
    config = model(**shape, feed_forward=Stem((0,)))

    def apply(matrices, x, tokens):
        return filled(StemFeedForward(config), matrices)(jnp.asarray(x), Inputs(tokens, None))

    rng = np.random.default_rng(0)
    shapes = {"gate": (width, ff_width), "table": (vocabulary, ff_width), "down": (ff_width, width)}
    return apply, {k: rng.standard_normal(v, np.float32) for k, v in shapes.items()}, rng


def filled(module, matrices):
    for name, value in matrices.items():
        getattr(module, name)[...] = jnp.asarray(value)
    return module


def silu(x):
    return x / (1 + np.exp(-x))


def by_hand(values, x, rows):
    return (silu(x @ values["gate"]) * rows) @ values["down"]


def test_looking_up_is_a_one_hot_product_and_repeats_add_their_gradients():
    apply, values, rng = layer()
    x = rng.standard_normal((2, 5, 6), np.float32)
    tokens = np.array([[3, 3, 7, 3, 0], [0, 7, 3, 9, 9]], np.int32)
    one_hot = np.eye(11, dtype=np.float32)[tokens]
    y, report = apply(values, x, tokens)
    np.testing.assert_allclose(y, by_hand(values, x, one_hot @ values["table"]), rtol=1e-5)
    assert report == {}
    direction = rng.standard_normal(y.shape, np.float32)
    score = lambda table: jnp.sum(apply(values | {"table": table}, x, tokens)[0] * direction)
    gradient = jax.grad(score)(values["table"])
    each = silu(x @ values["gate"]) * (direction @ values["down"].T)
    expected = np.einsum("blv,blf->vf", one_hot, each)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    # Token 3 stands at four positions: its row's gradient is the sum of theirs.
    np.testing.assert_allclose(gradient[3], each[tokens == 3].sum(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(jax.grad(score)(values["table"]), gradient)


def windows_of(symbols: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, symbols, (8, CONFIG.context + 1)).astype(np.int32)


def train(config, steps: int, windows, spec: str = "data:1", state=None):
    """Returns state and metrics after some steps on the same windows [B, L+1]."""
    program = Program(
        recipe=recipe(config, OPTIMIZER), batch_tokens=windows[:, 1:].size, mesh=make_mesh(spec)
    )
    state = initial(recipe(config), 0) if state is None else jax.tree.map(np.array, state)
    state = on_mesh(program, state)
    repeated = np.broadcast_to(windows, (steps, *windows.shape))
    state, metrics = advance(program, state, repeated, np.full(steps, 0.01), 0.5)
    return state, metrics


@pytest.mark.parametrize("lazy", mostly([True, False], [True]))
def test_rows_of_absent_tokens_have_no_gradient_and_stay_under_lazy_adam(lazy):
    config = replace(CONFIG, feed_forward=replace(CONFIG.feed_forward, lazy=lazy))
    windows = windows_of(100)
    absent = np.setdiff1d(np.arange(256), windows[:, :-1])
    present = np.unique(windows[:, :-1])
    params = initial(recipe(config), 0).params
    gradient = jax.jit(jax.grad(lambda p: loss(config, p, {}, windows)[0]))(params)
    state, _ = train(config, 3, windows)
    for path in TABLES:
        rows = np.abs(gradient[path]).sum(axis=1)
        assert (rows[absent] == 0).all() and (rows[present] > 0).all()
        moved = np.abs(np.asarray(state.params[path]) - params[path]).sum(axis=1)
        assert (moved[present] > 0).all()
        if lazy:
            assert (moved[absent] == 0).all()
            np.testing.assert_array_equal(state.moments[path].count[present], 3)
            np.testing.assert_array_equal(state.moments[path].count[absent], 0)
        else:  # Absent rows still decay: three steps of (1 − rate · decay).
            np.testing.assert_allclose(
                state.params[path][absent], 0.995**3 * params[path][absent], rtol=1e-5
            )


def test_rows_of_ones_leave_the_gate_and_rows_of_an_up_projection_give_swiglu():
    apply, values, rng = layer()
    tokens = rng.integers(0, 11, (2, 5))
    embedding = rng.standard_normal((11, 6), np.float32)
    x = embedding[tokens]  # Free of context: the same for every occurrence of a token.
    ones, _ = apply(values | {"table": np.ones((11, 8), np.float32)}, x, tokens)
    np.testing.assert_allclose(ones, by_hand(values, x, 1.0), rtol=1e-5, atol=1e-6)
    up = rng.standard_normal((6, 8), np.float32)
    dense = SwiGLU(model(width=6, heads=1, ff_width=8))
    filled(dense, {"gate": values["gate"], "up": up, "down": values["down"]})
    same, _ = apply(values | {"table": embedding @ up}, x, tokens)
    np.testing.assert_allclose(same, dense(jnp.asarray(x), None)[0], rtol=1e-4, atol=1e-5)


def test_editing_a_row_changes_nothing_before_its_token(params, tokens, logits):
    tokens = tokens.copy()
    tokens[tokens == 7] = 8
    tokens[1, 13] = tokens[1, 20] = 7
    edited = {path: x.copy() for path, x in params.items()}
    for path in TABLES:
        edited[path][7] += 1.0
    before, after = logits(params, tokens), logits(edited, tokens)
    np.testing.assert_array_equal(before[0], after[0])  # The token is absent.
    np.testing.assert_array_equal(before[1, :13], after[1, :13])
    assert (np.abs(before - after)[1, 13:].max(axis=-1) > 0).all()


@pytest.mark.equality
@pytest.mark.parametrize("spec", mostly(["fsdp:4,data:2", "fsdp:2,data:2"], ["fsdp:4,data:2"]))
def test_tables_split_by_feature_train_as_whole_ones(spec):
    windows = windows_of(256)
    whole, ours = train(CONFIG, 5, windows)
    assert (np.asarray(ours["grad_norm"])[:5] > OPTIMIZER.clip).all()
    step = lambda spec: lambda state: train(CONFIG, 1, windows, spec, state)[0]
    for state in (initial(recipe(CONFIG), 0), whole):
        assert_same_steps(step("data:1"), step(spec), state)
    split, _ = train(CONFIG, 1, windows, spec)
    parts = make_mesh(spec).shape["fsdp"]
    for path in TABLES:
        table = split.params[path]
        pieces = {}
        for shard in table.addressable_shards:
            assert shard.data.size == table.size // parts
            pieces.setdefault(str(shard.index), []).append(np.asarray(shard.data))
        assert len(pieces) == parts
        for copies in pieces.values():  # Replicas of one piece are the same, not merely close.
            assert all(np.array_equal(copies[0], other) for other in copies)


def test_a_table_whose_width_does_not_divide_is_gathered():
    config = replace(CONFIG, ff_width=46)
    with jax.set_mesh(make_mesh("fsdp:4,data:2")):
        values = jax.eval_shape(
            lambda: jax.tree.map(jnp.asarray, initial(recipe(config), 0).params)
        )
        windows = jax.ShapeDtypeStruct((8, config.context + 1), np.int32)
        nats, _ = jax.eval_shape(lambda p, w: loss(config, p, {}, w), values, windows)
    assert nats.shape == ()


def test_swapped_rows_everywhere_are_a_relabelling(params, tokens, logits):
    tokens = tokens.copy()
    tokens[0, :4] = [5, 9, 200, 5]
    a, b = (5, 200), (9, 31)
    relabelled = tokens.copy()
    for one, other in zip(a, b, strict=True):
        relabelled[tokens == one], relabelled[tokens == other] = other, one
    swapped = swap_rows(params, a, b)
    np.testing.assert_array_equal(swapped["embedding.table"], params["embedding.table"])
    assert not np.array_equal(logits(swapped, tokens), logits(params, tokens))
    rows = np.arange(256)
    rows[[5, 200, 9, 31]] = [9, 31, 5, 200]
    both = swapped | {"embedding.table": params["embedding.table"][rows]}
    np.testing.assert_array_equal(logits(both, relabelled), logits(params, tokens))
    back = swap_rows(swapped, b, a)
    assert all(np.array_equal(back[path], x) for path, x in params.items())
    single = swap_rows(params, 5, 9)
    np.testing.assert_array_equal(single[TABLES[0]][9], params[TABLES[0]][5])
    np.testing.assert_array_equal(single[TABLES[0]][5], params[TABLES[0]][9])


def test_parameters_of_the_one_billion_model_are_those_published():
    # Paper, section 4 and table 2: the dense 1B model has 1.50B parameters; STEM in a third of its
    # layers 1.41B active, and 6.75B in all, which counts the removed up-projections still.
    dense, stem = (count(ModelConfig(**LLAMA, feed_forward=f)) for f in ("swiglu", Stem()))
    assert Stem().chosen(16) == (1, 4, 7, 10, 13)
    assert round(dense.params_total / 1e6, 1) == 1498.5
    assert round(stem.params_active / 1e6, 1) == 1414.6
    assert round(stem.params_total / 1e6, 1) == 6668.0
    removed, tables = 5 * 2048 * 8192, 5 * 128_256 * 8192
    assert round((dense.params_total + tables) / 1e6, 1) == 6751.8
    assert stem.params_total == dense.params_total - removed + tables
    assert dense.params_non_embedding - stem.params_non_embedding == removed
    assert dense.flops_forward - stem.flops_forward == 2 * removed


@pytest.mark.parametrize(
    ("width", "ff_width", "heads", "saved"),
    [(1536, 8960, 12, 21.7), (3584, 18_944, 28, 23.9), (5120, 13_824, 40, 19.7)],
)
def test_saved_flops_are_those_published(width, ff_width, heads, saved):
    # Paper, table 1, for Qwen2.5 1.5B, 7B and 14B at 4,096 tokens, every layer a STEM layer. The
    # table counts attention without its causal half and as many key/value heads as heads.
    shape = dict(width=width, ff_width=ff_width, heads=heads, depth=2, context=4096)
    dense, stem = (
        count(ModelConfig(**shape, feed_forward=f)) for f in ("swiglu", Stem(layers=(0, 1)))
    )
    attention = 2 * 4.0 * width * 4096
    fraction = (dense.flops_forward - stem.flops_forward) / (dense.flops_forward_body + attention)
    assert 100 * fraction == pytest.approx(saved, abs=0.06)


def test_a_checkpoint_and_a_change_keep_tables_and_their_moments(tmp_path):
    state, _ = train(CONFIG, 2, windows_of(256))
    checkpoint.save(epath.Path(tmp_path), 2, state, {})
    found, _ = checkpoint.restore(epath.Path(tmp_path), recipe(CONFIG), make_mesh("fsdp:2,data:1"))
    change = ContextLength(64)
    longer = change.state(found, recipe(change.config(CONFIG)), 1)
    for later in (found, longer):
        for path in TABLES:
            np.testing.assert_array_equal(later.params[path], state.params[path])
            jax.tree.map(np.testing.assert_array_equal, later.moments[path], state.moments[path])


def test_the_layers_are_those_chosen_and_keep_the_width_of_the_dense_ones():
    assert Stem("half").chosen(8) == (1, 3, 5, 7)
    assert Stem("all_but_first").chosen(4) == (1, 2, 3)
    config = model(depth=4, feed_forward=Stem((3, 1)))
    assert [config.layer(i).feed_forward for i in (0, 2)] == ["swiglu"] * 2
    assert config.layer(3).feed_forward == config.feed_forward
    assert config.inner_width == config.layer(0).inner_width == model().inner_width


def test_tables_start_as_released_or_with_the_variance_of_a_dense_projection():
    wide = dict(vocabulary=512, width=64, depth=2)
    path = "layers.1.feed_forward.table"
    for init, std in (("xavier", (2 / (512 + 176)) ** 0.5), ("unit", 1.0)):
        config = model(**wide, feed_forward=Stem("half", init))
        table = skeleton(config).initialise(0, {path})[0][path]
        assert table.std() == pytest.approx(std, rel=0.01)
    dense = skeleton(model(**wide)).initialise(0)[0]["layers.1.feed_forward.up"]
    x = np.random.default_rng(0).standard_normal((512, 64))
    assert (x @ dense).std() == pytest.approx(1.0, rel=0.05)


def test_tables_are_a_group_of_their_own():
    settings = Stem("half", rate=3.0, decay=False, lazy=False)
    leaves = skeleton(model(feed_forward=settings)).params
    group = leaves["layers.1.feed_forward.table"].group
    assert (group.name, group.rate, group.decay, group.lazy) == ("stem", 3.0, False, False)
    assert Stem().group.lazy and not group.matmul
    assert leaves["layers.0.feed_forward.up"].group.name == "matrix"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Stem(width=64), "stem.width: got 64; accepted: the feed-forward's width 48"),
        (Stem((0, 2)), "stem.layers: got (0, 2); accepted: one or more different layers from 0 to"),
        (Stem((-1,)), "stem.layers: got (-1,)"),
        (Stem((1, 1)), "stem.layers: got (1, 1)"),
        (Stem(()), "stem.layers: got ()"),
        (Stem("quarter"), "stem.layers: got quarter; accepted: one of third, half, all_but_first"),
        (Stem(table_init="zero"), "stem.table_init: got zero; accepted: xavier or unit"),
        (Stem(rate=0.0), "stem.rate: got 0.0; accepted: a positive multiple"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings, message):
    with pytest.raises(Refused) as refused:
        model(feed_forward=settings)
    assert message in str(refused.value)


def test_a_single_layer_has_no_third():
    with pytest.raises(Refused, match="stem.layers: got third; .*model.depth=1"):
        model(depth=1, feed_forward=Stem())


def test_token_ids_that_a_transform_hides_are_refused():
    apply, values, rng = layer()
    x = rng.standard_normal((2, 5, 6), np.float32)
    with pytest.raises(Refused, match="inputs.tokens: got None; accepted: a token id for each"):
        apply(values, x, None)
    with pytest.raises(Refused, match=r"inputs.tokens: got shape \(1, 5\)"):
        apply(values, x, np.zeros((1, 5), np.int32))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (3, 3, "a, b: got"),
        (3, 256, "accepted: different token ids from 0 to 255"),
        ((1, 2), (3,), "b: got"),
    ],
)
def test_rows_that_cannot_be_swapped_are_refused(params, a, b, message):
    with pytest.raises(Refused) as refused:
        swap_rows(params, a, b)
    assert message in str(refused.value)


def test_swapping_without_tables_is_refused():
    with pytest.raises(Refused, match="params: got no STEM table"):
        swap_rows(initial(recipe(model()), 0).params, 1, 2)
