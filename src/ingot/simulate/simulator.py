"""Runs a Plan for the device on the host, to prove that its memory and its edges are right.

Each Region's body runs in ONNX Runtime, reading and writing the planned arena at the planned offsets, in a
random order that respects the edges. Memory starts poisoned. Before anything runs, all pairs of steps
that edges leave unordered are checked for conflicting accesses; while it runs, every read is
checked to see exactly the bytes of the Value it names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ingot.engine.bounds import check_at, data_dependent, known_symbols
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.graph import dtypes
from ingot.plan.spec import Plan, Step
from ingot.runtime.feeds import fits, shape_of
from ingot.runtime.shapes import solve
from ingot.simulate.bodies import Bodies
from ingot.simulate.faults import PlanFault
from ingot.simulate.memory import Memory
from ingot.simulate.races import check_races

Observer = Callable[[int, np.ndarray], None]


class _OtherSize(Exception):
    """A size that depends on data is not the one that was assumed."""

    def __init__(self, symbol: str, size: int) -> None:
        super().__init__(symbol)
        self.symbol, self.size = symbol, size


class Simulator:
    """Runs engines that keep the bodies of their Regions."""

    def __init__(self, engine: EngineFile) -> None:
        self.engine = engine
        self.bodies = Bodies(engine)
        self.last_order: tuple[int, ...] = ()
        """Steps of the last run, in the order in which they ran."""

    def run(
        self, feeds: Mapping[str, np.ndarray], *, seed: int = 0, observe: Observer | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs by name for input arrays by name.

        ``seed`` chooses among the orders that the edges allow. ``observe`` is called with the index and a
        copy of every Value that a step has made. Raises PlanFault for a Plan that would
        give wrong results, IngotError for wrong feeds or an engine without bodies.
        """
        plan = self.engine.plan
        _check_feeds(plan, feeds)
        bindings = solve(plan, {name: shape_of(value) for name, value in feeds.items()})
        bindings |= {d.symbol: d.opt for d in plan.data}
        for _ in range(len(plan.data) + 1):
            try:
                return self._run(feeds, bindings, seed, observe)
            except _OtherSize as other:  # now that it is known, from the start
                bindings[other.symbol] = other.size
        raise PlanFault("sizes that depend on data do not settle")

    def _run(
        self, feeds: Mapping[str, np.ndarray], bindings: Mapping[str, int], seed: int, observe: Observer | None
    ) -> dict[str, np.ndarray]:
        """One run at the values of all symbols. Raises _OtherSize where a host step tells another value of one."""
        plan = self.engine.plan
        check_at(plan, {name: max(size, 1) for name, size in bindings.items()})
        known = known_symbols(plan)
        loose = frozenset(
            i
            for i, value in enumerate(plan.values)
            if data_dependent(value, known) or not dtypes.on_device(value.dtype)
        )
        memory = Memory(self.engine, bindings, feeds, loose)
        check_races(plan, memory.spans)
        run = _Run(plan, memory, self.bodies, bindings, observe)
        self.last_order = shuffled(plan, seed)
        for step in self.last_order:
            run.step(step)
        for b in plan.outputs:
            memory.check_owner(b.value, run.writers[b.value], "the end of the run")
        return {b.name: _copied(memory.get(b.value)) for b in plan.outputs}


def _check_feeds(plan: Plan, feeds: Mapping[str, np.ndarray]) -> None:
    known = {b.name: b.dtype for b in plan.inputs}
    for name in sorted(known.keys() ^ feeds.keys()):
        reason = "this input was not given" if name in known else "the engine has no such input"
        raise IngotError(reason, node=name, fix=f"give exactly {', '.join(sorted(known))}")
    for name, dtype in known.items():
        if dtypes.nested(dtype) is None and not fits(feeds[name], dtype):
            raise IngotError(f"{feeds[name].dtype} given, {dtype} expected", node=name, fix="convert the input")


def _copied(value: Any) -> Any:
    return value.copy() if value is not None else None


