"""One small configuration of every architecture; tests of the whole zoo go through this list."""

from models import ModelConfig, Quantization
from tests.corpora import model

CONFIGS: dict[str, ModelConfig] = {
    "default": model(),
    "gelu": model(feed_forward="gelu"),
    "tied": model(tied=True),
    "grouped": model(heads=4, kv_heads=2, qk_norm=True),
    "documents": model(separator=0),
    "z_loss": model(z_loss=1e-3),
    "quantised": model(quantization=Quantization(2)),
}
