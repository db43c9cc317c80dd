"""Convolutions as implicit products: Conv and ConvTranspose of any geometry, with generated epilogues."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ingot.errors import Answer, No
from ingot.graph.dims import Bindings, evaluate, mul
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Program, Target, Variant
from ingot.kernels.cost import ProductShape, product_seconds, without_tensor_cores
from ingot.kernels.triton import product
from ingot.kernels.triton.builder import KernelBuilder
from ingot.kernels.triton.conv_operands import ConvOperands, FlatConvOperands
from ingot.kernels.triton.epilogue import check_epilogue
from ingot.kernels.triton.gemm import check_operands, product_refusal, target_refusal
from ingot.kernels.triton.geometry import Geometry, geometry
from ingot.kernels.triton.normal import normal_conv
from ingot.kernels.triton.space import shortlist
from ingot.kernels.triton.tile import Tile

_FEW_CHANNELS = 16
MAX_DEPTHWISE_TAPS = 256
_INT32 = 2**31 - 1


def accepts_conv(region: Region, target: Target) -> Answer:
    """What every convolution tactic asks: types, a static kernel, an epilogue with a Triton form."""
    refused = target_refusal(region, target)
    if refused is not None:
        return refused
    if region.ops[0] is not region.anchor:
        return No("something precedes the convolution in its Region")
    operands = check_operands(region)
    if not operands:
        return operands
    g = geometry(region)
    if isinstance(g, No):
        return g
    for spec in (region.spec_of[region.ops[0].inputs[0]], region.spec_of[region.ops[0].outputs[0]]):
        image = mul(*spec.shape[1:])
        if isinstance(image, int) and image > _INT32:
            return No(f"one image of more than {_INT32} elements")
        if isinstance(spec.elements, int) and spec.elements // int(spec.shape[1]) > _INT32:
            return No(f"more than {_INT32} pixels")
    bias = region.ops[0].inputs[2:3]
    if bias and bias[0] and any(bias[0] in op.inputs for op in region.ops[1:]):
        return No("the bias is read again by the epilogue")
    return check_epilogue(normal_conv(region).region, 2)


def flat_depth(g: Geometry) -> bool:
    """Whether the depth runs over taps and channels together, because channels are few."""
    return not g.transposed and g.in_channels < _FEW_CHANNELS and g.taps > 1


def conv_shape(region: Region, g: Geometry, bindings: Bindings) -> ProductShape:
    """Sizes of the product for the cost model."""
    size = itemsize(g.x.dtype)
    pixels = math.prod(evaluate(d, bindings) for d in g.output) * evaluate(g.batch, bindings)
    phases = math.prod(g.stride) if g.transposed else 1
    flat = flat_depth(g)
    taps = g.taps if not g.transposed else max(1, round(g.taps / phases))
    depth = taps * g.in_channels
    op = region.ops[0]
    extra = sum(
        evaluate(spec.elements, bindings) * itemsize(spec.dtype)
        for name, spec in ((v, region.spec_of[v]) for v in (*region.inputs, *region.outputs))
        if name not in op.inputs[:2]
    )
    return ProductShape(
        rows=-(-pixels // phases),
        cols=g.out_channels,
        depth=depth,
        batch=g.groups * phases,
        itemsize=size,
        a_bytes=evaluate(g.x.elements, bindings) * size,
        extra_bytes=extra,
        chunk=depth if flat else g.in_channels,
        gather=flat or g.x.strides[1] != 1,
        splittable=ConvOperands(region, Tile(16, 16, 16, 4, 2)).uniform,
    )


class ConvTactic:
    """Triton implicit GEMM with split-K and a generated epilogue."""

    name = "triton.conv"
    kinds = frozenset({Kind.CONV})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Any geometry that the depthwise tactic does not take."""
        answer = accepts_conv(region, target)
        if not answer:
            return answer
        refused = product_refusal(region, target)
        if refused is not None:
            return refused
        g = geometry(region)
        if isinstance(g, Geometry) and g.depthwise and g.out_channels == 1 and g.taps <= MAX_DEPTHWISE_TAPS:
            return No("a depthwise convolution has a kernel of its own")
        return answer

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tiles by predicted time."""
        region = normal_conv(region).region
        g = geometry(region)
        assert isinstance(g, Geometry)
        return [
            tile.variant(self.name) for tile in shortlist(conv_shape(region, g, bindings), without_tensor_cores(target))
        ]

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of one tile."""
        k, operands, tile = self.generate(region, variant, target)
        return product.program(k, tile, operands)

    def generate(self, region: Region, variant: Variant, target: Target) -> tuple[KernelBuilder, ConvOperands, Tile]:
        """Source of one tile."""
        normal = normal_conv(region)
        tile = Tile.of(variant)
        g = geometry(normal.region)
        assert isinstance(g, Geometry)
        operands = (FlatConvOperands if flat_depth(g) else ConvOperands)(normal.region, tile)
        result = normal.product.outputs[0]
        return product.generate(normal.region, target, tile, operands, normal.epilogue, result), operands, tile

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds."""
        region = normal_conv(region).region
        g = geometry(region)
        assert isinstance(g, Geometry)
        return product_seconds(conv_shape(region, g, bindings), Tile.of(variant), without_tensor_cores(target))
