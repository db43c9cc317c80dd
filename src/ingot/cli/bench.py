"""``ingot bench``: an engine measured, checked against ONNX Runtime and set beside its peers."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli import render
from ingot.cli.build import Flags, make
from ingot.cli.files import Array, read_arrays, write_text
from ingot.cli.source import Source
from ingot.cli.subject import subject
from ingot.options import Range, Shapes

if TYPE_CHECKING:
    from ingot.measure.accuracy import Difference
    from ingot.measure.figures import Budget, Figures, PeerFigures, Record
    from ingot.measure.latency import Latency

_LATENCY = ("median", "min", "mean", "p90", "p95", "p99", "max")


@dataclass(frozen=True)
class BenchFlags:
    """How to measure, as it stands on the command line."""

    against: Sequence[str] = ()
    warmup_ms: float = 200.0
    duration_s: float = 3.0
    iterations: int = 10
    transfers: bool = True
    seed: int = 0
    feeds: Path | None = None

    @property
    def budget(self) -> Budget:
        """In the units of the measuring code."""
        from ingot.measure.figures import Budget

        return Budget(self.warmup_ms / 1e3, self.duration_s, self.iterations, self.transfers)


def bench(
    model: str,
    original: str | None,
    name: str | None,
    flags: Flags,
    how: BenchFlags,
    json: str | None,
    save: Path | None,
) -> bool:
    """Measures one engine or model and prints its figures; false when the results are wrong.

    ``original``: the model of an engine. ``json``: where the record goes.
    """
    import msgspec

    from ingot.measure.bench import Case
    from ingot.measure.bench import bench as measure
    from ingot.measure.figures import to_json

    given = None if how.feeds is None else read_arrays(how.feeds)
    with subject(model, flags, original, save) as found, tempfile.TemporaryDirectory(prefix="ingot-bench-") as folder:
        case = Case(
            name=name or (found.source.name if found.source else found.path.stem),
            model=found.source.text if found.source else model,
            path=found.path,
            feeds=found.feeds if given is None else lambda inputs, seed: dict(given),
            reference=found.reference(),
            architecture=found.architecture,
            shapes=found.shapes if given is None else _shapes(given),
            seed=how.seed,
            half=None if found.source is None else _half(found.source, flags, Path(folder)),
        )
        record = measure(case, how.budget, how.against, _say)
        record = msgspec.structs.replace(record, build_seconds=found.seconds)
    if json != "-":
        show(record)
    if json is not None:
        write_text(json, to_json(record))
    return record.correct


def _half(source: Source, flags: Flags, folder: Path) -> Callable[[], Path]:
    """What builds the same model in FP16, for a comparison."""

    def build() -> Path:
        engine, _ = make(source, dataclasses.replace(flags, eight=None, fp16=True))
        engine.write(folder / "half.ingot")
        return folder / "half.ingot"

    return build


def _shapes(arrays: Mapping[str, Array]) -> Shapes:
    return tuple((name, tuple(Range(n, n, n) for n in array.shape)) for name, array in arrays.items())


def _say(part: str) -> None:
    print(f"bench: {part}", file=sys.stderr, flush=True)


# -- one record


def show(record: Record) -> None:
    """The record on the terminal."""
    screen = render.console()
    assert record.figures is not None and record.engine is not None and record.environment is not None
    inputs = ", ".join(f"{name} {dtype}[{render.shape(shape)}]" for name, (dtype, shape) in record.inputs.items())
    engine = record.engine
    made = f", built in {record.build_seconds:.1f} s" if record.build_seconds else ""
    screen.print(f"{record.name} on {record.environment.device} ({engine.target}); {inputs}", markup=False)
    screen.print(
        f"{engine.layers} layers, {engine.kernels} kernels, {engine.islands} host steps"
        f"{f' ({engine.backend})' if engine.backend else ''}, {render.size(engine.file_bytes)}{made}",
        markup=False,
    )
    screen.print(render.table("", ["milliseconds", *_LATENCY], _times(record.figures)))
    for line in _single(record.figures):
        screen.print(line, markup=False)
    screen.print(render.table(_verdict(record), ACCURACY, [accuracy_row(o) for o in record.outputs]))
    if record.peers:
        columns = ["peer", "variant", "median", "p99", "of Ingot's", "relative error", "note"]
        screen.print(render.table("peers", columns, [_peer_row(p) for p in record.peers], left=2))


ACCURACY = ["output", "max error", "mean error", "relative", "cosine", "reference RMS"]


def accuracy_row(found: Difference) -> list[str]:
    """A row under :data:`ACCURACY`."""
    if found.problem:
        return [found.name, found.problem, "", "", "", ""]
    extra = f" ({found.nonfinite} not finite)" if found.nonfinite else ""
    numbers = (found.max_abs, found.mean_abs, found.relative)
    return [found.name + extra, *map(render.number, numbers), f"{found.cosine:.7f}", render.number(found.scale)]


def _verdict(record: Record) -> str:
    word = "correct" if record.correct else "WRONG"
    return f"{word} within {record.tolerance:g} (relative) of {record.reference}"


def _times(figures: Figures) -> list[list[str]]:
    rows: list[tuple[str, Latency | None]] = [
        ("run, data in place", figures.run),
        ("the same, spinning", figures.spin),
        ("run from and to host arrays", figures.latency),
        ("enqueue (host)", figures.enqueue),
        ("host to device", figures.h2d),
        ("GPU compute", figures.compute),
        ("device to host", figures.d2h),
    ]
    return [[name, *(f"{getattr(row, key):.4f}" for key in _LATENCY)] for name, row in rows if row is not None]


def _single(figures: Figures) -> list[str]:
    spinning = f" ({figures.spin.spread:.3f} spinning)" if figures.spin else ""
    lines = [
        f"throughput {render.number(figures.throughput)} runs/s; p99/p50 {figures.run.spread:.3f}{spinning} "
        f"over {figures.run.samples} runs; load to first result {figures.load_ms:.1f} ms; "
        f"{figures.allocations} allocations after the first run"
    ]
    if figures.roofline_ms:
        what = "GPU compute" if figures.compute else "arithmetic alone; the run"
        share = render.percent(figures.roofline_share)
        lines.append(f"roofline {figures.roofline_ms:.4f} ms: {what} reaches {share} of it")
    return lines


def _peer_row(peer: PeerFigures) -> list[str]:
    if peer.run is None:
        return [peer.name, peer.variant, "–", "–", "–", "–", render.shorten(peer.error, 70)]
    worst = f"{max(o.relative for o in peer.outputs):.2e}" if peer.outputs else "–"
    times = [f"{peer.run.median:.4f}", f"{peer.run.p99:.4f}", f"{peer.ratio:.2f} x"]
    return [peer.name, peer.variant, *times, worst, peer.note]
