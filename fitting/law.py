"""A law as data: formula, predictors, parameters with units and bounds, source."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

_STEP = 1e-30  # complex step: the derivative is exact to rounding for any step this small


@dataclass(frozen=True)
class Parameter:
    """One fitted number of a law.

    `low`, `high` are bounds; `start` is the box that grids and random starts are drawn from (shape
    parameters only: linear ones come from a linear solve). `positive` ones are searched in log.
    """

    name: str
    unit: str = "1"
    low: float = 1e-8
    high: float = 1e30
    start: tuple[float, float] | None = None
    positive: bool = True

    @property
    def linear(self) -> bool:
        """Whether the prediction is linear in this parameter, given those with a start box."""
        return self.start is None

    def to_search(self, value):
        """Value -> search coordinate."""
        return np.log(value) if self.positive else value

    def from_search(self, coordinate):
        """Search coordinate -> value."""
        return np.exp(coordinate) if self.positive else coordinate


def exponent(name: str, low: float = 1e-3, high: float = 3.0, start=(0.05, 0.9)) -> Parameter:
    """A power-law exponent."""
    return Parameter(name, "1", low, high, start)


SIZES = ("params", "params_total", "params_non_embedding", "params_active")


@dataclass(frozen=True, kw_only=True)
class Use:
    """A question that a fitted law answers.

    Attributes:
      about: one line, what is answered and under which assumption.
      settings: {name: unit} that the question needs, one number each.
      outputs: {name: unit} of the answer.
      answer: (law, parameters, settings) -> {output: (draws,)}; parameters are numbers or (draws,)
        each; inf is "never".
      odds: outputs that are shares, whose intervals are widened in log odds.
    """

    about: str
    settings: Mapping[str, str]
    outputs: Mapping[str, str]
    answer: Callable
    odds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Law:
    """prediction = sum over linear parameters of parameter x term(predictors, shape parameters).

    Attributes:
      name: key in `LAWS`.
      formula: text in the field's terms.
      predictors: column names; `params` stands for the parameter count that `fit` is told to use.
      parameters: linear ones first, in the order of the terms, then shape ones.
      terms: (columns, *shape) -> tuple of arrays that broadcast to (batch, rows), one per linear
        parameter; one more is an offset with coefficient 1. Must accept complex shape values.
      source: paper and equation.
      gradient: optional (columns, terms, *shape) -> per shape parameter, per term, its derivative
        or None for zero; without it derivatives are taken by complex step, as exactly.
      link: "identity", or "log10" when the sum is log10 of the target.
      target: default column to predict.
      derived: optional {parameter: value} -> further reported numbers.
      published: {label: {parameter: value}}, with the source in `source`.
      constants: {name: value} the formula uses besides its parameters.
      allocation: optional (parameters, flops, settings) -> {"params", "tokens"}, the closed form
        of the least loss at 6 x params x tokens = flops; without it the minimum is searched.
      uses: {name: Use}, what else can be asked of the law.
      identified_by: which runs tell its parameters apart, one line.
      starts: optional (columns, target, count, rng) -> (count, shape parameters), where searches
        start with the data in view; without it they start in the parameters' boxes.
    """

    name: str
    formula: str
    predictors: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    terms: Callable
    source: str
    gradient: Callable | None = None
    link: str = "identity"
    target: str = "loss"
    derived: Callable[[Mapping], dict] | None = None
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    allocation: Callable | None = None
    uses: Mapping[str, Use] = field(default_factory=dict)
    identified_by: str = ""
    starts: Callable | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Parameter names, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @cached_property
    def linear_count(self) -> int:
        """How many parameters are linear given the others."""
        return sum(parameter.linear for parameter in self.parameters)

    @property
    def size(self) -> str | None:
        """The predictor that counts parameters, None if there is none."""
        return next((name for name in SIZES if name in self.predictors), None)

    def predict(self, columns: Mapping, parameters: Mapping) -> np.ndarray:
        """Predicted target.

        Args:
          columns: {predictor: array (rows,)} or numbers.
          parameters: {name: number or array (batch,)}.

        Returns:
          (rows,), or (batch, rows) if any parameter is an array; target units.
        """
        columns = {name: np.asarray(columns[name], float) for name in self.predictors}
        values = [np.asarray(parameters[name], float) for name in self.names]
        batched = any(value.ndim for value in values)
        if batched:
            values = [np.reshape(value, (-1, 1)) for value in values]
        total = combine(self, self.terms(columns, *values[self.linear_count :]), values)
        return 10.0**total if self.link == "log10" else total


def combine(law: Law, terms, values) -> np.ndarray:
    """Sum of linear parameters times terms, plus the offset term if there is one."""
    total = sum(
        value * term for value, term in zip(values[: law.linear_count], terms, strict=False)
    )
    return total + terms[law.linear_count] if len(terms) > law.linear_count else total


def shape_derivatives(law: Law, columns, terms, shape) -> tuple:
    """Derivative of every term with respect to every shape parameter.

    Returns:
      per shape parameter, per term, an array that broadcasts to (batch, rows), or None for zero.
    """
    if law.gradient is not None:
        return law.gradient(columns, terms, *shape)
    out = []
    for index in range(len(shape)):
        moved = [value + (_STEP * 1j if i == index else 0) for i, value in enumerate(shape)]
        stepped = law.terms(columns, *moved)
        out.append(
            tuple(np.imag(term) / _STEP if np.iscomplexobj(term) else None for term in stepped)
        )
    return tuple(out)
