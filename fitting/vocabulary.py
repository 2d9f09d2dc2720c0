"""The vocabulary law: loss relative to the unigram model, in the parameters in and out of it."""

import numpy as np

from fitting.law import Law, Parameter, Use, exponent

# The authors count parameters in millions and tokens in billions.
_PARAMS, _TOKENS = 1e6, 1e9
_SIZES = np.geomspace(256, 1e7, 4001)  # vocabularies tried for the optimum


def tokens_per_character(vocabulary):
    """Tokens that a character takes with a vocabulary of this size; constant beyond 200,000.

    Source: Tao et al. 2024 (arXiv:2407.13623), byte-pair encodings, natural logarithm.
    """
    log = np.log(np.minimum(np.asarray(vocabulary, float), 200_000))
    return 0.0064 * log**2 - 0.1581 * log + 1.2047


def _terms(columns, alpha_body, alpha_vocabulary, beta):
    body = columns["params_non_embedding"]
    words = columns["params_total"] - body
    return (
        1.0,
        np.exp(-alpha_body * np.log(body / _PARAMS)),
        np.exp(-alpha_vocabulary * np.log(words / _PARAMS)),
        np.exp(-beta * np.log(columns["tokens"] / _TOKENS)),
        columns["unigram_loss"],
    )


def _best_vocabulary(law, parameters, settings):
    body, width = (float(np.ravel(settings[k])[0]) for k in ("params_non_embedding", "width"))
    words = _SIZES * width
    tokens = float(np.ravel(settings["flops"])[0]) / 6 / (body + words)
    count = max(np.size(value) for value in parameters.values())
    columns = {
        "params_non_embedding": np.full_like(words, body),
        "params_total": body + words,
        "tokens": tokens,
        "unigram_loss": np.zeros_like(words),  # Relative to it: a vocabulary changes its scale.
    }
    loss = np.reshape(law.predict(columns, parameters), (count, -1))
    place = np.argmin(loss, axis=1)
    inner = (place > 0) & (place < len(_SIZES) - 1)
    return {"vocabulary": np.where(inner, _SIZES[place], np.nan)}


VOCABULARY = Law(
    name="vocabulary",
    formula=(
        "L = unigram_loss + E + A1 (N_nv / 1e6)^-alpha1 + A2 (N_v / 1e6)^-alpha2 "
        "+ B (tokens / 1e9)^-beta, N_nv = params_non_embedding, N_v = params_total - N_nv"
    ),
    predictors=("params_non_embedding", "params_total", "tokens", "unigram_loss"),
    parameters=(
        Parameter("E", "nats/token", 0.0, 100.0, positive=False),
        Parameter("A1", "nats/token"),
        Parameter("A2", "nats/token"),
        Parameter("B", "nats/token"),
        exponent("alpha1"),
        exponent("alpha2", start=(0.05, 1.2)),
        exponent("beta"),
    ),
    terms=_terms,
    uses={
        "vocabulary": Use(
            about="vocabulary of the least loss over the unigram model's, at a body and compute",
            settings={"params_non_embedding": "count", "width": "1", "flops": "FLOP"},
            outputs={"vocabulary": "tokens"},
            answer=_best_vocabulary,
        )
    },
    identified_by="several vocabularies at several bodies and tokens, losses of one corpus",
    source="Tao et al. 2024 (arXiv:2407.13623) eq. 6; alpha1 = beta by their choice",
    published={
        "paper": {
            **{"E": -5.533, "A1": 1.831, "A2": 0.196, "B": 2.124},
            **{"alpha1": 0.447, "alpha2": 0.671, "beta": 0.447},
        }
    },
)
