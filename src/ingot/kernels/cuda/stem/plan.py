"""A first convolution taken apart: scalar ops before it, its geometry, its epilogue, the pooling, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ingot.errors import No
from ingot.graph.dims import Dim
from ingot.graph.region import BodyOp, Kind, Region, Scalar
from ingot.graph.scalar_ops import is_scalar_op
from ingot.graph.tensor import TensorSpec
from ingot.kernels.cuda.rows.text import arithmetic_types, refusal, scalar_literals
from ingot.kernels.cuda.window import windows_of
from ingot.kernels.triton.geometry import Geometry, geometry

MOST_CHANNELS = 4
MOST_OUTPUTS = 128
MOST_TAPS = 7
_MOST_STRIDE = 4
_TYPES = ("float16", "bfloat16")
_RESULTS = (*_TYPES, "float32", "int8", "uint8", "float8_e4m3fn")
_INDEX_LIMIT = 1 << 30
"""Elements of one image above which offsets within it would not fit an int."""


@dataclass(frozen=True)
class Pooling:
    """MaxPool of ``window`` x ``window`` with stride 2 over the convolution's result."""

    window: int
    top: int
    left: int


@dataclass(frozen=True)
class StemPlan:
    """What a stem kernel must compute."""

    region: Region
    conv: BodyOp
    before: tuple[BodyOp, ...]
    """Scalar ops over the image."""
    middle: tuple[BodyOp, ...]
    """Scalar ops over the convolution's result."""
    late: tuple[BodyOp, ...]
    """Scalar ops before the pooling that may as well be done behind it: they keep the order of numbers."""
    after: tuple[BodyOp, ...]
    """Scalar ops over the pooling's result."""
    image: str
    """The one input with the image's shape."""
    constants: tuple[str, ...]
    """Inputs with one value for each of the image's channels, or one for all."""
    columns: tuple[str, ...]
    """Inputs with one value for each output channel, or one for all; the bias among them."""
    bias: str
    """"" when the convolution has none."""
    pool: Pooling | None
    channels: int
    outputs: int
    size: tuple[int, int]
    """Height and width of the image."""
    conv_size: tuple[int, int]
    """Height and width of the convolution's result."""
    result_size: tuple[int, int]
    """Height and width of the Region's result."""
    batch: Dim
    taps: tuple[int, int]
    stride: tuple[int, int]
    dilation: int
    """Between the rows of a window."""
    top: int
    left: int
    dtype: str
    """Of the operands: float16 or bfloat16."""
    kinds: dict[str, str] = field(compare=False)
    """Arithmetic type by value."""
    literals: dict[str, Scalar] = field(compare=False)

    @property
    def pooled(self) -> str:
        """The value that is pooled, or without a pooling the Region's result."""
        if self.pool is None:
            return self.region.outputs[0]
        return self.late[0].inputs[0] if self.late else self.pooling.inputs[0]

    @property
    def pooling(self) -> BodyOp:
        """The MaxPool; only where there is one."""
        return next(op for op in self.region.ops if op.op == "MaxPool")

    @property
    def result(self) -> TensorSpec:
        """Spec of the Region's output."""
        return self.region.output_specs[0]


@lru_cache(maxsize=256)
def plan_stem(region: Region) -> StemPlan | No:
    """The Region as a stem, or why it is not one."""
    convs = [op for op in region.ops if op.op == "Conv"]
    pools = [op for op in region.ops if op.op == "MaxPool"]
    if region.kind is not Kind.STEM or len(convs) != 1 or len(pools) > 1:
        return No("not one convolution and at most one pooling")
    conv = convs[0]
    others = [op for op in region.ops if op is not conv and op not in pools]
    scalar = all(is_scalar_op(op.op) and op.domain in ("", "ai.onnx") and len(op.outputs) == 1 for op in others)
    if not scalar or len(region.outputs) != 1:
        return No("more than scalar ops around the convolution, or several outputs")
    if any(name in region.inputs and not region.spec_of[name].constant for name in conv.inputs[1:] if name):
        return No("weights that are not constant")
    g = geometry(replace(region, ops=(conv,)))
    if isinstance(g, No):
        return g
    unfit = _unfit(region, g)
    if unfit is not None:
        return unfit
    pool = _pooling(pools, region, g.x.dtype) if pools else None
    return pool if isinstance(pool, No) else _planned(region, conv, g, pool, pools)


