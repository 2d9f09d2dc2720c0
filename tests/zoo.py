"""One small configuration of every architecture; tests of the whole zoo go through this list."""

from models import Experts, ModelConfig, Quantization, Stem, Streams
from models.codes import Codes
from tests.corpora import model, tokenformer

CONFIGS: dict[str, ModelConfig] = {
    "default": model(),
    "gelu": model(feed_forward="gelu"),
    "tied": model(tied=True),
    "grouped": model(heads=4, kv_heads=2, qk_norm=True),
    "documents": model(separator=0),
    "z_loss": model(z_loss=1e-3),
    "streams": model(streams=Streams(3, prefix=4)),
    "streams_neutral": model(
        heads=4, kv_heads=2, qk_norm=True, separator=0, streams=Streams(2, prefix=4, neutral=True)
    ),
    "stem": model(feed_forward=Stem()),
    "stem_dense": model(feed_forward=Stem((0, 1), "unit", lazy=False)),
    "experts": model(feed_forward=Experts(4, 2, 1, granularity=4.0, first_dense=1)),
    "experts_bias": model(feed_forward=Experts(4, 2, 0, router="sigmoid", bias_rate=0.01)),
    "tokenformer": tokenformer(),
    "codes": model(embedding=Codes()),
    "recoded": model(
        embedding=Codes(bits=9, signed=True, scale=0.5, interleaved=True, recode_seed=1)
    ),
    "quantised": model(quantization=Quantization(2)),
    # Parts combine: each entry puts several at once through every test of the zoo.
    "codes_tokenformer": tokenformer(
        embedding=Codes(bits=9, recode_seed=1), quantization=Quantization(4)
    ),
    "codes_stem_streams": model(
        embedding=Codes(), feed_forward=Stem(), streams=Streams(2, prefix=4)
    ),
    "experts_streams": model(feed_forward=Experts(4, 2, 1), streams=Streams(2, prefix=4)),
}

# Every part at least once in few models, for what is the same code for all and costs a program
# each; `tests/models/test_parts.py` holds it to the list above.
COVER = (
    "default",
    "tied",
    "stem_dense",
    "streams_neutral",
    "experts_bias",
    "codes_tokenformer",
    "codes_stem_streams",
    "experts_streams",
)

# A part of every kind, for what costs several programs a model.
KINDS = ("default", "stem_dense", "streams_neutral", "experts_bias", "codes_tokenformer")

# Those of the kinds that `make test` trains through everything.
FEW = ("default", "codes_tokenformer")
