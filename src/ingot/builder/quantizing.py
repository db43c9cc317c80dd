"""From any ONNX model to a quantized one: import, preparation, quantization."""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec
import onnx
import onnx_ir as ir

from ingot.builder.reading import read_model
from ingot.errors import IngotError
from ingot.options import Quantization, Shapes
from ingot.passes.pipeline import prepare_to_quantize
from ingot.precision.data import Options, Source, open_data
from ingot.precision.inputs import inputs_of
from ingot.precision.quantizer import quantize_model
from ingot.precision.report import Report
from ingot.precision.settings import Settings
from ingot.precision.widen import widen
from ingot.progress import Progress, silent

_MOST_BYTES = (1 << 31) - 1


class Quantized(NamedTuple):
    """A standard ONNX model with QuantizeLinear and DequantizeLinear nodes, and how it came about."""

    model: onnx.ModelProto
    sha256: str
    """Of the model it was made of."""
    report: Report


def quantize(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    options: Quantization,
    data: Source | None = None,
    *,
    shapes: Shapes = (),
    progress: Progress = silent,
) -> Quantized:
    """``model`` with 8-bit layers, as far as the accuracy budget allows.

    ``data`` takes the place of ``options.calibration``: see :func:`ingot.precision.data.open_data`. Neither is needed
    where ``options.cache`` holds a calibration. Input sizes that ``shapes`` does not fix stay open. Raises
    IngotError for a model, data, a cache or options that are wrong.
    """
    settings = _settings(options)
    progress("import", 0, 1)
    imported = read_model(model, shapes, any_size=not shapes)
    sha256, notes = imported.sha256, imported.notes
    widen(imported.model)
    prepared = prepare_to_quantize(imported.model)
    del imported  # its weights are as large as the model
    progress("import", 1, 1)
    source = options.calibration if data is None else data
    reading = Options(pixels=options.pixels, most=options.samples)
    opened = None if source is None else open_data(source, inputs_of(_interface(prepared.model)), reading)
    made, report = quantize_model(prepared.model, sha256, opened, settings, progress)
    proto = ir.to_proto(made)
    proto.producer_name = "ingot"
    if proto.ByteSize() > _MOST_BYTES:
        raise IngotError("the quantized model does not fit an ONNX file of 2 GB")
    return Quantized(proto, sha256, msgspec.structs.replace(report, notes=[*report.notes, *notes]))


def _settings(options: Quantization) -> Settings:
    return Settings(
        precision=options.precision,
        method=options.method,
        budget=options.budget,
        metric=options.metric,
        keep=options.keep,
        cache=options.cache,
        host=options.host,
    )


def _interface(model: ir.Model) -> onnx.ModelProto:
    """Inputs of ``model``, without its weights."""
    values = [ir.serde.serialize_value(value) for value in model.graph.inputs]
    return onnx.helper.make_model(onnx.helper.make_graph([], "interface", values, []))
