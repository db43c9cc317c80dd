"""Hand-written Plans of a few trivial kernels, for tests of the device and runtime layers.

The kernels are compiled by NVRTC on a real GPU and, where ``fake_cuda.c`` stands in for the
driver, by the C compiler.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from ingot.device.driver import available
from ingot.engine.file import EngineFile
from ingot.graph.dtypes import itemsize
from ingot.graph.tensor import strides_of
from ingot.plan.spec import (
    Argument,
    Binding,
    Cubin,
    DataSize,
    Dim,
    Memory,
    ModelDecl,
    Plan,
    Profile,
    RegionDecl,
    Step,
    ValueDecl,
)
from ingot.runtime.engine import Engine

FAKE = "INGOT_TEST_FAKE_CUDA" in os.environ
HAVE_GPU = available()

KERNELS: dict[str, tuple[str, str]] = {
    "scale": ("const float* x, float* y, int n, int k", "if (i < n) y[i] = k * x[i];"),
    "scale_pdl": ("const float* x, float* y, int n, int k", "WAIT if (i < n) y[i] = k * x[i]; TRIGGER"),
    "add": ("const float* x, const float* y, float* z, int n", "if (i < n) z[i] = x[i] + y[i];"),
    "bump": ("float* counter, float* y", "if (i == 0) { counter[0] += 1; y[0] = counter[0]; }"),
    "wide": (
        "float* y, long long value, const void* unused",
        "if (i == 0) y[0] = unused ? -1.0f : (float)(value >> 20);",
    ),
    # For the stand-in driver only, which puts a number first in a tensor map.
    "mapped": ("float* y, const float* x, int n, long long map", "if (i < n) y[i] += map ? x[i] : 0;"),
    "shared": ("const float* x, float* y, int n", "SHARED if (i < n) { buf[TX] = x[i]; y[i] = buf[TX]; }"),
}


@cache
def cubin() -> bytes:
    """All the kernels, for the GPU that is there."""
    return _compiled_for_host() if FAKE else _compiled_by_nvrtc()


def _compiled_for_host() -> bytes:
    rows = ["#define WAIT", "#define TRIGGER", "#define SHARED static float buf[1024];", "#define TX i % 1024"]
    for name, (params, body) in KERNELS.items():
        decls = [p.strip() for p in params.split(",")]
        reads = " ".join(f"{d} = *({d.rsplit(' ', 1)[0]}*)p[{j}];" for j, d in enumerate(decls))
        rows.append(
            f"int {name}_args = {len(decls)};\nvoid {name}(void** p, const unsigned* grid, unsigned block) "
            f"{{ {reads} for (unsigned i_ = 0; i_ < grid[0] * block; i_++) {{ int i = i_; {body} }} }}"
        )
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "k.c"), Path(folder, "k.so")
        source.write_text("\n".join(rows))
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(made), str(source)], check=True)
        return made.read_bytes()


def _compiled_by_nvrtc() -> bytes:
    from cuda.bindings import nvrtc

    from ingot.device.device import Device

    rows = [
        '#define WAIT asm volatile("griddepcontrol.wait;" ::: "memory");',
        '#define TRIGGER asm volatile("griddepcontrol.launch_dependents;" ::: "memory");',
        "#define SHARED extern __shared__ float buf[];",
        "#define TX threadIdx.x",
    ]
    cc = Device.open().info.cc
    for name, (params, body) in KERNELS.items():
        if cc < 90:
            body = body.replace("WAIT", "").replace("TRIGGER", "")
        rows.append(
            f'extern "C" __global__ void {name}({params}) {{ int i = blockIdx.x * blockDim.x + threadIdx.x; {body} }}'
        )
    result, program = nvrtc.nvrtcCreateProgram("\n".join(rows).encode(), b"tiny.cu", 0, None, None)
    assert int(result) == 0
    if int(nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture=sm_{cc}".encode()])[0]) != 0:
        log = bytes(nvrtc.nvrtcGetProgramLogSize(program)[1])
        nvrtc.nvrtcGetProgramLog(program, log)
        raise AssertionError(log.decode())
    image = bytes(nvrtc.nvrtcGetCUBINSize(program)[1])
    assert int(nvrtc.nvrtcGetCUBIN(program, image)[0]) == 0
    return image


def target() -> str:
    """The architecture of the GPU that is there."""
    from ingot.device.device import Device

    return Device.open().info.target


class TinyPlan:
    """Collects values and steps of a Plan."""

    def __init__(self, target_name: str, profiles: Sequence[Profile] = ()) -> None:
        self.target, self.profiles = target_name, list(profiles)
        self.values: list[ValueDecl] = []
        self.names: dict[str, int] = {}
        self.inputs: list[Binding] = []
        self.outputs: list[Binding] = []
        self.steps: list[Step] = []
        self.models: list[bytes] = []
        self.decls: list[ModelDecl] = []
        self.weights = b""
        self.data: list[DataSize] = []

    def value(
        self,
        name: str,
        shape: Sequence[Dim],
        space: str = "arena",
        offset: Dim = 0,
        *,
        strides: Sequence[Dim] | None = None,
        dtype: str = "float32",
        size: Dim = 4096,
        binding: str = "",
    ) -> int:
        """Adds a Value; inputs and outputs are their own bindings unless one is given."""
        rows = {"input": self.inputs, "output": self.outputs}.get(space)
        if strides is None:
            strides = strides_of(tuple(shape), tuple(range(len(shape))))
        if rows is not None and not binding:
            binding = name
            rows.append(Binding(name, dtype, list(shape), len(self.values)))
        memory = Memory(space, offset, size if rows is None else _bytes(shape, dtype), binding)
        self.values.append(ValueDecl(name, dtype, list(shape), list(strides), memory))
        self.names[name] = len(self.values) - 1
        return self.names[name]

    def constant(self, name: str, array: np.ndarray) -> int:
        """Adds a weight."""
        offset = len(self.weights)
        self.weights += array.tobytes().ljust(256, b"\0")
        return self.value(name, array.shape, "weights", offset, dtype=str(array.dtype), size=array.nbytes)

    def kernel(
        self, entry: str, args: Sequence[str | Argument], n: Dim, writes: Sequence[str], *, after: Sequence[int] = (),
        programmatic: bool = False, shared: int = 0, cluster: int = 1, block: int = 128, blocks: Dim | None = None,
    ) -> int:  # fmt: skip
        """Adds a launch over ``n`` elements; arguments that are names are addresses."""
        used = [self.names[a] for a in args if isinstance(a, str)]
        out = [self.names[w] for w in writes]
        grid = blocks if blocks is not None else (-(-n // block) if isinstance(n, int) else f"ceil(({n})/{block})")
        arguments = [Argument("value", self.names[a]) if isinstance(a, str) else a for a in args]
        self.steps.append(
            Step(
                "kernel", f"{entry}{len(self.steps)}", 0, list(after), [i for i in used if i not in out], out,
                list(after) if programmatic else [], 0, entry, [grid, 1, 1], block, shared, cluster, arguments,
                "waits+triggers" if entry == "scale_pdl" else "none",
            )
        )  # fmt: skip
        return len(self.steps) - 1

    def copy(self, source: str, to: str, after: Sequence[int] = ()) -> int:
        """Adds a copy step."""
        self.steps.append(Step("copy", "copy", 0, list(after), [self.names[source]], [self.names[to]]))
        return len(self.steps) - 1

    def host(
        self, model: bytes, reads: Sequence[str], writes: Sequence[str], names: tuple[list[str], list[str]],
        after: Sequence[int] = (), backend: str = "onnxruntime",
    ) -> int:  # fmt: skip
        """Adds a host step running ``model``, whose tensors are called ``names``."""
        self.decls.append(ModelDecl(sum(map(len, self.models)), len(model), *names))
        self.models.append(model)
        step = Step(
            "host",
            f"host{len(self.steps)}",
            0,
            list(after),
            [self.names[r] for r in reads],
            [self.names[w] for w in writes],
        )
        self.steps.append(msgspec.structs.replace(step, model=len(self.models) - 1, backend=backend))
        return len(self.steps) - 1

    def engine(self, arena: int = 1 << 16, persistent: int = 256) -> Engine:
        """The Plan, verified, as an Engine: each step a Region."""
        regions = [
            RegionDecl(s.name, "map", [], "", s.reads, s.writes, "hand[]", 0.0, False, 0, 0, "float32")
            for s in self.steps
        ]
        steps = [msgspec.structs.replace(step, region=index) for index, step in enumerate(self.steps)]
        code = b"" if self.target == "cpu" else cubin()
        if self.target == "cpu":
            arena = persistent = 0
        plan = Plan(
            self.target, self.profiles, self.inputs, self.outputs, self.values, regions,
            [Cubin(0, len(code))] if code else [], self.decls, steps, arena, persistent, len(self.weights),
            data=self.data,
        )  # fmt: skip
        return Engine(EngineFile.from_bytes(EngineFile(plan, self.weights, code, b"".join(self.models)).to_bytes()))


def number(dim: Dim, size: int = 4) -> Argument:
    """A scalar argument."""
    return Argument("dim", dim=dim, bytes=size)


def _bytes(shape: Sequence[Dim], dtype: str) -> Dim:
    return "*".join([str(itemsize(dtype)), *(f"({d})" for d in shape)])


def model(
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    types: Sequence[str] | None = None,
    ranks: Sequence[int] = (),
) -> bytes:
    """A one-node ONNX model on float32 tensors of unknown shape (``types``: other types of the outputs)."""

    from onnx import TensorProto, helper

    elem = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    outs = [
        helper.make_tensor_value_info(o, elem[t], None)
        for o, t in zip(outputs, types or ["float32"] * len(outputs), strict=True)
    ]
    shapes = (
        [[f"{i}_{axis}" for axis in range(rank)] for i, rank in zip(inputs, ranks, strict=True)]
        if ranks
        else [None] * len(inputs)
    )
    ins = [helper.make_tensor_value_info(i, TensorProto.FLOAT, shape) for i, shape in zip(inputs, shapes, strict=True)]
    graph = helper.make_graph([helper.make_node(op, list(inputs), list(outputs))], "g", ins, outs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(made.SerializeToString())
