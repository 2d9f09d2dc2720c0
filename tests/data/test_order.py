"""The order: permutations, shares, cursors, and one code on numpy and jax.numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import Mixture, Order, Piece, locate
from data.corpus import windows
from data.order import PERIOD, permute
from refused import Refused

UNIFORM = {"low": 1 / 3, "middle": 1 / 3, "high": 1 / 3}


def order(corpus, *pieces, seed=5):
    return Order(corpus, tuple(Piece(n, c, Mixture.of(m)) for n, c, m in pieces), seed)


def read(some: Order, piece: int) -> list[tuple[int, int]]:
    domain, window = some.locate(piece, range(some.pieces[piece].sequences))
    return list(zip(domain.tolist(), window.tolist(), strict=True))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 100, 1000, 4097])
def test_permutations_are_bijections_that_differ_by_key(n):
    x = np.arange(n, dtype=np.uint32)
    size = np.full(n, n, np.uint32)
    first, second = (np.sort(permute(x, size, np.full(n, key, np.uint32))) for key in (1, 2))
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, x)
    if n >= 64:
        one, two = (permute(x, size, np.full(n, key, np.uint32)) for key in (1, 2))
        assert (one == two).mean() < 0.1
        assert abs(np.corrcoef(x, one)[0, 1]) < 4 / np.sqrt(n)


def test_permutations_are_uniform_over_places():
    # Each of 8 elements goes to each of 8 places equally often over keys: chi-square, 49 degrees.
    keys = np.arange(20_000, dtype=np.uint32) * np.uint32(2_654_435_761)
    table = np.zeros((8, 8))
    for element in range(8):
        ends = permute(
            np.full(len(keys), element, np.uint32), np.full(len(keys), 8, np.uint32), keys
        )
        table[element] = np.bincount(ends, minlength=8)
    expected = len(keys) / 8
    assert ((table - expected) ** 2 / expected).sum() < 90


def test_no_window_repeats_before_its_domain_is_exhausted_across_mixture_changes(corpus):
    there = {n: windows(d.train_tokens, 32) for n, d in corpus.domains.items()}
    pieces = ((900, 32, UNIFORM), (900, 32, {"low": 0.8, "high": 0.2}), (900, 32, UNIFORM))
    some = order(corpus, *pieces)
    everything = [pair for piece in range(3) for pair in read(some, piece)]
    for number, name in enumerate(corpus.names):
        seen = [w for d, w in everything if d == number]
        assert max(seen) < there[name]
        for begin in range(0, len(seen), there[name]):
            epoch = seen[begin : begin + there[name]]
            assert len(set(epoch)) == len(epoch)
    assert sum(some.tokens().values()) == 2700 * 32
    counts = [sum(d == number for d, _ in everything) for number in range(3)]
    assert [c * 32 for c in counts] == list(some.tokens().values())


def test_epochs_after_the_first_are_other_permutations(corpus):
    there = windows(corpus.domains["low"].train_tokens, 32)
    some = order(corpus, (2 * there, 32, {"low": 1.0}))
    seen = [w for _, w in read(some, 0)]
    assert sorted(seen[:there]) == sorted(seen[there:]) == list(range(there))
    assert seen[:there] != seen[there:]
    assert some.epochs()["low"] == pytest.approx(2, rel=0.01)
    assert some.unique_tokens() == there * 32


@pytest.mark.parametrize("weights", [UNIFORM, {"low": 0.7, "middle": 0.2998, "high": 0.0002}])
def test_shares_hold_after_any_number_of_slots(corpus, weights):
    some = order(corpus, (3 * PERIOD, 32, weights))
    domain, _ = some.locate(0, range(3 * PERIOD))
    goal = np.array([weights[name] for name in corpus.names])
    counts = np.cumsum(domain[:, None] == np.arange(3), axis=0)
    slots = np.arange(1, 3 * PERIOD + 1)[:, None]
    assert np.abs(counts - slots * goal).max() <= 3 / 2 + 0.5


def test_a_pieces_length_changes_nothing_it_reads(corpus):
    short, long = (order(corpus, (n, 32, UNIFORM), (50, 32, UNIFORM)) for n in (100, 900))
    assert read(short, 0) == read(long, 0)[:100]
    assert read(short, 1) != read(long, 1)
    whole = order(corpus, (150, 32, UNIFORM))
    assert len(set(read(short, 0)) | set(read(short, 1))) == 150 == len(set(read(whole, 0)))


def test_seeds_and_contexts_have_their_own_permutations(corpus):
    one = order(corpus, (300, 32, UNIFORM), (300, 64, UNIFORM))
    other = order(corpus, (300, 32, UNIFORM), seed=6)
    assert read(one, 0) != read(other, 0)
    assert len(set(read(one, 1))) == 300


def test_numpy_and_jax_agree_also_stacked_over_members(corpus):
    some = [order(corpus, (500, 32, UNIFORM), (900, 32, {"low": 1.0}), seed=s) for s in range(3)]
    slots = np.arange(700, dtype=np.uint32).reshape(7, 100)
    on_device = jax.jit(lambda tables, slots: locate(tables, slots, jnp))
    for piece in (0, 1):
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(o.tables(piece) for o in some))
        mapped = jax.jit(jax.vmap(lambda t, s: locate(t, s, jnp), in_axes=(0, None)))(
            stacked, slots
        )
        for member, each in enumerate(some):
            expected = each.locate(piece, slots)
            found = on_device(jax.tree.map(jnp.asarray, each.tables(piece)), slots)
            for a, b, c in zip(expected, found, mapped, strict=True):
                assert a.dtype == b.dtype == np.uint32
                np.testing.assert_array_equal(a, b)
                np.testing.assert_array_equal(a, c[member])


def test_impossible_orders_are_refused_by_name(corpus):
    with pytest.raises(Refused, match="context: got 2000 tokens; accepted: at most 901"):
        order(corpus, (10, 2000, UNIFORM))
    with pytest.raises(Refused, match="nowhere"):
        order(corpus, (10, 32, {"nowhere": 1.0}))
    with pytest.raises(Refused, match="sequences: got -1"):
        order(corpus, (-1, 32, UNIFORM))
    with pytest.raises(Refused, match="seed: got -1"):
        order(corpus, (1, 32, UNIFORM), seed=-1)
