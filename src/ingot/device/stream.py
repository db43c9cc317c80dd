"""Streams and events."""

from __future__ import annotations

from typing import Any

from ingot.device.driver import check, cuda

_NOT_READY = 600


class Stream:
    """An in-order queue of device work."""

    def __init__(self, handle: Any | None = None) -> None:
        """A new stream that does not synchronise with the legacy one, or a borrowed ``handle`` (an integer)."""
        driver = cuda()
        self._owned = handle is None
        if handle is None:
            flags = int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
            self.handle = check(driver.cuStreamCreate(flags), "creating a stream")
        else:
            self.handle = driver.CUstream(int(handle))
        self._driver = driver

    @staticmethod
    def of(stream: object) -> Stream:
        """``stream`` itself, or a borrowed one: an integer handle, or what PyTorch, CuPy and others call a stream."""
        if isinstance(stream, Stream):
            return stream
        if isinstance(stream, int):
            return Stream(stream)
        protocol = getattr(stream, "__cuda_stream__", None)
        if protocol is not None:
            version_and_handle = protocol() if callable(protocol) else protocol
            return Stream(version_and_handle[1])
        for name in ("cuda_stream", "ptr"):
            if hasattr(stream, name):
                return Stream(getattr(stream, name))
        if hasattr(stream, "__int__"):
            return Stream(int(stream))
        raise TypeError(f"{type(stream).__name__} is not a CUDA stream")

    def synchronize(self) -> None:
        """Wait until everything submitted is done. Raises IngotError when a kernel failed."""
        check(self._driver.cuStreamSynchronize(self.handle), "running kernels")

    def idle(self) -> bool:
        """Whether everything submitted is done."""
        result = self._driver.cuStreamQuery(self.handle)
        return False if result[0] == _NOT_READY else check(result, "running kernels") is None

    def wait(self, event: Event) -> None:
        """Later work on this stream starts after ``event``."""
        check(self._driver.cuStreamWaitEvent(self.handle, event.handle, 0))

    def copy(self, to: int, source: int, size: int) -> None:
        """Copy ``size`` bytes between any two addresses, in order on this stream.

        Host memory must be page-locked for the copy to be asynchronous.
        """
        if size:
            check(self._driver.cuMemcpyAsync(to, source, size, self.handle), "copying")

    def fill(self, pointer: int, value: int, size: int) -> None:
        """Set ``size`` bytes of device memory to ``value``, in order on this stream."""
        if size:
            check(self._driver.cuMemsetD8Async(pointer, value, size, self.handle), "clearing device memory")

    def __del__(self) -> None:
        if getattr(self, "_owned", False) and hasattr(self, "handle"):
            self._driver.cuStreamDestroy(self.handle)


class Event:
    """A point in a stream's work."""

    def __init__(self, timing: bool = True) -> None:
        """``timing`` off makes it cheaper."""
        driver = cuda()
        flags = driver.CUevent_flags
        flag = flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING
        self.handle = check(driver.cuEventCreate(int(flag)), "creating an event")
        self._driver = driver

    def record(self, stream: Stream) -> None:
        """The event is everything submitted to ``stream`` so far."""
        check(self._driver.cuEventRecord(self.handle, stream.handle))

    def synchronize(self) -> None:
        """Wait for the event. Raises IngotError when a kernel before it failed."""
        check(self._driver.cuEventSynchronize(self.handle), "running kernels")

    def since(self, start: Event) -> float:
        """Seconds from ``start`` to this event; both must have happened. Resolution about 0.5 microseconds."""
        return float(check(self._driver.cuEventElapsedTime(start.handle, self.handle))) * 1e-3

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self._driver.cuEventDestroy(self.handle)
