"""The plan: the forest of segments that trains every run of a study, each shared piece once."""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import models
from data import Order, Piece
from models import ModelConfig
from refused import Refused
from scaling.labels import Label, Labelled, joined, label_sets, words
from scaling.recipe import Recipe
from scaling.runs import Phase, Run


@dataclass(frozen=True)
class Segment:
    """A piece of training that one or more runs share: part of one phase.

    `run` ends where the segment ends, so the segment's id names the state there, however the plan
    was cut. `offset` is the step of its last phase at which the segment begins; `parent` is the id
    of the segment before, None at a root. `labels` has each label's distinct values over the runs
    that go through it, in the plan's order; None among them stands for a run without the label.
    """

    run: Run
    offset: int
    parent: str | None
    labels: Mapping[str, tuple[Label | None, ...]] = field(default_factory=dict, compare=False)

    @property
    def id(self) -> str:
        """The identity of the run that ends here."""
        return self.run.identity

    @property
    def phase(self) -> Phase:
        """The phase that the segment belongs to."""
        return self.run.phases[-1]

    @property
    def index(self) -> int:
        """The position of that phase in the run."""
        return len(self.run.phases) - 1

    @functools.cached_property
    def config(self) -> ModelConfig:
        """The model's configuration during the segment."""
        return self.run.model_at(-1)

    @property
    def shared(self) -> dict[str, Label]:
        """The labels that all runs through the segment share."""
        alone = {name: values[0] for name, values in self.labels.items() if len(values) == 1}
        return {name: value for name, value in alone.items() if value is not None}

    @property
    def words(self) -> str:
        """Names the segment for a person: by its labels, or its width without any, and its seed."""
        said = words(self.labels) or f"width {self.config.width}"
        return f"{said}  seed {self.run.seed}"

    @property
    def recipe(self) -> Recipe:
        """The recipe during the segment."""
        return replace(self.run.recipe, model=self.config)

    @property
    def steps(self) -> int:
        """Optimizer steps in the segment."""
        return self.phase.steps - self.offset

    @property
    def tokens(self) -> int:
        """Tokens trained on in the segment."""
        return self.steps * self.phase.batch_tokens

    @property
    def first_step(self) -> int:
        """Steps that the run has taken before the segment."""
        return self.run.steps - self.steps

    @property
    def first_token(self) -> int:
        """Tokens that the run has read before the segment."""
        return self.run.tokens - self.tokens

    @property
    def flops(self) -> float:
        """Training FLOPs of the segment."""
        return models.count(self.config).flops_train * self.tokens


@dataclass(frozen=True)
class Plan:
    """Segments by id, parents before children, and the runs they train.

    `labels` has every run's label sets by its identity: none, one, or several where the run serves
    in several arms.
    """

    runs: tuple[Run, ...]
    segments: dict[str, Segment]
    labels: dict[str, tuple[dict[str, Label], ...]]

    @functools.cached_property
    def label_names(self) -> list[str]:
        """Names of the labels of all runs."""
        sets = (labels for some in self.labels.values() for labels in some)
        return list(dict.fromkeys(name for labels in sets for name in labels))

    def cells(self, segment: Segment) -> dict[str, Label | None]:
        """Returns the label columns of a segment's row: the run's that ends here, or the shared."""
        sets = self.labels.get(segment.id, (segment.shared,))
        return {name: joined(sets, name) for name in self.label_names}

    @functools.cached_property
    def children(self) -> dict[str | None, list[str]]:
        """Ids by parent; None lists the roots. Short sub-trees come first: a trunk goes on last."""
        children = defaultdict(list)
        for segment in self.segments.values():
            children[segment.parent].append(segment.id)
        for ids in children.values():
            ids.sort(key=lambda id: self.depth[id])
        return dict(children)

    @functools.cached_property
    def depth(self) -> dict[str, int]:
        """Number of segments on the longest way down from each segment."""
        depth = dict.fromkeys(self.segments, 1)
        for segment in reversed(self.segments.values()):
            if segment.parent is not None:
                depth[segment.parent] = max(depth[segment.parent], depth[segment.id] + 1)
        return depth

    @property
    def leaves(self) -> set[str]:
        """Ids of the segments at which a run ends."""
        return {run.identity for run in self.runs}

    @property
    def tokens(self) -> int:
        """Tokens trained on by the plan."""
        return sum(segment.tokens for segment in self.segments.values())

    @property
    def tokens_alone(self) -> int:
        """Tokens that training every run by itself would take."""
        return sum(run.tokens for run in self.runs)

    @property
    def flops(self) -> float:
        """Training FLOPs of the plan."""
        return sum(segment.flops for segment in self.segments.values())

    @property
    def flops_alone(self) -> float:
        """Training FLOPs of every run by itself."""
        return sum(run.flops() for run in self.runs)

    def walk(self, parent: str | None = None) -> Iterator[Segment]:
        """Yields segments depth first, in the order in which one worker trains them."""
        for id in self.children.get(parent, ()):
            yield self.segments[id]
            yield from self.walk(id)

    def path(self, id: str | None) -> list[Segment]:
        """Lists the segments from the root to this one."""
        path = []
        while id is not None:
            path.append(self.segments[id])
            id = self.segments[id].parent
        return path[::-1]


