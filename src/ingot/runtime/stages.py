"""Which steps run together: device steps as one CUDA graph each time the host must have its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.plan.spec import Step


@dataclass(frozen=True)
class Stage:
    """Steps of one side: graphs of the device, or the host's (islands and calls). Earlier stages come before."""

    host: bool
    steps: tuple[int, ...]
    """In the plan's order. Host steps run one after another; device steps by their edges."""
    copies: tuple[int, ...] = ()
    """Those of the device's steps that are copies."""


def stages(steps: Sequence[Step]) -> tuple[Stage, ...]:
    """The fewest alternating stages: every step runs in the earliest one its dependencies allow.

    A host step under a condition has a stage behind the one that makes the condition, which must be known when a
    stage begins: there two stages of the host follow each other.
    """
    level: list[int] = []  # even: device, odd: host
    told: dict[int, int] = {}  # the level of what host steps make
    for step in steps:
        host = step.kind in ("host", "call")
        earliest = 1 if host else 0
        for before in step.after:
            earliest = max(earliest, level[before] + ((level[before] % 2 == 1) != host))
        for when in step.when:
            earliest = max(earliest, told[when.value] + (2 if host else 1))
        level.append(earliest)
        if host:
            told |= dict.fromkeys(step.writes, earliest)
    rows = (
        _stage(steps, number % 2 == 1, tuple(i for i, at in enumerate(level) if at == number))
        for number in range(max(level, default=-1) + 1)
    )
    return tuple(stage for stage in rows if stage.steps)


def _stage(steps: Sequence[Step], host: bool, chosen: tuple[int, ...]) -> Stage:
    return Stage(host, chosen, tuple(i for i in chosen if steps[i].kind == "copy"))
