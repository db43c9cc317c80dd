"""Which buffers may share memory, when steps without a dependency between them run at the same time.

A lifetime here is no interval of positions: steps form a partial order. Buffer A may lend its memory
to buffer B only if every step that touches A is an ancestor of every step that writes B. (Readers
of B follow its writers.) Sets of steps are integers with one bit per step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_LEAST_MICROS: Final = 1.0
"""Time of a step whose own is unknown: about one graph node."""


@dataclass(frozen=True)
class Buffer:
    """Memory that is live from its first write to its last read.

    ``touched`` and ``written`` are the sets of steps that access and that write it.
    """

    name: str
    bytes: int
    touched: int = 0
    written: int = 0


def bits(steps: Iterable[int]) -> int:
    """The set of the given steps."""
    found = 0
    for step in steps:
        found |= 1 << step
    return found


def members(steps: int) -> list[int]:
    """The steps of a set, ascending."""
    found = []
    while steps:
        lowest = steps & -steps
        found.append(lowest.bit_length() - 1)
        steps ^= lowest
    return found


def ancestors(after: Sequence[Iterable[int]]) -> list[int]:
    """For each step, the set of steps that have certainly finished before it starts.

    ``after[s]`` are direct dependencies, all smaller than ``s``.
    """
    found: list[int] = []
    for step, before in enumerate(after):
        mine = 0
        for b in before:
            assert b < step, "steps are not in topological order"
            mine |= found[b] | 1 << b
        found.append(mine)
    return found


def in_sequence(count: int) -> list[int]:
    """Ancestors when steps run strictly one after another."""
    return [(1 << step) - 1 for step in range(count)]


def in_time(after: Sequence[Iterable[int]], micros: Sequence[float]) -> list[int]:
    """Steps that have finished before each step starts if every step starts as early as its edges allow.

    Making an edge of such a pair does not lengthen that schedule: memory is reused without giving up
    parallelism. Only earlier steps count, so that the order of the steps stays valid.
    """
    start: list[float] = []
    finish: list[float] = []
    for before, duration in zip(after, micros, strict=True):
        start.append(max((finish[b] for b in before), default=0.0))
        finish.append(start[-1] + max(duration, _LEAST_MICROS))
    return [
        bits(t for t in range(s) if finish[t] <= begin) | known
        for s, (begin, known) in enumerate(zip(start, ancestors(after), strict=True))
    ]


def before_all(steps: int, ancestors_of: Sequence[int]) -> int:
    """The steps that precede every member of ``steps``."""
    found = -1
    for step in members(steps):
        found &= ancestors_of[step]
    return found


def conflicts(buffers: Sequence[Buffer], ancestors_of: Sequence[int]) -> list[set[int]]:
    """For each buffer, the indices of those that must not overlap it."""
    ready = [before_all(b.written, ancestors_of) for b in buffers]
    found: list[set[int]] = [set() for _ in buffers]
    for i, a in enumerate(buffers):
        for j in range(i):
            b = buffers[j]
            if a.touched & ~ready[j] and b.touched & ~ready[i]:
                found[i].add(j)
                found[j].add(i)
    return found
