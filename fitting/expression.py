"""Arithmetic and conditions as text: parsed into a tree and walked over arrays, never executed.

One parser serves a law's formula and a filter of rows. It knows numbers, names, + - * / **, the
functions in `FUNCTIONS`, comparisons, and, or, not, in; everything else is refused.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from fitting.columns import PARAMETER_COUNTS
from refused import Refused

_QUOTED = re.compile("`([^`]+)`")
_LONGEST, _DEEPEST = 2000, 60  # characters, and operations inside one another


def _smaller(first, second):
    return np.where(np.real(first) <= np.real(second), first, second)


def _larger(first, second):
    return np.where(np.real(first) >= np.real(second), first, second)


# Name -> (function, arguments). All take complex numbers: derivatives are complex steps.
FUNCTIONS: dict[str, tuple[Callable, int]] = {
    **{name: (getattr(np, name), 1) for name in ("exp", "log", "log10", "log2", "sqrt")},
    **{name: (getattr(np, name), 1) for name in ("log1p", "expm1", "tanh")},
    "abs": (lambda value: np.where(np.real(value) < 0, -value, value), 1),
    "min": (_smaller, 2),
    "max": (_larger, 2),
}
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_COMPARISONS = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_MEMBERSHIP = (ast.In, ast.NotIn)
_KNOWN = f"numbers, names, + - * / **, and {', '.join(FUNCTIONS)}"


def parse(text: str, field: str) -> ast.expr:
    """The checked tree of an expression.

    Args:
      text: the expression; field: what it is called in a refusal.

    Raises:
      Refused: text that does not parse, is too long or too deep, holds anything but `_KNOWN` and
        conditions, or a part of numbers alone that is not finite.
    """
    if len(text) > _LONGEST:
        raise Refused(field, f"{len(text)} characters", f"at most {_LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refused(field, _short(text), f"an expression of {_KNOWN}") from None
    _check(tree, field, 0)
    return tree


def name_of(node: ast.expr) -> str | None:
    """`loss` or `loss.c4` as text, None for a node that is no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        # A dotted name is one word of a table; nothing is ever looked up in an object.
        owner = name_of(node.value)
        return None if owner is None else f"{owner}.{node.attr}"
    return None


def names(node: ast.expr) -> list[str]:
    """Every name in a tree but those of functions, each once, in order."""
    if name_of(node) is not None:
        return [name_of(node)]
    parts = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    found = [name for part in parts for name in names(part)]
    return list(dict.fromkeys(found))


def evaluate(node: ast.expr, values: Mapping):
    """The number or array that an arithmetic tree gives for {name: number or array}."""
    if name_of(node) is not None:
        return values[name_of(node)]
    if isinstance(node, ast.Constant):
        return np.float64(node.value)
    if isinstance(node, ast.Call):
        function, _ = FUNCTIONS[node.func.id]
        return function(*(evaluate(argument, values) for argument in node.args))
    if isinstance(node, ast.UnaryOp):
        return _ARITHMETIC[type(node.op)](evaluate(node.operand, values))
    left, right = evaluate(node.left, values), evaluate(node.right, values)
    return _ARITHMETIC[type(node.op)](left, right)


def where(frame: pd.DataFrame, text: str) -> np.ndarray:
    """Which rows of a table meet a condition, bool (rows,).

    Args:
      frame: any table; `params` is its only parameter count where it has no such column.
      text: for instance `State == finished and params > 1e6`; a word that is no column is text,
        with or without quotes, when it is compared by ==, != or in. A column whose name is no
        plain word stands in backquotes, as in `eval/loss` < 5.

    Raises:
      Refused: as `parse`; an unknown column, text where a number belongs, no condition.
    """
    quoted = dict.fromkeys(_QUOTED.findall(text))
    for place, name in enumerate(quoted):
        if name not in frame:
            raise Refused("where", name, f"a column: {', '.join(map(str, frame))}")
        text = text.replace(f"`{name}`", f" quoted_{place}_ ")
        frame = frame.assign(**{f"quoted_{place}_": frame[name]})
    found = _condition(parse(text, "where"), frame, text)
    return np.broadcast_to(np.asarray(found, bool), (len(frame),))


def _check(node: ast.AST, field: str, depth: int):
    if depth > _DEEPEST:
        raise Refused(field, f"more than {_DEEPEST} operations in one another", "a simpler one")
    if name_of(node) is not None:
        return
    if isinstance(node, ast.Constant):
        if not isinstance(node.value, bool | int | float | str):
            raise Refused(field, _short(ast.unparse(node)), _KNOWN)
        parts = []
    elif isinstance(node, ast.Call):
        parts = _arguments(node, field)
    elif isinstance(node, ast.BinOp | ast.UnaryOp):
        known = isinstance(node.op, ast.Not) or type(node.op) in _ARITHMETIC
        if not known:
            other = "** for powers" if isinstance(node.op, ast.BitXor) else _KNOWN
            raise Refused(field, _short(ast.unparse(node)), other)
        parts = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
    elif isinstance(node, ast.BoolOp):
        parts = node.values
    elif isinstance(node, ast.Compare):
        if not all(type(op) in _COMPARISONS or isinstance(op, _MEMBERSHIP) for op in node.ops):
            raise Refused(field, _short(ast.unparse(node)), "== != < <= > >= in, not in")
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.Tuple | ast.List):
        parts = node.elts
    else:
        raise Refused(field, _short(ast.unparse(node)), _KNOWN)
    for part in parts:
        _check(part, field, depth + 1)
    _check_finite(node, field)


