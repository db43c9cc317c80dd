"""A Context's own memory for inputs and outputs: device buffers and page-locked staging, made once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ingot.device.memory import Buffer, PinnedBuffer
from ingot.device.stream import Stream
from ingot.runtime.places import Base

Array = np.ndarray[Any, Any]


class Slots:
    """Memory by binding, sized for the profile's largest shapes, allocated when first needed."""

    def __init__(self, capacity: Mapping[Base, int], stream: Stream) -> None:
        """``stream``: the one that the copies are submitted to."""
        self.capacity = dict(capacity)
        self._stream = stream
        self._buffers: dict[Base, Buffer] = {}
        self._pinned: dict[Base, PinnedBuffer] = {}
        self._busy = False

    def buffer(self, base: Base) -> Buffer:
        """Device memory of a binding."""
        if base not in self._buffers:
            self._buffers[base] = Buffer(self.capacity[base], f"{base[0]} {base[1]!r}")
        return self._buffers[base]

    def _staging(self, base: Base) -> PinnedBuffer:
        if base not in self._pinned:
            self._pinned[base] = PinnedBuffer(self.capacity[base], f"{base[0]} {base[1]!r}")
        return self._pinned[base]

    def upload(self, base: Base, array: Array) -> None:
        """Submit a copy of ``array`` to the binding's device memory; ``array`` may change afterwards."""
        if self._busy:  # an earlier copy may still be reading the staging memory
            self.settle()
        staging = self._staging(base)
        np.copyto(staging.array(array.dtype, array.shape), array)
        self._stream.copy(self.buffer(base).pointer, staging.pointer, array.nbytes)

    def download(self, base: Base, source: int, dtype: Any, shape: tuple[int, ...]) -> Array:
        """Submit a copy from device address ``source``; a view of the staging memory, valid once the stream is done."""
        view = self._staging(base).array(dtype, shape)
        self._stream.copy(self._staging(base).pointer, source, view.nbytes)
        return view

    def submitted(self) -> None:
        """Copies are under way and nobody has waited for them."""
        self._busy = True

    def settle(self) -> None:
        """Wait for the copies."""
        self._stream.synchronize()
        self._busy = False
