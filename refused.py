"""The one error with which every room turns down what it was given; it imports nothing."""


class Refused(ValueError):
    """A value that cannot be used: one line with the field, the value and what is accepted."""

    def __init__(self, field: str, value: object, accepted: str):
        super().__init__(f"{field}: got {value}; accepted: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted

    def __reduce__(self):
        return type(self), (self.field, self.value, self.accepted)