def _unfit(region: Region, g: Geometry) -> No | None:
    """What a stem kernel cannot do of a convolution."""
    y = region.output_specs[0]
    if g.groups != 1 or len(g.kernel) != 2 or g.transposed:
        return No("a grouped, transposed, one- or three-dimensional convolution")
    if g.in_channels > MOST_CHANNELS or g.out_channels > MOST_OUTPUTS:
        return No(f"more than {MOST_CHANNELS} input or {MOST_OUTPUTS} output channels")
    if max(g.kernel) > MOST_TAPS or max(g.stride) > _MOST_STRIDE or g.dilation[1] != 1:
        return No("a window above 7 x 7, a stride above 4, or dilation along the width")
    if g.x.dtype not in _TYPES or g.w.dtype != g.x.dtype or y.dtype not in _RESULTS:
        return No(f"a convolution of {g.x.dtype} into {y.dtype}")
    if not all(isinstance(d, int) for d in (*g.input, *g.output, *y.shape[1:])):
        return No("symbolic image size")
    if y.rank != 4 or y.strides[1] != 1:
        return No("a result whose channels are not innermost")
    if not all(isinstance(s, int) for s in (*g.w.strides, *y.strides[2:])):
        return No("symbolic strides")
    if any(size * step > _INDEX_LIMIT for size, step in zip(y.shape[2:], y.strides[2:], strict=True)):  # type: ignore[operator]
        return No("too large an image")
    return None


def _pooling(pools: Sequence[BodyOp], region: Region, dtype: str) -> Pooling | No:
    """The MaxPool's geometry, or why it cannot be taken along."""
    op = pools[0]
    source, result = region.spec_of[op.inputs[0]], region.spec_of[op.outputs[0]]
    windows = windows_of(op, source.shape[2:], result.shape[2:])
    if [(w.kernel, w.stride, w.dilation) for w in windows] not in ([(2, 2, 1)] * 2, [(3, 2, 1)] * 2):
        return No("a pooling other than 2 x 2 or 3 x 3 with stride 2")
    if len(op.outputs) > 1 and op.outputs[1]:
        return No("a pooling with indices")
    if source.dtype != dtype:
        return No(f"a pooling of {source.dtype} behind a convolution of {dtype}")
    kernel, (top, left) = windows[0].kernel, _pair([w.head for w in windows])
    if max(top, left) >= kernel:
        return No("a pooling with more padding than its window")
    return Pooling(kernel, top, left)


def _planned(region: Region, conv: BodyOp, g: Geometry, pool: Pooling | None, pools: list[BodyOp]) -> StemPlan | No:
    before = _makers(region, conv.inputs[0])
    middle = _makers(region, pools[0].inputs[0]) if pools else region.ops
    middle = tuple(op for op in middle if op is not conv and op not in before and op not in pools)
    after = tuple(op for op in region.ops if op not in (conv, *pools, *before, *middle))
    literals = scalar_literals(region)
    if isinstance(literals, No):
        return literals
    kinds = arithmetic_types(region)
    unwritten = refusal([*before, *middle, *after], kinds, literals)
    if unwritten is not None:
        return unwritten
    bytewise = _only_bytes(region)
    if any(kinds[op.outputs[0]] != "float32" and op.outputs[0] not in bytewise for op in (*before, *middle, *after)):
        return No("arithmetic in another type than float32")
    split = _split_inputs(region, conv, before, middle, after, literals)
    if isinstance(split, No):
        return split
    image, constants, columns, bias = split
    late = _postponed(middle, literals) if pools else ()
    middle = middle[: len(middle) - len(late)]
    y, x = region.output_specs[0].shape, region.spec_of[image]
    if not all(isinstance(s, int) for s in x.strides[1:]):
        return No("symbolic strides of the image")
    if sum(int(size) * int(step) for size, step in zip(x.shape[1:], x.strides[1:], strict=True)) > _INDEX_LIMIT:
        return No("too large an image")
    return StemPlan(
        region, conv, before, middle, late, after, image, constants, columns, bias, pool, g.in_channels, g.out_channels,
        _pair(g.input), _pair(g.output), _pair(y[2:]), g.batch, _pair(g.kernel), _pair(g.stride), g.dilation[0],
        g.pad[0], g.pad[1], g.x.dtype, kinds, literals,
    )  # fmt: skip


