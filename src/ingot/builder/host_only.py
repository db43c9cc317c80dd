"""Engines for the CPU: the whole model as one host step, run by whichever library is faster here, or can at all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

import msgspec
import numpy as np
import onnx_ir as ir

from ingot.builder.host_split import build_split_engine, has_plugins
from ingot.builder.hosting import host
from ingot.builder.provenance import provenance
from ingot.builder.targets import Chosen
from ingot.engine.file import EngineFile
from ingot.errors import IngotError, No
from ingot.graph.dims import evaluate_shape
from ingot.graph.lowered import Lowered
from ingot.graph.random_values import random_value
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.importer.load import Imported
from ingot.options import BuildOptions
from ingot.passes.flatten import type_name, value_spec
from ingot.plan.build import build_plan
from ingot.plan.spec import ModelDecl
from ingot.progress import Progress
from ingot.runtime.hostmodel import HostFunction, load_host_model
from ingot.tune.choice import Choice

_NAME = "model"
_MEASURES_FROM = 3
_SECONDS = 0.6
"""Time spent on each alternative."""
_ROUNDS = 400
_AGREE = 1e-3
"""Largest relative error of an alternative against ONNX Runtime."""
_AGREE_BF16 = 0.05
"""The same for products of numbers with 8 bits of mantissa."""
WORTH = 0.97
"""An alternative must be faster than ONNX Runtime by this factor: below it is noise."""

Array = np.ndarray[Any, Any]
T = TypeVar("T")


def build_host_engine(
    imported: Imported,
    options: BuildOptions,
    progress: Progress,
    reasons: tuple[str, ...] = (),
) -> EngineFile:
    """The model as one step on the host.

    From ``opt_level`` 3 on ONNX Runtime and OpenVINO (if installed; with ``bf16`` also in bfloat16) are measured and
    the fastest is kept.
    Raises IngotError when an input or output has no known type or rank, or neither ONNX Runtime nor ONNX's evaluator
    takes the model.
    """
    if has_plugins(imported.model):
        return build_split_engine(imported, options, progress, reasons)
    hosted, runtime = host(ir.to_proto(imported.model), _NAME, loosen=True)
    lowered = _one_step(imported, hosted.content, (*imported.notes, *hosted.notes, *reasons))
    if hosted.backend == "onnxruntime":
        backend = _backend(lowered, hosted.content, runtime, options, progress)
    else:
        backend = _Backend(hosted.backend, notes=("not measured",))
    choice = Choice(Kind.HOST.value, None, backend.seconds * 1e6, backend.seconds > 0, backend.notes)
    bundle = build_plan(lowered, [choice], "cpu", bodies=options.bodies)
    steps = [msgspec.structs.replace(step, backend=backend.name) for step in bundle.plan.steps]
    regions = [msgspec.structs.replace(region, tactic=backend.name) for region in bundle.plan.regions]
    plan = msgspec.structs.replace(bundle.plan, steps=steps, regions=regions)
    made_by = provenance(imported.sha256, options, Chosen(None))
    return EngineFile(plan, bundle.weights, bundle.cubins, bundle.models, made_by)


# -- the graph of one step


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
    """Type and shape. Raises IngotError where they are not known."""
    found = value_spec(value, known)
    if found is not None:
        return found
    if type_name(value.type) is not None:
        raise IngotError("its rank is not known", node=str(value.name), fix="declare its shape in the model")
    what = value.type if value.type is not None else "unknown"
    raise IngotError(
        f"its type {what} cannot pass between a program and an engine", node=str(value.name),
        fix="give and take tensors, or sequences and optionals of them",
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
    progress: Progress,
) -> _Backend:
    """The fastest library that gives ONNX Runtime's results."""
    decl = ModelDecl(0, len(content), list(lowered.inputs), list(lowered.outputs))
    progress("measure", 0, 2)
    if options.opt_level < _MEASURES_FROM:
        return _Backend("onnxruntime", notes=("not measured",))
    try:
        feeds = _feeds(lowered)
        wanted = runtime(feeds)
    except Exception as error:  # random inputs may be outside of what the model takes
        return _Backend("onnxruntime", notes=(f"not measured: the model refuses random inputs: {error}",))
    functions = {"onnxruntime": runtime}
    notes = []
    for name, most in (("openvino", _AGREE), *([("openvino:bf16", _AGREE_BF16)] if options.bf16 else [])):
        found = _alternative(name, content, decl, feeds, wanted, most)
        if isinstance(found, No):
            notes.append(f"{name}: {found}")
        else:
            functions[name] = found
    seconds = dict(zip(functions, take_turns(list(functions.values()), feeds), strict=True))
    progress("measure", 2, 2)
    best = min(seconds, key=lambda name: seconds[name] * (WORTH if name == "onnxruntime" else 1.0))
    if len(seconds) > 1:
        notes.insert(0, ", ".join(f"{name} {found * 1e3:.3f} ms" for name, found in seconds.items()))
    return _Backend(best, seconds[best], tuple(notes))


def _alternative(
    name: str, content: bytes, decl: ModelDecl, feeds: Sequence[Array], wanted: Sequence[Array], most: float
) -> HostFunction | No:
    """OpenVINO ready to run, or why it is out of the race; ``most``: largest relative error."""
    if find_spec("openvino") is None:
        return No("not installed")
    try:
        function = load_host_model(content, decl, name, _NAME)
        made = function(feeds)
    except Exception as error:  # openvino raises its own, undocumented types
        return No(f"refuses the model: {str(error)[:200]}")
    for output, ours, theirs in zip(decl.outputs, wanted, made, strict=True):
        if isinstance(ours, list) or not _agree(np.asarray(ours), np.asarray(theirs), most):
            return No(f"gives another result for {output}")
    return function


def _agree(wanted: Array, made: Array, most: float) -> bool:
    if wanted.shape != made.shape or wanted.dtype != made.dtype:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(wanted, made))
    error = np.linalg.norm(wanted.astype(np.float64) - made.astype(np.float64))
    return bool(error <= most * np.linalg.norm(wanted.astype(np.float64)) + 1e-12)


def take_turns(functions: Sequence[Callable[[T], object]], feeds: T) -> list[float]:
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


def _feeds(lowered: Lowered) -> list[Any]:
    """Random inputs at the optimum shapes. Raises IngotError for types of which there are none."""
    bindings: Mapping[str, int] = lowered.bindings()
    generator = np.random.default_rng(0)
    specs = (lowered.values[name] for name in lowered.inputs)
    return [random_value(tensor.dtype, evaluate_shape(tensor.shape, bindings), generator) for tensor in specs]
