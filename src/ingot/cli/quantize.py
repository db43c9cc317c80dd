"""``ingot quantize``: a model with 8-bit layers, and what they cost in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli import render
from ingot.cli.cost import cost_of
from ingot.errors import IngotError
from ingot.options import Quantization, one_precision, parse_shapes
from ingot.progress import Stopwatch

if TYPE_CHECKING:
    from ingot.precision.report import LayerReport, Report

_FEW = 5
"""Notes that are shown; the JSON has all."""


def quantization(
    int8: bool, fp8: bool, calibration: str | None, cache: Path | None, budget: str, metric: str,
    *, best: bool = False, method: str = "auto", keep: tuple[str, ...] = (), pixels: str | None = None,
    samples: int | None = None, host: bool = False, rounding: str = "nearest", sampled: bool = False,
) -> Quantization | None:  # fmt: skip
    """What the options ask for; None for no 8-bit layers. Raises IngotError where they contradict each other.

    ``sampled``: the model has samples of its own to calibrate with where none are named.
    """
    asked = one_precision({"--int8": int8, "--fp8": fp8, "--best": best})
    if asked is None:
        if calibration is not None or cache is not None:
            raise IngotError("calibration is for 8-bit layers", fix="add --int8, --fp8 or --best")
        return None
    if calibration is None and (best or cache is None or not cache.exists()) and not sampled:
        why = "losses have to be measured" if best else "8-bit layers need data to calibrate with"
        raise IngotError(why, fix="add --calibration")
    from ingot.precision.settings import parse_budget

    return Quantization(
        asked.removeprefix("--"), calibration=calibration, cache=cache, budget=parse_budget(budget), metric=metric,
        method=method, keep=keep, pixels=pixels, samples=samples, host=host, rounding=rounding,
    )  # fmt: skip


def quantize(
    model: str, output: Path, eight: Quantization, shapes: Sequence[str], json: str | None, target: str = "auto"
) -> bool:
    """Writes the model and prints the report; false when the loss is beyond the budget.

    ``target``: where it is calibrated. The JSON also says what it cost.
    """
    import msgspec

    from ingot.builder.api import quantize_on
    from ingot.cli.files import write_text
    from ingot.cli.source import open_source
    from ingot.files import write_atomically

    source = open_source(model)
    with render.build_progress() as progress:
        watch = Stopwatch(progress)
        made = quantize_on(target, source.model, eight, shapes=parse_shapes(shapes), progress=watch)
    report: Report = made.report
    write_atomically(output, made.model.SerializeToString(deterministic=True))
    cost = cost_of(watch)
    if json is not None:
        told = msgspec.to_builtins(report) | {"cost": msgspec.to_builtins(cost)}
        write_text(json, msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
    if json != "-":
        show(report, layers=True)
        print(f"{output}: {render.size(output.stat().st_size)}, {cost.line()}")
    return report.within_budget


def show(report: Report, *, layers: bool = False) -> None:
    """Prints a report: a summary, or with every layer."""
    screen = render.console()
    if layers:
        columns = ["layer", "op", "precision", "why", "method", "range", "seen", "SQNR dB", "cosine", "alone dB"]
        timed = any(line.micros for line in report.layers)
        columns += ["µs"] if timed else []
        rows = [
            [
                line.name, line.op, line.precision, line.why, line.method, _number(line.threshold or None),
                _number(line.largest or None), _decibels(line.sqnr_db),
                "" if line.cosine is None else f"{line.cosine:.5f}", _decibels(line.alone_db), *_times(line, timed),
            ]
            for line in report.layers
        ]  # fmt: skip
        screen.print(render.table("", columns, rows, left=5))
        for trial in report.trials:
            print(f"tried: {trial.what}: {trial.sqnr_db:.1f} dB{', taken' if trial.taken else ''}")
    print(
        f"{report.precision}: {report.quantized} of {len(report.layers)} layers, {report.given_back} given back; "
        f"{report.samples} calibration samples{_where(report)}{_loss(report)}"
    )
    for note in report.notes[:_FEW]:
        print(f"note: {render.shorten(note, 200)}")
    if len(report.notes) > _FEW:
        print(f"... and {len(report.notes) - _FEW} more notes: see --json")


def _where(report: Report) -> str:
    """What ran the model, if anything did."""
    from ingot.precision.calibrate import CACHE

    return f" on {report.calibrated_on}" if report.calibrated_on not in ("", CACHE) else ""


def _loss(report: Report) -> str:
    if report.loss is None or report.score is None or report.budget is None:
        return "; the loss was not measured"
    held = "within" if report.within_budget else "BEYOND"
    return (
        f"; {report.metric} {report.score:.5f} - {report.loss:.5f} on {report.evaluated} samples, "
        f"{held} the budget of {report.budget:.5f}"
    )


def _times(line: LayerReport, timed: bool) -> list[str]:
    """A cell with the time in each precision, where there is a column for it."""
    return [" ".join(f"{name} {micros:.1f}" for name, micros in line.micros.items())] if timed else []


def _number(value: float | None) -> str:
    return "" if value is None else render.number(value)


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
