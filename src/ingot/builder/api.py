"""The whole path: a model to an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import onnx

from ingot.builder.best import BEST, Seen, build_best
from ingot.builder.host_only import build_host_engine
from ingot.builder.hosting import host_islands
from ingot.builder.judge import EngineJudge
from ingot.builder.observing import Observers
from ingot.builder.profiles import build_profiles
from ingot.builder.provenance import provenance, quantized_provenance
from ingot.builder.quantizing import Quantized, quantize
from ingot.builder.reading import Model, read_model
from ingot.builder.stages import Dumper
from ingot.builder.strict import refuse_islands, refuse_whole
from ingot.builder.targets import Chosen, choose_target
from ingot.engine.file import EngineFile
from ingot.errors import Answer, IngotError, No
from ingot.graph.lowered import Lowered
from ingot.graph.region import Region
from ingot.importer.coverage import coverage
from ingot.importer.load import Imported
from ingot.importer.versions import refusal
from ingot.kernels.api import Target
from ingot.kernels.table import TACTICS
from ingot.options import BuildOptions, Quantization, Shapes
from ingot.passes.lower import lower
from ingot.passes.pipeline import canonicalise
from ingot.plan.build import build_plan
from ingot.precision.data import Source
from ingot.precision.report import Report
from ingot.progress import Progress, silent
from ingot.tune.api import NoKernel, choose
from ingot.tune.candidates import first_acceptance
from ingot.tune.choice import Choice
from ingot.tune.hollow import hollow_choices


def build_engine(
    model: Model,
    options: BuildOptions | None = None,
    *,
    progress: Progress = silent,
    data: Source | None = None,
    told: Callable[[Report], None] | None = None,
) -> EngineFile:
    """Compiles ``model`` (a path, the bytes of a file, or a ModelProto) into an engine.

    With ``options.quantization`` its layers are 8-bit first, for ``best`` those that it makes faster; ``data``
    calibrates in place of what the options name, and ``told`` gets the report. With ``options.profiles`` it holds a
    plan for each. A model of which nothing can run on the GPU becomes an engine for the CPU, with the reason. Raises
    IngotError for a model or options that are wrong, and with ``options.strict`` for any part that would stay on the
    host.
    """
    options = options or BuildOptions()
    chosen = choose_target(options.target, tf32=options.tf32)
    if options.bf16 and chosen.target is not None:
        raise IngotError("bfloat16 is for engines for the CPU", fix="use --fp16 on a GPU, or --target cpu")

    def build(model: Model, plain: BuildOptions, seen: Seen | None = None) -> EngineFile:
        return _whole(model, plain, chosen, progress, seen)

    eight = options.quantization
    if eight is None:
        return build(model, options)
    elsewhere = device_observers(chosen, always=False)
    if eight.precision == BEST:
        return build_best(model, options, chosen, data, build, progress, told, elsewhere)
    host = replace(eight, host=chosen.target is None)
    made = quantize(model, host, data, shapes=options.shapes, progress=progress, elsewhere=elsewhere)
    if told is not None:
        told(made.report)
    engine = build(made.model, replace(options, quantization=None))
    return replace(engine, provenance=quantized_provenance(engine.provenance, made.sha256, made.report))


def quantize_on(
    target: str,
    model: Model,
    options: Quantization,
    data: Source | None = None,
    *,
    shapes: Shapes = (),
    progress: Progress = silent,
) -> Quantized:
    """As :func:`ingot.builder.quantizing.quantize`, calibrated on the device that ``target`` names.

    ``target``: ``auto`` (the GPU if there is one and the work is worth it), ``cuda`` or ``cpu``; it changes nothing
    else. Raises IngotError where ``cuda`` finds no GPU, too.
    """
    if target not in ("auto", "cuda", "cpu"):
        raise IngotError(f"nothing can be calibrated on {target!r}", fix="take auto, cuda or cpu")
    elsewhere = device_observers(choose_target(target), always=target == "cuda")
    return quantize(model, options, data, shapes=shapes, progress=progress, elsewhere=elsewhere)


def device_observers(chosen: Chosen, *, always: bool) -> Observers | None:
    """What calibrates on the GPU that is there, ``always`` or where it is worth it; None without a GPU."""
    if chosen.target is None or chosen.device is None:
        return None
    plain = Chosen(replace(chosen.target, tf32=False))

    def build(model: onnx.ModelProto, options: BuildOptions) -> EngineFile:
        return _whole(model, options, plain, silent, None)

    return Observers(chosen.device, chosen.target, build, always=always)


def _whole(model: Model, options: BuildOptions, chosen: Chosen, progress: Progress, seen: Seen | None) -> EngineFile:
    """The engine of a model whose precision is settled; ``seen`` is told what was chosen for each profile."""

    def tuned(lowered: Lowered, target: Target, single: BuildOptions) -> list[Choice]:
        judge = None if chosen.device is None else EngineJudge(lowered, target.name, chosen.device.ordinal)
        found = choose(lowered, target, single, TACTICS, progress=progress, device=chosen.device, judge=judge)
        if seen is not None:
            seen(lowered, found)
        return found

    def build(single: BuildOptions) -> EngineFile:
        return _built(model, single, chosen, lambda lowered, target: tuned(lowered, target, single), progress)

    return build_profiles(options, build) if options.profiles else build(options)


def build_hollow(model: Model, options: BuildOptions) -> EngineFile:
    """As :func:`build_engine`, but nothing is compiled: the engine has all steps and no machine code.

    It is for the simulator, which computes what kernels would from the Regions' bodies.
    """
    chosen = choose_target(options.target, tf32=options.tf32)

    def build(single: BuildOptions) -> EngineFile:
        return _built(model, single, chosen, lambda lowered, target: hollow_choices(lowered), silent)

    return build_profiles(options, build) if options.profiles else build(options)


def _built(
    model: Model,
    options: BuildOptions,
    chosen: Chosen,
    kernels: Callable[[Lowered, Target], list[Choice]],
    progress: Progress,
) -> EngineFile:
    """The engine; ``kernels`` gives a Choice per Region."""
    if chosen.target is None:
        return build_host_engine(_imported(model, options, progress, any_size=True), options, progress)
    failed: dict[str, No] = {}
    while not isinstance((found := _lowered(model, chosen.target, options, progress, failed)).lowered, No):
        if options.strict:
            refuse_islands(found.lowered)
        hosted = host_islands(found.lowered)
        try:
            choices = kernels(hosted, chosen.target)
        except NoKernel as error:  # no variant is right, or none compiles: the Region is cut into smaller ones
            if not error.signature or error.signature in failed:
                raise
            failed[error.signature] = No(error.reason)
            continue
        return _device_engine(hosted, choices, found, chosen, options, progress)
    if options.strict:
        refuse_whole(found.lowered, coverage(_imported(model, options, progress).model))
    reasons = (f"the whole model runs on the host: {found.lowered}",)
    return build_host_engine(_imported(model, options, progress), options, progress, reasons)


def lower_model(model: Model, target: Target, options: BuildOptions) -> Lowered | No:
    """What a build for ``target`` compiles kernels for; No where nothing of the model runs on the GPU.

    Raises IngotError for a model or options that are wrong.
    """
    return _lowered(model, target, options, silent).lowered


@dataclass(frozen=True)
class _Lowering:
    """The lowered graph, and what is known of the model it was made from, which is no longer in memory."""

    lowered: Lowered | No
    sha256: str
    notes: tuple[str, ...]
    """What there is to report of the way there."""


def _imported(
    model: Model,
    options: BuildOptions,
    progress: Progress,
    *,
    any_size: bool = False,
) -> Imported:
    progress("import", 0, 1)
    imported = read_model(model, options.shapes, any_size=any_size)
    progress("import", 1, 1)
    return imported


def _lowered(
    model: Model, target: Target, options: BuildOptions, progress: Progress, failed: Mapping[str, No] | None = None
) -> _Lowering:
    """Imported, canonical, fused and laid out; ``failed``: why no kernel can run Regions, by signature."""
    imported = _imported(model, options, progress)
    sha256, ranges, notes = imported.sha256, imported.ranges, imported.notes
    dump = Dumper(options)
    dump("import", imported.model)
    old = refusal(imported.model)
    if old is not None:
        return _Lowering(old, sha256, notes)
    progress("passes", 0, 1)
    canonical = canonicalise(imported.model, fp16=options.fp16, dump=dump, unroll=options.unroll, keep=False)
    del imported  # its weights are as large as the model
    progress("passes", 1, 1)
    progress("lower", 0, 1)

    def accepts(region: Region) -> Answer:
        found = (failed or {}).get(region.signature)
        return first_acceptance(region, target, TACTICS) if found is None else found

    found = lower(canonical.model, ranges, accepts)
    if not isinstance(found, No):
        dump.lowered(found)
    dump.check_names()
    progress("lower", 1, 1)
    return _Lowering(found, sha256, (*notes, *canonical.notes))


def _device_engine(
    lowered: Lowered,
    choices: list[Choice],
    found: _Lowering,
    chosen: Chosen,
    options: BuildOptions,
    progress: Progress,
) -> EngineFile:
    progress("plan", 0, 1)
    reported = replace(lowered, reasons=(*lowered.reasons, *found.notes))
    bundle = build_plan(reported, choices, chosen.name, bodies=options.bodies)
    made_by = provenance(found.sha256, options, chosen)
    engine = EngineFile(bundle.plan, bundle.weights, bundle.cubins, bundle.models, made_by)
    progress("plan", 1, 1)
    return engine
