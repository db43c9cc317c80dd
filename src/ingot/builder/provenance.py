"""Where an engine comes from: kept in its header, the same for the same build."""

from __future__ import annotations

from importlib import metadata

from ingot.builder.targets import Chosen
from ingot.engine.format import Provenance
from ingot.options import BuildOptions
from ingot.precision.report import Report
from ingot.tune.compilers import compilers


def version() -> str:
    """Version of Ingot that is installed, or ``source`` when it runs from a checkout."""
    try:
        return metadata.version("ingot")
    except metadata.PackageNotFoundError:
        return "source"


def provenance(model_sha256: str, options: BuildOptions, chosen: Chosen) -> Provenance:
    """Model, options, versions and device of a build. No clock, path or host name: builds can be repeated."""
    shapes = {name: ",".join(f"{r.min}:{r.opt}:{r.max}" for r in ranges) for name, ranges in options.shapes}
    return {
        "ingot": version(),
        "model_sha256": model_sha256,
        "target": chosen.name,
        "device": chosen.device.info.name if chosen.device else "",
        "fp16": options.fp16,
        "tf32": options.tf32,
        **({"bf16": True} if options.bf16 else {}),
        "opt_level": options.opt_level,
        "unroll": options.unroll,
        "shapes": dict(shapes),
        "compilers": compilers() if chosen.target else "",
    }


def quantized_provenance(made: Provenance, model_sha256: str, report: Report) -> Provenance:
    """``made``, of an engine whose model was quantized first: from which model, and how."""
    return {
        **made,
        "model_sha256": model_sha256,
        "quantized": report.precision,
        "calibration_samples": report.samples,
        "quantized_layers": report.quantized,
        "given_back": report.given_back,
        "accuracy_metric": report.metric,
        "accuracy_loss": report.loss if report.loss is not None else "",
    }
