"""The whole path: a model to an engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ingot.builder.host_only import build_host_engine
from ingot.builder.provenance import provenance
from ingot.builder.stages import Dumper
from ingot.builder.targets import Chosen, choose_target
from ingot.engine.file import EngineFile
from ingot.errors import IngotError, No
from ingot.graph.lowered import Lowered
from ingot.importer.load import Imported, import_model
from ingot.importer.versions import refusal
from ingot.kernels.api import Target
from ingot.kernels.table import TACTICS
from ingot.options import BuildOptions
from ingot.passes.lower import lower
from ingot.passes.pipeline import canonicalise
from ingot.plan.build import build_plan
from ingot.tune.api import choose
from ingot.tune.candidates import first_acceptance

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str, int, int], None]
"""(stage, done, total): ``import``, ``passes``, ``lower``, ``tactics``, ``compile``, ``measure``, ``plan``."""


def _silent(stage: str, done: int, total: int) -> None:
    """No progress report."""


def build_engine(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    options: BuildOptions | None = None,
    *,
    progress: Progress = _silent,
) -> EngineFile:
    """Compiles ``model`` (a path, the bytes of a file, or a ModelProto) into an engine.

    A model of which nothing can run on the GPU becomes an engine for the CPU, with the reason. Raises
    IngotError for a model or options that are wrong, and with ``options.strict`` for any part
    that would stay on the host.
    """
    options = options or BuildOptions()
    chosen = choose_target(options.target, tf32=options.tf32)
    progress("import", 0, 1)
    imported = import_model(model, options.shapes, any_size=chosen.target is None)
    progress("import", 1, 1)
    if chosen.target is None:
        return build_host_engine(imported, options, progress)
    lowered, notes = _lowered(imported, chosen.target, options, progress)
    if isinstance(lowered, No):
        if options.strict:
            raise IngotError(f"nothing of this model runs on the GPU: {lowered.reason}", node=lowered.node)
        reason = f"the whole model runs on the host: {lowered}"
        return build_host_engine(imported, options, progress, (*notes, reason))
    if options.strict and lowered.reasons:
        raise IngotError(
            "these parts have no device kernel: " + "; ".join(lowered.reasons), fix="build without --strict"
        )
    return _device_engine(imported, lowered, notes, chosen, options, progress)


def lower_model(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto, target: Target, options: BuildOptions
) -> Lowered | No:
    """What a build for ``target`` compiles kernels for; No where nothing of the model runs on the GPU.

    Raises IngotError for a model or options that are wrong.
    """
    return _lowered(import_model(model, options.shapes), target, options, _silent)[0]


def _lowered(
    imported: Imported, target: Target, options: BuildOptions, progress: Progress
) -> tuple[Lowered | No, tuple[str, ...]]:
    """Canonical, fused and laid out; and what there is to report of the way there."""
    dump = Dumper(options)
    dump("import", imported.model)
    old = refusal(imported.model)
    if old is not None:
        return old, imported.notes
    progress("passes", 0, 1)
    canonical = canonicalise(imported.model, fp16=options.fp16, dump=dump)
    progress("passes", 1, 1)
    progress("lower", 0, 1)
    found = lower(canonical.model, imported.ranges, lambda region: first_acceptance(region, target, TACTICS))
    if not isinstance(found, No):
        dump.lowered(found)
    dump.check_names()
    progress("lower", 1, 1)
    return found, (*imported.notes, *canonical.notes)


def _device_engine(
    imported: Imported,
    lowered: Lowered,
    notes: tuple[str, ...],
    chosen: Chosen,
    options: BuildOptions,
    progress: Progress,
) -> EngineFile:
    assert chosen.target is not None
    choices = choose(lowered, chosen.target, options, TACTICS, progress=progress, device=chosen.device)
    progress("plan", 0, 1)
    reported = replace(lowered, reasons=(*lowered.reasons, *notes))
    bundle = build_plan(reported, choices, chosen.name, bodies=options.bodies)
    engine = EngineFile(
        bundle.plan, bundle.weights, bundle.cubins, bundle.models, provenance(imported, options, chosen)
    )
    progress("plan", 1, 1)
    return engine
