"""Convolutions of bytes over few channels, for the kernel that keeps their image in shared memory."""

from __future__ import annotations

from dataclasses import replace

from support.quantized import quantized_conv

from ingot.graph.region import BodyOp, Region

PADS = (1, 1, 1, 1)


def with_silu(region: Region) -> Region:
    """The Relu as a SiLU."""
    ops: list[BodyOp] = []
    for op in region.ops:
        if op.op == "Relu":
            ops += [BodyOp("Sigmoid", op.inputs, ("gate",)), BodyOp("Mul", (op.inputs[0], "gate"), op.outputs)]
        else:
            ops.append(op)
    relu = next(op for op in region.ops if op.op == "Relu")
    values = (*region.values, ("gate", region.spec_of[relu.outputs[0]]))
    return replace(region, ops=tuple(ops), values=values)


CASES: dict[str, Region] = {
    "signed": quantized_conv((2, 16, 9, 21), (16, 16, 3, 3), pads=PADS),
    "unsigned": quantized_conv((1, 16, 7, 35), (32, 16, 3, 3), pads=PADS, x_type="uint8", out="uint8", zero=9),
    "stride 2": quantized_conv((2, 16, 11, 40), (32, 16, 3, 3), pads=PADS, strides=(2, 2), bias=True),
    "stride 2 along the height": quantized_conv((1, 16, 9, 18), (16, 16, 3, 3), pads=(0, 1, 1, 1), strides=(2, 1)),
    "32 channels": quantized_conv((1, 32, 6, 33), (32, 32, 3, 3), pads=PADS, offset=None),
    "32 channels, stride 2": quantized_conv((1, 32, 9, 34), (16, 32, 3, 3), pads=PADS, strides=(2, 2)),
    "64 outputs": quantized_conv((1, 16, 5, 18), (64, 16, 3, 3), pads=PADS, out="float16"),
    "64 channels": quantized_conv((1, 64, 5, 18), (16, 64, 3, 3), pads=PADS, out="float32"),
    "64 channels, stride 2": quantized_conv((1, 64, 7, 35), (16, 64, 2, 2), strides=(2, 2)),
    "residual": with_silu(quantized_conv((2, 16, 6, 17), (16, 16, 3, 3), pads=PADS, residual=True)),
    "halves of the outputs": quantized_conv((1, 32, 9, 34), (64, 32, 3, 3), pads=PADS, strides=(2, 2), bias=True),
    "halves with SiLU": with_silu(quantized_conv((2, 64, 4, 17), (32, 64, 3, 3), pads=PADS, residual=True)),
    "one row of taps": quantized_conv((1, 32, 5, 19), (16, 32, 1, 5), pads=(0, 2, 0, 2)),
    "offset of pixels": quantized_conv((1, 16, 5, 17), (16, 16, 3, 3), pads=PADS, x_type="uint8", offset=(5, 17)),
}
