"""What a caller passes in, checked against the engine's inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot.graph.dtypes import nested, numpy_dtype
from ingot.plan.spec import Binding
from ingot.runtime import dlpack

Array = np.ndarray[Any, Any]
_DEVICE_KINDS = (dlpack.CUDA, dlpack.CUDA_MANAGED)


def check_names(given: Iterable[str], bindings: Iterable[Binding], what: str) -> None:
    """Raises IngotError for names that no binding has."""
    known = [b.name for b in bindings]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise IngotError(
            f"the engine has no {what} called {', '.join(map(repr, unknown))}", fix=f"its {what}s are {known}"
        )


def require_all(given: Mapping[str, object], bindings: Iterable[Binding]) -> None:
    """Raises IngotError when an input is missing."""
    names = [b.name for b in bindings]
    missing = [name for name in names if name not in given]
    if missing:
        raise IngotError(f"no value for input {', '.join(map(repr, missing))}", fix=f"the engine's inputs are {names}")


def on_device(feed: object) -> bool:
    """Whether ``feed`` lies in CUDA memory."""
    if isinstance(feed, np.ndarray) or not hasattr(feed, "__dlpack_device__"):
        return False
    return feed.__dlpack_device__()[0] in _DEVICE_KINDS


def host_value(feed: object, binding: Binding) -> Any:
    """``feed`` as a host step takes it: an array (:func:`host_array`), a list of them for a sequence, or None.

    Raises IngotError when it is not of the binding's type.
    """
    inner = nested(binding.dtype)
    if inner is None:
        return host_array(feed, binding)
    outer, dtype = inner
    if outer == "map":
        if not isinstance(feed, dict):
            raise dtype_error(binding, type(feed).__name__)
        return feed
    element = Binding(binding.name, dtype, [], binding.value)
    if outer == "optional":
        return None if feed is None else host_value(feed, element)
    if not isinstance(feed, list | tuple):
        raise dtype_error(binding, type(feed).__name__)
    return [host_value(item, element) for item in feed]


def shape_of(value: Any) -> tuple[int, ...]:
    """Shape of an array; what is no tensor has none."""
    return value.shape if isinstance(value, np.ndarray) else ()


def fits(array: Array, dtype: str) -> bool:
    """Whether an array has the element type ``dtype``. Strings are objects or NumPy's own strings."""
    return array.dtype.kind in "OUST" if dtype == "string" else array.dtype == numpy_dtype(dtype)


def host_array(feed: object, binding: Binding) -> Array:
    """``feed`` as a C-contiguous NumPy array of the binding's own dtype.

    Arrays must have that dtype exactly; Python numbers, strings and lists of them are converted.
    """
    dtype = numpy_dtype(binding.dtype)
    if isinstance(feed, np.ndarray | np.generic):
        array = np.asarray(feed)
    elif hasattr(feed, "__dlpack__"):
        try:
            array = np.from_dlpack(feed)
        except (BufferError, TypeError, RuntimeError, ValueError) as error:
            raise IngotError(f"cannot read it as an array: {error}", node=f"input {binding.name!r}") from None
    elif hasattr(feed, "__array__"):
        array = np.asarray(feed)
    else:
        try:
            array = np.asarray(feed, dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise IngotError(f"cannot read it as {binding.dtype}: {error}", node=f"input {binding.name!r}") from None
    if not fits(array, binding.dtype):
        raise dtype_error(binding, str(array.dtype))
    if binding.dtype == "string":
        array = _strings(array, binding)
    return np.ascontiguousarray(array).reshape(array.shape)


def _strings(array: Array, binding: Binding) -> Array:
    """Objects that are ``str``: bytes are read as UTF-8."""
    try:
        texts = [item.decode() if isinstance(item, bytes) else item for item in array.astype(object).ravel().tolist()]
    except UnicodeDecodeError as error:
        raise IngotError(f"bytes that are no text: {error}", node=f"input {binding.name!r}") from None
    for item in texts:
        if not isinstance(item, str):
            raise dtype_error(binding, f"elements of type {type(item).__name__}")
    made = np.empty(len(texts), object)
    made[:] = texts
    return made.reshape(array.shape)


def device_view(feed: object, binding: Binding, stream: int, ordinal: int, what: str = "input") -> dlpack.View:
    """``feed`` in CUDA memory, checked: dtype, device, dense and row-major."""
    node = f"{what} {binding.name!r}"
    found = dlpack.view(feed, stream)
    if found.dtype != binding.dtype:
        raise dtype_error(binding, found.dtype, what)
    if found.device[1] != ordinal:
        raise IngotError(f"it is on GPU {found.device[1]}, the engine on GPU {ordinal}", node=node)
    if not found.contiguous:
        raise IngotError("it is not contiguous in device memory", node=node, fix="pass tensor.contiguous()")
    return found


def dtype_error(binding: Binding, have: str, what: str = "input") -> IngotError:
    """An element type that is not the binding's."""
    return IngotError(
        f"it has dtype {have}, the engine wants {binding.dtype}",
        node=f"{what} {binding.name!r}",
        fix=f"convert it to {binding.dtype} first",
    )
