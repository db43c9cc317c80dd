"""8-bit layers of the zoo's models, calibrated with the random samples that these are tested with.

Enough to measure speed, and how far results are from the original's; not to ship an engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ingot.builder.api import build_engine
from ingot.builder.best import BEST
from ingot.builder.provenance import quantized_provenance
from ingot.builder.quantizing import quantize
from ingot.builder.reading import read_model
from ingot.builder.targets import choose_target
from ingot.cli.source import Source
from ingot.engine.file import EngineFile
from ingot.options import BuildOptions
from ingot.precision.report import Report
from ingot.progress import Progress

_SAMPLES = 16


def needs_samples(options: BuildOptions) -> bool:
    """Whether 8-bit layers are asked for, and nothing to calibrate them with."""
    eight = options.quantization
    return eight is not None and eight.calibration is None and (eight.cache is None or not eight.cache.exists())


def build_sampled(
    source: Source, options: BuildOptions, *, progress: Progress, told: Callable[[Report], None]
) -> EngineFile:
    """The engine of ``source``, a model of the zoo, at any batch size: samples are calibrated with one by one."""
    assert options.quantization is not None and source.zoo
    if options.quantization.precision == BEST:
        loose = replace(options, quantization=replace(options.quantization, any_size=True))
        drawn = samples(source, options)
        return build_engine(source.model, loose, data=drawn, progress=progress, told=told)
    eight = replace(options.quantization, host=choose_target(options.target, tf32=options.tf32).target is None)
    made = quantize(source.model, eight, samples(source, options), progress=progress)
    told(made.report)
    engine = build_engine(made.model, replace(options, quantization=None), progress=progress)
    return replace(engine, provenance=quantized_provenance(engine.provenance, made.sha256, made.report))


def samples(source: Source, options: BuildOptions) -> dict[str, np.ndarray]:
    """Arrays by input name, samples along the first axis."""
    types = {v.name: v.dtype.numpy() for v in read_model(source.model, options.shapes).model.graph.inputs if v.dtype}
    inputs = {
        str(name): (str(types[name]), (1, *(r.opt for r in ranges[1:]))) for name, ranges in options.shapes
    }  # fmt: skip
    drawn = [source.feeds(inputs, seed) for seed in range(1, _SAMPLES + 1)]
    return {name: np.concatenate([each[name] for each in drawn]) for name in inputs}
