"""The weight arena: every constant as its kernels want it in memory, equal ones stored once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ingot.graph import dtypes
from ingot.graph.tensor import TensorSpec
from ingot.plan.arena import ALIGN
from ingot.plan.blobs import Blobs
from ingot.plan.places import Places


@dataclass(frozen=True)
class Weights:
    """Bytes of the weights segment, and each constant's offset in it."""

    data: bytearray
    offsets: Mapping[str, int]


def pack(places: Places) -> Weights:
    """All constants of the lowered Graph, in the order of its values."""
    lowered = places.lowered
    blobs = Blobs(ALIGN)
    offsets = {
        name: blobs.add(physical(lowered.constants[name], spec).data)
        for name, spec in lowered.values.items()
        if name in lowered.constants
    }
    blobs.pad()  # the arena ends where its last constant's last vector load may end
    return Weights(blobs.data, offsets)


def physical(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """``array`` (logical shape) as the flat bytes that ``spec``'s strides describe; gaps are zero."""
    want = dtypes.numpy_dtype(spec.dtype)
    assert (array.dtype, array.shape) == (want, spec.shape), f"constant is {array.dtype}{array.shape}, not {spec}"
    strides = [int(stride) for stride in spec.strides]
    if array.size == 0:
        return np.zeros(0, np.uint8)
    if 0 not in strides and spec.dense(_order(spec)):
        return np.ascontiguousarray(array.transpose(_order(spec))).reshape(-1).view(np.uint8)
    count = sum((size - 1) * stride for size, stride in zip(array.shape, strides, strict=True)) + 1
    flat = np.zeros(count, want)
    window = np.lib.stride_tricks.as_strided(flat, array.shape, [stride * want.itemsize for stride in strides])
    window[...] = array
    return flat.view(np.uint8)


def _order(spec: TensorSpec) -> tuple[int, ...]:
    """Dimensions by descending stride; among equal ones, those of size 1 last."""
    return tuple(sorted(range(spec.rank), key=lambda axis: (-int(spec.strides[axis]), spec.shape[axis] == 1, axis)))
