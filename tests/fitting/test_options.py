import pytest

from fitting import Options
from fitting.options import fields
from refused import Refused


def test_every_option_has_a_help_text_and_a_kind_for_the_command_line():
    for field in fields():
        assert field.metadata["help"] and field.metadata["kind"] in (str, float, int, bool)
        assert field.default is None or isinstance(field.default, field.metadata["kind"])


def test_options_are_given_by_name():
    with pytest.raises(TypeError):
        Options("huber")


def test_constants_read_as_text_and_as_a_mapping():
    assert Options(fixed="E=1.7,alpha=0.3").fixed == {"E": 1.7, "alpha": 0.3}
    assert Options(fixed={"E": 1.7}).fixed == {"E": 1.7}
    assert Options().fixed == {}


@pytest.mark.parametrize(
    ("option", "value"),
    [("objective", "l2"), ("level", 1.0), ("draws", 0), ("audits", -1), ("fixed", "E")],
)
def test_an_option_without_meaning_is_refused_by_name(option, value):
    with pytest.raises(Refused) as refused:
        Options(**{option: value})
    assert refused.value.field == option
