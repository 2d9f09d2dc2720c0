"""Names of leaves of layers that are scanned: a stack of layers has one for all of them.

The stack of layers 4 to 23 of `attention.query` is `layers.4-23.attention.query`, with a leading
axis over the layers; `4-23` is its label.
"""

LAYERS = "layers."  # What the paths of layers' leaves, and the names of their stacks, begin with.


def label(path: str) -> str:
    """Returns which layer or stack of layers a leaf is of; empty for what is of none."""
    return path.removeprefix(LAYERS).split(".", 1)[0] if path.startswith(LAYERS) else ""


def is_stack(path: str) -> bool:
    """Says whether a name is a stack's."""
    return "-" in label(path)


def numbers(label: str) -> range:
    """Returns the layers that a label stands for."""
    first, *last = map(int, label.split("-"))
    return range(first, (last[0] if last else first) + 1)


def paths(name: str) -> list[str]:
    """Returns the paths of the leaves that a stack is of; of any other leaf its own."""
    if not is_stack(name):
        return [name]
    of = label(name)
    rest = name.removeprefix(f"{LAYERS}{of}")
    return [f"{LAYERS}{layer}{rest}" for layer in numbers(of)]


def labels(names) -> tuple[str, ...]:
    """Returns the labels of all layers and stacks that leaves are of, in their order."""
    found = {label(name) for name in names} - {""}
    return tuple(sorted(found, key=lambda one: numbers(one)[0]))


def renamed(name: str, labels: dict[str, str]) -> str:
    """Returns a leaf's name with another label, if it is of a layer."""
    of = label(name)
    return f"{LAYERS}{labels[of]}{name.removeprefix(LAYERS + of)}" if of else name
