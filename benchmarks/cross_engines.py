"""Whole engines that were built without a GPU, beside the engine that measured its kernels on it.

    python benchmarks/cross_engines.py --json benchmarks/results/h200/cross_engines.json [NAME ...]

NAME is an architecture, or ``NAME:BATCH``. For each three engines: *shipped*, as a machine without a GPU builds it
(``--opt-level 2`` with the times that Ingot ships), *model*, by the cost model alone (``--opt-level 1``), and *tuned*
(``--opt-level 3``; with ``--measured FILE`` from the times that an earlier build measured, which takes the same
variants). All but a measuring one are made in a process that sees no GPU, and no times of this machine. The engines
run in turns; every one's results are compared with ONNX Runtime's. ``--timing-db`` keeps what the tuned ones measured:
``cross_build.py --truth`` says layer by layer what was chosen wrongly.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import msgspec

from ingot import env
from ingot.builder.api import build_engine
from ingot.builder.race import race_files
from ingot.builder.targets import choose_target
from ingot.device.device import DeviceInfo
from ingot.engine.describe import describe
from ingot.engine.file import EngineFile
from ingot.errors import IngotError, No
from ingot.measure.accuracy import differences
from ingot.measure.bench import target_of
from ingot.measure.environment import Environment, environment
from ingot.measure.reference import Reference
from ingot.measure.roofline import roofline_seconds
from ingot.measure.tolerance import tolerance_of
from ingot.options import BuildOptions, Range
from ingot.runtime.engine import Engine
from ingot.tune.worker import call_each
from ingot.zoo import architectures

NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0", "bert_base", "resnet18")
LEVELS = {"shipped": 2, "model": 1}
"""Optimisation levels of the engines that are built without a GPU."""
_CROSS_SECONDS = 300.0


class Built(msgspec.Struct, frozen=True):
    """One engine."""

    seconds: float
    """Of building it."""
    us: float
    """Device time of one run, median of turns."""
    noise: float
    """Standard error of it, relative."""
    over_tuned: float
    """Its time over the tuned engine's."""
    relative: float
    """Error of the worst output against ONNX Runtime."""
    right: bool
    kernels: int
    others: list[str]
    """Layers with another variant than in the tuned engine: name, this variant, the tuned one's."""


class Row(msgspec.Struct, frozen=True):
    """One network."""

    network: str
    batch: int
    roofline_us: float
    engines: dict[str, Built]


class Results(msgspec.Struct, frozen=True):
    """All networks, and the machine."""

    environment: Environment
    rows: list[Row]


def options_of(name: str, batch: int, target: str, level: int, timing_db: Path) -> BuildOptions:
    """FP16, with the network's usual inputs."""
    arrays = architectures.sample_inputs(architectures.build(name), batch)
    shapes = tuple((key, tuple(Range(d, d, d) for d in array.shape)) for key, array in arrays.items())
    return BuildOptions(target=target, fp16=True, shapes=shapes, opt_level=level, timing_db=timing_db)


def cross(name: str, batch: int, target: str, folder: Path, jobs: int, measured: Path | None) -> dict[str, float]:
    """Builds the engines that need no GPU, in a process that has none; returns the seconds by way."""
    os.environ["CUDA_VISIBLE_DEVICES"], os.environ["INGOT_JOBS"] = "", str(jobs)
    found = {}
    nothing = folder / "empty.json"
    ways = {way: (level, nothing) for way, level in LEVELS.items()}
    if measured is not None:
        ways["tuned"] = 2, measured
    for way, (level, times) in ways.items():
        start = time.perf_counter()
        engine = build_engine(architectures.build(name), options_of(name, batch, target, level, times))
        engine.write(folder / f"{name}-{batch}-{way}.ingot")
        found[way] = time.perf_counter() - start
    return found


