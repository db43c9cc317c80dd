"""Who runs a model on calibration data and keeps what is seen of its values: ONNX Runtime here, or a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import onnx_ir as ir

from ingot.errors import No
from ingot.precision.data import Batch
from ingot.precision.histogram import Channels, Histogram
from ingot.precision.host import Runs
from ingot.precision.inputs import Array, Feeds
from ingot.progress import Progress

CPU = "CPU"


@dataclass(frozen=True)
class Wanted:
    """What to observe: ranges of values, and channels of some, by axis."""

    ranges: tuple[str, ...]
    channels: Mapping[str, int] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All values, each once."""
        return tuple(dict.fromkeys((*self.ranges, *self.channels)))


class Observed(NamedTuple):
    """What was seen, by value."""

    histograms: dict[str, Histogram]
    channels: dict[str, Channels]

    @classmethod
    def nothing(cls, wanted: Wanted) -> Observed:
        """Before the first batch."""
        histograms = {name: Histogram() for name in wanted.ranges}
        return cls(histograms, {name: Channels(axis) for name, axis in wanted.channels.items()})


class Observer(Protocol):
    """Sees batches one after another; its memory does not grow with their number."""

    @property
    def where(self) -> str:
        """What runs the model: ``CPU``, or the name of a GPU."""

    def see(self, feeds: Feeds) -> None:
        """Runs the model on a batch. Raises IngotError when that fails; that may also be told of a later one."""

    def seen(self) -> Observed:
        """Everything so far. Raises as :meth:`see` does."""


class HostObserver:
    """Runs a model on the CPU, a batch ahead of the one that is being looked at.

    So values of two batches are in memory.
    """

    where = CPU

    def __init__(self, runs: Runs, wanted: Wanted) -> None:
        """``runs`` gives all values that are ``wanted`` but those that are fed."""
        self._runs, self._wanted = runs, wanted
        self._found = Observed.nothing(wanted)
        self._thread = ThreadPoolExecutor(1, "ingot-calibrate")
        self._ahead: tuple[Feeds, Future[Mapping[str, Array]]] | None = None

    def see(self, feeds: Feeds) -> None:
        """See :meth:`Observer.see`."""
        ahead = feeds, self._thread.submit(self._runs.run, feeds)
        self._look()
        self._ahead = ahead

    def seen(self) -> Observed:
        """See :meth:`Observer.seen`."""
        self._look()
        return self._found

    def _look(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        feeds, made = ahead[0], ahead[1].result()
        histograms, channels = self._found
        for name in self._wanted.names:
            array = feeds[name] if name in feeds else made[name]
            if name in histograms:
                histograms[name].add(array)
            if name in channels:
                channels[name].add(array)


Opens = Callable[[ir.Model, Wanted, Batch, int | None, Progress], Observer | No]
"""(a model, what to observe of it, the first batch, how many samples will come if that is known, progress) to an
observer elsewhere than on the CPU; No with the reason where there is none."""
