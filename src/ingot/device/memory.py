"""Device memory and page-locked host memory with an owner."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ingot.device.driver import check, cuda
from ingot.errors import IngotError

_OUT_OF_MEMORY = 2
_made = 0


def allocations() -> int:
    """How many device or pinned allocations this process has made through Ingot."""
    return _made


def _allocated() -> None:
    global _made
    _made += 1


def _gib(size: int) -> str:
    return f"{size} bytes ({size / 2**30:.2f} GiB)"


class Buffer:
    """Device memory: at least 256-byte aligned, freed with the object or by :meth:`close`."""

    def __init__(self, size: int, what: str = "a buffer") -> None:
        """Allocates ``size`` bytes (a size of 0 takes the smallest piece).

        Raises IngotError naming ``what`` when the device has too little memory free.
        """
        self.bytes = size
        self.pointer = 0
        driver = cuda()
        result = driver.cuMemAlloc(max(size, 1))
        if result[0] == _OUT_OF_MEMORY:
            free, total = check(driver.cuMemGetInfo())
            raise IngotError(
                f"out of device memory: {what} needs {_gib(size)}, {_gib(int(free))} of {_gib(int(total))} are free",
                fix="free device memory held by other programs, use fewer Contexts, or lower the profile's max shape",
            )
        self.pointer = int(check(result, f"allocating {_gib(size)} for {what}"))
        self._free = driver.cuMemFree
        _allocated()

    def upload(self, data: Any, offset: int = 0) -> None:
        """Copy a contiguous host array or bytes-like object to ``offset``; returns when it is there."""
        host = _host_bytes(data)
        self._range(offset, host.nbytes)
        if host.nbytes:
            check(cuda().cuMemcpyHtoD(self.pointer + offset, host.ctypes.data, host.nbytes), "copying to the device")

    def download(self, out: np.ndarray[Any, Any], offset: int = 0) -> None:
        """Fill the C-contiguous array ``out`` from ``offset``, after all work submitted so far to stream 0."""
        assert out.flags.c_contiguous and out.flags.writeable
        self._range(offset, out.nbytes)
        if out.nbytes:
            check(cuda().cuMemcpyDtoH(out.ctypes.data, self.pointer + offset, out.nbytes), "copying from the device")

    def read(self, dtype: Any, shape: tuple[int, ...], offset: int = 0) -> np.ndarray[Any, Any]:
        """A new array filled from ``offset``."""
        out: np.ndarray[Any, Any] = np.empty(shape, dtype)
        self.download(out, offset)
        return out

    def fill(self, value: int = 0) -> None:
        """Set every byte to ``value`` (0 to 255)."""
        if self.bytes:
            check(cuda().cuMemsetD8(self.pointer, value, self.bytes), "clearing device memory")

    def _range(self, offset: int, size: int) -> None:
        assert offset >= 0 and offset + size <= self.bytes, (offset, size, self.bytes)

    def close(self) -> None:
        """Free the memory now. Nothing may still use it."""
        pointer, self.pointer = self.pointer, 0
        if pointer:
            self._free(pointer)

    def __del__(self) -> None:
        if getattr(self, "pointer", 0):
            self.close()


class PinnedBuffer:
    """Page-locked host memory: the only kind the GPU copies at full speed and asynchronously."""

    def __init__(self, size: int, what: str = "a staging buffer") -> None:
        """Allocates ``size`` bytes. Raises IngotError when the system has too little."""
        self.bytes = size
        self.pointer = 0
        driver = cuda()
        result = driver.cuMemHostAlloc(max(size, 1), 0)
        if result[0] == _OUT_OF_MEMORY:
            raise IngotError(
                f"out of page-locked host memory: {what} needs {_gib(size)}",
                fix="raise the limit on locked memory (ulimit -l, container settings), or a smaller max shape",
            )
        self.pointer = int(check(result, f"allocating {_gib(size)} of page-locked memory for {what}"))
        self._free = driver.cuMemFreeHost
        self._raw = (ctypes.c_uint8 * max(size, 1)).from_address(self.pointer)
        _allocated()

    @property
    def memory(self) -> memoryview:
        """The bytes; valid only as long as this object."""
        return memoryview(self._raw).cast("B")

    def array(self, dtype: Any, shape: tuple[int, ...], offset: int = 0) -> np.ndarray[Any, Any]:
        """A view of the memory at ``offset``; valid only as long as this object."""
        made: np.ndarray[Any, Any] = np.ndarray(shape, np.dtype(dtype), buffer=self.memory, offset=offset)
        return made

    def close(self) -> None:
        """Free the memory now. No view may be used afterwards."""
        pointer, self.pointer = self.pointer, 0
        if pointer:
            self._free(pointer)

    def __del__(self) -> None:
        if getattr(self, "pointer", 0):
            self.close()


def _host_bytes(data: Any) -> np.ndarray[Any, Any]:
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data)
    return np.frombuffer(data, np.uint8)
