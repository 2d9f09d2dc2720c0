"""Settings of a mixture of experts, and how sparse a model is by them."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax

from models.config import ModelConfig, Settings
from refused import Refused

# Score function, and the usual means of balancing that goes with it: coefficients of the
# load-balance loss and of the router z-loss, step of the selection bias. Softmax: Tian et al. 2025
# (arXiv:2507.17702, section 5.1: 0.01 and 0.001). Sigmoid: DeepSeek-V3 (arXiv:2412.19437, section
# 4.2: 0.001), without auxiliary losses.
ROUTERS = {
    "softmax": (lambda scores: jax.nn.softmax(scores, axis=-1), (0.01, 0.001, 0.0)),
    "sigmoid": (jax.nn.sigmoid, (0.0, 0.0, 0.001)),
}
BACK_ENDS = ("auto", "capacity", "dense", "ragged")


@dataclass(frozen=True)
class Experts(Settings):
    """Settings of a mixture of experts.

    Of `routed` experts E every token is sent to `active` ones (k); `shared` experts E_s serve every
    token, as one SwiGLU of E_s times an expert's width. Conventions are those of Tian et al. 2025
    (arXiv:2507.17702, section 2): activation ratio A = (k + E_s)/(E + E_s), granularity
    G = 2·width/expert width. An expert's width is given by itself or by `granularity`; without
    either it is the model's width (G = 2).

    `router` is "softmax" or "sigmoid"; both pick the k largest scores and weigh by the scores,
    divided by their sum if `renormalise` (None: where k > 1; over a single gate it would cut the
    router off from the loss). `balance` and `z_loss` are coefficients of auxiliary losses,
    `bias_rate` the step of a bias that only takes part in picking; None takes `ROUTERS`' value.

    In training an expert takes at most `capacity_factor`·k·L/E tokens of a sequence of L, earlier
    ones first: who is dropped depends neither on later tokens nor on other sequences. None drops
    nothing, and no more does a trained model that is evaluated, sampled or asked (`evaluated`).
    `back_end` says how the experts are computed, never what: "capacity" fills a buffer of slots per
    expert, "dense" computes every expert for every token, "ragged" sorts tokens by expert. The
    first `first_dense` layers have a SwiGLU of the model's `ff_width` instead.
    """

    routed: int = 8
    active: int = 2
    shared: int = 1
    expert_width: int | None = None
    granularity: float | None = None
    router: str = "softmax"
    renormalise: bool | None = None
    capacity_factor: float | None = 2.0
    back_end: str = "auto"
    first_dense: int = 0
    balance: float | None = None
    z_loss: float | None = None
    bias_rate: float | None = None

    part: ClassVar[str] = "experts"
    gated: ClassVar[bool] = True

    def check(self, config: ModelConfig) -> None:
        """Refuses what cannot be built, such as E < k or a capacity of no token."""
        wrong = lambda field, accepted: Refused(
            f"model.feed_forward.{field}", getattr(self, field), accepted
        )
        if self.routed < 1:
            raise wrong("routed", "1 or more")
        if not 1 <= self.active <= self.routed:
            raise wrong("active", f"1 to routed={self.routed}")
        if self.shared < 0:
            raise wrong("shared", "0 or more")
        if self.router not in ROUTERS:
            raise wrong("router", f"one of {', '.join(ROUTERS)}")
        if self.back_end not in BACK_ENDS:
            raise wrong("back_end", f"one of {', '.join(BACK_ENDS)}")
        if not 0 <= self.first_dense < config.depth:
            raise wrong("first_dense", f"0 to {config.depth - 1}, fewer than model.depth")
        for field in ("balance", "z_loss", "bias_rate"):
            if (getattr(self, field) or 0.0) < 0:
                raise wrong(field, "0 or more, or None")
        if self.expert_width is not None and self.granularity is not None:
            raise wrong("granularity", f"None with expert_width={self.expert_width}")
        if self.expert_width is not None and self.expert_width < 1:
            raise wrong("expert_width", "1 or more")
        if self.granularity is not None:
            exact = 2 * config.width / self.granularity if self.granularity > 0 else 0.5
            if exact != round(exact):
                raise wrong("granularity", f"a divisor of 2·model.width={2 * config.width}")
        if self.capacity_factor is not None and self.slots(config.context) < 1:
            least = self.routed / (self.active * config.context)
            accepted = f"{least:.3g} or more (one token per expert and sequence), or None"
            raise wrong("capacity_factor", accepted)

    def at(self, layer: int, depth: int) -> "str | Settings":
        """Returns a plain SwiGLU for the first layers, these settings for the others."""
        return "swiglu" if layer < self.first_dense else self

    def evaluated(self, config: ModelConfig) -> "Experts":
        """Returns the settings without a capacity, where it could drop a token.

        A capacity bounds the memory of a training step; it is no part of what was learned.
        """
        if self.slots(config.context) >= config.context:
            return self
        back_end = "dense" if self.back_end == "dense" else "ragged"
        return replace(self, capacity_factor=None, back_end=back_end)

    def width_in(self, config: ModelConfig) -> int:
        """Returns one expert's width F in a model."""
        if self.expert_width is not None:
            return self.expert_width
        return round(2 * config.width / self.granularity) if self.granularity else config.width

    def slots(self, length: int) -> int:
        """Returns how many tokens of a sequence one expert takes; all `length` without a limit."""
        if self.capacity_factor is None:
            return length
        # The small addend undoes the rounding of factors such as E/(k·L).
        wanted = math.floor(self.capacity_factor * self.active * length / self.routed + 1e-9)
        return min(length, wanted)

    def balancing(self) -> tuple[float, float, float]:
        """Returns the load-balance and z-loss coefficients and the step of the bias."""
        given = (self.balance, self.z_loss, self.bias_rate)
        usual = ROUTERS[self.router][1]
        return tuple(u if g is None else g for g, u in zip(given, usual, strict=True))

    def renormalises(self) -> bool:
        """Says whether gates are divided by their sum."""
        return self.active > 1 if self.renormalise is None else self.renormalise

    @property
    def activation_ratio(self) -> float:
        """A = (k + E_s)/(E + E_s)."""
        return (self.active + self.shared) / (self.routed + self.shared)


def sparsity(config: ModelConfig) -> dict[str, float]:
    """Returns `experts`, `activation_ratio` and `granularity` of a model's feed-forwards.

    A dense feed-forward is its own single expert: A = 1, G = 2·width/feed-forward width.
    """
    chosen = config.feed_forward
    if isinstance(chosen, Experts):
        shape = chosen.routed, chosen.activation_ratio, chosen.width_in(config)
    else:
        shape = 1, 1.0, config.inner_width
    names = ("experts", "activation_ratio", "granularity")
    return dict(zip(names, (*shape[:2], 2 * config.width / shape[2]), strict=True))
