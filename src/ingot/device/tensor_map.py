"""Tensor maps: how the copy engine of sm_90 and later finds a tile of a tensor, encoded by the driver."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Protocol

from ingot.device.driver import check, cuda
from ingot.graph.dims import Bindings, Dim, evaluate

BYTES = 128
"""Size of an encoded map."""
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
    driver = cuda()
    dims = [driver.cuuint64_t(evaluate(dim, bindings)) for dim in item.dims]
    strides = [driver.cuuint64_t(evaluate(stride, bindings)) for stride in item.strides]
    kind = getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{_TYPES.get(item.dtype, 'UINT8')}")
    none = "NONE" if item.swizzle == 0 else f"{item.swizzle}B"
    tail = (
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{none}"),
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    steps = [1, *item.steps, 1] if item.lower else [1] * len(dims)
    steps = [driver.cuuint32_t(step) for step in steps]
    what = f"encoding a tensor map of {len(dims)} axes"
    if item.lower:
        channels, pixels = item.box
        corners = (list(item.lower), list(item.upper), channels, pixels)
        result = driver.cuTensorMapEncodeIm2col(kind, len(dims), address, dims, strides, *corners, steps, *tail)
    else:
        box = [driver.cuuint32_t(size) for size in item.box]
        result = driver.cuTensorMapEncodeTiled(kind, len(dims), address, dims, strides, box, steps, *tail)
    return ctypes.string_at(check(result, what).getPtr(), BYTES)
