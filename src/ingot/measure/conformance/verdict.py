"""How one case went, and the comparison that decides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import ml_dtypes
import msgspec
import numpy as np

Kind: TypeAlias = Literal["pass", "near", "island", "refused", "wrong"]
KINDS: tuple[Kind, ...] = ("pass", "near", "island", "refused", "wrong")
NEAR = 10.0
"""A result this many times further off than the suite allows is near; beyond, it is wrong."""
_BFLOAT16_RTOL = 2**-6
"""Two units in the last place, which is what the suite itself allows."""


class Outcome(msgspec.Struct, frozen=True):
    """What came of one case on one target."""

    case: str
    """``group/name``."""
    kind: Kind
    reason: str = ""
    """Empty for a plain pass."""
    ops: list[str] = []
    """Ops of the case's model, other domains than ONNX's own as ``domain.Op``."""
    as_constants: bool = False
    """It has an island, and none when the ops' parameters are constants instead of inputs of the model."""


def distance(wanted: Sequence[Any], made: Sequence[Any], rtol: float, atol: float) -> tuple[float, str]:
    """The worst ``|made - wanted| / (atol + rtol * |wanted|)`` of all elements, and what is wrong beside numbers.

    1 is the largest that the suite allows. Infinite, with a reason, where types or shapes differ.
    """
    if len(wanted) != len(made):
        return np.inf, f"{len(made)} values instead of {len(wanted)}"
    worst = 0.0
    for number, (right, ours) in enumerate(zip(wanted, made, strict=True)):
        ratio, problem = _one(right, ours, rtol, atol)
        if problem:
            return np.inf, f"output {number}: {problem}"
        worst = max(worst, ratio)
    return worst, ""


def _one(wanted: Any, made: Any, rtol: float, atol: float) -> tuple[float, str]:
    if isinstance(wanted, list) or isinstance(made, list) or wanted is None or made is None:
        if not (isinstance(wanted, list) and isinstance(made, list)):
            return np.inf, f"{type(made).__name__} instead of {type(wanted).__name__}"
        return distance(wanted, made, rtol, atol)
    wanted, made = np.asarray(wanted), np.asarray(made)
    problem = unlike(wanted, made)
    if problem:
        return np.inf, problem
    if wanted.dtype.kind in "OUS":
        return (0.0, "") if bool((wanted.astype(str) == made.astype(str)).all()) else (np.inf, "other strings")
    if wanted.dtype == ml_dtypes.bfloat16:
        rtol = max(rtol, _BFLOAT16_RTOL)
    return _ratio(_wide(wanted), _wide(made), rtol, atol), ""


def share(wanted: Sequence[Any], made: Sequence[Any]) -> float:
    """The largest error over the largest number, of all arrays of numbers: tells rounding from a wrong result."""
    worst = 0.0
    for right, ours in zip(wanted, made, strict=True):
        if isinstance(right, list):
            worst = max(worst, share(right, ours))
            continue
        a, b = np.asarray(right), np.asarray(ours)
        if a.dtype.kind in "OUS":
            continue
        a, b = _wide(a), _wide(b)
        finite = np.isfinite(a) & np.isfinite(b)
        if not bool(((a == b) | (np.isnan(a) & np.isnan(b)) | finite).all()):
            return np.inf
        error, largest = np.abs(a[finite] - b[finite]).max(initial=0), np.abs(a[finite]).max(initial=0)
        worst = max(worst, float(error / largest) if largest else np.inf if error else 0.0)
    return worst


def unlike(wanted: np.ndarray[Any, Any], made: np.ndarray[Any, Any]) -> str:
    """How type or shape differ; empty where they are the same."""
    if wanted.shape != made.shape:
        return f"shape {list(made.shape)} instead of {list(wanted.shape)}"
    texts = wanted.dtype.kind in "OUS" and made.dtype.kind in "OUS"
    return "" if texts or wanted.dtype == made.dtype else f"{made.dtype} instead of {wanted.dtype}"


def _wide(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _ratio(wanted: np.ndarray[Any, Any], made: np.ndarray[Any, Any], rtol: float, atol: float) -> float:
    same = (wanted == made) | (np.isnan(wanted) & np.isnan(made))
    if bool(same.all()):
        return 0.0
    with np.errstate(all="ignore"):
        ratio = np.abs(made - wanted) / (atol + rtol * np.abs(wanted))
    ratio = np.where(same, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))
    return float(ratio.max())
