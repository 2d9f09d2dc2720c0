"""What a model is: one frozen dataclass for every architecture of the zoo."""

from dataclasses import dataclass, replace
from typing import ClassVar

from refused import Refused


class Settings:
    """What a part with choices of its own is told: a frozen dataclass in the part's file.

    `part` is the part's name in `models.transformer.PARTS`. `gated` says that a feed-forward has
    three matrices, which sets its usual width.
    """

    part: ClassVar[str]
    gated: ClassVar[bool] = False

    def check(self, config: "ModelConfig") -> None:
        """Raises `Refused` where the settings do not fit the rest of the model."""

    def at(self, layer: int, depth: int) -> "str | Settings":
        """Returns what fills the place in one layer: these settings, or another part."""
        return self

    def evaluated(self, config: "ModelConfig") -> "Settings":
        """Returns the settings with which a trained model is read: without training's limits."""
        return self


PLACES = ("embedding", "attention", "feed_forward")


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a decoder-only Transformer.

    Sizes are counts, `context` is in tokens. `embedding`, `attention` and `feed_forward` say which
    part fills each place: a name in `models.transformer.PARTS` or the part's `Settings`.
    `streams` runs the layers as several streams (`models.parscale.Streams`); one is none.
    `block_norm` is "rms_norm", with a gain everywhere, or "layer_norm", without parameters in the
    blocks and with gain and bias before the head.
    `qkv_bias` gives queries, keys and values a bias each, as Qwen2's (arXiv:2407.10671, section
    2.2.1).
    `separator` is the token that opens a document: when given, attention does not cross documents.
    `frozen` lists path patterns (`fnmatch`) of parameters that are not trained. `dtype` is the type
    that matrix products are computed in; parameters are always kept in float32. `quantization`
    (`models.quantize.Quantization`) says which of them the forward pass reads at few bits.

    Raises:
      Refused: a size that is not positive, or sizes that do not fit together.
    """

    vocabulary: int = 256
    width: int = 64
    depth: int = 2
    heads: int = 2
    kv_heads: int | None = None
    head_size: int | None = None
    ff_width: int | None = None
    context: int = 64
    embedding: str | Settings = "learned"
    attention: str | Settings = "softmax"
    feed_forward: str | Settings = "swiglu"
    tied: bool = False
    block_norm: str = "rms_norm"
    qk_norm: bool = False
    qkv_bias: bool = False
    rope_base: float = 10_000.0  # Su et al. 2021 (RoFormer), section 3.2.2.
    norm_epsilon: float = 1e-6
    separator: int | None = None
    z_loss: float = 0.0
    dtype: str = "float32"
    frozen: tuple[str, ...] = ()
    streams: Settings | None = None
    quantization: object | None = None

    def __post_init__(self):
        for field in ("vocabulary", "width", "depth", "heads", "context"):
            if getattr(self, field) < 1:
                raise Refused(f"model.{field}", getattr(self, field), "1 or more")
        if self.head_size is None and self.width % self.heads:
            accepted = f"a divisor of model.width={self.width} (or any, with model.head_size)"
            raise Refused("model.heads", self.heads, accepted)
        if self.heads % self.group_heads:
            raise Refused("model.kv_heads", self.kv_heads, f"a divisor of model.heads={self.heads}")
        if self.key_size % 2:
            raise Refused("model.head_size", self.key_size, "an even number (rotary positions)")
        if self.dtype not in ("float32", "bfloat16"):
            raise Refused("model.dtype", self.dtype, "float32 or bfloat16")
        if self.block_norm not in ("rms_norm", "layer_norm"):
            raise Refused("model.block_norm", self.block_norm, "rms_norm or layer_norm")
        if self.qkv_bias and self.attention != "softmax":
            raise Refused("model.qkv_bias", True, "false, or model.attention='softmax'")
        for place in PLACES:
            if isinstance(getattr(self, place), Settings):
                getattr(self, place).check(self)
        if self.streams is not None and self.streams.count == 1:
            object.__setattr__(self, "streams", None)  # One stream is the backbone itself.

    def layer(self, index: int) -> "ModelConfig":
        """Returns the configuration of one layer, with what its settings choose per layer."""
        chosen = {
            place: getattr(self, place).at(index, self.depth)
            for place in PLACES[1:]
            if isinstance(getattr(self, place), Settings)
        }
        return replace(self, **chosen) if chosen else self

    @property
    def evaluated(self) -> "ModelConfig":
        """The configuration with which a trained model is evaluated, sampled and asked."""
        chosen = {
            place: getattr(self, place).evaluated(self)
            for place in PLACES
            if isinstance(getattr(self, place), Settings)
        }
        return replace(self, **chosen) if chosen else self

    @property
    def key_size(self) -> int:
        """Size K of one attention head."""
        return self.head_size or self.width // self.heads

    @property
    def group_heads(self) -> int:
        """Number G of key/value heads (grouped-query attention; Ainslie et al. 2023)."""
        return self.kv_heads or self.heads

    @property
    def stream_count(self) -> int:
        """Number P of streams."""
        return 1 if self.streams is None else self.streams.count

    @property
    def inner_width(self) -> int:
        """Width F of the feed-forward: as given, or the usual ratio of its kind.

        A gated unit has three matrices, so 8/3 of the width keeps the parameters of a plain unit
        with 4 (Shazeer 2020, arXiv:2002.05202, section 3); rounded up to a multiple of 8.
        """
        if self.ff_width is not None:
            return self.ff_width
        if self.feed_forward == "swiglu" or getattr(self.feed_forward, "gated", False):
            return -(-self.width * 8 // 3 // 8) * 8
        return 4 * self.width
