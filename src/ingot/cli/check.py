"""``ingot check``: whether a model will run on the device, where, and why."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ingot.cli import render
from ingot.cli.files import write_text
from ingot.cli.source import open_source
from ingot.options import BuildOptions, parse_shapes

if TYPE_CHECKING:
    from ingot.builder.check import Island, OpRow, Reason, Report

_FEW = 5
_OFTEN = 200_000
"""Objects made between two looks for garbage: a graph makes many that stay, and looking took a tenth of the time."""


def check(
    model: str, shapes: Sequence[str], *, target: str, fp16: bool, tf32: bool, unroll: int, json: str | None
) -> bool:
    """Prints the report; false when a part of the model runs on the host."""
    with _rare_collections():
        import msgspec

        from ingot.builder.check import check_model

        source = open_source(model)
        options = BuildOptions(
            target=target, fp16=fp16, tf32=tf32, shapes=source.build_shapes(parse_shapes(shapes)), unroll=unroll
        )  # fmt: skip
        report = check_model(source.model, options)
    if json is not None:
        write_text(json, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if json != "-":
        print("\n".join(_lines(model, report)))
    return report.on_device


@contextmanager
def _rare_collections() -> Iterator[None]:
    usual = gc.get_threshold()
    gc.set_threshold(_OFTEN, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _lines(model: str, report: Report) -> Iterator[str]:
    yield _verdict(model, report)
    yield ""
    yield from _ops(report.ops)
    if report.whole is not None:
        yield f"\nthe whole model runs on the host: {_why(report.whole)}"
    for island in report.islands:
        yield from _island(island)
    if report.whole is None:
        yield ""
        yield f"layers: {report.layers}, at least as many kernels ({_counts(report.kinds)})"
        yield f"precision: {_counts(report.precisions)}"
        yield from (f"  float32: {line}" for line in report.float32)
        yield f"memory: weights {render.size(report.weights_bytes)}, activations {render.size(report.arena_bytes)}"
    yield from (f"note: {note}" for note in report.notes)


def _verdict(model: str, report: Report) -> str:
    where = f"{report.target}{', fp16' if report.fp16 else ''}"
    if report.on_device:
        return f"{model} on {where}: all {report.nodes} nodes run on the device"
    if report.whole is not None:
        return f"{model} on {where}: nothing runs on the device"
    parts = "1 part stays" if len(report.islands) == 1 else f"{len(report.islands)} parts stay"
    return f"{model} on {where}: {parts} on the host, the rest of {report.nodes} nodes runs on the device"


def _ops(rows: Sequence[OpRow]) -> Iterator[str]:
    wide = max((len(_name(row)) for row in rows), default=0)
    for row in rows:
        where = "host" if row.kind == "host" else f"device ({row.kind})"
        if 0 < row.host < row.count:
            where += f", {row.host} on the host"
        yield f"  {_name(row):{wide}} {row.count:6}  {where}"


def _name(row: OpRow) -> str:
    return f"{row.domain}.{row.op}" if row.domain else row.op


def _island(island: Island) -> Iterator[str]:
    yield f"\non the host: {island.name} ({render.shorten(' '.join(island.ops), 100)})"
    yield from (f"  {_why(reason)}" for reason in island.reasons[:_FEW])
    if len(island.reasons) > _FEW:
        yield f"  ... and {len(island.reasons) - _FEW} more: see --json"
    fixes = dict.fromkeys(reason.fix for reason in island.reasons if reason.fix)
    yield from (f"  fix: {fix}" for fix in fixes)


def _why(reason: Reason) -> str:
    return f"{reason.node}: {reason.reason}" if reason.node else reason.reason


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
