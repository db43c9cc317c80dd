"""Tensor maps: how the copy engine of sm_90 and later finds a tile of a tensor, encoded by the driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

from ingot.device.driver import check, cuda, entry_point
from ingot.graph.dims import Bindings, Dim, evaluate

BYTES = 128
"""Size of an encoded map."""
ALIGN = 64
"""Alignment of an encoded map, bytes."""
_WORD, _INT = ctypes.c_void_p, ctypes.c_int
_TYPES = {"float16": "FLOAT16", "bfloat16": "BFLOAT16", "float32": "FLOAT32", "int32": "INT32"}


class MapLike(Protocol):
    """What is read of :class:`ingot.kernels.api.TensorMap` and of its form in a Plan."""

    @property
    def dtype(self) -> str:
        """Element type; one-byte types are copied as they are."""
        ...

    @property
    def dims(self) -> Sequence[Dim]:
        """Sizes, innermost first."""
        ...

    @property
    def strides(self) -> Sequence[Dim]:
        """Bytes, of every axis but the innermost."""
        ...

    @property
    def box(self) -> Sequence[int]:
        """Elements of one load; of an im2col map channels and pixels."""
        ...

    @property
    def swizzle(self) -> int:
        """0, 32, 64 or 128."""
        ...

    @property
    def lower(self) -> Sequence[int]:
        """Empty unless im2col."""
        ...

    @property
    def upper(self) -> Sequence[int]:
        """Empty unless im2col."""
        ...

    @property
    def steps(self) -> Sequence[int]:
        """Empty unless im2col."""
        ...


def encoded(item: MapLike, address: int, bindings: Bindings) -> bytes:
    """The 128 bytes for a tensor at ``address`` (a multiple of 16). Raises IngotError when the driver refuses."""
    memory = ctypes.create_string_buffer(BYTES + ALIGN)
    start = -ctypes.addressof(memory) % ALIGN
    dims = [evaluate(dim, bindings) for dim in item.dims]
    strides = [evaluate(stride, bindings) for stride in item.strides]
    MapEncoder().prepare(item)(ctypes.addressof(memory) + start, address, dims, strides)
    return memory.raw[start : start + BYTES]


Encode = Callable[[int, int, Sequence[int], Sequence[int]], None]
"""Writes the 128 bytes to the first address (a multiple of 64) for a tensor at the second, with its sizes, innermost
first, and its strides in bytes. Raises IngotError when the driver refuses."""


class MapEncoder:
    """Prepares tensor maps, so that one at another shape costs one call of the driver."""

    def __init__(self) -> None:
        driver = cuda()
        self._types = driver.CUtensorMapDataType
        self._swizzles = driver.CUtensorMapSwizzle
        self._tail = (
            int(driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B),
            int(driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        )
        self._plain = int(driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE)

    def prepare(self, item: MapLike) -> Encode:
        """What encodes ``item`` at given numbers."""
        kind = int(getattr(self._types, f"CU_TENSOR_MAP_DATA_TYPE_{_TYPES.get(item.dtype, 'UINT8')}"))
        none = "NONE" if item.swizzle == 0 else f"{item.swizzle}B"
        swizzle = int(getattr(self._swizzles, f"CU_TENSOR_MAP_SWIZZLE_{none}"))
        rank = len(item.dims)
        steps = (ctypes.c_uint32 * rank)(*([1, *item.steps, 1] if item.lower else [1] * rank))
        if item.lower:
            call, corners = _encode_im2col(), (_ints(item.lower), _ints(item.upper), *item.box)
        else:
            call, corners = _encode_tiled(), ((ctypes.c_uint32 * rank)(*item.box),)
        rest = (steps, self._plain, swizzle, *self._tail)
        sizes, gaps = ctypes.c_uint64 * rank, ctypes.c_uint64 * max(rank - 1, 1)

        def encode(to: int, address: int, dims: Sequence[int], strides: Sequence[int]) -> None:
            code = call(to, kind, rank, address, sizes(*dims), gaps(*strides), *corners, *rest)
            if code:
                check((code,), f"encoding a tensor map of {rank} axes")

        return encode


def _ints(numbers: Sequence[int]) -> Any:
    return (ctypes.c_int * len(numbers))(*numbers)


@cache
def _encode_tiled() -> Any:
    """(map*, type, rank, address, dims*, strides*, box*, steps*, interleave, swizzle, promotion, fill)."""
    kinds = (_WORD, _INT, _INT, _WORD, _WORD, _WORD, _WORD, _WORD, _INT, _INT, _INT, _INT)
    return ctypes.CFUNCTYPE(_INT, *kinds)(entry_point("cuTensorMapEncodeTiled", 12000))


@cache
def _encode_im2col() -> Any:
    """As above with, for the box, lower corner*, upper corner*, channels and pixels."""
    kinds = (_WORD, _INT, _INT, _WORD, _WORD, _WORD, _WORD, _WORD, _INT, _INT, _WORD, _INT, _INT, _INT, _INT)
    return ctypes.CFUNCTYPE(_INT, *kinds)(entry_point("cuTensorMapEncodeIm2col", 12000))
