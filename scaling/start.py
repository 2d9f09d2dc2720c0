"""What a run starts from, where that is not a draw: a model that is there."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Start:
    """A model by the hash of its values, which enters a run's identity, and where it is now.

    `content` is `interchange.Kept.content`; `place` is a path, which changes no number.
    """

    content: str
    place: str = field(default="", compare=False)
