"""How long work tells how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(stage, done, total); a total of 0 is one that nobody knows."""


def silent(stage: str, done: int, total: int) -> None:
    """No progress report."""


class Stopwatch:
    """A Progress that keeps how long each stage took, and passes on what it hears.

    Time counts for the stage that was told of last, until it is done; what lies between stages is ``other``.
    """

    OTHER = "other"

    def __init__(self, onward: Progress = silent, clock: Callable[[], float] = time.perf_counter) -> None:
        self._onward, self._clock = onward, clock
        self._start = self._last = clock()
        self._stage = self.OTHER
        self._seconds: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See :data:`Progress`."""
        self._pass()
        self._stage = self.OTHER if done == total > 0 else stage
        self._seconds.setdefault(stage, 0.0)
        self._onward(stage, done, total)

    def seconds(self) -> tuple[dict[str, float], float]:
        """Seconds by stage, in the order in which they came, and since the start."""
        self._pass()
        other = self._seconds.get(self.OTHER, 0.0)
        stages = {stage: seconds for stage, seconds in self._seconds.items() if stage != self.OTHER}
        return {**stages, self.OTHER: other}, self._last - self._start

    def _pass(self) -> None:
        now = self._clock()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._last
        self._last = now
