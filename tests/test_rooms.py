"""The rooms of the house: imports point down and never round, and each room holds what it says."""

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUDIES = "experiments"  # The files at the top of that folder; the folders in it are rooms.

# What each room may import beside itself. Evidence knows no study and no command, and nobody but
# the console script's entry knows the command.
BELOW = {
    "refused": set(),
    "models": {"refused"},
    "data": {"refused"},
    "fitting": {"refused"},
    "scaling": {"models", "data", "refused"},
    "experiments.evidence": {"scaling", "models", "data", "fitting", "refused"},
}
BELOW[STUDIES] = BELOW["experiments.evidence"] | {"experiments.evidence"}
BELOW["experiments.bench"] = BELOW[STUDIES] | {STUDIES}
BELOW["experiments.command"] = BELOW[STUDIES] | {STUDIES}
BELOW["espalier"] = {"experiments.command"}

MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for top in sorted({room.partition(".")[0] for room in BELOW})
    for file in ([ROOT / f"{top}.py"] if not (ROOT / top).is_dir() else (ROOT / top).rglob("*.py"))
}


def room_of(module: str) -> str:
    """Returns the room of a module: its folder, or in `experiments` the folder below."""
    parts = module.split(".")
    inside = parts[0] == "experiments" and (ROOT.joinpath(*parts[:2]).is_dir())
    return ".".join(parts[: 2 if inside else 1])


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Gives every import of a file with its line, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            if isinstance(node.args[0], ast.Constant):
                yield node.args[0].value, node.lineno


def graph(modules: dict[str, Path]) -> dict[str, dict[str, int]]:
    """Returns for each module those that it imports, with the line."""
    found = {}
    for module, file in modules.items():
        every = imports(ast.parse(file.read_text("utf-8")))
        found[module] = {name: line for name, line in every if name in modules}
    return found


@functools.cache
def imported() -> dict[str, dict[str, int]]:
    """Returns the graph of the whole house, read when the first test asks and not at collection."""
    return graph(MODULES)


def circle(found: dict) -> list[str] | None:
    """Returns modules of which each imports the next, the last one the first; None without any."""
    try:
        graphlib.TopologicalSorter(found).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_no_two_files_import_each_other():
    found = circle(imported())
    assert found is None, " <- ".join(found)


def test_a_circle_is_found_however_it_is_imported(tmp_path, monkeypatch):
    texts = {
        "a": "def f():\n    from b import x",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import c",
        "c": "import importlib\nimportlib.import_module('a')",
        "d": "import a, b, c",
    }
    modules = {name: tmp_path / f"{name}.py" for name in texts}
    for name, text in texts.items():
        modules[name].write_text(text)
    assert set(circle(graph(modules))) == {"a", "b", "c"}
    modules["c"].write_text("")
    assert circle(graph(modules)) is None


@pytest.mark.parametrize("room", BELOW)
def test_imports_point_down(room):
    assert any(room_of(module) == room for module in MODULES), f"{room} is empty"
    upward = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for module, found in imported().items()
        if room_of(module) == room
        for name, line in found.items()
        if room_of(name) not in BELOW[room] | {room}
    ]
    assert not upward, "\n".join(upward)


def test_every_file_is_in_a_room():
    assert {room_of(module) for module in MODULES} == set(BELOW)


def test_the_top_of_experiments_holds_studies_only():
    for file in (ROOT / "experiments").glob("*.py"):
        defined = set()
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                defined.add(node.name)
            elif isinstance(node, ast.Assign):
                defined |= {ast.unparse(target) for target in node.targets}
        wanted = set() if file.name == "__init__.py" else {"get_config", "study"}
        assert wanted <= defined, f"{file.name} is no study: it belongs into a folder below"


def test_there_is_one_way_to_refuse():
    found = [
        str(file.relative_to(ROOT))
        for file in MODULES.values()
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and node.name == "Refused"
    ]
    assert found == ["refused.py"]
