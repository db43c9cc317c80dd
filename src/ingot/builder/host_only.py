"""Engines for the CPU: the whole model as one host step, run by whichever library is faster here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir

from ingot.builder.provenance import provenance
from ingot.builder.targets import Chosen
from ingot.engine.file import EngineFile
from ingot.errors import IngotError, No
from ingot.graph import dtypes
from ingot.graph.dims import evaluate_shape
from ingot.graph.lowered import Lowered
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.importer.load import Imported
from ingot.options import BuildOptions
from ingot.passes.flatten import value_spec
from ingot.plan.build import build_plan
from ingot.plan.spec import ModelDecl
from ingot.runtime.hostmodel import HostFunction, load_host_model
from ingot.tune.choice import Choice

_NAME = "model"
_MEASURES_FROM = 3
_SECONDS = 0.6
"""Time spent on each alternative."""
_ROUNDS = 400
_AGREE = 1e-3
"""Largest relative error of an alternative against ONNX Runtime."""
_WORTH = 0.97
"""An alternative must be faster than ONNX Runtime by this factor: below it is noise."""

Array = np.ndarray[Any, Any]


def build_host_engine(
    imported: Imported,
    options: BuildOptions,
    progress: Callable[[str, int, int], None],
    reasons: tuple[str, ...] = (),
) -> EngineFile:
    """The model as one step on the host.

    From ``opt_level`` 3 on ONNX Runtime and OpenVINO (if installed) are measured and the faster is kept.
    Raises IngotError when an input or output is no dense tensor, or ONNX Runtime refuses the model.
    """
    content, runtime, notes = _loaded(ir.to_proto(imported.model))
    lowered = _one_step(imported, content, (*imported.notes, *notes, *reasons))
    backend = _backend(lowered, content, runtime, options, progress)
    choice = Choice(Kind.HOST.value, None, backend.seconds * 1e6, backend.seconds > 0, backend.notes)
    bundle = build_plan(lowered, [choice], "cpu", bodies=options.bodies)
    steps = [msgspec.structs.replace(step, backend=backend.name) for step in bundle.plan.steps]
    regions = [msgspec.structs.replace(region, tactic=backend.name) for region in bundle.plan.regions]
    plan = msgspec.structs.replace(bundle.plan, steps=steps, regions=regions)
    made_by = provenance(imported.sha256, options, Chosen(None))
    return EngineFile(plan, bundle.weights, bundle.cubins, bundle.models, made_by)


# -- the graph of one step


def _loaded(model: onnx.ModelProto) -> tuple[bytes, HostFunction, tuple[str, ...]]:
    """The model as ONNX Runtime takes it, ready to run, and what had to be changed.

    With input sizes fixed, shape inference looks into branches that never run and refuses what it finds there.
    """
    content = model.SerializeToString(deterministic=True)
    decl = ModelDecl(0, len(content), [v.name for v in model.graph.input], [v.name for v in model.graph.output])
    try:
        return content, load_host_model(content, decl, "onnxruntime", _NAME), ()
    except IngotError as error:
        del model.graph.value_info[:]
        for value in (*model.graph.input, *model.graph.output):
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                dim.dim_param = f"{value.name}_{axis}"
        loose = model.SerializeToString(deterministic=True)
        try:
            runtime = load_host_model(loose, decl, "onnxruntime", _NAME)
        except IngotError:
            raise error from None
        return loose, runtime, ("ONNX Runtime refuses the model at these input sizes: it is given no sizes",)


def _one_step(imported: Imported, content: bytes, reasons: tuple[str, ...]) -> Lowered:
    graph = imported.model.graph
    known = frozenset(r.symbol for r in imported.ranges)
    values = {str(v.name): _spec(v, known) for v in (*graph.inputs, *graph.outputs)}
    inputs, outputs = tuple(str(v.name) for v in graph.inputs), tuple(str(v.name) for v in graph.outputs)
    op = BodyOp("Model", inputs, outputs, domain="ingot")
    region = Region(Kind.HOST, _NAME, inputs, outputs, (op,), tuple(values.items()))
    return Lowered(
        inputs=inputs,
        outputs=outputs,
        values=values,
        regions=(region,),
        constants={},
        ranges=imported.ranges,
        host_bodies={_NAME: content},
        reasons=reasons,
    )


def _spec(value: ir.Value, known: frozenset[str]) -> TensorSpec:
    """Type and shape. Raises IngotError for what has no dense form."""
    found = value_spec(value, known)
    if found is not None:
        return found
    if isinstance(value.type, ir.TensorType) and dtypes.from_onnx(int(value.type.dtype)) is not None:
        raise IngotError("its rank is not known", node=str(value.name), fix="declare its shape in the model")
    what = value.type if value.type is not None else "unknown"
    raise IngotError(
        f"its type {what} cannot pass between a program and an engine", node=str(value.name),
        fix="give and take dense tensors of numbers or booleans",
    )  # fmt: skip


# -- the choice of the library


@dataclass(frozen=True)
class _Backend:
    name: str
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def _backend(
    lowered: Lowered,
    content: bytes,
    runtime: HostFunction,
    options: BuildOptions,
    progress: Callable[[str, int, int], None],
) -> _Backend:
    """The fastest library that gives ONNX Runtime's results."""
    decl = ModelDecl(0, len(content), list(lowered.inputs), list(lowered.outputs))
    progress("measure", 0, 2)
    if options.opt_level < _MEASURES_FROM:
        return _Backend("onnxruntime", notes=("not measured",))
    feeds = _feeds(lowered)
    try:
        wanted = runtime(feeds)
    except Exception as error:  # random inputs may be outside of what the model takes
        return _Backend("onnxruntime", notes=(f"not measured: the model refuses random inputs: {error}",))
    alternative = _alternative(content, decl, feeds, wanted)
    if isinstance(alternative, No):
        seconds = _race([runtime], feeds)[0]
        progress("measure", 2, 2)
        return _Backend("onnxruntime", seconds, (f"openvino: {alternative}",))
    ours, theirs = _race([runtime, alternative], feeds)
    progress("measure", 2, 2)
    note = f"onnxruntime {ours * 1e3:.3f} ms, openvino {theirs * 1e3:.3f} ms"
    return _Backend("openvino", theirs, (note,)) if theirs < _WORTH * ours else _Backend("onnxruntime", ours, (note,))


