"""Programs without machine code: enough for a Plan, and for the simulator that runs it on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Argument, Input, Kernel, Output, Pdl, Program, Scratch, Value, Workspace
from ingot.tune.choice import Choice


def hollow_program(
    region: Region, kernels: int = 1, pdl: Pdl = Pdl.NONE, workspaces: Sequence[Workspace] = ()
) -> Program:
    """Launches with plausible arguments and no code."""
    arguments: tuple[Argument, ...] = (
        *(Input(i) for i in range(len(region.inputs))),
        *(Output(i) for i in range(len(region.outputs))),
        *(Scratch(i) for i in range(len(workspaces))),
        Value(region.output_specs[0].elements),
    )
    name = region.kind.value
    made = [Kernel(f"{name}_{k}", f"{name}{k}".encode(), (1, 1, 1), 128, 0, arguments, pdl) for k in range(kernels)]
    return Program(tuple(made), tuple(workspaces))


def hollow_choices(
    lowered: Lowered, programs: Mapping[int, Program] | None = None, pdl: Pdl = Pdl.NONE
) -> list[Choice]:
    """A Choice for every Region: ``programs`` by index, hollow ones of one kernel for the others."""
    found = []
    for index, region in enumerate(lowered.regions):
        if region.kind in (Kind.VIEW, Kind.HOST):
            found.append(Choice(region.kind.value, None, 0.0, False))
        else:
            program = (programs or {}).get(index) or hollow_program(region, pdl=pdl)
            found.append(Choice(f"hollow_{region.kind.value}[a=1]", program, 1.0 + index, False, ("made up",)))
    return found
