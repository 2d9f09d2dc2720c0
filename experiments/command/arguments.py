"""How a command line is read: spellings, flags in any place, and what is told of a mistake.

Click declares commands, converts values and writes help and completion. What stands here is what
it lets pass: flags before the command, underscores, one hyphen, `--noflag`, a flag given twice or
empty, and the values of a configuration, which are known only once its study has been opened.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence

import click
from click.shell_completion import CompletionItem

from refused import Refused, listed

GIVEN = "espalier.given"  # In a context's meta: all flags, (name, value or None), in their order.
OVERRIDES = "espalier.overrides"  # Those of them that are a configuration's values, by its names.

CONFIG = "--config."
TRUE, FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


class Command(click.Command):
    """A command of flags, whose mistakes are told as `Refused`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads flags and words, and hands them to click in its own spelling."""
        if ctx.resilient_parsing:  # Of a line that a shell completes, and that need not be whole.
            return super().parse_args(ctx, [a for a in args if not a.startswith(CONFIG)])
        known = flags(self, ctx)
        given, words = read(self, ctx, known, args)
        if any(name in ctx.help_option_names for name, _ in given):
            return super().parse_args(ctx, ["--help"])
        ctx.meta[GIVEN] = given
        ctx.meta[OVERRIDES] = values = {
            name[len(CONFIG) :]: value for name, value in given if name.startswith(CONFIG)
        }
        if values and "--config" not in known:
            raise Refused(f"config.{next(iter(values))}", "a value", f"{ctx.command_path} has none")
        own = [written(flag) for flag in given if not flag[0].startswith(CONFIG)]
        most = sum(isinstance(param, click.Argument) for param in self.params)
        if len(words) > most and not any(param.nargs == -1 for param in self.params):
            raise Refused("argument", words[most], "flags only, as in --config=STUDY:PRESET")
        try:
            return super().parse_args(ctx, [*own, "--", *words])
        except click.MissingParameter as missing:
            param = missing.param
            if isinstance(param, click.Option):
                accepted = f"{param.metavar}: {param.help}"
                raise Refused(param.opts[0], "nothing", accepted) from None
            raise Refused(param.name, "nothing", self.collect_usage(ctx)) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completes flags, and the names of the values of a study that stands before."""
        if not incomplete.startswith(CONFIG):
            return super().shell_complete(ctx, incomplete)
        for param in self.params:
            chosen = ctx.params.get(param.name)
            if "--config" in param.opts and chosen is not None:
                every = [f"{CONFIG}{name}=" for name in param.type.names_of(chosen)]
                return [CompletionItem(flag) for flag in every if flag.startswith(incomplete)]
        return []

    def collect_usage(self, ctx: click.Context) -> str:
        """Returns how the command is called, in one line."""
        return " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])


