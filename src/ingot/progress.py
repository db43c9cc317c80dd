"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(stage, done, total); a total of 0 is one that nobody knows."""


def silent(stage: str, done: int, total: int) -> None:
    """No progress report."""
