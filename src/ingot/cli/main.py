"""The ``ingot`` command: every command's flags, and nothing else.

Modules that take long to import are imported inside the commands, so that ``ingot --help`` is quick.
"""

from __future__ import annotations

import atexit
import gc
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ingot.cli.flags import (
    Against,
    Best,
    Bf16,
    Budget,
    Calibration,
    CalibrationCache,
    EnginePath,
    Fp8,
    Fp16,
    Inputs,
    Int8,
    Json,
    Keep,
    LayerReport,
    Method,
    Metric,
    Model,
    OptionalValues,
    OptLevel,
    Pixels,
    ProfileTexts,
    Rounding,
    Runnable,
    Samples,
    Seed,
    ShapeTexts,
    Strict,
    TargetName,
    Tf32,
    TimingDb,
    Tolerance,
    Transfers,
    Unroll,
)
from ingot.cli.groups import library_app, zoo_app
from ingot.errors import IngotError

atexit.register(gc.freeze)  # what is left when the process ends need not be searched for garbage: 0.2 s after a check


class Commands(TyperGroup):
    """Turns an IngotError of any command into one line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except IngotError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Compiles ONNX models into engines, runs and measures them.",
)  # fmt: skip
app.add_typer(library_app, name="library")
app.add_typer(zoo_app, name="zoo")


def _use_plugins(context: typer.Context, texts: list[str] | None) -> list[str] | None:
    """Makes the plugins active until the command ends."""
    if texts:
        from ingot.plugins.registry import load_plugins, using

        context.with_resource(using([plugin for text in texts for plugin in load_plugins(text)]))
    return texts


PluginTexts = Annotated[
    list[str] | None,
    typer.Option("--plugin", callback=_use_plugins, help="MODULE:OBJECT, a plugin that the model needs. Repeatable."),
]


def _version(asked: bool) -> None:
    if asked:
        from ingot.cli.version import version

        print(f"ingot {version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options before the command."""


@app.command(cls=OptionalValues)
def build(
    model: Model,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The engine; NAME.ingot if left out.")] = None,
    target: TargetName = "auto",
    fp16: Fp16 = False,
    tf32: Tf32 = False,
    bf16: Bf16 = False,
    shapes: ShapeTexts = None,
    profile: ProfileTexts = None,
    timing_db: TimingDb = None,
    opt_level: OptLevel = 3,
    unroll: Unroll = 2000,
    strict: Strict = False,
    int8: Int8 = False,
    fp8: Fp8 = False,
    best: Best = False,
    calibration: Calibration = None,
    calibration_cache: CalibrationCache = None,
    budget: Budget = "0.5%",
    metric: Metric = "cosine",
    rounding: Rounding = "nearest",
    pixels: Pixels = None,
    samples: Samples = None,
    report: LayerReport = None,
    dump_after: Annotated[
        list[str] | None, typer.Option("--dump-after", help="Write the graph after this pass, or all. Repeatable.")
    ] = None,
    dump_dir: Annotated[Path | None, typer.Option("--dump-dir", help="Where dumps go; the current folder.")] = None,
    plugins: PluginTexts = None,
) -> None:
    """Compile a model into an engine."""
    from ingot.cli.build import Flags
    from ingot.cli.build import build as run_build
    from ingot.cli.quantize import quantization

    eight = quantization(
        int8, fp8, calibration, calibration_cache, budget, metric,
        best=best, pixels=pixels, samples=samples, rounding=rounding,
    )  # fmt: skip
    flags = Flags(
        target, fp16, tf32, shapes or (), timing_db, opt_level, strict, tuple(dump_after or ()), dump_dir,
        tuple(profile or ()), eight, unroll, bf16,
    )  # fmt: skip
    run_build(model, output, flags, report)


@app.command(cls=OptionalValues)
def quantize(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="The quantized model, an ONNX file.", dir_okay=False)],
    calibration: Calibration = None,
    calibration_cache: CalibrationCache = None,
    fp8: Fp8 = False,
    budget: Budget = "0.5%",
    metric: Metric = "cosine",
    method: Method = "auto",
    rounding: Rounding = "nearest",
    keep: Keep = None,
    pixels: Pixels = None,
    samples: Samples = None,
    host: Annotated[bool, typer.Option("--host", help="For ONNX Runtime on the CPU: all numbers unsigned.")] = False,
    target: Annotated[str, typer.Option("--target", help="Where it is calibrated: auto, cuda or cpu.")] = "auto",
    shapes: ShapeTexts = None,
    json: Json = None,
) -> None:
    """Write a model with 8-bit layers that other runtimes execute too. Exit code 3 beyond the accuracy budget."""
    from ingot.cli.quantize import quantization
    from ingot.cli.quantize import quantize as run_quantize

    eight = quantization(
        not fp8, fp8, calibration, calibration_cache, budget, metric,
        method=method, keep=tuple(keep or ()), pixels=pixels, samples=samples, host=host,
        rounding=rounding,
    )  # fmt: skip
    assert eight is not None
    if not run_quantize(model, output, eight, shapes or (), json, target):
        raise typer.Exit(3)


