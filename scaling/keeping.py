"""Which end states a store keeps, so that a study can grow from them."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from refused import Refused
from scaling.files import free_bytes
from scaling.plan import Plan, Segment
from scaling.state import abstract, array_bytes
from scaling.store import Store

SHARE = 10  # `auto` takes at most one part in so many of the free disk.
BUCKET_BYTES = 10 * 10**9  # What `auto` takes of a store that does not say how much is free.
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Kept:
    """The segments whose end states are kept, their bytes, and the rule, for a person."""

    ids: frozenset[str] = frozenset()
    bytes: int = 0
    rule: str = "none"


def budget(keep: str, store: Store) -> tuple[float, str]:
    """Returns the bytes that `auto`, `all`, `none` or BYTES stand for, and the rule in words.

    Raises:
      Refused: anything else.
    """
    if keep == "auto":
        free = free_bytes(store.path)
        if free is None:
            return BUCKET_BYTES, f"auto: at most {BUCKET_BYTES / 1e9:g} GB of a bucket"
        return free / SHARE, f"auto: at most a tenth of the {free / 1e9:.1f} GB that are free"
    if keep in ("all", "none"):
        return (math.inf if keep == "all" else 0), keep
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?)B?", keep)
    if found is None:
        raise Refused("--keep", keep, "auto, all, none or bytes, as in 500MB")
    return float(found[1]) * UNITS[found[2]], f"at most {keep}"


def choose(plan: Plan, keep: str, store: Store, there: Callable[[Segment], bool]) -> Kept:
    """Chooses the end states to keep within a budget; `there` says which the store has already.

    The end of every trunk comes first, since longer runs go on from it, then the other places
    where runs branch or could go on: of each kind those first that cost the most training for
    their bytes. What the store has counts for nothing.
    """
    most, rule = budget(keep, store)
    spent, ids, cost = 0, set(), {}
    for segment in plan.segments.values():
        cost[segment.id] = segment.flops + cost.get(segment.parent, 0.0)
    for segment in sorted(candidates(plan), key=lambda s: order(plan, s, cost[s.id])):
        size = 0 if there(segment) else state_bytes(segment)
        if spent + size <= most:
            spent += size
            ids.add(segment.id)
    return Kept(frozenset(ids), spent, rule)


def candidates(plan: Plan) -> list[Segment]:
    """Lists the segments that others follow, and those that a longer run could."""
    return [
        s for s in plan.segments.values() if s.steps and (s.phase.prefix_closed or follows(plan, s))
    ]


def follows(plan: Plan, segment: Segment) -> bool:
    """Says whether a segment goes on in the plan."""
    return bool(plan.children.get(segment.id))


def order(plan: Plan, segment: Segment, cost: float) -> tuple:
    """Returns the place of a segment's end among those to keep: ends of trunks, then by cost."""
    longer = [plan.segments[id].index == segment.index for id in plan.children.get(segment.id, ())]
    ends = segment.phase.prefix_closed and not any(longer)
    return (not ends, -cost / state_bytes(segment))


def state_bytes(segment: Segment) -> int:
    """Returns the bytes of a segment's end state: parameters and the optimizer's."""
    return array_bytes(abstract(segment.recipe))
