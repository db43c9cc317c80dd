"""SUM Regions: two pointwise convolutions that are added, as one product whose depth is both of theirs.

The end of a residual block whose other branch has a convolution of its own: the sum needs no memory of its own.

Of integers each product has scales of its own, one for each channel of the result:

    a sa + b sb  =  (a sa / sb + b) sb

so each product has sums of its own in registers, and when they are finished those of one are brought to the scales of
the other, rounded to whole numbers, and added. A whole number is some ten-thousandth of a step of a quantized result.
That no sum leaves int32 is for the pass to see to that made the Region (:mod:`ingot.passes.quantized_sums`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingot.errors import No
from ingot.graph.dims import Shape
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.cuda.hopper.operands import Operands, operands
from ingot.kernels.cuda.hopper.tile import DEALT

_PRODUCTS = ("Conv", "ConvInteger")
_NOTHING = "@nothing"


@dataclass(frozen=True)
class Terms:
    """The ops of a SUM Region by what they are."""

    beside: BodyOp
    """The first convolution."""
    rest: tuple[BodyOp, ...]
    """The second one, and all that follows."""
    finished: tuple[BodyOp, ...] = ()
    """What makes numbers of the first one's integers: Cast, Mul by its scales, and Add of a bias if there is one."""

    @property
    def result(self) -> str:
        """What the first one adds."""
        return (self.beside, *self.finished)[-1].outputs[0]


def terms(region: Region) -> Terms | No:
    """Which convolution stands beside which, or why the Region is no such sum."""
    convolutions = [op for op in region.ops if op.op in _PRODUCTS]
    if len(convolutions) != 2 or convolutions[0].op != convolutions[1].op:
        return No(f"{len(convolutions)} convolutions instead of two")
    beside, main = convolutions
    chains = [_finished(region, op) if op.op == "ConvInteger" else () for op in convolutions]
    finished, others = chains
    if isinstance(finished, No) or isinstance(others, No):
        return No("integers that are not scaled by one factor for each channel and added")
    made = (beside, *finished)[-1].outputs[0]
    ends = {made, (main, *others)[-1].outputs[0]}
    readers = [op for op in region.ops if made in op.inputs]
    if len(readers) != 1 or readers[0].op != "Add" or made in region.outputs:
        return No("the first convolution's result is not only added")
    if set(readers[0].inputs) != ends:
        return No("what is added are not the two convolutions' results")
    gone = (beside, main, *finished)
    rest = tuple(op for op in region.ops if not any(op is other for other in gone))
    return Terms(beside, (main, *rest), finished)


def _finished(region: Region, product: BodyOp) -> tuple[BodyOp, ...] | No:
    """Cast, Mul by scales and perhaps Add of a bias, of constants by channel, behind a product of integers."""
    found: list[BodyOp] = []
    result = region.spec_of[product.outputs[0]]
    shape = (result.shape[1], *(1,) * (result.rank - 2))
    for wanted in ("Cast", "Mul", "Add"):
        made = (product, *found)[-1].outputs[0]
        readers = [op for op in region.ops if made in op.inputs]
        following = readers[0] if len(readers) == 1 and made not in region.outputs else product
        others = [region.spec_of[name] for name in following.inputs if name != made and name in region.inputs]
        count = 0 if wanted == "Cast" else 1
        if following.op != wanted or len(others) != count or not all(_constant(value, shape) for value in others):
            break
        found.append(following)
    return tuple(found) if len(found) > 1 else No("integers that are not scaled")


def _constant(value: TensorSpec, shape: Shape) -> bool:
    return value.constant and value.dtype == "float32" and value.shape == shape


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
    if (beside.a.dtype, beside.b.dtype, beside.cols) != (main.a.dtype, main.b.dtype, main.cols):
        return No("two products that differ in more than their depth")
    if not main.whole:
        return replace(main, beside=beside)
    if main.cols % DEALT:
        return No(f"sums of integers in columns that are no multiple of {DEALT}")
    scales = _scale(region, found.rest), _scale(region, (found.beside, *found.finished))
    return replace(main, beside=beside, scales=scales)


def _scale(region: Region, ops: tuple[BodyOp, ...]) -> str:
    """The scales of the product that is the first of ``ops``."""
    (cast,) = (op for op in ops if ops[0].outputs[0] in op.inputs)
    (scaled,) = (op for op in ops if cast.outputs[0] in op.inputs)
    return next(name for name in scaled.inputs if name in region.inputs)


def _main(region: Region, found: Terms) -> Region:
    result, specs, literals = found.result, {}, region.literals
    bias, names = _bias(region, found), dict[str, str]()
    if bias and not found.finished:
        specs = {bias: _by_channel(region.spec_of[bias], region.spec_of[result].rank)}
    if not bias:
        literals = (*literals, (_NOTHING, 0.0))
    if found.finished:  # the first product's scales hold for both
        names = {_scale(region, found.rest): _scale(region, (found.beside, *found.finished))}
    names |= {result: bias or _NOTHING}
    ops = tuple(replace(op, inputs=tuple(names.get(name, name) for name in op.inputs)) for op in found.rest)
    return replace(region.with_specs(specs), kind=Kind.CONV, ops=ops, literals=literals)


def _bias(region: Region, found: Terms) -> str:
    if not found.finished:
        return found.beside.inputs[2] if len(found.beside.inputs) > 2 else ""
    last = found.finished[-1]
    return next((name for name in last.inputs if name in region.inputs), "") if last.op == "Add" else ""


def _by_channel(bias: TensorSpec, rank: int) -> TensorSpec:
    ones = (1,) * (rank - 2)
    return replace(bias, shape=(*bias.shape, *ones), strides=(*bias.strides, *(0 for _ in ones)))


def _beside(region: Region, found: Terms) -> Region:
    op = replace(found.beside, inputs=found.beside.inputs[:2])
    return replace(region, kind=Kind.CONV, ops=(op,), outputs=op.outputs)