def shuffled(plan: Plan, seed: int) -> tuple[int, ...]:
    """A random order of the steps in which every step follows those it names in ``after``."""
    generator = np.random.default_rng(seed)
    waiting = [len(step.after) for step in plan.steps]
    followers: list[list[int]] = [[] for _ in plan.steps]
    for index, step in enumerate(plan.steps):
        for before in step.after:
            followers[before].append(index)
    ready = [index for index, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        step_index = ready.pop(int(generator.integers(len(ready))))
        order.append(step_index)
        for follower in followers[step_index]:
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    return tuple(order)


class _Run:
    """One run: the kernels of a Region are passed through, its body runs at the last of them."""

    def __init__(
        self, plan: Plan, memory: Memory, bodies: Bodies, bindings: Mapping[str, int], observe: Observer | None
    ) -> None:
        self.plan, self.memory, self.bodies, self.bindings = plan, memory, bodies, bindings
        self.observe = observe
        self.left: dict[int, int] = {}
        for step in plan.steps:
            self.left[step.region] = self.left.get(step.region, 0) + 1
        self.kernels = dict(self.left)
        self.seen: dict[int, bytes] = {}
        self.claimed: set[tuple[int, int]] = set()
        """Regions with the workspaces that one of their kernels has used."""

    @cached_property
    def writers(self) -> list[frozenset[int]]:
        """For each Value, those Values as which its bytes are rightly written: itself, or through views."""
        found = [frozenset((i,)) for i in range(len(self.plan.values))]
        for region in self.plan.regions:
            if region.kind == "view":
                origin = frozenset().union(*(found[i] for i in region.reads)) if region.reads else frozenset[int]()
                for i in region.writes:
                    found[i] = origin
        return found

    def step(self, index: int) -> None:
        """Runs one step."""
        step = self.plan.steps[index]
        if not all(bool(self.memory.get(w.value)) is w.wanted for w in step.when):
            for i in step.writes:
                self.memory.spoil(i)
        elif step.kind == "copy":
            self._check_reads(step.reads, step)
            self._put(step.writes[0], _copied(self.memory.get(step.reads[0])))
        elif step.kind == "host":
            self._check_reads(step.reads, step)
            made = self.bodies.island(step.model, step.backend, [self.memory.get(i) for i in step.reads])
            self._check_sizes(step, made)
            self._put_all(step.writes, made)
        else:
            self._kernel(step)

    def _check_sizes(self, step: Step, made: Sequence[Any]) -> None:
        """Sizes that the step tells, against those assumed."""
        for d in self.plan.data:
            if d.value in step.writes:
                size = int(made[step.writes.index(d.value)].shape[d.axis])
                if size > d.max:
                    raise PlanFault(f"size {size} is above its bound of {d.max}", node=step.name)
                if size != self.bindings[d.symbol]:
                    raise _OtherSize(d.symbol, size)

    def _kernel(self, step: Step) -> None:
        region = self.plan.regions[step.region]
        if region.body < 0:
            raise IngotError("the engine does not keep this region's body", node=region.name, fix="keep bodies")
        first = self.left[step.region] == self.kernels[step.region]
        self.left[step.region] -= 1
        last = self.left[step.region] == 0
        self._check_reads(region.reads, step)
        self._scratch(step)
        if first and not last:
            self.seen[step.region] = self._digest(region.reads)
            for i in region.writes:
                self.memory.spoil(i)
        elif not first:
            for i in region.writes:
                self.memory.check_owner(i, frozenset((i,)), step.name)
        if last:
            if not first and self.seen[step.region] != self._digest(region.reads):
                raise PlanFault("an input changed between the kernels of one region", node=step.name)
            inputs = [self.memory.get(i) for i in region.reads]
            self._put_all(region.writes, self.bodies.kernel(region.body, inputs, self.bindings))

    def _scratch(self, step: Step) -> None:
        """Workspaces: what an earlier kernel of the Region left must still be there."""
        region = self.plan.regions[step.region]
        for i in sorted({*step.reads, *step.writes} - {*region.reads, *region.writes}):
            key = (step.region, i)
            if key in self.claimed:
                self.memory.check_owner(i, frozenset((i,)), step.name)
            self.claimed.add(key)
            self.memory.spoil(i)

    def _check_reads(self, reads: list[int], step: Step) -> None:
        for i in reads:
            self.memory.check_owner(i, self.writers[i], step.name)

    def _digest(self, reads: list[int]) -> bytes:
        digest = hashlib.sha256()
        for i in reads:
            digest.update(np.ascontiguousarray(self.memory.get(i)).tobytes())
        return digest.digest()

    def _put_all(self, writes: list[int], made: list[np.ndarray]) -> None:
        for i, array in zip(writes, made, strict=True):
            self._put(i, array)

    def _put(self, index: int, array: np.ndarray) -> None:
        self.memory.put(index, array)
        if self.observe is not None:
            self.observe(index, _copied(self.memory.get(index)))
