"""Anchors in normal form: bias, alpha and beta become ordinary epilogue ops."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingot.graph.region import BodyOp, Literal, Region
from ingot.graph.tensor import TensorSpec

_RAW = "@product"
_SCALED = "@addend"
_BETA = "@beta"


@dataclass(frozen=True)
class Normal:
    """A Region whose first op is a bare product, then scalar ops only."""

    region: Region
    scale: float = 1.0
    """Factor of the product."""

    @property
    def product(self) -> BodyOp:
        """The anchor."""
        return self.region.ops[0]

    @property
    def epilogue(self) -> tuple[BodyOp, ...]:
        """The ops after it."""
        return self.region.ops[1:]


def normal_conv(region: Region) -> Normal:
    """Conv or ConvTranspose without its bias, which becomes an Add over channels."""
    anchor = region.ops[0]
    bias = anchor.inputs[2] if len(anchor.inputs) > 2 else ""
    if not bias:
        return Normal(region)
    old = region.spec_of[bias]
    spatial = region.spec_of[anchor.outputs[0]].rank - 2
    shaped = replace(old, shape=(*old.shape, *(1,) * spatial), strides=(*old.strides, *(0,) * spatial))
    return Normal(_split(region, anchor, anchor.inputs[:2], bias, {bias: shaped}))


def normal_gemm(region: Region) -> Normal:
    """MatMul or Gemm as a scaled product; beta * C becomes epilogue ops."""
    anchor = region.ops[0]
    if anchor.op != "Gemm":
        return Normal(region)
    alpha, beta = (float(anchor.attr(name, 1.0) or 0.0) for name in ("alpha", "beta"))  # type: ignore[arg-type]
    addend = anchor.inputs[2] if len(anchor.inputs) > 2 else ""
    if not addend or beta == 0.0:
        return Normal(replace(region, ops=(replace(anchor, inputs=anchor.inputs[:2]), *region.ops[1:])), alpha)
    return Normal(_split(region, anchor, anchor.inputs[:2], addend, {}, beta), alpha)


def _split(
    region: Region,
    anchor: BodyOp,
    inputs: tuple[str, ...],
    addend: str,
    specs: dict[str, TensorSpec],
    beta: float = 1.0,
) -> Region:
    result = anchor.outputs[0]
    ops = [replace(anchor, inputs=inputs, outputs=(_RAW,))]
    literals: tuple[tuple[str, Literal], ...] = region.literals
    values: tuple[tuple[str, TensorSpec], ...] = ((_RAW, region.spec_of[result]),)
    if beta != 1.0:
        ops.append(BodyOp("Mul", (addend, _BETA), (_SCALED,)))
        literals = (*literals, (_BETA, beta))
        values = (*values, (_SCALED, region.spec_of[addend]))
        addend = _SCALED
    ops.append(BodyOp("Add", (_RAW, addend), (result,)))
    changed = region.with_specs(specs)
    return replace(changed, ops=(*ops, *region.ops[1:]), values=(*changed.values, *values), literals=literals)
