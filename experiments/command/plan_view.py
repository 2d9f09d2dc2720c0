"""The plan as a person reads it: runs, the tree of segments, savings, cost, epochs."""

import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping

from jax.sharding import Mesh
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

import models
from experiments.evidence.study import Study
from scaling.grouping import Fleet
from scaling.keeping import Kept
from scaling.labels import Label, words
from scaling.mesh import unsplit
from scaling.plan import Plan, Segment
from scaling.plan import plan as make_plan
from scaling.speed import largest, predicted_bytes, predicted_seconds

TABLE_WIDTH = 160  # Characters of the table of runs at most; labels may be long.
BEYOND = 4  # Times the widest model that was measured up to which speeds are taken from it.
MOST_LINES = 60  # Of runs, and of the tree, that are printed before the rest is only counted.


def number(x: float) -> str:
    """Writes a count with three digits and a unit prefix."""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size:
            return f"{x / size:.3g}{unit}"
    return f"{x:.3g}"


def duration(seconds: float) -> str:
    """Writes a time for a person."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def unsplit_line(plan: Plan, mesh: Mesh) -> str:
    """Says which parameters are whole on every device though fsdp splits others; empty if none."""
    found = {}
    for segment in plan.segments.values():
        found |= {segment.config: unsplit(mesh, segment.config)}
    found = {config: shapes for config, shapes in found.items() if shapes}
    if not found:
        return ""
    most = max(found, key=lambda config: sum(map(math.prod, found[config].values())))
    path, shape = max(found[most].items(), key=lambda item: math.prod(item[1]))
    return (
        f"whole on every device, because fsdp:{mesh.shape['fsdp']} divides none of their sizes: "
        f"{len(found[most])} matrices and their optimizer state at width {most.width}, the largest "
        f"{path} {list(shape)}"
    )


def plan_text(
    study: Study,
    plan: Plan,
    epochs: dict[str, float],
    missing: set[str],
    rates: dict[int, float],
    fleets: list[Fleet],
    unmeasured: int = 0,
    begins: Mapping[str, int] | None = None,
    kept: Kept | None = None,
) -> str:
    """Returns the printed plan.

    `missing` are the segments that are lacking, `rates` this device's measured FLOP/s by width,
    `fleets` how the plan is trained together, in which `unmeasured` programs train alone. `begins`
    has the step at which each segment begins that is to be trained (default: `missing`, whole), and
    `kept` the end states that stay in the store.
    """
    stream = io.StringIO()
    console = Console(file=stream, width=110, highlight=False)
    counts = f"{len(plan.runs)} runs, {len(plan.segments)} segments"
    console.print(f"[bold]{escape(study.name)}[/]: {counts}")
    Console(file=stream, width=TABLE_WIDTH, highlight=False).print(run_table(plan))
    console.print(segment_tree(plan, missing))
    console.print(saving(plan, rates))
    console.print(store_line(plan, missing, rates, begins))
    if kept is not None:
        console.print(
            f"keep: {kept.bytes:,} bytes more, end states of {len(kept.ids)} segments from which "
            f"the study can grow ({kept.rule}; --keep=auto|all|none|BYTES)"
        )
    console.print(fleet_line(fleets, unmeasured))
    if study.awaited:
        later = make_plan(study.awaited)
        console.print(
            f"then: {len(later.runs)} runs that follow from the losses of these: "
            f"{number(later.tokens)} tokens, {number(later.flops)}FLOPs more, "
            f"{time_text(later.segments.values(), rates)}"
        )
    most = largest(plan.segments.values())
    console.print(
        f"memory: about {number(predicted_bytes(most))}B for the largest segment "
        f"(width {most.config.width}, batch {most.phase.batch_tokens} tokens)"
    )
    shown = ", ".join(f"{name} {count:.2f}" for name, count in epochs.items() if count)
    console.print(f"epochs per domain, at most: {escape(shown)}")
    return stream.getvalue().rstrip()


def like_calibration(segments: Iterable[Segment], rates: dict[int, float]) -> bool:
    """Says whether segments are like what was measured here: as wide, and in float32."""
    most = BEYOND * max(rates)
    return all(s.config.dtype == "float32" and s.config.width <= most for s in segments)


def time_text(
    segments: Iterable[Segment], rates: dict[int, float], begins: Mapping[str, int] | None = None
) -> str:
    """Says how long segments take here, or why that is not known."""
    segments, begins = list(segments), begins or {}
    if like_calibration(segments, rates):
        time = duration(sum(share(s, begins) * predicted_seconds([s], rates) for s in segments))
        return f"about {time} on this device (measured on it; without compiling and evaluating)"
    widths = f"{min(rates)} to {max(rates)}"
    return (
        f"how long is not told: this device is measured at widths {widths} in float32, these "
        "models are wider or in bfloat16; --for=DEVICE plans for a device that they are meant for"
    )


def share(segment: Segment, begins: Mapping[str, int]) -> float:
    """Returns the share of a segment's steps that is left from the step at which it begins."""
    done = begins.get(segment.id, segment.first_step) - segment.first_step
    return 1 - done / max(segment.steps, 1)


