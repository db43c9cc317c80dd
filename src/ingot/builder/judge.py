"""Whole engines timed against each other on the GPU that is there: what the tuner asks where variants are close."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ingot.errors import No
from ingot.graph.lowered import Lowered
from ingot.plan.build import build_plan
from ingot.plan.places import Places
from ingot.plan.weights import Weights, pack
from ingot.tune.choice import Choice
from ingot.tune.setting import Timing
from ingot.tune.worker import Worker

MOST_WEIGHTS = 2 << 30
"""Bytes of weights beyond which engines are not compared: each of them has its own on the device."""
_RACE = "ingot.builder.race:race"
_TIMEOUT = 60.0


class EngineJudge:
    """A :class:`ingot.tune.contest.Judge` on a GPU.

    The engines run in a helper process, as single Regions do: one that fails there costs its contest
    and not the build. They share their weights, which do not depend on the variants: a file holds them.
    """

    def __init__(self, lowered: Lowered, target: str, ordinal: int) -> None:
        self._lowered, self._target, self._ordinal = lowered, target, ordinal
        self._worker = Worker()
        self._weights: tuple[Weights, Path] | None = None

    def compare(self, engines: Sequence[Sequence[Choice]]) -> list[Timing] | No:
        """See :class:`ingot.tune.contest.Judge`."""
        if self._lowered.constant_bytes > MOST_WEIGHTS:
            return No(f"more than {MOST_WEIGHTS >> 30} GiB of weights")
        if self._weights is None:
            packed = pack(Places(self._lowered))
            self._weights = packed, _kept(packed.data)
        weights, path = self._weights
        bundles = [build_plan(self._lowered, c, self._target, bodies=False, weights=weights) for c in engines]
        parts = [(bundle.plan, bundle.cubins) for bundle in bundles]
        answer: list[Timing] | No = self._worker.call(_RACE, str(path), parts, self._ordinal, timeout=_TIMEOUT)
        return answer

    def close(self) -> None:
        """End the helper process and delete the file."""
        self._worker.close()
        if self._weights is not None:
            with contextlib.suppress(OSError):
                self._weights[1].unlink()
            self._weights = None


def _kept(data: bytes | bytearray) -> Path:
    handle, name = tempfile.mkstemp(prefix="ingot-weights-")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return Path(name)
