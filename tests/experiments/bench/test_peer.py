"""PyTorch's baseline is ours; the comparison takes turns, and does without PyTorch in one line."""

import importlib.util

import numpy as np
import pytest

import models
from experiments.bench import peer
from scaling import AdamW, make_mesh
from scaling.state import initial
from scaling.train import Program, advance, on_mesh
from tests.corpora import model, recipe

SHAPES = {
    "default": model(),
    "tied": model(tied=True),
    "grouped": model(heads=4, kv_heads=2),
    "ladder": models.ladder(64, 10**6).model,
}


@pytest.mark.parametrize("name", SHAPES)
def test_pytorch_trains_the_same_model_to_the_same_losses(name):
    torch = pytest.importorskip("torch")
    from experiments.bench.peer_torch import Trainer

    config, optimizer = SHAPES[name], AdamW(learning_rate=0.01, weight_decay=0.1)
    state = initial(recipe(config), 0)
    trainer = Trainer(config, optimizer, state.params)
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert count == models.count(config).params_total
    batch = np.random.default_rng(0).integers(0, config.vocabulary, (4, config.context + 1))
    windows = np.stack([batch] * 5)
    program = Program(
        recipe=recipe(config, optimizer), batch_tokens=4 * config.context, mesh=make_mesh("data:1")
    )
    _, metrics = advance(program, on_mesh(program, state), windows, np.full(5, 0.01), 0.1)
    theirs = [float(trainer.step(batch)) for batch in torch.tensor(windows)]
    assert theirs[4] < theirs[0] - 0.1  # The steps have moved the loss.
    np.testing.assert_allclose(metrics["nll"][:5], theirs, rtol=0, atol=1e-4)


def test_other_models_are_refused():
    pytest.importorskip("torch")
    from experiments.bench.peer_torch import Transformer

    with pytest.raises(ValueError, match="peer: got"):
        Transformer(model(feed_forward="gelu"))


@pytest.mark.system
def test_two_sides_take_turns():
    row = peer.compare(16, turns=1, steps=1, sides=("here", "here"))
    assert row["params_total"] == models.count(models.ladder(16, 10**6).model).params_total
    assert min(row.values()) > 0


def test_a_side_that_ends_early_is_an_error(capfd):
    with pytest.raises(RuntimeError, match="ended with code 1"):
        peer.compare(16, turns=1, steps=1, sides=("nowhere",))
    assert "KeyError" in capfd.readouterr().err


def test_without_pytorch_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    peer.peer()
    assert capsys.readouterr().out.count("\n") == 2
