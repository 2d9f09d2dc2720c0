"""STEM: a feed-forward whose up-projection is a table of one row per input token (2601.10639)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from models.config import ModelConfig, Settings
from models.embeddings import looked_up
from models.feed_forward import residual
from models.parts import Count, Group, normal, parameter, project
from models.placement import by_device, split_axes
from refused import Refused

# Every so many layers from the second on. The released code's default is all but the first, its
# example for "half" is layers 1, 3, 5, 7 of 8; the published 1B model's count of parameters needs
# 5 of 16 layers, and its figures show layers 7 and 13: every third from layer 1.
STRIDES = {"third": 3, "half": 2, "all_but_first": 1}


@dataclass(frozen=True)
class Stem(Settings):
    """Which layers read a table in place of the up-projection, and how the tables are trained.

    `layers` is "third" (1, 4, 7, …), "half" (1, 3, 5, …), "all_but_first", or the layers' indices;
    the other layers are SwiGLU. `table_init` is "xavier", normal with variance 2/(V + F) as in the
    released code, or "unit", variance 1, that of a dense up-projection's output at the start.
    `lazy` moves only the rows that the batch reads (`scaling.optimizers.rule.by_row`); without it
    Adam moves all rows, as released. `rate` multiplies the learning rate of the tables, `decay`
    says whether they decay. `width` is the tables' width if it should be checked; it must be that
    of the feed-forward. Released code clips the tables' gradient apart from the others'; here one
    global norm clips both.
    """

    part: ClassVar[str] = "stem"
    gated: ClassVar[bool] = True

    layers: str | tuple[int, ...] = "third"
    table_init: str = "xavier"
    lazy: bool = True
    rate: float = 1.0
    decay: bool = True
    width: int | None = None

    def check(self, config: ModelConfig) -> None:
        """Raises `Refused`: unknown choices, layers out of range, another width than F."""
        depth, inner = config.depth, config.inner_width
        if isinstance(self.layers, str) and self.layers not in STRIDES:
            accepted = f"one of {', '.join(STRIDES)}, or a tuple of layers"
            raise Refused("stem.layers", self.layers, accepted)
        chosen = self.chosen(depth)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(depth)):
            accepted = f"one or more different layers from 0 to {depth - 1}"
            raise Refused("stem.layers", self.layers, f"{accepted} (model.depth={depth})")
        if self.table_init not in ("xavier", "unit"):
            raise Refused("stem.table_init", self.table_init, "xavier or unit")
        if self.width not in (None, inner):
            accepted = f"the feed-forward's width {inner} (model.ff_width), which gates it"
            raise Refused("stem.width", self.width, accepted)
        if not self.rate > 0:
            raise Refused("stem.rate", self.rate, "a positive multiple of the learning rate")

    def chosen(self, depth: int) -> tuple[int, ...]:
        """Returns the layers that have a table."""
        if isinstance(self.layers, str):
            return tuple(range(1, depth, STRIDES[self.layers]))
        return tuple(self.layers)

    def at(self, layer: int, depth: int) -> "str | Stem":
        """Returns these settings at the layers chosen, "swiglu" elsewhere."""
        return self if layer in self.chosen(depth) else "swiglu"

    @property
    def group(self) -> Group:
        """How the tables are trained."""
        return Group("stem", self.rate, self.decay, self.lazy)


class StemFeedForward(nnx.Module):
    """W_down(SiLU(W_gate x) ⊙ U[t]) with t the position's input token (2601.10639, eq. 4)."""

    def __init__(self, config: ModelConfig):
        width, inner, settings = config.width, config.inner_width, config.feed_forward
        rows = config.vocabulary
        std = (2 / (rows + inner)) ** 0.5 if settings.table_init == "xavier" else 1.0
        self.gate = parameter((width, inner), normal(width**-0.5), fsdp=0)
        # Split along the features, so that every device looks its own share of each row up.
        self.table = parameter((rows, inner), normal(std), settings.group, fsdp=1)
        self.down = parameter((inner, width), residual(inner, config.depth), fsdp=1)

    def __call__(self, x: Float[Array, "B L D"], inputs) -> tuple[Float[Array, "B L D"], dict]:
        tokens = inputs.tokens
        if tokens is None or tokens.shape != x.shape[:-1]:
            found = None if tokens is None else f"shape {tokens.shape}"
            accepted = f"a token id for each of the positions {x.shape[:-1]}: STEM looks rows up"
            raise Refused("inputs.tokens", found, accepted)
        # Rows are taken before they are rounded: gradients of a repeated token add in float32.
        rows = exchanged(self.table[...], tokens).astype(x.dtype)
        return project(jax.nn.silu(project(x, self.gate)) * rows, self.down), {}

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts one layer: two matrices that every token multiplies by, and a table.

        A token reads one row of the table without a matrix product, so a row is active, and the
        table counts with the token tables: `params_non_embedding` stays what FLOPs and capacity
        per token follow, and a law that wants the tables reads `params_total`.
        """
        rows, inner = config.vocabulary, config.inner_width
        table = Count(params=rows * inner, embedding=rows * inner, active=inner)
        return Count.dense(2 * config.width * inner) + table


def exchanged(table: Float[Array, "V F"], tokens: Int[Array, "B L"]) -> Float[Array, "B L F"]:
    """Looks tokens' rows up in a table that is split by feature over the mesh's `fsdp` axis.

    Every device looks its share of the features up for the sequences of all its `fsdp` group; one
    all-to-all then brings each device its own sequences' whole rows, as in the released code. A
    table whose width the axis does not divide (`scaling.mesh.fsdp_dimension`) is gathered.
    """
    axes = split_axes()
    if "fsdp" not in axes or table.shape[1] % jax.sharding.get_abstract_mesh().shape["fsdp"]:
        return looked_up(table, tokens)

    def own(table, tokens):
        tokens = jax.lax.all_gather(tokens, "fsdp", tiled=True)
        return jax.lax.all_to_all(jnp.take(table, tokens, axis=0), "fsdp", 0, 2, tiled=True)

    split = PartitionSpec(axes)
    specs = (PartitionSpec(None, "fsdp"), split)
    return by_device(own, specs, split)(table, tokens)


def swap_rows(
    params: Mapping[str, Array], a: int | Sequence[int], b: int | Sequence[int]
) -> dict[str, Array]:
    """Exchanges rows `a` and `b` of every STEM table, and of nothing else.

    Afterwards the model reads token a as b in its tables though the text is unchanged, which is
    how facts are edited (2601.10639, section 3.5). `a` and `b` are token ids, or as many of each
    for names of several tokens. Returns new parameters by path; the given ones stay as they are.

    Raises:
      Refused: no STEM tables, or ids that are repeated, out of range or not as many.
    """
    tables = [path for path in params if path.endswith(".feed_forward.table")]
    if not tables:
        raise Refused("params", "no STEM table", "parameters of a model with feed_forward=Stem()")
    a, b = np.atleast_1d(a), np.atleast_1d(b)
    rows = params[tables[0]].shape[0]
    if a.shape != b.shape or a.ndim != 1:
        raise Refused("b", b.tolist(), f"as many token ids as a={a.tolist()}")
    both = np.concatenate([a, b])
    if len(set(both.tolist())) < len(both) or not ((both >= 0) & (both < rows)).all():
        raise Refused("a, b", both.tolist(), f"different token ids from 0 to {rows - 1}")
    order = np.arange(rows)
    order[a], order[b] = b, a
    return {path: x[order] if path in tables else x for path, x in params.items()}
