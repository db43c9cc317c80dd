"""``ingot inspect``: what an engine holds, as tables or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ingot.cli import render
from ingot.cli.files import write_text
from ingot.engine.describe import Description, describe
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.options import parse_shapes

if TYPE_CHECKING:
    from rich.console import Console

    from ingot.graph.dims import Bindings
    from ingot.kernels.api import Target
    from ingot.plan.spec import Plan
    from ingot.runtime.profile import StepTime

_BANDS, _COLUMNS = 24, 100
"""Rows and columns of the arena's picture."""


def inspect(
    engine: Path,
    feeds: Path | None = None,
    *,
    json: str | None,
    profile: bool,
    layers: bool,
    arena: bool,
    shapes: list[str],
    seed: int,
) -> None:
    """Shows the engine; ``layers`` or ``arena`` alone leave the rest out.

    ``profile`` runs every step, on the arrays of ``feeds`` or on random ones.
    """
    from ingot.measure.inputs import plan_for

    file = EngineFile.read(engine)
    if feeds is not None and not profile:
        raise IngotError("--input goes with --profile: nothing else runs the engine", fix="add --profile")
    plan = plan_for(file.plans, parse_shapes(shapes))
    bindings = _bindings(plan, shapes)
    times: list[StepTime] = []
    if profile:
        plan, bindings, times = _profile(file, engine, feeds, shapes, seed)
    description = describe(file, bindings, plan)
    if json is not None:
        built: dict[str, object] = {"description": description}
        if profile:
            built["profile"] = times
        content = msgspec.json.encode(built if profile else description)
        write_text(json, msgspec.json.format(content, indent=1) + b"\n")
        return
    screen = render.console()
    everything = not (layers or arena)
    if everything:
        _head(screen, engine, description)
    if everything or layers:
        _layers(screen, description, times)
    if everything or arena:
        screen.print(picture(description), markup=False, highlight=False)
    if everything and description.reasons:
        for reason in description.reasons:
            screen.print(f"note: {reason}", markup=False)


def _bindings(plan: Plan, shapes: list[str]) -> Bindings | None:
    """The symbolic dimensions at the shapes asked for; None for the optimum."""
    from ingot.measure.inputs import declared
    from ingot.runtime.shapes import solve

    if not shapes:
        return None
    inputs = declared(plan, parse_shapes(shapes))
    return solve(plan, {name: shape for name, (_, shape) in inputs.items()})


def _profile(
    file: EngineFile, engine: Path, given: Path | None, shapes: list[str], seed: int
) -> tuple[Plan, Bindings, list[StepTime]]:
    """The plan that takes the inputs, its symbolic dimensions at them, and the time of its steps."""
    from ingot.cli.build import Flags
    from ingot.cli.subject import inputs_for, subject
    from ingot.measure.inputs import plan_of
    from ingot.runtime.engine import load
    from ingot.runtime.feeds import shape_of
    from ingot.runtime.profile import profile
    from ingot.runtime.shapes import solve

    with subject(str(engine), Flags(shapes=tuple(shapes))) as found:
        feeds = inputs_for(file, found, given, seed)
    plan = plan_of(file.plans, feeds)
    context = load(engine).context(profile=plan.name)
    context.run(feeds)
    bindings = solve(plan, {name: shape_of(value) for name, value in feeds.items()})
    return plan, bindings, profile(context, feeds)


