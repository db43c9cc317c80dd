"""The Markdown table of benchmark records: what README.md shows.

    ingot bench --suite h200 --json-dir benchmarks/results/h200
    python benchmarks/table.py benchmarks/results/h200 --into README.md

Reads the files that ``ingot bench`` and ``ingot bench --suite`` write. ``--into`` replaces what stands between
``<!-- results -->`` and ``<!-- /results -->`` in that file; without it the table is printed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from ingot.measure.environment import Environment
from ingot.measure.figures import PeerFigures, Record
from ingot.measure.suites import SUITES

_MARK = "results"
_COLUMNS = (
    "row", "Ingot ms", "GPU ms", "p99/p50", "of roofline", "rel. error", "ONNX Runtime ms", "PyTorch ms", "reproduce",
)  # fmt: skip
_NOTE = """\
*Ingot ms*: median host time of one synchronous run, inputs and outputs on the device (on the CPU: in host memory);
*GPU ms*: between events around the launch; *of roofline*: least time of the planned layers over *GPU ms* (on the CPU
that of FP32 arithmetic, which bfloat16 and INT8 exceed); *rel. error*: worst output, norm of the difference over norm
of ONNX Runtime's FP32 result on the CPU. Peers ran in the same process on the same inputs; of each the fastest
variant that ran, and how many times as long it takes. PyTorch runs its own module of the same architecture with other
weights, so only its speed is compared; where it has none, it runs the model as onnx2torch converts it. The 8-bit models
of the GPU rows are made by `ingot quantize`."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("places", nargs="+", type=Path, help="JSON files, or folders of them")
    parser.add_argument("--into", type=Path, help="a file with the two marks")
    arguments = parser.parse_args()
    text = tables(records(arguments.places))
    if arguments.into is None:
        print(text)
    else:
        arguments.into.write_text(inserted(arguments.into.read_text(), text, str(arguments.into), _MARK))


def records(places: Iterable[Path]) -> list[Record]:
    """The records of all files, in the order of the suites; other JSON files are left out with a message."""
    files = [file for place in places for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])]
    found: dict[str, Record] = {}
    for file in files:
        try:
            read = msgspec.json.decode(file.read_bytes(), type=Record | list[Record])
        except (OSError, msgspec.MsgspecError) as error:
            print(f"{file}: left out: {error}", file=sys.stderr)
            continue
        for record in read if isinstance(read, list) else [read]:
            found[record.name] = record
    order = [row.name for rows in SUITES.values() for row in rows]
    return sorted(found.values(), key=lambda r: (order.index(r.name) if r.name in order else len(order), r.name))


def tables(rows: Sequence[Record]) -> str:
    """One table for each machine, and what the columns mean."""
    if not rows:
        sys.exit("error: no records")
    parts = []
    for machine in dict.fromkeys(_machine(row.environment) for row in rows):
        lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows if _machine(row.environment) == machine]
        parts.append(f"{machine}\n\n" + "\n".join(lines))
    return "\n\n".join([*parts, _NOTE])


def inserted(page: str, text: str, name: str, mark: str) -> str:
    """``page`` with ``text`` between ``<!-- mark -->`` and ``<!-- /mark -->``."""
    begin, finish = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    start, end = page.find(begin), page.find(finish)
    if start < 0 or end < start:
        sys.exit(f"error: {name} has no {begin} followed by {finish}")
    return f"{page[: start + len(begin)]}\n{text}\n{page[end:]}"


def command(row: Record) -> str:
    """The command line that measures the record again."""
    words = ["ingot", "bench", row.model]
    words += [f"--{row.options['quantized']}"] if row.options.get("quantized") else []
    words += [f"--{name}" for name in ("fp16", "bf16") if row.options.get(name)]
    words += ["--tf32"] if row.options.get("tf32") else []
    words += ["--target", "cpu"] if row.engine is not None and row.engine.target == "cpu" else []
    for name, (_, shape) in row.inputs.items():
        words += ["--shapes", f"{name}={'x'.join(map(str, shape))}"]
    peers = dict.fromkeys("fp16" if peer.name == "ingot" else peer.name for peer in row.peers)
    words += ["--against", ",".join(peers)] if peers else []
    return shlex.join(words)


def _machine(environment: Environment | None) -> str:
    if environment is None:
        return "Failed rows:"
    versions = environment.versions
    names = {"onnxruntime-gpu": "ONNX Runtime", "onnxruntime": "ONNX Runtime", "torch": "PyTorch", "triton": "Triton"}
    shown = dict.fromkeys(f"{label} {versions[name]}" for name, label in names.items() if name in versions)
    driver = f"driver {environment.driver}, CUDA {environment.cuda}, " if environment.cuda else ""
    return f"On {environment.device} ({driver}{', '.join(shown)}):"


def _cells(row: Record) -> list[str]:
    figures = row.figures
    if figures is None:
        reason = (row.error.splitlines() or ["no figures"])[-1].replace("|", "\\|")
        return [row.name, f"failed: {reason[:120]}", *[""] * (len(_COLUMNS) - 3), f"`{command(row)}`"]
    worst = max((output.relative for output in row.outputs), default=0.0)
    return [
        row.name,
        f"**{figures.run.median:.3f}**",
        f"{figures.compute.median:.3f}" if figures.compute else "–",
        f"{figures.run.spread:.3f}" + (f" ({figures.spin.spread:.3f} spinning)" if figures.spin else ""),
        f"{100 * figures.roofline_share:.0f} %" if figures.roofline_share else "–",
        f"{worst:.1e}" if row.correct else f"{worst:.1e} **wrong**",
        _peer(row, "onnxruntime"),
        _peer(row, "torch"),
        f"`{command(row)}`",
    ]


def _peer(row: Record, name: str) -> str:
    ran = [peer for peer in row.peers if peer.name == name and peer.run is not None]
    if not ran:
        return "–"
    best = min(ran, key=_median)
    return f"{_median(best):.3f} ({best.variant}, {best.ratio:.2f}×)"


def _median(peer: PeerFigures) -> float:
    assert peer.run is not None
    return peer.run.median


if __name__ == "__main__":
    main()
