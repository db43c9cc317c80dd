"""Capsules handed to and taken from other libraries."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from ingot.errors import IngotError
from ingot.runtime import dlpack


class Exporter:
    """Memory of a NumPy array under Ingot's own capsule."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack_device__(self):
        return (dlpack.CPU, 0)

    def __dlpack__(self, **_):
        a = self.array
        return dlpack.export(a.ctypes.data, str(a.dtype), a.shape, (dlpack.CPU, 0), a)


class Owner(np.ndarray):
    """An array that weak references can point to."""


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "int64", "uint8", "uint16", "bool"])
def test_numpy_reads_an_exported_capsule(dtype: str) -> None:
    source = np.arange(24).astype(dtype).reshape(2, 3, 4)
    shared = np.from_dlpack(Exporter(source))
    assert shared.dtype == source.dtype
    assert np.array_equal(shared, source)
    source[0, 0, 0] = 1
    assert np.array_equal(shared, source)


def test_memory_lives_until_the_consumer_is_done() -> None:
    source = np.ones(4, np.float32).view(Owner)
    watch = weakref.ref(source)
    shared = np.from_dlpack(Exporter(source))
    del source
    gc.collect()
    assert watch() is not None
    assert shared.tolist() == [1, 1, 1, 1]
    del shared
    gc.collect()
    assert watch() is None
    assert not dlpack._exported


def test_unconsumed_capsule_frees_itself() -> None:
    source = np.ones(4, np.float32).view(Owner)
    watch = weakref.ref(source)
    capsule = Exporter(source).__dlpack__()
    del source
    assert watch() is not None
    del capsule
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (1, 1, 4)])
def test_view_of_an_array(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.float32)
    found = dlpack.view(array)
    assert (found.dtype, found.shape, found.contiguous, found.device) == ("float32", shape, True, (dlpack.CPU, 0))
    assert array.size == 0 or found.pointer == array.ctypes.data


def test_view_sees_strides_and_offsets() -> None:
    array = np.arange(20, dtype=np.int64).reshape(4, 5)
    assert not dlpack.view(array[:, 1:]).contiguous
    assert not dlpack.view(array.T).contiguous
    rest = dlpack.view(array[2:])
    assert rest.contiguous
    assert rest.pointer == array.ctypes.data + 80


def test_own_capsule_is_understood() -> None:
    array = np.zeros((2, 3), np.float16)
    found = dlpack.view(Exporter(array))
    assert (found.pointer, found.shape, found.dtype, found.contiguous) == (array.ctypes.data, (2, 3), "float16", True)


def test_refusals() -> None:
    with pytest.raises(IngotError, match="element type"):
        dlpack.view(np.zeros(3, np.complex64))
    with pytest.raises(IngotError, match="cannot be shared"):
        dlpack.view(np.zeros(3, ">f4"))

    class Wrong:
        def __dlpack__(self):
            return object()

    with pytest.raises(IngotError, match="no DLPack capsule"):
        dlpack.view(Wrong())
