"""What a study's file declares, read from its text: presets and names of values, for completion.

Importing a study costs a second; a shell that completes a word asks at every key.
"""

import ast
from pathlib import Path

SHARED = Path(__file__).resolve().parents[1] / "evidence" / "study.py"  # Of CPU and GPU.


def presets(file: Path) -> dict[str, list[str]]:
    """Returns the names of a study's values by preset; none of a file that says it otherwise."""
    try:
        known = assigned(SHARED) | assigned(file)
    except (OSError, SyntaxError, ValueError):
        return {}
    found = known.get("PRESETS")
    if not isinstance(found, ast.Dict):
        return {}
    return {
        key.value: sorted(set(names(value, known)))
        for key, value in zip(found.keys, found.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }


def assigned(file: Path) -> dict[str, ast.expr]:
    """Returns what a file assigns to names at its top."""
    return {
        target.id: node.value
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def names(value: ast.expr, known: dict[str, ast.expr]) -> list[str]:
    """Returns the keys of an expression that makes a dict, as far as its text says them."""
    match value:
        case ast.Name(id=name) if name in known:
            rest = {other: what for other, what in known.items() if other != name}
            return names(known[name], rest)
        case ast.BinOp(op=ast.BitOr()):
            return names(value.left, known) + names(value.right, known)
        case ast.Call(func=ast.Name(id="dict")):
            inside = [name for argument in value.args for name in names(argument, known)]
            for keyword in value.keywords:
                inside += [keyword.arg] if keyword.arg else names(keyword.value, known)
            return inside
        case ast.Dict():
            keys = [key.value for key in value.keys if isinstance(key, ast.Constant)]
            return [key for key in keys if isinstance(key, str)]
    return []
