"""Histograms and channels of tensors in device memory: they stay there, only counts come back."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ingot.builder.statistics_kernels import CHANNELS, COUNT, MERGE, MERGING, RANGE, SHARED, THREADS
from ingot.device.launch import Arg, integer, pointer
from ingot.precision.histogram import BINS, Channels, Histogram
from ingot.precision.observer import Observed, Wanted

_BINS_BYTES = 2 * BINS * 8
_EACH = 32
"""Numbers that a thread looks at before there are more blocks."""
_NOTHING = 0xFFFFFFFF
"""What is in a range's place where no number was finite."""


class Memory(Protocol):
    """Some bytes of a :class:`Machine`."""

    @property
    def pointer(self) -> int:
        """Their address."""

    def read(self, dtype: Any, shape: tuple[int, ...], offset: int = 0) -> np.ndarray[Any, Any]:
        """A copy, when everything that was launched is done."""


class Machine(Protocol):
    """What the kernels run on: a GPU, or its emulation in tests."""

    @property
    def blocks(self) -> int:
        """Blocks that keep all of it busy."""

    def memory(self, size: int, what: str) -> Memory:
        """Bytes that are 0. Raises IngotError where there are too few."""

    def fill(self, address: int, value: int, size: int) -> None:
        """Sets bytes, after what was launched before."""

    def launch(self, entry: str, blocks: int, threads: int, args: Sequence[Arg], shared: int = 0) -> None:
        """Runs a kernel, after what was launched before."""


class Tensor(NamedTuple):
    """Dense float32 numbers in device memory."""

    pointer: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many."""
        return math.prod(self.shape)


class Tally:
    """What :class:`ingot.precision.observer.HostObserver` keeps, of values that a device makes.

    Counts and ranges are the same, bit for bit; sums of channels are, but for the order in which they are added.
    """

    def __init__(self, wanted: Wanted, machine: Machine) -> None:
        """Raises IngotError where device memory is short."""
        self._machine = machine
        self._found = Observed.nothing(wanted)
        count = len(wanted.ranges)
        self._place = {name: index for index, name in enumerate(wanted.ranges)}
        self._bins = machine.memory(_BINS_BYTES * count, "histograms")
        self._ranges = machine.memory(16 * count, "ranges")
        self._sums: dict[str, tuple[Memory, Memory]] = {}

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes in values of a batch, all or some of those that are wanted.

        Waits for the device once, for the ranges; what is submitted afterwards may overwrite the values.
        """
        self._add_ranges({name: tensor for name, tensor in tensors.items() if name in self._found.histograms})
        for name, tensor in tensors.items():
            if name in self._found.channels:
                self._add_channels(name, self._found.channels[name], tensor)

    def seen(self) -> Observed:
        """Everything so far."""
        for index, histogram in enumerate(self._found.histograms.values()):
            histogram.counts = self._bins.read(np.int64, (2 * BINS,), index * _BINS_BYTES)
        for name, (total, largest) in self._sums.items():
            channels = self._found.channels[name]
            channels.total = total.read(np.float64, channels.total.shape)
            channels.largest = largest.read(np.float32, channels.largest.shape).astype(np.float64)
        return self._found

    def _add_ranges(self, tensors: Mapping[str, Tensor]) -> None:
        count, where = len(tensors), self._ranges.pointer
        self._machine.fill(where, 0xFF, 8 * count)
        self._machine.fill(where + 8 * count, 0, 8 * count)
        for index, tensor in enumerate(tensors.values()):
            place = pointer(where + 8 * index), pointer(where + 8 * (count + index))
            self._over(RANGE, tensor, *place)
        keys = self._ranges.read(np.uint32, (count, 2))
        odd = self._ranges.read(np.int64, (count,), 8 * count)
        for index, (name, tensor) in enumerate(tensors.items()):
            histogram = self._found.histograms[name]
            histogram.nonfinite += int(odd[index])
            if keys[index, 0] != _NOTHING:
                times = histogram.widen(_number(keys[index, 0]), -_number(keys[index, 1]))
                bins = pointer(self._bins.pointer + self._place[name] * _BINS_BYTES)
                self._count(tensor, histogram, times, bins)

    def _count(self, tensor: Tensor, histogram: Histogram, times: int, bins: Arg) -> None:
        if times:
            self._machine.launch(MERGE, 1, MERGING, (bins, integer(times)))
        factor = integer(int.from_bytes(struct.pack("<f", histogram.factor), "little"))
        self._over(COUNT, tensor, factor, bins, shared=SHARED)

    def _over(self, entry: str, tensor: Tensor, *args: Arg, shared: int = 0) -> None:
        """Launches a kernel over all numbers of ``tensor``."""
        if tensor.size:
            blocks = min(-(-tensor.size // (THREADS * _EACH)), self._machine.blocks)
            args = (pointer(tensor.pointer), integer(tensor.size, 8), *args)
            self._machine.launch(entry, blocks, THREADS, args, shared)

    def _add_channels(self, name: str, channels: Channels, tensor: Tensor) -> None:
        axis = channels.axis % len(tensor.shape)
        outer, count, inner = math.prod(tensor.shape[:axis]), tensor.shape[axis], math.prod(tensor.shape[axis + 1 :])
        if not tensor.size:
            return
        if name not in self._sums:
            channels.total, channels.largest = np.zeros(count), np.zeros(count)
            what = f"channels of {name!r}"
            self._sums[name] = self._machine.memory(8 * count, what), self._machine.memory(4 * count, what)
        places = [pointer(memory.pointer) for memory in self._sums[name]]
        args = (pointer(tensor.pointer), integer(outer, 8), integer(inner, 8), *places)
        self._machine.launch(CHANNELS, count, THREADS, args)
        channels.count += outer * inner


def _number(key: Any) -> float:
    """The float32 of which the kernels' ``ordered`` is ``key``."""
    bits = int(key)
    bits = bits & 0x7FFFFFFF if bits & 0x80000000 else ~bits & 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))
