"""Which architecture of Hugging Face transformers a model is, and its config.json, both ways.

The baseline is Llama (Touvron et al. 2023, arXiv:2302.13971), with QK-norm Qwen3 (arXiv:2505.09388,
section 2), with experts Qwen3-MoE. With biases of queries, keys and values it is Qwen2
(arXiv:2407.10671, section 2.2.1), which is read but not written: transformers 5.24
(models/auto/tokenization_auto.py) takes `Qwen2Tokenizer` for any folder of Qwen2, and that class
composes texts and cuts them by its own rule, whatever tokenizer.json says. Llama with
`attention_bias` computes the same, the output's bias being zero. Names of settings are those of the
configuration classes of transformers 4 and 5.
"""

from collections.abc import Mapping
from dataclasses import replace

from models import Experts, ModelConfig
from refused import Refused

# Their `model_type` and the class that `AutoModelForCausalLM` takes for it; all are read.
CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}

# What our parts are called where they have no counterpart there, and what has one.
ABSENT = {
    "embedding": ("learned", {"codes": "a token table that is drawn from binary codes"}),
    "attention": ("softmax", {"parameter_tokens": "attention to parameter tokens"}),
    "feed_forward": (
        "swiglu or experts",
        {
            "gelu": "a feed-forward of two matrices",
            "stem": "a feed-forward with a token table",
            "parameter_tokens": "a feed-forward of parameter tokens",
        },
    ),
}

# Settings of theirs that change no logit: they say how a model is trained, stored or called.
IDLE = {
    *("_name_or_path", "architectures", "attention_dropout", "auto_map", "bos_token_id"),
    *("chunk_size_feed_forward", "dtype", "eos_token_id", "head_dim", "id2label"),
    *("initializer_range", "is_decoder", "is_encoder_decoder", "label2id", "max_window_layers"),
    *("model_type", "output_attentions", "output_hidden_states", "output_router_logits"),
    *("pad_token_id", "pretraining_tp", "problem_type", "return_dict", "router_aux_loss_coef"),
    *("sep_token_id", "sliding_window", "torch_dtype", "transformers_version", "use_cache"),
    *("tokenizer_class", "unsloth_version", "quantization_config"),
}


def family(config: ModelConfig) -> str:
    """Returns the `model_type` of a model.

    Raises:
      Refused: a part or setting that no architecture of `CLASSES` computes alike, by its name.
    """
    for place, (accepted, reasons) in ABSENT.items():
        chosen = getattr(config, place)
        name = chosen if isinstance(chosen, str) else chosen.part
        if name in reasons:
            got = f"{name}: transformers has no {reasons[name].removeprefix('a ')}"
            raise Refused(f"export model.{place}", got, accepted)
    if config.block_norm != "rms_norm":
        got = f"{config.block_norm}: Llama and its kin have no other norm"
        raise Refused("export model.block_norm", got, "rms_norm")
    if config.streams is not None:
        got = f"{config.stream_count}: transformers runs a model's layers once"
        raise Refused("export model.streams", got, "1")
    if isinstance(config.feed_forward, Experts):
        check_experts(config)
        return "qwen3_moe"
    return "qwen3" if config.qk_norm else "llama"


def check_experts(config: ModelConfig) -> None:
    """Refuses experts that Qwen3-MoE does not compute alike.

    A capacity is no reason: it drops tokens in training alone (`ModelConfig.evaluated`).
    """
    settings = config.feed_forward
    wrong = lambda field, got, accepted: Refused(f"export model.{field}", got, accepted)
    if not config.qk_norm:
        raise wrong("qk_norm", "False: Qwen3-MoE norms queries and keys", "True with experts")
    if settings.shared:
        got = f"{settings.shared}: Qwen3-MoE has no expert that serves every token"
        raise wrong("feed_forward.shared", got, "0")
    if settings.router != "softmax" or settings.balancing()[2]:
        got = f"{settings.router}, bias_rate {settings.balancing()[2]}: Qwen3-MoE picks by softmax"
        raise wrong("feed_forward.router", got, "softmax with bias_rate 0")


