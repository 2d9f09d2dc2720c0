"""Exported folders open in transformers and compute what we do; theirs are read the same."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from data.tokenizer import BPE, TRIED
from models import Quantization, sample, skeleton
from models.export import rounded
from models.quantize import BITS
from scaling import AdamW, make_mesh
from scaling.interchange import folder
from scaling.interchange.kept import Kept
from scaling.state import initial
from scaling.train import Program, advance, on_mesh
from tests.corpora import model, recipe
from tests.interop.theirs import greedy, logits, need, opened
from tests.scaling.interchange.models import LIKE, kept

torch, transformers = need("torch", "transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

CONTEXT, STEPS, BATCH = 96, 64, 8
PROMPT = np.array([0, *range(40, 52)])


def walk(seed: int, *shape: int) -> np.ndarray:
    """Returns a random walk of symbols, in which a model soon finds something to learn."""
    steps = np.random.default_rng(seed).integers(-2, 3, shape)
    return (np.cumsum(steps, axis=-1) % 24 + 40).astype(np.int32)


@pytest.fixture(scope="module", params=LIKE)
def trained(request, tmp_path_factory) -> tuple[Kept, str]:
    """A model trained for some steps, and the folder that it is exported to."""
    config = replace(LIKE[request.param], context=CONTEXT)
    if request.param == "experts":  # Training drops tokens; what reads the model does not.
        config = replace(config, feed_forward=replace(config.feed_forward, capacity_factor=1.0))
        assert config.evaluated != config
    told = recipe(config, AdamW(learning_rate=0.01))
    program = Program(recipe=told, batch_tokens=BATCH * CONTEXT, mesh=make_mesh("data:1"))
    state = on_mesh(program, initial(told, 0))
    windows = walk(0, STEPS, BATCH, CONTEXT + 1)
    windows[..., 0] = 0
    for begin in range(0, STEPS, program.dispatch_steps):
        some = windows[begin : begin + program.dispatch_steps]
        state, metrics = advance(program, state, some, np.full(len(some), 0.01), 0.01)
    assert np.asarray(metrics["nll"])[-1] < 3.0
    state = jax.tree.map(np.asarray, state)
    one = Kept(config, state.params, state.buffers, "bytes")
    place = tmp_path_factory.mktemp("trained") / "m"
    folder.write(place, one)
    return one, place


def ours(one: Kept, tokens, **fields) -> np.ndarray:
    """Returns our logits."""
    config = replace(one.config.evaluated, **fields)
    run = jax.jit(lambda p, b, t: skeleton(config).merge(p, b)(t))
    return np.asarray(run(dict(one.params), dict(one.buffers), tokens), np.float32)


def test_logits_and_greedy_tokens_are_ours(trained):
    one, place = trained
    tokens = np.concatenate([np.zeros((2, 1), np.int32), walk(1, 2, CONTEXT - 1)], axis=1)
    experts = one.config.feed_forward != "swiglu"
    theirs, own = opened(place), ours(one, tokens)
    np.testing.assert_allclose(logits(theirs, tokens), own, rtol=0, atol=1e-4 if experts else 2e-5)
    drawn = sample(one.config, one.params, one.buffers, PROMPT[None], 64, temperature=0.0)
    assert greedy(theirs, PROMPT, 64) == drawn[0].tolist()
    # In bfloat16 neither is exact: ours may be off by twice what theirs is.
    if not experts:  # Near a tie, rounding sends a token to another expert.
        narrow = ours(one, tokens, dtype="bfloat16") - own
        limit = logits(opened(place, "bfloat16"), tokens) - own
        assert np.sqrt(np.mean(narrow**2)) <= 2 * np.sqrt(np.mean(limit**2))
        assert np.abs(narrow).max() <= 2 * np.abs(limit).max()


def test_the_tokenizer_that_opens_gives_the_tokens_of_training(tmp_path):
    texts = [text.replace("\0", "") for text in (*TRIED, "Ā, <|endoftext|> " * 3)]
    bpe = BPE.train([*(t.encode() for t in texts), b"some of the words " * 90], 300)
    for name, tokenizer in (("bytes", "bytes"), ("bpe", bpe.json)):
        for family in ("mha", "qk_norm", "biases", "experts"):
            config = replace(LIKE[family], vocabulary=300)
            place = tmp_path / f"{name} {family}"
            folder.write(place, kept(config, tokenizer))
            auto = transformers.AutoTokenizer.from_pretrained(place)
            for text in texts:
                (document,) = kept(config, tokenizer).text().documents([text.encode()])
                found = auto(text).input_ids
                assert found == document.tokens.tolist(), (place, text)
                assert auto.decode(found) == text
            assert auto.bos_token_id == auto.eos_token_id == 0
            assert auto.model_max_length == config.context


def test_a_folder_of_qwen2_would_open_with_a_tokenizer_that_changes_texts(tmp_path):
    """Why biases are written as Llama: once this fails, they can be Qwen2."""
    folder.write(tmp_path / "m", kept(LIKE["biases"]))
    file = tmp_path / "m" / "config.json"
    said = json.loads(file.read_text()) | {"model_type": "qwen2"}
    file.write_text(json.dumps(said | {"architectures": ["Qwen2ForCausalLM"]}))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    assert auto.decode(auto("u\u0308").input_ids) == "\u00fc"


@pytest.mark.parametrize("bits", BITS)
def test_packed_weights_open_as_the_floats_that_training_reads(bits, tmp_path):
    need("compressed_tensors")
    one = kept(model(width=24, quantization=Quantization(bits)))
    folder.write(tmp_path / "m", one)
    theirs = opened(tmp_path / "m")
    logits(theirs, PROMPT[None])  # Unpacks them.
    found = {name: x.numpy() for name, x in theirs.state_dict().items()}
    plain = replace(one.config, quantization=None)
    for pair in folder.weights.pairs(plain):
        value = rounded(one.config, dict(one.params))[pair.ours]
        value = value.T if pair.turned else value
        np.testing.assert_array_equal(found[pair.theirs], value, err_msg=pair.theirs)


def made(kind: str):
    """Returns a small model that transformers drew."""
    sizes = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    more = {
        "llama": dict(rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
        "qwen2": dict(tie_word_embeddings=True),
        "qwen3": dict(head_dim=16),
        "qwen3_moe": dict(
            head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
        ),
    }
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **sizes, **more[kind])
    found = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for value in found.parameters():
            value += 0.1 * torch.randn_like(value)
    return found


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "qwen3_moe"])
def test_a_model_that_transformers_made_computes_the_same_here(kind, tmp_path):
    theirs = made(kind)
    theirs.save_pretrained(tmp_path / "m", max_shard_size="40KB")
    assert len(json.loads((tmp_path / "m" / folder.INDEX).read_text())["weight_map"]) > 20
    one = folder.read(tmp_path / "m")
    assert one.notes == ("no tokenizer.json: texts cannot be read with this model's tokenizer",)
    tokens = np.random.default_rng(0).integers(0, 300, (2, 64))
    atol = 1e-4 if kind == "qwen3_moe" else 2e-5
    np.testing.assert_allclose(ours(one, tokens), logits(theirs, tokens), rtol=0, atol=atol)
    # And back, as an architecture of ours: the same once more.
    folder.write(tmp_path / "back", one)
    again = logits(opened(tmp_path / "back"), tokens)
    np.testing.assert_allclose(again, logits(theirs, tokens), rtol=0, atol=atol)
