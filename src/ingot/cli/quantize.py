"""``ingot quantize``: a model with 8-bit layers, and what they cost in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli import render
from ingot.errors import IngotError
from ingot.options import Quantization, parse_shapes

if TYPE_CHECKING:
    from ingot.precision.report import Report

_FEW = 5
"""Notes that are shown; the JSON has all."""


def quantization(
    int8: bool, fp8: bool, calibration: str | None, cache: Path | None, budget: str, metric: str,
    *, method: str = "auto", keep: tuple[str, ...] = (), pixels: str | None = None, samples: int | None = None,
    host: bool = False,
) -> Quantization | None:  # fmt: skip
    """What the options ask for; None for no 8-bit layers. Raises IngotError where they contradict each other."""
    if int8 and fp8:
        raise IngotError("--int8 and --fp8 are two precisions", fix="give one")
    if not (int8 or fp8):
        if calibration is not None or cache is not None:
            raise IngotError("calibration is for 8-bit layers", fix="add --int8 or --fp8")
        return None
    if calibration is None and (cache is None or not cache.exists()):
        raise IngotError("8-bit layers need data to calibrate with", fix="add --calibration")
    from ingot.precision.settings import parse_budget

    precision = "fp8" if fp8 else "int8"
    return Quantization(
        precision, calibration, cache, parse_budget(budget), metric, method, keep, pixels, samples, host
    )


def quantize(model: str, output: Path, eight: Quantization, shapes: Sequence[str], json: str | None) -> bool:
    """Writes the model and prints the report; false when the loss is beyond the budget."""
    import msgspec

    from ingot.builder.quantizing import quantize as run
    from ingot.cli.files import write_text
    from ingot.cli.source import open_source
    from ingot.files import write_atomically

    source = open_source(model)
    with render.build_progress() as progress:
        made = run(source.model, eight, shapes=parse_shapes(shapes), progress=progress)
    report: Report = made.report
    write_atomically(output, made.model.SerializeToString(deterministic=True))
    if json is not None:
        write_text(json, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if json != "-":
        show(report, layers=True)
        print(f"{output}: {render.size(output.stat().st_size)}")
    return report.within_budget


def show(report: Report, *, layers: bool = False) -> None:
    """Prints a report: a summary, or with every layer."""
    screen = render.console()
    if layers:
        columns = ["layer", "op", "precision", "why", "method", "range", "seen", "SQNR dB", "cosine", "alone dB"]
        rows = [
            [
                line.name, line.op, line.precision, line.why, line.method, _number(line.threshold or None),
                _number(line.largest or None), _decibels(line.sqnr_db),
                "" if line.cosine is None else f"{line.cosine:.5f}", _decibels(line.alone_db),
            ]
            for line in report.layers
        ]  # fmt: skip
        screen.print(render.table("", columns, rows, left=5))
        for trial in report.trials:
            print(f"tried: {trial.what}: {trial.sqnr_db:.1f} dB{', taken' if trial.taken else ''}")
    print(
        f"{report.precision}: {report.quantized} of {len(report.layers)} layers, {report.given_back} given back; "
        f"{report.samples} calibration samples{_loss(report)}"
    )
    for note in report.notes[:_FEW]:
        print(f"note: {render.shorten(note, 200)}")
    if len(report.notes) > _FEW:
        print(f"... and {len(report.notes) - _FEW} more notes: see --json")


def _loss(report: Report) -> str:
    if report.loss is None or report.score is None or report.budget is None:
        return "; the loss was not measured"
    held = "within" if report.within_budget else "BEYOND"
    return (
        f"; {report.metric} {report.score:.5f} - {report.loss:.5f} on {report.evaluated} samples, "
        f"{held} the budget of {report.budget:.5f}"
    )


def _number(value: float | None) -> str:
    return "" if value is None else render.number(value)


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
