"""Every optimizer's algorithm written out in numpy float64, one array at a time.

`REFERENCES[name](h, leaf)` returns a function (gradient, value) → direction with the state inside;
`h` has the optimizer's settings, `leaf` group and shape. Arrays are single matrices or vectors.
SOAP takes the bases of its first step from `h.bases`.
"""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from models import Leaf

A, B, C = 3.4445, -4.7750, 2.0315  # Jordan et al. 2024: the quintic of Newton–Schulz.


def newton_schulz(matrix: np.ndarray, steps: int) -> np.ndarray:
    """Writes the polynomial out."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(steps):
        square = x @ x.T
        x = A * x + (B * square + C * square @ square) @ x
    return x


def memory(**start) -> SimpleNamespace:
    return SimpleNamespace(t=0, **start)


def adam(h, leaf, look: Callable | None = None) -> Callable:
    s = memory(m=0.0, v=0.0)

    def step(g, value):
        s.t += 1
        s.m, s.v = h.b1 * s.m + (1 - h.b1) * g, h.b2 * s.v + (1 - h.b2) * g**2
        m = s.m / (1 - h.b1**s.t) if look is None else look(s.m, g, s.t)
        return m / (np.sqrt(s.v / (1 - h.b2**s.t)) + h.epsilon)

    return step


def nadamw(h, leaf):
    def ahead(m, g, t):
        return h.b1 * m / (1 - h.b1 ** (t + 1)) + (1 - h.b1) * g / (1 - h.b1**t)

    return adam(h, leaf, ahead)


def lion(h, leaf):
    s = memory(m=0.0)

    def step(g, value):
        sign = np.sign(h.b1 * s.m + (1 - h.b1) * g)
        s.m = h.b2 * s.m + (1 - h.b2) * g
        return sign

    return step


def muon(h, leaf):
    s = memory(m=0.0)

    def step(g, value):
        s.t += 1
        s.m = h.momentum * s.m + (1 - h.momentum) * g
        ahead = h.momentum * s.m / (1 - h.momentum ** (s.t + 1))
        ahead = ahead + (1 - h.momentum) * g / (1 - h.momentum**s.t)
        return h.rms * np.sqrt(max(g.shape)) * newton_schulz(ahead, h.steps)

    return step if leaf.group.hidden else adam(h, leaf)


def eigenbasis(square: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns a program's eigenvectors, largest first, once they are seen to be that.

    Where eigenvalues are equal, as at the zeros of a matrix that is not square, any basis of their
    space is one, and the steps that follow depend on which.
    """
    found = np.asarray(found, np.float64)
    np.testing.assert_allclose(found.T @ found, np.eye(len(found)), atol=1e-6)
    turned, values = found.T @ square @ found, np.linalg.eigvalsh(square)[::-1]
    np.testing.assert_allclose(turned, np.diag(values), atol=1e-6 * values[0])
    return found


def soap(h, leaf):
    s = memory(m=0.0, v=0.0)

    def step(g, value):
        s.t += 1
        if s.t == 1:
            s.left, s.right = ((1 - h.b_square) * x for x in (g @ g.T, g.T @ g))
            s.q_left, s.q_right = (eigenbasis(x, next(h.bases)) for x in (s.left, s.right))
            return np.zeros_like(g)
        turned = s.q_left.T @ g @ s.q_right
        s.m, s.v = h.b1 * s.m + (1 - h.b1) * g, h.b2 * s.v + (1 - h.b2) * turned**2
        m = s.q_left.T @ s.m @ s.q_right / (1 - h.b1 ** (s.t - 1))
        inside = m / (np.sqrt(s.v / (1 - h.b2 ** (s.t - 1))) + h.epsilon)
        direction = s.q_left @ inside @ s.q_right.T
        s.left = h.b_square * s.left + (1 - h.b_square) * g @ g.T
        s.right = h.b_square * s.right + (1 - h.b_square) * g.T @ g
        if (s.t - 1) % h.every == 0:
            s.q_left = np.linalg.qr(s.left @ s.q_left)[0]
            s.q_right = np.linalg.qr(s.right @ s.q_right)[0]
        return direction

    return step if leaf.group.hidden else adam(h, leaf)


def cautious(h, leaf):
    plain = adam(h, leaf)

    def step(g, value):
        direction = plain(g, value)
        agrees = direction * g > 0
        return np.where(agrees, direction, 0) / max(agrees.mean(), 1e-3)

    return step


def sinkgd(h, leaf):
    def step(g, value):
        rows, columns = g.shape
        for _ in range(h.rounds):
            g = np.sqrt(columns) * g / np.linalg.norm(g, axis=1, keepdims=True)
            g = np.sqrt(rows) * g / np.linalg.norm(g, axis=0, keepdims=True)
        return h.scale * g

    return step if leaf.group.hidden else adam(h, leaf)


def scion(h, leaf):
    s = memory(m=0.0)

    def step(g, value):
        s.m = h.momentum * s.m + (1 - h.momentum) * g
        if not leaf.group.hidden:
            return np.sign(s.m)
        fan_in, fan_out = g.shape
        return np.sqrt(max(1, fan_out / fan_in)) * newton_schulz(s.m, h.steps)

    return step


def mars(h, leaf):
    plain, s = adam(h, leaf), memory(last=None)

    def step(g, value):
        if len(leaf.shape) == 1:
            return plain(g, value)
        last = g if s.last is None else s.last
        s.last, c = g, g + h.gamma * h.b1 / (1 - h.b1) * (g - last)
        return plain(c / max(np.linalg.norm(c), 1.0), value)

    return step


