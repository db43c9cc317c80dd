"""Every tensor map of a Plan's launches, encoded again where its numbers or its address differ."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ingot.device.tensor_map import ALIGN, BYTES, MapEncoder, check_encoded
from ingot.engine.numbers import Ints, PlanNumbers

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class MapTable:
    """Tensor maps in the order of :attr:`PlanNumbers.tensor_maps`, at fixed addresses."""

    def __init__(self, numbers: PlanNumbers) -> None:
        maps = numbers.tensor_maps
        self._plan_numbers = numbers.maps
        self._rows = np.array([numbers.row_of[index] for index, _ in maps], np.int64)
        count = len(maps)
        memory = np.zeros(count * BYTES + ALIGN, np.uint8)
        start = -memory.ctypes.data % ALIGN
        self.bytes: Bytes = memory[start : start + count * BYTES].reshape(count, BYTES)
        self._numbers = np.zeros(len(numbers.maps), np.int64)
        self._addresses = np.zeros(count, np.int64)
        self._valid = np.zeros(count, np.bool_)
        """Maps that were encoded from the numbers and addresses above: those of weights are the same at all shapes."""
        self._ranks = np.array([len(item.dims) for _, item in maps], np.int64)
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(2 * self._ranks - 1)])[:count]
        encoder = MapEncoder()
        at = [self._numbers.ctypes.data + 8 * first for first in self._first.tolist()]
        self._encode = [
            encoder.prepare(
                item,
                self.address + BYTES * i,
                ctypes.c_void_p.from_buffer(self._addresses, 8 * i),  # type: ignore[arg-type]
                at[i],
                at[i] + 8 * len(item.dims),
            )
            for i, (_, item) in enumerate(maps)
        ]

    @property
    def address(self) -> int:
        """Of the first map; the others follow it."""
        return int(self.bytes.ctypes.data)

    def fill(self, found: Ints, addresses: Ints) -> None:
        """Encodes the maps that are not as they were. Raises IngotError when the driver refuses one."""
        if not self._encode:
            return
        numbers, at = found[self._plan_numbers], addresses[self._rows]
        differs = np.logical_or.reduceat(numbers != self._numbers, self._first) | (at != self._addresses)
        stale = differs | ~self._valid
        self._valid[stale] = False
        self._numbers[:], self._addresses[:] = numbers, at
        for i in np.flatnonzero(stale).tolist():
            code = self._encode[i]()
            if code:
                check_encoded(code, int(self._ranks[i]))
        self._valid[stale] = True
