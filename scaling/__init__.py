"""Runs, plans, training on a mesh, and run tables."""

from scaling.changes import ContextLength, Freeze, Quantize
from scaling.combine import chain, classic, fused, product, wsd, zipped
from scaling.evaluation import Evaluation
from scaling.growth import GrowParameterTokens
from scaling.mesh import make_mesh
from scaling.plan import Plan, Segment, plan
from scaling.runs import NUMERICS, Data, Optimizer, Phase, Rate, Run, constant, decay, warmup
from scaling.schedule import Worker
from scaling.store import Store
from scaling.streams import AddStreams, KeepStreams
from scaling.tables import tables
from scaling.trainer import Stopped

__all__ = [
    "NUMERICS",
    "AddStreams",
    "ContextLength",
    "Data",
    "Evaluation",
    "Freeze",
    "KeepStreams",
    "GrowParameterTokens",
    "Optimizer",
    "Phase",
    "Plan",
    "Quantize",
    "Rate",
    "Run",
    "Segment",
    "Stopped",
    "Store",
    "Worker",
    "chain",
    "classic",
    "constant",
    "decay",
    "fused",
    "make_mesh",
    "plan",
    "product",
    "tables",
    "warmup",
    "wsd",
    "zipped",
]
