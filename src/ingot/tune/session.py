"""One Region on the device: its buffers, the numeric gate, the timer.

Runs in a helper process (see ``worker``): a variant that reads illegally loses that process's
CUDA context, and one that never ends is killed with it; the build goes on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ingot.device.device import Device
from ingot.device.launch import Arg, KernelArgs, integer, launch, pointer
from ingot.device.memory import Buffer
from ingot.device.module import Module
from ingot.device.stream import Stream
from ingot.device.tensor_map import encoded
from ingot.errors import YES, Answer, IngotError, No
from ingot.graph.dims import Bindings, evaluate
from ingot.graph.region import Region
from ingot.kernels.api import Argument, Input, Kernel, Output, Pdl, Program, Scratch, TensorMap, Value
from ingot.tune.gate import POISONS, Fetch, OutputGate
from ingot.tune.oracle import expected
from ingot.tune.reuse import LEAST_SETS, sets_for
from ingot.tune.setting import Effort, Setting, Timing
from ingot.tune.storage import Array, Stored
from ingot.tune.timer import Arguments, Launch, Timer
from ingot.tune.truth import Expected

_GUARD = 4096
"""Bytes of poison before and after every buffer. Reading them shows as NaN, writing them as damage."""
_POISON = 0xFF
_WEIGHT_COPIES = 64


class Guarded:
    """Device memory for one tensor or workspace between two guards, aligned no better than its spec promises."""

    def __init__(self, size: int, align: int, what: str, stream: Stream) -> None:
        """Allocates; what is done on ``stream`` afterwards finds poison in all of it."""
        self.bytes = size
        self._start = _GUARD + (align if align < 256 else 0)
        self._buffer = Buffer(self._start + size + _GUARD, what)
        stream.fill(self._buffer.pointer, _POISON, self._buffer.bytes)

    @property
    def address(self) -> int:
        """Address of the first byte."""
        return self._buffer.pointer + self._start

    def upload(self, data: Array) -> None:
        """Fill with ``data``."""
        self._buffer.upload(data.view(np.uint8), self._start)

    def fill(self, value: int, stream: Stream) -> None:
        """Set every byte, guards excepted, in order on ``stream``."""
        stream.fill(self.address, value, self.bytes)

    def fetch(self, offset: int, size: int) -> NDArray[np.uint8]:
        """``size`` bytes from ``offset``."""
        return self._buffer.read(np.uint8, (size,), self._start + offset)

    def intact(self) -> bool:
        """Whether nothing wrote to the guards."""
        before = self._buffer.read(np.uint8, (self._start,))
        after = self._buffer.read(np.uint8, (_GUARD,), self._start + self.bytes)
        return bool((before == _POISON).all() and (after == _POISON).all())

    def close(self) -> None:
        """Free the memory."""
        self._buffer.close()


class Session:
    """Buffers and expected results of one Region at one shape."""

    def __init__(
        self,
        region: Region,
        bindings: Bindings,
        setting: Setting,
        ages: Sequence[int] = (),
        truth: Expected | None = None,
    ) -> None:
        """``ages``: bytes touched since each input was written (see ``reuse``); none for just now.

        ``truth``: what it should compute, where the caller knows it. Raises IngotError when the device has too little
        memory or the reference cannot be computed.
        """
        self.ordinal, self._bindings = setting.ordinal, dict(bindings)
        self._device = Device.open(setting.ordinal)
        self._stream = Stream()
        self._expected = truth or expected(region, bindings, tf32=setting.tf32)
        self._stored = [Stored.of(tensor, bindings) for tensor in region.input_specs]
        self._outputs = [Stored.of(tensor, bindings) for tensor in region.output_specs]
        constant = sum(s.nbytes for s in self._stored if s.constant)
        moving = sum(s.nbytes for s in (*self._stored, *self._outputs)) - constant
        free = min(setting.budget, self._device.memory()[0] // 2)
        if constant + moving > free:
            raise IngotError(f"needs {constant + moving} bytes of device memory to measure, {free} may be used")
        sets = LEAST_SETS if LEAST_SETS * moving + constant <= free else 1
        turns = self._turns(ages, sets, free - constant - sets * moving)
        taken = sum(s.nbytes * n for s, n in zip(self._stored, turns, strict=True) if not s.constant)
        taken += sets * sum(o.nbytes for o in self._outputs)
        spare = min(setting.weights, free - taken, 512 << 20)
        copies = max(1, min(_WEIGHT_COPIES, spare // constant)) if constant else 1
        self._inputs = [
            self._uploaded(s, array, copies if s.constant else count)
            for s, array, count in zip(self._stored, self._expected.inputs, turns, strict=True)
        ]
        self._results = [
            [Guarded(o.nbytes, o.align, "an output", self._stream) for _ in range(sets)] for o in self._outputs
        ]
        self._timer = Timer(self._device, setting.weights - copies * constant)

    def _turns(self, ages: Sequence[int], sets: int, free: int) -> list[int]:
        """Buffers of each input: ``sets``, and more of what was written long ago, within ``free`` bytes."""
        launch = sum(s.nbytes for s in (*self._stored, *self._outputs))
        turns = [sets] * len(self._stored)
        for index, (stored, age) in enumerate(zip(self._stored, ages, strict=False)):
            more = sets_for(age, launch) - sets
            if sets == LEAST_SETS and not stored.constant and more * stored.nbytes <= free:
                turns[index] += more
                free -= more * stored.nbytes
        return turns

    def _uploaded(self, stored: Stored, array: Array, copies: int) -> list[Guarded]:
        buffers = [Guarded(stored.nbytes, stored.align, "an input", self._stream) for _ in range(copies)]
        if stored.nbytes:
            # An upload runs on the legacy stream, with which this one does not synchronise by itself.
            self._stream.synchronize()
            buffers[0].upload(array)
            self._device.synchronize()
            for other in buffers[1:]:
                self._stream.copy(other.address, buffers[0].address, stored.nbytes)
        self._stream.synchronize()
        return buffers

    def check(self, program: Program) -> Answer:
        """Run ``program`` twice over the same workspaces and compare both results with the reference."""
        scratch = self._scratch(program)
        launches, arguments = self._prepared(program, scratch)
        first: list[bytes] = []
        for poison in POISONS:
            self._run(launches, arguments, poison)
            content = [gate.content(fetch) for gate, fetch in self._fetches()]
            if content == first:  # the usual second run: nothing new to compare
                continue
            if first and program.deterministic:
                return No("two runs gave different bits, but the kernel claims to be deterministic")
            first = content
            for gate, fetch in self._fetches():
                answer = gate.check(fetch, poison)
                if not answer:
                    return answer
        touched = [*(r[0] for r in self._results), *(i[0] for i in self._inputs), *scratch]
        if not all(buffer.intact() for buffer in touched):
            return No("wrote outside of its buffers")
        for gate, fetch in self._fetches():
            gate.accept(fetch)
        return YES

    def _run(self, launches: Sequence[Launch], arguments: Arguments, poison: int) -> None:
        """One run on the first buffers, outputs filled with ``poison`` before."""
        for result in self._results:
            result[0].fill(poison, self._stream)
        for index, item in enumerate(launches):
            args, early = arguments(index, 0), item.pdl is not Pdl.NONE
            launch(item.function, item.grid, item.block, args, self._stream, pdl=early)
        self._stream.synchronize()

    def _fetches(self) -> list[tuple[OutputGate, Fetch]]:
        return [(g, r[0].fetch) for g, r in zip(self._expected.gates, self._results, strict=True)]

    def time(self, programs: Sequence[Program], effort: Effort) -> list[Timing]:
        """Time each Program; they must have passed :meth:`check`."""
        prepared = []
        for program in programs:
            launches, arguments = self._prepared(program, self._scratch(program))
            prepared.append((launches, arguments))
        return self._timer.compare(prepared, effort)

    def close(self) -> None:
        """Free the device memory."""
        for buffers in (*self._inputs, *self._results):
            for buffer in buffers:
                buffer.close()

    def _scratch(self, program: Program) -> list[Guarded]:
        buffers: list[Guarded] = []
        for workspace in program.workspaces:
            buffer = Guarded(evaluate(workspace.bytes, self._bindings), 256, "a workspace", self._stream)
            if workspace.zeroed:
                buffer.fill(0, self._stream)
            buffers.append(buffer)
        self._stream.synchronize()  # the timer has its own stream
        return buffers

    def _prepared(self, program: Program, scratch: Sequence[Guarded]) -> tuple[list[Launch], Arguments]:
        launches: list[Launch] = []
        kernels: list[Kernel] = []
        for kernel in program.kernels:
            x, y, z = (evaluate(dim, self._bindings) for dim in kernel.grid)
            if 0 in (x, y, z):
                continue
            module, together = Module(kernel.cubin), kernel.cooperative
            function = module.function(kernel.entry, kernel.shared, kernel.cluster, cooperative=together)
            launches.append(Launch(function, (x, y, z), kernel.block, kernel.pdl))
            kernels.append(kernel)

        def arguments(index: int, turn: int) -> KernelArgs:
            return KernelArgs([self._argument(a, scratch, turn) for a in kernels[index].arguments])

        return launches, arguments

    def _argument(self, argument: Argument, scratch: Sequence[Guarded], turn: int) -> Arg:
        match argument:
            case Input(index):
                return pointer(self._inputs[index][turn % len(self._inputs[index])].address)
            case Output(index):
                return pointer(self._results[index][turn % len(self._results[index])].address)
            case Scratch(index):
                return pointer(scratch[index].address)
            case Value(dim, size):
                return integer(evaluate(dim, self._bindings), size)
            case TensorMap(tensor=tensor):
                address = self._argument(tensor, scratch, turn)
                assert not isinstance(address, bytes)
                return encoded(argument, address[0], self._bindings)
        return pointer(0)


_Result = TypeVar("_Result")
_current: list[Session] = []
"""The helper process works on one Region at a time."""


def open_session(
    region: Region,
    bindings: dict[str, int],
    setting: Setting,
    ages: tuple[int, ...] = (),
    truth: Expected | None = None,
) -> Answer:
    """Start with a Region, and with what it should compute if the caller knows it (a plugin's code stays with him).

    What this raises is about the Region, not about a variant.
    """
    while _current:
        _current.pop().close()
    _current.append(Session(region, bindings, setting, ages, truth))
    return YES


def check_program(program: Program) -> Answer:
    """The gate's answer for one variant."""
    return _guarded(lambda: _current[0].check(program))


def time_programs(programs: list[Program], effort: Effort) -> list[Timing]:
    """Times of variants that passed the gate."""
    return _guarded(lambda: _current[0].time(programs, effort))


def _guarded(work: Callable[[], _Result]) -> _Result:
    """``work()``; when it leaves the CUDA context unusable, end the process: only a fresh one can go on."""
    try:
        return work()
    except Exception as error:
        try:
            Device.open(_current[0].ordinal).synchronize()
        except Exception:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(70)
        raise