@app.command(cls=OptionalValues)
def check(
    model: Model,
    shapes: ShapeTexts = None,
    fp16: Fp16 = False,
    tf32: Tf32 = False,
    target: Annotated[
        str, typer.Option("--target", help="sm_75 ... sm_120; the GPU that is there, else sm_90, if left out.")
    ] = "auto",
    unroll: Unroll = 2000,
    json: Json = None,
    plugins: PluginTexts = None,
) -> None:
    """Tell whether a model will run on the device, where, and why. Exit code 3 when a part stays on the host."""
    from ingot.cli.check import check as run_check

    if not run_check(model, shapes or (), target=target, fp16=fp16, tf32=tf32, unroll=unroll, json=json):
        raise typer.Exit(3)


@app.command()
def run(
    model: Runnable,
    feeds: Inputs = None,
    output: Annotated[Path | None, typer.Option("--output", help="Write the outputs here, as .npz.")] = None,
    seed: Seed = 0,
    shapes: ShapeTexts = None,
    target: TargetName = "auto",
    fp16: Fp16 = False,
    tf32: Tf32 = False,
    timing_db: TimingDb = None,
    opt_level: OptLevel = 3,
    plugins: PluginTexts = None,
) -> None:
    """Run once, on random or given inputs."""
    from ingot.cli.build import Flags
    from ingot.cli.run import run as run_once

    run_once(model, Flags(target, fp16, tf32, shapes or (), timing_db, opt_level), feeds, output, seed)


@app.command(cls=OptionalValues)
def bench(
    model: Annotated[
        str | None, typer.Argument(help="An engine, an ONNX file or zoo:NAME.", metavar="ENGINE|MODEL")
    ] = None,
    original: Annotated[str | None, typer.Option("--model", help="The model that an engine was built from.")] = None,
    against: Against = None,
    target: Annotated[str | None, typer.Option("--target", help="auto, cuda, cpu, or sm_75 ... sm_120.")] = None,
    fp16: Annotated[bool | None, typer.Option("--fp16/--no-fp16", help="Compute in float16 where safe.")] = None,
    int8: Int8 = False,
    fp8: Fp8 = False,
    best: Best = False,
    calibration: Calibration = None,
    budget: Budget = "0.5%",
    tf32: Tf32 = False,
    bf16: Bf16 = False,
    shapes: ShapeTexts = None,
    timing_db: TimingDb = None,
    opt_level: OptLevel = 3,
    warmup: Annotated[float, typer.Option("--warmup", min=0, help="Milliseconds before measuring.")] = 200.0,
    duration: Annotated[float, typer.Option("--duration", min=0, help="Seconds to measure.")] = 3.0,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Runs to measure at least.")] = 10,
    transfers: Transfers = True,
    seed: Seed = 0,
    feeds: Inputs = None,
    json: Json = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the record.")] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Keep the engine that is built.")] = None,
    suite: Annotated[str | None, typer.Option("--suite", help="Run a written list: h200, eight, cpu, tiny.")] = None,
    only: Annotated[str, typer.Option("--only", help="Rows of the suite by parts of their names, with commas.")] = "",
    limit: Annotated[float | None, typer.Option("--limit", help="Seconds for the whole suite.")] = None,
    json_dir: Annotated[Path | None, typer.Option("--json-dir", help="One JSON file per row of the suite.")] = None,
    engine_dir: Annotated[Path | None, typer.Option("--engine-dir", help="Keep the suite's engines here.")] = None,
    plugins: PluginTexts = None,
) -> None:
    """Measure latency, throughput and error, beside other runtimes. Exit code 1 when the results are wrong."""
    from ingot.cli.bench import BenchFlags

    peers = None if against is None else tuple(part.strip() for part in against.split(",") if part.strip())
    how = BenchFlags(peers or (), warmup, duration, iterations, transfers, seed, feeds)
    if (model is None) == (suite is None):
        raise typer.BadParameter("give a model, or --suite")
    if suite is not None:
        from ingot.cli.suite import SuiteFlags, run_suite

        chosen = SuiteFlags(suite, only, limit, json_dir, engine_dir, json, fp16, target, opt_level, timing_db, peers)
        right = run_suite(chosen, how)
    else:
        from ingot.cli.bench import bench as run_bench
        from ingot.cli.build import Flags
        from ingot.cli.quantize import quantization

        assert model is not None
        own = model.startswith("zoo:")
        eight = quantization(int8, fp8, calibration, None, budget, "cosine", best=best, sampled=own)
        flags = Flags(target or "auto", bool(fp16), tf32, shapes or (), timing_db, opt_level, eight=eight, bf16=bf16)
        right = run_bench(model, original, name, flags, how, json, save)
    if not right:
        raise typer.Exit(1)


