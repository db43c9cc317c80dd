"""Running an engine on the GPU: one graph launch, or a few with the host's turns between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.device.stream import Stream
from ingot.engine.bounds import corner
from ingot.errors import IngotError
from ingot.graph.dtypes import numpy_dtype
from ingot.plan.spec import Binding
from ingot.runtime import shapes as dims
from ingot.runtime.array import DeviceArray
from ingot.runtime.context import Context, Shapes
from ingot.runtime.dlpack import View
from ingot.runtime.feeds import (
    Array,
    check_names,
    device_view,
    dtype_error,
    host_value,
    on_device,
    require_all,
    shape_of,
)
from ingot.runtime.host_context import empty_value, write_into
from ingot.runtime.job import Job
from ingot.runtime.lane import Lane
from ingot.runtime.open_program import OpenProgram
from ingot.runtime.places import Base, capacity
from ingot.runtime.program import Program
from ingot.runtime.recent import Recent
from ingot.runtime.segments import Segments
from ingot.runtime.slots import Slots
from ingot.runtime.table import LaunchTable

if TYPE_CHECKING:
    from ingot.runtime.engine import Engine

_PROGRAMS = 16
"""Graphs kept per Context, least recently used out first."""
_ALIGN = 256
"""What kernels assume of the address of an input or output."""
_Key = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]


class DeviceContext(Context):
    """Per-execution memory on one GPU (arena, counters, I/O), a stream, and the graphs bound so far."""

    def __init__(self, engine: Engine, ordinal: int = 0, lane: Lane | None = None) -> None:
        """``lane``: stream and memory shared with the Contexts of other profiles, large enough for all."""
        super().__init__(engine)
        plan = engine.plan
        self._device = engine.open_device(ordinal)
        self._ordinal = ordinal
        self._lane = lane or Lane(plan.arena_bytes, plan.persistent_bytes)
        self._stream = self._lane.stream
        self._slots = Slots(capacity(plan, corner(plan, "max")), self._stream)
        self._programs = Recent[_Key, Program | OpenProgram](_PROGRAMS)
        self._jobs = Recent[tuple[tuple[int, ...], ...], Job](_PROGRAMS)
        """What shapes on the Context's own arrays were bound to."""
        self._best: dict[str, tuple[int, ...]] | None = None
        self._segments: Segments | None = None
        self._bound: Job | None = None

    def run(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """See :meth:`Context.run`."""
        job = self.prepare(feeds, outputs)
        self.put(job)
        self.launch(job)
        return self.get(job)

    # The parts of a run, apart so that each can be timed.

    def prepare(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> Job:
        """Check what is passed in and find or build the Program for it."""
        self._device.activate()
        plan = self.engine.plan
        check_names(feeds, plan.inputs, "input")
        require_all(feeds, plan.inputs)
        arrays: dict[str, Array] = {}
        views: dict[str, View] = {}
        for binding in plan.inputs:
            feed = feeds[binding.name]
            if on_device(feed):
                views[binding.name] = device_view(feed, binding, int(self._stream.handle), self._ordinal)
            else:
                arrays[binding.name] = host_value(feed, binding)
        given = {name: (shape_of(arrays[name]) if name in arrays else views[name].shape) for name in feeds}
        return self._job(given, arrays, views, outputs or {})

    def _job(self, given: Shapes, arrays: dict[str, Array], views: dict[str, View], outputs: Mapping[str, Any]) -> Job:
        plan = self.engine.plan
        check_names(outputs, plan.outputs, "output")
        bases: dict[Base, int] = {}
        copies = []
        for name, view in views.items():
            base = ("input", name)
            if base not in self._slots.capacity:
                arrays[name] = self._to_host(view)
            elif view.pointer % _ALIGN == 0:
                bases[base] = view.pointer
            else:
                size = self._bytes(view)
                copies.append((self._slots.buffer(base).pointer, view.pointer, size))
        placed = self._placed(outputs)
        for name, view in placed.items():
            if ("output", name) in self._slots.capacity and view.pointer % _ALIGN == 0:
                bases["output", name] = view.pointer
        program = self._program(given, bases)
        self._check_targets(program, outputs, placed)
        return Job(program, arrays, tuple(copies), tuple(views.values()), outputs, placed, bool(views))

    def put(self, job: Job) -> None:
        """Submit the copies of the inputs to the device."""
        self._lane.switch(self._stream)
        for name, array in job.arrays.items():
            base = ("input", name)
            if base in self._slots.capacity:
                self._slots.upload(base, array)
        for to, source, size in job.copies:
            self._stream.copy(to, source, size)
        job.program.feed_host(job.arrays)

    def launch(self, job: Job) -> None:
        """Submit the work itself."""
        job.program.launch(self._stream)
        self._slots.submitted()

    def get(self, job: Job) -> dict[str, Any]:
        """Copy the results to where they belong, and wait for them."""
        pending = self.download(job)
        self._make_ready()
        self._slots.settle()
        return self._results(job, pending)

    def download(self, job: Job) -> dict[str, Array]:
        """Submit the copies of the outputs to the host."""
        pending = {}
        for binding in self.engine.plan.outputs:
            base: Base = ("output", binding.name)
            if base not in self._slots.capacity:
                continue
            target = job.placed.get(binding.name)
            source = job.program.bases[base]
            place = job.program.places[binding.value]
            assert place is not None
            if target is not None:
                if target.pointer != source:
                    self._stream.copy(target.pointer, source, place.span)
            elif not job.device_results or binding.name in job.targets:
                pending[binding.name] = self._slots.download(base, source, place.dtype, place.shape)
        return pending

    def _results(self, job: Job, pending: Mapping[str, Array]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for binding in self.engine.plan.outputs:
            name = binding.name
            array = pending.get(name)
            on_host = ("output", name) not in self._slots.capacity
            if on_host:
                array = job.program.host[binding.value]
            if name in job.placed:
                if array is not None:
                    self._from_host(job.placed[name], array, binding)
                results[name] = job.targets[name]
            elif name in job.targets:
                assert array is not None
                results[name] = write_into(job.targets[name], array, binding)
            elif array is None and not on_host:
                results[name] = self._device_array(binding, "output", job.program)
            else:
                results[name] = pending[name].copy() if name in pending else array
        return results

    # Binding ahead of time.

    def bind(
        self,
        shapes: Shapes | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """See :meth:`Context.bind`. Shapes that neither ``shapes`` nor ``inputs`` gives are the optimum ones."""
        if not inputs and not outputs and self._bind_again(shapes or {}):
            return
        self._device.activate()
        plan = self.engine.plan
        inputs = inputs or {}
        check_names({**inputs, **(shapes or {})}, plan.inputs, "input")
        views: dict[str, View] = {}
        arrays: dict[str, Array] = {}
        given = dims.or_best(plan, shapes or {})
        for binding in plan.inputs:
            name = binding.name
            if name in inputs and on_device(inputs[name]):
                views[name] = device_view(inputs[name], binding, int(self._stream.handle), self._ordinal)
                given[name] = views[name].shape
            elif name in inputs:
                arrays[name] = host_value(inputs[name], binding)
                given[name] = shape_of(arrays[name])
        job = self._job(given, arrays, views, outputs or {})
        self._reject_indirect(job)
        for binding in plan.inputs:  # host steps read their own arrays: make those that were not given
            if ("input", binding.name) not in self._slots.capacity and binding.name not in arrays:
                arrays[binding.name] = empty_value(binding, given[binding.name])
        self.put(job)
        job.program.prepare(self._stream)
        self._slots.settle()
        self._bound = job
        if not inputs and not outputs:
            self._jobs.put(tuple(given.values()), job)

    def _bind_again(self, shapes: Shapes) -> bool:
        """Binds shapes that were bound before on the Context's own arrays; nothing is checked or submitted."""
        if self._best is None:
            self._best = dims.or_best(self.engine.plan, {})
        best = self._best
        if not shapes.keys() <= best.keys():
            return False
        key = tuple(tuple(shapes.get(name) or shape) for name, shape in best.items())
        job = self._jobs.get(key)
        if job is None:
            return False
        job.program.feed_host(job.arrays)  # another run at these shapes may have left its own
        self._bound = job
        return True

    def enqueue(self, stream: Any = None) -> None:
        """See :meth:`Context.enqueue`. An engine with host steps waits for the device at each of them."""
        job = self._bound
        if job is None:
            self.bind()
            job = self._bound
            assert job is not None
        self._device.activate()
        self._lane.switch(self._lane.borrow(stream))
        job.program.launch(self._lane.last)

    def synchronize(self, *, spin: bool = False) -> None:
        """See :meth:`Context.synchronize`; the stream is that of the last run or ``enqueue``."""
        self._device.activate()
        self._make_ready()
        if spin:
            self._lane.doorbell.wait(self._lane.last)
        else:
            self._lane.last.synchronize()

    def input(self, name: str) -> DeviceArray | Array:
        """See :meth:`Context.input`. NumPy for an input that only host steps read."""
        binding, job = self._binding(name, "input"), self._need_bound()
        if ("input", name) not in self._slots.capacity:
            return job.arrays[name]
        return self._device_array(binding, "input", job.program)

    def output(self, name: str) -> DeviceArray | Array:
        """See :meth:`Context.output`. NumPy for an output that a host step makes."""
        binding, job = self._binding(name, "output"), self._need_bound()
        if ("output", name) not in self._slots.capacity:
            return job.program.host[binding.value]
        return self._device_array(binding, "output", job.program)

    @property
    def stream(self) -> Stream:
        """The Context's own stream."""
        return self._stream

    @property
    def bound(self) -> Program | OpenProgram:
        """The Program that :meth:`enqueue` replays."""
        return self._need_bound().program

    def _need_bound(self) -> Job:
        if self._bound is None:
            self.bind()
        assert self._bound is not None
        return self._bound

    # Programs.

    def _program(self, given: Shapes, external: Mapping[Base, int]) -> Program | OpenProgram:
        plan = self.engine.plan
        names = [b.name for b in plan.inputs]
        bases = {
            base: external[base] if base in external else self._slots.buffer(base).pointer
            for base in self._slots.capacity
        }
        key = (tuple(given[name] for name in names), tuple(bases.values()))
        program = self._programs.get(key)
        if program is None:
            bindings = dims.solve(plan, given)
            bases["arena", ""] = self._lane.arena.pointer
            bases["persistent", ""] = self._lane.persistent.pointer
            bases["weights", ""] = self.engine.weights.pointer
            engine = self.engine
            if self._segments is None:
                self._segments = Segments(LaunchTable(engine.numbers, engine.function))
            weights = memoryview(engine.file.weights)
            kind = OpenProgram if plan.data or self._segments.conditions else Program
            program = kind(
                self._segments, engine.schedule, bindings, bases, engine.models, engine.calls, weights, self._ordinal
            )
            self._programs.put(key, program)
        return program

    def _make_ready(self) -> None:
        """While the device works: what the next shape will need."""
        if self._segments is not None:
            self._segments.make_ready()

    # Outputs that the caller owns.

    def _placed(self, outputs: Mapping[str, Any]) -> dict[str, View]:
        return {
            b.name: device_view(outputs[b.name], b, int(self._stream.handle), self._ordinal, "output")
            for b in self.engine.plan.outputs
            if b.name in outputs and on_device(outputs[b.name])
        }

    def _check_targets(
        self, program: Program | OpenProgram, outputs: Mapping[str, Any], placed: Mapping[str, View]
    ) -> None:
        """Before anything runs, so that a wrong target leaves no half-done work."""
        for binding in self.engine.plan.outputs:
            place = program.places[binding.value]
            if binding.name not in outputs or place is None:
                continue
            target = outputs[binding.name]
            node = f"output {binding.name!r}"
            if binding.name in placed:
                shape = placed[binding.name].shape
            elif isinstance(target, np.ndarray) and target.flags.writeable:
                shape = target.shape
                if target.dtype != place.dtype:
                    raise dtype_error(binding, str(target.dtype), "output")
            else:
                raise IngotError("the array to write into is neither writable NumPy nor in CUDA memory", node=node)
            if shape != place.shape:
                raise IngotError(f"the array to write into has shape {list(shape)}, not {list(place.shape)}", node=node)

    def _reject_indirect(self, job: Job) -> None:
        """``enqueue`` copies nothing, so bound device arrays must be usable where they lie."""
        direct = set(job.program.bases.values())
        for view in (*job.views, *job.placed.values()):
            if view.pointer not in direct:
                raise IngotError(
                    "a bound array is not usable where it lies: not aligned to 256 bytes, or used by host steps only",
                    fix="bind an array at the start of its own allocation, or use context.run",
                )
        if any(name not in job.placed for name in job.targets):
            raise IngotError("enqueue cannot write into host arrays", fix="bind CUDA arrays, or use context.run")

    # Small things.

    def _binding(self, name: str, what: str) -> Binding:
        rows = self.engine.plan.inputs if what == "input" else self.engine.plan.outputs
        check_names([name], rows, what)
        return next(b for b in rows if b.name == name)

    def _device_array(self, binding: Binding, space: str, program: Program | OpenProgram) -> DeviceArray:
        place = program.places[binding.value]
        if place is None:
            raise IngotError("its size depends on data", node=f"{space} {binding.name!r}", fix="run once before")
        base = (space, binding.name)
        own = self._slots.buffer(base)
        if program.bases[base] != own.pointer:
            raise IngotError(f"{space} {binding.name!r} is bound to an array of yours", fix="use that array")
        return DeviceArray(own, binding.dtype, place.shape, self._ordinal, self._lane.last)

    def _bytes(self, view: View) -> int:
        return int(np.prod(view.shape, dtype=np.int64)) * numpy_dtype(view.dtype).itemsize

    def _to_host(self, view: View) -> Array:
        array: Array = np.empty(view.shape, numpy_dtype(view.dtype))
        self._stream.copy(array.ctypes.data, view.pointer, array.nbytes)
        self._stream.synchronize()
        return array

    def _from_host(self, view: View, array: Array, binding: Binding) -> None:
        if view.shape != array.shape:
            raise IngotError(
                f"the array to write into has shape {list(view.shape)}, not {list(array.shape)}",
                node=f"output {binding.name!r}",
            )
        host = np.ascontiguousarray(array)
        self._stream.copy(view.pointer, host.ctypes.data, host.nbytes)
        self._stream.synchronize()
