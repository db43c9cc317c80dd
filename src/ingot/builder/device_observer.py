"""Runs a model on a GPU for its values, and looks at them there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ingot.builder.tally import Tally, Tensor
from ingot.device.device import Device
from ingot.device.launch import Arg, KernelArgs, launch
from ingot.device.memory import Buffer
from ingot.device.module import Module
from ingot.device.stream import Stream
from ingot.engine.bounds import corner
from ingot.graph.dims import Bindings, evaluate_shape
from ingot.graph.dtypes import itemsize
from ingot.options import Range, Shapes
from ingot.plan.spec import Binding, Plan
from ingot.precision.host import HostRuns
from ingot.precision.inputs import Array, Feeds
from ingot.precision.observer import Observed
from ingot.runtime.array import DeviceArray
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.engine import Engine
from ingot.runtime.lane import Lane
from ingot.runtime.shapes import solve

_ALIGN = 256
_PER_SM = 4
"""Blocks of the statistics' kernels on each multiprocessor."""


def output_bytes(plan: Plan) -> list[int]:
    """Device memory of each output at the largest shapes."""
    return [_bytes(binding, corner(plan, "max")) for binding in plan.outputs]


def _bytes(binding: Binding, bindings: Bindings) -> int:
    size = math.prod(evaluate_shape(tuple(binding.shape), bindings)) * itemsize(binding.dtype)
    return -(-size // _ALIGN) * _ALIGN


class DeviceRuns:
    """Engines that give some values each, one after another in the same memory."""

    def __init__(self, engines: Sequence[Engine], device: Device) -> None:
        """Raises IngotError where device memory is short."""
        plans = [engine.plan for engine in engines]
        lane = Lane(max(plan.arena_bytes for plan in plans), max(plan.persistent_bytes for plan in plans))
        self.where, self._ordinal = device.info.name, device.ordinal
        self._contexts = [DeviceContext(engine, device.ordinal, lane) for engine in engines]
        largest = max(sum(output_bytes(plan)) for plan in plans)
        self._values = Buffer(largest, "observed values") if len(engines) > 1 else None
        """What several engines write to in turn; one alone has its own memory."""
        self.stream = lane.stream

    def run(self, feeds: Feeds) -> Iterator[dict[str, Tensor]]:
        """Values by name, part by part: the next one overwrites them. Inputs are with the first that reads them."""
        given = set[str]()
        for context in self._contexts:
            plan = context.engine.plan
            bindings = solve(plan, {name: array.shape for name, array in feeds.items()})
            shared = {} if self._values is None else self._outputs(plan, bindings, self._values)
            job = context.prepare(feeds, shared)
            context.put(job)
            context.launch(job)
            found = {}
            for space, binding in (*(("output", b) for b in plan.outputs), *(("input", b) for b in plan.inputs)):
                base = space, binding.name
                if base in job.program.bases and binding.name not in given:
                    shape = evaluate_shape(tuple(binding.shape), bindings)
                    found[binding.name] = Tensor(job.program.bases[base], shape)
            given.update(found)
            yield found

    def _outputs(self, plan: Plan, bindings: Bindings, values: Buffer) -> dict[str, DeviceArray]:
        found, offset = {}, 0
        for binding in plan.outputs:
            shape = evaluate_shape(tuple(binding.shape), bindings)
            place: Any = _Window(values.pointer + offset, values)
            found[binding.name] = DeviceArray(place, binding.dtype, shape, self._ordinal, self.stream)
            offset += _bytes(binding, bindings)
        return found


class _Window:
    """A piece of a buffer, which it keeps."""

    def __init__(self, pointer: int, whole: Buffer) -> None:
        self.pointer, self._whole = pointer, whole


class DeviceObserver:
    """Runs a model on a GPU, and looks at its values there. An :class:`ingot.precision.observer.Observer`."""

    def __init__(self, runs: DeviceRuns, tally: Tally, shapes: Shapes, on_host: Callable[[], HostRuns]) -> None:
        """``runs`` takes batches of ``shapes``; ``on_host`` gives the observed values for other batches."""
        self.where = runs.where
        self._runs, self._tally, self._shapes = runs, tally, shapes
        self._on_host = on_host
        self._host: HostRuns | None = None

    def see(self, feeds: Feeds) -> None:
        """See :meth:`ingot.precision.observer.Observer.see`."""
        if all(_within(feeds[name].shape, ranges) for name, ranges in self._shapes):
            for tensors in self._runs.run(feeds):
                self._tally.add(tensors)
        else:
            self._see_other(feeds)

    def seen(self) -> Observed:
        """See :meth:`ingot.precision.observer.Observer.seen`."""
        return self._tally.seen()

    def _see_other(self, feeds: Feeds) -> None:
        """A batch of other sizes runs on the CPU, and is looked at like all others, one value after another."""
        self._host = self._host or self._on_host()
        for name, array in {**feeds, **self._host.run(feeds)}.items():
            buffer, dense = Buffer(array.nbytes, "a batch of calibration"), np.ascontiguousarray(array)
            self._runs.stream.copy(buffer.pointer, dense.ctypes.data, dense.nbytes)
            self._tally.add({name: Tensor(buffer.pointer, array.shape)})
            self._runs.stream.synchronize()  # before the buffer is gone


def _within(shape: Sequence[int], ranges: Sequence[Range]) -> bool:
    return len(shape) == len(ranges) and all(r.min <= dim <= r.max for dim, r in zip(shape, ranges, strict=True))


class Gpu:
    """The :class:`ingot.builder.tally.Machine` of a stream."""

    def __init__(self, stream: Stream, cubin: bytes, sms: int) -> None:
        self._stream, self._module = stream, Module(cubin)
        self.blocks = _PER_SM * sms

    def memory(self, size: int, what: str) -> _Bytes:
        """See :class:`ingot.builder.tally.Machine`."""
        buffer = Buffer(size, what)
        self._stream.fill(buffer.pointer, 0, size)
        return _Bytes(buffer, self._stream)

    def fill(self, address: int, value: int, size: int) -> None:
        """See :class:`ingot.builder.tally.Machine`."""
        self._stream.fill(address, value, size)

    def launch(self, entry: str, blocks: int, threads: int, args: Sequence[Arg], shared: int = 0) -> None:
        """See :class:`ingot.builder.tally.Machine`."""
        launch(self._module.function(entry, shared), (blocks, 1, 1), threads, KernelArgs(args), self._stream)


class _Bytes:
    """Device memory that is read when the stream is done."""

    def __init__(self, buffer: Buffer, stream: Stream) -> None:
        self._buffer, self._stream = buffer, stream
        self.pointer = buffer.pointer

    def read(self, dtype: Any, shape: tuple[int, ...], offset: int = 0) -> Array:
        """See :class:`ingot.builder.tally.Memory`."""
        self._stream.synchronize()
        return self._buffer.read(dtype, shape, offset)
