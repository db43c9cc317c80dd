"""Every kernel launch of a Plan laid out as the driver wants it: binding shapes changes numbers in it, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ingot.device.module import Function
from ingot.device.tensor_map import ALIGN, BYTES, MapEncoder
from ingot.engine.numbers import Ints, PlanNumbers
from ingot.plan.spec import Step
from ingot.runtime.places import Base

Functions = Callable[[Step], Function]
_PARAMETERS = 256
"""Bytes of CUgraphNodeParams (cuda.h, since CUDA 12.2): a type, then at byte 16 the parameters of that type."""
_FUNCTION, _GRID, _BLOCK, _SHARED, _ARGUMENTS = 16, 24, 36, 48, 56
"""Bytes of CUDA_KERNEL_NODE_PARAMS_v3's fields in it. A kernel is type 0; other fields are zero."""


class LaunchTable:
    """Parameters of all kernels, for one Context: one thread at a time."""

    def __init__(self, numbers: PlanNumbers, functions: Functions) -> None:
        """Loads the kernels. Raises IngotError where one does not load."""
        plan = numbers.plan
        self.numbers = numbers
        kernels = [(i, step) for i, step in enumerate(plan.steps) if step.kind == "kernel"]
        self.functions = {i: functions(step) for i, step in kernels}
        arguments = [a for _, step in kernels for a in step.arguments]
        self._values = np.array([i for i, a in enumerate(arguments) if a.kind == "value"], np.int64)
        self._rows = np.array([numbers.row_of[a.index] for a in arguments if a.kind == "value"], np.int64)
        self._numbers = np.array([i for i, a in enumerate(arguments) if a.kind == "dim"], np.int64)
        # Each number has 8 bytes of its own; a 4-byte argument reads the low half (little-endian).
        self._words = np.zeros(max(len(arguments), 1), np.int64)
        encoder = MapEncoder()
        maps = [(a.index, a.map) for a in arguments if a.map is not None]
        self._maps = [encoder.prepare(item) for _, item in maps]
        self._map_rows = np.array([numbers.row_of[index] for index, _ in maps], np.int64)
        self._ranks = [len(item.dims) for _, item in maps]
        self._filled: list[list[int]] = [[] for _ in maps]
        """What each map was encoded from: those of weights are the same at all shapes."""
        self._map_memory = np.zeros(len(self._maps) * BYTES + ALIGN, np.uint8)
        start = self._map_memory.ctypes.data
        self._map_at = start + -start % ALIGN
        self._pointers = self._words.ctypes.data + 8 * np.arange(len(self._words), dtype=np.int64)
        mapped = [i for i, a in enumerate(arguments) if a.map is not None]
        self._pointers[mapped] = self._map_at + BYTES * np.arange(len(mapped))
        self._parameters = np.zeros((max(len(kernels), 1), _PARAMETERS), np.uint8)
        self._grids = self._parameters[:, _GRID:_BLOCK].view(np.uint32)[: len(kernels)]
        first = 0
        self.address: dict[int, int] = {}
        """Address of a step's parameters."""
        for row, (index, step) in enumerate(kernels):
            self._fill(row, step, self.functions[index], self._pointers.ctypes.data + 8 * first)
            self.address[index] = self._parameters.ctypes.data + row * _PARAMETERS
            first += len(step.arguments)

    def _fill(self, row: int, step: Step, function: Function, arguments: int) -> None:
        memory = self._parameters[row]
        memory[_FUNCTION : _FUNCTION + 8].view(np.uint64)[0] = int(function.handle)
        memory[_BLOCK : _BLOCK + 12].view(np.uint32)[:] = (step.block, 1, 1)
        memory[_SHARED : _SHARED + 4].view(np.uint32)[0] = function.shared
        memory[_ARGUMENTS : _ARGUMENTS + 8].view(np.uint64)[0] = arguments

    def fill(self, found: Ints, addresses: Ints) -> None:
        """Puts in the numbers and the device address of every Value (by its row in ``numbers``).

        Raises IngotError when the driver refuses a tensor map.
        """
        self._words[self._values] = addresses[self._rows]
        self._words[self._numbers] = found[self.numbers.numbers]
        self._grids[:] = found[self.numbers.grids]
        self._encode(found[self.numbers.maps].tolist(), addresses[self._map_rows].tolist())

    def _encode(self, numbers: list[int], addresses: list[int]) -> None:
        """The tensor maps that are not as they were."""
        first, to = 0, self._map_at
        for i, (rank, address) in enumerate(zip(self._ranks, addresses, strict=True)):
            end = first + 2 * rank - 1
            wanted = [address, *numbers[first:end]]
            if wanted != self._filled[i]:
                self._filled[i] = []
                self._maps[i](to, address, wanted[1 : rank + 1], wanted[rank + 1 :])
                self._filled[i] = wanted
            first, to = end, to + BYTES

    def addresses(self, found: Ints, bases: Mapping[Base, int]) -> Ints:
        """Device address of every Value, by row; 0 for those in memory that is not among ``bases``."""
        numbers = self.numbers
        starts = np.array([bases.get(space, 0) for space in numbers.spaces], np.int64)
        at: np.ndarray[Any, np.dtype[np.int64]] = starts[numbers.space_of]
        return np.where(at == 0, 0, at + found[numbers.offsets])