def adam_mini(h, leaf):
    s = memory(m=0.0, v=0.0)

    def step(g, value):
        s.t += 1
        if leaf.group.name == "embedding":  # [tokens, width]
            mean = (g**2).mean(axis=1, keepdims=True)
        elif leaf.group.matmul:  # [in, out], the head's tokens among the outs
            mean = (g**2).mean(axis=-2, keepdims=True)
        else:
            mean = (g**2).mean()
        s.m, s.v = h.b1 * s.m + (1 - h.b1) * g, h.b2 * s.v + (1 - h.b2) * mean
        return s.m / (1 - h.b1**s.t) / (np.sqrt(s.v / (1 - h.b2**s.t)) + h.epsilon)

    return step


def cosmos(h, leaf):
    if not leaf.group.hidden:
        return adam(h, leaf)
    n = leaf.shape[-2]
    r = min(h.rank, n)
    s = memory(m=0.0, v=0.0, p=np.eye(n, r), inside=np.zeros((r, r)))

    def step(g, value):
        s.t, g = s.t + 1, g.T
        s.m = h.b1 * s.m + g
        old = s.p
        s.p = np.linalg.qr(h.b2 * old @ s.inside + (1 - h.b2) * g.T @ (g @ old))[0]
        turn = old.T @ s.p
        s.inside = h.b2 * turn.T @ s.inside @ turn + (1 - h.b2) * (g @ s.p).T @ (g @ s.p)
        s.v = h.b2 * s.v + (1 - h.b2) * (g @ s.p) ** 2
        ahead = (g + h.b1 * s.m) / (1 + h.b1 * (1 - h.b1**s.t) / (1 - h.b1))
        found = (ahead @ s.p) / (np.sqrt(s.v / (1 - h.b2**s.t)) + h.epsilon) @ s.p.T
        left = ahead - ahead @ s.p @ s.p.T
        if np.linalg.norm(left) > 1e-5 * np.linalg.norm(ahead):  # More than rounding.
            outside = newton_schulz(left, h.steps)
            found = found + h.gamma * np.sqrt(g.size) * outside / np.linalg.norm(outside)
        return (h.scale * np.sqrt(g.size) * found / np.linalg.norm(found)).T

    return step


def adafactor(h, leaf):
    s = memory(v=0.0, rows=0.0, columns=0.0)

    def step(g, value):
        s.t += 1
        keep, square = 1 - float(s.t) ** -h.power, g**2 + h.epsilon
        if g.ndim == 1:
            s.v = keep * s.v + (1 - keep) * square
            direction = g / np.sqrt(s.v)
        else:
            # Of three dimensions the two largest are factored; all of these sizes are last.
            s.rows = keep * s.rows + (1 - keep) * square.mean(axis=-1, keepdims=True)
            s.columns = keep * s.columns + (1 - keep) * square.mean(axis=-2, keepdims=True)
            mean = s.rows.mean(axis=-2, keepdims=True)
            direction = g / np.sqrt(s.rows / mean * s.columns)
        return direction / max(1.0, np.sqrt((direction**2).mean()) / h.largest_rms)

    return step


def adopt(h, leaf):
    s = memory(m=0.0, v=None)

    def step(g, value):
        if s.v is None:
            s.v = g**2
            return np.zeros_like(g)
        s.t += 1
        bounded = np.clip(g / np.maximum(np.sqrt(s.v), h.epsilon), -(s.t**0.25), s.t**0.25)
        s.m = h.b1 * s.m + (1 - h.b1) * bounded
        s.v = h.b2 * s.v + (1 - h.b2) * g**2
        return s.m

    return step


def ademamix(h, leaf):
    s = memory(fast=0.0, slow=0.0, v=0.0)

    def step(g, value):
        s.t += 1
        share = min(s.t / h.warmup_steps, 1.0) if h.warmup_steps else 1.0
        logs = np.log(h.b1), np.log(h.b3)
        b3 = np.exp(logs[0] * logs[1] / ((1 - share) * logs[1] + share * logs[0]))
        s.fast, s.slow = h.b1 * s.fast + (1 - h.b1) * g, b3 * s.slow + (1 - b3) * g
        s.v = h.b2 * s.v + (1 - h.b2) * g**2
        root = np.sqrt(s.v / (1 - h.b2**s.t)) + h.epsilon
        return (s.fast / (1 - h.b1**s.t) + share * h.alpha * s.slow) / root

    return step


REFERENCES: dict[str, Callable] = {
    "adamw": adam,
    "lion": lion,
    "muon": muon,
    "nadamw": nadamw,
    "soap": soap,
    "cautious": cautious,
    "sinkgd": sinkgd,
    "scion": scion,
    "mars": mars,
    "adam_mini": adam_mini,
    "cosmos": cosmos,
    "adafactor": adafactor,
    "adopt": adopt,
    "ademamix": ademamix,
}


def reference(name: str, h, leaf: Leaf) -> Callable:
    """Returns an array's (gradient, value) → direction, of stacked matrices one by one."""
    whole = len(leaf.shape) < 3 or name not in ("muon", "soap", "sinkgd", "scion", "cosmos")
    if whole:
        return REFERENCES[name](h, leaf)
    each = [REFERENCES[name](h, leaf) for _ in range(leaf.shape[0])]
    return lambda g, value: np.stack([one(x, None) for one, x in zip(each, g, strict=True)])
