"""8-bit layers of the zoo's models, calibrated with the random samples that these are tested with.

Enough to measure speed, and how far results are from the original's; not to ship an engine.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ingot.builder.reading import read_model
from ingot.cli.source import Source
from ingot.options import BuildOptions

_SAMPLES = 16


def needs_samples(options: BuildOptions) -> bool:
    """Whether 8-bit layers are asked for, and nothing to calibrate them with."""
    eight = options.quantization
    return eight is not None and eight.calibration is None and (eight.cache is None or not eight.cache.exists())


def sampled(source: Source, options: BuildOptions) -> tuple[BuildOptions, dict[str, np.ndarray]]:
    """The options with which ``source``, a model of the zoo, is calibrated one by one at any batch size; the samples.

    Samples are arrays by input name, with one after another along the first axis.
    """
    assert options.quantization is not None and source.zoo
    types = {v.name: v.dtype.numpy() for v in read_model(source.model, options.shapes).model.graph.inputs if v.dtype}
    inputs = {
        str(name): (str(types[name]), (1, *(r.opt for r in ranges[1:]))) for name, ranges in options.shapes
    }  # fmt: skip
    drawn = [source.feeds(inputs, seed) for seed in range(1, _SAMPLES + 1)]
    loose = replace(options, quantization=replace(options.quantization, any_size=True))
    return loose, {name: np.concatenate([each[name] for each in drawn]) for name in inputs}
