"""Text of a Triton kernel under construction: parameters, lines, and dimension expressions as code."""

from __future__ import annotations

from dataclasses import dataclass, field

from ingot.graph import dtypes
from ingot.graph.dims import Dim, divisible
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Argument, Input, Kernel, Null, Output, Pdl, Scratch, Target, Value
from ingot.kernels.triton.aot import compile_source

_VECTOR = 16
_HEADER = """import triton
import triton.language as tl
from triton.language.extra import libdevice
"""
_PDL_HEADER = "from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait\n"
FUNCTION = "kernel"


@dataclass
class KernelBuilder:
    """Collects one kernel. Parameters are added by use and keep their order of first use."""

    region: Region
    target: Target
    pdl: bool
    lines: list[str] = field(default_factory=list)
    indent: int = 1
    helpers: str = ""
    """Module-level source of functions that the kernel calls."""
    _types: dict[str, str] = field(default_factory=dict)
    _arguments: dict[str, Argument] = field(default_factory=dict)
    _aligned: set[str] = field(default_factory=set)
    _dims: dict[str, str] = field(default_factory=dict)

    def line(self, text: str) -> None:
        """Appends one statement (or several, split at line ends) at the current indentation."""
        self.lines.extend("    " * self.indent + part if part else "" for part in text.splitlines())

    def blank(self) -> None:
        """Appends an empty line."""
        self.lines.append("")

    def dim(self, value: Dim) -> str:
        """Code for a dimension expression: a literal, or a run-time parameter."""
        if isinstance(value, int):
            return str(value)
        name = self._dims.get(value)
        if name is None:
            name = self._dims[value] = f"d{len(self._dims)}"
            self._types[name] = "i32"
            self._arguments[name] = Value(value)
            if divisible(value, _VECTOR):
                self._aligned.add(name)
        return name

    def input(self, name: str) -> str:
        """Code of the pointer to a Region input."""
        index = self.region.inputs.index(name)
        return self._pointer(f"in{index}", Input(index), self.region.spec_of[name])

    def output(self, name: str) -> str:
        """Code of the pointer to a Region output."""
        index = self.region.outputs.index(name)
        return self._pointer(f"out{index}", Output(index), self.region.spec_of[name])

    def scratch(self, index: int, triton_type: str) -> str:
        """Code of the pointer to a workspace."""
        name = f"ws{index}"
        self._types[name], self._arguments[name] = f"*{triton_type}", Scratch(index)
        self._aligned.add(name)
        return name

    def _pointer(self, name: str, argument: Argument, spec: TensorSpec) -> str:
        self._types[name], self._arguments[name] = f"*{dtypes.TABLE[spec.dtype].triton}", argument
        if spec.align % _VECTOR == 0:
            self._aligned.add(name)
        return name

    @property
    def types(self) -> dict[str, str]:
        """Triton type by parameter, in order."""
        return dict(self._types)

    @property
    def aligned(self) -> frozenset[str]:
        """Parameters that are certainly multiples of 16."""
        return frozenset(self._aligned)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """Launch arguments of the parameters, in order."""
        return tuple(self._arguments[name] for name in self._types)

    def source(self) -> str:
        """The whole module."""
        head = _HEADER + (_PDL_HEADER if self.pdl else "") + "\n\n"
        helpers = self.helpers + "\n\n" if self.helpers else ""
        return (
            head + helpers + f"@triton.jit\ndef {FUNCTION}({', '.join(self._types)}):\n" + "\n".join(self.lines) + "\n"
        )

    def kernel(self, grid: tuple[Dim, Dim, Dim], *, num_warps: int, num_stages: int) -> Kernel:
        """Compiles what was collected. Raises IngotError when the compiler refuses it."""
        done = compile_source(
            self.source(),
            FUNCTION,
            self._types,
            num_warps=num_warps,
            num_stages=num_stages,
            target=self.target,
            aligned=self.aligned,
        )
        return Kernel(
            entry=done.entry,
            cubin=done.cubin,
            grid=grid,
            block=done.threads,
            shared=done.shared,
            arguments=(*self.arguments, *(Null() for _ in range(done.nulls))),
            pdl=Pdl.TRIGGERS if self.pdl else Pdl.NONE,
        )
