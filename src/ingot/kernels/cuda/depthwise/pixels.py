"""A convolution of channels-last images as its kernels see it: pixels of vectors of channels, no dilation."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.errors import No
from ingot.graph.dims import Dim, ceildiv, divisible, mul
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.triton.geometry import Geometry, geometry
from ingot.kernels.triton.indexing import Axis
from ingot.kernels.triton.normal import Normal, normal_conv

_MOST_ELEMENTS = 1 << 30
"""Elements of one image above which offsets would not fit an int."""
_MOST_RESULTS = 2**31 - 1
"""Elements of a result above which the numbers of its pixels, or of threads, might not fit an int."""


@dataclass(frozen=True)
class Pixels:
    """The convolution as a product whose rows are pixels and whose columns are channels: see ``Product``."""

    normal: Normal
    geometry: Geometry
    row_axes: tuple[Axis, ...]
    col_axis: int | None = 1
    batch_axes: tuple[Axis, ...] = ()

    @property
    def cols(self) -> int:
        """Channels of the result."""
        return self.geometry.groups * self.geometry.out_channels

    @property
    def output(self) -> tuple[Dim, Dim]:
        """Height and width of the result."""
        return self.geometry.output[0], self.geometry.output[1]

    @property
    def rows(self) -> Dim:
        """Pixels of the result."""
        return mul(self.geometry.batch, *self.geometry.output)

    def threads(self, rows: int, wide: int, vector: int) -> Dim:
        """Threads, each with so many rows, columns and channels of the result."""
        lines, parts = (ceildiv(size, step) for size, step in zip(self.output, (rows, wide), strict=True))
        return mul(self.geometry.batch, lines, parts, self.cols // vector)


def depthwise_pixels(region: Region, vector: int, taps: int) -> Pixels | No:
    """The Region's depthwise convolution, or why a kernel for ``vector`` channels and ``taps`` squared taps cannot."""
    g = geometry(region)
    if isinstance(g, No):
        return g
    if not g.depthwise or g.out_channels != 1 or len(g.kernel) != 2 or g.dilation != (1, 1):
        return No("not depthwise in two dimensions, without dilation")
    if max(g.kernel) > taps or not set(g.stride) <= {1, 2}:
        return No(f"a kernel above {taps} x {taps}, or a stride above 2")
    elements = mul(g.batch, *g.output, g.groups)
    if isinstance(elements, int) and elements > _MOST_RESULTS:
        return No(f"more than {_MOST_RESULTS} elements of the result")
    if not in_vectors(g.w, 0, vector):
        return No(f"weights whose channels are not innermost in multiples of {vector}")
    return pixels(region, g, vector)


def pixels(region: Region, g: Geometry, vector: int) -> Pixels | No:
    """The Region's convolution, whose geometry is ``g``, or why a kernel for ``vector`` channels cannot."""
    if not g.w.constant:
        return No("weights that are not constant")
    if not all(isinstance(d, int) for d in (*g.input, *g.output)):
        return No("symbolic image size")
    if any(isinstance(d, int) and d <= 0 for d in (g.batch, *g.input, *g.output)):
        return No("an empty image or result")
    if not in_vectors(g.x, 1, vector):
        return No(f"channels that are not innermost in multiples of {vector}")
    if any(int(size) * int(step) > _MOST_ELEMENTS for size, step in zip(g.input, g.x.strides[2:], strict=True)):
        return No("too large an image")
    axes = tuple(Axis(axis, size) for axis, size in ((0, g.batch), (2, g.output[0]), (3, g.output[1])))
    return Pixels(normal_conv(region), g, axes)


def in_vectors(tensor: TensorSpec, axis: int, vector: int) -> bool:
    """Whether so many elements along ``axis`` lie in one aligned piece everywhere."""
    others = [step for i, step in enumerate(tensor.strides) if i != axis and tensor.shape[i] != 1]
    whole = tensor.strides[axis] == 1 and divisible(tensor.shape[axis], vector)
    aligned = whole and tensor.align % (vector * itemsize(tensor.dtype)) == 0
    return aligned and all(divisible(step, vector) for step in others) and all(isinstance(s, int) for s in others[-2:])
