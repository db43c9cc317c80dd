"""ONNX's DeformConv on the device (Dai et al., 2017; Zhu et al., 2019 with a mask), in CUDA C++.

Two ways: one thread for each element of the result, and samples gathered into columns with a matrix product behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ingot.graph.dims import Dim, ceildiv, mul
from ingot.plugins.api import (
    Argument,
    Array,
    Attribute,
    Attrs,
    AttrType,
    CudaLaunch,
    In,
    Kernels,
    Node,
    Number,
    Out,
    Plugin,
    Scratch,
    TensorInfo,
    Work,
)
from ingot.plugins.cuda import defines, storage_type

_SAMPLE = """
#define TAPS (KERNEL_H * KERNEL_W)

// The image at a place between pixels: bilinear, zero outside.
INGOT_INLINE float at(const TYPE* image, int y, int x, int h, int w) {
  return y >= 0 && y < h && x >= 0 && x < w ? (float)image[(long long)y * w + x] : 0.0f;
}
INGOT_INLINE float between(const TYPE* image, float y, float x, int h, int w) {
  if (!(y > -1.0f && y < (float)h && x > -1.0f && x < (float)w)) return 0.0f;
  float fy = floorf(y), fx = floorf(x);
  int y0 = (int)fy, x0 = (int)fx;
  float b = y - fy, r = x - fx;
  float top = at(image, y0, x0, h, w) * (1.0f - r) + at(image, y0, x0 + 1, h, w) * r;
  float bottom = at(image, y0 + 1, x0, h, w) * (1.0f - r) + at(image, y0 + 1, x0 + 1, h, w) * r;
  return top * (1.0f - b) + bottom * b;
}
// What tap k of channel c sees from position p of the result of image n.
INGOT_INLINE float sample(const TYPE* x, const TYPE* offset, const TYPE* mask, long long n, int c, int k, int p,
                          int h, int w, int oh, int ow) {
  int g = c / (CHANNELS / OFFSET_GROUPS), size = oh * ow;
  const TYPE* shift = offset + ((n * OFFSET_GROUPS + g) * 2 * TAPS + 2 * k) * size + p;
  float y = (float)(p / ow * STRIDE_H - PAD_H + k / KERNEL_W * DILATION_H) + (float)shift[0];
  float z = (float)(p % ow * STRIDE_W - PAD_W + k % KERNEL_W * DILATION_W) + (float)shift[size];
  float seen = between(x + (n * CHANNELS + c) * (long long)h * w, y, z, h, w);
  return mask ? seen * (float)mask[((n * OFFSET_GROUPS + g) * TAPS + k) * size + p] : seen;
}
"""
_DIRECT = """
#define EACH (CHANNELS / GROUP)
extern "C" __global__ void deform_direct(const TYPE* x, const TYPE* weight, const TYPE* offset, const TYPE* bias,
                                         const TYPE* mask, TYPE* out, long long count, int h, int w, int oh, int ow) {
  pdl_wait();
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int size = oh * ow, p = (int)(i % size), m = (int)(i / size % OUTPUTS);
  long long n = i / size / OUTPUTS;
  int first = m / (OUTPUTS / GROUP) * EACH;
  float sum = bias ? (float)bias[m] : 0.0f;
  for (int c = 0; c < EACH; ++c)
    for (int k = 0; k < TAPS; ++k)
      sum += (float)weight[((long long)m * EACH + c) * TAPS + k]
             * sample(x, offset, mask, n, first + c, k, p, h, w, oh, ow);
  out[i] = (TYPE)sum;
}
"""
_COLUMNS = """
extern "C" __global__ void deform_columns(const TYPE* x, const TYPE* offset, const TYPE* mask, float* columns,
                                          long long count, int h, int w, int oh, int ow) {
  pdl_wait();
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int size = oh * ow, p = (int)(i % size), k = (int)(i / size % TAPS), c = (int)(i / size / TAPS % CHANNELS);
  columns[i] = sample(x, offset, mask, i / size / TAPS / CHANNELS, c, k, p, h, w, oh, ow);
}
"""
_PRODUCT = """
#define ROWS (OUTPUTS / GROUP)
#define DEPTH (CHANNELS / GROUP * KERNEL_H * KERNEL_W)
#define TILE 64
#define STEP 16

