"""What runs of one Context have in common: a stream, the arena, and which stream used it last."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ingot.device.doorbell import Doorbell
from ingot.device.memory import Buffer
from ingot.device.stream import Event, Stream


class Lane:
    """Memory that only one run at a time may use, and the order of the streams that do."""

    def __init__(self, arena_bytes: int, persistent_bytes: int) -> None:
        self.stream = self.last = Stream()
        self.arena = Buffer(arena_bytes, "the arena")
        self.persistent = Buffer(persistent_bytes, "the kernels' counters")
        self.persistent.fill(0)
        self._borrowed: dict[int, Stream] = {}

    @cached_property
    def doorbell(self) -> Doorbell:
        """To wait for a stream by, made when it is first needed."""
        return Doorbell()

    def switch(self, stream: Stream) -> None:
        """Work on another stream than before starts after the work before: it uses the same arena."""
        if stream is not self.last:
            done = Event(timing=False)
            done.record(self.last)
            stream.wait(done)
            self.last = stream

    def borrow(self, stream: Any) -> Stream:
        """The caller's stream; the own one for None."""
        if stream is None:
            return self.stream
        if isinstance(stream, Stream):
            return stream
        found = Stream.of(stream)
        return self._borrowed.setdefault(int(found.handle), found)
