"""Waiting for a stream by watching a word of host memory."""

from __future__ import annotations

import ctypes
import time

from ingot.device.driver import check, cuda
from ingot.device.memory import PinnedBuffer
from ingot.device.stream import Stream

_PATIENCE_S = 0.05
"""Work that takes longer is waited for by the driver: it also knows when a kernel has failed."""
_LOOKS = 64
"""Between two looks at the clock."""


class Doorbell:
    """A word in page-locked memory that the device writes when it gets there."""

    def __init__(self) -> None:
        self._memory = PinnedBuffer(4, "a word to wait for")
        self._word = ctypes.c_uint32.from_address(self._memory.pointer)
        self._word.value = self._last = 0
        self._write = cuda().cuStreamWriteValue32

    def wait(self, stream: Stream) -> None:
        """Until everything submitted to ``stream`` is done. Raises IngotError when a kernel failed.

        Some microseconds sooner than ``stream.synchronize()``, but the thread holds the interpreter meanwhile.
        """
        last = self._last = (self._last + 1) & 0xFFFFFFFF
        check(self._write(stream.handle, self._memory.pointer, last, 0), "waiting for the device")
        word, start = self._word, time.perf_counter()
        while word.value != last:
            for _ in range(_LOOKS):
                if word.value == last:
                    return
            if time.perf_counter() - start > _PATIENCE_S:
                stream.synchronize()
                return
