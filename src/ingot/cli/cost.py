"""What a command cost: time by stage, and the host's memory."""

from __future__ import annotations

import os
import resource
import sys

import msgspec

from ingot.cli import render
from ingot.progress import Stopwatch

_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of one unit of ``ru_maxrss``."""


class Cost(msgspec.Struct, frozen=True):
    """Of one command, from the start of its work on; its processes end before this is asked."""

    seconds: float
    stages: dict[str, float]
    """Seconds by stage, in their order; ``other`` is what lies between them."""
    cpu_seconds: float
    """Of this process since it began, and of its helper processes."""
    peak_bytes: int
    """Most memory that this process had at a time."""
    helper_peak_bytes: int
    """Most that one helper process had; 0 without any. Linux counts what this one had when it started them."""
    helpers: int
    """Helper processes that may have been there at the same time: the cores, or ``INGOT_JOBS``."""
    cores: int

    def line(self) -> str:
        """For people."""
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.stages.items() if seconds >= 0.05)
        helper = f" and {render.size(self.helper_peak_bytes)} in a helper process" if self.helper_peak_bytes else ""
        return (
            f"took {self.seconds:.1f} s ({stages}), {self.cpu_seconds:.1f} s of processor time; "
            f"at most {render.size(self.peak_bytes)} of host memory{helper}"
        )


def cost_of(watch: Stopwatch) -> Cost:
    """The cost until now."""
    from ingot import env

    stages, total = watch.seconds()
    own, helpers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + helpers.ru_utime + helpers.ru_stime
    return Cost(
        seconds=round(total, 3),
        stages={stage: round(seconds, 3) for stage, seconds in stages.items()},
        cpu_seconds=round(cpu, 2),
        peak_bytes=own.ru_maxrss * _UNIT,
        helper_peak_bytes=helpers.ru_maxrss * _UNIT,
        helpers=env.compile_jobs(),
        cores=os.cpu_count() or 1,
    )
