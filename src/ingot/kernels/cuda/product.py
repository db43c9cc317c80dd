"""What the generated kernels of products have in common: rows and columns of a result, and what may follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ingot.errors import YES, Answer, No
from ingot.graph.coarse import coarse
from ingot.graph.dims import Dim, mul
from ingot.graph.region import Region
from ingot.kernels.cuda.rows.text import CudaText, arithmetic_types, refusal, scalar_literals
from ingot.kernels.triton.indexing import Axis, merged
from ingot.kernels.triton.normal import Normal


class Product(Protocol):
    """What an epilogue asks of the product before it: rows of several axes of the result, columns of one."""

    @property
    def normal(self) -> Normal:
        """The Region in normal form."""
        ...

    @property
    def cols(self) -> int:
        """Columns."""
        ...

    @property
    def output(self) -> tuple[Dim, Dim]:
        """Height and width of a convolution's output."""
        ...

    @property
    def row_axes(self) -> tuple[Axis, ...]:
        """Axes of the result along the rows, slowest first."""
        ...

    @property
    def col_axis(self) -> int | None:
        """Axis of the result along the columns; None where there is one column and no such axis."""
        ...

    @property
    def batch_axes(self) -> tuple[Axis, ...]:
        """Axes of the result that number the products of a batch, slowest first."""
        ...


def check_epilogue(o: Product) -> Answer:
    """Whether every op after the product has a CUDA form, and every tensor lies where rows of columns can be read."""
    region, anchor = o.normal.region, o.normal.product
    shape = region.shape(anchor.outputs[0])
    literals = scalar_literals(region)
    if isinstance(literals, No):
        return literals
    refused = refusal(o.normal.epilogue, arithmetic_types(region), literals)
    if refused is not None:
        return refused
    made = {name for op in region.ops for name in op.outputs}
    for name in (n for op in o.normal.epilogue for n in op.inputs if n and n not in literals and n not in made):
        if not _broadcasts(region.shape(name), shape):
            return No(f"{name!r} of shape {region.shape(name)} does not broadcast to the output {shape}")
    for name in region.outputs:
        if name not in made or region.shape(name) != shape:
            return No(f"output {name!r} is not one of the product's own shape")
        if o.col_axis is not None and shape[o.col_axis] != 1 and region.spec_of[name].strides[o.col_axis] != 1:
            return No(f"output {name!r} whose channels are not innermost")
    return YES


def quick_math(region: Region) -> tuple[str, ...]:
    """For the compiler: arithmetic of a few units in the last place of a float32, where results are rounded to less.

    Results of 16-bit floats allow quick division; of float16 and of bytes also the quick exponential, and no
    denormals, which many of the instructions behind a product with SiLU go to. A byte that lies on a half may be
    either of its neighbours then. Long steps allow SiLU and GELU by one instruction for the hyperbolic tangent.
    """
    maker = region.producer
    kinds = {"bytes" if maker[n].op == "QuantizeLinear" else region.spec_of[n].dtype for n in region.outputs}
    if kinds <= {"bytes", "float16"}:
        quick = ("--prec-div=false", "--ftz=true", "-Dexpf=__expf")
        return (*quick, "-DINGOT_COARSE") if coarse(region) else quick
    return ("--prec-div=false",) if kinds <= {"bytes", "float16", "bfloat16"} else ()


def _broadcasts(shape: tuple[Dim, ...], to: tuple[Dim, ...]) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


def flat_offset(out: CudaText, index: str, dims: Sequence[tuple[Dim, Dim]]) -> str:
    """Code of the offset of a flattened index over ``dims`` = [(size, stride)], slowest first; empty for none.

    Neighbouring dimensions that one stride describes are merged.
    """
    terms: list[str] = []
    inner: Dim = 1
    for position, (size, stride) in reversed(list(enumerate(merged(dims)))):
        code = index if inner == 1 else f"{index} / {out.number(inner)}"
        if position > 0:
            code = f"{code} % {out.number(size)}"
        inner = mul(inner, size)
        if stride != 0:
            terms.append(f"(long long)({code}) * {out.number(stride, 8)}")
    return " + ".join(reversed(terms))
