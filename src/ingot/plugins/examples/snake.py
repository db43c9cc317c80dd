"""A custom activation: Snake, ``x + sin²(alpha x) / alpha`` (Ziyin et al., 2020), in CUDA C++ and in Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ingot.graph.dims import ceildiv, mul
from ingot.graph.tensor import strides_of
from ingot.plugins.api import (
    Argument,
    Array,
    Attribute,
    Attrs,
    AttrType,
    CudaLaunch,
    In,
    Kernels,
    Layout,
    Node,
    Number,
    Out,
    Plugin,
    TensorInfo,
    TritonLaunch,
    Work,
)
from ingot.plugins.cuda import defines, storage_type

_CUDA = """
extern "C" __global__ void snake(const TYPE* x, TYPE* y, long long count PARAMETERS) {
  pdl_wait();
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  long long from = i, to = i;
  PLACE
  float v = (float)x[from];
  float s = sinf(ALPHA * v);
  y[to] = (TYPE)(v + s * s / ALPHA);
}
"""
_TRITON = """import triton
import triton.language as tl


@triton.jit
def snake(x, y, count, alpha: tl.constexpr, block: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    v = tl.load(x + i, mask=i < count).to(tl.float32)
    s = tl.sin(alpha * v)
    tl.store(y + i, (v + s * s / alpha).to(y.dtype.element_ty), mask=i < count)
"""


def _shapes(node: Node) -> Sequence[TensorInfo]:
    """That of the input."""
    x = node.input(0)
    return [TensorInfo(x.dtype, x.shape)]


def _reference(attrs: Attrs, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x, alpha = inputs[0], float(attrs["alpha"])  # type: ignore[arg-type]
    assert x is not None
    return [x + np.sin(alpha * x) ** 2 / alpha]


def _alike(node: Node) -> bool:
    """Whether input and output lie in memory in the same order without gaps: then the order does not matter."""
    x, y = node.input(0), node.output(0)
    orders = (tuple(range(len(x.shape))), (0, *range(2, len(x.shape)), 1))
    dense = any(strides_of(x.shape, order) == x.strides for order in orders if len(order) == len(x.shape))
    return dense and x.strides == y.strides


def _cuda(node: Node, tactic: Mapping[str, int]) -> Work:
    """One element a thread; where the tensors lie in different orders, the element's place is worked out."""
    x, y, block = node.input(0), node.output(0), tactic["block"]
    count = mul(*x.shape)
    arguments: list[Argument] = [In(0), Out(0), Number(count)]
    names, lines = [], []
    if not _alike(node):
        lines.append("from = to = 0; long long rest = i;")
        for axis in reversed(range(len(x.shape))):
            names += [f"long long n{axis}", f"long long p{axis}", f"long long q{axis}"]
            arguments += [Number(x.shape[axis]), Number(x.strides[axis]), Number(y.strides[axis])]
            lines.append(
                f"{{ long long c = rest % n{axis}; rest /= n{axis}; from += c * p{axis}; to += c * q{axis}; }}"
            )
    header = defines(
        {
            "TYPE": storage_type(x.dtype),
            "ALPHA": node.number("alpha"),
            "PARAMETERS": "".join(f", {name}" for name in names),
            "PLACE": " ".join(lines),
        }
    )
    source = header + _CUDA
    launch = CudaLaunch(source, "snake", tuple(arguments), (ceildiv(count, block), 1, 1), block, waits=True)
    return Work((launch,))


def _in_one_order(node: Node) -> str:
    """The Triton kernel knows one order only."""
    return "" if _alike(node) else "input and output lie in different orders"


def _triton(node: Node, tactic: Mapping[str, int]) -> Work:
    """A tile of elements a program."""
    x, block = node.input(0), tactic["block"]
    count = mul(*x.shape)
    parameters = (("x", In(0)), ("y", Out(0)), ("count", Number(count)))
    constants = {"alpha": node.number("alpha"), "block": block}
    return Work((TritonLaunch(_TRITON, "snake", parameters, (ceildiv(count, block), 1, 1), constants),))


SNAKE = Plugin(
    domain="ingot.examples",
    name="Snake",
    version="1",
    shapes=_shapes,
    reference=_reference,
    implementations=(
        Kernels("cuda", _cuda, ({"block": 256}, {"block": 512})),
        Kernels("triton", _triton, ({"block": 1024},), _in_one_order),
    ),
    attributes={"alpha": Attribute(AttrType.FLOAT, 1.0)},
    dtypes=frozenset({"float32", "float16", "bfloat16"}),
    layout=Layout.ANY,
)
