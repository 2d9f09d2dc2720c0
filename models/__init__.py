"""The Flax zoo and its accounting.

Dimensions have one letter everywhere: B batch (sequences), L length (tokens), D width, H heads,
G key/value heads, K head size, F feed-forward width, E experts (k of them active), V vocabulary,
P streams, S positions of a prefix, N parameters.
"""

from models.accounting import Accounts, count
from models.config import ModelConfig, Settings
from models.experts import Experts, sparsity
from models.ladder import Rung, ladder
from models.parscale import Streams
from models.quantize import Quantization
from models.sample import sample
from models.stem import Stem, swap_rows
from models.tokenformer import ParameterTokens
from models.transformer import Leaf, Transformer, held_out_nll, loss, skeleton

NUMERICS = 1  # Enters every run's identity; raised when a golden table of this package changes.

__all__ = [
    "NUMERICS",
    "Accounts",
    "Experts",
    "Leaf",
    "ModelConfig",
    "ParameterTokens",
    "Quantization",
    "Rung",
    "Settings",
    "Streams",
    "Stem",
    "Transformer",
    "count",
    "held_out_nll",
    "ladder",
    "loss",
    "sample",
    "skeleton",
    "sparsity",
    "swap_rows",
]
