"""From an ONNX file to the model that the passes work on."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ingot.errors import IngotError
from ingot.graph.lowered import SymbolRange
from ingot.importer.bodies import check_bodies, complete_loops
from ingot.importer.dims import Shapes, settle_dims
from ingot.importer.external import load_external
from ingot.importer.infer import infer_noting_outputs, without_shape
from ingot.importer.maps import hide_maps
from ingot.importer.messages import first_line
from ingot.importer.names import make_names_unique
from ingot.importer.own import free_copies, own_weights
from ingot.importer.plugin_nodes import check_plugin_nodes, plugin_of
from ingot.importer.read import Source, read
from ingot.importer.schemas import check_nodes
from ingot.importer.structure import check_structure
from ingot.importer.tensors import check_tensors
from ingot.importer.unify import unify
from ingot.importer.versions import check_versions, level_functions, upgrade
from ingot.importer.walk import all_graphs, check_text

_MOST = 1 << 48
"""Most elements of a value: rewrites that put a small factor on it must not leave 64 bits."""


@dataclass(frozen=True)
class Imported:
    """A checked model: functions inlined, opset upgraded, names unique, weights in memory, inputs sized."""

    model: ir.Model
    ranges: tuple[SymbolRange, ...]
    """One for every symbolic dimension that is left in the inputs."""
    sha256: str
    """Of the file's content, external data included."""
    notes: tuple[str, ...]
    """What was changed or is unusual, for a report."""


def import_model(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto, shapes: Shapes = (), *, any_size: bool = False
) -> Imported:
    """Imports the ONNX model ``source``: a path, the bytes of a file, or a parsed model (which is not changed).

    ``shapes`` has, per input, one Range per dimension: equal bounds fix a dimension, others keep it symbolic.
    A symbolic first dimension without a shape becomes 1; with ``any_size`` it and all others stay symbolic.

    Raises IngotError for files that cannot be read or are damaged, graphs that make no sense, versions
    newer than the installed onnx, and shapes that are missing or do not fit.
    """
    origin = read(source)
    model = _checked(origin)
    notes = _simplify(model)
    check_nodes(model)
    check_plugin_nodes(model)
    check_bodies(model)
    complete_loops(model)
    ranges, more = settle_dims(model.graph, shapes, any_size=any_size)
    notes += more + infer_noting_outputs(model)
    if not any_size:
        ranges, more = unify(model, ranges)
        notes += more
    unknown = without_shape(model)
    model, more = upgrade(model)
    notes += more
    if more:
        free_copies(model)
    if without_shape(model) - unknown:  # values that the upgrade made
        infer_noting_outputs(model)
    _tidy(model)
    _refuse_vast(model)
    notes += _foreign(model)
    return Imported(model, ranges, origin.sha256, tuple(notes))


def _checked(source: Source) -> ir.Model:
    proto = source.proto
    try:
        for _ in all_graphs(proto):
            pass  # raises where graphs are nested too deep for what follows
        check_text(proto)
        check_versions(proto)
        load_external(proto, source.path)
        check_tensors(proto)
        check_structure(proto)
        hide_maps(proto)
        model = ir.from_proto(level_functions(proto))
        own_weights(model)
        return model
    except IngotError:
        raise
    except Exception as error:  # text that is not UTF-8, and whatever a damaged message makes the deserialiser raise
        raise IngotError(f"{source.name} is damaged: {first_line(error)}", fix="export the model again") from None


def _simplify(model: ir.Model) -> list[str]:
    """Inlines functions and makes initialisers constants."""
    notes = []
    initialised = [str(v.name) for v in model.graph.inputs if v.name in model.graph.initializers]
    if initialised:
        more = f" and {len(initialised) - 5} more" if len(initialised) > 5 else ""
        notes.append(f"inputs with a default value are taken as constants: {', '.join(initialised[:5])}{more}")
    common.RemoveInitializersFromInputsPass()(model)
    _settle_constants(model)
    if model.functions:
        try:
            common.InlinePass()(model)
        except Exception as error:
            reason = f"functions cannot be inlined: {first_line(error)}"
            raise IngotError(reason, fix="export without functions") from None
    _tidy(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    return notes


def _settle_constants(model: ir.Model) -> None:
    """Constants have the shape of their tensor. Raises IngotError for one that is declared to be of another type."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        if value.dtype not in (None, ir.DataType.UNDEFINED, tensor.dtype):
            reason = f"is declared as {value.dtype}, but its tensor is {tensor.dtype}"
            raise IngotError(reason, node=str(value.name), fix="export the model again")
        value.shape = ir.Shape([size for size in tensor.shape if isinstance(size, int)])


def _tidy(model: ir.Model) -> None:
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    make_names_unique(model)


def _refuse_vast(model: ir.Model) -> None:
    """Raises IngotError for a value with a negative size, or with more elements than any memory holds."""
    places = [(value, "input") for value in model.graph.inputs]
    places += [(value, node.name or node.op_type) for node in model.graph for value in node.outputs]
    for value, place in places:
        sizes = [dim for dim in value.shape or () if isinstance(dim, int)]
        if any(not 0 <= size < _MOST for size in sizes) or math.prod(sizes) > _MOST:
            raise IngotError(f"{value.name!r} would have the shape {value.shape}", node=place)


def _foreign(model: ir.Model) -> list[str]:
    """Notes about ops of domains that ONNX does not define."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    names = sorted({f"{n.domain}.{n.op_type}" for n in nodes if n.domain and plugin_of(n) is None})
    return [f"ops of other domains: {', '.join(names)}"] if names else []
