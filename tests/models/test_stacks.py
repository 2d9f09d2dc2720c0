"""Names of stacks of layers, and of the leaves that they are of."""

from models import stacks

NAME = "layers.9-11.attention.query"


def test_a_stack_stands_for_the_leaves_of_its_layers():
    assert stacks.paths(NAME) == [f"layers.{layer}.attention.query" for layer in (9, 10, 11)]
    assert stacks.is_stack(NAME) and stacks.label(NAME) == "9-11"


def test_other_leaves_stand_for_themselves():
    for path in ("layers.4.attention.query", "embedding.table", "final_norm.gain"):
        assert stacks.paths(path) == [path] and not stacks.is_stack(path)
    assert stacks.label("embedding.table") == "" and stacks.label("layers.4.x") == "4"


def test_labels_come_in_the_order_of_their_layers():
    names = ["layers.10.a", "layers.2-9.a", "embedding.table", "layers.0.a", "layers.2-9.b"]
    assert stacks.labels(names) == ("0", "2-9", "10")
    assert list(stacks.numbers("2-4")) == [2, 3, 4] and list(stacks.numbers("7")) == [7]


def test_a_leaf_is_renamed_by_its_layer_alone():
    assert stacks.renamed("layers.4.attention.query", {"4": "4-6"}) == "layers.4-6.attention.query"
    assert stacks.renamed("embedding.table", {"4": "4-6"}) == "embedding.table"
