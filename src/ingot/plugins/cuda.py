"""Small help for plugins that write CUDA C++."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ingot.graph import dtypes


def defines(values: Mapping[str, object]) -> str:
    """``#define`` lines. A float becomes a float literal, an int gets brackets, a str stays as it is."""
    return "".join(f"#define {name} {_text(value)}\n" for name, value in values.items())


def storage_type(dtype: str) -> str:
    """How an element type is called in CUDA C++ behind Ingot's prelude, such as ``half_t``. All convert to float."""
    return dtypes.TABLE[dtype].cuda


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"({float(np.float32(value))!r}f)"
    return f"({value})" if isinstance(value, int) else str(value)
