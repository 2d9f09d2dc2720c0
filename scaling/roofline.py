"""How long a step takes at least on a device, by what its instructions do: the roofline."""

from collections import defaultdict
from dataclasses import asdict, dataclass

from scaling.collectives import Collective
from scaling.compiled import Account, Work
from scaling.devices import Target


@dataclass(frozen=True)
class Exchange:
    """Exchanges of one kind along the same axes in a step: how many, their bytes, and seconds."""

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: float
    wire: float
    seconds: float


@dataclass(frozen=True)
class Roofline:
    """Seconds of a step: `inside` devices and `between` them, one after the other; `overlapped`.

    Inside, an instruction takes the longer of its products at the peak and its bytes at the
    memory's bandwidth (Williams et al. 2009, Roofline, equation of figure 1); between, an exchange
    its bytes at the link's. `overlapped` hides all but the longest of products, bytes and links.
    """

    inside: float
    between: float
    overlapped: float
    exchanges: tuple[Exchange, ...]
    costliest: tuple[tuple[str, float], ...]

    @property
    def seconds(self) -> float:
        """Seconds of a step with nothing hidden."""
        return self.inside + self.between


def seconds_inside(work: Work, target: Target) -> float:
    """Returns the seconds of all runs of an instruction in a step."""
    device = target.device
    return work.times * max(work.flops / device.peak, work.bytes / device.bandwidth)


def seconds_between(one: Collective, target: Target) -> float:
    """Returns the seconds of all runs of an exchange in a step."""
    return one.times * one.wire / target.link(one.group)


def roofline(account: Account, target: Target) -> Roofline:
    """Returns the least seconds of a step that an account says, on some devices."""
    device = target.device
    inside = [seconds_inside(work, target) for work in account.works]
    groups: dict[tuple, list[Collective]] = defaultdict(list)
    for one in account.collectives:
        groups[one.kind, one.axes].append(one)
    exchanges = tuple(
        Exchange(
            *key,
            sum(one.times for one in some),
            sum(one.times * one.bytes for one in some),
            sum(one.times * one.wire for one in some),
            sum(seconds_between(one, target) for one in some),
        )
        for key, some in groups.items()
    )
    between = sum(exchange.seconds for exchange in exchanges)
    said = [f"{work.opcode} {work.said or work.name}" for work in account.works]
    costs = list(zip(said, inside, strict=True))
    costs += [
        (f"{one.kind} {one.said}", seconds_between(one, target)) for one in account.collectives
    ]
    return Roofline(
        sum(inside),
        between,
        max(account.flops / device.peak, account.bytes / device.bandwidth, between),
        exchanges,
        tuple(sorted(costs, key=lambda cost: -cost[1])[:3]),
    )


def told(account: Account, target: Target) -> dict:
    """Returns an account with its roofline as JSON values."""
    found = roofline(account, target)
    return asdict(found) | {
        "seconds": found.seconds,
        "flops": account.flops,
        "bytes": account.bytes,
        "wire": account.wire,
        "unread": sorted(account.unread),
        "largest": [[a.type, list(a.shape), a.bytes, said] for a, said in account.largest[:3]],
    }
