"""Settings of experts, and the published sizes of arXiv:2507.17702."""

from dataclasses import replace

import pytest

from models import Experts, ModelConfig, count, sparsity
from models.accounting import leverage_flops
from refused import Refused
from tests.corpora import model

D = 16


def ling_mini_beta(**fields) -> ModelConfig:
    # Tian et al. 2025 (arXiv:2507.17702), section 5.2 and table 1.
    experts = Experts(384, 12, 1, expert_width=384, first_dense=1)
    shape = dict(width=2048, depth=20, heads=16, kv_heads=4, ff_width=5120, context=8192)
    return ModelConfig(**shape | {"vocabulary": 126_464, "feed_forward": experts} | fields)


def dense_6b() -> ModelConfig:
    shape = dict(width=4096, depth=28, heads=32, kv_heads=8, ff_width=14_336, context=8192)
    return ModelConfig(vocabulary=126_464, **shape)


def test_sizes_are_those_of_ling_mini_beta_and_its_dense_peer():
    # 17.5B with 0.85B active, against 6.1B, less the norms' gains, which are not counted there:
    # attention d²(2 + 2/(heads/kv)), router d·E, experts 3·d·d_expert, over 19 of 20 layers.
    gains = lambda config: (2 * config.depth + 1) * config.width
    mixture, dense = count(ling_mini_beta()), count(dense_6b())
    everywhere = 20 * 2048**2 * 5 // 2 + 3 * 2048 * 5120 + 19 * 2048 * 384
    expert = 19 * 3 * 2048 * 384
    total = mixture.params_non_embedding - gains(ling_mini_beta())
    assert total == everywhere + 385 * expert == 17_514_364_928
    active = mixture.params_active - 2 * 126_464 * 2048 - gains(ling_mini_beta())
    assert active == everywhere + 13 * expert == 838_860_800
    found = dense.params_non_embedding - gains(dense_6b())
    assert found == 28 * (4096**2 * 5 // 2 + 3 * 4096 * 14_336) == 6_106_906_624
    assert sparsity(ling_mini_beta()) == {
        "experts": 384,
        "activation_ratio": 13 / 385,
        "granularity": pytest.approx(2 * 2048 / 384),
    }


def test_flops_in_the_published_convention_are_those_of_the_paper():
    # 1T tokens cost 8.3e21 FLOPs without the head and 9.9e21 with it; at a context of 8,192 the
    # dense model takes 5.3 times the FLOPs per token.
    mixture, dense = leverage_flops(ling_mini_beta()), leverage_flops(dense_6b())
    assert mixture * 1e12 == pytest.approx(8.34e21, rel=1e-3)
    assert leverage_flops(ling_mini_beta(), head=True) * 1e12 == pytest.approx(9.90e21, rel=1e-3)
    assert dense / mixture == pytest.approx(5.32, rel=1e-3)
    with pytest.raises(Refused, match="model.feed_forward: got gelu"):
        leverage_flops(model(feed_forward="gelu"))


def test_all_experts_active_cost_what_a_dense_feed_forward_does():
    full = model(feed_forward=Experts(4, 4, 0, expert_width=12))
    dense = model(ff_width=48)
    router = 2 * 2 * D * 4
    assert count(full).flops_forward - router == count(dense).flops_forward
    assert leverage_flops(full) == leverage_flops(dense)


def test_flops_do_not_depend_on_the_number_of_experts_but_bytes_do():
    costs = [count(model(feed_forward=Experts(e, 2, 1))) for e in (4, 8, 12)]
    per_expert = 3 * D * D
    for few, more in zip(costs, costs[1:], strict=False):
        assert more.flops_forward - few.flops_forward == 2 * (2 * D * 4)  # The router alone.
        assert more.params_active - few.params_active == 2 * D * 4
        assert more.bytes - few.bytes == 4 * 2 * 4 * (per_expert + D)


def test_a_trained_model_is_read_without_its_capacity():
    limited = model(feed_forward=Experts(8, 2, 0, capacity_factor=1.0))
    assert limited.evaluated.feed_forward == Experts(
        8, 2, 0, capacity_factor=None, back_end="ragged"
    )
    assert limited.evaluated.evaluated == limited.evaluated
    # Where nothing can be dropped, nothing changes.
    for free in (model(), model(feed_forward=Experts(4, 2, capacity_factor=2.0))):
        assert free.evaluated == free
    oracle = model(feed_forward=Experts(8, 2, 0, back_end="dense"))
    assert oracle.evaluated.feed_forward.back_end == "dense"


def test_freezing_experts_saves_the_gradients_of_the_active_ones():
    config = model(feed_forward=Experts(8, 2, 1, expert_width=12))
    frozen = replace(config, frozen=("layers.*.feed_forward.down",))
    saved = count(config).flops_train - count(frozen).flops_train
    assert saved == pytest.approx(2 * 2 * 2 * 12 * D)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Experts(2, 3), "model.feed_forward.active: got 3; accepted: 1 to routed=2"),
        (
            Experts(64, 1, capacity_factor=0.5),
            "model.feed_forward.capacity_factor: got 0.5; accepted: 2 or more",
        ),
        (Experts(capacity_factor=0.0), "model.feed_forward.capacity_factor: got 0.0"),
        (Experts(routed=0, active=0), "model.feed_forward.routed: got 0"),
        (Experts(router="hash"), "model.feed_forward.router: got hash; accepted: one of softmax"),
        (Experts(back_end="gpu"), "model.feed_forward.back_end: got gpu"),
        (Experts(granularity=3.0), "model.feed_forward.granularity: got 3.0; accepted: a divisor"),
        (Experts(granularity=2.0, expert_width=8), "model.feed_forward.granularity: got 2.0"),
        (Experts(first_dense=2), "model.feed_forward.first_dense: got 2; accepted: 0 to 1"),
        (Experts(balance=-1.0), "model.feed_forward.balance: got -1.0"),
    ],
)
def test_impossible_experts_are_refused_by_name(settings, message):
    with pytest.raises(Refused) as refused:
        model(feed_forward=settings)
    assert message in str(refused.value) and "\n" not in str(refused.value)
