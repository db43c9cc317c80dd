"""A plugin's Python function between two graphs: it submits work to the stream, on values that stay on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ingot.device.stream import Stream
from ingot.errors import IngotError
from ingot.plan.spec import Plan, Step
from ingot.plugins.api import Attrs, OnStream, Tensors
from ingot.plugins.record import Record, read_record
from ingot.plugins.registry import Plugins
from ingot.runtime import dlpack
from ingot.runtime.array import cuda_interface
from ingot.runtime.island import HostArrays
from ingot.runtime.places import Places


@dataclass(frozen=True)
class StreamFunction:
    """The function, and what of the step it is told."""

    record: Record
    way: OnStream
    attrs: Attrs

    def __call__(self, inputs: Tensors, outputs: Tensors, stream: int) -> None:
        """Submits the work."""
        self.way.run(self.attrs, inputs, outputs, stream)


def stream_function(content: bytes, plugins: Plugins, where: str) -> StreamFunction:
    """The function of a call. Raises IngotError where the plugin is missing or offers none."""
    found = read_record(content)
    plugin = plugins.require(found.domain, found.name, found.version, where)
    way = next((w for w in plugin.implementations if isinstance(w, OnStream)), None)
    if way is None:
        raise IngotError(
            f"the plugin {plugin.op} has no Python function for the stream", node=where, fix="build the engine again"
        )
    return StreamFunction(found, way, found.attributes)


@dataclass(frozen=True)
class Tensor:
    """A dense row-major tensor in the Context's memory; see :class:`ingot.plugins.api.DeviceTensor`."""

    pointer: int
    dtype: str
    shape: tuple[int, ...]
    stream: int
    ordinal: int

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        return cuda_interface(self.pointer, self.dtype, self.shape, self.stream or None)

    def __dlpack__(self, *, stream: int | None = None, **_: object) -> Any:
        # The function is told to work on the stream on which the content is made, so there is nothing to wait for.
        return dlpack.export(self.pointer, self.dtype, self.shape, self.__dlpack_device__(), self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.ordinal


_Operand = tuple[int, str, tuple[int, ...]]
"""Address, element type and shape."""


class StreamCall:
    """One call bound to shapes and addresses."""

    def __init__(
        self,
        plan: Plan,
        step: Step,
        function: StreamFunction,
        found: Places,
        at: Callable[[int], int],
        ordinal: int,
    ) -> None:
        """``at``: device address of every Value."""
        self._name, self._function, self._ordinal = step.name, function, ordinal

        def operand(index: int) -> _Operand:
            place = found[index]
            assert place is not None, "the engine's check lets no value of unknown shape onto the device"
            return at(index), plan.values[index].dtype, place.shape

        self._reads, self._writes = [operand(i) for i in step.reads], [operand(i) for i in step.writes]

    def run(self, stream: Stream, host: HostArrays) -> None:
        """Submits the work behind what is on ``stream``. What the function raises becomes an IngotError."""
        handle, record = int(stream.handle), self._function.record
        inputs = record.arrange([self._tensor(read, handle) for read in self._reads])
        outputs: list[Tensor | None] = [None] * (max(record.results, default=-1) + 1)
        for position, write in zip(record.results, self._writes, strict=True):
            outputs[position] = self._tensor(write, handle)
        try:
            self._function(inputs, outputs, handle)
        except Exception as error:  # the plugin's own code
            raise IngotError(f"the plugin failed: {type(error).__name__}: {error}", node=self._name) from error

    def _tensor(self, operand: _Operand, stream: int) -> Tensor:
        return Tensor(*operand, stream, self._ordinal)
