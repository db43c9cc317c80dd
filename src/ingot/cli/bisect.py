"""``ingot compare --bisect``: the stage of a build, and the Value in it, that makes a model depart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ingot.cli import render
from ingot.cli.build import Flags
from ingot.cli.files import read_arrays, write_text
from ingot.cli.source import open_source
from ingot.options import parse_shapes

if TYPE_CHECKING:
    from ingot.measure.bisect import Bisection


def bisect(
    model: str, flags: Flags, *, feeds: Path | None, seed: int, tolerance: float | None, json: str | None
) -> bool:
    """Prints the stages; false when one departs from ONNX Runtime."""
    from ingot.measure.bisect import bisect as find
    from ingot.measure.inputs import Array, check_feeds, declared
    from ingot.plan.spec import Plan

    source = open_source(model)
    shapes = parse_shapes(flags.shapes)

    def arrays(plan: Plan) -> dict[str, Array]:
        if feeds is None:
            return source.feeds(declared(plan, shapes), seed)
        given = read_arrays(feeds)
        check_feeds(plan, given)
        return given

    found = find(source.model, flags.options(source), arrays, tolerance=tolerance)
    if json is not None:
        write_text(json, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    if json != "-":
        _show(model, found)
    return not found.first


def _show(model: str, found: Bisection) -> None:
    rows = []
    for stage in found.stages:
        worst = stage.worst
        if worst is not None:
            state = "within" if stage.right else worst.problem or "departs"
            rows.append([stage.name, state, worst.name, f"{worst.relative:.1e}", f"{stage.tolerance:g}"])
        else:
            rows.append([stage.name, render.shorten(stage.problem, 80) or "changes nothing", "", "", ""])
    screen = render.console()
    columns = ["stage", "", "worst output", "relative error", "tolerance"]
    screen.print(render.table(f"{model} after each stage, against ONNX Runtime", columns, rows, left=3))
    if not found.first:
        screen.print("no stage departs from ONNX Runtime")
        return
    screen.print(f"first to depart: {found.first}", markup=False)
    if found.value is not None:
        what = found.value.difference
        screen.print(
            f"first value in it: {what.name} ({what.dtype} {render.shape(what.shape)}), made by {found.value.layer}, "
            f"relative error {what.relative:.1e}{f', {what.nonfinite} not finite' if what.nonfinite else ''}"
            f"{f', {what.problem}' if what.problem else ''}", markup=False
        )  # fmt: skip
