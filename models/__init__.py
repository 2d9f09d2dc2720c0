"""The Flax zoo and its accounting.

Dimensions have one letter everywhere: B batch (sequences), L length (tokens), D width, H heads,
G key/value heads, K head size, F feed-forward width, V vocabulary, N parameters.
"""

from models.accounting import Accounts, count
from models.config import ModelConfig, Refused, Settings
from models.ladder import Rung, ladder
from models.quantize import Quantization
from models.transformer import Transformer, held_out_nll, loss, skeleton

NUMERICS = 1  # Enters every run's identity; raised when a golden table of this package changes.

__all__ = [
    "NUMERICS",
    "Accounts",
    "ModelConfig",
    "Quantization",
    "Refused",
    "Rung",
    "Settings",
    "Transformer",
    "count",
    "held_out_nll",
    "ladder",
    "loss",
    "skeleton",
]
