"""Pages that are made from the code: every command's help, and the reference of every module."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from experiments.command.arguments import leaves
from experiments.command.main import espalier

# A package, and what its page says first.
PACKAGES = {
    "fitting": "From a table of runs to a law and its predictions. Needs numpy and SciPy alone.",
    "scaling": "Runs, plans, training on a mesh, and run tables.",
    "scaling.optimizers": "Optimizers, one file each.",
    "scaling.chips": "What a program would need on devices that are not here.",
    "models": "The Transformer, its parts and their accounting.",
    "data": "Corpora, mixtures and the order in which they are read.",
    "experiments.evidence": "Comparisons, laws, verdicts and figures of a study's report.",
}


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


def modules(package: Path) -> Iterator[Path]:
    """Gives a package's own public files, those of packages within it left out."""
    return (file for file in sorted(package.glob("*.py")) if not file.stem.startswith("_"))


def summary(file: Path) -> str:
    """Returns the first sentence of a module's docstring."""
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
    for package, words in PACKAGES.items():
        place = root.joinpath(*package.split("."))
        names = public(place)
        lines = [f"# {package}\n\n{words}\n"]
        if names:
            lines.append(f"Public names: {', '.join(f'`{name}`' for name in names)}.\n")
        lines.append("| Module | |\n| --- | --- |")
        for file in modules(place):
            module = f"{package}.{file.stem}"
            lines.append(f"| [`{module}`]({module}.md) | {summary(file)} |")
            text = f"# {module}\n\n[{package}]({package}.md)\n\n::: {module}\n"
            (folder / f"{module}.md").write_text(text, "utf-8")
        (folder / f"{package}.md").write_text("\n".join(lines) + "\n", "utf-8")
        first.append(f"- [`{package}`]({package}.md): {words}")
    (folder / "index.md").write_text("\n".join(first) + "\n", "utf-8")
