"""What a user can ask of quantization."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ingot.errors import IngotError
from ingot.precision.formats import FORMATS, INT8_HOST, Format
from ingot.precision.ranges import METHODS

BUDGET = 0.005
"""Loss that is allowed unless told otherwise: half a point of accuracy, or 0.005 of cosine."""

ROUNDINGS = ("nearest", "adaround")


@dataclass(frozen=True)
class Settings:
    """Precision, calibration, and what accuracy may be lost."""

    precision: str = "int8"
    """``int8`` or ``fp8``."""
    method: str = "auto"
    """Calibration method for all tensors, or ``auto``: for each the one with the least error."""
    budget: float | None = BUDGET
    """Largest loss by ``metric``; None takes the result as it is."""
    metric: str = "cosine"
    """``cosine``, ``top1`` or ``module:function``."""
    keep: tuple[str, ...] = ()
    """Nodes that are not quantized."""
    rounding: str = "nearest"
    """``nearest``, or ``adaround``: weights go up or down so that the results of their layer come out nearest."""
    recover: bool = True
    """Try equalisation and bias correction, and take what lowers the error of the outputs."""
    host: bool = False
    """For the CPU: activations are unsigned, and both inputs of residual adds are quantized."""
    cache: Path | None = None
    """The calibration cache: read if it is there, written otherwise."""
    evaluate: int | None = 128
    """Samples that the loss is measured on; None for all."""

    def __post_init__(self) -> None:
        if self.precision not in FORMATS:
            raise IngotError(f"there is no precision {self.precision!r}", fix=f"take one of: {', '.join(FORMATS)}")
        if self.method != "auto" and self.method not in METHODS:
            raise IngotError(f"there is no calibration method {self.method!r}", fix=f"take auto, {', '.join(METHODS)}")
        if self.rounding not in ROUNDINGS:
            raise IngotError(f"there is no rounding {self.rounding!r}", fix=f"take one of: {', '.join(ROUNDINGS)}")
        if self.budget is not None and not 0 <= self.budget < 1:
            raise IngotError(f"{self.budget} is no accuracy budget", fix="give a share such as 0.005, or 0.5%")

    @property
    def form(self) -> Format:
        """The number format."""
        return INT8_HOST if self.host and self.precision == "int8" else FORMATS[self.precision]


def parse_budget(text: str) -> float | None:
    """``0.5%`` or ``0.005``; ``none`` for no budget. Raises IngotError for anything else."""
    if text.strip().lower() == "none":
        return None
    plain = text.strip().removesuffix("%")
    try:
        share = float(plain) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise IngotError(f"{text!r} is no accuracy budget", fix="write 0.5% or 0.005, or none")
    return share
