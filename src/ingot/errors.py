"""The two ways Ingot says no: an error to the user, and a reason kept as a value."""

from __future__ import annotations

from dataclasses import dataclass


class IngotError(Exception):
    """A mistake in the input or the environment: names the place, the reason and the fix.

    Ingot's own bugs are asserts; everything a user can cause is an ``IngotError``.
    """

    def __init__(self, reason: str, *, node: str = "", fix: str = "") -> None:
        self.reason, self.node, self.fix = reason, node, fix
        place = f"{node}: " if node else ""
        hint = f" Fix: {fix}" if fix else ""
        super().__init__(f"{place}{reason}{hint}")


@dataclass(frozen=True)
class No:
    """A refusal as a value: falsy, printable, kept in reports and engines."""

    reason: str
    node: str = ""
    fix: str = ""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        place = f"{self.node}: " if self.node else ""
        return f"{place}{self.reason}" + (f" ({self.fix})" if self.fix else "")


@dataclass(frozen=True)
class Yes:
    """Agreement: the truthy counterpart of :class:`No`."""


YES = Yes()
Answer = Yes | No
