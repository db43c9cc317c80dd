"""Measures the variants of one Region: gate, quick pass over all, precise pass over the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ingot.errors import No
from ingot.graph.dims import Bindings
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Program
from ingot.tune.setting import PRECISE, QUICK, Effort, Setting, Timing
from ingot.tune.truth import Expected, plugin_truth
from ingot.tune.worker import Worker, one_line

FINALISTS = 4
"""Variants measured precisely."""
_SESSION = "ingot.tune.session"
_OPEN_TIMEOUT = 180.0
_CALL_TIMEOUT = 30.0
"""A variant that needs longer than this hangs."""

Measured = dict[str, Timing | No]
"""By variant text: the time, or why there is none."""


class Measurer(Protocol):
    """Something that can run Programs: a device, or a test's pretence of one."""

    device: str
    """Name of the device, part of the timing database's key."""

    def measure(
        self, region: Region, bindings: Bindings, programs: Mapping[str, Program], ages: Sequence[int] = ()
    ) -> Measured | No:
        """Check and time every Program; No when this Region cannot be measured at all.

        ``ages``: bytes that the engine touches between the writing of each input and this Region (see ``reuse``).
        """
        ...

    def close(self) -> None:
        """Give the device back."""
        ...


class DeviceMeasurer:
    """Measures on a GPU, in a helper process that is replaced when a variant breaks it."""

    def __init__(self, device: str, setting: Setting) -> None:
        self.device = device
        self._setting = setting
        self._worker = Worker()
        self._opened = -1

    def measure(
        self, region: Region, bindings: Bindings, programs: Mapping[str, Program], ages: Sequence[int] = ()
    ) -> Measured | No:
        """See :class:`Measurer`."""
        self._opened = -1
        if any(program.call for program in programs.values()):
            return No("a plugin's Python function runs where the engine runs, not here")
        results: Measured = {}
        for text, program in programs.items():
            refusal = self._ready(region, bindings, ages)
            if refusal is not None:
                return refusal
            results[text] = self._quick(program)
        passed = {text: timing for text, timing in results.items() if isinstance(timing, Timing)}
        best = sorted(passed, key=lambda text: (passed[text].seconds, text))[:FINALISTS]
        if best and self._ready(region, bindings, ages) is None:
            timings = self._time([programs[text] for text in best], PRECISE)
            if not isinstance(timings, No):
                results.update(zip(best, timings, strict=True))
        return results

    def close(self) -> None:
        """End the helper process."""
        self._worker.close()

    def _ready(self, region: Region, bindings: Bindings, ages: Sequence[int]) -> No | None:
        """Open the Region unless the living process has it open."""
        if self._opened == self._worker.starts and self._worker.alive:
            return None
        truth: Expected | None = None
        if region.kind is Kind.PLUGIN:
            try:
                truth = plugin_truth(region, bindings)
            except Exception as error:  # the plugin's own code
                return No(f"the reference of the plugin fails: {one_line(error)}")
        answer = self._worker.call(
            f"{_SESSION}:open_session", region, dict(bindings), self._setting, tuple(ages), truth, timeout=_OPEN_TIMEOUT
        )
        self._opened = self._worker.starts
        return answer if isinstance(answer, No) else None

    def _quick(self, program: Program) -> Timing | No:
        answer = self._worker.call(f"{_SESSION}:check_program", program, timeout=_CALL_TIMEOUT)
        if isinstance(answer, No):
            return answer
        timings = self._time([program], QUICK)
        return timings if isinstance(timings, No) else timings[0]

    def _time(self, programs: list[Program], effort: Effort) -> list[Timing] | No:
        result: list[Timing] | No = self._worker.call(
            f"{_SESSION}:time_programs", programs, effort, timeout=_CALL_TIMEOUT
        )
        return result
