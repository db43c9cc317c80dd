"""What a model takes, and whether arrays of calibration data fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ingot.errors import IngotError
from ingot.graph import dtypes

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Input:
    """One input of the model: dimensions that are fixed as numbers, others None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    @property
    def text(self) -> str:
        """Its shape, with ``?`` for free dimensions."""
        return "x".join("?" if dim is None else str(dim) for dim in self.shape) or "a scalar"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an array of ``shape`` can be fed."""
        return len(shape) == len(self.shape) and all(
            want is None or want == dim for want, dim in zip(self.shape, shape, strict=True)
        )


def inputs_of(model: onnx.ModelProto) -> tuple[Input, ...]:
    """The inputs without a default. Raises IngotError for one that is no dense tensor."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_input(value) for value in model.graph.input if value.name not in constants)


def _input(value: onnx.ValueInfoProto) -> Input:
    tensor = value.type.tensor_type
    name = dtypes.from_onnx(tensor.elem_type)
    if name is None or not tensor.HasField("shape"):
        raise IngotError("calibration feeds dense tensors of numbers only", node=value.name)
    dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)
    return Input(value.name, dtypes.numpy_dtype(name), dims)


def fitted(feeds: Feeds, inputs: Sequence[Input], where: str) -> dict[str, Array]:
    """``feeds`` in the types that the model takes, each checked.

    Raises IngotError for a missing or unknown name, another shape, a type that would lose numbers, and NaN or infinity.
    """
    known = {given.name: given for given in inputs}
    missing = [name for name in known if name not in feeds]
    if missing:
        given = ", ".join(feeds) or "nothing"
        raise IngotError(
            f"{where} has no array for it, only {given}", node=missing[0],
            fix=f"name the arrays after the inputs: {', '.join(known)}",
        )  # fmt: skip
    return {name: _checked(np.asarray(feeds[name]), given, where) for name, given in known.items()}


def _checked(array: Array, given: Input, where: str) -> Array:
    if not given.fits(array.shape):
        shape = "x".join(map(str, array.shape)) or "a scalar"
        raise IngotError(f"{where} has the shape {shape}, the model takes {given.text}", node=given.name)
    if array.dtype != given.dtype:
        both_float = array.dtype.kind == given.dtype.kind == "f"
        if not both_float and not np.can_cast(array.dtype, given.dtype, "same_kind"):
            raise IngotError(
                f"{where} holds {array.dtype}, the model takes {given.dtype}", node=given.name,
                fix="store the numbers that the model is given when it serves",
            )  # fmt: skip
        if array.dtype.kind in "biu" and given.dtype.kind == "f":
            raise IngotError(
                f"{where} holds {array.dtype}, the model takes {given.dtype}: pixels have to be scaled first",
                node=given.name, fix="apply the model's own preprocessing, and store float32",
            )  # fmt: skip
        array = array.astype(given.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise IngotError(f"{where} holds {count} NaN or infinite numbers", node=given.name, fix="leave this sample out")
    return array