def measured(name: str, batch: int, folder: Path, timing_db: Path, seconds: dict[str, float], info: DeviceInfo) -> Row:
    """Builds the tuned engine if it is not there, and runs all. Raises IngotError where one cannot be built or run."""
    start = time.perf_counter()
    model = architectures.build(name)
    if "tuned" not in seconds:
        build_engine(model, options_of(name, batch, "cuda", 3, timing_db)).write(folder / f"{name}-{batch}-tuned.ingot")
        seconds = {"tuned": time.perf_counter() - start, **seconds}
    paths = {way: folder / f"{name}-{batch}-{way}.ingot" for way in seconds}
    files = {way: EngineFile.read(path) for way, path in paths.items()}
    feeds = architectures.sample_inputs(model, batch)
    wanted = Reference(model).run(feeds)
    timings = dict(zip(paths, race_files([str(path) for path in paths.values()], 0), strict=True))
    built = {}
    for way, file in files.items():
        found = differences(wanted, Engine(file).context().run(feeds))
        description = describe(file)
        built[way] = Built(
            seconds=round(seconds[way], 1),
            us=round(1e6 * timings[way].seconds, 2),
            noise=round(timings[way].noise, 5),
            over_tuned=round(timings[way].seconds / timings["tuned"].seconds, 4),
            relative=max(row.relative for row in found),
            right=all(row.within(tolerance_of(file)) for row in found),
            kernels=description.summary.kernels,
            others=_others(file, files["tuned"]),
        )
    description = describe(files["tuned"])
    target = target_of(description.summary.target, info, tf32=False)
    assert target is not None
    return Row(name, batch, round(1e6 * roofline_seconds(description, target), 2), built)


def _others(file: EngineFile, tuned: EngineFile) -> list[str]:
    """Layers whose variants differ; both engines were made from the same lowered graph."""
    pairs = zip(describe(file).layers, describe(tuned).layers, strict=True)
    return [f"{a.name}: {a.tactic}, tuned {b.tactic}" for a, b in pairs if a.tactic != b.tactic]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", default=NETWORKS, help="architectures, with :BATCH where it is not 1")
    parser.add_argument("--timing-db", type=Path, default=Path("cross_engines_times.json"))
    parser.add_argument("--measured", type=Path, help="times of an earlier build that measured")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    info = choose_target("cuda").device
    assert info is not None
    with tempfile.TemporaryDirectory() as place:
        try:
            _all(flags, Path(place), info.info)
        except IngotError as error:
            sys.exit(f"error: {error}")


def _all(flags: argparse.Namespace, folder: Path, info: DeviceInfo) -> None:
    parts = [text.partition(":") for text in flags.names]
    wanted = [(name, int(batch or 1)) for name, _, batch in parts]
    results = Results(environment(info), [])
    jobs = max(2, env.compile_jobs() // len(wanted))
    work = [(name, batch, info.target, folder, jobs, flags.measured) for name, batch in wanted]
    with closing(call_each(f"{Path(__file__).stem}:cross", work, jobs=len(work), timeout=_CROSS_SECONDS)) as answers:
        seconds = dict(zip(wanted, answers, strict=True))
    json: Path | None = flags.json
    for (name, batch), took in seconds.items():
        if isinstance(took, No):
            raise IngotError(took.reason, node=name)
        results.rows.append(measured(name, batch, folder, flags.timing_db, took, info))
        print(_line(results.rows[-1]), flush=True)
        if json is not None:
            json.parent.mkdir(parents=True, exist_ok=True)
            json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def _line(row: Row) -> str:
    parts = [
        f"{way} {built.us:.1f} µs ({built.over_tuned:.3f} of tuned, {len(built.others)} layers differ, built in "
        f"{built.seconds:.1f} s, error {built.relative:.1e}{'' if built.right else ' WRONG'})"
        for way, built in row.engines.items()
    ]
    return f"{row.network}-b{row.batch}: " + "; ".join(parts)


if __name__ == "__main__":
    main()