def _alternative(content: bytes, decl: ModelDecl, feeds: Sequence[Array], wanted: Sequence[Array]) -> HostFunction | No:
    """OpenVINO ready to run, or why it is out of the race."""
    if find_spec("openvino") is None:
        return No("not installed")
    try:
        function = load_host_model(content, decl, "openvino", _NAME)
        made = function(feeds)
    except Exception as error:  # openvino raises its own, undocumented types
        return No(f"refuses the model: {str(error)[:200]}")
    for name, ours, theirs in zip(decl.outputs, wanted, made, strict=True):
        if not _agree(np.asarray(ours), np.asarray(theirs)):
            return No(f"gives another result for {name}")
    return function


def _agree(wanted: Array, made: Array) -> bool:
    if wanted.shape != made.shape or wanted.dtype != made.dtype:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(wanted, made))
    error = np.linalg.norm(wanted.astype(np.float64) - made.astype(np.float64))
    return bool(error <= _AGREE * np.linalg.norm(wanted.astype(np.float64)) + 1e-12)


def _race(functions: Sequence[HostFunction], feeds: Sequence[Array]) -> list[float]:
    """Median seconds of each function, in alternating rounds so that a slow spell hits all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function(feeds)
    start = time.perf_counter()
    while time.perf_counter() - start < _SECONDS * len(functions) and len(times[0]) < _ROUNDS:
        for function, kept in zip(functions, times, strict=True):
            begin = time.perf_counter()
            function(feeds)
            kept.append(time.perf_counter() - begin)
    return [statistics.median(kept) for kept in times]


def _feeds(lowered: Lowered) -> list[Array]:
    """Random inputs at the optimum shapes: numbers around zero, integers that are safe as indices."""
    generator = np.random.default_rng(0)
    bindings: Mapping[str, int] = lowered.bindings()
    feeds = []
    for name in lowered.inputs:
        tensor = lowered.values[name]
        shape, dtype = evaluate_shape(tensor.shape, bindings), dtypes.numpy_dtype(tensor.dtype)
        random = generator.standard_normal(shape) if dtypes.is_float(tensor.dtype) else generator.integers(0, 2, shape)
        feeds.append(np.asarray(random).astype(dtype))
    return feeds
