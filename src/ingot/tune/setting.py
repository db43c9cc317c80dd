"""What the process that decides and the process that measures tell each other.

Apart from the timer, so that the deciding process imports neither the reference nor ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What a session needs to know beside the Region."""

    ordinal: int
    tf32: bool
    weights: int
    """Bytes of all weights of the model: see ``timer``."""
    budget: int = 8 << 30
    """Most bytes of device memory to use."""


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    seconds: float
    """Aim for one replay's device time."""
    launches: tuple[int, int]
    """Fewest and most launches of the Program in one graph."""
    replays: int


QUICK = Effort(0.4e-3, (6, 32), 3)
PRECISE = Effort(1.5e-3, (8, 64), 9)


@dataclass(frozen=True)
class Timing:
    """Seconds of one launch of a Program."""

    seconds: float
    """Median over replays."""
    noise: float
    """Half the distance between the quartiles over the median."""