@app.command(cls=OptionalValues)
def inspect(
    engine: EnginePath,
    feeds: Inputs = None,
    json: Json = None,
    profile: Annotated[bool, typer.Option("--profile", help="Measure every step.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Only the layers.")] = False,
    arena: Annotated[bool, typer.Option("--arena", help="Only the arena.")] = False,
    shapes: ShapeTexts = None,
    seed: Seed = 0,
) -> None:
    """Show what an engine holds and why."""
    from ingot.cli.inspect import inspect as run_inspect

    run_inspect(engine, feeds, json=json, profile=profile, layers=layers, arena=arena, shapes=shapes or [], seed=seed)


@app.command(cls=OptionalValues)
def compare(
    engine: Annotated[str, typer.Argument(help="An engine; with --bisect a model.", metavar="ENGINE")],
    model: Annotated[
        str | None, typer.Argument(help="The ONNX file or zoo:NAME that it was built from.", metavar="MODEL")
    ] = None,
    feeds: Inputs = None,
    values: Annotated[
        str, typer.Option("--values", help="outputs, or all that the engine has a name for.")
    ] = "outputs",
    tolerance: Tolerance = None,
    simulated: Annotated[bool, typer.Option("--simulate", help="Use the simulator even where there is a GPU.")] = False,
    json: Json = None,
    shapes: ShapeTexts = None,
    seed: Seed = 0,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Find the first stage of a build of this model that departs.")
    ] = False,
    target: TargetName = "auto",
    fp16: Fp16 = False,
    plugins: PluginTexts = None,
) -> None:
    """Compare an engine with ONNX Runtime, Value by Value. Exit code 1 when one is beyond the tolerance."""
    from ingot.cli.compare import CompareFlags
    from ingot.cli.compare import compare as run_compare

    if values not in ("outputs", "all"):
        raise typer.BadParameter("take outputs or all", param_hint="--values")
    if bisect == (model is not None):
        raise typer.BadParameter("give an engine and its model, or with --bisect the model alone")
    if bisect:
        from ingot.cli.bisect import bisect as run_bisect
        from ingot.cli.build import Flags

        how = Flags(target, fp16, shapes=shapes or ())
        right = run_bisect(engine, how, feeds=feeds, seed=seed, tolerance=tolerance, json=json)
    else:
        assert model is not None
        path = Path(engine)
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {engine}", param_hint="ENGINE")
        flags = CompareFlags(feeds, values == "all", tolerance, simulated, json, tuple(shapes or ()), seed)
        right = run_compare(path, model, flags)
    if not right:
        raise typer.Exit(1)


@app.command()
def simulate(
    engine: EnginePath,
    model: Annotated[str | None, typer.Option("--model", help="Compare with this model in ONNX Runtime.")] = None,
    feeds: Inputs = None,
    orders: Annotated[int, typer.Option("--orders", min=1, help="Orders of the steps to try.")] = 1,
    tolerance: Tolerance = None,
    shapes: ShapeTexts = None,
    seed: Seed = 0,
    plugins: PluginTexts = None,
) -> None:
    """Prove an engine's plan on the host. Exit code 1 for a fault, or results beyond the tolerance."""
    from ingot.cli.simulate import simulate as run_simulation

    if not run_simulation(engine, model, feeds, orders, tolerance, tuple(shapes or ()), seed):
        raise typer.Exit(1)


@app.command()
def surgeon(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="The part, an ONNX file.", dir_okay=False)],
    starts: Annotated[
        list[str] | None, typer.Option("--from", help="A Value where it begins; the model's inputs. Repeatable.")
    ] = None,
    ends: Annotated[
        list[str] | None, typer.Option("--to", help="A Value where it ends; the model's outputs. Repeatable.")
    ] = None,
) -> None:
    """Cut the part between two sets of Values out of a model."""
    from ingot.cli.surgeon import surgeon as run_surgeon

    run_surgeon(model, starts or (), ends or (), output)


@app.command()
def demo() -> None:
    """Read rendered text with a real OCR model, on the device that is there."""
    from ingot.cli.demo import run_demo

    run_demo()


if __name__ == "__main__":
    app()
