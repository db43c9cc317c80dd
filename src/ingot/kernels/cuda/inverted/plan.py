"""An inverted residual block taken apart: its two or three convolutions, and the scalar ops behind each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from ingot.errors import No
from ingot.graph.dims import Dim
from ingot.graph.region import BodyOp, Kind, Region, Scalar
from ingot.graph.tensor import TensorSpec, channels_last, spec
from ingot.kernels.cuda.depthwise.pixels import depthwise_pixels, in_vectors
from ingot.kernels.cuda.rows.text import arithmetic_types, refusal, scalar_literals
from ingot.kernels.cuda.together import part_of
from ingot.kernels.triton.geometry import Geometry, geometry

VECTOR = 8
"""Channels of one access to memory."""
_TAPS = 7
_FLOATS = ("float16", "bfloat16")


@dataclass(frozen=True)
class Stage:
    """A convolution and the scalar ops on what it makes."""

    conv: BodyOp
    after: tuple[BodyOp, ...]

    @property
    def ops(self) -> tuple[BodyOp, ...]:
        """All of them."""
        return (self.conv, *self.after)

    @property
    def result(self) -> str:
        """What the next stage reads."""
        return self.ops[-1].outputs[0]

    @property
    def bias(self) -> str:
        """Name of the bias; empty where there is none."""
        return self.conv.inputs[2] if len(self.conv.inputs) > 2 else ""


@dataclass(frozen=True)
class InvertedPlan:
    """A Region that the kernel can run."""

    region: Region
    widen: Stage | None
    """None where the depthwise convolution reads the image."""
    spread: Stage
    """The depthwise convolution."""
    narrow: Stage
    geometry: Geometry
    """Of the depthwise convolution."""
    residual: str
    """The tensor of the result's shape that the last scalar ops read; empty when there is none."""
    kinds: dict[str, str] = field(compare=False)
    """Arithmetic type by value."""
    literals: dict[str, Scalar] = field(compare=False)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those there are, in order."""
        return (self.spread, self.narrow) if self.widen is None else (self.widen, self.spread, self.narrow)

    @property
    def x(self) -> TensorSpec:
        """The input's spec."""
        return self.region.spec_of[self.stages[0].conv.inputs[0]]

    @property
    def y(self) -> TensorSpec:
        """The result's spec."""
        return self.region.output_specs[0]

    @property
    def batch(self) -> Dim:
        """Images."""
        return self.x.shape[0]

    @property
    def channels(self) -> int:
        """Of the input."""
        return int(self.x.shape[1])

    @property
    def hidden(self) -> int:
        """Channels of the depthwise convolution."""
        return self.geometry.groups

    @property
    def cols(self) -> int:
        """Channels of the result."""
        return int(self.y.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the result."""
        return int(self.y.shape[2]), int(self.y.shape[3])


def stages_of(region: Region) -> tuple[Stage, ...] | No:
    """The convolutions of the Region, in order, each with the ops up to the next one."""
    at = [number for number, op in enumerate(region.ops) if op.op == "Conv"]
    if region.kind is not Kind.INVERTED or len(at) not in (2, 3) or at[0] != 0 or len(region.outputs) != 1:
        return No("not two or three convolutions in a row with one result")
    ends = [*at[1:], len(region.ops)]
    found = tuple(Stage(region.ops[begin], region.ops[begin + 1 : end]) for begin, end in zip(at, ends, strict=True))
    if any(later.conv.inputs[0] != earlier.result for earlier, later in pairwise(found)):
        return No("a convolution that does not read what the one before it makes")
    return found


@lru_cache(maxsize=256)
def parts_of(region: Region) -> tuple[Region, ...] | No:
    """The convolutions as Regions of their own; what is between them lies dense, channels innermost."""
    stages = stages_of(region)
    if isinstance(stages, No):
        return stages
    made = {name: region.spec_of[name] for op in region.ops for name in op.outputs if name not in region.outputs}
    dense = {name: spec(old.dtype, old.shape, channels_last(old.rank)) for name, old in made.items()}
    whole = region.with_specs(dense)
    return tuple(part_of(whole, Kind.CONV, stage.ops) for stage in stages)


@lru_cache(maxsize=256)
def plan_inverted(region: Region) -> InvertedPlan | No:
    """How the kernel reads the Region, or why it cannot."""
    stages, parts = stages_of(region), parts_of(region)
    if isinstance(stages, No):
        return stages
    assert not isinstance(parts, No)
    middle = depthwise_pixels(parts[-2], VECTOR, _TAPS)
    if isinstance(middle, No):
        return middle
    for part in (*parts[:-2], parts[-1]):
        wrong = _not_pointwise(part)
        if wrong is not None:
            return wrong
    residual = _residual(region, stages)
    if isinstance(residual, No):
        return residual
    literals, kinds = scalar_literals(region), arithmetic_types(region)
    if isinstance(literals, No):
        return literals
    scalar = [op for stage in stages for op in stage.after]
    unwritten = refusal(scalar, kinds, literals)
    if unwritten is not None:
        return unwritten
    if any(kinds[op.outputs[0]] != "float32" for op in scalar):
        return No("arithmetic in another type than float32")
    widen = stages[0] if len(stages) == 3 else None
    plan = InvertedPlan(region, widen, stages[-2], stages[-1], middle.geometry, residual, kinds, literals)
    unfit = _unfit(plan)
    return plan if unfit is None else unfit


def _not_pointwise(part: Region) -> No | None:
    g = geometry(part)
    if isinstance(g, No):
        return g
    if g.groups != 1 or set(g.kernel) != {1} or set(g.stride) != {1} or any((*g.pad, *g.pad_end)):
        return No("a first or last convolution that is not 1 x 1 with stride 1")
    if not g.w.constant or g.w.strides[:2] != (g.in_channels, 1) or g.w.align % 16:
        return No("weights that are not constant rows of channels, aligned to 16 bytes")
    return None


def _residual(region: Region, stages: Sequence[Stage]) -> str | No:
    """The one tensor that the last scalar ops read beside the product; empty when there is none."""
    found: dict[str, None] = {}
    for stage in stages:
        known = {*stage.conv.outputs, *region.literal_of, ""}
        for op in stage.after:
            if len(op.outputs) != 1:
                return No("an op of several results")
            foreign = [name for name in op.inputs if name not in known]
            if foreign and stage is not stages[-1]:
                return No("a scalar op between the convolutions reads another tensor")
            found |= dict.fromkeys(foreign)
            known |= set(op.outputs)
    if len(found) > 1:
        return No("more than one tensor is read behind the last convolution")
    name = next(iter(found), "")
    if name and (name not in region.inputs or region.shape(name) != region.shape(region.outputs[0])):
        return No(f"{name!r} is no tensor of the result's shape")
    return name


def _unfit(plan: InvertedPlan) -> No | None:
    """What the kernel cannot do of types and places."""
    region = plan.region
    convs = plan.stages
    names = [convs[0].conv.inputs[0], region.outputs[0], *([plan.residual] if plan.residual else [])]
    types = {region.spec_of[n].dtype for s in convs for n in (*names, *s.conv.inputs, s.result) if n}
    if len(types) != 1 or not types <= set(_FLOATS):
        return No(f"values of types {', '.join(sorted(types))}")
    for name in names:
        if not in_vectors(region.spec_of[name], 1, VECTOR) or not isinstance(region.spec_of[name].strides[0], int):
            return No(f"{name!r} whose channels are not innermost in multiples of {VECTOR}")
    for stage in (stage for stage in convs if stage.bias):
        bias = region.spec_of[stage.bias]
        if not bias.constant or bias.align % 16 or any(stage.bias in op.inputs for op in stage.after):
            return No("a bias that is not constant and aligned to 16 bytes, or read again")
    return None
