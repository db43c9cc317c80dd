"""Happens-before: every two accesses to the same bytes, one of them a write, must be ordered by edges."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ingot.plan.lifetimes import ancestors, before_all, bits, members
from ingot.plan.spec import Plan
from ingot.simulate.faults import PlanFault
from ingot.simulate.memory import Span


def check_races(plan: Plan, spans: Sequence[Span | None]) -> None:
    """Raises PlanFault for two steps that may run at the same time and conflict in memory.

    A programmatic edge orders like a full one (``plan.edges`` says why). Within one step, an output may lie on
    an input only if both have the same elements in the same places.
    """
    touched, written = [0] * len(plan.values), [0] * len(plan.values)
    ordered = _ordered(plan)
    for step, item in enumerate(plan.steps):
        for value in item.writes:
            written[value] |= 1 << step
        for value in (*item.reads, *item.writes):
            touched[value] |= 1 << step
    # Steps ordered with respect to every writer of a Value: one mask per Value makes a pair cheap.
    settled = [before_all(steps, ordered) for steps in written]
    for u, v in _neighbours(spans, [bool(t) for t in touched]):
        if touched[v] & ~settled[u] or touched[u] & ~settled[v]:
            _report_race(plan, spans, (u, v), touched, written, ordered)
        if u != v and (written[u] & touched[v]) | (touched[u] & written[v]):
            _check_same_step(plan, spans, (u, v), (written[u] & touched[v]) | (touched[u] & written[v]))
    _check_persistent(plan, spans)


def _ordered(plan: Plan) -> list[int]:
    """For each step, itself and the steps that certainly come before or after it."""
    before = ancestors([step.after for step in plan.steps])
    found = [known | 1 << step for step, known in enumerate(before)]
    for step, known in enumerate(before):
        for earlier in members(known):
            found[earlier] |= 1 << step
    return found


def _neighbours(spans: Sequence[Span | None], used: Sequence[bool]) -> list[tuple[int, int]]:
    """Pairs of Values (also a Value with itself) whose byte ranges meet."""
    rooms: dict[tuple[str, str], list[int]] = {}
    for i, span in enumerate(spans):
        if span is not None and used[i] and span.bytes and span.space not in ("host", "weights", "input"):
            rooms.setdefault((span.space, span.binding), []).append(i)
    pairs: list[tuple[int, int]] = []
    for room in rooms.values():
        starts = np.array([spans[i].offset for i in room])  # type: ignore[union-attr]
        ends = np.array([spans[i].end for i in room])  # type: ignore[union-attr]
        meet = (starts[:, None] < ends[None, :]) & (starts[None, :] < ends[:, None])
        pairs.extend((room[a], room[b]) for a, b in zip(*np.nonzero(np.triu(meet)), strict=True))
    return pairs


def _report_race(
    plan: Plan,
    spans: Sequence[Span | None],
    pair: tuple[int, int],
    touched: Sequence[int],
    written: Sequence[int],
    ordered: Sequence[int],
) -> None:
    """Raises PlanFault if two Values accessed by unordered steps really have a byte in common."""
    a, b = spans[pair[0]], spans[pair[1]]
    if a is None or b is None or not overlap(a, b):
        return
    for x, y in (pair, pair[::-1]):
        for step in members(written[x]):
            rivals = members(touched[y] & ~ordered[step])
            if rivals:
                names = f"{plan.values[x].name!r} and {plan.values[y].name!r}"
                reason = f"no edge orders it and {plan.steps[rivals[0]].name!r}, which conflict over {names}"
                raise PlanFault(reason, node=plan.steps[step].name)


def _check_same_step(plan: Plan, spans: Sequence[Span | None], pair: tuple[int, int], steps: int) -> None:
    """Two Values of one step, one of them written: apart, or one in place of the other."""
    a, b = spans[pair[0]], spans[pair[1]]
    if a is None or b is None or not overlap(a, b):
        return
    if a == b:
        _check_in_place(plan, *pair, members(steps))
        return
    names = f"{plan.values[pair[0]].name!r} and {plan.values[pair[1]].name!r}"
    raise PlanFault(f"{names} overlap within one step", node=plan.steps[members(steps)[0]].name)


def _check_persistent(plan: Plan, spans: Sequence[Span | None]) -> None:
    """Zeroed workspaces keep their content from run to run, so they never overlap."""
    spaces = [span is not None and span.space == "persistent" for span in spans]
    for u, v in _neighbours(spans, spaces):
        if u != v:
            names = f"{plan.values[u].name}, {plan.values[v].name}"
            raise PlanFault("two persistent workspaces overlap", node=names)


def _check_in_place(plan: Plan, u: int, v: int, steps: Sequence[int]) -> None:
    for step in (plan.steps[i] for i in steps):
        kernels = bits(i for i, s in enumerate(plan.steps) if s.region == step.region)
        two_writes = u in step.writes and v in step.writes
        if two_writes or kernels.bit_count() > 1 or plan.regions[step.region].kind != "map":
            names = f"{plan.values[u].name!r} and {plan.values[v].name!r}"
            raise PlanFault(f"{names} share memory in a step that is not pointwise", node=step.name)


@lru_cache(maxsize=4096)
def overlap(a: Span, b: Span) -> bool:
    """Whether two Values have a byte in common. Strided windows may interleave without touching."""
    start, end = max(a.offset, b.offset), min(a.end, b.end)
    if start >= end:
        return False
    if a == b:
        return True
    low = min(a.offset, b.offset)
    painted = np.zeros(max(a.end, b.end) - low, np.bool_)
    moved = [Span("", "", s.offset - low, s.shape, s.strides, s.item) for s in (a, b)]
    moved[0].every_byte(painted)[...] = True
    return bool(moved[1].every_byte(painted).any())