// 64 rows of weights times 64 columns: 256 threads, each with 4 by 4 results.
extern "C" __global__ void deform_product(const TYPE* weight, const float* columns, const TYPE* bias, TYPE* out,
                                          int size) {
  __shared__ float a[STEP][TILE + 4];
  __shared__ float b[STEP][TILE + 4];
  int t = threadIdx.x, row = t / 16 * 4, column = t % 16 * 4;
  int m0 = blockIdx.y * TILE, p0 = blockIdx.x * TILE, g = blockIdx.z % GROUP;
  const TYPE* w = weight + (long long)g * ROWS * DEPTH;
  const float* s = columns + (long long)blockIdx.z * DEPTH * size;
  float sum[4][4] = {};
  pdl_wait();
  for (int r0 = 0; r0 < DEPTH; r0 += STEP) {
    for (int e = t; e < STEP * TILE; e += 256) {
      int r = r0 + e % STEP, m = m0 + e / STEP;
      a[e % STEP][e / STEP] = r < DEPTH && m < ROWS ? (float)w[(long long)m * DEPTH + r] : 0.0f;
    }
    for (int e = t; e < STEP * TILE; e += 256) {
      int r = r0 + e / TILE, p = p0 + e % TILE;
      b[e / TILE][e % TILE] = r < DEPTH && p < size ? s[(long long)r * size + p] : 0.0f;
    }
    __syncthreads();
    for (int r = 0; r < STEP; ++r)
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sum[i][j] += a[r][row + i] * b[r][column + j];
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      int m = m0 + row + i, p = p0 + column + j;
      if (m >= ROWS || p >= size) continue;
      float start = bias ? (float)bias[g * ROWS + m] : 0.0f;
      out[((long long)blockIdx.z * ROWS + m) * size + p] = (TYPE)(sum[i][j] + start);
    }
}
"""


def _shapes(node: Node) -> Sequence[TensorInfo]:
    """Channels from the weights, height and width from the offsets."""
    x, weight, offset = node.input(0), node.input(1), node.input(2)
    return [TensorInfo(x.dtype, (x.shape[0], weight.shape[0], *offset.shape[2:]))]


def _pair(attrs: Attrs, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute that is a list, or what an empty one means."""
    value = attrs[name]
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value) or default


