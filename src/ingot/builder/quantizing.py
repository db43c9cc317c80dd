"""From any ONNX model to a quantized one: import, preparation, quantization."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import onnx
import onnx_ir as ir

from ingot.builder.reading import Model, read_model
from ingot.errors import IngotError
from ingot.options import Quantization, Shapes
from ingot.passes.pipeline import prepare_to_quantize
from ingot.precision.data import Data, Options, Source, open_data
from ingot.precision.inputs import inputs_of
from ingot.precision.observer import Opens
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
    model: Model,
    options: Quantization,
    data: Source | None = None,
    *,
    shapes: Shapes = (),
    progress: Progress = silent,
    elsewhere: Opens | None = None,
) -> Quantized:
    """``model`` with 8-bit layers, as far as the accuracy budget allows.

    ``data`` takes the place of ``options.calibration``: see :func:`ingot.precision.data.open_data`. Neither is needed
    where ``options.cache`` holds a calibration. Input sizes that ``shapes`` does not fix stay open. ``elsewhere``: what
    may calibrate in place of the CPU. Raises IngotError for a model, data, a cache or options that are wrong.
    """
    settings = settings_of(options)
    work = ready(model, options, data, shapes, progress)
    made, report = quantize_model(work.model, work.sha256, work.data, settings, progress, elsewhere)
    return Quantized(proto_of(made), work.sha256, msgspec.structs.replace(report, notes=[*report.notes, *work.notes]))


class Ready(NamedTuple):
    """A model prepared to be quantized, and its data, if there is any."""

    model: ir.Model
    sha256: str
    """Of what it was read from."""
    notes: tuple[str, ...]
    data: Data | None


def ready(
    model: Model,
    options: Quantization,
    data: Source | None,
    shapes: Shapes,
    progress: Progress,
) -> Ready:
    """``model`` imported and prepared, and its data opened. Raises IngotError for either."""
    progress("import", 0, 1)
    shapes = () if options.any_size else shapes
    imported = read_model(model, shapes, any_size=not shapes)
    sha256, notes = imported.sha256, imported.notes
    widen(imported.model)
    prepared = prepare_to_quantize(imported.model)
    del imported  # its weights are as large as the model
    progress("import", 1, 1)
    source = options.calibration if data is None else data
    reading = Options(pixels=options.pixels, most=options.samples)
    opened = None if source is None else open_data(source, inputs_of(_interface(prepared.model)), reading)
    return Ready(prepared.model, sha256, notes, opened)


def proto_of(made: ir.Model) -> onnx.ModelProto:
    """A quantized model as a file holds it. Raises IngotError where it is too large for one."""
    proto = ir.to_proto(made)
    proto.producer_name = "ingot"
    if proto.ByteSize() > _MOST_BYTES:
        raise IngotError("the quantized model does not fit an ONNX file of 2 GB")
    return proto


def settings_of(options: Quantization) -> Settings:
    """What the options ask of quantization."""
    return Settings(
        precision=options.precision,
        method=options.method,
        budget=options.budget,
        metric=options.metric,
        keep=options.keep,
        cache=options.cache,
        host=options.host,
        rounding=options.rounding,
    )


def _interface(model: ir.Model) -> onnx.ModelProto:
    """Inputs of ``model``, without its weights."""
    values = [ir.serde.serialize_value(value) for value in model.graph.inputs]
    return onnx.helper.make_model(onnx.helper.make_graph([], "interface", values, []))