def written(config: ModelConfig, separator: int | None) -> dict:
    """Returns the config.json of a model; a document begins with `separator`.

    Raises:
      Refused: see `family`.
    """
    kind = family(config)
    said = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": replace(config, feed_forward="swiglu").inner_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.group_heads,
        "head_dim": config.key_size,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_base,  # Version 4 reads this, 5 the next.
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "tie_word_embeddings": config.tied,
        "attention_bias": config.qkv_bias,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": separator,
        "eos_token_id": separator,
        "pad_token_id": separator,
        "dtype": "float32",
    }
    if kind == "llama":
        said["mlp_bias"] = False
    else:
        said |= {"use_sliding_window": False, "sliding_window": None}
    if kind == "qwen3_moe":
        settings = config.feed_forward
        said |= {
            "num_experts": settings.routed,
            "num_experts_per_tok": settings.active,
            "moe_intermediate_size": settings.width_in(config),
            "norm_topk_prob": settings.renormalises(),
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(range(settings.first_dense)),
        }
    return said


def read(said: Mapping) -> tuple[ModelConfig, tuple[str, ...]]:
    """Returns the model that a config.json describes, and notes on settings that were left out.

    Raises:
      Refused: another architecture, or a setting that our parts do not compute alike.
    """
    kind = said.get("model_type")
    if kind not in CLASSES:
        raise Refused("config.json model_type", kind, ", ".join(CLASSES))
    left = {name: value for name, value in said.items() if name not in IDLE}
    take = left.pop
    try:
        width, heads = take("hidden_size"), take("num_attention_heads")
        settings = dict(
            vocabulary=take("vocab_size"),
            width=width,
            depth=take("num_hidden_layers"),
            heads=heads,
            kv_heads=take("num_key_value_heads", None) or heads,
            head_size=said.get("head_dim") or (128 if kind == "qwen3" else width // heads),
            ff_width=take("intermediate_size"),
            context=take("max_position_embeddings"),
            norm_epsilon=take("rms_norm_eps"),
            tied=take("tie_word_embeddings", False),
            qk_norm=kind.startswith("qwen3"),
            qkv_bias=take("attention_bias", False) or kind == "qwen2",
            rope_base=rope(left),
        )
        if kind == "qwen3_moe":
            settings["feed_forward"] = experts(left, settings["depth"])
    except KeyError as missing:
        raise Refused("config.json", f"no {missing.args[0]}", f"what {kind} needs") from None
    fixed(left, kind)
    notes = tuple(
        f"config.json: {name}={left[name]!r} is not known and was left out" for name in left
    )
    return ModelConfig(**settings), notes


def rope(left: dict) -> float:
    """Takes the base of the rotary positions out of settings; refuses rescaled positions."""
    given = left.pop("rope_parameters", None) or left.pop("rope_scaling", None) or {}
    left.pop("rope_scaling", None)
    kind = given.get("rope_type", given.get("type", "default"))
    if kind != "default":
        raise Refused("config.json rope_type", kind, "default: positions are not rescaled here")
    left.setdefault("partial_rotary_factor", given.get("partial_rotary_factor", 1.0))
    base = left.pop("rope_theta", None)
    # The two versions' names say the same where both are there; Su et al.'s base without any.
    return float(given.get("rope_theta", base if base is not None else 10_000.0))


def experts(left: dict, depth: int) -> Experts:
    """Takes a mixture of experts out of the settings of Qwen3-MoE."""
    dense = sorted(left.pop("mlp_only_layers", None) or [])
    step = left.pop("decoder_sparse_step", 1)
    if dense != list(range(len(dense))) or step != 1:
        got = f"mlp_only_layers {dense}, decoder_sparse_step {step}"
        raise Refused("config.json", got, "dense layers before all others, and step 1")
    routed = left.pop("num_experts", None) or left.pop("num_local_experts", None)
    left.pop("num_local_experts", None)
    if routed is None:
        raise KeyError("num_experts")
    return Experts(
        routed=routed,
        active=left.pop("num_experts_per_tok"),
        shared=0,
        expert_width=left.pop("moe_intermediate_size"),
        renormalise=left.pop("norm_topk_prob", False),
        capacity_factor=None,
        first_dense=len(dense),
    )


def fixed(left: dict, kind: str) -> None:
    """Takes out the settings that have one value here; refuses another."""
    layers = left.pop("layer_types", None) or []
    if set(layers) - {"full_attention"}:
        raise Refused("config.json layer_types", sorted(set(layers)), "full_attention")
    for name, wanted in (
        ("hidden_act", "silu"),
        ("mlp_bias", False),
        ("use_sliding_window", False),
        ("partial_rotary_factor", 1.0),
    ):
        value = left.pop(name, wanted)
        if value != wanted:
            raise Refused(f"config.json {name}", value, str(wanted))