def _arguments(node: ast.Call, field: str) -> list[ast.expr]:
    called = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
    if called not in FUNCTIONS:
        raise Refused(field, _short(f"{called}(...)"), f"the functions {', '.join(FUNCTIONS)}")
    count = FUNCTIONS[called][1]
    starred = any(isinstance(argument, ast.Starred) for argument in node.args)
    if node.keywords or starred or len(node.args) != count:
        raise Refused(field, _short(ast.unparse(node)), f"{called} of {count}")
    return node.args


def _check_finite(node, field):
    """A part of numbers alone is worked out once, in floats: 9**9**9 is refused, not computed."""
    if not isinstance(node, ast.BinOp | ast.UnaryOp | ast.Call) or names(node):
        return
    if any(isinstance(part, ast.Not | ast.Compare | ast.BoolOp) for part in ast.walk(node)):
        return
    if any(isinstance(getattr(part, "value", 0), str) for part in ast.walk(node)):
        return
    with np.errstate(all="ignore"):
        value = evaluate(node, {})
    if not np.isfinite(value):
        raise Refused(field, _short(ast.unparse(node)), "numbers that stay finite")


def _condition(node: ast.expr, frame: pd.DataFrame, text: str):
    if isinstance(node, ast.BoolOp):
        parts = [np.asarray(_condition(part, frame, text), bool) for part in node.values]
        return np.logical_and.reduce(parts) if isinstance(node.op, ast.And) else _any(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~np.asarray(_condition(node.operand, frame, text), bool)
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        pairs = zip(sides[:-1], node.ops, sides[1:], strict=True)
        return np.logical_and.reduce([_compared(*pair, frame) for pair in pairs])
    name = name_of(node)
    if name in frame and frame[name].dtype == bool:
        return frame[name].to_numpy()
    raise Refused("where", _short(ast.unparse(node)), "comparisons joined by and, or, not")


def _any(parts):
    return np.logical_or.reduce(parts)


def _compared(left, op, right, frame: pd.DataFrame):
    if isinstance(op, _MEMBERSHIP):
        if not isinstance(right, ast.Tuple | ast.List):
            raise Refused("where", _short(ast.unparse(right)), "a list: COLUMN in (one, other)")
        found = [_compared(left, ast.Eq(), entry, frame) for entry in right.elts]
        inside = _any(found) if found else np.zeros(len(frame), bool)
        return ~inside if isinstance(op, ast.NotIn) else inside
    words = isinstance(op, ast.Eq | ast.NotEq)
    first, second = _side(left, frame, words), _side(right, frame, words)
    if _is_text(first) != _is_text(second):
        shown = f"{ast.unparse(left)} against {ast.unparse(right)}"
        raise Refused("where", _short(shown), "text with text or numbers with numbers")
    if _is_text(first) and not words:
        shown = _short(f"{ast.unparse(left)} {ast.unparse(right)}")
        raise Refused("where", shown, "numbers for < and >, == or != for text")
    compared = _COMPARISONS[type(op)](first, second)
    return np.broadcast_to(np.asarray(compared, bool), (len(frame),))


def _side(node: ast.expr, frame: pd.DataFrame, words: bool):
    """One side of a comparison: a column, a number, a text, or arithmetic on them."""
    name = name_of(node)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if name is not None and _column(name, frame) is None and words:
        return {"true": 1.0, "false": 0.0}.get(name.lower(), name)
    values = {}
    for used in names(node):
        column = _column(used, frame)
        if column is None:
            raise Refused("where", used, f"a column: {', '.join(map(str, frame))}")
        values[used] = column
    if name is None and any(map(_is_text, values.values())):
        raise Refused("where", _short(ast.unparse(node)), "arithmetic on columns of numbers")
    if isinstance(node, ast.BoolOp | ast.Compare | ast.Tuple | ast.List):
        raise Refused("where", _short(ast.unparse(node)), "a column, a number or a text")
    with np.errstate(all="ignore"):
        return evaluate(node, values)


def _column(name: str, frame: pd.DataFrame):
    if name == "params" and name not in frame:
        counts = [count for count in PARAMETER_COUNTS if count in frame]
        if len(counts) > 1:
            raise Refused("where", name, f"one of {', '.join(counts)}")
        name = counts[0] if counts else name
    if name not in frame:
        return None
    values = frame[name]
    if pd.api.types.is_numeric_dtype(values) or values.dtype == bool:
        return values.to_numpy(float)
    return values.astype(object).where(values.notna(), "").astype(str).to_numpy(object)


def _is_text(value) -> bool:
    return isinstance(value, str) or np.asarray(value).dtype == object


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
