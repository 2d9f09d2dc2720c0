"""`espalier new`: a working file of one's own, and its test."""

import keyword
import re
from collections.abc import Container
from pathlib import Path

import click

from experiments.command import studies
from experiments.command.arguments import Command
from experiments.command.options import Place
from refused import Refused, listed

TEMPLATES = Path(__file__).parent / "templates"
NEXT = {
    "study": "espalier plan --config={file}",
    "law": "import {name}; fitting.fit('{name}', table)",
    "part": "import {name}; ModelConfig(..., feed_forward='{name}')",
    "optimizer": "import {name}; scaling.optimizers.named('{name}', learning_rate=1e-3)",
}


@click.command(cls=Command)
@click.argument("kind", metavar="|".join(NEXT))
@click.argument("name", metavar="NAME")
@click.option(
    "--out", type=Place(), default=".", show_default=True, metavar="FOLDER", help="where they go"
)
def command(kind: str, name: str, out: str) -> None:
    """Write a commented, working file to start from, and its test.

    \b
    espalier new study gated
    espalier new law log_tokens --out=mine
    espalier new part squared_relu
    """
    if kind not in NEXT:
        raise Refused("kind", kind, listed(NEXT, kind))
    name = name.replace("-", "_")
    if re.fullmatch(r"[a-z][a-z0-9_]*", name, re.ASCII) is None or keyword.iskeyword(name):
        raise Refused("name", name, "small letters, digits and _, a letter first, as in my_law")
    folder = Path(out)
    texts = {folder / f"{name}.py": f"{kind}.py", folder / f"test_{name}.py": f"test_{kind}.py"}
    for file in texts:
        if file.exists():
            raise Refused("name", name, f"one of which there is no {file} yet")
    refuse_taken(kind, name)
    folder.mkdir(parents=True, exist_ok=True)
    for file, template in texts.items():
        file.write_text(renamed((TEMPLATES / template).read_text("utf-8"), name), "utf-8")
    file = next(iter(texts))
    click.echo(f"{' and '.join(map(str, texts))} are written; the second tests the first:")
    click.echo(f"  python -m pytest {folder}")
    click.echo(f"then: {NEXT[kind].format(file=file, name=name)}")


def refuse_taken(kind: str, name: str) -> None:
    """Refuses a name that would hide what the file imports, or that is taken."""
    hidden = ("models", "data", "fitting", "scaling", "experiments", "refused", "espalier")
    hidden += ("jax", "flax", "numpy", "pandas", "optax", "pytest")
    if name in hidden:
        raise Refused("name", name, f"a name that no package has, as my_{name}")
    if name in taken(kind):
        raise Refused("name", name, f"a name that no {kind} has yet, as my_{name}")


def taken(kind: str) -> Container[str]:
    """Returns the names that a kind's registry has; a file of the same name would replace one."""
    if kind == "law":
        from fitting.laws import LAWS as found
    elif kind == "optimizer":
        from scaling.optimizers import OPTIMIZERS as found
    elif kind == "part":
        from models.transformer import PARTS

        found = PARTS["feed_forward"]
    else:
        found = studies.names()
    return found


def renamed(text: str, name: str) -> str:
    """Returns a template under another name: of a file, a class and a constant."""
    camel = "".join(word.capitalize() for word in name.split("_"))
    for old, new in (("example", name), ("Example", camel), ("EXAMPLE", name.upper())):
        text = re.sub(rf"\b{old}\b", new, text)
    return text
