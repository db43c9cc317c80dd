"""What the tuner decided for one Region.

It lives here and not in ``plan/``: the plan imports ``ingot.tune.choice``, never the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingot.kernels.api import Program


@dataclass(frozen=True)
class Choice:
    """The variant chosen for one Region of ``Lowered.regions``, compiled."""

    variant: str
    """The Variant's text (``name[a=1]``); for a VIEW or HOST Region the kind's name."""
    program: Program | None
    """None for Regions that launch nothing on the device: VIEW and HOST."""
    micros: float
    """Measured, or predicted when ``measured`` is false, at the optimum shapes. 0 without a program."""
    measured: bool
    notes: tuple[str, ...] = ()
    """Why this variant, and why others were refused."""
