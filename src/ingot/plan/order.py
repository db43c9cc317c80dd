"""The order of the steps: topological, chains kept together, little memory alive at any time.

Steps without a dependency between them still run in parallel; the order says which memory may be
reused early, and in which order the runtime adds nodes to the CUDA graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ingot.graph.region import Kind
from ingot.plan.flow import Flow
from ingot.plan.places import Places


def order_regions(flow: Flow, places: Places) -> tuple[int, ...]:
    """Working Regions in the order with the least live memory among three candidates.

    The model's own order wins ties; it is the only candidate when there are islands, because each
    switch between host and device costs a synchronisation.
    """
    own = flow.working
    if any(flow.lowered.regions[i].kind is Kind.HOST for i in own):
        return own
    memory = _Memory(flow, places)
    candidates = (own, _greedy(flow, memory), _depth_first(flow))
    return min(candidates, key=memory.peak)


def peak_bytes(flow: Flow, places: Places) -> int:
    """Bytes in the arena that are alive at once when the Regions run in the best order found: a bound, no plan."""
    return _Memory(flow, places).peak(order_regions(flow, places))


class _Memory:
    """Roots in the arena that each Region touches, with sizes."""

    def __init__(self, flow: Flow, places: Places) -> None:
        self.bytes = {root: size for root, size in places.root_bytes.items() if places.space[root] == "arena"}
        self.touches: dict[int, frozenset[str]] = {}
        self.users: dict[str, set[int]] = defaultdict(set)
        for index in flow.working:
            region = flow.lowered.regions[index]
            names = (n for n in (*region.inputs, *region.outputs) if n in places.of)
            roots = frozenset(r for r in (places.of[n].root for n in names) if r in self.bytes)
            self.touches[index] = roots
            for root in roots:
                self.users[root].add(index)

    def peak(self, order: Sequence[int]) -> int:
        """Most bytes alive at once when Regions run one after another."""
        left = {root: len(users) for root, users in self.users.items()}
        alive: set[str] = set()
        now = most = 0
        for index in order:
            fresh = self.touches[index] - alive
            alive |= fresh
            now += sum(self.bytes[root] for root in fresh)
            most = max(most, now)
            now -= self._release(index, left)
        return most

    def _release(self, index: int, left: dict[str, int]) -> int:
        freed = 0
        for root in self.touches[index]:
            left[root] -= 1
            freed += self.bytes[root] if left[root] == 0 else 0
        return freed

    def growth(self, index: int, left: dict[str, int], alive: set[str]) -> int:
        """Change of live memory when a Region runs next."""
        made = sum(self.bytes[root] for root in self.touches[index] - alive)
        return made - sum(self.bytes[root] for root in self.touches[index] if left[root] == 1)


def _greedy(flow: Flow, memory: _Memory) -> tuple[int, ...]:
    """Always the ready Region that grows live memory least; a successor of the last one wins ties."""
    waiting = {index: len(flow.depends[index]) for index in flow.working}
    followers: dict[int, list[int]] = defaultdict(list)
    for index in flow.working:
        for before in flow.depends[index]:
            followers[before].append(index)
    left = {root: len(users) for root, users in memory.users.items()}
    alive: set[str] = set()
    ready = {index for index, count in waiting.items() if not count}
    order: list[int] = []
    while ready:
        after = set(followers[order[-1]]) if order else set()
        best = min(ready, key=lambda i: (memory.growth(i, left, alive), i not in after, i))
        ready.remove(best)
        order.append(best)
        alive |= memory.touches[best]
        for root in memory.touches[best]:
            left[root] -= 1
        for follower in followers[best]:
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.add(follower)
    return tuple(order)


def _depth_first(flow: Flow) -> tuple[int, ...]:
    """Each Region just before the first one that needs it: finishes a branch before it starts another."""
    order: list[int] = []
    done: set[int] = set()
    for goal in flow.working:
        stack = [goal]
        while stack:
            index = stack[-1]
            pending = sorted((d for d in flow.depends[index] if d not in done), reverse=True)
            if pending and index not in done:
                stack.extend(pending)
                continue
            stack.pop()
            if index not in done:
                done.add(index)
                order.append(index)
    return tuple(order)
