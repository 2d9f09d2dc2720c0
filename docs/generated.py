"""Pages that are made from the code: every command's help, and the reference of every module."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from experiments.command.arguments import leaves
from experiments.command.main import espalier

# Whose modules have a reference; with every package within them.
ROOMS = ("fitting", "scaling", "models", "data", "experiments/evidence")


def commands(page: Path) -> None:
    """Writes every command's help, as the command line itself declares it."""
    root = click.Context(espalier, info_name="espalier")
    parts = [
        "# Every command's help\n\nThe same as `espalier COMMAND --help` prints. "
        "[The command](command.md) says what the commands are for.\n"
    ]
    for words, leaf in leaves(espalier, root):
        context = click.Context(leaf, root, words)
        options = [param for param in leaf.params if isinstance(param, click.Option)]
        parts.append(f"## espalier {words}\n\n{described(leaf)}\n")
        parts += [f"- {option(param, context)}" for param in options]
        parts.append("")
    page.write_text("\n".join(parts), "utf-8")


def described(command: click.Command) -> str:
    """Returns what a command says of itself, its examples as they are typed."""
    text, _, examples = inspect.cleandoc(command.help).partition("\n\n\b\n")
    return f"{text}\n\n```sh\n{examples}\n```" if examples else text


def option(param: click.Option, context: click.Context) -> str:
    """Returns an option's names and meaning in one line."""
    names, meaning = param.get_help_record(context)
    plain = re.sub(r"([*_<>])", r"\\\1", re.sub(r" +", " ", meaning))
    return f"`{names}` {plain}"


def packages(root: Path) -> Iterator[Path]:
    """Gives the folders of the rooms and of the packages within them."""
    for room in ROOMS:
        yield from (file.parent for file in sorted((root / room).rglob("__init__.py")))


def summary(file: Path) -> str:
    """Returns the first paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def public(package: Path) -> list[str]:
    """Returns the names that a package gives to its users, its `__all__`."""
    for node in ast.parse((package / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    return []


def reference(folder: Path, root: Path) -> None:
    """Writes a page for each package and each of its modules."""
    folder.mkdir()
    first = ["# Python reference\n\nMade from docstrings. Each package lists its modules.\n"]
    for place in packages(root):
        package, words = place.relative_to(root).as_posix().replace("/", "."), place / "__init__.py"
        lines = [f"# {package}\n\n{summary(words)}\n"]
        if names := public(place):
            lines.append(f"Public names: {', '.join(f'`{name}`' for name in names)}.\n")
        lines.append("| Module | |\n| --- | --- |")
        for file in sorted(place.glob("[!_]*.py")):
            module = f"{package}.{file.stem}"
            lines.append(f"| [`{module}`]({module}.md) | {summary(file)} |")
            text = f"# {module}\n\n[{package}]({package}.md)\n\n::: {module}\n"
            (folder / f"{module}.md").write_text(text, "utf-8")
        (folder / f"{package}.md").write_text("\n".join(lines) + "\n", "utf-8")
        first.append(f"- [`{package}`]({package}.md): {summary(words)}")
    (folder / "index.md").write_text("\n".join(first) + "\n", "utf-8")
