"""Tactics and a device for tests of the tuner: importable, so that compile processes find them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from support.regions import build_region

from ingot.errors import YES, Answer, IngotError, No
from ingot.graph.dims import Bindings
from ingot.graph.lowered import Lowered, SymbolRange
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Input, Kernel, Output, Program, Target, Value, Variant
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.tune.measure import Measured
from ingot.tune.setting import Timing


def doubling(*shape: int | str, name: str = "double", dtype: str = "float32") -> Region:
    """A MAP Region: y = 2 * x."""
    tensor = spec(dtype, shape)
    ops = [BodyOp("Mul", ("x", "two"), ("y",))]
    region = build_region(Kind.MAP, {"x": tensor}, ops, {"y": tensor}, ("y",), {"two": 2.0})
    return Region(region.kind, name, region.inputs, region.outputs, region.ops, region.values, region.literals)


def dequantizing(scale: float) -> Region:
    """A MAP Region: bytes times ``scale``."""
    ops = [BodyOp("DequantizeLinear", ("x", "s"), ("y",))]
    specs = {"x": spec("int8", (4,))}, {"y": spec("float32", (4,))}
    return build_region(Kind.MAP, specs[0], ops, specs[1], ("y",), {"s": scale})


def program(text: str) -> Program:
    """A Program that is told from others by its machine code alone."""
    return Program((Kernel("k", text.encode(), (1, 1, 1), 32, 0, (Input(0), Output(0))),))


@dataclass(frozen=True)
class Fake:
    """A tactic whose variants are ``x=0``, ``x=1`` ...; ``seconds`` are the estimates.

    ``actions`` says what compiling a variant does: ``ok``, ``raise``, ``crash``, ``hang`` or ``shared``.
    """

    name: str = "fake"
    seconds: tuple[float, ...] = (3e-6, 1e-6, 2e-6)
    actions: tuple[str, ...] = ()
    refusal: str = ""
    kinds: frozenset[Kind] = frozenset({Kind.MAP})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Yes unless told to refuse."""
        return No(self.refusal) if self.refusal else YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """One per estimate."""
        return [Variant(self.name, (("x", x),)) for x in range(len(self.seconds))]

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Does what ``actions`` says."""
        action = self.actions[variant["x"]] if self.actions else "ok"
        if action == "raise":
            raise IngotError("does not fit")
        if action == "crash":
            print("the compiler is confused", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if action == "hang":
            time.sleep(600)
        made = program(f"{variant}:{region.signature}")
        if action == "shared":
            kernel = made.kernels[0]
            return Program((Kernel(kernel.entry, kernel.cubin, kernel.grid, 32, 1 << 20, kernel.arguments),))
        return made

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """As given."""
        return self.seconds[variant["x"]]


@dataclass
class Pretence:
    """A Measurer: times by variant text, No for refused ones; counts what it was asked."""

    times: Mapping[str, float | No]
    device: str = "Pretence 9000"
    broken: str = ""
    asked: list[str] = field(default_factory=list)
    ages: tuple[int, ...] = ()
    """Of the Region asked about last."""

    def measure(
        self, region: Region, bindings: Bindings, programs: Mapping[str, Program], ages: Sequence[int] = ()
    ) -> Measured | No:
        """See the protocol."""
        self.ages = tuple(ages)
        if self.broken:
            return No(self.broken)
        self.asked += programs
        made: Measured = {}
        for text in programs:
            found = self.times.get(text, 1e-3)
            made[text] = found if isinstance(found, No) else Timing(found, 0.0)
        return made

    def close(self) -> None:
        """Nothing to give back."""


def lowered(*regions: Region, ranges: tuple[SymbolRange, ...] = ()) -> Lowered:
    """Just enough of a lowered Graph for the tuner."""
    return Lowered((), (), {}, regions, {}, ranges=ranges)


_SOURCE = """
extern "C" __global__ void scale(const float* x, float* y, int n) {
    int i = blockIdx.x * %(block)d + threadIdx.x;
    if (i >= n) return;
    %(body)s
}
"""
BODIES = {
    0: "y[i] = 2.0f * x[i];",
    1: "y[i] = i == 7 ? 0.0f / (x[i] - x[i]) : 2.0f * x[i];",
    2: "if (i != 5) y[i] = 2.0f * x[i];",
    3: "y[i] = 2.0f * x[i + 1 < n ? i + 1 : i];",
    4: "y[i] = 2.0f * x[i]; if (i == 0) y[n] = 1.0f;",
    5: "y[i] = 2.0f * x[i]; if (i == 0) *(volatile float*)16 = 1.0f;",
    6: "y[i] = 2.0f * x[i]; if (i == 0) while (*(volatile float*)x < 1e30f) {}",
}
"""By mode: right, NaN, unwritten, off by one, past the end, illegal address, endless."""
WRONG = {1: "NaN", 2: "NaN", 3: "are off", 4: "outside", 5: "ILLEGAL_ADDRESS", 6: "no answer"}
"""By mode: what the gate says."""


@dataclass(frozen=True)
class Scale:
    """A real tactic for :func:`doubling` through NVRTC; ``mode`` other than 0 is wrong on purpose."""

    modes: tuple[int, ...] = (0,)
    name: str = "scale"
    kinds: frozenset[Kind] = frozenset({Kind.MAP})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Every Region of its kind."""
        return YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Two block sizes of each mode."""
        return [Variant(self.name, (("block", b), ("mode", m))) for m in self.modes for b in (128, 256)]

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Through NVRTC."""
        block = variant["block"]
        code = compile_cuda(_SOURCE % {"block": block, "body": BODIES[variant["mode"]]}, "scale", target)
        count = region.output_specs[0].elements
        assert isinstance(count, int)
        arguments = (Input(0), Output(0), Value(count))
        return Program((Kernel("scale", code.cubin, (-(-count // block), 1, 1), block, 0, arguments),))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Wrong ones promise to be faster."""
        return 1e-6 / (1 + variant["mode"]) + variant["block"] * 1e-9
