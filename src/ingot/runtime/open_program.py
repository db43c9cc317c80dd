"""A Plan with sizes or branches that data decides: graphs are bound to them as host steps make them known.

The schedule is cut behind every stage in which a host step tells a size, or a condition. The graphs of a part are made
for the sizes that are known when its turn comes, without the steps that the conditions exclude, and kept for the next
time. A size of nothing is bound as one: steps on the device
make a row that nobody reads, since all they make is rows of such sizes; host steps and callers see what there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.device.memory import PinnedBuffer
from ingot.device.stream import Stream
from ingot.errors import IngotError
from ingot.graph.dims import Bindings, evaluate_shape, symbols
from ingot.plan.spec import DataSize, Plan, conditions
from ingot.runtime.hostmodel import HostFunction
from ingot.runtime.island import HostArrays
from ingot.runtime.places import Base, Place, Places
from ingot.runtime.program import Program, Turn
from ingot.runtime.recent import Recent
from ingot.runtime.segments import Segments
from ingot.runtime.stages import Stage
from ingot.runtime.stream_call import StreamFunction

Array = np.ndarray[Any, Any]
Sizes = dict[str, int]
Course = dict[int, bool]
"""Conditions that are known, by Value, in the order in which they became so."""
_KEPT = 64
"""Programs of parts kept, least recently used out first."""


@dataclass(frozen=True)
class _Part:
    """Stages that run with the same sizes known."""

    stages: tuple[Stage, ...]
    open: frozenset[int]
    """Values whose size is not known yet: they stay on the host until it is."""
    late: tuple[int, ...]
    """Values that host steps have made, and whose size is known since the part before."""
    tells: tuple[DataSize, ...]
    """Sizes that are known behind it."""
    decides: tuple[int, ...]
    """Values that are conditions and known behind it."""


class OpenPlaces:
    """Places of Values at the sizes of the last run; None for those that depend on data while there was none."""

    def __init__(self, plan: Plan, least: Places, bindings: Bindings, open_values: frozenset[int]) -> None:
        """``least``: where all Values are at sizes of one; ``bindings``: what inputs give; ``open_values``: those
        whose size depends on data."""
        self._plan, self._least, self._bindings, self._open = plan, least, bindings, open_values
        self.sizes: dict[str, int] | None = None

    def __getitem__(self, index: int) -> Place | None:
        place = self._least[index]
        if place is None or index not in self._open:
            return place
        if self.sizes is None:
            return None
        value = self._plan.values[index]
        at = {**self._bindings, **self.sizes}
        shape, strides = evaluate_shape(tuple(value.shape), at), evaluate_shape(tuple(value.strides), at)
        return Place(place.base, place.offset, shape, strides, place.dtype)


class OpenProgram:
    """As :class:`ingot.runtime.program.Program`, for a Plan with ``data`` or steps under conditions."""

    def __init__(
        self,
        segments: Segments,
        schedule: Sequence[Stage],
        bindings: Bindings,
        bases: Mapping[Base, int],
        models: Mapping[int, HostFunction],
        calls: Mapping[int, StreamFunction],
        weights: memoryview,
        ordinal: int = 0,
    ) -> None:
        """Builds the graphs of the first part. Raises what :class:`Program` raises."""
        table = segments.table
        self.plan = table.numbers.plan
        self.bindings, self.bases = dict(bindings), dict(bases)
        self._least: Bindings = {**{d.symbol: 1 for d in self.plan.data}, **bindings}
        self._segments, self._weights, self._ordinal = segments, weights, ordinal
        self._models, self._calls = models, calls
        self._parts = _parts(self.plan, schedule)
        self._programs = Recent[tuple[int, tuple[int, ...], tuple[bool, ...]], Program](_KEPT)
        self.host: HostArrays = {}
        self._first = self._program(0, {}, {})
        least = Places(table.numbers, self._first.found)
        self.places = OpenPlaces(self.plan, least, self.bindings, self._parts[0].open)
        self._pinned: dict[int, PinnedBuffer] = {}

    @property
    def on_device(self) -> bool:
        """A launch waits for the host."""
        return False

    def feed_host(self, feeds: Mapping[str, Array]) -> None:
        """See :meth:`Program.feed_host`."""
        self._first.feed_host(feeds)
        self.host.update(self._first.host)

    def prepare(self, stream: Stream) -> None:
        """Send the graphs that are known to the device ahead of the first launch."""
        self._first.prepare(stream)

    def launch(self, stream: Stream) -> None:
        """Submit everything; waits at every host step. Raises IngotError for a size beyond its bound."""
        for turn in self.turns(stream):
            turn.launch(stream)

    def turns(self, stream: Stream) -> Iterator[Turn]:
        """The parts of a run, each bound to what those before have made: they must have run when it is asked for.

        Raises IngotError for a size beyond its bound.
        """
        sizes: Sizes = {}
        course: Course = {}
        for number, part in enumerate(self._parts):
            program = self._program(number, sizes, course)
            self.host.update(program.constants)
            true = {**self.bindings, **sizes}
            self._send_late(program, part, sizes, stream)
            yield Turn(program, self.host, _Shapes(self.plan, part.open, true, 0 in sizes.values()))
            for told in part.tells:
                sizes[told.symbol] = _size(told, self.host[told.value])
            course |= {value: bool(self.host[value].reshape(())) for value in part.decides}
        self.places.sizes = sizes

    def _program(self, number: int, sizes: Sizes, course: Course) -> Program:
        part = self._parts[number]
        bound = {name: max(size, 1) for name, size in sizes.items()}
        key = (number, tuple(bound.values()), tuple(course.values()))
        found = self._programs.get(key)
        if found is None:
            at = {**self._least, **bound}
            found = Program(
                self._segments, part.stages, at, self.bases, self._models, self._calls, self._weights, self._ordinal,
                part.open, self._idle(part, course),
            )  # fmt: skip
            self._programs.put(key, found)
        return found

    def _idle(self, part: _Part, course: Course) -> frozenset[int]:
        """Steps of a part that do not run."""
        steps = ((i, self.plan.steps[i]) for stage in part.stages for i in stage.steps)
        return frozenset(i for i, step in steps if any(course[w.value] is not w.wanted for w in step.when))

    def _send_late(self, program: Program, part: _Part, sizes: Sizes, stream: Stream) -> None:
        """Values that host steps made before their size was bound go where device steps read them."""
        for index in part.late:
            if not program.at(index):
                continue
            array = self.host[index]
            place = program.places[index]
            assert place is not None
            pinned = self._pinned.get(index)
            if pinned is None or pinned.bytes < place.span:
                pinned = self._pinned[index] = PinnedBuffer(place.span, f"value {self.plan.values[index].name}")
            stream.synchronize()  # an earlier copy may still read the staging memory
            view = place.view(pinned.memory)
            if 0 in sizes.values():
                view[...] = 0  # a row that is in bounds as an index, where there is none
            view[tuple(slice(0, size) for size in array.shape)] = array
            stream.copy(program.at(index), pinned.pointer, place.span)


class _Shapes:
    """What host steps are told of sizes that the bound graphs do not show."""

    def __init__(self, plan: Plan, hidden: frozenset[int], at: Bindings, empty: bool) -> None:
        self._plan, self._hidden, self._at, self._empty = plan, hidden, at, empty

    def __call__(self, index: int) -> tuple[int, ...] | None:
        """The real shape of a Value where it is not the bound one."""
        if not self._empty or index in self._hidden:
            return None
        shape = self._plan.values[index].shape
        if any(name not in self._at for dim in shape for name in symbols(dim)):
            return None
        return evaluate_shape(tuple(shape), self._at)


def _parts(plan: Plan, schedule: Sequence[Stage]) -> tuple[_Part, ...]:
    """The schedule, cut behind each stage that tells a size or a condition."""
    left, undecided = list(plan.data), conditions(plan.steps)
    parts: list[_Part] = []
    stages: list[Stage] = []
    unknown, made, late = _open(plan, left), set[int](), tuple[int, ...]()
    for stage in schedule:
        stages.append(stage)
        if not stage.host:
            continue
        made.update(i for step in stage.steps for i in plan.steps[step].writes)
        told = tuple(d for d in left if d.value in made)
        decided = tuple(sorted(undecided & made))
        undecided -= made
        if told or decided:
            parts.append(_Part(tuple(stages), unknown, late, told, decided))
            left, stages, before = [d for d in left if d not in told], [], unknown
            unknown = _open(plan, left)
            late = tuple(sorted((before - unknown) & made))
    return (*parts, _Part(tuple(stages), unknown, late, (), ()))


def _open(plan: Plan, left: Sequence[DataSize]) -> frozenset[int]:
    data = {d.symbol for d in left}
    return frozenset(i for i, value in enumerate(plan.values) if _uses(value.shape, data))


def _uses(shape: Sequence[int | str], data: set[str]) -> bool:
    return any(isinstance(dim, str) and symbols(dim) & data for dim in shape)


def _size(told: DataSize, array: Array) -> int:
    size = int(array.shape[told.axis])
    if size > told.max:
        raise IngotError(f"the data makes size {told.symbol} {size}; memory is planned for {told.max}")
    return size
