"""One pass over the data: every batch is run once, seen by the observers, and forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingot.errors import IngotError
from ingot.precision.data import ADVISED, Batch, Data
from ingot.precision.histogram import Channels, Histogram
from ingot.precision.observer import Observer, Wanted
from ingot.progress import Progress, silent

CACHE = "calibration cache"


@dataclass(frozen=True)
class Statistics:
    """What was seen of a model's values."""

    histograms: Mapping[str, Histogram]
    channels: Mapping[str, Channels]
    samples: int
    notes: tuple[str, ...] = ()
    where: str = CACHE
    """What ran the model, ``CPU`` or the name of a GPU; :data:`CACHE` where nothing did."""

    def saved(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "samples": self.samples,
            "ranges": {name: histogram.saved() for name, histogram in self.histograms.items()},
            "channels": {name: channels.saved() for name, channels in self.channels.items()},
        }

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> Statistics:
        """What :meth:`saved` gave. Raises KeyError, TypeError or ValueError for anything else."""
        ranges = {str(name): Histogram.restored(value) for name, value in saved["ranges"].items()}
        channels = {str(name): Channels.restored(value) for name, value in saved["channels"].items()}
        return cls(ranges, channels, int(saved["samples"]))

    def covers(self, wanted: Wanted) -> bool:
        """Whether everything that is wanted was seen."""
        return set(wanted.ranges) <= self.histograms.keys() and set(wanted.channels) <= self.channels.keys()


def calibrate(observer: Observer, data: Data, progress: Progress = silent) -> Statistics:
    """What ``observer`` sees of all of ``data``; memory does not grow with it.

    Raises IngotError for data that does not fit, is empty, or makes a value NaN or infinite everywhere.
    """
    samples = 0
    for batch in data.batches():
        progress("calibrate", samples, data.samples or 0)
        observer.see(batch.feeds)
        samples += batch.samples
    if not samples:
        raise IngotError(f"{data.where} is empty", fix=f"give at least {ADVISED} samples")
    histograms, channels = observer.seen()
    progress("calibrate", samples, samples)
    notes = _notes(histograms, samples, data.where)
    return Statistics(histograms, channels, samples, notes, observer.where)


def _notes(histograms: Mapping[str, Histogram], samples: int, where: str) -> tuple[str, ...]:
    notes = []
    if samples < ADVISED:
        notes.append(f"{where} has {samples} samples: ranges are surer with {ADVISED} or more")
    for name, histogram in histograms.items():
        if not histogram.batches:
            raise IngotError(
                "nothing but NaN or infinite numbers was seen of this value", node=name,
                fix="check the data and the model in ONNX Runtime",
            )  # fmt: skip
        if histogram.nonfinite:
            notes.append(f"{name}: {histogram.nonfinite} NaN or infinite numbers were left out")
        elif not histogram.largest:
            notes.append(f"{name}: only zeros were seen")
    return tuple(notes)


def first(data: Data, samples: int) -> list[Batch]:
    """The first batches of ``data``, with about ``samples`` samples."""
    return list(limited(data, samples))


def kept(batches: Sequence[Batch], where: str) -> Data:
    """Batches in memory as data."""
    return Data(lambda: iter(batches), sum(b.samples for b in batches), where)


def limited(data: Data, samples: int | None) -> Iterator[Batch]:
    """Batches of ``data`` until ``samples`` are reached; all for None."""
    used = 0
    for batch in data.batches():
        yield batch
        used += batch.samples
        if samples is not None and used >= samples:
            return
