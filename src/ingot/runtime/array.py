"""Arrays in device memory, as Ingot hands them out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ingot.device.memory import Buffer
from ingot.device.stream import Event, Stream
from ingot.graph import dtypes
from ingot.runtime import dlpack


class DeviceArray:
    """A dense row-major array in a Context's device memory.

    ``torch.from_dlpack(array)`` (or CuPy's, JAX's ...) shares it without a copy; ``array.numpy()``
    copies it to the host. The next run of the Context overwrites it.
    """

    def __init__(self, buffer: Buffer, dtype: str, shape: tuple[int, ...], ordinal: int, stream: Stream) -> None:
        """``stream`` is the one on which the content is made."""
        self.dtype, self.shape, self.stream = dtype, shape, stream
        self._buffer, self._ordinal = buffer, ordinal

    @property
    def pointer(self) -> int:
        """Device address of the first element."""
        return self._buffer.pointer

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * dtypes.itemsize(self.dtype)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy on the host, taken when the content is ready."""
        self.stream.synchronize()
        return self._buffer.read(dtypes.numpy_dtype(self.dtype), self.shape)

    def set(self, array: np.ndarray[Any, Any]) -> None:
        """Fill from a host array of the same shape and dtype; returns when it is there."""
        host = np.ascontiguousarray(array, dtypes.numpy_dtype(self.dtype))
        if host.shape != self.shape:
            raise ValueError(f"shape {host.shape} is not {self.shape}")
        self.stream.synchronize()
        self._buffer.upload(host)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self._ordinal

    def __dlpack__(self, *, stream: int | None = None, **_: object) -> Any:
        # -1 asks for no synchronisation; None means the legacy default stream.
        if stream != -1:
            ready = Event(timing=False)
            ready.record(self.stream)
            Stream(1 if stream is None else stream).wait(ready)
        return dlpack.export(self.pointer, self.dtype, self.shape, self.__dlpack_device__(), self._buffer)

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        return cuda_interface(self.pointer, self.dtype, self.shape, int(self.stream.handle))

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)} at {self.pointer:#x})"


def cuda_interface(pointer: int, dtype: str, shape: tuple[int, ...], stream: int | None) -> dict[str, object]:
    """A dense row-major array as ``__cuda_array_interface__`` tells it (version 3)."""
    found = dtypes.numpy_dtype(dtype)
    return {
        "shape": shape,
        "typestr": found.str if dtype not in ("bfloat16", "float8_e4m3fn") else f"<V{found.itemsize}",
        "data": (pointer, False),
        "version": 3,
        "stream": stream,
    }