class Commands(click.Group):
    """Commands by name; one that is a file of this folder is imported when it is asked for."""

    command_class = Command

    def __init__(self, *args, files: Sequence[str] = (), **settings):
        super().__init__(*args, **settings)
        self.files = files
        self.no_args_is_help = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Lists the names, in the order in which they are declared."""
        return [*self.files, *self.commands]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Returns a command; importing it costs milliseconds, what it needs comes when it runs."""
        name = name.replace("_", "-")
        if name in self.files:
            return importlib.import_module(f"experiments.command.{name}").command
        return super().get_command(ctx, name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the command before the flags.

        Raises:
          Refused: no command, or an unknown one.
        """
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        own = flags(self, ctx)
        if args and args[0].startswith("-") and spelled(args[0])[0] in own:
            args = [spelled(args[0])[0]]
        else:
            index = next(words_of(args, valued(ctx.find_root())), None)
            got = args[index] if index is not None else None
            if got is None and args and not known_flag(ctx.find_root(), spelled(args[0])[0]):
                raise Refused(
                    "flag", args[0], listed((flag for flag in own if flag[:2] == "--"), args[0])
                )
            if got is None or self.get_command(ctx, got) is None:
                path = ctx.command_path.split()[1:]
                known = [" ".join([*path, name]) for name in self.list_commands(ctx)]
                asked = " ".join([*path, *([got] if got else [])])
                raise Refused("command", asked or "none", listed(known, asked))
            args = [got.replace("_", "-"), *args[:index], *args[index + 1 :]]
        return super().parse_args(ctx, args)


def flags(command: click.Command, ctx: click.Context) -> dict[str, click.Option]:
    """Returns a command's options by their long names, those of a switch that is off included."""
    options = [param for param in command.get_params(ctx) if isinstance(param, click.Option)]
    return {name: option for option in options for name in option.opts + option.secondary_opts}


def leaves(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Gives every command below one, by its words."""
    if not isinstance(command, click.Group):
        yield "", command
        return
    for name in command.list_commands(ctx):
        for words, leaf in leaves(command.get_command(ctx, name), ctx):
            yield f"{name} {words}".strip(), leaf


def valued(root: click.Context) -> set[str]:
    """Returns the flags of all commands that take a value."""
    every = [flags(leaf, root) for _, leaf in leaves(root.command, root)]
    return {name for known in every for name, option in known.items() if not option.is_flag}


def known_flag(root: click.Context, name: str) -> bool:
    """Says whether any command has a flag."""
    return name.startswith(CONFIG) or any(
        name in flags(leaf, root) for _, leaf in leaves(root.command, root)
    )


def words_of(args: Sequence[str], valued: set[str]) -> Iterator[int]:
    """Gives the places of what is neither a flag nor a flag's value."""
    skip = False
    for index, token in enumerate(args):
        if skip:
            skip = False
        elif token.startswith("-") and token != "-":
            name, equals, _ = spelled(token)
            skip = not equals and (name in valued or name.startswith(CONFIG))
        else:
            yield index


def spelled(token: str) -> tuple[str, str, str]:
    """Returns a flag as it is declared, an equals sign if there is one, and its value.

    Underscores are hyphens, and one hyphen in front is two; the names of a configuration's values
    have underscores, as in `--config.batch_tokens`.
    """
    name, equals, value = token.partition("=")
    if name == "-h":
        return name, equals, value
    name = f"--{name.lstrip('-')}"
    for prefix in ("--noconfig.", "--no-config."):  # Of a value that is off.
        if name.startswith(prefix):
            name, equals, value = CONFIG + name[len(prefix) :], "=", "false"
    if name.startswith(CONFIG):
        return CONFIG + name[len(CONFIG) :].replace("-", "_"), equals, value
    return name.replace("_", "-"), equals, value


def written(flag: tuple[str, str | None]) -> str:
    """Returns a flag as click and a shell read it."""
    name, value = flag
    return name if value is None else f"{name}={value}"


def read(
    command: click.Command, ctx: click.Context, known: dict[str, click.Option], args: Sequence[str]
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Returns flags with their values (None of a switch), and words.

    Raises:
      Refused: an unknown flag, one given twice, or one without its value.
    """
    given: list[tuple[str, str | None]] = []
    words: list[str] = []
    rest = list(args)
    while rest:
        token = rest.pop(0)
        if token == "--":
            return given, words + rest
        if not token.startswith("-") or token == "-":
            words.append(token)
            continue
        name, equals, value = spelled(token)
        if name.startswith(CONFIG):
            value = value if equals else following(rest)
        else:
            option = option_of(command, ctx, known, name, value if equals else following(rest[:1]))
            if option.is_flag:
                name, value = switched(option, name, value if equals else None), None
            else:
                value = value if equals else following(rest)
                if value is None or (value == "" and option.default != ""):
                    raise Refused(name, "nothing", f"{option.metavar}: {option.help}")
            refuse_twice(option, name, value, given)
        if name.startswith(CONFIG) and name in dict(given):
            raise Refused(name[2:], f"{dict(given)[name]} and {value}", "one value")
        given.append((name, value))
    return given, words


def following(rest: list[str]) -> str | None:
    """Takes the token after a flag as its value, unless it is a flag."""
    return rest.pop(0) if rest and not rest[0].startswith("--") else None


def option_of(command, ctx, known, name: str, value: str | None) -> click.Option:
    """Returns the option of a flag, also of `--noflag` and `--no-flag`.

    Raises:
      Refused: the command has no such flag; names the nearest, or the commands that have it.
    """
    for other in (name, "--no-" + name[len("--no") :] if name.startswith("--no") else name):
        if other in known:
            return known[other]
    root = ctx.find_root()
    having = [words for words, leaf in leaves(root.command, root) if name in flags(leaf, root)]
    if having:
        shown = "a value" if value is None else value
        accepted = f"{root.info_name} {', '.join(having)}, not {ctx.command_path}"
        raise Refused(name, shown, accepted)
    raise Refused(
        "flag", name, listed(sorted({option.opts[-1] for option in known.values()}), name)
    )


def switched(option: click.Option, name: str, value: str | None) -> str:
    """Returns the name with which a switch is set as asked: `--flag`, `--noflag`, `--flag=false`.

    Raises:
      Refused: a value that is neither true nor false, or one that the switch cannot be set to.
    """
    on = name in option.opts
    if value is not None and (not on or value.lower() not in TRUE + FALSE):
        raise Refused(name, value, "no value, true or false" if on else "no value")
    if value is not None:
        on = value.lower() in TRUE
    names = option.opts if on else option.secondary_opts
    if not names:  # --help and --version.
        raise Refused(name, value, "no value")
    return name if name in names else names[0]


def refuse_twice(option: click.Option, name: str, value: str | None, given) -> None:
    """Refuses a flag that was given before, unless it may be repeated."""
    before = [v for n, v in given if n in option.opts + option.secondary_opts]
    if before and not option.multiple:
        shown = "it twice" if value is None else f"{before[0]} and {value}"
        raise Refused(name, shown, "it once")


def told(command: click.Command, args: Sequence[str], name: str = "espalier") -> int:
    """Runs a command and returns its exit code: 2, with one line, for what a user got wrong."""
    try:
        return command.main(list(args), prog_name=name, standalone_mode=False) or 0
    except Refused as error:
        print(f"espalier: {error}", file=sys.stderr)
        return 2
    except click.ClickException as error:  # None is known that was not refused before.
        print(f"espalier: {' '.join(error.format_message().split())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort):
        print("espalier: interrupted; the same command goes on", file=sys.stderr)
        return 130