def _head(screen: Console, path: Path, description: Description) -> None:
    summary = description.summary
    screen.print(
        f"{path}: {summary.target}, {render.size(path.stat().st_size)}: weights {render.size(summary.weights_bytes)}, "
        f"code {render.size(summary.code_bytes)}, models {render.size(summary.models_bytes)}; in memory: arena "
        f"{render.size(summary.arena_bytes)}, counters {render.size(summary.persistent_bytes)}",
        markup=False,
    )
    screen.print(
        f"{summary.layers} layers and {summary.views} views in {summary.kernels} kernels and {summary.islands} host "
        f"steps; {summary.programmatic_edges} programmatic edges, up to {summary.parallel} steps side by side; "
        f"{render.number(summary.flops / 1e9)} GFLOP, {render.size(summary.bytes)} moved",
        markup=False,
    )
    for key, value in sorted(description.provenance.items()):
        if value not in ("", None, {}, []):
            screen.print(f"  {key}: {value}", markup=False)
    rows = [
        [kind, b.name, b.dtype, render.shape(b.shape), render.shape(b.at)]
        for kind, rows in (("input", description.inputs), ("output", description.outputs))
        for b in rows
    ]
    screen.print(render.table("", ["", "name", "type", "shape", "shown at"], rows, left=5))
    for variant in description.variants:
        mark = ", shown here" if variant.name == description.name else ""
        takes = "; ".join(f"{name} {render.shape(shape)}" for name, shape in variant.inputs.items())
        ranges = "".join(f"; {p.symbol}: {p.min} to {p.max}, best {p.opt}" for p in variant.ranges)
        screen.print(
            f"profile {variant.name}{mark}: {takes}{ranges}; {variant.kernels} kernels, {variant.islands} host steps, "
            f"arena {render.size(variant.arena_bytes)}",
            markup=False,
        )
    if description.profiles:
        screen.print("; ".join(f"{p.symbol}: {p.min} to {p.max}, best {p.opt}" for p in description.profiles))


def _layers(screen: Console, description: Description, times: list[StepTime]) -> None:
    from ingot.measure.roofline import layer_seconds

    target = _target(description)
    measured = {time.step: time.micros for time in times if time.ran}
    rows = []
    for layer in description.layers:
        micros = sum(measured.get(step, 0.0) for step in layer.steps) if times else layer.micros
        least = 1e6 * layer_seconds(layer, target) if target else 0.0
        mark = "" if times or layer.measured or not micros else "~"
        took = f"{mark}{micros:.2f}" if micros else "–"
        if times and layer.steps and not measured.keys() & set(layer.steps):
            took = "did not run"
        rows.append(
            [
                str(layer.index),
                layer.kind,
                layer.name,
                " ".join(layer.ops) + "".join(f"\n({note})" for note in layer.notes),
                layer.tactic,
                layer.precision,
                took,
                render.size(layer.bytes),
                render.number(layer.flops / 1e6),
                render.percent(least / micros if micros else 0.0),
            ]
        )
    columns = ["", "kind", "layer", "fused ops", "tactic", "precision", "µs", "bytes", "MFLOP", "roofline"]
    title = "layers (times measured now)" if times else "layers (~ predicted)"
    screen.print(render.table(title, columns, rows, left=6))
    if times:
        screen.print(f"sum of the steps, each alone: {sum(t.micros for t in times) / 1e3:.4f} ms")


def _target(description: Description) -> Target | None:
    from ingot.measure.bench import target_of

    tf32 = bool(description.provenance.get("tf32"))
    return target_of(description.summary.target, None, tf32=tf32)


def picture(description: Description) -> str:
    """The arena: address bands downwards, steps to the right. A letter is a Value, ``.`` is free.

    A Value keeps its letter; where several share a cell the one that fills most of it is shown.
    """
    rows, total = description.arena, description.summary.arena_bytes
    if not rows or not total:
        return "the arena is empty"
    last = max(row.last for row in rows) + 1
    bands, columns = min(_BANDS, max(1, total // 256)), min(_COLUMNS, last)
    cells = [["."] * columns for _ in range(bands)]
    filled = [[0] * columns for _ in range(bands)]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    for index, row in enumerate(sorted(rows, key=lambda r: (r.first, r.offset))):
        for band in range(row.offset * bands // total, min(bands, (row.offset + row.bytes - 1) * bands // total + 1)):
            share = min(row.offset + row.bytes, (band + 1) * total // bands) - max(row.offset, band * total // bands)
            for column in range(row.first * columns // last, row.last * columns // last + 1):
                if share > filled[band][column]:
                    filled[band][column], cells[band][column] = share, letters[index % len(letters)]
    head = f"arena: {render.size(total)}, steps 0 to {last - 1} from left to right"
    lines = [f"{render.size(band * total // bands):>10} |{''.join(cells[band])}|" for band in range(bands)]
    return "\n".join([head, *lines])
