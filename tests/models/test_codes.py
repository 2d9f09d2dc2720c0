"""Fixed binary codes, none of them trained, and the algebra over F₂ (arXiv:2605.09751)."""

import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import ModelConfig, count, skeleton
from models.codes import CodeEmbedding, Codes, product, rank, recoding, solve
from models.embeddings import Learned
from refused import Refused
from scaling import make_mesh
from scaling.state import initial, trainable
from scaling.train import Program, advance, on_mesh
from tests.corpora import model, recipe
from tests.rounding import NUDGES, assert_same_step, assert_same_trajectory, state_nudged

RECODED = Codes(recode_seed=3)
SOME = [Codes(), Codes(signed=True), RECODED, Codes(bits=9, signed=True, recode_seed=1)]


def table(settings: Codes, vocabulary: int = 256, width: int = 16) -> np.ndarray:
    """Returns what the part gives for every token, [V, D]."""
    config = model(embedding=settings, vocabulary=vocabulary, width=width)
    return np.asarray(CodeEmbedding(config)(jnp.arange(vocabulary)[None], jnp.float32))[0]


def matrix(numbers: list[int], bits: int) -> np.ndarray:
    """Turns rows as numbers into a matrix [K, K] of 0 and 1."""
    return np.array(numbers)[:, None] >> np.arange(bits) & 1


def rms_norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def layer_norm(x: np.ndarray) -> np.ndarray:
    return rms_norm(x - x.mean(axis=-1, keepdims=True))


def distinct(x: np.ndarray) -> int:
    return len(np.unique(x.round(4), axis=0))


