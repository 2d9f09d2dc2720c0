"""How a command line is read: every spelling, and one line for what cannot be."""

import click
import pytest

from experiments.command.arguments import GIVEN, OVERRIDES, Commands, leaves, spelled, told
from experiments.command.main import COMMANDS, espalier, root
from refused import Refused
from tests.experiments.command.test_main import call


def context(*line: str) -> click.Context:
    """Returns the context of the command that a line names, parsed and not run."""
    root = espalier.make_context("espalier", list(line), **espalier.context_settings)
    group, rest = root, [*root._protected_args, *root.args]
    while isinstance(group.command, Commands):
        name, command, rest = group.command.resolve_command(group, rest)
        group = command.make_context(name, rest, parent=group)
        rest = [*group._protected_args, *group.args]
    return group


RUN = dict(store="x", stop_after=60.0, keep_params=True, mesh="data:1")


@pytest.mark.parametrize(
    "line",
    [
        "run --config=stem --store=x --stop-after=60 --keep-params --mesh=data:1",
        "run --config stem --store x --stop_after 60 --keep_params --mesh data:1",
        "--config=stem --store=x run --stop-after=6e1 --keep-params=true --mesh=data:1",
        "--config stem --keep_params --store x --mesh data:1 run --stop_after 60",
        "-config=stem -store x -stop_after=60 run -keep-params=1 -mesh data:1",
        "--keep-params --store=x run --config=stem --mesh=data:1 --stop-after=60",
    ],
)
def test_flags_are_read_in_every_place_and_spelling(line):
    found = context(*line.split())
    assert found.command_path == "espalier run"
    assert {name: found.params[name] for name in RUN} == RUN
    assert found.params["chosen"].file.stem == "stem"


@pytest.mark.parametrize("switch", ["--nokeep_params", "--no-keep-params", "--keep-params=false"])
def test_a_switch_is_set_off(switch):
    assert context("run", "--config=stem", switch).params["keep_params"] is False


def test_values_of_a_configuration_are_kept_as_written_in_their_order():
    given = ["--config.a=(1, 2)", "--config.b-c", "x=y", "--noconfig.d", "-config.e", "-1"]
    found = context("plan", *given, "--config=stem", "--config.f")
    assert found.meta[OVERRIDES] == {
        "a": "(1, 2)",
        "b_c": "x=y",
        "d": "false",
        "e": "-1",
        "f": None,
    }
    assert [name for name, _ in found.meta[GIVEN]][-2:] == ["--config", "--config.f"]


def test_flags_stand_before_both_words_of_a_command():
    found = context("--name=mine", "corpus", "--on-bad", "skip", "build", "--domain=a=b")
    assert found.command_path == "espalier corpus build"
    assert (found.params["name"], found.params["on_bad"]) == ("mine", "skip")
    assert found.params["domain"] == ("a=b",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run --config=stem --stroe=x", "flag: got --stroe; accepted: --.*; did you mean --store?"),
        ("run --config=stem --stop-aftre=6", "did you mean --stop-after?"),
        ("run --config=stem --store=", "--store: got nothing; accepted: FOLDER"),
        ("run --config=stem --store", "--store: got nothing; accepted: FOLDER"),
        ("run --config=stem --mesh --store=x", "--mesh: got nothing; accepted: AXIS"),
        ("run --config=stem --store=a --store=b", "--store: got a and b; accepted: it once"),
        ("run --config=stem --keep-params --nokeep-params", "--no-keep-params: got it twice"),
        ("run --config=stem --keep-params=x", "--keep-params: got x; accepted: no value, true"),
        ("run --config=stem --no-keep-params=x", "--no-keep-params: got x; accepted: no value"),
        ("run --config=stem --config=stem", "--config: got stem and stem; accepted: it once"),
        ("run --config=stem --config.a=1 --config.a=2", "config.a: got 1 and 2; accepted: one"),
        ("run --config=stem x", "argument: got x; accepted: flags only"),
        ("run --config=stem -- --store", "argument: got --store; accepted: flags only"),
        (
            "run --config=stem --law=x",
            "--law: got x; accepted: espalier compare, fit, explore, isoflop, schedule, not "
            "espalier",
        ),
        ("fit --law=a --table=b --config.c=1", "config.c: got a value; accepted: espalier fit has"),
        ("fit --law=chinchilla", "--table: got nothing; accepted: FILE: a table"),
        ("rnu", "command: got rnu; accepted: plan, run, .*; did you mean run?"),
        ("--store=x", "command: got none; accepted: plan"),
        ("--vresion", "flag: got --vresion; accepted: --version, --help; did you mean --version?"),
        ("corpus shwo", "command: got corpus shwo; accepted: .*; did you mean corpus show?"),
        ("completion", "shell: got nothing; accepted: espalier completion .*bash|zsh|fish"),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(line, message):
    with pytest.raises(Refused) as refused:
        context(*line.split())
    start, _, end = message.partition(".*")
    assert str(refused.value).startswith(start) or start in str(refused.value)
    assert end in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "soon", ""])
@pytest.mark.parametrize("flag", ["stop-after", "checkpoint-seconds", "join-seconds"])
def test_seconds_are_finite_and_not_negative(flag, value):
    with pytest.raises(Refused, match=f"--{flag}: got "):
        context("run", "--config=stem", f"--{flag}={value}")


def test_hyphens_are_underscores_in_names_but_not_in_values():
    assert spelled("--stop_after=6_0") == ("--stop-after", "=", "6_0")
    assert spelled("--config.a-b=1-2") == ("--config.a_b", "=", "1-2")
    assert spelled("-mesh") == ("--mesh", "", "")


def test_each_command_says_what_it_does_with_an_example_and_only_its_own_flags(capsys):
    top = root()
    every = dict(leaves(espalier, top))
    assert {words.split()[0] for words in every} == set(COMMANDS)
    for words, command in every.items():
        code, out, err = call(capsys, *words.split(), "--help")
        assert (code, err) == (0, "") and call(capsys, "help", *words.split()) == (0, out, "")
        assert out.startswith(f"Usage: espalier {words} ")
        assert words == "help" or out.count(f"espalier {words}") >= 2, out
        own = {option.opts[-1] for option in command.params if isinstance(option, click.Option)}
        lines = [line for line in out.splitlines() if line.startswith("  --")]
        assert own == {line.split()[0] for line in lines}
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, option


def test_a_mistake_of_click_is_one_line_too(capsys):
    @click.command()
    @click.option("--a", type=int)
    def command(a):
        """Does nothing."""

    assert told(command, ["--a=x"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("espalier: Invalid value") and err.count("\n") == 1


def test_an_interruption_is_told(capsys):
    @click.command()
    def command():
        raise KeyboardInterrupt

    assert told(command, []) == 130
    assert "the same command goes on" in capsys.readouterr().err
