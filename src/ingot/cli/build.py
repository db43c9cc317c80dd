"""``ingot build``: a model to an engine file, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli import render
from ingot.cli.cost import Cost, cost_of
from ingot.cli.quantize import show
from ingot.cli.source import Source, open_source, output_name
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.options import BuildOptions, Quantization, parse_profiles, parse_shapes
from ingot.progress import Stopwatch

if TYPE_CHECKING:
    from ingot.engine.describe import Description
    from ingot.precision.report import Report

_FEW = 5
"""Islands and notes that the summary shows; ``--report`` shows all."""


@dataclass(frozen=True)
class Flags:
    """The options of a build as they stand on the command line."""

    target: str = "auto"
    fp16: bool = False
    tf32: bool = False
    shapes: Sequence[str] = ()
    timing_db: Path | None = None
    opt_level: int = 3
    strict: bool = False
    dump_after: Sequence[str] = ()
    dump_dir: Path | None = None
    profiles: Sequence[str] = ()
    eight: Quantization | None = None
    """8-bit layers, where they are wanted."""
    unroll: int = 2000
    bf16: bool = False

    def options(self, source: Source) -> BuildOptions:
        """The frozen options for building ``source``."""
        return BuildOptions(
            target=self.target,
            # What stays out of 8 bits is float16.
            fp16=self.fp16 or self.eight is not None,
            tf32=self.tf32,
            bf16=self.bf16,
            shapes=source.build_shapes(parse_shapes(self.shapes)),
            profiles=parse_profiles(self.profiles),
            opt_level=self.opt_level,
            timing_db=self.timing_db,
            unroll=self.unroll,
            strict=self.strict,
            dump_after=tuple(self.dump_after),
            dump_dir=self.dump_dir,
            quantization=self.eight,
        )


def build(model: str, output: Path | None, flags: Flags, report: str | None) -> None:
    """Builds, writes the engine and prints a summary; ``report`` is a file or ``-`` for the long one.

    A file ``*.json`` gets it as JSON.
    """
    source = open_source(model)
    path = output or Path(output_name(source))
    if path.is_dir():
        raise IngotError("this is a folder", node=str(path), fix="give a file name with -o")
    if not path.parent.is_dir():
        raise IngotError("its folder does not exist", node=str(path), fix="create it first")
    engine, watch = make(source, flags)
    engine.write(path)
    cost = cost_of(watch)
    _summarise(engine, path, cost.seconds)
    if report is not None:
        from ingot.cli.files import write_text

        write_text(report, (report_json if report.endswith(".json") else report_text)(engine, cost).encode())


def make(source: Source, flags: Flags) -> tuple[EngineFile, Stopwatch]:
    """The engine, and how long each stage took; progress goes to stderr."""
    from ingot.builder.api import build_engine
    from ingot.cli.sampled import needs_samples, sampled

    options = flags.options(source)
    told: list[Report] = []
    with render.build_progress() as progress:
        watch = Stopwatch(progress)
        options, data = sampled(source, options) if needs_samples(options) else (options, None)
        engine = build_engine(source.model, options, progress=watch, data=data, told=told.append)
    for line in told:
        show(line, layers=line.precision == "best")
    return engine, watch


def _summarise(engine: EngineFile, path: Path, seconds: float) -> None:
    from ingot.engine.describe import describe

    description = describe(engine)
    summary = description.summary
    islands = [layer for layer in description.layers if layer.kind == "host"]
    print(
        f"{path}: {summary.target}, {summary.layers} layers in {summary.kernels} kernels, {_islands(summary.islands)}, "
        f"{render.size(path.stat().st_size)} (weights {render.size(summary.weights_bytes)}, "
        f"arena {render.size(summary.arena_bytes)}), built in {seconds:.1f} s"
    )
    for variant in description.variants:
        print(f"profile {variant.name}: {variant.kernels} kernels, arena {render.size(variant.arena_bytes)}")
    if summary.micros:
        print(f"sum of the layers: {_time(description)}")
    if summary.target == "cpu":
        backends = sorted({step.backend for step in engine.plan.steps if step.kind == "host"})
        notes = [note for layer in islands for note in layer.notes]
        print(f"runs on: {', '.join(backends)}" + (f" ({'; '.join(notes)})" if notes else ""))
    else:
        for layer in islands[:_FEW]:
            print(f"on the host: {layer.name}: {render.shorten(layer.tactic, 160)}")
        if len(islands) > _FEW:
            print(f"... and {len(islands) - _FEW} more: see --report")
    for reason in description.reasons[:_FEW]:
        print(f"note: {render.shorten(reason, 200)}")
    if len(description.reasons) > _FEW:
        print(f"... and {len(description.reasons) - _FEW} more notes: see --report")


def _islands(count: int) -> str:
    return "1 host step" if count == 1 else f"{count} host steps"


def _time(description: Description) -> str:
    how = "measured" if description.summary.measured else "predicted, at least in part"
    return f"{description.summary.micros / 1e3:.3f} ms ({how}; branches that run in parallel count twice)"


def report_json(engine: EngineFile, cost: Cost) -> str:
    """What :func:`report_text` says and more of every layer, as ``{"cost": ..., "profiles": {NAME: ...}}``."""
    import msgspec

    from ingot.engine.describe import describe

    profiles = {plan.name: describe(engine, plan=plan) for plan in engine.plans}
    data = msgspec.json.encode({"cost": cost, "profiles": profiles})
    return msgspec.json.format(data, indent=1).decode() + "\n"


def report_text(engine: EngineFile, cost: Cost) -> str:
    """Every layer with its ops, its tactic and its notes, then the notes of the whole engine, and what it cost."""
    from ingot.engine.describe import describe

    lines: list[str] = []
    for plan in engine.plans:
        lines += [f"profile {plan.name}"] if engine.others else []
        lines += _report_lines(describe(engine, plan=plan))
    return "\n".join([*lines, cost.line()]) + "\n"


def _report_lines(description: Description) -> list[str]:
    lines = []
    for layer in description.layers:
        how = (
            "" if layer.kind in ("view", "host") else f", {layer.micros:.1f} µs{'' if layer.measured else ' predicted'}"
        )
        lines.append(f"{layer.index:4} {layer.kind:9} {layer.name} [{layer.precision}{how}]")
        lines.append(f"     ops: {' '.join(layer.ops)}")
        if layer.tactic:
            lines.append(f"     {'why: ' if layer.kind == 'host' else 'tactic: '}{layer.tactic}")
        lines.extend(f"     note: {note}" for note in layer.notes)
    lines.extend(f"note: {reason}" for reason in description.reasons)
    return lines
