"""The memory of a simulated device: bytes, and for every byte which Value was last written there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ingot.engine.bounds import extent
from ingot.engine.file import EngineFile
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, evaluate, evaluate_shape
from ingot.plan.spec import ValueDecl
from ingot.simulate.faults import PlanFault

Array = np.ndarray
NOBODY = -1
_POISON = 0xFF
"""All ones is NaN in every floating-point type, so a read of unwritten memory also shows in results."""


@dataclass(frozen=True)
class Span:
    """A Value at one binding of the symbolic dimensions: where its elements lie."""

    space: str
    binding: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""
    item: int

    @property
    def bytes(self) -> int:
        """Bytes from the first to the last element, both included."""
        return extent(self.shape, self.strides) * self.item

    @property
    def end(self) -> int:
        """First byte after the last element."""
        return self.offset + self.bytes

    def every_byte(self, array: Array) -> Array:
        """The entries of ``array`` (one per byte of the space) that belong to the Value: shape + (item,)."""
        part = array[self.offset : self.end]
        width = array.itemsize
        strides = (*(stride * self.item * width for stride in self.strides), width)
        return np.lib.stride_tricks.as_strided(part, (*self.shape, self.item), strides)


def span_of(value: ValueDecl, bindings: Bindings) -> Span:
    """Where ``value`` lies at ``bindings``."""
    return Span(
        value.memory.space,
        value.memory.binding,
        evaluate(value.memory.offset, bindings),
        evaluate_shape(tuple(value.shape), bindings),
        evaluate_shape(tuple(value.strides), bindings),
        dtypes.itemsize(value.dtype),
    )


class Memory:
    """All spaces of one simulated Context, poisoned, with the weights and feeds in place."""

    def __init__(
        self, engine: EngineFile, bindings: Bindings, feeds: Mapping[str, Array], loose: frozenset[int]
    ) -> None:
        plan = engine.plan
        self.values = plan.values
        self.spans = [None if i in loose else span_of(v, bindings) for i, v in enumerate(plan.values)]
        self.host: dict[int, Array] = {}
        """Values that live on the host, and outputs whose shape depends on data."""
        self.data: dict[tuple[str, str], Array] = {
            ("arena", ""): np.full(plan.arena_bytes, _POISON, np.uint8),
            ("persistent", ""): np.zeros(plan.persistent_bytes, np.uint8),
            ("weights", ""): np.frombuffer(engine.weights, np.uint8),
        }
        for b in plan.inputs:
            if b.value in loose:
                self.host[b.value] = feeds[b.name]
                continue
            dtype = dtypes.numpy_dtype(b.dtype)
            self.data["input", b.name] = np.ascontiguousarray(feeds[b.name], dtype).reshape(-1).view(np.uint8)
        for b in plan.outputs:
            span = self.spans[b.value]
            self.data["output", b.name] = np.full(span.bytes if span else 0, _POISON, np.uint8)
        self.owner = {
            key: np.full(array.nbytes, NOBODY, np.int32)
            for key, array in self.data.items()
            if key[0] in ("arena", "output")
        }

    def get(self, index: int) -> Array:
        """The elements of a Value, as a (read-write where possible) strided view."""
        span = self.spans[index]
        if index in self.host or span is None or span.space == "host":
            if index not in self.host:
                raise PlanFault("is read before any step has made it", node=self.values[index].name)
            return self.host[index]
        dtype = dtypes.numpy_dtype(self.values[index].dtype)
        if not span.bytes:
            return np.empty(span.shape, dtype)
        flat = self.data[span.space, span.binding][span.offset : span.end]
        strides = [stride * span.item for stride in span.strides]
        return np.lib.stride_tricks.as_strided(flat.view(dtype), span.shape, strides)

    def check_owner(self, index: int, writers: frozenset[int], where: str) -> None:
        """Raises PlanFault unless every byte of a Value was last written as one of ``writers``."""
        span = self.spans[index]
        if span is None or (span.space, span.binding) not in self.owner or not span.bytes:
            return
        owner = span.every_byte(self.owner[span.space, span.binding])
        good = np.isin(owner, np.fromiter(sorted(writers), np.int32))
        if good.all():
            return
        other = int(owner[~good].flat[0])
        what = "memory that nobody has written" if other == NOBODY else f"what {self.values[other].name!r} left there"
        raise PlanFault(f"reads {what} as {self.values[index].name!r}", node=where)

    def put(self, index: int, array: Array) -> None:
        """Writes a Value."""
        value, span = self.values[index], self.spans[index]
        if dtypes.nested(value.dtype) is not None:
            self.host[index] = array
            return
        if array.dtype != dtypes.numpy_dtype(value.dtype) or (span is not None and array.shape != span.shape):
            raise PlanFault(f"its body gave {array.dtype}{array.shape}", node=value.name)
        if span is None or span.space == "host":
            self.host[index] = array
            return
        if span.bytes:
            self.get(index)[...] = array
        self.claim(index)

    def claim(self, index: int) -> None:
        """Marks a Value as written, whatever its bytes are."""
        span = self.spans[index]
        if span is not None and (span.space, span.binding) in self.owner and span.bytes:
            span.every_byte(self.owner[span.space, span.binding])[...] = index

    def spoil(self, index: int) -> None:
        """Poisons a Value that is being written and not yet complete, or that will not be made."""
        span, dtype = self.spans[index], self.values[index].dtype
        if span is not None and span.space == "host" and dtypes.nested(dtype) is None:
            self.host[index] = np.zeros(span.shape, dtypes.numpy_dtype(dtype))
            return
        if span is not None and (span.space, span.binding) in self.owner and span.bytes:
            span.every_byte(self.data[span.space, span.binding])[...] = _POISON
            self.claim(index)
