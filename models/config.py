"""What a model is: one frozen dataclass for every architecture of the zoo."""

from dataclasses import dataclass


class Refused(ValueError):
    """A configuration that cannot be built: one line with field, value and what is accepted."""

    def __init__(self, field: str, value: object, accepted: str):
        super().__init__(f"{field}: got {value}; accepted: {accepted}")


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a decoder-only Transformer.

    Sizes are counts, `context` is in tokens. `feed_forward`, `embedding` and `attention` name the
    part that fills each place (`models.transformer.PARTS`). `separator` is the token that opens a
    document: when given, attention does not cross documents. `frozen` lists path patterns
    (`fnmatch`) of parameters that are not trained. `dtype` is the type that matrix products are
    computed in; parameters are always kept in float32.

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
    embedding: str = "learned"
    attention: str = "softmax"
    feed_forward: str = "swiglu"
    tied: bool = False
    qk_norm: bool = False
    rope_base: float = 10_000.0  # Su et al. 2021 (RoFormer), section 3.2.2.
    norm_epsilon: float = 1e-6
    separator: int | None = None
    z_loss: float = 0.0
    dtype: str = "float32"
    frozen: tuple[str, ...] = ()

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

    @property
    def key_size(self) -> int:
        """Size K of one attention head."""
        return self.head_size or self.width // self.heads

    @property
    def group_heads(self) -> int:
        """Number G of key/value heads (grouped-query attention; Ainslie et al. 2023)."""
        return self.kv_heads or self.heads

    @property
    def inner_width(self) -> int:
        """Width F of the feed-forward: as given, or the usual ratio of its kind.

        A gated unit has three matrices, so 8/3 of the width keeps the parameters of a plain unit
        with 4 (Shazeer 2020, arXiv:2002.05202, section 3); rounded up to a multiple of 8.
        """
        if self.ff_width is not None:
            return self.ff_width
        if self.feed_forward == "swiglu":
            return -(-self.width * 8 // 3 // 8) * 8
        return 4 * self.width
