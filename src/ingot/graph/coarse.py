"""Where the bytes that a Region gives leave room for quick forms of SiLU and GELU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingot.graph.region import BodyOp, Region

ERROR = 2.2e-3
"""Largest error of x sigmoid(x), and of GELU, by ``tanh.approx`` for x below 9: half of 2^-11, times 9. Beyond, it is
the same share of the result, a sixteenth of a step where that is the largest byte."""
ROOM = 0.1
"""Of a step: how far a number may be from the middle between two bytes to become either."""
_SMOOTH = ("Swish", "Gelu", "Sigmoid")


def smooth(region: Region) -> bool:
    """Whether a Region holds an op of which there is a quick form."""
    return any(op.op in _SMOOTH for op in region.ops)


def coarse(region: Region) -> bool:
    """Whether all that SiLUs and GELUs of a Region make is rounded to steps of at least ten times their error.

    They have to reach the quantization as they are, or through additions. Only scales that are known numbers count.
    """
    if not smooth(region) or not region.outputs:
        return False
    makers = [region.producer.get(name) for name in region.outputs]
    if not all(maker is not None and _wide_steps(maker, region) for maker in makers):
        return False
    return all(_rounded(op, region) for op in region.ops if op.op in _SMOOTH)


def _wide_steps(op: BodyOp, region: Region) -> bool:
    """Whether ``op`` quantizes to bytes of steps that are long enough."""
    if op.op != "QuantizeLinear" or region.spec_of[op.outputs[0]].dtype not in ("int8", "uint8"):
        return False
    scale = region.literal(op.inputs[1])
    return isinstance(scale, int | float) and ROOM * float(scale) >= ERROR


def _rounded(op: BodyOp, region: Region) -> bool:
    """Whether ``op`` is a SiLU or GELU, or the gate of one, and only rounded numbers come of it."""
    if op.op == "Sigmoid":
        gated = [reader for reader in region.ops if op.outputs[0] in reader.inputs]
        silu = all(r.op == "Mul" and set(r.inputs) == {op.inputs[0], op.outputs[0]} for r in gated)
        made = [reader.outputs[0] for reader in gated]
    else:
        silu, made = op.op == "Gelu" or op.attr("alpha", 1.0) == 1.0, [op.outputs[0]]
    return silu and op.outputs[0] not in region.outputs and bool(made) and all(_only_rounded(n, region) for n in made)


def _only_rounded(name: str, region: Region) -> bool:
    """Whether all readers of a value quantize it to long steps, or add something to it that is quantized then."""
    readers = [op for op in region.ops if name in op.inputs]
    if name in region.outputs or not readers:
        return False
    return all(_wide_steps(op, region) or (op.op == "Add" and _only_rounded(op.outputs[0], region)) for op in readers)
