"""Every kernel launch of a Plan laid out as the driver wants it: binding shapes changes numbers in it, nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.device.module import Function
from ingot.device.tensor_map import BYTES
from ingot.engine.numbers import Ints, PlanNumbers
from ingot.plan.spec import Step
from ingot.runtime.map_table import Bytes, MapTable
from ingot.runtime.places import Base

Functions = Callable[[Step], Function]
_PARAMETERS = 256
"""Bytes of CUgraphNodeParams (cuda.h, since CUDA 12.2): a type, then at byte 16 the parameters of that type."""
_FUNCTION, _GRID, _BLOCK, _SHARED, _ARGUMENTS = 16, 24, 36, 48, 56
"""Bytes of CUDA_KERNEL_NODE_PARAMS_v3's fields in it. A kernel is type 0; other fields are zero."""


@dataclass(frozen=True)
class State:
    """What was in a table: arguments that are addresses or numbers, tensor maps, grids."""

    words: Ints
    maps: Bytes
    grids: np.ndarray[Any, np.dtype[np.uint32]]


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
        # Each number has 8 bytes of its own; a 4-byte argument reads the low half (little-endian). One word more, so
        # that the arguments of a last kernel without any begin within the array.
        self._words = np.zeros(len(arguments) + 1, np.int64)
        self._maps = MapTable(numbers)
        self._pointers = self._words.ctypes.data + 8 * np.arange(len(self._words), dtype=np.int64)
        self._mapped = np.array([i for i, a in enumerate(arguments) if a.map is not None], np.int64)
        self._pointers[self._mapped] = self._maps.address + BYTES * np.arange(len(self._mapped))
        self._parameters = np.zeros((max(len(kernels), 1), _PARAMETERS), np.uint8)
        self._grids = self._parameters[:, _GRID:_BLOCK].view(np.uint32)[: len(kernels)]
        self.row = {index: row for row, (index, _) in enumerate(kernels)}
        """Kernel of a step, counted."""
        self.parameters = {
            i: ctypes.c_void_p(self._parameters.ctypes.data + r * _PARAMETERS) for i, r in self.row.items()
        }
        """Where a step's ``CUgraphNodeParams`` lie."""
        self._first = np.cumsum([0, *(len(step.arguments) for _, step in kernels)])[: len(kernels)]
        for row, (index, step) in enumerate(kernels):
            self._fill(row, step, self.functions[index], self._pointers.ctypes.data + 8 * int(self._first[row]))

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
        self._maps.fill(found, addresses)

    def state(self) -> State:
        """What is in the table, for :meth:`changed`."""
        return State(self._words.copy(), self._maps.bytes.copy(), self._grids.copy())

    def changed(self, state: State) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether a kernel's parameters, by row, are others than in ``state``."""
        differs = self._words != state.words
        differs[self._mapped] = (self._maps.bytes != state.maps).any(1)
        grids: np.ndarray[Any, np.dtype[np.bool_]] = (self._grids != state.grids).any(1)
        if not len(grids):
            return grids
        return grids | np.logical_or.reduceat(differs, self._first)

    def addresses(self, found: Ints, bases: Mapping[Base, int]) -> Ints:
        """Device address of every Value, by row; 0 for those in memory that is not among ``bases``."""
        numbers = self.numbers
        starts = np.array([bases.get(space, 0) for space in numbers.spaces], np.int64)
        at: np.ndarray[Any, np.dtype[np.int64]] = starts[numbers.space_of]
        return np.where(at == 0, 0, at + found[numbers.offsets])
