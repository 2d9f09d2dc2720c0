"""Growth of TokenFormer models by more parameter tokens (Wang et al. 2024, arXiv:2410.23168)."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from models import ModelConfig, ParameterTokens, skeleton
from models.tokenformer import TAUS
from models.transformer import stream
from refused import Refused
from scaling.recipe import Recipe
from scaling.state import State, abstract, fresh, fresh_averages


@dataclass(frozen=True)
class GrowParameterTokens:
    """Adds parameter tokens to every layer, after those that are there (eq. 11).

    `attention_rows` and `feed_forward_rows` are the numbers of rows afterwards; None leaves a place
    alone. New value rows are drawn at random. New key rows are zero (`new` "zero": no logit changes
    where τ is kept and the norm is no softmax; section 3.3) or random ("random", with which the
    published models were grown; section 4.1). `tau` changes the rule for τ ("rows": √n of the new
    n, as in the released code); None keeps it.

    Old rows keep their bits and their moments, new rows get zero moments; with
    `Phase(keep_optimizer=False)` all moments and step counts restart, as published. A grown leaf
    keeps its step count: bias correction stays right for the old rows, whose next step is that of
    the model that was not grown. On new rows, t steps after growth, Adam's step is then
    (1 − b1^t)/√(1 − b2^t) of a corrected one (0.7 to 1.5 at b1 0.9 and b2 0.98), which tends to 1;
    a restarted count would multiply the first steps of the old rows instead, by the inverse.
    """

    attention_rows: int | None = None
    feed_forward_rows: int | None = None
    new: str = "zero"
    tau: str | None = None

    def __post_init__(self):
        if self.new not in ("zero", "random"):
            raise Refused("grow.new", self.new, "zero or random")
        if self.tau not in (None, *TAUS):
            raise Refused("grow.tau", self.tau, f"one of {', '.join(TAUS)}, or None to keep it")

    def config(self, model: ModelConfig) -> ModelConfig:
        """Returns the grown configuration.

        Raises:
          Refused: fewer rows than there are, a place that no parameter tokens fill, or a quantised
            model, whose scales would have to grow as well.
        """
        if model.quantization is not None:
            accepted = "a model at full precision: grow first, quantise then"
            raise Refused("grow", f"a model at {model.quantization.bits} bits", accepted)
        grown = {}
        for place in ("attention", "feed_forward"):
            rows, settings = getattr(self, f"{place}_rows"), getattr(model, place)
            if rows is None:
                continue
            if not isinstance(settings, ParameterTokens):
                accepted = f"None, or a model whose {place} is ParameterTokens"
                raise Refused(f"grow.{place}_rows", rows, accepted)
            if rows < settings.rows:
                accepted = f"{settings.rows} or more: growth keeps every row"
                raise Refused(f"grow.{place}_rows", rows, accepted)
            grown[place] = settings.grown(rows, self.tau)
        if not grown:
            raise Refused("grow", "no rows", "attention_rows or feed_forward_rows, or both")
        return replace(model, **grown)

    def state(self, state: State, after: Recipe, seed: int) -> State:
        """Appends the new rows to parameters, moments and averages."""
        params = dict(state.params)
        for path, leaf in skeleton(after.model).params.items():
            old = params[path]
            if old.shape == leaf.shape:
                continue
            axis = next(i for i, size in enumerate(old.shape) if size != leaf.shape[i])
            shape = list(leaf.shape)
            shape[axis] -= old.shape[axis]
            if self.new == "zero" and path.endswith(".keys"):
                rows = np.zeros(shape, np.float32)
            else:
                # A stream of their own: the leaf's would repeat the draws of its old rows.
                rows = leaf.init.draw(stream(seed, f"{path}+{old.shape[axis]}"), tuple(shape))
            params[path] = jnp.concatenate([old, rows], axis)
        new = {
            path: params[path] for path in state.moments if params[path] is not state.params[path]
        }
        both = lambda old, new: old | {p: jax.tree.map(extended, old[p], new[p]) for p in new}
        return State(
            params=params,
            buffers=state.buffers,
            moments=both(state.moments, fresh(after, new)),
            averages=both(state.averages, fresh_averages(after, new)),
        )


def extended(old: Array, new: Array) -> Array:
    """Returns `new` with `old` in its first rows, columns and so on; `old` where none are more."""
    for axis, (size, length) in enumerate(zip(old.shape, new.shape, strict=True)):
        if size < length:
            rest = [slice(n) for n in old.shape]
            rest[axis] = slice(size, length)
            old = jnp.concatenate([old, new[tuple(rest)]], axis)
    return old


def first_rows(state: State, before: Recipe) -> State:
    """Undoes growth: cuts parameters, moments and averages to the rows that `before` has."""
    like = abstract(before)
    cut = lambda old, x: x[tuple(slice(n) for n in old.shape)]
    cut_all = lambda old, x: {p: jax.tree.map(cut, old[p], x[p]) for p in old}
    return State(
        params=cut_all(like.params, state.params),
        buffers=state.buffers,
        moments=cut_all(like.moments, state.moments),
        averages=cut_all(like.averages, state.averages),
    )
