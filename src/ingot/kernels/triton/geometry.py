"""Geometry of a Conv or ConvTranspose, read once from its op and specs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ingot.errors import No
from ingot.graph.dims import Dim
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec


@dataclass(frozen=True)
class Geometry:
    """A convolution over ``len(kernel)`` spatial dimensions."""

    transposed: bool
    batch: Dim
    groups: int
    in_channels: int
    """Per group."""
    out_channels: int
    """Per group."""
    input: tuple[Dim, ...]
    output: tuple[Dim, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pad: tuple[int, ...]
    """Before the first element of each spatial dimension."""
    pad_end: tuple[int, ...]
    x: TensorSpec
    w: TensorSpec

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return math.prod(self.kernel)

    @property
    def depthwise(self) -> bool:
        """Whether every output channel reads one input channel."""
        return self.groups > 1 and self.in_channels == 1

    def bounded(self, i: int) -> bool:
        """Whether some tap may fall outside the input along spatial dimension ``i``."""
        if self.transposed:
            size, out = self.input[i], self.output[i]
            plain = self.kernel[i] == self.stride[i] and self.dilation[i] == 1 and self.pad[i] == 0 == self.pad_end[i]
            whole = isinstance(size, int) and isinstance(out, int) and out == size * self.stride[i]
            return not (plain and whole)
        reach = (self.kernel[i] - 1) * self.dilation[i]
        size, out = self.input[i], self.output[i]
        if isinstance(size, int) and isinstance(out, int):
            return self.pad[i] > 0 or (out - 1) * self.stride[i] - self.pad[i] + reach > size - 1
        return self.pad[i] != 0 or self.pad_end[i] != 0


def geometry(region: Region) -> Geometry | No:
    """The geometry of the Region's anchor, or why it has no kernel."""
    op = region.ops[0]
    x, w, y = (region.spec_of[n] for n in (op.inputs[0], op.inputs[1], op.outputs[0]))
    rank = x.rank - 2
    if rank not in (1, 2, 3):
        return No(f"{op.op} over {rank} spatial dimensions")
    if not all(isinstance(d, int) for d in w.shape) or not isinstance(x.shape[1], int):
        return No("symbolic channels or kernel size")
    ones = (1,) * rank
    kernel = tuple(int(d) for d in w.shape[2:])
    stride, dilation = op.ints("strides", ones), op.ints("dilations", ones)
    groups = int(op.attr("group", 1) or 1)  # type: ignore[arg-type]
    transposed = op.op == "ConvTranspose"
    pads = _pads(
        op.attr("auto_pad", "NOTSET"), op.ints("pads", (0,) * (2 * rank)), x, y, kernel, stride, dilation, transposed
    )
    if isinstance(pads, No):
        return pads
    if any(p < 0 for p in pads):
        return No("negative padding")
    in_channels = int(x.shape[1]) // groups
    out_channels = int(w.shape[1]) if transposed else int(w.shape[0]) // groups
    return Geometry(
        transposed, x.shape[0], groups, in_channels, out_channels, x.shape[2:], y.shape[2:], kernel, stride, dilation,
        pads[:rank], pads[rank:], x, w,
    )  # fmt: skip


def _pads(
    auto: object,
    pads: tuple[int, ...],
    x: TensorSpec,
    y: TensorSpec,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool,
) -> tuple[int, ...] | No:
    """Padding before every dimension, then after; ``auto_pad`` needs a static shape."""
    rank = len(kernel)
    if auto in ("NOTSET", "", None):
        return pads
    if auto == "VALID":
        return (0,) * (2 * rank)
    begin, end = [], []
    for i in range(rank):
        size, out = x.shape[2 + i], y.shape[2 + i]
        if not isinstance(size, int) or not isinstance(out, int):
            return No(f"auto_pad {auto} with symbolic shapes")
        reach = (kernel[i] - 1) * dilation[i] + 1
        total = stride[i] * (size - 1) + reach - out if transposed else max((out - 1) * stride[i] + reach - size, 0)
        small, large = total // 2, total - total // 2
        first = small if auto == "SAME_UPPER" else large
        begin.append(first)
        end.append(total - first)
    return (*begin, *end)
