"""Kernel arguments, and launches outside a graph (used for timing and tests)."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from ingot.device.driver import check, cuda
from ingot.device.module import Function
from ingot.device.stream import Stream

Arg = tuple[int, int] | bytes
"""One kernel argument: value and size in bytes (4 or 8), or the 128 bytes of a tensor map."""
Grid = tuple[int, int, int]
_MAP_ALIGN = 64
"""Alignment of a tensor map, bytes."""


def pointer(address: int) -> Arg:
    """An address argument; 0 is a null pointer."""
    return address, 8


def integer(value: int, size: int = 4) -> Arg:
    """An ``int`` (size 4) or ``long long`` (size 8) argument."""
    return value, size


class KernelArgs:
    """Arguments laid out as the driver wants them: an array of pointers to values.

    The driver copies the values during the launch or node call, so the object must live only till then.
    """

    def __init__(self, args: Sequence[Arg]) -> None:
        """Raises OverflowError when a value does not fit in its argument."""
        # Each number has 8 bytes of its own; a 4-byte argument reads the low half (little-endian).
        packed, offsets = bytearray(), []
        for arg in args:
            if isinstance(arg, bytes):
                packed += bytes(-len(packed) % _MAP_ALIGN)
            offsets.append(len(packed))
            packed += arg if isinstance(arg, bytes) else _packed(*arg)
        self._values = ctypes.create_string_buffer(len(packed) + _MAP_ALIGN)
        base = ctypes.addressof(self._values)
        base += -base % _MAP_ALIGN
        ctypes.memmove(base, bytes(packed), len(packed))
        self._pointers = (ctypes.c_void_p * max(len(args), 1))(*(base + offset for offset in offsets))
        self.address = ctypes.addressof(self._pointers)


def _packed(value: int, size: int) -> bytes:
    assert size in (4, 8), size
    low, high = (-(1 << 31), 1 << 32) if size == 4 else (-(1 << 63), 1 << 64)
    if not low <= value < high:
        raise OverflowError(f"kernel argument {value} does not fit in {size} bytes")
    return struct.pack("<Q", value % (1 << (8 * size)))


def launch(function: Function, grid: Grid, block: int, args: KernelArgs, stream: Stream, *, pdl: bool = False) -> None:
    """Submit one launch of ``block`` threads per block.

    ``pdl`` lets it start before the kernel in front of it on the stream has ended: only for
    kernels that execute ``griddepcontrol.wait``. Raises IngotError when the driver refuses.
    """
    driver = cuda()
    ids = driver.CUlaunchAttributeID
    attributes = []
    if function.cluster > 1:
        cluster = driver.CUlaunchAttribute()
        cluster.id = ids.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        cluster.value.clusterDim.x = function.cluster
        cluster.value.clusterDim.y = 1
        cluster.value.clusterDim.z = 1
        attributes.append(cluster)
    if function.cooperative:
        together = driver.CUlaunchAttribute()
        together.id = ids.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        together.value.cooperative = 1
        attributes.append(together)
    if pdl:
        early = driver.CUlaunchAttribute()
        early.id = ids.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        early.value.programmaticStreamSerializationAllowed = 1
        attributes.append(early)
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid
    config.blockDimX, config.blockDimY, config.blockDimZ = block, 1, 1
    config.sharedMemBytes = function.shared
    config.hStream = stream.handle
    if attributes:
        config.attrs = attributes
    config.numAttrs = len(attributes)
    what = f"launching {function.name} with grid {grid}, {block} threads, {function.shared} bytes shared"
    check(driver.cuLaunchKernelEx(config, function.handle, args.address, 0), what)
