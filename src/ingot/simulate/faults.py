"""What the simulator finds wrong with a Plan."""

from __future__ import annotations

from ingot.errors import IngotError


class PlanFault(IngotError):
    """A Plan that would give wrong results on a device: a race, a stale read, overlapping live memory."""

    def __init__(self, reason: str, *, node: str = "") -> None:
        super().__init__(reason, node=node, fix="this is a bug in Ingot's plan, or the engine was altered: report it")
