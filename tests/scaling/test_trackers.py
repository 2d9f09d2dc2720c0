"""Trackers: who is told what, and what cannot be told."""

import pytest

from refused import Refused
from scaling.trackers import Several, tracker


def test_several_are_told_the_same():
    class Told:
        def __init__(self):
            self.lines = []

        def take(self, id, lines):
            self.lines.append((id, lines))

    one, other = Told(), Told()
    Several(one, other).take("a", [{"step": 1}])
    assert one.lines == other.lines == [("a", [{"step": 1}])]


def test_another_service_and_a_missing_package_are_refused(monkeypatch):
    for text in ("mlflow:x", "wandb", "wandb:"):
        with pytest.raises(Refused, match=f"--track: got {text}; accepted: wandb:PROJECT"):
            tracker(text, None, None, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Refused, match="wandb, which is missing; accepted: pip install"):
        tracker("wandb:x", None, None, None)
