"""The kernels of calibration's statistics on the CPU: a machine for a tally without a GPU, and comparisons."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from support.host_cuda import Guarded, launch_on_host

from ingot.builder.statistics_kernels import CHANNELS, COUNT, MERGE, RANGE, SOURCE
from ingot.precision.inputs import Array
from ingot.precision.observer import Observed

ENTRIES = (RANGE, COUNT, MERGE, CHANNELS)


class Held:
    """Memory of the emulation."""

    def __init__(self, array: Array) -> None:
        self.guarded = Guarded(array)
        self.pointer = self.guarded.content.ctypes.data

    def read(self, dtype: Any, shape: tuple[int, ...], offset: int = 0) -> Array:
        self.guarded.check()
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.guarded.content[offset : offset + size].view(dtype).reshape(shape).copy()


class Emulated:
    """The kernels compiled for the processor; few blocks, so that each loops."""

    blocks = 3

    def memory(self, size: int, what: str) -> Held:
        return Held(np.zeros(size, np.uint8))

    def fill(self, address: int, value: int, size: int) -> None:
        ctypes.memset(address, value, size)

    def launch(self, entry: str, blocks: int, threads: int, args: Sequence[Any], shared: int = 0) -> None:
        launch_on_host(SOURCE, ENTRIES, entry, blocks, threads, args)


def assert_same(made: Observed, wanted: Observed) -> None:
    """All but the sums of channels bit for bit."""
    assert made.histograms.keys() == wanted.histograms.keys()
    for name, right in wanted.histograms.items():
        found = made.histograms[name]
        np.testing.assert_array_equal(found.counts, right.counts, name)
        for field in ("limit", "lowest", "highest", "average", "batches", "nonfinite"):
            assert getattr(found, field) == getattr(right, field), (name, field)
    for name, channels in wanted.channels.items():
        found_channels = made.channels[name]
        np.testing.assert_array_equal(found_channels.largest, channels.largest, name)
        np.testing.assert_allclose(found_channels.total, channels.total, rtol=1e-12, atol=1e-12)
        assert found_channels.count == channels.count
