"""Which segments train together: groups of one program and of similar length, with their sizes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from jax.sharding import Mesh

from scaling.chips.thrift import thrifty
from scaling.plan import Plan, Segment
from scaling.train import Program

# Members end together within this ratio of lengths, and a fleet's dead weight stays below this
# share of its FLOPs; a longer tail than that trains faster in a fleet of its own.
LENGTH_RATIO = 2.0
MOST_WASTE = 0.15


def halvings(size: int, lengths: Iterable[int], multiple: int = 1) -> list[tuple[int, int]]:
    """Returns (step, size from there on) of a fleet that halves when half of it has ended.

    Sizes stay multiples of `multiple`.
    """
    ends, sizes = sorted(lengths), [(0, size)]
    for live, end in zip(range(len(ends) - 1, 0, -1), ends, strict=False):
        while (
            end < ends[-1]
            and live <= size // 2
            and (half := rounded(-(-size // 2), multiple)) < size
        ):
            size = half
            sizes.append((end, size))
    return sizes


def waste(size: int, lengths: Iterable[int], multiple: int = 1) -> float:
    """Returns the share of a fleet's steps that dead weight takes."""
    lengths = list(lengths)
    sizes = halvings(size, lengths, multiple)
    stops = [step for step, _ in sizes[1:]] + [max(lengths)]
    spent = sum(r * (stop - start) for (start, r), stop in zip(sizes, stops, strict=True))
    return 1 - sum(lengths) / spent if spent else 0.0


def rounded(count: int, multiple: int) -> int:
    """Rounds up to a multiple."""
    return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Fleet:
    """Segments trained together in `size` rows; rows beyond the members are dead weight."""

    program: Program
    segments: tuple[Segment, ...]
    size: int

    @property
    def id(self) -> str:
        """Names the fleet by its members."""
        text = " ".join([str(self.size), *(s.id for s in self.segments)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def lengths(self) -> list[int]:
        """Steps of every member."""
        return [s.steps for s in self.segments]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """When the fleet takes on which size: (step, size from there on)."""
        return halvings(self.size, self.lengths, self.program.mesh.shape["run"])

    @property
    def waste(self) -> float:
        """Share of the steps that dead weight takes."""
        return waste(self.size, self.lengths, self.program.mesh.shape["run"])

    def rows(self, step: int) -> list[int]:
        """Returns which member is in every row from a step on; −1 is padding."""
        lengths, rows = self.lengths, list(range(len(self.segments)))
        rows += [-1] * (self.size - len(rows))
        for start, size in self.sizes[1:]:
            if start <= step:
                live = [r for r in rows if r >= 0 and lengths[r] > start]
                dead = [r for r in rows if r < 0 or lengths[r] <= start]
                rows = (live + dead)[:size]
        return rows


def program_of(segment: Segment, mesh: Mesh) -> Program:
    """Returns the program that trains a segment."""
    return thrifty(segment.recipe.static, segment.phase.batch_tokens, mesh)


def alone(segment: Segment, mesh: Mesh) -> Fleet:
    """Returns a fleet of one."""
    return Fleet(program_of(segment, mesh), (segment,), 1)


def fleets(segments: Iterable[Segment], mesh: Mesh, most: Callable[[Program], int]) -> list[Fleet]:
    """Groups segments of one program and of similar length into as few fleets as `most` allows.

    Fleets of a group have one size, so that they share one compiled program.
    """
    groups: dict[Program, list[Segment]] = {}
    for s in segments:
        groups.setdefault(program_of(s, mesh), []).append(s)
    found = []
    for program, members in groups.items():
        members.sort(key=lambda s: -s.steps)
        limit = max(most(program), 1)
        while members:
            alike = [s for s in members if s.steps * LENGTH_RATIO >= members[0].steps]
            together = chunked(program, alike, limit)
            # Members whose dead weight would be too much wait for a fleet of their own.
            while len(alike) > 1 and any(fleet.waste > MOST_WASTE for fleet in together):
                alike.pop()
                together = chunked(program, alike, limit)
            found += together
            members = members[len(alike) :]
    return found


def chunked(program: Program, members: list[Segment], most: int) -> list[Fleet]:
    """Cuts a list into as few fleets as possible, nearly equal in members and equal in size."""
    each = -(-len(members) // -(-len(members) // most))
    size = rounded(each, program.mesh.shape["run"])
    starts = range(0, len(members), each)
    return [Fleet(program, tuple(members[i : i + each]), size) for i in starts]


def walk(
    plan: Plan,
    group: Callable[[list[Segment]], list[Fleet]],
    parents: Iterable[str | None] = (None,),
) -> Iterator[tuple[Fleet, bool]]:
    """Yields each fleet twice: before (False) and after (True) all that follows it, depth first.

    `group` puts the children of a fleet, or the roots, into fleets.
    """
    for fleet in group([plan.segments[c] for p in parents for c in plan.children.get(p, ())]):
        yield fleet, False
        yield from walk(plan, group, [s.id for s in fleet.segments])
        yield fleet, True


def planned(plan: Plan, mesh: Mesh, most: Callable[[Program], int]) -> list[Fleet]:
    """Lists the fleets in which a plan is trained."""
    group = lambda segments: fleets(segments, mesh, most)
    return [fleet for fleet, over in walk(plan, group) if not over]
