"""Programs of parts of a Region, one after the other, as one Program of the whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from ingot.graph.dims import mul
from ingot.graph.dtypes import itemsize
from ingot.graph.region import BodyOp, Kind, Region
from ingot.kernels.api import Argument, Input, Output, Program, Scratch, TensorMap, Variant, Workspace


def part_of(whole: Region, kind: Kind, ops: Sequence[BodyOp]) -> Region:
    """Some ops of ``whole`` as a Region whose only result is the last op's."""
    inside = {op.outputs[0] for op in ops}
    literals = whole.literal_of
    names = dict.fromkeys(name for op in ops for name in op.inputs if name)
    inputs = tuple(name for name in names if name not in inside and name not in literals)
    values = tuple((name, spec) for name, spec in whole.values if name in inside or name in names)
    numbers = tuple((name, value) for name, value in whole.literals if name in names)
    result = ops[-1].outputs[0]
    return Region(kind, f"{whole.name}/{result}", inputs, (result,), tuple(ops), values, numbers, whole.opset)


def in_turn(whole: Region, parts: Sequence[Region], programs: Sequence[Program]) -> Program:
    """The kernels of ``programs`` in order; what one makes for the next lies in workspaces of the whole."""
    made = [name for part in parts for name in part.outputs if name not in whole.outputs]
    places = {name: Scratch(number) for number, name in enumerate(made)}
    spec_of = {name: part.spec_of[name] for part in parts for name in part.outputs}
    spaces = [Workspace(mul(spec_of[name].elements, itemsize(spec_of[name].dtype))) for name in made]
    kernels = []
    for part, program in zip(parts, programs, strict=True):
        first = len(spaces)
        spaces += program.workspaces
        for kernel in program.kernels:
            moved = tuple(_moved(argument, part, whole, places, first) for argument in kernel.arguments)
            kernels.append(replace(kernel, arguments=moved))
    return Program(tuple(kernels), tuple(spaces), all(program.deterministic for program in programs))


def _moved(argument: Argument, part: Region, whole: Region, places: dict[str, Scratch], first: int) -> Argument:
    """An argument of a part's kernel as one of the whole Region's, whose workspaces of the part begin at ``first``."""
    match argument:
        case Input() | Output():
            return _place(argument, part, whole, places)
        case Scratch(index=index):
            return Scratch(first + index)
        case TensorMap(tensor=Scratch(index=index)):
            return replace(argument, tensor=Scratch(first + index))
        case TensorMap(tensor=Input() | Output() as tensor):
            return replace(argument, tensor=_place(tensor, part, whole, places))
    return argument


def _place(tensor: Input | Output, part: Region, whole: Region, places: dict[str, Scratch]) -> Input | Output | Scratch:
    name = (part.inputs if isinstance(tensor, Input) else part.outputs)[tensor.index]
    if name in whole.outputs:
        return Output(whole.outputs.index(name))
    return Input(whole.inputs.index(name)) if name in whole.inputs else places[name]


def combinations(name: str, parts: Sequence[Sequence[tuple[float, str, Variant]]], most: int) -> list[Variant]:
    """The likeliest variants of the whole: one of each part, its parameters under the part's mark.

    ``parts`` has the seconds, the mark and the variant of each choice for each part.
    """
    found = []
    for each in itertools.product(*parts):
        params = ((f"{mark}.{key}", value) for _, mark, variant in each for key, value in variant.params)
        found.append((sum(seconds for seconds, _, _ in each), Variant(name, tuple(params))))
    return [variant for _, variant in sorted(found)[:most]]


def variant_of(whole: Variant, mark: str, tactic: str) -> Variant:
    """The variant of the part under ``mark``."""
    params = ((key.removeprefix(f"{mark}."), value) for key, value in whole.params if key.startswith(f"{mark}."))
    return Variant(tactic, tuple(params))
