"""Offsets for buffers such that conflicting ones do not overlap, in as little memory as we can find."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from ingot.plan.lifetimes import Buffer

ALIGN: Final = 256
"""Bytes: what cuMemAlloc guarantees, and more than any vector load or TMA descriptor needs."""

_STARTS: Final = 64
"""Largest buffers from which the lower bound is searched."""
_TRIES: Final = 100
_WORK: Final = 500_000
"""Pairs of conflicting buffers looked at per order: keeps planning a graph of a thousand steps to seconds."""


def aligned(size: int) -> int:
    """``size`` rounded up to a multiple of ALIGN."""
    return -(-size // ALIGN) * ALIGN


def assign(buffers: Sequence[Buffer], conflicts: Sequence[set[int]]) -> tuple[list[int], int]:
    """Offset of each buffer, and the bytes of the whole arena.

    Greedy best-fit in several orders; the smallest result wins, the first one among equals.
    """
    size = [aligned(b.bytes) for b in buffers]
    crowd = [sum(size[j] for j in conflicts[i]) for i in range(len(buffers))]
    first = [(b.touched & -b.touched).bit_length() for b in buffers]
    rules: tuple[Callable[[int], tuple[int, ...]], ...] = (
        lambda i: (-size[i], first[i], i),
        lambda i: (-crowd[i] - size[i], -size[i], i),
        lambda i: (-(crowd[i] + size[i]) * size[i], i),
        lambda i: (first[i], -size[i], i),
        lambda i: (-first[i], -size[i], i),
    )
    best: tuple[list[int], int] | None = None
    bound = lower_bound(buffers, conflicts)
    for rule in rules:
        for fit in (_best_gap, _lowest_gap):
            found = _improved(size, conflicts, sorted(range(len(buffers)), key=rule), fit, bound)
            if best is None or found[1] < best[1]:
                best = found
            if best[1] <= bound:
                return best
    assert best is not None
    return best


def lower_bound(buffers: Sequence[Buffer], conflicts: Sequence[set[int]]) -> int:
    """Bytes that no assignment can do without: the heaviest set of mutually conflicting buffers found."""
    size = [aligned(b.bytes) for b in buffers]
    heaviest = 0
    by_size = sorted(range(len(buffers)), key=lambda i: (-size[i], i))
    for start in by_size[:_STARTS]:
        clique, weight, allowed = {start}, size[start], conflicts[start]
        for i in by_size:
            if i in allowed and clique <= conflicts[i]:
                clique.add(i)
                weight += size[i]
        heaviest = max(heaviest, weight)
    return heaviest


def max_live(buffers: Sequence[Buffer], steps: int) -> int:
    """Most bytes alive at one position when steps run one after another (a lower bound for any order relation)."""
    change = [0] * (steps + 1)
    for b in buffers:
        if b.touched:
            change[(b.touched & -b.touched).bit_length() - 1] += aligned(b.bytes)
            change[b.touched.bit_length()] -= aligned(b.bytes)
    most = now = 0
    for step in change:
        now += step
        most = max(most, now)
    return most


_Fit = Callable[[list[tuple[int, int]], int], int]
"""Free gaps (start, length), the last one endless (length -1), and a size: the chosen start."""


def _best_gap(gaps: list[tuple[int, int]], size: int) -> int:
    fitting = [(length, start) for start, length in gaps[:-1] if length >= size]
    return min(fitting)[1] if fitting else gaps[-1][0]


def _lowest_gap(gaps: list[tuple[int, int]], size: int) -> int:
    return next(start for start, length in gaps if length < 0 or length >= size)


def _improved(
    size: list[int], conflicts: Sequence[set[int]], order: list[int], fit: _Fit, bound: int
) -> tuple[list[int], int]:
    """The best of several placements: what ended up on top is placed earlier the next time."""
    best = _place(size, conflicts, order, fit)
    tries = min(_TRIES, _WORK // max(1, sum(len(c) for c in conflicts)))
    # A fixed sequence: equal inputs must give equal offsets.
    generator = random.Random(0)
    offsets, top = best
    for _ in range(tries):
        if best[1] <= bound:
            break
        highest = max(i for i in order if offsets[i] + size[i] == top)
        at = order.index(highest)
        order.remove(highest)
        order.insert(generator.randrange(at) if at else 0, highest)
        offsets, top = _place(size, conflicts, order, fit)
        if top < best[1]:
            best = offsets, top
    return best


def _place(size: list[int], conflicts: Sequence[set[int]], order: list[int], fit: _Fit) -> tuple[list[int], int]:
    offsets = [-1] * len(size)
    top = 0
    for i in order:
        taken = sorted((offsets[j], offsets[j] + size[j]) for j in conflicts[i] if offsets[j] >= 0)
        gaps, end = [], 0
        for start, stop in taken:
            if start > end:
                gaps.append((end, start - end))
            end = max(end, stop)
        gaps.append((end, -1))
        offsets[i] = fit(gaps, size[i])
        top = max(top, offsets[i] + size[i])
    return offsets, top
