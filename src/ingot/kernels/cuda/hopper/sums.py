"""SUM Regions: two pointwise convolutions that are added, as one product whose depth is both of theirs.

The end of a residual block whose other branch has a convolution of its own: the sum needs no memory of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingot.errors import No
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.cuda.hopper.operands import Operands, operands

_NOTHING = "@nothing"


@dataclass(frozen=True)
class Terms:
    """The ops of a SUM Region by what they are."""

    beside: BodyOp
    """The first convolution."""
    rest: tuple[BodyOp, ...]
    """The second one, and all that follows."""


def terms(region: Region) -> Terms | No:
    """Which convolution stands beside which, or why the Region is no such sum."""
    convolutions = [op for op in region.ops if op.op == "Conv"]
    if len(convolutions) != 2:
        return No(f"{len(convolutions)} convolutions instead of two")
    beside, main = convolutions
    readers = [op for op in region.ops if beside.outputs[0] in op.inputs]
    if len(readers) != 1 or readers[0].op != "Add" or beside.outputs[0] in region.outputs:
        return No("the first convolution's result is not only added")
    if set(readers[0].inputs) != {beside.outputs[0], main.outputs[0]}:
        return No("what is added are not the two convolutions' results")
    others = tuple(op for op in region.ops if op is not beside and op is not main)
    return Terms(beside, (main, *others))


def sum_operands(region: Region) -> Operands | No:
    """How to read both products of a SUM Region, or why the copy engine cannot.

    The second product's bias takes the place of its result in the epilogue.
    """
    found = terms(region)
    if isinstance(found, No):
        return found
    main, beside = operands(_main(region, found)), operands(_beside(region, found))
    for o in (main, beside):
        if isinstance(o, No):
            return o
        if o.filter.taps != (1, 1) or o.filter.pad != (0, 0) or o.filter.pad_end != (0, 0):
            return No("a window of more than one element, or padding")
        if not o.b.constant:
            return No("weights that are not constant")
    assert isinstance(main, Operands) and isinstance(beside, Operands)
    if beside.a.dtype != main.a.dtype or beside.cols != main.cols:
        return No("two products that differ in more than their depth")
    return replace(main, beside=beside)


def _main(region: Region, found: Terms) -> Region:
    result, specs, literals = found.beside.outputs[0], {}, region.literals
    bias = found.beside.inputs[2] if len(found.beside.inputs) > 2 else ""
    if bias:
        specs = {bias: _by_channel(region.spec_of[bias], region.spec_of[result].rank)}
    else:
        literals = (*literals, (_NOTHING, 0.0))
    ops = tuple(
        replace(op, inputs=tuple((bias or _NOTHING) if name == result else name for name in op.inputs))
        for op in found.rest
    )
    return replace(region.with_specs(specs), kind=Kind.CONV, ops=ops, literals=literals)


def _by_channel(bias: TensorSpec, rank: int) -> TensorSpec:
    ones = (1,) * (rank - 2)
    return replace(bias, shape=(*bias.shape, *ones), strides=(*bias.strides, *(0 for _ in ones)))


def _beside(region: Region, found: Terms) -> Region:
    op = replace(found.beside, inputs=found.beside.inputs[:2])
    return replace(region, kind=Kind.CONV, ops=(op,), outputs=op.outputs)
