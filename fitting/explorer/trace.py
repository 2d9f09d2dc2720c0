"""A law's own Python function written down as JavaScript: it is called with names for numbers.

The functions of a law are arithmetic of numpy on their arguments. Called with a `Traced` for each
argument, every operation writes one line of JavaScript instead of computing, so that a page
computes by the same formula as Python, from one source, for any law.
"""

import json
from collections.abc import Mapping

import numpy as np

from fitting.dual import Dual, slope_of
from fitting.held_out import along
from fitting.law import Law, combine
from refused import Refused

_BINARY = {
    **{"add": "+", "subtract": "-", "multiply": "*", "divide": "/"},
    **{"greater": ">", "greater_equal": ">=", "less": "<", "less_equal": "<="},
    **{"equal": "===", "not_equal": "!==", "bitwise_and": "&", "bitwise_or": "|"},
}
_CALLS = {
    **{name: name for name in ("exp", "log", "log2", "log10", "log1p", "expm1", "sqrt", "tanh")},
    **{"absolute": "abs", "minimum": "min", "maximum": "max", "power": "pow"},
}
_SIGNS = {"negative": "-", "positive": "+"}


class Program:
    """Lines of JavaScript, each computing one value; equal lines are written once."""

    def __init__(self):
        self.lines: dict[str, str] = {}

    def line(self, text: str) -> "Traced":
        """The value that an expression computes."""
        return Traced(self, self.lines.setdefault(text, f"v{len(self.lines)}"))

    def function(self, arguments: str, result: str) -> str:
        """The lines as one JavaScript function."""
        body = "".join(f"const {name}={text};" for text, name in self.lines.items())
        return f"({arguments})=>{{{body}return {result};}}"


class Traced(np.lib.mixins.NDArrayOperatorsMixin):
    """Stands for one number of a program; operations of numpy on it write lines."""

    def __init__(self, program: Program, code: str):
        self.program, self.code = program, code

    def __array_ufunc__(self, ufunc, method, *inputs, **settings):
        """Writes the line of an operation."""
        if any(isinstance(value, Dual) for value in inputs):
            return NotImplemented
        name, codes = ufunc.__name__, [code_of(value) for value in inputs]
        if method == "__call__" and not settings:
            if name in _BINARY:
                return self.program.line(f"{codes[0]}{_BINARY[name]}{codes[1]}")
            if name in _CALLS:
                return self.program.line(f"Math.{_CALLS[name]}({','.join(codes)})")
            if name in _SIGNS:
                return self.program.line(f"{_SIGNS[name]}{codes[0]}")
        raise Refused("law", f"numpy.{name}", f"{', '.join([*_BINARY, *_CALLS, *_SIGNS])}, where")

    def __array_function__(self, function, types, args, settings):
        """Writes the line of a choice; the real part of a real number is itself."""
        if Dual in types:
            return NotImplemented
        if function is np.real:
            return args[0]
        if function is np.where and len(args) == 3:
            test, first, second = map(code_of, args)
            return self.program.line(f"{test}?{first}:{second}")
        raise Refused("law", f"numpy.{function.__name__}", "where, and arithmetic")


def code_of(value) -> str:
    """The JavaScript of a traced value or of a number."""
    value = value.item() if isinstance(value, np.ndarray) else value
    if isinstance(value, Traced):
        return value.code
    number = float(value)
    if not np.isfinite(number):
        return "NaN" if np.isnan(number) else ("Infinity" if number > 0 else "(-Infinity)")
    return repr(number) if number >= 0 else f"({number!r})"


def prediction(law: Law) -> str:
    """JavaScript `(x, p) => target` of a law: x in the order of its predictors, p of its names."""
    program = Program()
    columns = {name: Traced(program, f"x[{i}]") for i, name in enumerate(law.predictors)}
    values = [Traced(program, f"p[{i}]") for i in range(len(law.names))]
    total = combine(law, law.terms(columns, *values[law.linear_count :]), values)
    return program.function("x,p", code_of(np.power(10.0, total) if _log10(law) else total))


def slope(law: Law) -> str:
    """JavaScript `(x, p) => slope` of a law that allocates, before its link, in log size along a
    budget of size times tokens.
    """
    program = Program()
    columns = {name: Traced(program, f"x[{i}]") for i, name in enumerate(law.predictors)}
    for name, sign in ((law.size, 1.0), ("tokens", -1.0)):
        columns[name] = Dual(columns[name], sign * columns[name])
    values = [Traced(program, f"p[{i}]") for i in range(len(law.names))]
    found = slope_of(combine(law, law.terms(columns, *values[law.linear_count :]), values))
    return program.function("x,p", code_of(0.0 if found is None else found))


def allocation(law: Law) -> str | None:
    """JavaScript `(p, flops, x) => [params, tokens]` of a law's closed form, None without one."""
    if law.allocation is None:
        return None
    program = Program()
    parameters = {name: Traced(program, f"p[{i}]") for i, name in enumerate(law.names)}
    settings = {name: Traced(program, f"x[{i}]") for i, name in enumerate(law.predictors)}
    found = law.allocation(parameters, Traced(program, "flops"), settings)
    return program.function("p,flops,x", f"[{code_of(found['params'])},{code_of(found['tokens'])}]")


def place(direction: str, params: str | None, columns) -> str:
    """JavaScript `(c) => log place` of a row {column: value} along a misfit's direction.

    Raises:
      Refused: columns that do not tell the place.
    """
    program = Program()
    row = _Row({name: Traced(program, f"c[{json.dumps(name)}]") for name in columns})
    return program.function("c", code_of(along(row, direction, params)))


def _log10(law: Law) -> bool:
    return law.link == "log10"


class _Row:
    """One traced row where `along` reads `Observations`."""

    def __init__(self, frame: Mapping[str, Traced]):
        self.frame = frame

    def column(self, name: str) -> Traced:
        """A column; Refused where there is none."""
        if name not in self.frame:
            raise Refused("column", name, ", ".join(self.frame))
        return self.frame[name]

    def params_column(self, params: str | None) -> str:
        """The parameter count that is meant."""
        return params or "params_total"