def store_line(
    plan: Plan, missing: set[str], rates: dict[int, float], begins: Mapping[str, int] | None
) -> str:
    """Says what the store has, and what is to be trained, to the token."""
    if begins is None:
        begins = {id: plan.segments[id].first_step for id in missing}
    todo = [plan.segments[id] for id in begins]
    tokens = {s.id: round(share(s, begins) * s.tokens) for s in todo}
    again = sum(count for id, count in tokens.items() if id not in missing)
    flops = sum(share(s, begins) * s.flops for s in todo)
    there = len(plan.segments) - len(missing)
    return (
        f"store: {there} of {len(plan.segments)} segments are there; to train: "
        f"{sum(tokens.values()):,} tokens"
        + (f" ({again:,} of them again: end states that are not there)" if again else "")
        + f", {number(flops)}FLOPs, {time_text(todo, rates, begins)}"
    )


def fleet_line(fleets: list[Fleet], unmeasured: int) -> str:
    """Says how many segments train together, in how many programs, and what dead weight costs."""
    several = [fleet for fleet in fleets if fleet.size > 1]
    later = f"; programs not measured on this device yet: {unmeasured} (the run does so first)"
    if not several:
        return "fleets: none; one segment is trained after the other" + later * (unmeasured > 0)
    programs = {(fleet.program, size) for fleet in several for _, size in fleet.sizes}
    members = sum(len(fleet.segments) for fleet in several)
    flops = sum(s.flops for fleet in several for s in fleet.segments)
    spent = sum(sum(s.flops for s in fleet.segments) / (1 - fleet.waste) for fleet in several)
    return (
        f"fleets: {members} segments in {len(several)} fleets of at most "
        f"{max(fleet.size for fleet in several)} members, {len(programs)} compiled programs; "
        f"dead weight {1 - flops / spent:.1%} of their FLOPs" + later * (unmeasured > 0)
    )


def run_table(plan: Plan) -> Table:
    """Returns a table of the runs, labels first; runs that differ only by seed share a line."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in plan.label_names:
        table.add_column(name)
    names = ("width", "params", "non-embedding", "bits", "tokens", "tokens/param", "FLOPs")
    for name in (*names, "peak rate"):
        table.add_column(name, justify="right")
    table.add_column("phases")
    table.add_column("seeds", justify="right")
    lines = Counter()
    for run in plan.runs:
        config = run.model_at(-1)
        accounts = models.count(config)
        labels = plan.cells(plan.segments[run.identity])
        lines[
            (
                *(written(value) for value in labels.values()),
                str(config.width),
                number(accounts.params_total),
                number(accounts.params_non_embedding),
                f"{config.quantization.bits:g}" if config.quantization else "–",
                number(run.tokens),
                f"{run.tokens / accounts.params_total:.1f}",
                number(run.flops()),
                f"{run.optimizer.learning_rate:.3g}",
                " → ".join(number(p.tokens) for p in run.phases),
            )
        ] += 1
    for line, count in list(lines.items())[:MOST_LINES]:
        table.add_row(*map(escape, line), str(count))
    if len(lines) > MOST_LINES:
        gaps = [""] * (len(plan.label_names) + 7)
        table.add_row("…", *gaps, f"and {len(lines) - MOST_LINES} more", "")
    return table


def written(value: Label | None) -> str:
    """Writes a label's value."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def segment_tree(plan: Plan, missing: set[str]) -> Tree:
    """Returns the forest of segments; ✓ marks what the store has."""
    tree = Tree("segments (tokens from–to; ✓ in the store)")
    left = [MOST_LINES]

    def add(parent: str | None, branch: Tree) -> None:
        for id in plan.children.get(parent, ()):
            left[0] -= 1
            if left[0] < 0:
                continue
            add(id, branch.add(escape(segment_line(plan.segments[id], plan, id not in missing))))

    add(None, tree)
    if left[0] < 0:
        tree.add(f"… and {-left[0]} more segments")
    return tree


def segment_line(segment: Segment, plan: Plan, done: bool) -> str:
    """Returns one line of the tree: at a root its name, further on which labels are settled."""
    span = f"{number(segment.first_token)}–{number(segment.run.tokens)}"
    change = f"  {segment.phase.change}" if segment.phase.change and not segment.offset else ""
    ends = "  run ends" if segment.id in plan.leaves else ""
    if segment.parent is None:
        named = f"{segment.words}  {span}"
    else:
        before = plan.segments[segment.parent].labels
        new = {name: some for name, some in segment.labels.items() if some != before[name]}
        named = f"{span}  {words(new)}" if words(new) else span
    return f"{named}{change}{ends}{'  ✓' if done else ''}"


def saving(plan: Plan, rates: dict[int, float]) -> str:
    """Says what sharing prefixes saves against training every run alone with the same seeds."""
    apart = [
        Segment(run.until(index), 0, None) for run in plan.runs for index in range(len(run.phases))
    ]
    ratio, times = plan.tokens / plan.tokens_alone, ""
    if like_calibration(plan.segments.values(), rates):
        two = (predicted_seconds(some, rates) for some in (plan.segments.values(), apart))
        times = ", about {} instead of {}".format(*map(duration, two))
    return (
        f"sharing: {number(plan.tokens)} tokens instead of {number(plan.tokens_alone)} "
        f"({ratio:.4f}), {number(plan.flops)}FLOPs instead of {number(plan.flops_alone)}FLOPs"
        f"{times}; alone means every run from its own start with the same seed"
    )
