"""Random values of any type, to run a model with where nobody gives any."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.errors import IngotError
from ingot.graph import dtypes

_WORDS = ("one", "two", "three")


def random_value(dtype: str, shape: tuple[int, ...], generator: np.random.Generator) -> Any:
    """Normal numbers for floats; 0 or 1 for integers, which is safe where they are indices; coins; words.

    Raises IngotError for sequences and optionals: nothing says which shapes their elements have.
    """
    if dtypes.nested(dtype) is not None:
        raise IngotError(f"there is no random value of type {dtype}", fix="give the inputs")
    if dtype == "string":
        return np.asarray(generator.choice(_WORDS, shape)).astype(object)
    floating = dtypes.is_float(dtype) or dtype.startswith("complex")
    random = generator.standard_normal(shape) if floating else generator.integers(0, 2, shape)
    return np.asarray(random).astype(dtypes.numpy_dtype(dtype))
