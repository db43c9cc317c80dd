"""Tensor maps: how the copy engine of sm_90 and later finds a tile of a tensor, encoded by the driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, partial
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
    rank = len(item.dims)
    sizes = (ctypes.c_uint64 * rank)(*(evaluate(dim, bindings) for dim in item.dims))
    gaps = (ctypes.c_uint64 * max(rank - 1, 1))(*(evaluate(stride, bindings) for stride in item.strides))
    to = ctypes.addressof(memory) + start
    encode = MapEncoder().prepare(item, to, _WORD(address), ctypes.addressof(sizes), ctypes.addressof(gaps))
    check_encoded(encode(), rank)
    return memory.raw[start : start + BYTES]


class MapEncoder:
    """Prepares tensor maps, so that one at another shape costs one call of the driver."""

    def __init__(self) -> None:
        driver = cuda()
        self._types = driver.CUtensorMapDataType
        self._swizzles = driver.CUtensorMapSwizzle
        self._plain = _INT(int(driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE))
        self._tail = (
            _INT(int(driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B)),
            _INT(int(driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)),
        )

    def prepare(self, item: MapLike, to: int, tensor: ctypes.c_void_p, sizes: int, strides: int) -> Callable[[], int]:
        """What writes the 128 bytes of ``item`` to the address ``to`` (a multiple of 64), each time for what is then
        the address in ``tensor``, and the 64-bit numbers at ``sizes``, innermost first, and at ``strides``, in bytes.

        It gives the driver's code, for :func:`check_encoded`.
        """
        kind = int(getattr(self._types, f"CU_TENSOR_MAP_DATA_TYPE_{_TYPES.get(item.dtype, 'UINT8')}"))
        none = "NONE" if item.swizzle == 0 else f"{item.swizzle}B"
        swizzle = int(getattr(self._swizzles, f"CU_TENSOR_MAP_SWIZZLE_{none}"))
        rank = len(item.dims)
        steps = (ctypes.c_uint32 * rank)(*([1, *item.steps, 1] if item.lower else [1] * rank))
        corners: tuple[Any, ...] = ((ctypes.c_uint32 * rank)(*item.box),)
        if item.lower:
            corners = (_ints(item.lower), _ints(item.upper), *map(_INT, item.box))
        call = _encode_im2col() if item.lower else _encode_tiled()
        start = (_WORD(to), _INT(kind), _INT(rank), tensor, _WORD(sizes), _WORD(strides))
        return partial(call, *start, *corners, steps, self._plain, _INT(swizzle), *self._tail)


def check_encoded(code: int, rank: int) -> None:
    """Raises IngotError when the driver refused a map of ``rank`` axes."""
    if code:
        check((code,), f"encoding a tensor map of {rank} axes")


def _ints(numbers: Sequence[int]) -> Any:
    return (ctypes.c_int * len(numbers))(*numbers)


@cache
def _encode_tiled() -> Any:
    """(map*, type, rank, address, dims*, strides*, box*, steps*, interleave, swizzle, promotion, fill).

    To be called with ctypes' objects: without declared types a call costs half as much.
    """
    return ctypes.CFUNCTYPE(_INT)(entry_point("cuTensorMapEncodeTiled", 12000))


@cache
def _encode_im2col() -> Any:
    """As above with, for the box, lower corner*, upper corner*, channels and pixels."""
    return ctypes.CFUNCTYPE(_INT)(entry_point("cuTensorMapEncodeIm2col", 12000))
