"""The one error with which every room turns down what it was given, and how it lists names."""

import difflib
from collections.abc import Iterable


class Refused(ValueError):
    """A value that cannot be used: one line with the field, the value and what is accepted."""

    def __init__(self, field: str, value: object, accepted: str):
        super().__init__(f"{field}: got {value}; accepted: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted

    def __reduce__(self):
        return type(self), (self.field, self.value, self.accepted)


def listed(known: Iterable[str], given: str) -> str:
    """Returns the accepted names, and the nearest to what was given where one is near."""
    known = list(known)
    near = difflib.get_close_matches(str(given), known, n=1, cutoff=0.65)
    return ", ".join(known) + (f"; did you mean {near[0]}?" if near else "")
