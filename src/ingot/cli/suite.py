"""``ingot bench --suite``: a written list of rows, each in a process of its own, failures kept as results."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli import render
from ingot.cli.bench import BenchFlags
from ingot.cli.files import write_text
from ingot.errors import IngotError

if TYPE_CHECKING:
    from ingot.measure.figures import Record
    from ingot.measure.suites import Row

_TAIL = 12
"""Lines of a failed row's output that are kept."""
_COLUMNS = (
    "row", "run ms", "GPU ms", "p99/p50", "enqueue µs", "roofline", "rel. error", "best peer", "of Ingot's",
    "build s", "host steps",
)  # fmt: skip


@dataclass(frozen=True)
class SuiteFlags:
    """Which rows, how long, and where the results go."""

    name: str
    only: str = ""
    limit_s: float | None = None
    """No row starts, and none goes on, later than this many seconds after the start."""
    json_dir: Path | None = None
    engine_dir: Path | None = None
    json: str | None = None
    fp16: bool | None = None
    """Instead of the rows' own."""
    target: str | None = None
    opt_level: int = 3
    timing_db: Path | None = None
    against: Sequence[str] | None = None


def run_suite(flags: SuiteFlags, how: BenchFlags) -> bool:
    """Runs the rows one after another and prints a table; false when a row failed or is wrong.

    A process each, because a kernel that fails takes its process's CUDA context with it.
    """
    from ingot.measure.figures import to_json
    from ingot.measure.suites import suite

    rows = suite(flags.name, flags.only)
    for folder in (flags.json_dir, flags.engine_dir):
        _create(folder)
    start = time.monotonic()
    records: list[Record] = []
    for number, row in enumerate(rows, 1):
        left = None if flags.limit_s is None else flags.limit_s - (time.monotonic() - start)
        if left is not None and left <= 0:
            print(
                f"the limit of {flags.limit_s:g} s is reached: {len(rows) - number + 1} rows left out", file=sys.stderr
            )
            break
        record = _run_row(row, flags, how, left)
        records.append(record)
        print(f"[{number}/{len(rows)}] {_line(record)}", file=sys.stderr, flush=True)
        if flags.json_dir is not None:
            write_text(str(flags.json_dir / f"{row.name}.json"), to_json(record))
        if flags.json is not None and flags.json != "-":
            write_text(flags.json, to_json(records))  # after each row, so that an end by force loses little
    if flags.json == "-":
        write_text("-", to_json(records))
    else:
        render.console().print(render.table(f"suite {flags.name}", _COLUMNS, [summary_row(r) for r in records]))
    return all(record.correct and not record.error for record in records)


def _create(folder: Path | None) -> None:
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IngotError(f"cannot create the folder: {error}", node=str(folder), fix="choose another") from None


def command(row: Row, flags: SuiteFlags, how: BenchFlags, result: Path) -> list[str]:
    """The command line that measures one row."""
    fp16 = row.fp16 if flags.fp16 is None else flags.fp16
    words = [sys.executable, "-m", "ingot.cli.main", "bench", row.model, "--name", row.name, "--json", str(result)]
    words += ["--target", flags.target or row.target, "--opt-level", str(flags.opt_level)]
    words += ["--fp16"] if fp16 else []
    words += [f"--{row.eight}"] if row.eight else []
    for shape in row.shapes:
        words += ["--shapes", shape]
    against = row.against if flags.against is None else flags.against
    words += ["--against", ",".join(against)] if against else []
    words += ["--timing-db", str(flags.timing_db)] if flags.timing_db else []
    words += ["--save", str(flags.engine_dir / f"{row.name}.ingot")] if flags.engine_dir else []
    words += ["--warmup", str(how.warmup_ms), "--duration", str(how.duration_s), "--iterations", str(how.iterations)]
    words += ["--seed", str(how.seed)]
    return words + ([] if how.transfers else ["--no-transfers"])


def _run_row(row: Row, flags: SuiteFlags, how: BenchFlags, timeout: float | None) -> Record:
    """The row's record; one with an error when its process gave none."""
    import msgspec

    from ingot.measure.figures import Record

    with tempfile.TemporaryDirectory(prefix="ingot-bench-") as folder:
        result, log = Path(folder) / "record.json", Path(folder) / "log.txt"
        with log.open("wb") as output:
            words = command(row, flags, how, result)
            error = _finish(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output), timeout)
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if result.is_file():
            return msgspec.json.decode(result.read_bytes(), type=Record)
    reason = error or "the process gave no result"
    return Record(row.name, row.model, error="\n".join([reason, *lines[-_TAIL:]]))


def _finish(process: subprocess.Popen[bytes], timeout: float | None) -> str:
    """Waits; says what went wrong, or nothing."""
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"stopped after {timeout:.0f} s, the limit of the suite"
    except BaseException:  # an interrupt must not leave the row running
        process.kill()
        process.wait()
        raise
    return f"exit code {code}" if code else ""


def _line(record: Record) -> str:
    if record.figures is None:
        return f"{record.name}: failed: {render.shorten(record.error.splitlines()[-1], 160)}"
    verdict = "" if record.correct else "  WRONG RESULTS"
    return f"{record.name}: {record.figures.run.median:.4f} ms{verdict}"


def summary_row(record: Record) -> list[str]:
    """The record under the columns of the suite's table."""
    figures, engine = record.figures, record.engine
    if figures is None or engine is None:
        return [record.name, "failed", *[""] * (len(_COLUMNS) - 2)]
    peers = [peer for peer in record.peers if peer.run is not None]
    best = min(peers, key=lambda peer: peer.ratio, default=None)
    worst = max((output.relative for output in record.outputs), default=0.0)
    return [
        record.name,
        f"{figures.run.median:.4f}",
        f"{figures.compute.median:.4f}" if figures.compute else "–",
        f"{figures.run.spread:.3f}",
        f"{1e3 * figures.enqueue.median:.1f}" if figures.enqueue else "–",
        render.percent(figures.roofline_share),
        f"{worst:.1e}" + ("" if record.correct else " WRONG"),
        f"{best.name} {best.variant}" if best else "–",
        f"{best.ratio:.2f} x" if best else "–",
        f"{record.build_seconds:.1f}",
        str(engine.islands),
    ]
