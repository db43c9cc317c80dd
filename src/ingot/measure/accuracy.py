"""How far a result is from a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

Array = np.ndarray[Any, Any]


class Difference(msgspec.Struct, frozen=True):
    """One tensor against its reference. NaN and infinities that both have in the same places do not count."""

    name: str
    dtype: str
    shape: list[int]
    max_abs: float
    mean_abs: float
    relative: float
    """Norm of the difference over norm of the reference; for integers the share of elements that differ."""
    cosine: float
    scale: float
    """Root mean square of the reference."""
    nonfinite: int
    """Elements that are finite in one of the two only, or are another kind of infinity."""
    problem: str = ""
    """Why the two cannot be compared at all."""

    def within(self, tolerance: float) -> bool:
        """Whether the relative error is at most ``tolerance`` and nothing else is wrong."""
        return not self.problem and not self.nonfinite and self.relative <= tolerance


def difference(name: str, reference: Array, result: Array) -> Difference:
    """``result`` against ``reference``; arrays of any numeric type and of the same shape."""
    reference, result = np.asarray(reference), np.asarray(result)
    head = (name, str(result.dtype), list(result.shape))
    if reference.shape != result.shape:
        problem = f"its shape is {list(result.shape)}, the reference's {list(reference.shape)}"
        return Difference(*head, 0.0, 0.0, 0.0, 0.0, 0.0, 0, problem)
    exact = reference.dtype.kind in "biu" and result.dtype.kind in "biu"
    a, b = (x.astype(np.float64).reshape(-1) for x in (reference, result))
    both = np.isfinite(a) & np.isfinite(b)
    same = both | (a == b) | (np.isnan(a) & np.isnan(b))
    a, b = a[both], b[both]
    if not a.size:
        return Difference(*head, 0.0, 0.0, 0.0, 1.0, 0.0, int(np.count_nonzero(~same)))
    error = np.abs(b - a)
    norm = float(np.linalg.norm(a))
    apart = float(np.linalg.norm(error))
    # Integers are counted as they are: float64 would not tell large ones apart.
    share = float(np.count_nonzero(reference != result)) / a.size
    relative = share if exact else apart / norm if norm else apart
    return Difference(
        *head,
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        relative=relative,
        cosine=_cosine(a, b),
        scale=norm / float(np.sqrt(a.size)),
        nonfinite=int(np.count_nonzero(~same)),
    )


def differences(reference: Mapping[str, Array], result: Mapping[str, Array]) -> list[Difference]:
    """Every tensor of ``result``, in its order; ``reference`` has them all."""
    return [difference(name, reference[name], array) for name, array in result.items()]


def _cosine(a: Array, b: Array) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if not norms:
        return 1.0 if not (a.any() or b.any()) else 0.0
    return float(np.clip(np.dot(a, b) / norms, -1.0, 1.0))
