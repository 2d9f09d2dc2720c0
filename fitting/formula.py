"""A law of the user's own, as text: `E + A*params**-a + B*tokens**-b`."""

import ast
from collections.abc import Iterable
from difflib import get_close_matches

import numpy as np

from fitting.bounds import bounded, read_bounds
from fitting.columns import COLUMNS, unit
from fitting.expression import evaluate, name_of, names, parse
from fitting.law import Law, Parameter
from refused import Refused

_COUNT = "params"  # The parameter count that a fit is told to use.
# Where searches start without bounds: powers, and numbers of any size.
_POWER, _ANY = (0.02, 2.0), (1e-3, 1e6)


def formula_law(
    text: str, bounds=None, columns: Iterable[str] | None = None, name: str = "formula"
) -> Law:
    """A `Law` from a formula.

    A name that is a column is a predictor, every other one a parameter. Parameters that multiply a
    whole summand are solved for; the others are searched, in their bounds where they have some.
    Parameters are positive unless their bounds reach below zero.

    Args:
      text: the formula, or `TARGET = formula`; bounds: as `read_bounds` reads them.
      columns: of the table; the known column names by default.

    Raises:
      Refused: as `parse`; no predictor or no parameter; a parameter that looks like a misspelt
        column and has no bounds; bounds on what is no parameter.
    """
    target, tree = _sides(text)
    bounds = read_bounds(bounds)
    used = names(tree)
    predictors = tuple(word for word in used if _is_column(word, columns))
    unknown = [word for word in used if word not in predictors]
    _check_names(text, predictors, unknown, bounds, columns)
    summands = _summands(tree)
    once = {word for word in unknown if _count(tree, word) == 1}
    linear = [_coefficient(summand, once) for summand in summands]
    taken = [word for word in dict.fromkeys(linear) if word is not None]
    powers = _in_powers(tree)
    searched = [word for word in unknown if word not in taken]
    parameters = (
        *(_parameter(word, None, bounds) for word in taken),
        *(_parameter(word, _POWER if word in powers else _ANY, bounds) for word in searched),
    )
    law = Law(
        name=name,
        formula=f"{target} = {ast.unparse(tree)}",
        predictors=predictors,
        parameters=parameters,
        terms=_terms(summands, linear, taken, searched, predictors),
        target=target,
        identified_by="runs that vary every predictor, more of them than parameters",
        source="the user's formula",
    )
    return bounded(law, {key: ends for key, ends in bounds.items() if ends[0] >= 0})


def formula_names(text: str) -> tuple[str, ...]:
    """The names in a formula and its target, columns and parameters alike; Refused as `parse`."""
    target, tree = _sides(text)
    return (*names(tree), target)


def _sides(text: str) -> tuple[str, ast.expr]:
    """(target, tree) of `formula` or `TARGET = formula`."""
    left, equals, right = text.partition("=")
    target = left.strip() if equals and not right.startswith("=") else "loss"
    if equals and (not all(part.isidentifier() for part in target.split("."))):
        raise Refused("formula", text[:60], "a formula, or TARGET = formula")
    tree = parse(right if equals else text, "formula")
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.BoolOp | ast.Tuple | ast.List | ast.Not):
            raise Refused("formula", ast.unparse(node)[:60], "arithmetic, without conditions")
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bool):
            raise Refused("formula", repr(node.value)[:60], "numbers and names")
    return target, tree


def _is_column(word: str, columns) -> bool:
    if columns is None:
        return word == _COUNT or unit(word) is not None
    return word == _COUNT or word in set(map(str, columns))


def _check_names(text, predictors, unknown, bounds, columns):
    known = [*map(str, COLUMNS if columns is None else columns), _COUNT]
    for word in unknown:
        near = get_close_matches(word, known, 1, 0.8) if len(word) > 3 else []
        if (near or "." in word) and word not in bounds:
            told = f"{near[0]}, or bounds for {word}" if near else f"a column: {', '.join(known)}"
            raise Refused("formula", word, told)
    if not predictors:
        raise Refused("formula", text[:60], f"at least one column: {', '.join(known)}")
    if not unknown:
        raise Refused("formula", text[:60], "at least one parameter to fit")
    for word in bounds:
        if word not in unknown:
            raise Refused("bounds", word, f"parameters of the formula: {', '.join(unknown)}")


def _summands(node: ast.expr, sign: float = 1.0) -> list[tuple[float, ast.expr]]:
    """The parts of a sum with their signs."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        other = sign if isinstance(node.op, ast.Add) else -sign
        return [*_summands(node.left, sign), *_summands(node.right, other)]
    if isinstance(node, ast.UnaryOp):
        return _summands(node.operand, -sign if isinstance(node.op, ast.USub) else sign)
    return [(sign, node)]


def _factors(node: ast.expr) -> list[ast.expr]:
    """What multiplies in a product, divisors left out."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*_factors(node.left), *_factors(node.right)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _factors(node.left)
    return [node]


def _coefficient(summand, once: set[str]) -> str | None:
    """The parameter that multiplies a summand and stands nowhere else, None if there is none."""
    found = [name_of(factor) for factor in _factors(summand[1])]
    return next((word for word in found if word in once), None)


def _count(tree: ast.expr, word: str) -> int:
    return sum(isinstance(n, ast.Name) and n.id == word for n in ast.walk(tree))


def _in_powers(tree: ast.expr) -> set[str]:
    """Names inside an exponent."""
    powers = [node.right for node in ast.walk(tree) if isinstance(getattr(node, "op", 0), ast.Pow)]
    return {word for power in powers for word in names(power)}


def _parameter(word: str, start, bounds) -> Parameter:
    low, high = bounds.get(word, (0.0, 0.0))
    if low < 0:
        box = None if start is None else (low, high)
        return Parameter(word, "as in the formula", low, high, box, positive=False)
    if start == _POWER:
        return Parameter(word, "as in the formula", 1e-4, 10.0, start)
    return Parameter(word, "as in the formula", start=start)


def _terms(summands, linear, taken, searched, predictors):
    """The function that a `Law` calls: one array for each solved parameter, then the rest."""

    def terms(columns, *shape):
        values = dict(zip(searched, shape, strict=True)) | dict.fromkeys(taken, 1.0)
        values |= {word: columns[word] for word in predictors}
        total, rest = dict.fromkeys(taken, 0.0), None
        with np.errstate(all="ignore"):
            for (sign, node), word in zip(summands, linear, strict=True):
                part = sign * evaluate(node, values)
                if word is None:
                    rest = part if rest is None else rest + part
                else:
                    total[word] = total[word] + part
        return (*total.values(), *(() if rest is None else (rest,)))

    return terms
