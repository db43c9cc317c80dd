"""What a tactic is, and what it makes: the interface between Regions and machine code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ingot.errors import Answer
from ingot.graph.dims import Bindings, Dim
from ingot.graph.region import Kind, Region


@dataclass(frozen=True)
class Target:
    """The GPU to compile for. ``sm_90`` is Target(90)."""

    cc: int
    """Compute capability times ten: 75, 80, 86, 87, 89, 90, 100, 110, 120."""
    tf32: bool = False
    """Whether FP32 products may round their operands to TF32."""
    sms: int = 132
    bandwidth: float = 4.3e12
    """Device memory, bytes per second read plus written, as measured."""
    flops: float = 790e12
    """Dense FP16 tensor-core products, FLOP per second, as measured."""
    flops_fp32: float = 60e12
    shared_per_block: int = 232448
    """Most dynamic shared memory of one block, bytes."""

    @property
    def name(self) -> str:
        """NVIDIA's name, such as ``sm_90``."""
        return f"sm_{self.cc}"

    @property
    def code(self) -> tuple[int, bool, int, int]:
        """What machine code depends on: rates are for predictions only, so that a library fits every card of a kind."""
        return self.cc, self.tf32, self.sms, self.shared_per_block

    @property
    def pdl(self) -> bool:
        """Whether programmatic dependent launch exists (``griddepcontrol``, sm_90 and later)."""
        return self.cc >= 90


class Pdl(StrEnum):
    """How a kernel takes part in programmatic dependent launch."""

    NONE = "none"
    """Neither waits nor triggers: never a programmatic consumer."""
    WAITS = "waits"
    """Executes ``griddepcontrol.wait`` before it touches anything another kernel writes or reads."""
    TRIGGERS = "waits+triggers"
    """Also executes ``griddepcontrol.launch_dependents`` (always with the wait)."""


@dataclass(frozen=True)
class Input:
    """Kernel argument: address of the Region's input ``index``."""

    index: int


@dataclass(frozen=True)
class Output:
    """Kernel argument: address of the Region's output ``index``."""

    index: int


@dataclass(frozen=True)
class Scratch:
    """Kernel argument: address of the Program's workspace ``index``."""

    index: int


@dataclass(frozen=True)
class Value:
    """Kernel argument: a number computed from the input dimensions when shapes are bound."""

    dim: Dim
    bytes: int = 4
    """4 (int) or 8 (long long)."""


@dataclass(frozen=True)
class Null:
    """Kernel argument: a null pointer (Triton's unused scratch parameters)."""


@dataclass(frozen=True)
class TensorMap:
    """Kernel argument: the 128 bytes, by value, through which the copy engine (TMA, sm_90 and later) reads a tensor.

    Axes are given innermost first; the innermost has stride 1. With ``lower`` the map is an im2col one over
    (channel, width, height, batch): a load gathers ``box[1]`` pixels of ``box[0]`` channels each.
    """

    tensor: Input | Output | Scratch
    dtype: str
    dims: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    """Bytes from one element to the next along every axis but the innermost; multiples of 16."""
    box: tuple[int, ...]
    """Elements of one load along every axis; of an im2col map channels and pixels."""
    swizzle: int = 128
    """Bytes of shared memory within which 16-byte pieces are permuted: 0, 32, 64 or 128."""
    lower: tuple[int, ...] = ()
    """First pixel position along width, height: minus the padding before."""
    upper: tuple[int, ...] = ()
    """Last position relative to the last pixel: padding after minus the reach of the kernel."""
    steps: tuple[int, ...] = ()
    """Positions from one pixel to the next along width, height."""


Argument = Input | Output | Scratch | Value | Null | TensorMap


@dataclass(frozen=True)
class Workspace:
    """Device memory a Program needs beside its inputs and outputs.

    ``zeroed`` memory is set to zero once when a Context is made and never shared with other
    steps: the kernels leave it zero behind them (self-resetting split-K counters).
    """

    bytes: Dim
    zeroed: bool = False


@dataclass(frozen=True)
class Kernel:
    """One launch: machine code and how to call it."""

    entry: str
    cubin: bytes
    grid: tuple[Dim, Dim, Dim]
    block: int
    """Threads per block (one-dimensional)."""
    shared: int
    """Dynamic shared memory, bytes."""
    arguments: tuple[Argument, ...]
    pdl: Pdl = Pdl.NONE
    cluster: int = 1
    """Blocks per cluster along x."""
    cooperative: bool = False
    """Whether its blocks wait for each other: all of them must be on the device at the same time."""


@dataclass(frozen=True)
class Program:
    """What a compiled variant runs: kernels in order, each depending on the one before; or a plugin's function."""

    kernels: tuple[Kernel, ...]
    workspaces: tuple[Workspace, ...] = ()
    deterministic: bool = True
    call: bytes = b""
    """Instead of kernels: the record (:mod:`ingot.plugins.record`) of a plugin whose Python function does the work."""


@dataclass(frozen=True, order=True)
class Variant:
    """One point of a tactic's parameter space; text form ``name[a=1,b=2]`` is the database's key."""

    tactic: str
    params: tuple[tuple[str, int], ...] = ()

    def __getitem__(self, key: str) -> int:
        return dict(self.params)[key]

    def __str__(self) -> str:
        return f"{self.tactic}[{','.join(f'{k}={v}' for k, v in self.params)}]"

    @staticmethod
    def parse(text: str) -> Variant:
        """The inverse of ``str``."""
        name, _, rest = text.rstrip("]").partition("[")
        pairs = (item.partition("=") for item in rest.split(",") if item)
        return Variant(name, tuple((key, int(value)) for key, _, value in pairs))


class Tactic(Protocol):
    """A way to run Regions of some kinds.

    Implementations are stateless module-level objects, listed by hand in ``kernels/table.py``.
    Every tactic reads and writes through the strides of the specs or says No.
    """

    @property
    def name(self) -> str:
        """What the timing database calls it."""
        ...

    @property
    def kinds(self) -> frozenset[Kind]:
        """Kinds of Regions it can run."""
        ...

    def accepts(self, region: Region, target: Target) -> Answer:
        """Whether this tactic can run the Region, or the reason why not."""
        ...

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Every variant worth a try at the optimum shape ``bindings``, the likeliest first."""
        ...

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code for one variant, valid for every binding of the symbolic dimensions."""
        ...

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds on the target at the shape ``bindings``."""
        ...
