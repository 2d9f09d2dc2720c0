"""torch, transformers and lm_eval where they are installed; else these tests are skipped."""

import os
import warnings

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
WHY = "it is not installed; `make test-hf` installs it in an environment of its own"


def need(*names: str):
    """Imports packages, of which some warn; skips the file where one is not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [pytest.importorskip(name, reason=f"{name}: {WHY}") for name in names]
    return found[0] if len(found) == 1 else found


def opened(folder, dtype: str = "float32"):
    """Returns the model that `AutoModelForCausalLM` makes of a folder, for evaluation."""
    torch, transformers = need("torch", "transformers")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    auto = transformers.AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def logits(model, tokens) -> np.ndarray:
    """Returns a model's logits [B, L, V] in float32."""
    torch = need("torch")
    with torch.no_grad():
        return model(torch.tensor(np.asarray(tokens))).logits.float().numpy()


def greedy(model, prompt, count: int) -> list[int]:
    """Returns the likeliest tokens after one prompt [L], the separator among them."""
    torch = need("torch")
    start = torch.tensor(np.asarray(prompt)[None])
    mask = torch.ones_like(start)
    settings = dict(max_new_tokens=count, do_sample=False, eos_token_id=None)
    return model.generate(start, attention_mask=mask, **settings)[0, start.shape[1] :].tolist()