def plan(runs: Iterable[Run | Labelled]) -> Plan:
    """Cuts prefix-closed phases wherever any run of the list branches, and shares equal prefixes.

    Equal runs are planned once; one that is listed under several labels keeps them all. The closed
    form for runs of lengths D_i that share a trunk up to their last fraction f, of the tokens that
    training them apart would take, is [(1 − f)·D_max + f·ΣD_i]/ΣD_i.

    Raises:
      Refused: a phase of no steps after a change that is nothing without training, or a label that
        is a text for some runs and a number for others.
    """
    listed = [r if isinstance(r, Labelled) else Labelled(run=r, labels={}) for r in runs]
    labels = label_sets(listed)
    runs = tuple({item.run.identity: item.run for item in listed}.values())
    empty = (phase for run in runs for phase in run.phases if not phase.steps)
    for phase in (phase for phase in empty if getattr(phase.change, "needs_steps", False)):
        accepted = f"at least one step of batch_tokens={phase.batch_tokens} after {phase.change}"
        raise Refused("phase.tokens", phase.tokens, accepted)
    planned = Plan(runs, cut(runs), labels)
    return replace(planned, segments=with_labels(planned))


def cut(runs: Iterable[Run]) -> dict[str, Segment]:
    """Returns the segments of runs by id, parents before children."""
    cuts = defaultdict(set)
    for run in runs:
        for index, phase in enumerate(run.phases):
            if phase.prefix_closed:
                cuts[run.until(index, 0).identity].add(phase.tokens)
    segments = {}
    for run in runs:
        parent = None
        for index, phase in enumerate(run.phases):
            ends = [phase.tokens]
            if phase.prefix_closed:
                ends = sorted(c for c in cuts[run.until(index, 0).identity] if c <= phase.tokens)
            offset = 0
            # A phase of no tokens is a segment of its own: its change, and perhaps an evaluation.
            # Where it is only the start of a longer one it is not cut off.
            for end in filter(None, ends) if phase.tokens else (0,):
                part = run.until(index, end if phase.prefix_closed else None)
                segments.setdefault(part.identity, Segment(part, offset, parent))
                parent, offset = part.identity, end // phase.batch_tokens
    return segments


def with_labels(planned: Plan) -> dict[str, Segment]:
    """Returns a plan's segments with the labels of the runs that go through them."""
    found = {id: {name: {} for name in planned.label_names} for id in planned.segments}
    for run in planned.runs:
        sets = planned.labels[run.identity] or ({},)
        for segment in planned.path(run.identity):
            for name, values in found[segment.id].items():
                values.update(dict.fromkeys(labels.get(name) for labels in sets))
    return {
        id: replace(segment, labels={name: tuple(values) for name, values in found[id].items()})
        for id, segment in planned.segments.items()
    }


def pieces(run: Run) -> tuple[Piece, ...]:
    """Returns what the order needs to know of a run's phases."""
    return tuple(
        Piece(phase.tokens // context, context, run.mixture_at(i))
        for i, phase in enumerate(run.phases)
        for context in [run.model_at(i).context]
    )


def order(corpus, run: Run) -> Order:
    """Returns the order in which a run reads a corpus; its seed is the run's."""
    return Order(corpus, pieces(run), run.seed)