def _reference(attrs: Attrs, inputs: Sequence[Array | None]) -> Sequence[Array]:
    """Samples into columns, one tap at a time, then a product for each group."""
    x, weight, offset, bias, mask = (*inputs, None, None)[:5]
    assert x is not None and weight is not None and offset is not None
    (batch, channels, h, w), (outputs, each, kh, kw) = x.shape, weight.shape
    oh, ow = offset.shape[2:]
    groups, split = int(attrs["group"]), int(attrs["offset_group"])  # type: ignore[arg-type]
    strides, dilations = _pair(attrs, "strides", (1, 1)), _pair(attrs, "dilations", (1, 1))
    pads = _pair(attrs, "pads", (0, 0, 0, 0))
    shifts = offset.reshape(batch, split, kh * kw, 2, oh, ow)
    masks = None if mask is None else mask.reshape(batch, split, kh * kw, oh, ow)
    columns = np.empty((batch, split, channels // split, kh * kw, oh, ow), x.dtype)
    images = x.reshape(batch, split, channels // split, h, w)
    for k in range(kh * kw):
        rows = np.arange(oh)[:, None] * strides[0] - pads[0] + k // kw * dilations[0] + shifts[:, :, k, 0]
        cols = np.arange(ow)[None] * strides[1] - pads[1] + k % kw * dilations[1] + shifts[:, :, k, 1]
        seen = _bilinear(images, rows, cols)
        columns[:, :, :, k] = seen if masks is None else seen * masks[:, :, None, k]
    matrix = columns.reshape(batch, groups, channels // groups * kh * kw, oh * ow)
    weights = weight.reshape(groups, outputs // groups, each * kh * kw)
    made = np.einsum("gmr,bgrp->bgmp", weights, matrix, optimize=True).reshape(batch, outputs, oh, ow)
    return [made if bias is None else made + bias[:, None, None]]


def _bilinear(images: Array, rows: Array, cols: Array) -> Array:
    """``images`` [batch, split, channels, h, w] at ``rows`` and ``cols`` [batch, split, oh, ow]; zero outside."""
    h, w = images.shape[-2:]
    top, left = np.floor(rows), np.floor(cols)
    total = np.zeros((*images.shape[:3], *rows.shape[2:]), images.dtype)
    batch, split = np.indices(rows.shape[:2])
    for down in (0, 1):
        for right in (0, 1):
            y, z = top + down, left + right
            share = (1 - np.abs(rows - y)) * (1 - np.abs(cols - z))
            inside = (y >= 0) & (y < h) & (z >= 0) & (z < w)
            at = (np.clip(y, 0, h - 1).astype(np.int64), np.clip(z, 0, w - 1).astype(np.int64))
            pixel = images[batch[..., None, None], split[..., None, None], :, at[0], at[1]]
            total += np.moveaxis(pixel, -1, 2) * (share * inside)[:, :, None]
    return total


def _accepts(node: Node) -> str:
    """Sizes of the weights must be known, and the image two-dimensional."""
    weight, x = node.input(1), node.input(0)
    if len(x.shape) != 4:
        return f"an image of {len(x.shape) - 2} dimensions"
    if not all(isinstance(d, int) for d in (*weight.shape, x.shape[1])):
        return "the number of channels or the size of the kernel is not known when building"
    return ""


def _header(node: Node) -> str:
    """What the sources leave open."""
    x, weight = node.input(0), node.input(1)
    strides, dilations = _pair(node.attrs, "strides", (1, 1)), _pair(node.attrs, "dilations", (1, 1))
    pads = _pair(node.attrs, "pads", (0, 0, 0, 0))
    return defines({
        "TYPE": storage_type(x.dtype), "CHANNELS": x.shape[1], "OUTPUTS": weight.shape[0], "KERNEL_H": weight.shape[2],
        "KERNEL_W": weight.shape[3], "GROUP": node.integer("group"), "OFFSET_GROUPS": node.integer("offset_group"),
        "STRIDE_H": strides[0], "STRIDE_W": strides[1], "DILATION_H": dilations[0], "DILATION_W": dilations[1],
        "PAD_H": pads[0], "PAD_W": pads[1],
    })  # fmt: skip


def _sizes(node: Node) -> tuple[Argument, ...]:
    x, out = node.input(0), node.output(0)
    return tuple(Number(d, 4) for d in (*x.shape[2:], *out.shape[2:]))


def _direct(node: Node, tactic: Mapping[str, int]) -> Work:
    """One thread for each element of the result."""
    block, count = tactic["block"], mul(*node.output(0).shape)
    arguments = (In(0), In(1), In(2), In(3), In(4), Out(0), Number(count), *_sizes(node))
    source = _header(node) + _SAMPLE + _DIRECT
    return Work((CudaLaunch(source, "deform_direct", arguments, (ceildiv(count, block), 1, 1), block, waits=True),))


def _columns(node: Node, tactic: Mapping[str, int]) -> Work:
    """All samples first, then a product for each image and group."""
    x, weight, out = node.input(0), node.input(1), node.output(0)
    block, size = tactic["block"], mul(*out.shape[2:])
    rows, depth = weight.shape[0], mul(*weight.shape[2:], x.shape[1])
    assert isinstance(rows, int)
    count = mul(x.shape[0], depth, size)
    groups = node.integer("group")
    source, read = _header(node) + _SAMPLE + _COLUMNS, (In(0), In(2), In(4), Scratch(0), Number(count), *_sizes(node))
    gather = CudaLaunch(source, "deform_columns", read, (ceildiv(count, block), 1, 1), block, waits=True)
    grid: tuple[Dim, Dim, Dim] = (ceildiv(size, 64), ceildiv(rows // groups, 64), mul(x.shape[0], groups))
    arguments = (In(1), Scratch(0), In(3), Out(0), Number(size, 4))
    product = CudaLaunch(_header(node) + _PRODUCT, "deform_product", arguments, grid, 256, waits=True)
    return Work((gather, product), (mul(4, count),))


DEFORM_CONV = Plugin(
    domain="",
    name="DeformConv",
    version="1",
    shapes=_shapes,
    reference=_reference,
    implementations=(
        Kernels("columns", _columns, ({"block": 256}, {"block": 128}), _accepts),
        Kernels("direct", _direct, ({"block": 128}, {"block": 256}), _accepts),
    ),
    attributes={
        "dilations": Attribute(AttrType.INTS, ()),
        "group": Attribute(AttrType.INT, 1),
        "kernel_shape": Attribute(AttrType.INTS, ()),
        "offset_group": Attribute(AttrType.INT, 1),
        "pads": Attribute(AttrType.INTS, ()),
        "strides": Attribute(AttrType.INTS, ()),
    },
    inputs=(3, 5),
    dtypes=frozenset({"float32", "float16"}),
)
