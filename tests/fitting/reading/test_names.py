"""Columns by their names: guessed where there is no doubt, asked about where there is."""

import pandas as pd
import pytest

from fitting.reading.names import Unsure, guessed, held_out_losses, words
from fitting.reading.units import Meant

VALUES = {"params": [2e6, 4e7], "tokens": [4e7, 8e8], "loss": [3.0, 2.5], "step": [100, 900]}
NEEDS = ("params", "tokens", "loss")


def frame(**columns):
    base = {"params_total": VALUES["params"], "tokens": VALUES["tokens"], "loss": VALUES["loss"]}
    for theirs, ours in columns.items():
        base[theirs] = base.pop(ours)
    return pd.DataFrame(base)


def renamed(ours, theirs, values=None):
    table = frame().rename(columns={ours: theirs})
    return table if values is None else table.assign(**{theirs: values})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("tokens_seen", "tokens"),
        ("num_tokens", "tokens"),
        ("train/total_tokens", "tokens"),
        ("TokensSeen", "tokens"),
        ("D", "tokens"),
        ("params.tokens", "tokens"),
        ("config.train_tokens", "tokens"),
        ("metrics.eval_loss", "loss"),
        ("summary/loss", "loss"),
        ("eval/loss", "loss"),
        ("val_loss", "loss"),
        ("Validation Loss", "loss"),
        ("final_eval_loss", "loss"),
        ("test/cross_entropy_loss", "loss"),
        ("train/loss", "loss"),
        ("loss, nats", "loss"),
        ("total_params", "params_total"),
        ("params_with_embeddings", "params_total"),
        ("non_embedding_params", "params_non_embedding"),
        ("n_params_non_embed", "params_non_embedding"),
        ("activated_params", "params_active"),
    ],
)
def test_names_without_doubt_are_guessed(theirs, ours):
    base = "params_total" if ours.startswith("params") else ours
    assert guessed(renamed(base, theirs), {}, NEEDS) == {theirs: Meant(ours)}


@pytest.mark.parametrize(
    ("base", "theirs", "values", "told"),
    [
        ("params_total", "params", None, "params=params_total,tokens=tokens"),
        ("params_total", "N", None, "or =params_non_embedding"),
        ("params_total", "model_size", None, "embeddings counted or not?"),
        ("params_total", "size", [20.0, 400.0], "size=params_total[M]"),
        ("params_total", "size", [0.4, 7.0], "size=params_total[B]"),
        ("params_total", "size", [0.4, 7.0], "or =params_non_embedding[B], =params_total[M]"),
        ("params_total", "total_params", [20.0, 400.0], "total_params=params_total[M]"),
        ("tokens", "tokens_seen", [20.0, 800.0], "tokens_seen=tokens[B]"),
        ("loss", "mean_loglik", [-3.0, -2.5], "mean_loglik=loss[log_likelihood]"),
        ("tokens", "global_step", VALUES["step"], "global_step=tokens[TOKENS_PER_STEP]"),
        ("tokens", "tokens_seen", [0.04, 0.8], "in which unit?"),
        ("loss", "ppl", None, "ppl=loss[perplexity]"),
        ("loss", "eval/bits_per_token", None, "eval/bits_per_token=loss[bits]"),
        ("loss", "loss (bits)", None, "loss (bits)=loss[bits]"),
    ],
)
def test_names_in_doubt_are_asked_about_with_the_line_to_use(base, theirs, values, told):
    table = renamed(base, theirs, values)
    with pytest.raises(Unsure) as unsure:
        guessed(table, {}, NEEDS)
    text = str(unsure.value).replace("'", "")
    told = told.replace(",tokens=tokens", "")
    assert told in text and "--columns=" in text
    assert unsure.value.questions[0].theirs == theirs


@pytest.mark.parametrize(
    "theirs", ["tokens_per_second", "vocab_tokens", "loss_scale", "embedding_params", "D2", "grad"]
)
def test_other_names_are_not_guessed(theirs):
    base = "loss" if theirs.startswith("loss") else "tokens"
    assert guessed(renamed(base, theirs), {}, NEEDS) == {}


def test_a_column_of_text_or_of_another_magnitude_is_not_meant():
    assert guessed(renamed("params_total", "size", ["small", "large"]), {}, NEEDS) == {}
    assert guessed(renamed("loss", "L", [12, 24]), {}, NEEDS) == {}


def test_two_columns_that_could_be_the_loss_are_a_question():
    table = frame().rename(columns={"loss": "val_loss"}).assign(**{"eval/loss": [1.0, 2.0]})
    with pytest.raises(Unsure, match="or eval/loss"):
        guessed(table, {}, NEEDS)
    table = table.rename(columns={"eval/loss": "train/loss"})
    assert guessed(table, {}, NEEDS) == {"val_loss": Meant("loss")}


def test_only_what_is_needed_is_asked_about():
    table = renamed("params_total", "params")
    assert guessed(table, {}, ("tokens", "loss")) == {}
    assert guessed(table, {"params": Meant("params_total")}, NEEDS) == {}
    with pytest.raises(Unsure, match="is it params_non_embedding") as unsure:
        guessed(table, {}, ("params_non_embedding",))
    assert unsure.value.questions[0].options == ("params_non_embedding",)


def test_a_batch_of_tokens_makes_tokens_of_steps():
    table = renamed("tokens", "step", VALUES["step"]).assign(tokens_per_step=5e5)
    with pytest.raises(Unsure, match=r"step=tokens\[tokens_per_step\]"):
        guessed(table, {}, NEEDS)


def test_words_and_losses_are_found_in_names():
    assert words("params.lr") == ["lr"] and words("params") == ["params"]
    assert words("eval/lossMean_2") == ["eval", "loss", "mean", "2"]
    assert held_out_losses(["loss", "eval_loss", "val/c4/loss", "train_loss"]) == ["eval_loss"]
