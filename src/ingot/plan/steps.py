"""From chosen Programs to launches: one per kernel, island or copy, before memory and edges are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.kernels.api import Argument, Input, Kernel, Null, Output, Scratch, TensorMap, Value
from ingot.plan import spec
from ingot.plan.places import Places
from ingot.tune.choice import Choice


@dataclass(frozen=True)
class Launch:
    """One step to be: kernel ``part`` of a Region's Program, or the Region's island (``kernel`` is None).

    Every launch of a Region counts as reading all of its inputs and writing all of its outputs, so
    that memory is not reused between the kernels of one Program. ``workspaces`` are the names of
    those that this kernel gets as arguments.
    """

    region: int
    part: int
    kernel: Kernel | None
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    workspaces: tuple[str, ...] = ()
    call: bytes = b""
    """The record of a plugin whose Python function is called; ``kernel`` is None then, too."""


@dataclass(frozen=True)
class Launches:
    """All launches in order, and where those of each Region are."""

    items: tuple[Launch, ...]
    workspaces: Mapping[str, tuple[int, bool]]
    """Bytes at the largest shapes, and whether zeroed, by workspace name."""
    steps_of: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Positions in ``items`` by Region, in the planned order."""


def workspace_name(region: int, index: int) -> str:
    """Name of the Value that stands for a Program's workspace."""
    return f"workspace:{region}.{index}"


def make_launches(
    lowered: Lowered,
    choices: Sequence[Choice],
    order: Sequence[int],
    places: Places,
    host_reads: Mapping[int, tuple[str, ...]],
) -> Launches:
    """Launches of the working Regions in ``order``. ``host_reads`` gives the inputs an island's model takes."""
    items: list[Launch] = []
    sizes: dict[str, tuple[int, bool]] = {}
    steps_of: dict[int, tuple[int, ...]] = {}
    for index in order:
        region, program = lowered.regions[index], choices[index].program
        if region.kind is Kind.HOST:
            made = [Launch(index, 0, None, host_reads[index], region.outputs)]
        elif program is not None and program.call:
            made = [Launch(index, 0, None, region.inputs, region.outputs, call=program.call)]
        else:
            assert program is not None and program.kernels, f"{region.name}: no program was chosen"
            made = [
                _launch(index, part, kernel, region.inputs, region.outputs)
                for part, kernel in enumerate(program.kernels)
            ]
            for number, workspace in enumerate(program.workspaces):
                sizes[workspace_name(index, number)] = (max(places.most(workspace.bytes), 1), workspace.zeroed)
        steps_of[index] = tuple(range(len(items), len(items) + len(made)))
        items.extend(made)
    return Launches(tuple(items), sizes, steps_of)


def _launch(index: int, part: int, kernel: Kernel, reads: tuple[str, ...], writes: tuple[str, ...]) -> Launch:
    tensors = [a.tensor if isinstance(a, TensorMap) else a for a in kernel.arguments]
    scratch = sorted({a.index for a in tensors if isinstance(a, Scratch)})
    return Launch(index, part, kernel, reads, writes, tuple(workspace_name(index, i) for i in scratch))


def argument(item: Argument, launch: Launch, value_index: Mapping[str, int]) -> spec.Argument:
    """A kernel argument in the Plan's terms."""
    match item:
        case Input(index=index):
            return spec.Argument("value", index=value_index[launch.reads[index]])
        case Output(index=index):
            return spec.Argument("value", index=value_index[launch.writes[index]])
        case Scratch(index=index):
            return spec.Argument("value", index=value_index[workspace_name(launch.region, index)])
        case Value(dim=dim, bytes=width):
            return spec.Argument("dim", dim=dim, bytes=width)
        case Null():
            return spec.Argument("null")
        case TensorMap():
            return spec.Argument("map", index=argument(item.tensor, launch, value_index).index, map=_tensor_map(item))


def _tensor_map(m: TensorMap) -> spec.TensorMapDecl:
    return spec.TensorMapDecl(
        m.dtype, list(m.dims), list(m.strides), list(m.box), m.swizzle, list(m.lower), list(m.upper), list(m.steps)
    )
