import numpy as np
import pytest

from fitting.vocabulary import VOCABULARY, tokens_per_character
from tests.fitting.planted import grid, recovered

PAPER = VOCABULARY.published["paper"]


def runs():
    columns = grid(
        params_non_embedding=np.geomspace(3e7, 1e9, 5),
        vocabulary=np.geomspace(4e3, 1e5, 4),
        tokens=np.geomspace(1e9, 2e10, 4),
    )
    words = columns["vocabulary"] * 64 * (columns["params_non_embedding"] / 1e6) ** 0.4
    total = columns["params_non_embedding"] + words
    unigram = 4.5 + 0.3 * np.log(columns["vocabulary"])
    return {**columns, "params_total": total, "unigram_loss": unigram}


def test_planted_values_are_recovered():
    found = recovered(VOCABULARY, runs(), PAPER)
    assert found == pytest.approx(PAPER, rel=5e-3)


def test_english_takes_between_two_and_five_characters_a_token():
    characters = 1 / tokens_per_character(np.array([1e3, 200e3, 1e7]))
    assert characters[:2] == pytest.approx([2.4, 4.4], abs=0.05)
    assert characters[2] == characters[1]


def test_larger_models_deserve_larger_vocabularies_as_the_paper_says():
    # The paper's isoFLOP approach finds 39, 62 and 212 thousand at 3B, 7B and 70B.
    answer = VOCABULARY.uses["vocabulary"].answer
    found = []
    for body, width in ((2.87e9, 3200), (7e9, 4096), (70e9, 8192)):
        settings = {"params_non_embedding": body, "width": width, "flops": 6 * 20 * body**2}
        found.append(float(answer(VOCABULARY, PAPER, settings)["vocabulary"][0]))
    assert found == pytest.approx([39e3, 62e3, 212e3], rel=0.15)
