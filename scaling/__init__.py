"""Runs, plans, training on a mesh, and run tables."""

from scaling.changes import ContextLength, Freeze, Quantize
from scaling.combine import classic, fused, per_width, product, sweep, wsd
from scaling.evaluation import Evaluation
from scaling.growth import GrowParameterTokens
from scaling.labels import Labelled, labelled, unfolded
from scaling.mesh import make_mesh
from scaling.optimizers import AdamW, Lion, Muon, Optimizer
from scaling.plan import Plan, Segment, plan
from scaling.recipe import Averaging, Recipe
from scaling.runs import NUMERICS, Data, Phase, Rate, Run, constant, decay, warmup
from scaling.schedule import Worker
from scaling.start import Start
from scaling.store import Store
from scaling.streams import AddStreams, KeepStreams
from scaling.tables import tables
from scaling.trainer import Stopped

__all__ = [
    "NUMERICS",
    "AdamW",
    "AddStreams",
    "Averaging",
    "ContextLength",
    "Data",
    "Evaluation",
    "Freeze",
    "GrowParameterTokens",
    "KeepStreams",
    "Labelled",
    "Lion",
    "Muon",
    "Optimizer",
    "Phase",
    "Plan",
    "Quantize",
    "Rate",
    "Recipe",
    "Run",
    "Segment",
    "Start",
    "Stopped",
    "Store",
    "Worker",
    "classic",
    "constant",
    "decay",
    "fused",
    "labelled",
    "make_mesh",
    "per_width",
    "plan",
    "product",
    "sweep",
    "tables",
    "unfolded",
    "warmup",
    "wsd",
]
