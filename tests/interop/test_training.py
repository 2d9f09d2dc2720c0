"""A model of theirs trained further here: torch's AdamW takes the same steps; then few bits."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data import Mixture
from experiments.command import export, models_kept
from models import sample
from scaling import AdamW, Data, Evaluation, Phase, Quantize, Run, Store, Worker, make_mesh, plan
from scaling.interchange import weights
from scaling.interchange.begin import begin, first_state
from scaling.train import Program, advance, on_mesh
from tests import rounding
from tests.corpora import STEP
from tests.interop.test_transformers import made, walk
from tests.interop.theirs import greedy, need, opened

torch, transformers = need("torch", "transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

RATE, DECAY, CLIP, STEPS, CONTEXT = 0.003, 0.1, 1.0, 50, 64
OPTIMIZER = AdamW(learning_rate=RATE, weight_decay=DECAY, clip=CLIP)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Qwen3 that transformers drew, in shards."""
    place = tmp_path_factory.mktemp("qwen3") / "m"
    made("qwen3").save_pretrained(place, max_shard_size="40KB")
    return place


def run(folder, corpus, *phases) -> Run:
    """Returns a run that goes on from the folder."""
    config, start = begin(folder)
    data = Data.of(corpus, Mixture.uniform(corpus.names))
    return Run(model=config, data=data, optimizer=OPTIMIZER, seed=0, phases=phases, start=start)


def trained_here(run: Run, state, windows):
    """Returns the parameters and losses after our steps."""
    batch = windows.shape[1] * CONTEXT
    program = Program(recipe=run.recipe, batch_tokens=batch, mesh=make_mesh("data:1"))
    state, losses = on_mesh(program, jax.tree.map(np.array, state)), []
    for at in range(0, len(windows), program.dispatch_steps):
        some = windows[at : at + program.dispatch_steps]
        state, metrics = advance(program, state, some, np.full(len(some), RATE), DECAY)
        losses.append(np.asarray(metrics["nll"])[: len(some)])
    return jax.tree.map(np.asarray, state.params), np.concatenate(losses)


def trained_there(folder, windows):
    """Returns what torch's AdamW makes of the same model."""
    model = opened(folder).train()
    groups = [[], []]
    for name, value in model.named_parameters():
        groups["norm" in name].append(value)  # Gains do not decay.
    optimizer = torch.optim.AdamW(
        [dict(params=groups[0], weight_decay=DECAY), dict(params=groups[1], weight_decay=0.0)],
        lr=RATE,
        betas=(OPTIMIZER.b1, OPTIMIZER.b2),
        eps=OPTIMIZER.epsilon,
    )
    losses = []
    for some in windows:
        tokens = torch.tensor(some.astype(np.int64))
        scores = model(tokens[:, :-1]).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(scores, tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        gradients = [value.grad for value in model.parameters()]
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        for gradient in gradients:
            gradient *= min(1.0, CLIP / norm)
        optimizer.step()
        losses.append(loss.item())
    found = {name: value.numpy() for name, value in model.state_dict().items()}
    return weights.ours(begin(folder)[0], found), np.array(losses)


def test_the_first_update_and_fifty_losses_are_those_of_torch(folder, corpus, monkeypatch):
    one = run(folder, corpus, Phase(STEPS * STEP, STEP))
    windows, state = walk(0, STEPS, 4, CONTEXT + 1), first_state(one)
    moved = [rounding.state_nudged(state, seed) for seed in rounding.NUDGES]
    first = lambda state: trained_here(one, state, windows[:1])[0]
    theirs, _ = trained_there(folder, windows[:1])
    rounding.assert_same_step(theirs, first(state), [first(other) for other in moved])
    monkeypatch.setattr(rounding, "FLOOR", 1e-5)
    _, losses = trained_here(one, state, windows)
    _, expected = trained_there(folder, windows)
    assert losses[-1] < losses[0] - 1.0
    paths = [trained_here(one, other, windows)[1] for other in moved]
    rounding.assert_same_trajectory(expected, losses, paths)


def test_it_is_trained_further_at_four_bits_and_opens_again(folder, corpus, tmp_path):
    need("compressed_tensors")
    change = Phase(10 * STEP, STEP, change=Quantize(4))
    one = run(folder, corpus, Phase(20 * STEP, STEP), change)
    store, planned = Store.at(tmp_path / "runs"), plan([one])
    Worker(planned, store, corpus, Evaluation(128), make_mesh("data:1"), keep_params=True).run()
    losses = [r["loss"] for s in planned.path(one.identity) for r in store.metrics(s.id)]
    assert len(losses) == 30 and losses[-1] < losses[0] - 1.0
    study = SimpleNamespace(corpus=corpus, runs=[SimpleNamespace(run=one)])
    export.write(store, study, one.identity, None, str(tmp_path / "m"), "hf")
    _, state = models_kept.ended(store, one)
    prompt = np.array([0, *range(40, 52)])
    drawn = sample(one.model_at(-1), state.params, state.buffers, prompt[None], 40, 0.0)
    assert greedy(opened(tmp_path / "m"), prompt, 40) == drawn[0].tolist()