def _only_bytes(region: Region) -> set[str]:
    """Quantized values with which nothing is computed: they are stored, or dequantized again."""
    made = {op.outputs[0] for op in region.ops if op.op == "QuantizeLinear"}
    return made - {name for op in region.ops if op.op != "DequantizeLinear" for name in op.inputs}


def _postponed(ops: Sequence[BodyOp], literals: dict[str, Scalar]) -> tuple[BodyOp, ...]:
    """The last of ``ops`` that keep the order of numbers and round nothing: the maximum may be taken before them."""
    found: list[BodyOp] = []
    for op in reversed(ops):
        bounds = [name for name in op.inputs[1:] if name]
        ordered = op.op == "Relu" or (op.op == "Clip" and all(name in literals for name in bounds))
        if not ordered or (found and found[0].inputs[0] != op.outputs[0]):
            break
        found.insert(0, op)
    return tuple(found)


def _pair(sizes: Sequence[Dim]) -> tuple[int, int]:
    return int(sizes[0]), int(sizes[1])


def _makers(region: Region, name: str) -> tuple[BodyOp, ...]:
    """The ops that ``name`` is made by, in order."""
    needed, found = {name}, []
    for op in reversed(region.ops):
        if needed & set(op.outputs):
            found.append(op)
            needed.update(op.inputs)
    return tuple(reversed(found))


def _split_inputs(
    region: Region,
    conv: BodyOp,
    before: Sequence[BodyOp],
    middle: Sequence[BodyOp],
    after: Sequence[BodyOp],
    literals: dict[str, Scalar],
) -> tuple[str, tuple[str, ...], tuple[str, ...], str] | No:
    """The image, constants of its channels, constants of the output channels, and the bias."""
    shape = region.spec_of[conv.inputs[0]].shape
    read = dict.fromkeys(n for op in before for n in op.inputs) if before else {conv.inputs[0]: None}
    outside = [n for n in read if n in region.inputs and n not in literals]
    images = [n for n in outside if region.shape(n) == shape]
    if len(images) != 1:
        return No("not one image")
    constants = tuple(n for n in outside if n not in images)
    bias = conv.inputs[2] if len(conv.inputs) > 2 else ""
    late = dict.fromkeys(n for op in (*middle, *after) for n in op.inputs if n in region.inputs and n not in literals)
    if bias and bias in late:
        return No("the bias is read again by the epilogue")
    columns = (*([bias] if bias else []), *late)
    made_before = {op.outputs[0] for op in before}
    if any(n in made_before or n in images for op in (*middle, *after) for n in op.inputs):
        return No("a value before the convolution is read after it")
    tail = {op.outputs[0] for op in after}
    pooled = next((op for op in region.ops if op.op == "MaxPool"), None)
    if pooled is not None:
        known = {*pooled.outputs, *tail, *columns, *literals, ""}
        if any(n not in known for op in after for n in op.inputs):
            return No("a value before the pooling is read after it")
    for names, channels in ((constants, shape[1]), (columns, region.shape(conv.outputs[0])[1])):
        for name in names:
            spec = region.spec_of[name]
            if not spec.constant or not _by_channel(spec, channels, bias=name == bias):
                return No(f"{name!r} of shape {spec.shape} is not one constant for each channel")
    return images[0], constants, columns, bias


def _by_channel(spec: TensorSpec, channels: Dim, *, bias: bool) -> bool:
    """Whether a tensor holds one number, or one for each channel."""
    if bias:
        return spec.shape == (channels,)
    padded = (1,) * (4 - spec.rank) + spec.shape
    return len(padded) == 4 and padded[1] in (1, channels) and padded[0] == padded[2] == padded[3] == 1
