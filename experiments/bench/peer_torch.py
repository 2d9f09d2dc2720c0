"""The baseline written in PyTorch, to be timed against: same shapes, same loss, same optimizer.

What a careful user of PyTorch writes for eager mode: fused attention, the norm of the library,
fused AdamW. Needs the extra `peer`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from models import ModelConfig, skeleton
from refused import Refused
from scaling import AdamW

MATCHED = dict(embedding="learned", attention="softmax", feed_forward="swiglu")


def check(config: ModelConfig) -> None:
    """Refuses a model that this file does not write."""
    plain = ModelConfig(
        **MATCHED,
        **{
            name: getattr(config, name)
            for name in (
                *("vocabulary", "width", "depth", "heads", "kv_heads", "head_size", "ff_width"),
                *("context", "tied", "rope_base", "norm_epsilon"),
            )
        },
    )
    if config != plain:
        raise Refused("peer", config, "the baseline in float32: only its sizes and `tied` differ")


class Norm(nn.Module):
    """The library's RMSNorm."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.gain, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x):
        return F.rms_norm(x, self.gain.shape, self.gain, self.epsilon)


def matrix(fan_in: int, fan_out: int) -> nn.Parameter:
    """Declares a matrix in PyTorch's layout [out, in]."""
    return nn.Parameter(torch.empty(fan_out, fan_in))


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped queries."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, self.groups, self.size = config.heads, config.group_heads, config.key_size
        self.query = matrix(config.width, self.heads * self.size)
        self.key = matrix(config.width, self.groups * self.size)
        self.value = matrix(config.width, self.groups * self.size)
        self.output = matrix(self.heads * self.size, config.width)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        split = lambda y, n: y.view(batch, length, n, self.size).transpose(1, 2)
        query = rotate(split(F.linear(x, self.query), self.heads), cos, sin)
        key = rotate(split(F.linear(x, self.key), self.groups), cos, sin)
        value = split(F.linear(x, self.value), self.groups)
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=self.groups < self.heads
        )
        return F.linear(mixed.transpose(1, 2).reshape(batch, length, -1), self.output)


def rotate(x, cos, sin):
    """Rotates pairs (i, i + K/2) by their position's angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = matrix(config.width, config.inner_width)
        self.up = matrix(config.width, config.inner_width)
        self.down = matrix(config.inner_width, config.width)

    def forward(self, x):
        return F.linear(F.silu(F.linear(x, self.gate)) * F.linear(x, self.up), self.down)


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = Norm(config.width, config.norm_epsilon)
        self.attention = Attention(config)
        self.feed_forward_norm = Norm(config.width, config.norm_epsilon)
        self.feed_forward = FeedForward(config)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """The baseline; parameters have the names that `models.skeleton` gives them."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        check(config)
        self.embedding = nn.Module()
        self.embedding.table = nn.Parameter(torch.empty(config.vocabulary, config.width))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_norm = Norm(config.width, config.norm_epsilon)
        if not config.tied:
            self.head = nn.Module()
            self.head.kernel = matrix(config.width, config.vocabulary)
        self.tied = config.tied
        pairs = torch.arange(0, config.key_size, 2, dtype=torch.float32)
        frequencies = config.rope_base ** (-pairs / config.key_size)
        angles = torch.arange(config.context, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, windows):
        """Returns the mean loss in nats per token of windows [B, L+1]."""
        x = F.embedding(windows[:, :-1], self.embedding.table)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        head = self.embedding.table if self.tied else self.head.kernel
        scores = F.linear(self.final_norm(x), head)
        return F.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())


def transposed(path: str) -> bool:
    """Says whether PyTorch keeps a matrix the other way round."""
    return not path.endswith((".gain", ".table"))


def from_ours(config: ModelConfig, params: dict[str, np.ndarray]) -> Transformer:
    """Returns the model with our parameters, by path."""
    model = Transformer(config)
    own = dict(model.named_parameters())
    assert own.keys() == params.keys(), own.keys() ^ params.keys()
    with torch.no_grad():
        for path, value in params.items():
            value = np.asarray(value)
            own[path].copy_(torch.tensor(value.T if transposed(path) else value))
    return model


class Trainer:
    """Trains the model like `scaling.train`: AdamW without decay of gains, clipped by norm."""

    def __init__(self, config: ModelConfig, optimizer: AdamW, params: dict, fused: bool = True):
        self.model, self.clip = from_ours(config, params), optimizer.clip
        leaves = skeleton(config).params
        groups = {True: [], False: []}
        for path, parameter in self.model.named_parameters():
            groups[leaves[path].group.decay].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": some, "weight_decay": optimizer.weight_decay if decays else 0.0}
                for decays, some in groups.items()
            ],
            lr=optimizer.learning_rate,
            betas=(optimizer.b1, optimizer.b2),
            eps=optimizer.epsilon,
            fused=fused,
            foreach=None if fused else True,
        )

    def step(self, windows: torch.Tensor) -> float:
        """Takes one step on windows [B, L+1]; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(windows)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.detach()
