"""A fit as one JSON file, and back, bit by bit; nothing in it is ever executed."""

import base64
import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd

from fitting.fitted import Fitted
from fitting.formula import formula_law
from fitting.intervals import Draws
from fitting.law import Law, Parameter
from fitting.laws import LAWS
from fitting.misfit import Misfit
from fitting.observations import Observations
from fitting.profiles import Profile
from fitting.solver import Optimum
from refused import Refused

FORMAT = 1
_KINDS = {kind.__name__: kind for kind in (Draws, Misfit, Optimum, Profile)}


def as_json(result: Fitted) -> str:
    """The text of the file.

    Raises:
      Refused: a law that is neither registered nor a formula.
    """
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    told = {name: _told(value) for name, value in fields.items() if name != "law"}
    return json.dumps({"espalier fit": FORMAT, "law": _law(result.law), **told})


def from_json(path) -> dict:
    """The fields of a fit.

    Raises:
      Refused: a file that is not there or holds no fit, or a law that this version does not know.
    """
    try:
        told = json.loads(Path(path).read_text("utf-8"))
        if told.pop("espalier fit") != FORMAT:
            raise KeyError("another format")
        law = told.pop("law")
        fields = {name: _read(value) for name, value in told.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise Refused("fit", path, "a file that Fit.save wrote") from None
    return {"law": _known(law), **fields}


def _law(law: Law) -> dict:
    known = LAWS.get(law.name)
    own = known is None or known.formula != law.formula
    if own and law.source != formula_law("E + A*params**-a").source:
        raise Refused("law", law.name, "a registered law or a formula: others cannot be kept")
    parameters = [dataclasses.asdict(parameter) for parameter in law.parameters]
    told = {"name": law.name, "parameters": parameters, "formula": law.formula}
    return told | {"own": own, "predictors": list(law.predictors)}


def _known(told: dict) -> Law:
    if told["own"]:
        law = formula_law(told["formula"], None, told["predictors"], told["name"])
    elif told["name"] in LAWS and LAWS[told["name"]].formula == told["formula"]:
        law = LAWS[told["name"]]
    else:
        raise Refused("law", told["name"], f"a law of this version: {', '.join(LAWS)}")
    parameters = [
        Parameter(**entry | {"start": entry["start"] and tuple(entry["start"])})
        for entry in told["parameters"]
    ]
    return dataclasses.replace(law, parameters=tuple(parameters))


def _told(value):
    """A value as JSON: arrays and floats keep their bits, tables their columns."""
    if isinstance(value, float | np.floating):
        return {"float": float(value).hex()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        bits = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"array": bits, "type": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, pd.DataFrame):
        columns = [[str(name), _column(value[name])] for name in value]
        return {"table": columns}
    if isinstance(value, Observations):
        return {"observations": _told(value.frame), "notes": list(value.notes)}
    if type(value).__name__ in _KINDS:
        fields = [field.name for field in dataclasses.fields(value)]
        return {"kind": type(value).__name__, "of": {n: _told(getattr(value, n)) for n in fields}}
    if isinstance(value, tuple | list):
        return {"items": [_told(item) for item in value]}
    if hasattr(value, "items"):
        return {"map": {str(name): _told(item) for name, item in value.items()}}
    if isinstance(value, np.integer):
        return int(value)
    return value


def _column(values: pd.Series):
    if values.dtype.kind in "fiub":
        return _told(values.to_numpy())
    return {"words": [_word(value) for value in values]}


def _word(value):
    """A cell of a mixed column: whole numbers beyond 64 bits stay numbers."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float | np.floating) and not np.isnan(value):
        return _told(value)
    return None if pd.isna(value) else str(value)


def _read(told):
    if not isinstance(told, dict):
        return told
    if "float" in told:
        return float.fromhex(told["float"])
    if "array" in told:
        flat = np.frombuffer(base64.b64decode(told["array"]), told["type"])
        return flat.reshape(told["shape"]).copy()
    if "words" in told:
        return [_read(word) for word in told["words"]]
    if "table" in told:
        return pd.DataFrame({name: _read(values) for name, values in told["table"]})
    if "observations" in told:
        return Observations(_read(told["observations"]), tuple(told["notes"]))
    if "kind" in told:
        return _KINDS[told["kind"]](**{name: _read(item) for name, item in told["of"].items()})
    if "items" in told:
        return tuple(_read(item) for item in told["items"])
    return {name: _read(item) for name, item in told["map"].items()}
