"""DLPack: arrays handed between libraries without a copy (dmlc.github.io/dlpack, the unversioned capsule)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from ingot.errors import IngotError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
_CODES = {
    "int8": (0, 8), "int16": (0, 16), "int32": (0, 32), "int64": (0, 64),
    "uint8": (1, 8), "uint16": (1, 16), "uint32": (1, 32), "uint64": (1, 64),
    "float16": (2, 16), "float32": (2, 32), "float64": (2, 64), "bfloat16": (4, 16), "bool": (6, 8),
    "float8_e4m3fn": (10, 8),
}  # fmt: skip
"""Element type: DLPack's type code and bits."""
_NAMES = {code: name for name, code in _CODES.items()}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_api = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(("PyCapsule_New", _api))
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
# The destructor sees a capsule whose reference count is zero: it must not become a Python object again.
_dying_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

_NAME, _NAME_VERSIONED = b"dltensor", b"dltensor_versioned"
_exported: dict[int, tuple[object, ...]] = {}
"""What each exported tensor keeps alive, by the address of its structure, until its deleter runs."""


def _delete(address: int) -> None:
    _exported.pop(address, None)


def _drop_capsule(capsule: int) -> None:
    # A consumer renames the capsule and takes over the deleter; an unconsumed one frees itself.
    if _dying_is_valid(capsule, _NAME):
        _exported.pop(_dying_pointer(capsule, _NAME), None)


_deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_delete)  # consumers may call it without the interpreter lock
_destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_drop_capsule)


def export(pointer: int, dtype: str, shape: tuple[int, ...], device: tuple[int, int], owner: object) -> Any:
    """A capsule over dense row-major memory. ``owner`` is kept alive until the consumer is done."""
    code, bits = _CODES[dtype]
    dims = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    managed = _Managed()
    tensor = managed.tensor
    tensor.data, tensor.byte_offset = pointer, 0
    tensor.device_type, tensor.device_id = device
    tensor.code, tensor.bits, tensor.lanes = code, bits, 1
    tensor.ndim = len(shape)
    tensor.shape = ctypes.cast(dims, ctypes.POINTER(ctypes.c_int64))
    tensor.strides = None
    managed.deleter = ctypes.cast(_deleter, ctypes.c_void_p).value
    address = ctypes.addressof(managed)
    _exported[address] = (managed, dims, owner)
    return _new(address, _NAME, ctypes.cast(_destructor, ctypes.c_void_p))


@dataclass(frozen=True)
class View:
    """Somebody else's array. Its memory lives as long as this object."""

    pointer: int
    dtype: str
    shape: tuple[int, ...]
    contiguous: bool
    """Dense and row-major."""
    device: tuple[int, int]
    capsule: Any


def view(array: Any, stream: int | None = None) -> View:
    """What ``array`` (anything with ``__dlpack__``) is. ``stream``: the CUDA stream that will touch it.

    Raises IngotError for element types that no engine has, or when the array refuses.
    """
    try:
        capsule = array.__dlpack__() if stream is None else array.__dlpack__(stream=stream)
    except (BufferError, TypeError, RuntimeError, ValueError) as error:
        raise IngotError(f"the array of type {type(array).__name__} cannot be shared: {error}") from None
    if _is_valid(capsule, _NAME):
        tensor = _Managed.from_address(_pointer(capsule, _NAME)).tensor
    elif _is_valid(capsule, _NAME_VERSIONED):
        tensor = _Versioned.from_address(_pointer(capsule, _NAME_VERSIONED)).tensor
    else:
        raise IngotError(f"{type(array).__name__}.__dlpack__() returned no DLPack capsule")
    name = _NAMES.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if name is None:
        raise IngotError(
            f"DLPack element type (code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes) is not supported"
        )
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    return View(
        pointer=(tensor.data or 0) + tensor.byte_offset,
        dtype=name,
        shape=shape,
        contiguous=not tensor.strides or _dense(shape, [tensor.strides[i] for i in range(tensor.ndim)]),
        device=(tensor.device_type, tensor.device_id),
        capsule=capsule,
    )


def _dense(shape: tuple[int, ...], strides: list[int]) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return 0 in shape
        step *= size
    return True