@pytest.mark.parametrize("bits", [1, 2, 5, 12, 16])
def test_recoding_is_a_bijection_that_its_inverse_undoes(bits):
    rows, shift = recoding(11, bits, 2**bits)
    assert rank(rows) == bits
    every = np.arange(2**bits)
    codes = (every[:, None] >> np.arange(bits) & 1) @ matrix(rows, bits).T % 2
    packed = codes @ (1 << np.arange(bits)) ^ shift
    assert (np.sort(packed) == every).all()
    for token in every[:: max(1, 2**bits // 64)].tolist():
        assert product(rows, token) ^ shift == packed[token]
        assert solve(rows, int(packed[token]) ^ shift) == token


def test_random_matrices_are_invertible_as_often_as_the_product_says():
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 2**16, (4000, 16)).tolist()
    share = np.mean([rank(rows) == 16 for rows in draws])
    assert np.prod(1 - 0.5 ** np.arange(1, 17)) == pytest.approx(0.2888, abs=1e-4)
    assert share == pytest.approx(0.2888, abs=3 * np.sqrt(0.2888 * 0.7112 / 4000))
    # Rank by elimination is that over F₂, not over the reals: this matrix has determinant 2.
    assert rank([0b011, 0b110, 0b101]) == 2


def test_the_identity_and_zero_give_the_tokens_own_bits():
    assert Codes().affine(256) == ([1, 2, 4, 8, 16, 32, 64, 128], 0)
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    np.testing.assert_array_equal(table(Codes()), np.tile(bits, 2))
    np.testing.assert_array_equal(table(Codes(signed=True)), np.tile(2 * bits - 1, 2))
    np.testing.assert_array_equal(table(Codes(scale=0.5)), 0.5 * np.tile(bits, 2))


@pytest.mark.parametrize("settings", SOME)
def test_codes_computed_where_needed_are_those_of_a_stored_table(settings):
    bits = settings.length(256)
    rows, shift = settings.affine(256)
    c = np.arange(256)[:, None] >> np.arange(bits) & 1
    stored = (c @ matrix(rows, bits).T + (shift >> np.arange(bits) & 1)) % 2
    stored = 2 * stored - 1 if settings.signed else stored
    stored = stored[:, np.arange(16) % bits]
    np.testing.assert_array_equal(table(settings), stored)
    assert len(np.unique(stored, axis=0)) == 256


def test_codes_have_no_parameters_and_no_optimizer_state():
    config, learned = model(embedding=RECODED), model()
    state = initial(recipe(config), 0)
    gone = set(initial(recipe(learned), 0).params) - set(state.params)
    assert gone == {"embedding.table"} and not state.buffers
    assert list(state.moments) == list(trainable(config)) == list(state.params)
    # What names the codes is the seed, which a run's identity and a checkpoint's record carry.
    assert model(embedding=Codes(recode_seed=4)) != config
    assert recoding(3, 8, 256) == recoding(3, 8, 256) != recoding(4, 8, 256)


def test_the_seed_gives_the_same_matrix_for_good():
    rows, shift = recoding(0, 4, 16)
    assert (rows, shift) == ([15, 1, 8, 13], 11)


@pytest.mark.parametrize("settings", [Codes(), Codes(bits=9, signed=True, recode_seed=1)])
def test_tiling_and_interleaving_differ_by_one_order_of_the_width(settings):
    tiled, side_by_side = table(settings), table(replace(settings, interleaved=True))
    bits = settings.length(256)
    order = np.argsort(np.arange(16) % bits, kind="stable")
    np.testing.assert_array_equal(side_by_side, tiled[:, order])
    # A whole model whose residual coordinates are put in that order gives the same logits.
    config = model(embedding=settings)
    params, buffers = skeleton(config).initialise(0)
    moved = {}
    for path, value in params.items():
        # Matrices that write to the residual stream end in the width, all others begin with it.
        writes = path.endswith(("attention.output", "feed_forward.down"))
        moved[path] = value[..., order] if writes else value[order]
    tokens = np.random.default_rng(0).integers(0, 256, (2, 32)).astype(np.int32)
    other = model(embedding=replace(settings, interleaved=True))
    logits = [skeleton(c).merge(p, buffers)(tokens) for c, p in ((config, params), (other, moved))]
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", [None, 5])
def test_the_first_norm_keeps_codes_apart_but_for_a_layer_norms_one_pair(signed, seed):
    settings = Codes(signed=signed, recode_seed=seed)
    codes = table(settings)
    assert distinct(rms_norm(codes)) == 256
    assert distinct(layer_norm(codes)) == 255
    first, second = settings.alike(256)
    np.testing.assert_allclose(layer_norm(codes)[[first, second]], 0, atol=1e-6)
    assert not np.array_equal(codes[first], codes[second])  # The residual stream tells them apart.


@pytest.mark.parametrize("vocabulary", [200, 253, 254, 255])
def test_constant_codes_are_kept_out_of_use_where_codes_are_left(vocabulary):
    for seed in range(8):
        settings = Codes(recode_seed=seed)
        codes = table(settings, vocabulary)
        constant = (codes == codes[:, :1]).all(axis=1).sum()
        assert constant == (1 if vocabulary == 255 else 0)
        assert settings.alike(vocabulary) is None
        assert distinct(layer_norm(codes)) == vocabulary
        assert rank(settings.affine(vocabulary)[0]) == 8
    assert Codes().alike(vocabulary) is None and Codes().alike(256) == (0, 255)
    assert Codes(bits=9, recode_seed=0).alike(256) is None


def test_a_layer_norm_over_all_codes_is_warned_of():
    after = lambda **fields: type("Config", (), {"block_norm": "layer_norm"} | fields)()
    config = dict(vocabulary=256, width=16, tied=False)
    with pytest.warns(UserWarning, match="tokens 0 and 255 .*bits=9 keeps them apart"):
        Codes().check(after(**config))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Codes(bits=9).check(after(**config))
        Codes().check(model())
    assert said == []


@pytest.mark.thorough
@pytest.mark.equality
def test_a_frozen_table_of_the_same_codes_trains_to_the_same_numbers():
    coded = model(embedding=Codes(signed=True, recode_seed=2))
    frozen = model(frozen=("embedding.*",))
    windows = np.random.default_rng(0).integers(0, 256, (6, 4, 33))

    def train(config, steps, seed=None):
        program = Program(recipe=recipe(config), batch_tokens=128, mesh=make_mesh("data:1"))
        state = initial(recipe(config), 0)
        state = state if seed is None else state_nudged(state, seed)
        if config is frozen:
            state.params["embedding.table"] = table(coded.embedding)
        rates = np.full(steps, 0.01)
        state, metrics = advance(program, on_mesh(program, state), windows[:steps], rates, 0.1)
        return dict(state.params), metrics["nll"][:steps]

    moved = [train(coded, 1, seed)[0] for seed in NUDGES]
    with_table = train(frozen, 1)[0]
    np.testing.assert_array_equal(with_table.pop("embedding.table"), table(coded.embedding))
    assert_same_step(with_table, train(coded, 1)[0], moved)
    moved = [train(coded, 6, seed)[1] for seed in NUDGES]
    assert_same_trajectory(train(frozen, 6)[1], train(coded, 6)[1], moved)
    assert "embedding.table" not in initial(recipe(frozen), 0).moments


def test_a_learned_table_starts_at_the_given_scale_and_is_the_default_otherwise():
    start = lambda config: skeleton(config).initialise(0)[0]["embedding.table"]
    np.testing.assert_array_equal(start(model(embedding=Learned())), start(model()))
    small = start(model(embedding=Learned(0.02)))
    np.testing.assert_allclose(small, 0.02 * start(model()), rtol=1e-6)


def test_the_input_tables_of_the_paper_have_their_published_counts():
    # arXiv:2605.09751, abstract and model cards: V = 65,536, width 1024, 32 layers, 12·D² a layer
    # without biases. A learned table has 67,108,864 parameters; with it 536.9M, without 469.8M.
    shape = dict(vocabulary=65_536, width=1024, depth=32, heads=32, context=1024)
    coded, learned = (
        count(ModelConfig(embedding=e, feed_forward="gelu", **shape)) for e in (Codes(), "learned")
    )
    gains = (2 * 32 + 1) * 1024  # Of the norms, which the paper's count leaves out.
    assert coded.params_total - gains == 469_762_048
    assert learned.params_total - gains == 536_870_912
    assert learned.params_total - coded.params_total == 67_108_864
    assert coded.params_non_embedding == learned.params_non_embedding == 402_653_184 + gains
    assert coded.flops_train == learned.flops_train
    assert Codes().length(65_536) == 16


def test_bits_are_as_few_as_tell_tokens_apart():
    expected = {1: 1, 2: 1, 3: 2, 256: 8, 257: 9, 4096: 12, 65_536: 16, 65_537: 17}
    assert {v: Codes().length(v) for v in expected} == expected


@pytest.mark.parametrize(
    ("settings", "fields", "message"),
    [
        (Codes(bits=7), {}, "model.vocabulary: got 256; accepted: at most 2^7 = 128"),
        (Codes(), {"width": 6}, "model.width: got 6; accepted: at least model.embedding.bits=8"),
        (Codes(), {"tied": True}, "model.tied: got True; accepted: False"),
        (Codes(bits=0), {}, "model.embedding.bits: got 0"),
        (Codes(bits=32), {"width": 64}, "model.embedding.bits: got 32"),
        (Codes(scale=0.0), {}, "model.embedding.scale: got 0.0"),
        (Codes(recode_seed=-1), {}, "model.embedding.recode_seed: got -1"),
        (Learned(0.0), {}, "model.embedding.std: got 0.0"),
    ],
)
def test_codes_that_cannot_be_are_refused_by_name(settings, fields, message):
    with pytest.raises(Refused) as refused:
        model(**{"heads": 1, "embedding": settings} | fields)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_codes_named_without_settings_are_checked_as_well():
    named = CodeEmbedding(model(embedding="codes"))
    tokens = jnp.arange(256)[None]
    np.testing.assert_array_equal(named(tokens, jnp.float32)[0], table(Codes()))
    with pytest.raises(Refused, match=r"model.tied: got True"):
        jax.eval_shape(lambda: CodeEmbedding(model(embedding="codes", tied=True)) and 0)
