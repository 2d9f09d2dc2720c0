"""The plan of a study for devices that may not be here, as a person reads it."""

from ml_collections import ConfigDict

import models
from data.stand_in import NAME
from experiments.command.plan_view import duration, number
from experiments.evidence.study import Study
from models.fused import attention_of
from scaling.chips.absent import missing
from scaling.chips.devices import Target
from scaling.chips.targeted import Fit, Need, fitted, needs
from scaling.plan import plan as make_plan

GIB = 1 << 30

# A preset without a corpus names the vocabulary that it is meant for; one that does not has this.
VOCABULARY = 32_768


def with_stand_in(module, config: ConfigDict):
    """Gives a configuration without a corpus one that has no tokens, for a plan."""
    if config.get("corpus", None) == "":
        shares = config.get("mixture", "") or "text=1"
        names = "+".join(share.partition("=")[0] for share in shares.split(","))
        config.corpus = f"{NAME}:{config.get('vocabulary', VOCABULARY)},{names}"
    return module, config


def plan_for(study: Study, mesh: str, target: Target, price: float | None) -> None:
    """Prints the plan of a study for devices that need not be here; trains nothing."""
    planned = make_plan((*study.runs, *study.awaited))
    found = needs(planned.segments.values())
    print(heading(study.name, found, target, study.corpus.name), flush=True)
    fits = []
    for index, need in enumerate(found, start=1):
        fits.append(fitted(need, target, mesh))
        print(program_text(index, len(found), fits[-1]), flush=True)
    print(total_text(fits, price))


def heading(name: str, needs: list[Need], target: Target, corpus: str) -> str:
    """Says what is planned, on what, and how it is known."""
    lacking = missing(target)
    how = (
        "compiled for it here, by XLA"
        if lacking is None
        else f"by accounting alone: pip install espalier[{lacking}] compiles for it"
    )
    lines = [
        f"{name} on {target.name} ({target.count} devices): {len(needs)} programs, {how}",
        f"each device: {target.device.peak / 1e12:.0f} TFLOP/s, "
        f"{target.device.memory / GIB:.1f} GiB at {target.device.bandwidth / 1e9:.0f} GB/s, "
        f"links {target.device.link / 1e9:.0f} GB/s",
    ]
    if corpus.startswith(NAME):
        vocabulary = corpus.partition(":")[2].partition(",")[0]
        lines.append(f"no corpus: a stand-in of {vocabulary} tokens' vocabulary")
    return "\n".join(lines)


def program_text(index: int, of: int, fit: Fit) -> str:
    """Returns the lines of one program."""
    need, model = fit.need, fit.need.recipe.model
    params = models.count(model).params_total
    lines = [
        f"program {index} of {of}: width {model.width}, depth {model.depth}, {number(params)} "
        f"parameters, context {model.context}, batch {number(need.batch_tokens)} tokens; "
        f"{need.segments} segments, {number(need.steps)} steps, {number(need.tokens)} tokens",
        memory_line(fit),
        *(step_lines(fit) if fit.compiled else accounted_lines(fit)),
        f"  a step takes {seconds(fit.seconds)} at least ({seconds(fit.overlapped)} with all but "
        f"the longest hidden): MFU {fit.mfu:.0%} at most; {fit.chip_hours:,.2f} chip-hours",
    ]
    return "\n".join(lines)


def memory_line(fit: Fit) -> str:
    """Says what a device holds, of what it has."""
    own, have = fit.memory, fit.target.device.memory
    gib = lambda x: f"{x / GIB:.2f}"
    if fit.compiled:
        held = f"temporaries {gib(fit.compiled['memory']['temporaries'])}; the compiler's figures, "
        held += f"accounting said {gib(own.total)}"
    else:
        held = "by accounting"
    return (
        f"  mesh {fit.mesh}: fits, {gib(fit.bytes)} of {gib(have)} GiB a device (state "
        f"{gib(own.state)}, activations and gradients about {gib(own.activations)}, {held})"
        f"{way(fit)}"
    )


def way(fit: Fit) -> str:
    """Says what a program does to fit; empty where it keeps all, in one batch."""
    said = f", in {fit.accumulate} micro-batches" if fit.accumulate > 1 else ""
    if fit.recompute in ("dots", "full"):
        kept = {"dots": "products and attention", "full": "layers' inputs"}[fit.recompute]
        said += f", the backward pass keeping {kept} alone"
    return said


def step_lines(fit: Fit) -> list[str]:
    """Says what a compiled step does on one device."""
    found, model = fit.compiled, fit.need.recipe.model
    choice = attention_of(model, fit.target.device.platform)
    attention = choice.kernel + (f" ({choice.why})" if choice.why else "")
    lines = [
        f"  a step, of each device: {number(found['flops'])}FLOPs, {number(found['bytes'])}B moved "
        f"in memory, {number(found['wire'])}B sent; attention: {attention}; compiled in "
        f"{found['compile_seconds']:.0f} s of CPU time"
    ]
    for one in found["exchanges"]:
        lines.append(
            f"    {one['count']} × {one['kind']} along {'+'.join(one['axes'])}: "
            f"{number(one['bytes'])}B, sends {number(one['wire'])}B, {seconds(one['seconds'])}"
        )
    costs = "; ".join(f"{seconds(cost)} {said}" for said, cost in found["costliest"])
    lines.append(f"    costliest: {costs}")
    if found["unread"]:
        kernels = ", ".join(found["unread"])
        lines.append(f"    products of these kernels are not counted: {kernels}")
    if found["warnings"]:
        lines.append(f"    {found['warnings']} arrays are put together whole to be split anew")
    return lines


def accounted_lines(fit: Fit) -> list[str]:
    """Says what a step does by accounting: products, and what the mesh has to send."""
    products, links = fit.by_accounting()
    flops = fit.need.flops_step / fit.target.count
    return [
        f"  a step, of each device: {number(flops)}FLOPs in {seconds(products)}, and "
        f"{seconds(links)} to send what the mesh needs; what memory takes is not known uncompiled"
    ]


def total_text(fits: list[Fit], price: float | None) -> str:
    """Says what the study takes, and costs."""
    hours = sum(fit.chip_hours for fit in fits)
    chips = fits[0].target.chips
    text = (
        f"study: {hours:,.2f} chip-hours at least, {duration(3600 * hours / chips)} on {chips} "
        "chips, one run after the other; without compiling and evaluating"
    )
    if price is not None:
        text += f"; {hours * price:,.2f} at {price:g} a chip-hour"
    return text


def seconds(value: float) -> str:
    """Writes a short time."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.2g} µs"
