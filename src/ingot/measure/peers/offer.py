"""What a peer is: another runtime, ready to run the same model on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Peer:
    """A runtime with the model loaded and the inputs in place."""

    run: Callable[[], object]
    """One synchronous inference."""
    outputs: Callable[[], dict[str, Array]] | None = None
    """The results of one; None where only speed can be compared."""
    note: str = ""


@dataclass(frozen=True)
class Offer:
    """A peer that can be tried. ``make`` raises whatever the runtime raises."""

    name: str
    variant: str
    make: Callable[[], Peer]
